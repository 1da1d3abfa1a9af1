//! QEMU: the machine's own where it has the SR-IOV card that the lab uses, else Debian's, kept in the
//! cache and never installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    exec,
    setup::{self, Archive},
    toolchain,
};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";

/// A QEMU that emulates igb with its virtual functions (8.0 and newer).
#[derive(Debug)]
pub(crate) struct Qemu {
    pub(super) program: PathBuf,
    /// Where it was unpacked; none for one that is installed.
    pub(super) tree: Option<PathBuf>,
}

impl Qemu {
    /// The installed one or the one in the cache, if there is any.
    pub(crate) fn found(cache: &Path) -> Option<Self> {
        let installed = exec::find(PROGRAM).map(|program| Self {
            program,
            tree: None,
        });
        installed
            .into_iter()
            .chain([Self::unpacked(cache)])
            .find(|qemu| qemu.check().is_ok())
    }

    fn unpacked(cache: &Path) -> Self {
        let tree = cache.join("qemu");
        Self {
            program: tree.join("usr/bin").join(PROGRAM),
            tree: Some(tree),
        }
    }

    /// QEMU, fetched on first use.
    ///
    /// # Errors
    /// The machine's apt cannot bring one; the text has what each suite answered.
    pub(crate) fn ensure(cache: &Path) -> Result<Self> {
        if let Some(qemu) = Self::found(cache) {
            return Ok(qemu);
        }
        let _lock = toolchain::lock(cache)?;
        if let Some(qemu) = Self::found(cache) {
            return Ok(qemu);
        }
        fetch(&cache.join("qemu"))?;
        let qemu = Self::unpacked(cache);
        qemu.check()
            .context("the QEMU that was just fetched does not run")?;
        Ok(qemu)
    }

    /// The start of its command line.
    pub(super) fn command(&self) -> Command {
        // It ends with the process that started it, however that ends.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.program);
        if let Some(tree) = &self.tree {
            let [usr, root] = ["usr/lib", "lib"].map(|lib| tree.join(lib).join("x86_64-linux-gnu"));
            command.env("QEMU_MODULE_DIR", usr.join("qemu"));
            command.env(
                "LD_LIBRARY_PATH",
                format!("{}:{}", usr.display(), root.display()),
            );
            for firmware in ["qemu", "seabios"] {
                command.arg("-L").arg(tree.join("usr/share").join(firmware));
            }
        }
        command
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn version(&self) -> Result<String> {
        let text = exec::capture(self.command().arg("--version"))?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    fn check(&self) -> Result<()> {
        let devices = exec::capture(self.command().args(["-device", "help"]))?;
        if !devices.contains("\"igb\"") {
            bail!("{} has no igb", self.program.display());
        }
        Ok(())
    }
}

/// Fills `tree`; the caller holds the cache's lock.
fn fetch(tree: &Path) -> Result<()> {
    exec::step("Fetching QEMU for the lab (once; about 50 MB)");
    if tree.exists() {
        fs::remove_dir_all(tree).with_context(|| format!("cannot replace {}", tree.display()))?;
    }
    let own = setup::own_release();
    let scratch = tree.join("scratch");
    let mut reasons = Vec::new();
    let backports = format!("{own}-backports");
    for (suite, suites) in [
        (&own, own.clone()),
        (&backports, format!("{own} {backports}")),
    ] {
        match download(suite, &suites, &scratch, tree) {
            Ok(()) => {
                return fs::remove_dir_all(&scratch)
                    .with_context(|| format!("cannot remove {}", scratch.display()));
            }
            Err(reason) => reasons.push(format!("{suite}: {reason:#}")),
        }
    }
    bail!(
        "no QEMU 8.0 or newer; install {PROGRAM}: {}",
        reasons.join("; ")
    )
}

/// Takes QEMU from `suite`, if it is new enough, and what it needs from any of `suites`.
fn download(suite: &str, suites: &str, scratch: &Path, tree: &Path) -> Result<()> {
    let archive = Archive::open(scratch, suites)?;
    let versions = archive.versions(PACKAGE)?;
    if !versions.iter().any(|version| has_igb(version)) {
        bail!("only {}", versions.join(", "));
    }
    archive.unpack_whole(PACKAGE, suite, tree)
}

/// Whether a Debian version of QEMU is 8.0 or newer.
fn has_igb(version: &str) -> bool {
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
    upstream
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok())
        .is_some_and(|major| major >= 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn igb_came_with_8_0() {
        assert!(has_igb("1:10.0.2+ds-2+deb13u1~bpo12+1"));
        assert!(has_igb("8.0"));
        assert!(!has_igb("1:7.2+dfsg-7+deb12u18"));
        assert!(!has_igb("odd"));
    }
}
