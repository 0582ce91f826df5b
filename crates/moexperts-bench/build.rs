//! Tells the benchmarks which compiler builds them, for the files of results they write.

use std::{env, process::Command};

fn main() {
    // Cargo runs this anew for another compiler; nothing else changes what it says.
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = env::var_os("RUSTC").expect("cargo sets it");
    if let Ok(output) = Command::new(rustc).arg("--version").output()
        && output.status.success()
        && let Ok(version) = str::from_utf8(&output.stdout)
    {
        println!("cargo::rustc-env=MOEXPERTS_RUSTC={}", version.trim());
    }
}
