//! `cargo xtask setup`: everything that building, trying and testing Sluice needs.

mod apt;
mod apt_archive;
mod apt_sources;
mod bpffs;
mod fuzzer;
mod go_tools;
mod linker;
mod packages;
mod rust_src;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum as _};

pub(crate) use self::{
    apt_archive::Archive,
    apt_sources::own_release,
    bpffs::BPFFS,
    fuzzer::ensure as fuzzer,
    go_tools::{SRIOV_CNI, ensure as cni_clients, sriov as sriov_cni},
    packages::{Group, cni_plugins, python_with_scapy},
};
use crate::{exec, toolchain::Toolchain};

/// Options of `cargo xtask setup`.
#[derive(Args)]
pub(crate) struct Setup {
    /// What to get ready for [default: all]
    groups: Vec<Group>,
}

impl Setup {
    /// Gets the machine ready; does nothing where all is there.
    ///
    /// # Errors
    /// Something is missing and cannot be had; the message tells how to get it.
    pub(crate) fn run(&self) -> Result<()> {
        let groups = if self.groups.is_empty() {
            Group::value_variants()
        } else {
            &self.groups
        };
        if groups.contains(&Group::Build) {
            build_tools()?;
        }
        system(groups)?;
        if groups.contains(&Group::Test) {
            cni_clients()?;
        }
        if groups.contains(&Group::Fuzz) {
            fuzzer()?;
        }
        exec::step("Everything is in place");
        Ok(())
    }
}

/// What building the eBPF object needs.
pub(crate) struct BuildTools {
    /// The folder that holds `bpf-linker`.
    pub(crate) linker: PathBuf,
}

/// Makes sure that the eBPF object can be built.
///
/// # Errors
/// Something is missing and cannot be had; the message tells how to get it.
pub(crate) fn build_tools() -> Result<BuildTools> {
    let toolchain = Toolchain::detect()?;
    rust_src::ensure(&toolchain)?;
    Ok(BuildTools {
        linker: linker::ensure(&toolchain)?,
    })
}

/// Makes sure that the system's part of those groups is there: programs, and bpffs to pin in.
///
/// # Errors
/// Something is missing and cannot be had; the message tells how to get it.
pub(crate) fn system(groups: &[Group]) -> Result<()> {
    packages::ensure(groups)?;
    if groups.iter().any(|&group| group != Group::Build) {
        bpffs::ensure()?;
    }
    Ok(())
}

/// Fails unless this process may load eBPF programs and make network namespaces.
///
/// # Errors
/// The process does not run as root; names `purpose`.
pub(crate) fn root_for(purpose: &str) -> Result<()> {
    if !exec::is_root() {
        bail!(
            "{purpose} needs root; run the same command as root, with root's own cargo or `sudo -E env PATH=\"$PATH\"`"
        );
    }
    Ok(())
}
