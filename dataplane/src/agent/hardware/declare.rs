//! What the configuration wants of the node's NICs, applied at start.

use serde::Deserialize;

use super::super::{Agent, Error, Result};
use crate::{
    api::{hardware::VfsRequest, types::UplinkRequest},
    link::{PciFunction, Sriov, Sysfs},
    rdma::NetnsMode,
};

/// NICs of the node, chosen by what they are, and what they are to be. Of the criteria each that is
/// given must hold; VFs are never chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nic {
    /// Vendor, four hexadecimal digits.
    pub vendor: Option<String>,
    /// Device, four hexadecimal digits.
    pub device: Option<String>,
    /// Kernel driver.
    pub driver: Option<String>,
    /// Interface.
    pub name: Option<String>,
    /// PCI address.
    pub pci: Option<String>,
    /// How many VFs they are to have.
    pub num_vfs: Option<u32>,
    /// Whether they are to be uplinks, and with host reach.
    pub uplink: Option<bool>,
}

impl Nic {
    /// Refuses what cannot be meant; the text says why.
    ///
    /// # Errors
    /// The text.
    pub fn check(&self) -> std::result::Result<(), String> {
        let criteria = [
            &self.vendor,
            &self.device,
            &self.driver,
            &self.name,
            &self.pci,
        ];
        if criteria.iter().all(|criterion| criterion.is_none()) {
            return Err(
                "an entry of nics chooses none; give vendor, device, driver, name or pci".into(),
            );
        }
        if self.num_vfs.is_none() && self.uplink.is_none() {
            return Err("an entry of nics wants nothing; give num_vfs or uplink".into());
        }
        for (key, value) in [("vendor", &self.vendor), ("device", &self.device)] {
            if let Some(value) = value
                && (value.len() != 4 || u16::from_str_radix(value, 16).is_err())
            {
                return Err(format!(
                    "{key} {value:?} of nics is not four hexadecimal digits such as \"15b3\""
                ));
            }
        }
        Ok(())
    }

    fn chooses(&self, function: &PciFunction) -> bool {
        let is = |wanted: &Option<String>, holds: &dyn Fn(&str) -> bool| {
            wanted.as_deref().is_none_or(holds)
        };
        let number = |wanted: &Option<String>, number: u16| {
            is(wanted, &|text| u16::from_str_radix(text, 16) == Ok(number))
        };
        !matches!(function.sriov, Sriov::Vf { .. })
            && number(&self.vendor, function.vendor)
            && number(&self.device, function.device)
            && is(&self.driver, &|driver| {
                function.driver.as_deref() == Some(driver)
            })
            && is(&self.name, &|name| {
                function.netdevs.iter().any(|netdev| netdev == name)
            })
            && is(&self.pci, &|pci| function.address == pci)
    }
}

impl Agent {
    /// Makes the node what the configuration wants, as far as it goes. What does not go is a
    /// problem that `sluice status` lists, and stops nothing.
    pub fn declare_hardware(&self, mode: Option<NetnsMode>, nics: &[Nic]) {
        if let Some(mode) = mode
            && let Err(error) = self.set_rdma_mode(mode)
        {
            self.problem(format!("rdma_mode: {error}"));
        }
        for nic in nics {
            let chosen = match Sysfs::default().network_functions() {
                Ok(functions) => functions.into_iter().filter(|f| nic.chooses(f)).collect(),
                Err(error) => {
                    self.problem(format!("nics: {error}"));
                    Vec::new()
                }
            };
            if chosen.is_empty() {
                self.problem(format!("nics: no NIC of this node is {nic:?}"));
            }
            for function in chosen {
                if let Err(error) = self.declare_nic(nic, &function) {
                    self.problem(format!("nics: {}: {error}", function.address));
                }
            }
        }
    }

    fn declare_nic(&self, nic: &Nic, function: &PciFunction) -> Result<()> {
        if let Some(num_vfs) = nic.num_vfs {
            self.set_vfs(&VfsRequest {
                pf: function.address.clone(),
                num_vfs,
            })?;
        }
        if let Some(host_reach) = nic.uplink {
            let interface = function.netdevs.first().cloned().ok_or_else(|| {
                Error::NotFound("it has no interface here, so it cannot be an uplink".into())
            })?;
            self.add_uplink(&UplinkRequest {
                interface,
                host_reach,
            })?;
        }
        Ok(())
    }

    fn problem(&self, problem: String) {
        tracing::error!("{problem}");
        self.state_mut().problems.push(problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pf() -> PciFunction {
        PciFunction {
            address: "0000:3b:00.0".into(),
            vendor: 0x15b3,
            device: 0x1017,
            driver: Some("mlx5_core".into()),
            netdevs: vec!["ens1f0".into()],
            rdma: Vec::new(),
            auxiliary: Vec::new(),
            sriov: Sriov::Pf {
                num_vfs: 0,
                total_vfs: 8,
            },
        }
    }

    fn nic(text: &str) -> Nic {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn every_criterion_must_hold() {
        for text in [
            "vendor = \"15b3\"",
            "vendor = \"15B3\"\ndevice = \"1017\"",
            "driver = \"mlx5_core\"\nname = \"ens1f0\"\npci = \"0000:3b:00.0\"",
        ] {
            assert!(nic(text).chooses(&pf()), "{text}");
        }
        for text in [
            "vendor = \"8086\"",
            "vendor = \"15b3\"\ndevice = \"1018\"",
            "driver = \"ice\"",
            "name = \"ens1f1\"",
            "pci = \"0000:3b:00.1\"",
        ] {
            assert!(!nic(text).chooses(&pf()), "{text}");
        }
        let vf = PciFunction {
            sriov: Sriov::Vf {
                pf: pf().address,
                index: 0,
            },
            ..pf()
        };
        assert!(!nic("vendor = \"15b3\"").chooses(&vf));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, words) in [
            ("num_vfs = 4", "chooses none"),
            ("vendor = \"15b3\"", "wants nothing"),
            ("vendor = \"0x15b3\"\nnum_vfs = 4", "four hexadecimal"),
            ("device = \"10zz\"\nnum_vfs = 4", "four hexadecimal"),
        ] {
            let error = nic(text).check().unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert!(nic("pci = \"0000:3b:00.0\"\nuplink = true").check().is_ok());
    }
}
