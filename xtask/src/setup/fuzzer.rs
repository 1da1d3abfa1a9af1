//! cargo-fuzz, which builds the fuzz targets with libFuzzer and runs them.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{
    exec,
    toolchain::{self, Toolchain},
};

/// The release that is built.
const VERSION: &str = "0.13.2";

/// The program, built on first use; and the source of the standard library, which it builds with
/// the fuzzer's instrumentation.
///
/// # Errors
/// It cannot be had or built.
pub(crate) fn ensure() -> Result<PathBuf> {
    super::rust_src::ensure(&Toolchain::detect()?)?;
    let cache = toolchain::cache()?;
    let home = cache.join(format!("cargo-fuzz-{VERSION}"));
    let program = home.join("bin/cargo-fuzz");
    if program.exists() {
        return Ok(program);
    }
    let _lock = toolchain::lock(&cache)?;
    if !program.exists() {
        exec::step(&format!(
            "Building cargo-fuzz {VERSION} (once; one to three minutes)"
        ));
        let scratch = home.join("build");
        exec::run(
            toolchain::install("cargo-fuzz", VERSION)
                .arg("--root")
                .arg(&home)
                .arg("--target-dir")
                .arg(&scratch),
        )
        .context("cargo-fuzz could not be built; see the messages above")?;
        fs::remove_dir_all(&scratch)
            .with_context(|| format!("cannot remove the build folder {}", scratch.display()))?;
    }
    Ok(program)
}
