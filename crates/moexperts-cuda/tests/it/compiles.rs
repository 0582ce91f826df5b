//! Every kernel compiles for every architecture it is meant for. Needs NVRTC, no GPU; without
//! NVRTC says so and passes, unless `MOEXPERTS_REQUIRE_NVRTC` is set.

use std::env;

use moexperts_cuda::{driver::nvrtc::Nvrtc, kernels::MODULES};

/// Ampere, Hopper with its own instructions, Blackwell.
const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_90a", "sm_100"];

#[test]
fn every_kernel_compiles_for_every_architecture() {
    let nvrtc = match Nvrtc::find() {
        Ok(nvrtc) => nvrtc,
        Err(error) if env::var_os("MOEXPERTS_REQUIRE_NVRTC").is_none() => {
            eprintln!("SKIPPED, no kernel was compiled: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let mut compiled = 0;
    for module in MODULES {
        for architecture in ARCHITECTURES {
            if module.hopper && architecture != "sm_90a" {
                continue;
            }
            let cubin =
                nvrtc.compile(module, architecture).unwrap_or_else(|error| panic!("{error}"));
            assert!(cubin.starts_with(b"\x7fELF"), "{}, {architecture}", module.name());
            compiled += 1;
        }
    }
    assert!(compiled >= MODULES.len());
}

#[test]
fn what_is_wrong_with_a_kernel_is_told() {
    use moexperts_cuda::kernels::Module;
    let Ok(nvrtc) = Nvrtc::find() else {
        eprintln!("SKIPPED: no NVRTC");
        return;
    };
    let broken = Module { files: &[("broken.cu", "KERNEL(broken) {")], hopper: false };
    let error = nvrtc.compile(&broken, "sm_80").unwrap_err().to_string();
    assert!(error.contains("`broken.cu` cannot be compiled for sm_80"), "{error}");
    assert!(error.contains("broken.cu(1): error"), "{error}");
    let missing = Module { files: &[("empty.cu", "")], hopper: false };
    let error = nvrtc.compile(&missing, "sm_1").unwrap_err().to_string();
    assert!(error.contains("sm_1"), "{error}");
}
