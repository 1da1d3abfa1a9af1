//! Every path under bpffs. One place builds them all.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use dataplane_ebpf::abi::{Direction, LAYOUT, OLDEST_LAYOUT};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::error::KernelError;

/// The pins of one agent: `<root>/v<LAYOUT>/<map>` and
/// `<root>/v<LAYOUT>/links/<attachment>`.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Pins below `root`, usually `/sys/fs/bpf/sluice`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder of this layout.
    pub fn folder(&self) -> PathBuf {
        self.root.join(format!("v{LAYOUT}"))
    }

    /// A map's pin.
    pub fn map(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// The pin of an endpoint's TCX link.
    pub fn endpoint_link(&self, endpoint: u32, direction: Direction) -> PathBuf {
        self.links()
            .join(format!("endpoint{endpoint}_{}", direction.name()))
    }

    /// The pin of an uplink's XDP link.
    pub fn uplink_xdp(&self, uplink: u32) -> PathBuf {
        self.links().join(format!("uplink{uplink}_xdp"))
    }

    /// The pin of an uplink's TCX link.
    pub fn uplink_egress(&self, uplink: u32) -> PathBuf {
        self.links().join(format!("uplink{uplink}_egress"))
    }

    /// Both links of an endpoint.
    pub fn endpoint_links(&self, endpoint: u32) -> [PathBuf; 2] {
        [Direction::Ingress, Direction::Egress]
            .map(|direction| self.endpoint_link(endpoint, direction))
    }

    /// Both links of an uplink.
    pub fn uplink_links(&self, uplink: u32) -> [PathBuf; 2] {
        [self.uplink_xdp(uplink), self.uplink_egress(uplink)]
    }

    pub(super) fn links(&self) -> PathBuf {
        self.folder().join("links")
    }

    /// Where the pins of another layout or size are kept while their contents
    /// go over to new maps.
    pub(super) fn previous(&self) -> PathBuf {
        self.root.join("previous")
    }

    /// What is only left to be removed.
    pub(super) fn discarded(&self) -> PathBuf {
        self.root.join("discarded")
    }

    /// Makes the root, after a look at where it is.
    ///
    /// # Errors
    /// Not on bpffs, or no permission.
    pub fn prepare(&self) -> Result<(), KernelError> {
        let existing = self
            .root
            .ancestors()
            .find(|path| path.exists())
            .unwrap_or(Path::new("/"));
        let kind = statfs(existing).map_err(|error| fail(&self.root, error))?;
        if kind.filesystem_type() != BPF_FS_MAGIC {
            return Err(KernelError::Unsupported(format!(
                "{}: not on a BPF file system; mount one: mount -t bpf bpf /sys/fs/bpf",
                self.root.display()
            )));
        }
        fs::create_dir_all(&self.root).map_err(|error| fail(&self.root, error))
    }

    /// Makes the folders of this layout.
    pub(super) fn make_folders(&self) -> Result<(), KernelError> {
        fs::create_dir_all(self.links()).map_err(|error| fail(&self.links(), error))
    }

    /// The folder of another layout that this version can take over, if there
    /// is one.
    ///
    /// # Errors
    /// One that it cannot, or something that is nobody's.
    pub(super) fn other_layout(&self) -> Result<Option<PathBuf>, KernelError> {
        let known = [self.folder(), self.previous(), self.discarded()];
        let mut found = None;
        for entry in fs::read_dir(&self.root).map_err(|error| fail(&self.root, error))? {
            let path = entry.map_err(|error| fail(&self.root, error))?.path();
            if known.contains(&path) {
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let layout = name
                .strip_prefix('v')
                .and_then(|number| number.parse().ok());
            let what = match layout {
                Some(OLDEST_LAYOUT..LAYOUT) if found.is_none() => {
                    found = Some(path);
                    continue;
                }
                Some(LAYOUT..) => "of a newer version of Sluice",
                Some(_) => "of an older version of Sluice that this one cannot take over",
                None => "not of Sluice",
            };
            return Err(fail(
                &path,
                format!(
                    "{what} (this one's map layout is {LAYOUT}); start the version that made it, \
                     or, if nothing uses it any more, remove it: rm -r {}",
                    path.display()
                ),
            ));
        }
        Ok(found)
    }

    /// Names in this layout's folder that are no maps of ours.
    pub fn foreign(&self, known: &[&str]) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.folder()) else {
            return Vec::new();
        };
        entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str());
                *path != self.links() && !name.is_some_and(|name| known.contains(&name))
            })
            .collect()
    }

    /// Pins of links that `wanted` does not claim.
    pub fn stray_links(&self, wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.links()) else {
            return Vec::new();
        };
        entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| !wanted(path))
            .collect()
    }
}

fn fail(path: &Path, cause: impl ToString) -> KernelError {
    KernelError::Pin {
        path: path.to_owned(),
        cause: cause.to_string(),
    }
}

/// Removes a pin; one that is not there is as good.
pub(super) fn remove(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail(path, error)),
        _ => Ok(()),
    }
}
