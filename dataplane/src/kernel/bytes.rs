//! A pinned map as bytes, whatever its types: for what is done to all alike.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    path::Path,
};

use aya::{
    maps::{MapData, MapInfo, MapType},
    util::nr_cpus,
};
use nix::libc::{EEXIST, ENOENT};

use super::{
    batch::is_unknown,
    error::{KernelError, refused},
    sys::{self, Batch},
};

/// An open map.
pub(super) struct ByteMap {
    map: MapData,
    kind: MapType,
    key: usize,
    /// Bytes of a value as user space sees it: of every processor.
    value: usize,
    pub(super) max_entries: u32,
}

/// What a map holds, in the order of its keys.
pub(super) type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

impl ByteMap {
    /// Opens a pinned map.
    pub(super) fn open(path: &Path) -> Result<Self, KernelError> {
        let what = || format!("opening {}", path.display());
        let map = MapData::from_pin(path).map_err(|error| refused(what(), &error))?;
        let info = MapInfo::from_pin(path).map_err(|error| refused(what(), &error))?;
        let kind = info.map_type().map_err(|error| refused(what(), &error))?;
        let value = match kind {
            MapType::PerCpuArray | MapType::PerCpuHash => {
                let cpus = nr_cpus().map_err(|(_, error)| refused(what(), &error))?;
                info.value_size().next_multiple_of(8) as usize * cpus
            }
            _ => info.value_size() as usize,
        };
        Ok(Self {
            map,
            kind,
            key: info.key_size() as usize,
            value,
            max_entries: info.max_entries(),
        })
    }

    /// Pins it at another place besides.
    pub(super) fn pin(&self, path: &Path) -> Result<(), KernelError> {
        self.map
            .pin(path)
            .map_err(|error| refused(format!("pinning {}", path.display()), &error))
    }

    /// All that it holds; of an array, what is not zero. While programs change
    /// it, what they add may be missing.
    pub(super) fn entries(&self) -> io::Result<Entries> {
        let mut entries = Entries::new();
        let mut key = None;
        let mut next = vec![0; self.key];
        // A table that changes may begin anew again and again.
        for _ in 0..u64::from(self.max_entries) * 2 {
            if !sys::next_key(self.fd(), key.as_deref(), &mut next)? {
                break;
            }
            let mut value = vec![0; self.value];
            match sys::lookup(self.fd(), &next, &mut value) {
                Ok(()) if self.is_unset(&value) => {}
                Ok(()) => drop(entries.insert(next.clone(), value)),
                Err(error) if error.raw_os_error() == Some(ENOENT) => {}
                Err(error) => return Err(error),
            }
            key = Some(next.clone());
        }
        Ok(entries)
    }

    fn is_unset(&self, value: &[u8]) -> bool {
        let array = matches!(self.kind, MapType::Array | MapType::PerCpuArray);
        array && value.iter().all(|byte| *byte == 0)
    }

    /// Writes what another map of the same kind held; `flags` are those of
    /// single updates.
    pub(super) fn set_all(&self, entries: &Entries, flags: u64) -> io::Result<()> {
        if self.kind == MapType::ArrayOfMaps {
            return self.fill_slots(entries);
        }
        for (key, value) in entries {
            match sys::update(self.fd(), key, value, flags) {
                Err(error) if error.raw_os_error() == Some(EEXIST) => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// The slot of an array of maps is told by its map's number and set by its
    /// descriptor. The kernel waits for packets under way after each call, so
    /// all slots are set by one.
    fn fill_slots(&self, entries: &Entries) -> io::Result<()> {
        let mut inner = Vec::with_capacity(entries.len());
        for id in entries.values() {
            let id = <[u8; 4]>::try_from(id.as_slice()).map_err(io::Error::other)?;
            inner.push(sys::map(u32::from_ne_bytes(id))?);
        }
        let keys: Vec<u8> = entries.keys().flatten().copied().collect();
        let fds = inner.iter().map(|map| map.as_raw_fd().to_ne_bytes());
        let values: Vec<u8> = fds.flatten().collect();
        let map = self.fd();
        match Batch::update(&map, &keys, &values, inner.len() as u32).run() {
            (_, Err(error)) if is_unknown(&error) => {
                entries.keys().zip(&inner).try_for_each(|(key, inner)| {
                    sys::update(map, key, &inner.as_raw_fd().to_ne_bytes(), 0)
                })
            }
            (_, result) => result,
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }
}
