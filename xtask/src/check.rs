//! `cargo xtask check`: formatting and lints, of both sides.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{
    build, exec,
    object::{self, Flavour},
    setup,
    toolchain::{self, Toolchain},
    workspace,
};

/// Checks formatting first, because that takes a moment; then lints with warnings as errors.
///
/// # Errors
/// A check fails, or a tool for it cannot be had.
pub(crate) fn run() -> Result<()> {
    tools()?;

    exec::step("Checking the formatting");
    exec::run(
        toolchain::cargo()
            .args(["fmt", "--all", "--check"])
            .current_dir(workspace::root()),
    )
    .context("run `cargo fmt`")?;

    let tools = setup::build_tools()?;
    for flavour in [Flavour::Plain, Flavour::Log] {
        exec::step(&format!(
            "Linting the eBPF programs, feature {} (a minute the first time)",
            flavour.feature()
        ));
        exec::run(object::cargo(&tools, "clippy", flavour).args(["--", "-D", "warnings"]))?;
    }

    // The userspace crates carry the object, so it has to be there to lint them.
    let object = build::object(false)?;
    exec::step("Linting the workspace (a minute or two the first time)");
    exec::run(&mut clippy(&["--workspace"]))?;
    // With the feature they carry the object that logs; any object does for linting.
    exec::run(
        clippy(&["--package", "dataplane", "--features", "log"]).env("SLUICE_BPF_OBJECT", object),
    )
}

/// `cargo clippy` with warnings as errors.
fn clippy(packages: &[&str]) -> Command {
    let mut command = toolchain::cargo();
    command
        .arg("clippy")
        .args(packages)
        .args(["--all-targets", "--target-dir"])
        .arg(workspace::target())
        .args(["--", "-D", "warnings"])
        .current_dir(workspace::root());
    command
}

/// Makes sure of rustfmt and clippy, which a minimal toolchain lacks.
fn tools() -> Result<()> {
    let toolchain = Toolchain::detect()?;
    let bin = toolchain.sysroot.join("bin");
    let missing: Vec<_> = [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")]
        .into_iter()
        .filter(|(program, _)| !bin.join(program).exists())
        .map(|(_, component)| component)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    exec::step(&format!("Fetching {} (once)", missing.join(" and ")));
    toolchain.add_components(&missing).with_context(|| {
        format!(
            "{} missing; install with rustup, or the distribution's packages of that name for Rust {}",
            missing.join(" and "),
            toolchain.release
        )
    })
}
