//! The GID table of a port: the addresses by which RoCE is spoken from it.
//!
//! Source: `Documentation/ABI/stable/sysfs-class-infiniband`; RDMA netlink does not have it.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::Mode,
    unistd,
};
use serde::{Deserialize, Serialize};

use super::RdmaError;
use crate::link::Sysfs;

/// What a GID is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GidType {
    /// InfiniBand, or RoCE v1 on Ethernet: frames of their own type, not routed.
    #[serde(rename = "IB/RoCE v1")]
    RoceV1,
    /// RoCE v2: UDP.
    #[serde(rename = "RoCE v2")]
    RoceV2,
}

/// An entry of a GID table that is in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gid {
    /// Its place in the table: what `NCCL_IB_GID_INDEX` and `perftest -x` want.
    pub index: u32,
    /// The GID, written as an IPv6 address; an IPv4 address is mapped into it.
    pub gid: Ipv6Addr,
    /// What it is for.
    #[serde(rename = "type")]
    pub kind: GidType,
    /// The network interface whose address it is, by the name it has in its own namespace.
    pub netdev: Option<String>,
}

impl Gid {
    /// The IP address that it stands for.
    pub fn address(&self) -> IpAddr {
        self.gid.to_canonical()
    }
}

/// The GID table of a port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GidTable {
    /// Entries that it has room for.
    pub capacity: u32,
    /// Those in use, by index.
    pub entries: Vec<Gid>,
}

impl GidTable {
    /// Reads the table of a port. Of an entry that has the GID that it had `before`, type and
    /// interface are taken from there: two thirds of the work are theirs, and they seldom change
    /// without the GID.
    ///
    /// # Errors
    /// [`RdmaError::Sysfs`] when the device is not in this sysfs, or an entry makes no sense.
    pub fn read(
        sysfs: &Sysfs,
        device: &str,
        port: u32,
        before: Option<&Self>,
    ) -> Result<Self, RdmaError> {
        let port = sysfs.path(&format!("class/infiniband/{device}/ports/{port}"));
        let mut table = Self::default();
        let gids = Folder::open(port.join("gids"))?;
        // Only there when an entry is in use.
        let mut attributes = None;
        let mut buffer = Buffer::default();
        for index in 0.. {
            let text = match gids.text(index, &mut buffer) {
                Ok(text) => text,
                Err(Errno::ENOENT) => break,
                Err(error) => return Err(gids.failed(index, error.into())),
            };
            table.capacity += 1;
            let gid: Ipv6Addr = text
                .parse()
                .map_err(|error| gids.failed(index, invalid(error)))?;
            if gid.is_unspecified() {
                continue;
            }
            if let Some(same) = before.and_then(|before| before.at(index, gid)) {
                table.entries.push(same.clone());
                continue;
            }
            let (kinds, netdevs) = match &attributes {
                Some(attributes) => attributes,
                None => attributes.insert((
                    Folder::open(port.join("gid_attrs/types"))?,
                    Folder::open(port.join("gid_attrs/ndevs"))?,
                )),
            };
            table.entries.extend(entry(kinds, netdevs, index, gid)?);
        }
        Ok(table)
    }

    fn at(&self, index: u32, gid: Ipv6Addr) -> Option<&Gid> {
        let place = self
            .entries
            .binary_search_by_key(&index, |entry| entry.index);
        Some(&self.entries[place.ok()?]).filter(|entry| entry.gid == gid)
    }

    /// The entry to use for an interface with these addresses: RoCE v2, for IPv4 rather than IPv6,
    /// for an address that is routed rather than one of the link.
    pub fn best(&self, addresses: &[IpAddr]) -> Option<&Gid> {
        let rank = |address: IpAddr| match address {
            IpAddr::V4(_) => 0,
            IpAddr::V6(address) if !address.is_unicast_link_local() => 1,
            IpAddr::V6(_) => 2,
        };
        self.entries
            .iter()
            .filter(|gid| gid.kind == GidType::RoceV2 && addresses.contains(&gid.address()))
            .min_by_key(|gid| (rank(gid.address()), gid.index))
    }

    /// The part of the table that is in use, from 0 to 1.
    pub fn fill(&self) -> f64 {
        if self.capacity == 0 {
            return 0.0;
        }
        self.entries.len() as f64 / f64::from(self.capacity)
    }
}

/// An entry with its attributes; `None` when it was emptied meanwhile.
fn entry(
    kinds: &Folder,
    netdevs: &Folder,
    index: u32,
    gid: Ipv6Addr,
) -> Result<Option<Gid>, RdmaError> {
    let mut buffer = Buffer::default();
    let kind = match kinds.attribute(index, &mut buffer)? {
        None => return Ok(None),
        Some("RoCE v2") => GidType::RoceV2,
        Some("IB/RoCE v1") => GidType::RoceV1,
        Some(other) => {
            let source = invalid(format!("{other:?} is no known type of GID"));
            return Err(kinds.failed(index, source));
        }
    };
    // InfiniBand has none.
    let netdev = netdevs.attribute(index, &mut buffer)?;
    Ok(Some(Gid {
        index,
        gid,
        kind,
        netdev: netdev.map(str::to_owned),
    }))
}

/// Room for the text of a file: longer than a GID, a type and an interface's name.
struct Buffer([u8; 128]);

impl Default for Buffer {
    fn default() -> Self {
        Self([0; 128])
    }
}

/// A folder of files whose names are numbers from 0 on. A node may have thousands of GIDs, so each
/// is read by as few system calls as can be.
struct Folder {
    path: PathBuf,
    file: File,
}

impl Folder {
    fn open(path: PathBuf) -> Result<Self, RdmaError> {
        match File::open(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(RdmaError::Sysfs { path, source }),
        }
    }

    fn failed(&self, number: u32, source: io::Error) -> RdmaError {
        RdmaError::Sysfs {
            path: self.path.join(number.to_string()),
            source,
        }
    }

    /// The text of a file, which sysfs gives by one read.
    fn text<'a>(&self, number: u32, buffer: &'a mut Buffer) -> Result<&'a str, Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let name = number.to_string();
        let file = openat(&self.file, name.as_str(), flags, Mode::empty())?;
        let length = unistd::read(file, &mut buffer.0)?;
        let text = std::str::from_utf8(&buffer.0[..length]).map_err(|_| Errno::EILSEQ)?;
        Ok(text.trim_end())
    }

    /// The same of an entry's attribute, for which the kernel answers EINVAL when the entry is empty.
    fn attribute<'a>(
        &self,
        number: u32,
        buffer: &'a mut Buffer,
    ) -> Result<Option<&'a str>, RdmaError> {
        match self.text(number, buffer) {
            Ok(text) => Ok(Some(text)),
            Err(Errno::ENOENT | Errno::EINVAL) => Ok(None),
            Err(error) => Err(self.failed(number, error.into())),
        }
    }
}

fn invalid(reason: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// The table of a port with two addresses of a NIC and those of a macvlan child, as one sees it
    /// on a ConnectX.
    fn sysfs() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let port = root.path().join("class/infiniband/mlx5_0/ports/1");
        for folder in ["gids", "gid_attrs/types", "gid_attrs/ndevs"] {
            fs::create_dir_all(port.join(folder)).unwrap();
        }
        let empty = "0000:0000:0000:0000:0000:0000:0000:0000";
        for index in 0..16 {
            fs::write(port.join(format!("gids/{index}")), format!("{empty}\n")).unwrap();
        }
        for (index, gid, kind, netdev) in [
            (
                0,
                "fe80:0000:0000:0000:0e42:a1ff:fe03:0065",
                "IB/RoCE v1",
                "ens1f0",
            ),
            (
                1,
                "fe80:0000:0000:0000:0e42:a1ff:fe03:0065",
                "RoCE v2",
                "ens1f0",
            ),
            (
                2,
                "0000:0000:0000:0000:0000:ffff:0a00:0001",
                "IB/RoCE v1",
                "ens1f0",
            ),
            (
                3,
                "0000:0000:0000:0000:0000:ffff:0a00:0001",
                "RoCE v2",
                "ens1f0",
            ),
            (
                4,
                "fe80:0000:0000:0000:0000:00ff:fe00:0007",
                "IB/RoCE v1",
                "net1",
            ),
            (
                5,
                "fe80:0000:0000:0000:0000:00ff:fe00:0007",
                "RoCE v2",
                "net1",
            ),
            (
                6,
                "2001:0db8:0000:0000:0000:0000:0000:0007",
                "RoCE v2",
                "net1",
            ),
            (
                12,
                "0000:0000:0000:0000:0000:ffff:0a00:0007",
                "RoCE v2",
                "net1",
            ),
        ] {
            fs::write(port.join(format!("gids/{index}")), format!("{gid}\n")).unwrap();
            let attributes = port.join("gid_attrs");
            fs::write(
                attributes.join(format!("types/{index}")),
                format!("{kind}\n"),
            )
            .unwrap();
            fs::write(
                attributes.join(format!("ndevs/{index}")),
                format!("{netdev}\n"),
            )
            .unwrap();
        }
        root
    }

    fn table() -> GidTable {
        let root = sysfs();
        read(root.path(), None)
    }

    fn read(root: &Path, before: Option<&GidTable>) -> GidTable {
        GidTable::read(&Sysfs::new(root), "mlx5_0", 1, before).unwrap()
    }

    #[test]
    fn a_table_in_a_handmade_sysfs() {
        let table = table();
        assert_eq!((table.capacity, table.entries.len()), (16, 8));
        assert!((table.fill() - 0.5).abs() < f64::EPSILON);
        let last = table.entries.last().unwrap();
        assert_eq!((last.index, last.kind), (12, GidType::RoceV2));
        assert_eq!(last.address().to_string(), "10.0.0.7");
        assert_eq!(last.netdev.as_deref(), Some("net1"));
    }

    #[test]
    fn of_a_gid_that_stays_nothing_else_is_read() {
        let root = sysfs();
        let write = |file: &str, text: &str| {
            let port = root.path().join("class/infiniband/mlx5_0/ports/1");
            fs::write(port.join(file), format!("{text}\n")).unwrap();
        };
        let before = read(root.path(), None);
        for index in [4, 5] {
            write(&format!("gid_attrs/ndevs/{index}"), "eth9");
        }
        write("gids/5", "fe80:0000:0000:0000:0000:00ff:fe00:0009");
        write("gids/6", "0000:0000:0000:0000:0000:0000:0000:0000");
        let netdev = |table: &GidTable, index: u32| {
            let entry = table.entries.iter().find(|entry| entry.index == index);
            entry.map(|entry| entry.netdev.clone().unwrap())
        };
        let after = read(root.path(), Some(&before));
        assert_eq!((after.capacity, after.entries.len()), (16, 7));
        assert_eq!(netdev(&after, 4).as_deref(), Some("net1"));
        assert_eq!(netdev(&after, 5).as_deref(), Some("eth9"));
        assert_eq!(netdev(&after, 6), None);
        let anew = read(root.path(), None);
        assert_eq!(netdev(&anew, 4).as_deref(), Some("eth9"));
    }

    #[test]
    fn the_entry_to_use() {
        let table = table();
        let best = |addresses: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|text| text.parse().unwrap()).collect();
            table.best(&addresses).map(|gid| gid.index)
        };
        assert_eq!(
            best(&["fe80::ff:fe00:7", "2001:db8::7", "10.0.0.7"]),
            Some(12)
        );
        assert_eq!(best(&["fe80::ff:fe00:7", "2001:db8::7"]), Some(6));
        assert_eq!(best(&["fe80::ff:fe00:7"]), Some(5));
        assert_eq!(best(&["10.0.0.8"]), None);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let root = sysfs();
        let error = GidTable::read(&Sysfs::new(root.path()), "mlx5_9", 1, None).unwrap_err();
        assert!(error.to_string().contains("mlx5_9"), "{error}");
    }
}
