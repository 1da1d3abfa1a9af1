//! Packages by way of apt: installed into the system, or fetched from another suite of the mirror
//! that the machine already uses and only unpacked.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::apt_sources::{self, Source};
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
/// The machine's own package lists are neither used nor changed.
///
/// # Errors
/// apt is absent, or no suite of the machine's mirrors has the package in that version.
pub(super) fn unpack(package: &str, upstream: &str, scratch: &Path) -> Result<()> {
    if exec::find("apt-get").is_none() {
        bail!("this machine has no apt");
    }
    let own = apt_sources::own_release();
    let mirrors = apt_sources::machine(&own)?;
    if mirrors.is_empty() {
        bail!("apt's sources name no mirror of the distribution");
    }
    let mut reasons = Vec::new();
    for mirror in &mirrors {
        for suite in [own.as_str()].into_iter().chain(SUITES) {
            match fetch(package, upstream, mirror, suite, scratch) {
                Ok(file) => {
                    let tree = scratch.join("tree");
                    exec::capture(Command::new("dpkg").arg("-x").arg(&file).arg(&tree))?;
                    return Ok(());
                }
                Err(reason) => reasons.push(format!("{suite}: {reason:#}")),
            }
        }
    }
    bail!("no {package} {upstream}: {}", reasons.join("; "))
}

/// Installs packages, after refreshing the package lists where they do not offer them.
///
/// # Errors
/// apt-get fails; its own messages are on the standard streams.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    let _no_daemons = NoDaemons::new()?;
    let known = exec::capture(apt_get().args(["install", "--simulate"]).args(packages)).is_ok();
    if known && exec::run(apt_get().arg("install").args(packages)).is_ok() {
        return Ok(());
    }
    exec::step("Refreshing apt's package lists");
    exec::run(apt_get().arg("update"))?;
    exec::run(apt_get().arg("install").args(packages))
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

/// Downloads the package from one suite; the path of the downloaded file.
fn fetch(
    package: &str,
    upstream: &str,
    mirror: &Source,
    suite: &str,
    scratch: &Path,
) -> Result<PathBuf> {
    let private = Private::new(&scratch.join(suite), &mirror.in_suite(suite))?;
    // Says why only when asked to treat every failed fetch as an error.
    exec::capture(
        private
            .apt("apt-get")
            .args(["-o", "APT::Update::Error-Mode=any", "update"]),
    )?;
    let offered = exec::capture(private.apt("apt-cache").args(["madison", package]))?;
    let version = matching_version(&offered, upstream)
        .with_context(|| format!("not in version {upstream}"))?;
    exec::capture(
        private
            .apt("apt-get")
            .args(["download", &format!("{package}={version}")])
            .current_dir(&private.folder),
    )?;
    fs::read_dir(&private.folder)
        .with_context(|| format!("cannot read {}", private.folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|kind| kind == "deb"))
        .with_context(|| {
            format!(
                "apt-get download left no file in {}",
                private.folder.display()
            )
        })
}

/// The Debian version of that upstream version in `apt-cache madison`'s table.
fn matching_version<'a>(madison: &'a str, upstream: &str) -> Option<&'a str> {
    madison
        .lines()
        .filter_map(|line| line.split('|').nth(1).map(str::trim))
        .find(|version| {
            version
                .strip_prefix(upstream)
                .is_some_and(|rest| rest.starts_with(['+', '-', '~']))
        })
}

/// apt with sources, lists and cache of its own.
struct Private {
    folder: PathBuf,
}

impl Private {
    /// Writes a sources list in deb822 form and the folders that apt wants.
    fn new(folder: &Path, sources: &str) -> Result<Self> {
        for part in ["sources", "lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        let list = folder.join("sources/mirror.sources");
        fs::write(&list, sources).with_context(|| format!("cannot write {}", list.display()))?;
        Ok(Self {
            folder: folder.to_path_buf(),
        })
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-qq");
        for (option, value) in [
            ("Dir::Etc::sourcelist", Path::new("/dev/null").to_path_buf()),
            ("Dir::Etc::sourceparts", self.folder.join("sources")),
            ("Dir::State::lists", self.folder.join("lists")),
            ("Dir::Cache", self.folder.join("cache")),
        ] {
            command
                .arg("-o")
                .arg(format!("{option}={}", value.display()));
        }
        // apt's own download user may not enter the caller's cache folder.
        command.args(["-o", "APT::Sandbox::User=root"]);
        command.env("LC_ALL", "C");
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_exactly_the_upstream_version() {
        let madison = "\
            rust-src | 1.96.1+dfsg1-2~bpo13+1 | mirror trixie-backports/main amd64 Packages\n\
            rust-src | 1.95.0+dfsg1-2~bpo13+1 | mirror trixie-backports/main amd64 Packages\n";
        assert_eq!(
            matching_version(madison, "1.95.0"),
            Some("1.95.0+dfsg1-2~bpo13+1")
        );
        assert_eq!(matching_version(madison, "1.95"), None);
        assert_eq!(matching_version(madison, "1.94.0"), None);
        assert_eq!(matching_version("", "1.95.0"), None);
    }
}
