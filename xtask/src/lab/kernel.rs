//! The kernels of the lab: Debian's, fetched once and kept in the cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use super::{image, modules};
use crate::{exec, setup::Archive, toolchain};

/// A series of kernels; the lab takes the newest that Debian has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Series {
    /// Without TCX: programs are held by filters on clsact
    #[value(name = "6.1")]
    Linux6_1,
    /// The first long-term one with TCX and netkit
    #[value(name = "6.12")]
    Linux6_12,
    /// The newest: soft-RoCE in network namespaces
    #[value(name = "7", alias = "7.3")]
    Newest,
}

impl Series {
    /// How its releases begin.
    fn prefix(self) -> &'static str {
        match self {
            Self::Linux6_1 => "6.1.",
            Self::Linux6_12 => "6.12.",
            Self::Newest => "7.",
        }
    }

    /// Debian's suites that have it, best first.
    fn suites(self) -> &'static [&'static str] {
        match self {
            Self::Linux6_1 => &["bookworm"],
            Self::Linux6_12 => &["bookworm-backports", "trixie"],
            Self::Newest => &["trixie-backports", "testing", "unstable"],
        }
    }

    fn folder(self, cache: &Path) -> PathBuf {
        cache.join(format!("kernel-{}", self.prefix().trim_end_matches('.')))
    }
}

/// A kernel that is ready to boot.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Its release, as `uname -r` says it.
    pub(crate) release: String,
    /// The uncompressed image.
    pub(crate) image: PathBuf,
    /// A tree with `lib/modules/<release>`.
    pub(crate) tree: PathBuf,
}

impl Kernel {
    /// The kernel of that series in the cache, if it was fetched.
    pub(crate) fn cached(series: Series, cache: &Path) -> Option<Self> {
        let folder = series.folder(cache);
        // Written last.
        let stamp = fs::read_to_string(folder.join("stamp")).ok()?;
        let (release, wanted) = stamp.split_once('\n')?;
        (wanted == modules::WANTED).then(|| Self {
            release: release.to_owned(),
            image: folder.join("vmlinux"),
            tree: folder,
        })
    }

    /// The kernel of that series, fetched on first use.
    ///
    /// # Errors
    /// The machine's apt cannot bring it; the text has what each suite answered.
    pub(crate) fn ensure(series: Series, cache: &Path) -> Result<Self> {
        if let Some(kernel) = Self::cached(series, cache) {
            return Ok(kernel);
        }
        let _lock = toolchain::lock(cache)?;
        if Self::cached(series, cache).is_none() {
            fetch(series, &series.folder(cache))?;
        }
        Self::cached(series, cache).context("the kernel that was just fetched is gone")
    }
}

/// Fills `folder`; the caller holds the cache's lock.
fn fetch(series: Series, folder: &Path) -> Result<()> {
    exec::step(&format!(
        "Fetching Linux {}x for the lab (once; about 100 MB)",
        series.prefix()
    ));
    let scratch = folder.join("scratch");
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot replace {}", folder.display()))?;
    }
    let mut reasons = Vec::new();
    for suite in series.suites() {
        match download(series, suite, &scratch.join(suite)) {
            Ok((release, tree)) => {
                unpack(&release, &tree, folder)?;
                let stamp = folder.join("stamp");
                fs::write(&stamp, format!("{release}\n{}", modules::WANTED))
                    .with_context(|| format!("cannot write {}", stamp.display()))?;
                return fs::remove_dir_all(&scratch)
                    .with_context(|| format!("cannot remove {}", scratch.display()));
            }
            Err(reason) => reasons.push(format!("{suite}: {reason:#}")),
        }
    }
    bail!(
        "no Linux {}x; the lab takes Debian's kernels by way of apt: {}",
        series.prefix(),
        reasons.join("; ")
    )
}

/// Downloads the newest kernel of the series from one suite; its release and where it was unpacked.
fn download(series: Series, suite: &str, scratch: &Path) -> Result<(String, PathBuf)> {
    let archive = Archive::open(scratch, suite)?;
    let escaped = series.prefix().replace('.', r"\.");
    let names = archive.names(&format!(
        r"^linux-(image|binary|modules)-{escaped}[-+.0-9]*(\+deb[.0-9]+)?-amd64$"
    ))?;
    let release = newest(&names).with_context(|| format!("no kernel {}x", series.prefix()))?;
    // An older one is one package, a newer one several.
    let packages: Vec<_> = names
        .iter()
        .filter(|name| release_of(name) == Some(release))
        .cloned()
        .collect();
    let tree = scratch.join("tree");
    archive.unpack(&packages, &tree)?;
    Ok((release.to_owned(), tree))
}

/// The newest release among the packages.
fn newest(names: &[String]) -> Option<&str> {
    names
        .iter()
        .filter_map(|name| release_of(name))
        .max_by_key(|release| numbers(release))
}

/// `linux-image-6.12.95+deb12-amd64` is of `6.12.95+deb12-amd64`.
fn release_of(package: &str) -> Option<&str> {
    ["linux-image-", "linux-binary-", "linux-modules-"]
        .into_iter()
        .find_map(|prefix| package.strip_prefix(prefix))
}

/// The numbers of a release, in order.
fn numbers(release: &str) -> Vec<u64> {
    release
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// Takes what the lab needs from the unpacked packages.
fn unpack(release: &str, packages: &Path, folder: &Path) -> Result<()> {
    let modules_of = |root: &str| packages.join(root).join("lib/modules").join(release);
    let (root, modules) = ["", "usr"]
        .into_iter()
        .map(|root| (packages.join(root), modules_of(root)))
        .find(|(_, modules)| modules.is_dir())
        .with_context(|| format!("the packages of {release} have no modules"))?;
    let compressed = [
        packages.join(format!("boot/vmlinuz-{release}")),
        modules.join("vmlinuz"),
    ];
    let compressed = compressed
        .iter()
        .find(|file| file.is_file())
        .with_context(|| format!("the packages of {release} have no kernel image"))?;
    image::decompress(compressed, &folder.join("vmlinux"))?;
    // depmod takes one base folder and warns of lists that only the full set of packages has.
    let depmod = |base: &Path| {
        exec::capture(
            Command::new("depmod")
                .arg("-b")
                .arg(base)
                .arg(release)
                .env("PATH", exec::path_with(None)),
        )
    };
    depmod(&root)?;
    modules::take(&modules, &folder.join("lib/modules").join(release))?;
    depmod(folder).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_release_is_taken() {
        let names = [
            "linux-image-6.12.100+deb12-amd64",
            "linux-image-6.12.95+deb12-amd64",
            "linux-image-6.12.90+deb12.1-amd64",
        ]
        .map(str::to_owned);
        assert_eq!(newest(&names), Some("6.12.100+deb12-amd64"));
        let split = [
            "linux-binary-7.3.4+deb13-amd64",
            "linux-modules-7.3.4+deb13-amd64",
            "linux-modules-7.2.12+deb13-amd64",
        ]
        .map(str::to_owned);
        assert_eq!(newest(&split), Some("7.3.4+deb13-amd64"));
        assert_eq!(newest(&[]), None);
    }
}
