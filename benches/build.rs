//! Tells the benches which compiler they were built with: counts of instructions are only comparable for the same one.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=RUSTC");
    let rustc = std::env::var("RUSTC").expect("cargo says it");
    let said = Command::new(rustc).arg("--version").output();
    let version = said.expect("the compiler runs").stdout;
    let version = String::from_utf8_lossy(&version);
    println!("cargo:rustc-env=BUILT_WITH={}", version.trim());
}
