//! Packages of other suites of the mirror that the machine already uses: fetched and unpacked, never
//! installed. The machine's own package lists are neither used nor changed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::apt_sources;
use crate::exec;

/// apt with sources, lists and cache of its own.
pub(crate) struct Archive {
    folder: PathBuf,
}

impl Archive {
    /// Fetches the lists of some suites, separated by blanks, from the first of the machine's mirrors
    /// that has them.
    ///
    /// # Errors
    /// apt is absent, or no mirror has those suites; the text has each mirror's answer.
    pub(crate) fn open(folder: &Path, suites: &str) -> Result<Self> {
        if exec::find("apt-get").is_none() {
            bail!("this machine has no apt");
        }
        let mut reasons = Vec::new();
        for mirror in apt_sources::machine(&apt_sources::own_release())? {
            let archive = Self::new(folder, &mirror.in_suite(suites))?;
            // Says why only when asked to treat every failed fetch as an error.
            let update = exec::capture(archive.apt("apt-get").args([
                "-o",
                "APT::Update::Error-Mode=any",
                "update",
            ]));
            match update {
                Ok(_) => return Ok(archive),
                Err(reason) => reasons.push(format!("{reason:#}")),
            }
        }
        if reasons.is_empty() {
            bail!("apt's sources name no mirror of the distribution");
        }
        bail!("{suites}: {}", reasons.join("; "))
    }

    /// Writes a sources list in deb822 form and the folders that apt wants.
    fn new(folder: &Path, sources: &str) -> Result<Self> {
        for part in [
            "sources",
            "lists/partial",
            "cache/archives/partial",
            "packages",
        ] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        let list = folder.join("sources/mirror.sources");
        fs::write(&list, sources).with_context(|| format!("cannot write {}", list.display()))?;
        Ok(Self {
            folder: folder.to_path_buf(),
        })
    }

    /// The names of the packages that match a regular expression.
    ///
    /// # Errors
    /// apt-cache fails.
    pub(crate) fn names(&self, pattern: &str) -> Result<Vec<String>> {
        let found = exec::capture(
            self.apt("apt-cache")
                .args(["search", "--names-only", pattern]),
        )?;
        let name = |line: &str| Some(line.split_once(" - ")?.0.to_owned());
        Ok(found.lines().filter_map(name).collect())
    }

    /// The versions of a package, newest first.
    ///
    /// # Errors
    /// apt-cache fails.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let table = exec::capture(self.apt("apt-cache").args(["madison", package]))?;
        Ok(versions(&table))
    }

    /// Downloads packages, named as for apt-get, and unpacks them into `tree`.
    ///
    /// # Errors
    /// One of them is not there, or cannot be unpacked.
    pub(crate) fn unpack(&self, packages: &[String], tree: &Path) -> Result<()> {
        let folder = self.folder.join("packages");
        exec::capture(
            self.apt("apt-get")
                .arg("download")
                .args(packages)
                .current_dir(&folder),
        )?;
        unpack_all(&folder, tree)
    }

    /// The same with all that the package needs and the machine has not installed, from `suite` first.
    ///
    /// # Errors
    /// As [`Archive::unpack`].
    pub(crate) fn unpack_whole(&self, package: &str, suite: &str, tree: &Path) -> Result<()> {
        exec::capture(
            self.apt("apt-get")
                .args([
                    "--yes",
                    "--no-install-recommends",
                    "--download-only",
                    "--target-release",
                    suite,
                    "install",
                ])
                .arg(package),
        )?;
        unpack_all(&self.folder.join("cache/archives"), tree)
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

/// Unpacks every package file of a folder.
fn unpack_all(folder: &Path, tree: &Path) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let file = entry
            .with_context(|| format!("cannot read {}", folder.display()))?
            .path();
        if file.extension().is_some_and(|kind| kind == "deb") {
            let unpacked = exec::capture(Command::new("dpkg").arg("-x").arg(&file).arg(tree));
            // tar has a line for each of the package's files.
            unpacked.map_err(|error| anyhow!(brief(&error.to_string())))?;
        }
    }
    Ok(())
}

/// A failed command and the first that it said, in one line.
fn brief(failure: &str) -> String {
    let lines: Vec<_> = failure
        .lines()
        .filter(|line| !line.trim().is_empty())
        .take(2)
        .collect();
    lines.join(": ")
}

/// The versions in `apt-cache madison`'s table.
fn versions(madison: &str) -> Vec<String> {
    madison
        .lines()
        .filter_map(|line| Some(line.split('|').nth(1)?.trim().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions_in_their_order() {
        let madison = "\
            rust-src | 1.96.1+dfsg1-2~bpo13+1 | mirror trixie-backports/main amd64 Packages\n\
            rust-src | 1.95.0+dfsg1-2~bpo13+1 | mirror trixie-backports/main amd64 Packages\n";
        assert_eq!(
            versions(madison),
            ["1.96.1+dfsg1-2~bpo13+1", "1.95.0+dfsg1-2~bpo13+1"]
        );
        assert!(versions("").is_empty());
    }

    #[test]
    fn a_package_that_cannot_be_unpacked_is_told_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("odd.deb");
        fs::write(&package, "no package").unwrap();
        let error = unpack_all(folder.path(), &folder.path().join("tree")).unwrap_err();
        let text = format!("{error:#}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("odd.deb"), "{text}");
        assert_eq!(
            brief("tar failed: exit status: 2\na: no space\nb: no space\n"),
            "tar failed: exit status: 2: a: no space"
        );
    }
}
