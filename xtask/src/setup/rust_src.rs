//! The source of Rust's `core`, which the BPF target has no finished build of.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{apt, linker::symlink};
use crate::{
    exec,
    toolchain::{self, Toolchain},
};

/// Puts the standard library's source into the sysroot, where `-Z build-std` looks for it.
///
/// # Errors
/// Neither rustup nor apt can supply the source of exactly this release.
pub(crate) fn ensure(toolchain: &Toolchain) -> Result<()> {
    if is_ready(toolchain) {
        return Ok(());
    }
    let cache = toolchain::cache()?;
    let _lock = toolchain::lock(&cache)?;
    if is_ready(toolchain) {
        return Ok(());
    }
    exec::step("Fetching the source of Rust's core library (once; up to a minute)");
    let link = sysroot_link(toolchain);
    if link.is_symlink() {
        // Left by an earlier release; rustup refuses to install over it.
        fs::remove_file(&link)
            .with_context(|| format!("cannot remove the stale link {}", link.display()))?;
    }
    let rustup = match toolchain.add_components(&["rust-src"]) {
        Ok(()) if is_ready(toolchain) => return Ok(()),
        Ok(()) => anyhow!("says that rust-src is installed, but its files are gone"),
        Err(error) => error,
    };
    let Err(apt) = from_apt(toolchain, &cache, &link) else {
        return Ok(());
    };
    bail!(
        "no source of Rust {release}'s core library. Install it with `rustup component add rust-src` \
         or the distribution's rust-src package of that release.\n  rustup: {rustup:#}\n  apt: {apt:#}",
        release = toolchain.release,
    )
}

/// The folder in the sysroot that holds `library/`.
fn sysroot_link(toolchain: &Toolchain) -> PathBuf {
    toolchain.sysroot.join("lib/rustlib/src/rust")
}

/// Whether the sysroot holds the source, and not one that was linked for another release.
fn is_ready(toolchain: &Toolchain) -> bool {
    let link = sysroot_link(toolchain);
    let current = match fs::read_link(&link) {
        Ok(target) => target.ends_with(folder_name(toolchain)),
        Err(_) => true,
    };
    current && link.join("library/core/Cargo.toml").exists()
}

/// The folder's name in Debian's package; the one part of the path that tells the release.
fn folder_name(toolchain: &Toolchain) -> String {
    format!("rustc-{}", toolchain.release)
}

/// Unpacks Debian's package into the cache and links it into the sysroot.
///
/// It is not installed, because it conflicts with a toolchain from rustup.
fn from_apt(toolchain: &Toolchain, cache: &Path, link: &Path) -> Result<()> {
    let kept = cache.join("rust-src").join(folder_name(toolchain));
    if !kept.join("library/core/Cargo.toml").exists() {
        let scratch = cache.join("rust-src.partial");
        if scratch.exists() {
            fs::remove_dir_all(&scratch)
                .with_context(|| format!("cannot clear {}", scratch.display()))?;
        }
        apt::unpack("rust-src", &toolchain.release, &scratch)?;
        let library = scratch
            .join("tree/usr/src")
            .join(folder_name(toolchain))
            .join("library");
        fs::create_dir_all(&kept).with_context(|| format!("cannot make {}", kept.display()))?;
        fs::rename(&library, kept.join("library"))
            .with_context(|| format!("the package rust-src does not hold {}", library.display()))?;
        fs::remove_dir_all(&scratch)
            .with_context(|| format!("cannot remove {}", scratch.display()))?;
    }
    if let Some(parent) = link.parent() {
        fs::create_dir_all(parent).with_context(|| {
            format!(
                "cannot write to the sysroot; run `cargo xtask setup build` once as the owner of {}",
                toolchain.sysroot.display()
            )
        })?;
    }
    symlink(&kept, link)
}
