//! The GID table of a port: the addresses by which RoCE is spoken from it.
//!
//! Source: `Documentation/ABI/stable/sysfs-class-infiniband`; RDMA netlink does not have it.

use std::{
    fs, io,
    net::{IpAddr, Ipv6Addr},
    path::Path,
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
    /// Reads the table of a port.
    ///
    /// # Errors
    /// [`RdmaError::Sysfs`] when the device is not in this sysfs, or an entry makes no sense.
    pub fn read(sysfs: &Sysfs, device: &str, port: u32) -> Result<Self, RdmaError> {
        let folder = sysfs.path(&format!("class/infiniband/{device}/ports/{port}"));
        let mut table = Self::default();
        let gids = folder.join("gids");
        let failed = |path: &Path, source| RdmaError::Sysfs {
            path: path.to_owned(),
            source,
        };
        for file in fs::read_dir(&gids).map_err(|error| failed(&gids, error))? {
            let file = file.map_err(|error| failed(&gids, error))?;
            let Some(index) = file.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            table.capacity += 1;
            let path = file.path();
            let gid = optional(&path)?
                .map(|text| {
                    text.parse::<Ipv6Addr>()
                        .map_err(|error| failed(&path, invalid(error)))
                })
                .transpose()?;
            if let Some(gid) = gid.filter(|gid| !gid.is_unspecified()) {
                table.entries.extend(entry(&folder, index, gid)?);
            }
        }
        table.entries.sort_by_key(|gid| gid.index);
        Ok(table)
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

/// An entry's attributes; `None` when it was emptied meanwhile.
fn entry(folder: &Path, index: u32, gid: Ipv6Addr) -> Result<Option<Gid>, RdmaError> {
    let attributes = folder.join("gid_attrs");
    let path = attributes.join(format!("types/{index}"));
    let kind = match optional(&path)?.as_deref() {
        None => return Ok(None),
        Some("RoCE v2") => GidType::RoceV2,
        Some("IB/RoCE v1") => GidType::RoceV1,
        Some(other) => {
            let source = invalid(format!("{other:?} is no known type of GID"));
            return Err(RdmaError::Sysfs { path, source });
        }
    };
    // InfiniBand has none.
    let netdev = optional(&attributes.join(format!("ndevs/{index}")))?;
    Ok(Some(Gid {
        index,
        gid,
        kind,
        netdev,
    }))
}

/// The text of a file. The kernel answers EINVAL for the attributes of an entry that is empty.
fn optional(path: &Path) -> Result<Option<String>, RdmaError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::EINVAL) =>
        {
            Ok(None)
        }
        Err(source) => Err(RdmaError::Sysfs {
            path: path.to_owned(),
            source,
        }),
    }
}

fn invalid(reason: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

#[cfg(test)]
mod tests {
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
        GidTable::read(&Sysfs::new(root.path()), "mlx5_0", 1).unwrap()
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
        let error = GidTable::read(&Sysfs::new(root.path()), "mlx5_9", 1).unwrap_err();
        assert!(error.to_string().contains("mlx5_9"), "{error}");
    }
}
