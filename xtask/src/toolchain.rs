//! The Rust toolchain that runs this command, and the cache for what is built for it.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow};

use crate::exec;

/// What the active rustc says of itself.
pub(crate) struct Toolchain {
    /// The folder that holds `bin/`, `lib/` and `lib/rustlib/`.
    pub(crate) sysroot: PathBuf,
    /// The release, such as `1.95.0`.
    pub(crate) release: String,
    /// The commit that rustc was built from; builds of one release can differ.
    pub(crate) commit: String,
    /// The major version of rustc's LLVM.
    pub(crate) llvm_major: String,
}

impl Toolchain {
    /// Asks the rustc that cargo uses.
    ///
    /// # Errors
    /// rustc cannot be run, or its version text lacks a field.
    pub(crate) fn detect() -> Result<Self> {
        let sysroot = exec::capture(rustc().args(["--print", "sysroot"]))?;
        let verbose = exec::capture(rustc().arg("-vV"))?;
        let field = |name: &str| {
            verbose
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .with_context(|| format!("`rustc -vV` has no field `{name}`:\n{verbose}"))
        };
        let llvm = field("LLVM version")?;
        Ok(Self {
            sysroot: PathBuf::from(sysroot.trim_end()),
            release: field("release")?.to_owned(),
            commit: field("commit-hash")?.to_owned(),
            llvm_major: llvm.split('.').next().unwrap_or(llvm).to_owned(),
        })
    }

    /// Adds components with rustup, where rustup is what installed this toolchain.
    ///
    /// # Errors
    /// rustup is absent, did not install this toolchain, or cannot fetch the components.
    pub(crate) fn add_components(&self, components: &[&str]) -> Result<()> {
        let rustup = exec::find("rustup").ok_or_else(|| anyhow!("rustup is not installed"))?;
        let managed = exec::capture(Command::new(&rustup).args(["which", "rustc"]))?;
        if !Path::new(managed.trim_end()).starts_with(&self.sysroot) {
            return Err(anyhow!("rustup did not install {}", self.sysroot.display()));
        }
        exec::capture(
            Command::new(&rustup)
                .args(["component", "add"])
                .args(components),
        )?;
        Ok(())
    }
}

/// rustc as cargo picks it.
fn rustc() -> Command {
    Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

/// cargo, the same one that runs this command.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// `cargo install` of one release of a tool, with the dependencies that it was published with.
pub(crate) fn install(tool: &str, version: &str) -> Command {
    let mut command = cargo();
    command
        .args(["install", tool, "--version", version])
        .args(["--locked", "--quiet", "--force"])
        // What suits the workspace's own build must not leak into the tool's.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET");
    command
}

/// The user's cache folder for what xtask fetches and builds, made if it is absent.
///
/// # Errors
/// Neither `XDG_CACHE_HOME` nor `HOME` is set, or the folder cannot be made.
pub(crate) fn cache() -> Result<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_CACHE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".cache")))
        .context("no folder to keep tools in: set HOME or XDG_CACHE_HOME to an absolute path")?;
    let folder = base.join("sluice/tools");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the cache folder {}", folder.display()))?;
    Ok(folder)
}

/// Keeps two runs from filling the cache at once; held until the file is dropped.
///
/// # Errors
/// The lock file cannot be made or locked.
pub(crate) fn lock(cache: &Path) -> Result<File> {
    let path = cache.join("lock");
    let context = || format!("cannot lock {}", path.display());
    let file = File::create(&path).with_context(context)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            exec::step("Waiting for another run that is setting up");
            file.lock().with_context(context)?;
        }
        Err(TryLockError::Error(error)) => return Err(error).with_context(context),
    }
    Ok(file)
}
