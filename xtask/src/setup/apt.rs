//! Packages by way of apt: installed into the system, or fetched from another suite of the mirror
//! that the machine already uses and only unpacked.

use std::{fs, io, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::{apt_archive::Archive, apt_sources};
use crate::exec;

/// Suites that may hold a package in the wanted version, nearest to the machine's own first.
const SUITES: [&str; 6] = [
    "trixie-backports",
    "stable",
    "stable-backports",
    "testing",
    "unstable",
    "oldstable-backports",
];

/// Downloads a package of one upstream version and unpacks it to `scratch/tree`.
///
/// # Errors
/// apt is absent, or no suite of the machine's mirrors has the package in that version.
pub(super) fn unpack(package: &str, upstream: &str, scratch: &Path) -> Result<()> {
    let fetched = from_suites(scratch, |archive, tree| {
        let offered = archive.versions(package)?;
        let version = matching_version(&offered, upstream)
            .with_context(|| format!("not in version {upstream}"))?;
        archive.unpack(&[format!("{package}={version}")], tree)
    });
    fetched.with_context(|| format!("no {package} {upstream}"))
}

/// The same for packages whose names tell their version, all from one suite.
///
/// # Errors
/// apt is absent, or no suite of the machine's mirrors has them.
pub(super) fn unpack_named(packages: &[&str], scratch: &Path) -> Result<()> {
    let names: Vec<_> = packages.iter().map(ToString::to_string).collect();
    from_suites(scratch, |archive, tree| archive.unpack(&names, tree))
}

/// Lets `unpack` fill `scratch/tree` from the first suite that has what it wants.
fn from_suites(scratch: &Path, unpack: impl Fn(&Archive, &Path) -> Result<()>) -> Result<()> {
    let own = apt_sources::own_release();
    let mut reasons = Vec::new();
    for suite in [own.as_str()].into_iter().chain(SUITES) {
        let opened = Archive::open(&scratch.join(suite), suite);
        match opened.and_then(|archive| unpack(&archive, &scratch.join("tree"))) {
            Ok(()) => return Ok(()),
            Err(reason) => reasons.push(format!("{suite}: {reason:#}")),
        }
    }
    bail!("{}", reasons.join("; "))
}

/// The Debian version of that upstream version.
fn matching_version<'a>(offered: &'a [String], upstream: &str) -> Option<&'a str> {
    offered.iter().map(String::as_str).find(|version| {
        version
            .strip_prefix(upstream)
            .is_some_and(|rest| rest.starts_with(['+', '-', '~']))
    })
}

/// Installs packages, after refreshing the package lists where they do not offer them.
///
/// # Errors
/// apt-get fails; its own messages are in the text.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    let _no_daemons = NoDaemons::new()?;
    let known = exec::capture(apt_get().args(["install", "--simulate"]).args(packages)).is_ok();
    if known && exec::capture(apt_get().arg("install").args(packages)).is_ok() {
        return Ok(());
    }
    exec::step("Refreshing apt's package lists");
    exec::capture(apt_get().arg("update"))?;
    exec::capture(apt_get().arg("install").args(packages)).map(drop)
}

/// apt-get, asking nothing and waiting for another apt to end.
fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["--yes", "-qq", "--no-install-recommends"])
        .args(["-o", "DPkg::Lock::Timeout=600"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Keeps packages from starting their daemons while they are installed: the tests start what they
/// need themselves, and nobody wants a Prometheus server for having run them.
struct NoDaemons {
    policy: Option<&'static Path>,
}

impl NoDaemons {
    /// Debian's policy for starting services; absent on most machines.
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    fn new() -> Result<Self> {
        use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
        let policy = Path::new(Self::POLICY);
        let opened = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(policy);
        let mut file = match opened {
            Ok(file) => file,
            // The administrator's own policy stands.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Ok(Self { policy: None });
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot write {}", policy.display()));
            }
        };
        // 101 means "action forbidden". Should this process be killed, the file does no harm.
        write!(
            file,
            "#!/bin/sh\n[ ! -d /proc/{} ] || exit 101\n",
            std::process::id()
        )
        .with_context(|| format!("cannot write {}", policy.display()))?;
        Ok(Self {
            policy: Some(policy),
        })
    }
}

impl Drop for NoDaemons {
    fn drop(&mut self) {
        if let Some(policy) = self.policy {
            // What remains allows everything once this process is gone.
            let _ = fs::remove_file(policy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_exactly_the_upstream_version() {
        let offered = ["1.96.1+dfsg1-2~bpo13+1", "1.95.0+dfsg1-2~bpo13+1"].map(str::to_owned);
        assert_eq!(
            matching_version(&offered, "1.95.0"),
            Some("1.95.0+dfsg1-2~bpo13+1")
        );
        assert_eq!(matching_version(&offered, "1.95"), None);
        assert_eq!(matching_version(&offered, "1.94.0"), None);
        assert_eq!(matching_version(&[], "1.95.0"), None);
    }
}
