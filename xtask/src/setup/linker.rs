//! bpf-linker, built against the LLVM that rustc itself uses.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    exec,
    toolchain::{self, Toolchain},
};

/// The newest release that has an `llvm-22` feature, for rustc 1.95's LLVM.
const VERSION: &str = "0.13.0";

/// The folder with a `bpf-linker` for this toolchain, built on first use.
///
/// # Errors
/// rustc's LLVM is not a shared library, or the build fails.
pub(crate) fn ensure(toolchain: &Toolchain) -> Result<PathBuf> {
    let cache = toolchain::cache()?;
    let commit = toolchain.commit.get(..9).unwrap_or(&toolchain.commit);
    let home = cache.join(format!(
        "bpf-linker-{VERSION}-rustc-{}-{commit}",
        toolchain.release
    ));
    if is_ready(&home) {
        return Ok(home.join("bin"));
    }
    let _lock = toolchain::lock(&cache)?;
    if !is_ready(&home) {
        exec::step(&format!(
            "Building bpf-linker {VERSION} against rustc's LLVM {} (once; one to three minutes)",
            toolchain.llvm_major
        ));
        build(toolchain, &home)?;
    }
    Ok(home.join("bin"))
}

/// Whether the linker is there and the LLVM it was linked with still is.
fn is_ready(home: &Path) -> bool {
    home.join("bin/bpf-linker").exists() && home.join("llvm/lib/libLLVM.so").exists()
}

/// Builds into `home`; the caller holds the cache's lock.
fn build(toolchain: &Toolchain, home: &Path) -> Result<()> {
    let llvm = rustc_llvm(toolchain)?;
    let prefix = home.join("llvm");
    link_llvm(&llvm, &prefix.join("lib"))?;

    let scratch = home.join("build");
    exec::run(
        toolchain::install("bpf-linker", VERSION)
            .args(["--no-default-features", "--features"])
            .arg(format!("llvm-{}", toolchain.llvm_major))
            .arg("--root")
            .arg(home)
            .arg("--target-dir")
            .arg(&scratch)
            .env("LLVM_PREFIX", &prefix)
            .current_dir(home),
    )
    .context("bpf-linker could not be built; see the messages above")?;
    exec::capture(Command::new(home.join("bin/bpf-linker")).arg("--version"))?;
    fs::remove_dir_all(&scratch)
        .with_context(|| format!("cannot remove the build folder {}", scratch.display()))
}

/// The LLVM library that the dynamic loader gives to rustc.
///
/// The loader is asked, because the file's name holds rustc's version and a distribution keeps it
/// outside the sysroot.
fn rustc_llvm(toolchain: &Toolchain) -> Result<PathBuf> {
    let rustc = toolchain.sysroot.join("bin/rustc");
    let libraries = exec::capture(Command::new("ldd").arg(&rustc))?;
    loaded_llvm(&libraries).with_context(|| {
        format!(
            "{} has no shared LLVM library, which bpf-linker needs; use a toolchain from rustup",
            rustc.display()
        )
    })
}

/// The path of `libLLVM` in what `ldd` prints.
fn loaded_llvm(ldd: &str) -> Option<PathBuf> {
    ldd.lines().find_map(|line| {
        let (name, target) = line.trim().split_once(" => ")?;
        let (path, _address) = target.rsplit_once(" (")?;
        name.starts_with("libLLVM").then(|| PathBuf::from(path))
    })
}

/// Links the library into `folder` under the name to link with and the name to load by.
fn link_llvm(llvm: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let own_name = llvm
        .file_name()
        .with_context(|| format!("{} is not a file", llvm.display()))?;
    for name in ["libLLVM.so".as_ref(), own_name] {
        symlink(llvm, &folder.join(name))?;
    }
    Ok(())
}

/// Makes `link` point to `target`, whatever was there before.
pub(super) fn symlink(target: &Path, link: &Path) -> Result<()> {
    if link.is_symlink() {
        fs::remove_file(link)
            .with_context(|| format!("cannot replace the link {}", link.display()))?;
    }
    std::os::unix::fs::symlink(target, link)
        .with_context(|| format!("cannot link {} to {}", link.display(), target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_llvm_of_a_rustup_and_of_a_distribution_toolchain() {
        let rustup = "\tlinux-vdso.so.1 (0x00007fbeba153000)\n\
            \tlibLLVM.so.22.1-rust-1.95.0-stable => /r/t/bin/../lib/libLLVM.so.22.1-rust-1.95.0-stable (0x00007fbea7c00000)\n";
        assert_eq!(
            loaded_llvm(rustup),
            Some("/r/t/bin/../lib/libLLVM.so.22.1-rust-1.95.0-stable".into())
        );
        let distribution = "\tlibc.so.6 => /lib/libc.so.6 (0x1)\n\
            \tlibLLVM.so.21.1 => /usr/lib/llvm-21/lib/libLLVM.so.21.1 (0x2)\n";
        assert_eq!(
            loaded_llvm(distribution),
            Some("/usr/lib/llvm-21/lib/libLLVM.so.21.1".into())
        );
        assert_eq!(loaded_llvm("\tstatically linked\n"), None);
        assert_eq!(loaded_llvm("\tlibLLVM.so.22 => not found\n"), None);
    }
}
