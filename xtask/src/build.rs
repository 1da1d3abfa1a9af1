//! `cargo xtask build`: the eBPF object, the `sluice` binary that carries it, and the CNI plugin.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    exec,
    object::{self, Flavour},
    setup::{self, Group},
    toolchain, workspace,
};

/// Options of `cargo xtask build`.
#[derive(Args)]
pub(crate) struct Build {
    /// Also build the object with log statements, and the binary that prints them
    #[arg(long)]
    log: bool,

    /// Optimise the binary (the default)
    #[arg(long, conflicts_with = "debug")]
    release: bool,

    /// Build the binary without optimisation; the eBPF object is always optimised
    #[arg(long)]
    debug: bool,

    /// Let the running kernel's verifier judge the object (needs root)
    #[arg(long)]
    verify: bool,
}

impl Build {
    /// Builds what was asked for and says where it is.
    ///
    /// # Errors
    /// A build step fails, or the kernel refuses the object.
    pub(crate) fn run(&self) -> Result<()> {
        let object = object(self.verify)?;
        exec::step(&format!("The eBPF object is {}", object.display()));
        if self.log {
            let object = object::build(&setup::build_tools()?, Flavour::Log)?;
            exec::step(&format!("The object that logs is {}", object.display()));
        }
        let profile = if self.debug && !self.release {
            Profile::Debug
        } else {
            Profile::Release
        };
        let binary = sluice(profile, self.log)?;
        exec::step(&format!("The binary is {}", binary.display()));
        let plugin = binary.with_file_name(PLUGIN);
        exec::step(&format!("The CNI plugin is {}", plugin.display()));
        Ok(())
    }
}

/// The CNI plugin's file name.
pub(crate) const PLUGIN: &str = "sluice-cni";

/// How the `sluice` binary is built.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    /// As it is shipped.
    Release,
    /// For a debugger, and for quick turns.
    Debug,
}

/// Builds the shipped object, and lets the kernel judge it if `verify` is set.
///
/// # Errors
/// The programs do not compile, or the kernel refuses them.
pub(crate) fn object(verify: bool) -> Result<PathBuf> {
    let tools = setup::build_tools()?;
    exec::step("Building the eBPF object (a minute the first time)");
    let object = object::build(&tools, Flavour::Plain)?;
    if verify {
        setup::system(&[Group::Demo])?;
        object::verify(&object)?;
    }
    Ok(object)
}

/// Builds the `sluice` binary around the finished object, and the CNI plugin beside it; the path of
/// the first.
///
/// # Errors
/// It does not compile.
pub(crate) fn sluice(profile: Profile, log: bool) -> Result<PathBuf> {
    exec::step("Building sluice (a few minutes the first time)");
    let mut command = toolchain::cargo();
    command
        .args(["build", "--package", "dataplane", "--bin", "sluice"])
        .arg("--target-dir")
        .arg(workspace::target())
        .current_dir(workspace::root());
    if log {
        command.args(["--features", "log"]);
    }
    let folder = match profile {
        Profile::Release => {
            command.arg("--release");
            "release"
        }
        Profile::Debug => "debug",
    };
    exec::run(&mut command)?;
    plugin(profile, &[])?;
    Ok(workspace::target().join(folder).join("sluice"))
}

/// Builds the CNI plugin, linked statically: it starts in half the time, and runs on a node with
/// any C library.
fn plugin(profile: Profile, features: &[&str]) -> Result<()> {
    let mut command = toolchain::cargo();
    command
        .args(["rustc", "--package", PLUGIN, "--bin", PLUGIN])
        .arg("--target-dir")
        .arg(workspace::target())
        .args(features)
        .current_dir(workspace::root());
    if let Profile::Release = profile {
        command.arg("--release");
    }
    command.args(["--", "-C", "target-feature=+crt-static"]);
    exec::run(&mut command)
        .context("the plugin is linked statically: that takes the C library's archive, libc.a")
}

/// Builds both binaries with failpoints, for tests of crashes, as quickly as can be; their folder.
/// They never lie where a binary to ship does.
///
/// # Errors
/// They do not compile, or cannot be put there.
pub(crate) fn with_failpoints() -> Result<PathBuf> {
    exec::step("Building sluice with failpoints (a minute the first time)");
    exec::run(
        toolchain::cargo()
            .args(["build", "--package", "dataplane", "--bin", "sluice"])
            .args(["--features", "failpoints"])
            .arg("--target-dir")
            .arg(workspace::target())
            .current_dir(workspace::root()),
    )?;
    plugin(Profile::Debug, &["--features", "failpoints"])?;
    let folder = workspace::target().join("failpoints");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for name in ["sluice", PLUGIN] {
        let (from, to) = (
            workspace::target().join("debug").join(name),
            folder.join(name),
        );
        // Not over a file that still runs.
        let _ = fs::remove_file(&to);
        fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(folder)
}
