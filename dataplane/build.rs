//! Hands the finished eBPF object to the compiler as the variable `SLUICE_BPF_OBJECT`, for
//! `include_bytes!`. `cargo xtask build` makes the object; nothing is compiled here.

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Names the object: read here to override the default, set here for the compiler.
const VARIABLE: &str = "SLUICE_BPF_OBJECT";

fn main() -> ExitCode {
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    let object = env::var_os(VARIABLE).map_or_else(default_object, PathBuf::from);
    println!("cargo:rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(path) => {
            println!("cargo:rustc-env={VARIABLE}={}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!(
                "no eBPF object at {}: {error}; run `cargo xtask build`, or set {VARIABLE} to its path",
                object.display()
            );
            ExitCode::FAILURE
        }
    }
}

/// Where `cargo xtask build` leaves the object.
fn default_object() -> PathBuf {
    let name = if env::var_os("CARGO_FEATURE_LOG").is_some() {
        "sluice-log.bpf.o"
    } else {
        "sluice.bpf.o"
    };
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    Path::new(&package).join("../target").join(name)
}
