//! PCI functions and auxiliary devices, as sysfs shows them.
//!
//! sysfs shows network interfaces and, in RDMA's exclusive mode, RDMA devices of the namespace it
//! was mounted in only: what a pod has is missing here.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde::{Deserialize, Serialize};

use super::{LinkError, Netns};

/// Network controllers' PCI class, the first byte of `class`.
const CLASS_NETWORK: u8 = 0x02;
/// Drivers that hand a function to user space: there is no netdev to see whether it is in use.
const USER_SPACE_DRIVERS: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];

/// How a device plugin or a configuration names a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DeviceId {
    /// A PCI address like `0000:3b:00.2`.
    Pci(String),
    /// A device of the auxiliary bus like `mlx5_core.sf.4`.
    Auxiliary(String),
}

impl DeviceId {
    /// Reads a device id; `None` for a mere token such as `17`, which names no device.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if is_pci_address(&text) {
            Some(Self::Pci(text))
        } else if is_auxiliary(&text) {
            Some(Self::Auxiliary(text))
        } else {
            None
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(name) | Self::Auxiliary(name) => f.write_str(name),
        }
    }
}

/// `domain:bus:device.function`; the domain has four digits or more.
pub(crate) fn is_pci_address(text: &str) -> bool {
    let hex = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let Some((domain, (bus, (device, function)))) =
        text.split_once(':').and_then(|(domain, rest)| {
            let (bus, rest) = rest.split_once(':')?;
            Some((domain, (bus, rest.split_once('.')?)))
        })
    else {
        return false;
    };
    (4..=8).contains(&domain.len())
        && hex(domain, domain.len())
        && hex(bus, 2)
        && hex(device, 2)
        && matches!(function.as_bytes(), [b'0'..=b'7'])
}

/// `module.kind.number`.
fn is_auxiliary(text: &str) -> bool {
    let word = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    let parts: Vec<_> = text.split('.').collect();
    matches!(parts[..], [module, kind, number]
        if word(module) && word(kind) && number.parse::<u32>().is_ok())
}

/// A PCI function of a network controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciFunction {
    /// Its address, like `0000:3b:00.2`.
    pub address: String,
    /// The vendor's number.
    pub vendor: u16,
    /// The vendor's number for the device.
    pub device: u16,
    /// The kernel driver that is bound to it.
    pub driver: Option<String>,
    /// Its network interfaces in the node's namespace.
    pub netdevs: Vec<String>,
    /// Its RDMA devices, those of its auxiliary devices included.
    pub rdma: Vec<String>,
    /// Its auxiliary devices.
    pub auxiliary: Vec<String>,
    /// What it is for SR-IOV.
    pub sriov: Sriov,
}

/// What a PCI function is for SR-IOV.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sriov {
    /// Neither a PF nor a VF.
    None,
    /// A physical function.
    Pf {
        /// How many VFs it has now.
        num_vfs: u32,
        /// How many it can have.
        total_vfs: u32,
    },
    /// A virtual function.
    Vf {
        /// The PCI address of its PF.
        pf: String,
        /// Its number at the PF, from 0.
        index: u32,
    },
}

impl PciFunction {
    /// Whether a pod or a program in user space has it: it is bound to a driver, but its interface
    /// is not in the node's namespace.
    pub fn in_use(&self) -> bool {
        match &self.driver {
            None => false,
            Some(driver) if USER_SPACE_DRIVERS.contains(&driver.as_str()) => true,
            Some(_) => self.netdevs.is_empty(),
        }
    }

    /// Whether it is bound to a driver that gives it a network interface, in whatever namespace.
    pub fn has_net_driver(&self) -> bool {
        let driver = self.driver.as_deref();
        driver.is_some_and(|driver| !USER_SPACE_DRIVERS.contains(&driver))
    }
}

/// sysfs, by its root: `/sys`, or a copy of a part of it.
#[derive(Debug, Clone)]
pub struct Sysfs {
    root: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self::new("/sys")
    }
}

impl Sysfs {
    /// sysfs below a root.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A path below the root.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Reads a PCI function.
    ///
    /// # Errors
    /// [`LinkError::NoDevice`], [`LinkError::Sysfs`].
    pub fn pci(&self, address: &str) -> Result<PciFunction, LinkError> {
        let missing = || LinkError::NoDevice {
            device: address.to_owned(),
            place: "on the PCI bus",
        };
        if !is_pci_address(address) {
            return Err(missing());
        }
        let folder = self.pci_folder(address);
        if !folder.exists() {
            return Err(missing());
        }
        let auxiliary = children(&folder, is_auxiliary);
        let mut rdma = children(&folder.join("infiniband"), |_| true);
        for device in &auxiliary {
            rdma.extend(children(&folder.join(device).join("infiniband"), |_| true));
        }
        Ok(PciFunction {
            vendor: self.number(&folder.join("vendor"))?,
            device: self.number(&folder.join("device"))?,
            driver: link_target(&folder.join("driver")),
            netdevs: children(&folder.join("net"), |_| true),
            rdma,
            auxiliary,
            sriov: self.sriov(address, &folder)?,
            address: address.to_owned(),
        })
    }

    /// The PCI functions that are network controllers, in the order of their addresses. One that
    /// goes while the bus is read is left out.
    ///
    /// # Errors
    /// [`LinkError::Sysfs`].
    pub fn network_functions(&self) -> Result<Vec<PciFunction>, LinkError> {
        let folder = self.path("bus/pci/devices");
        let mut functions = Vec::new();
        for address in children(&folder, is_pci_address) {
            let class = self.text(&folder.join(&address).join("class"));
            let class = class.ok().and_then(|text| parse_hex(&text));
            if class.is_some_and(|class| class >> 16 == u32::from(CLASS_NETWORK)) {
                functions.extend(self.pci(&address).ok());
            }
        }
        Ok(functions)
    }

    /// The VFs of a PF, in the order of their numbers.
    ///
    /// # Errors
    /// [`LinkError::Sysfs`].
    pub fn vfs(&self, pf: &str) -> Result<Vec<PciFunction>, LinkError> {
        let folder = self.pci_folder(pf);
        let mut vfs: Vec<_> = children(&folder, |name| vf_index(name).is_some())
            .into_iter()
            .filter_map(|link| Some((vf_index(&link)?, link_target(&folder.join(&link))?)))
            .collect();
        vfs.sort_unstable();
        vfs.into_iter()
            .map(|(_, address)| self.pci(&address))
            .collect()
    }

    /// The PCI function that an auxiliary device belongs to.
    ///
    /// # Errors
    /// [`LinkError::NoDevice`].
    pub fn auxiliary_parent(&self, device: &str) -> Result<String, LinkError> {
        let missing = || LinkError::NoDevice {
            device: device.to_owned(),
            place: "on the auxiliary bus",
        };
        let path = self.path("bus/auxiliary/devices").join(device);
        let real = fs::canonicalize(path).map_err(|_| missing())?;
        real.ancestors()
            .filter_map(|folder| folder.file_name()?.to_str())
            .find(|name| is_pci_address(name))
            .map(str::to_owned)
            .ok_or_else(missing)
    }

    /// The network interfaces of a device in the node's namespace.
    ///
    /// # Errors
    /// [`LinkError::NoDevice`], [`LinkError::Sysfs`].
    pub fn netdevs(&self, device: &DeviceId) -> Result<Vec<String>, LinkError> {
        match device {
            DeviceId::Pci(address) => Ok(self.pci(address)?.netdevs),
            DeviceId::Auxiliary(name) => {
                self.auxiliary_parent(name)?;
                Ok(self.auxiliary_children(name, "net"))
            }
        }
    }

    /// The RDMA devices of a device, as far as the node's namespace sees them.
    ///
    /// # Errors
    /// [`LinkError::NoDevice`], [`LinkError::Sysfs`].
    pub fn rdma(&self, device: &DeviceId) -> Result<Vec<String>, LinkError> {
        match device {
            DeviceId::Pci(address) => Ok(self.pci(address)?.rdma),
            DeviceId::Auxiliary(name) => {
                self.auxiliary_parent(name)?;
                Ok(self.auxiliary_children(name, "infiniband"))
            }
        }
    }

    /// Whether the kernel's RDMA core is there. It may have no device that this sysfs shows.
    pub fn has_rdma(&self) -> bool {
        self.path("class/infiniband").is_dir()
    }

    /// What is of a class in an auxiliary device or in those inside of it.
    fn auxiliary_children(&self, device: &str, class: &str) -> Vec<String> {
        let folder = self.path("bus/auxiliary/devices").join(device);
        let mut found = children(&folder.join(class), |_| true);
        for inner in children(&folder, is_auxiliary) {
            found.extend(children(&folder.join(inner).join(class), |_| true));
        }
        found
    }

    /// Has a PF make this many VFs. From one number to another the kernel only goes through zero.
    /// Takes as long as the driver does: up to seconds.
    ///
    /// # Errors
    /// [`LinkError::Sysfs`] with the driver's answer: EBUSY when a VF is in use by a virtual
    /// machine.
    pub fn set_num_vfs(&self, pf: &str, number: u32) -> Result<(), LinkError> {
        let path = self.pci_folder(pf).join("sriov_numvfs");
        let write = |number: u32| {
            fs::write(&path, number.to_string())
                .map_err(|source| sysfs_error("write", &path, source))
        };
        let now: u32 = self.number(&path)?;
        if now == number {
            return Ok(());
        }
        if now != 0 {
            write(0)?;
        }
        if number != 0 {
            write(number)?;
        }
        Ok(())
    }

    fn pci_folder(&self, address: &str) -> PathBuf {
        self.path("bus/pci/devices").join(address)
    }

    fn sriov(&self, address: &str, folder: &Path) -> Result<Sriov, LinkError> {
        if let Some(pf) = link_target(&folder.join("physfn")) {
            let at_pf = self.pci_folder(&pf);
            let index = children(&at_pf, |name| vf_index(name).is_some())
                .into_iter()
                .find(|link| link_target(&at_pf.join(link)).as_deref() == Some(address))
                .and_then(|link| vf_index(&link));
            let Some(index) = index else {
                return Err(LinkError::NoDevice {
                    device: address.to_owned(),
                    place: "among its PF's VFs",
                });
            };
            return Ok(Sriov::Vf { pf, index });
        }
        let total = folder.join("sriov_totalvfs");
        if !total.exists() {
            return Ok(Sriov::None);
        }
        Ok(Sriov::Pf {
            num_vfs: self.number(&folder.join("sriov_numvfs"))?,
            total_vfs: self.number(&total)?,
        })
    }

    /// A file's text without its line end.
    ///
    /// # Errors
    /// [`LinkError::Sysfs`].
    pub fn text(&self, path: &Path) -> Result<String, LinkError> {
        fs::read_to_string(path)
            .map(|text| text.trim_end().to_owned())
            .map_err(|source| sysfs_error("read", path, source))
    }

    fn number<T: TryFrom<u32>>(&self, path: &Path) -> Result<T, LinkError> {
        let text = self.text(path)?;
        let number = if text.starts_with("0x") {
            parse_hex(&text)
        } else {
            text.parse().ok()
        };
        number
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| {
                let source = io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{text:?} is not a number that fits"),
                );
                sysfs_error("read", path, source)
            })
    }
}

/// Runs `f` with the sysfs that a namespace sees: its own network and RDMA devices. It is mounted
/// for the thread of `f` alone, and gone afterwards.
///
/// # Errors
/// [`LinkError::Namespace`] when it cannot be entered or sysfs not be mounted.
pub fn with_sysfs_of<T: Send>(
    netns: &Netns,
    f: impl FnOnce(&Sysfs) -> T + Send,
) -> Result<T, LinkError> {
    let mounted = netns.run(|| {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let nothing = None::<&str>;
        // What is mounted from here on stays in this thread's mount namespace.
        mount(
            nothing,
            "/",
            nothing,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            nothing,
        )?;
        mount(
            Some("sysfs"),
            "/sys",
            Some("sysfs"),
            MsFlags::MS_RDONLY,
            nothing,
        )?;
        Ok(f(&Sysfs::default()))
    })?;
    mounted.map_err(|errno: Errno| LinkError::Namespace {
        action: "mount the sysfs of",
        netns: netns.to_string(),
        source: errno.into(),
    })
}

fn sysfs_error(action: &'static str, path: &Path, source: io::Error) -> LinkError {
    LinkError::Sysfs {
        action,
        path: path.to_owned(),
        source,
    }
}

fn parse_hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

fn vf_index(link: &str) -> Option<u32> {
    link.strip_prefix("virtfn")?.parse().ok()
}

/// The names in a folder that pass, sorted; none when there is no such folder.
pub(crate) fn children(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| wanted(name))
        .collect();
    names.sort_unstable();
    names
}

/// The last part of where a sysfs link points, if there is one.
pub(crate) fn link_target(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
pub(crate) mod fixture {
    //! A sysfs as the kernel lays it out, made by hand: a PF of a Mellanox NIC with two VFs, one of
    //! them in a pod, a subfunction, and a NIC without SR-IOV.

    use std::{fs, os::unix::fs::symlink};

    use tempfile::TempDir;

    pub(crate) const PF: &str = "0000:3b:00.0";
    pub(crate) const VF0: &str = "0000:3b:00.2";
    pub(crate) const VF1: &str = "0000:3b:00.3";
    pub(crate) const PLAIN: &str = "0000:5e:00.0";
    pub(crate) const SUBFUNCTION: &str = "mlx5_core.sf.4";

    pub(crate) fn sysfs() -> TempDir {
        let root = tempfile::tempdir().unwrap();
        let path = |relative: String| root.path().join(relative);
        for folder in [
            "bus/pci/devices",
            "bus/auxiliary/devices",
            "class/infiniband",
        ] {
            fs::create_dir_all(path(folder.to_owned())).unwrap();
        }
        for (address, class, device, driver) in [
            (PF, "0x020000", "0x1017", Some("mlx5_core")),
            (VF0, "0x020000", "0x1018", Some("mlx5_core")),
            (VF1, "0x020000", "0x1018", Some("mlx5_core")),
            (PLAIN, "0x020000", "0x10fb", None),
            ("0000:00:1f.0", "0x060100", "0xa1c1", None),
        ] {
            let folder = format!("devices/pci0000:3a/{address}");
            fs::create_dir_all(path(folder.clone())).unwrap();
            symlink(
                format!("../../../{folder}"),
                path(format!("bus/pci/devices/{address}")),
            )
            .unwrap();
            for (file, text) in [("class", class), ("vendor", "0x15b3"), ("device", device)] {
                fs::write(path(format!("{folder}/{file}")), format!("{text}\n")).unwrap();
            }
            if let Some(driver) = driver {
                symlink(
                    format!("../../../bus/pci/drivers/{driver}"),
                    path(format!("{folder}/driver")),
                )
                .unwrap();
            }
        }
        let device =
            |address: &str, rest: &str| path(format!("devices/pci0000:3a/{address}/{rest}"));
        fs::write(device(PF, "sriov_totalvfs"), "8\n").unwrap();
        fs::write(device(PF, "sriov_numvfs"), "2\n").unwrap();
        for (index, vf) in [(0, VF0), (1, VF1)] {
            symlink(format!("../{vf}"), device(PF, &format!("virtfn{index}"))).unwrap();
            symlink(format!("../{PF}"), device(vf, "physfn")).unwrap();
        }
        for (address, folder) in [
            (PF, "net/ens1f0"),
            (VF0, "net/ens1f0v0"),
            (PLAIN, "net/eth0"),
            (PF, "infiniband/mlx5_0"),
            (VF0, "infiniband/mlx5_1"),
            (PF, "mlx5_core.sf.4/mlx5_core.eth.4/net/ens1f0s4"),
            (PF, "mlx5_core.sf.4/infiniband/mlx5_4"),
        ] {
            fs::create_dir_all(device(address, folder)).unwrap();
        }
        symlink(
            format!("../../../devices/pci0000:3a/{PF}/{SUBFUNCTION}"),
            path(format!("bus/auxiliary/devices/{SUBFUNCTION}")),
        )
        .unwrap();
        root
    }
}

#[cfg(test)]
mod tests {
    use super::{
        fixture::{PF, PLAIN, SUBFUNCTION, VF0, VF1},
        *,
    };

    #[test]
    fn device_ids_and_what_is_none() {
        for text in ["0000:3b:00.2", "10000:e1:00.0", " 0000:3B:00.7 "] {
            assert!(
                matches!(DeviceId::parse(text), Some(DeviceId::Pci(_))),
                "{text:?}"
            );
        }
        assert_eq!(
            DeviceId::parse("mlx5_core.sf.4"),
            Some(DeviceId::Auxiliary("mlx5_core.sf.4".into()))
        );
        for text in [
            "",
            "17",
            "0000:3b:00",
            "0000:3b:00.8",
            "3b:00.2",
            "000g:3b:00.2",
            "a.b",
            "..0",
            "../x.y.1",
            "mlx5_core.sf.x",
            "0000:3b:00.2/..",
        ] {
            assert_eq!(DeviceId::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_pf_its_vfs_and_a_plain_nic_in_a_handmade_sysfs() {
        let root = fixture::sysfs();
        let sysfs = Sysfs::new(root.path());
        let pf = sysfs.pci(PF).unwrap();
        assert_eq!(
            pf,
            PciFunction {
                address: PF.into(),
                vendor: 0x15b3,
                device: 0x1017,
                driver: Some("mlx5_core".into()),
                netdevs: vec!["ens1f0".into()],
                rdma: vec!["mlx5_0".into(), "mlx5_4".into()],
                auxiliary: vec![SUBFUNCTION.into()],
                sriov: Sriov::Pf {
                    num_vfs: 2,
                    total_vfs: 8
                },
            }
        );
        let vf = sysfs.pci(VF1).unwrap();
        assert_eq!(
            vf.sriov,
            Sriov::Vf {
                pf: PF.into(),
                index: 1
            }
        );
        assert!(vf.in_use() && !sysfs.pci(VF0).unwrap().in_use());
        assert_eq!(sysfs.pci(PLAIN).unwrap().sriov, Sriov::None);
        let addresses = |functions: Vec<PciFunction>| {
            let addresses = functions.into_iter().map(|function| function.address);
            addresses.collect::<Vec<_>>()
        };
        assert_eq!(addresses(sysfs.vfs(PF).unwrap()), [VF0, VF1]);
        assert_eq!(
            addresses(sysfs.network_functions().unwrap()),
            [PF, VF0, VF1, PLAIN]
        );
    }

    #[test]
    fn a_subfunction_in_a_handmade_sysfs() {
        let root = fixture::sysfs();
        let sysfs = Sysfs::new(root.path());
        assert_eq!(sysfs.auxiliary_parent(SUBFUNCTION).unwrap(), PF);
        let id = DeviceId::parse(SUBFUNCTION).unwrap();
        assert_eq!(sysfs.netdevs(&id).unwrap(), ["ens1f0s4"]);
    }

    /// The RDMA devices of a subfunction, apart from those of its PF.
    #[test]
    fn rdma_devices_in_a_handmade_sysfs() {
        let root = fixture::sysfs();
        let sysfs = Sysfs::new(root.path());
        let of = |id: &str| sysfs.rdma(&DeviceId::parse(id).unwrap());
        assert_eq!(of(SUBFUNCTION).unwrap(), ["mlx5_4"]);
        assert_eq!(of(VF0).unwrap(), ["mlx5_1"]);
        assert!(of("mlx5_core.sf.5").is_err());
    }

    #[test]
    fn the_number_of_vfs_in_a_handmade_sysfs() {
        let root = fixture::sysfs();
        let sysfs = Sysfs::new(root.path());
        sysfs.set_num_vfs(PF, 4).unwrap();
        let file = root
            .path()
            .join(format!("bus/pci/devices/{PF}/sriov_numvfs"));
        assert_eq!(fs::read_to_string(file).unwrap(), "4");
        assert!(sysfs.set_num_vfs(PLAIN, 1).is_err());
    }

    #[test]
    fn what_is_not_there_is_named() {
        let root = fixture::sysfs();
        let sysfs = Sysfs::new(root.path());
        for address in ["0000:00:00.0", "../../etc", "17"] {
            let error = sysfs.pci(address).unwrap_err();
            assert!(matches!(error, LinkError::NoDevice { .. }), "{error}");
        }
    }
}
