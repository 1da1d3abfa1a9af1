//! CNI for real: the reference plugins and clients, and ours among them, in a sandbox where all
//! their default paths are private.

pub mod call;
pub mod chain;
pub mod containerd;
pub mod faults;
pub mod node;
pub mod sandbox;
pub mod snapshot;

use std::{env, path::PathBuf};

use anyhow::{Context, Result};

/// The name that the plugin is installed under: the `type` of a configuration.
pub const PLUGIN: &str = "sluice";

/// The reference plugins' folder: the environment variable `SLUICE_CNI_REFERENCE`, or one of the
/// places where distributions put them.
///
/// # Errors
/// They are nowhere: `cargo xtask setup` installs them.
pub fn reference_plugins() -> Result<PathBuf> {
    let known = ["/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin"];
    env::var_os("SLUICE_CNI_REFERENCE")
        .map(PathBuf::from)
        .into_iter()
        .chain(known.map(PathBuf::from))
        .find(|folder| folder.join("host-local").exists())
        .context("no reference CNI plugins; run `cargo xtask setup`")
}

/// The folder with `cnitool` and `multus`: the environment variable `SLUICE_CNI_CLIENTS`, or
/// where `cargo xtask setup` leaves them.
///
/// # Errors
/// They are not built.
pub fn clients() -> Result<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let built = || Some(cache.or_else(home)?.join("sluice/tools/cni"));
    env::var_os("SLUICE_CNI_CLIENTS")
        .map(PathBuf::from)
        .or_else(built)
        .filter(|folder| folder.join("multus").exists())
        .context("cnitool and Multus are not built; run `cargo xtask setup`")
}

/// The plugin under test: the environment variable `SLUICE_CNI`, or `sluice-cni` beside
/// `SLUICE_BIN`.
///
/// # Errors
/// Neither is there: `cargo xtask test` builds it.
pub fn plugin() -> Result<PathBuf> {
    let beside = || {
        let sluice = PathBuf::from(env::var_os("SLUICE_BIN")?);
        Some(sluice.with_file_name("sluice-cni"))
    };
    env::var_os("SLUICE_CNI")
        .map(PathBuf::from)
        .or_else(beside)
        .filter(|path| path.exists())
        .context("no sluice-cni to test; run the tests with `cargo xtask test`")
}

/// The folder of `sluice` and `sluice-cni` with failpoints: the environment variable
/// `SLUICE_FAILPOINTS`.
///
/// # Errors
/// It is not set: `cargo xtask test` builds them.
pub fn with_failpoints() -> Result<PathBuf> {
    env::var_os("SLUICE_FAILPOINTS")
        .map(PathBuf::from)
        .context("SLUICE_FAILPOINTS is not set; run the tests with `cargo xtask test`")
}
