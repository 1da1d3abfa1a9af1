//! Every path under bpffs. One place builds them all.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use dataplane_ebpf::abi::{Direction, LAYOUT};
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

    fn links(&self) -> PathBuf {
        self.folder().join("links")
    }

    /// Makes the folders, after a look at what is there already.
    ///
    /// # Errors
    /// Not on bpffs, pins of another layout, or no permission.
    pub fn prepare(&self) -> Result<(), KernelError> {
        let fail = |cause: String| KernelError::Pin {
            path: self.root.clone(),
            cause,
        };
        let existing = self
            .root
            .ancestors()
            .find(|path| path.exists())
            .unwrap_or(Path::new("/"));
        let kind = statfs(existing).map_err(|error| fail(error.to_string()))?;
        if kind.filesystem_type() != BPF_FS_MAGIC {
            return Err(KernelError::Unsupported(format!(
                "{}: not on a BPF file system; mount one: mount -t bpf bpf /sys/fs/bpf",
                self.root.display()
            )));
        }
        fs::create_dir_all(self.links()).map_err(|error| fail(error.to_string()))?;
        for entry in fs::read_dir(&self.root).map_err(|error| fail(error.to_string()))? {
            let path = entry.map_err(|error| fail(error.to_string()))?.path();
            if path != self.folder() {
                return Err(KernelError::Pin {
                    path: path.clone(),
                    cause: format!(
                        "not of this version of Sluice (map layout {LAYOUT}); \
                         if nothing uses it any more, remove it: rm -r {}",
                        path.display()
                    ),
                });
            }
        }
        Ok(())
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

/// Removes a pin; one that is not there is as good.
pub(super) fn remove(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(KernelError::Pin {
            path: path.to_owned(),
            cause: error.to_string(),
        }),
        _ => Ok(()),
    }
}
