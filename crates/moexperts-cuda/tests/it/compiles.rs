//! Every kernel compiles for every architecture that it is written for. Needs NVRTC, but no GPU.

use moexperts_conformance::skipped;
use moexperts_cuda::{
    driver::nvrtc::Nvrtc,
    kernels::{MODULES, Module},
};

/// Ampere, Hopper with its own instructions, Blackwell.
const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_90a", "sm_100"];

#[test]
fn every_kernel_compiles_for_every_architecture() {
    let Ok(nvrtc) = Nvrtc::find() else { return skipped("nvrtc") };
    for module in MODULES {
        for architecture in ARCHITECTURES {
            if module.hopper && architecture != "sm_90a" {
                continue;
            }
            let cubin =
                nvrtc.compile(module, architecture).unwrap_or_else(|error| panic!("{error}"));
            assert!(cubin.starts_with(b"\x7fELF"), "{}, {architecture}", module.name());
        }
    }
}

#[test]
fn an_error_of_the_compiler_names_the_kernel_and_the_line() {
    let Ok(nvrtc) = Nvrtc::find() else { return skipped("nvrtc") };
    let broken = Module { files: &[("broken.cu", "KERNEL(broken) {")], hopper: false };
    let error = nvrtc.compile(&broken, "sm_80").unwrap_err().to_string();
    assert!(error.contains("`broken.cu` cannot be compiled for sm_80"), "{error}");
    assert!(error.contains("broken.cu(1): error"), "{error}");
    let missing = Module { files: &[("empty.cu", "")], hopper: false };
    let error = nvrtc.compile(&missing, "sm_1").unwrap_err().to_string();
    assert!(error.contains("sm_1"), "{error}");
}
