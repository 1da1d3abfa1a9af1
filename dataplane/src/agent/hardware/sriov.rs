//! Virtual functions: what there is, and how many there are to be.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::super::{Agent, Error, Result};
use crate::{
    api::hardware::{Pf, Vf, VfsRequest},
    link::{Netlink, PciFunction, Sriov, Sysfs},
};

/// How long a PF may take to have a carrier, and its new VFs to have interfaces.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

impl Agent {
    /// The PFs of the node and their VFs.
    ///
    /// # Errors
    /// [`Error::Internal`] when sysfs makes no sense.
    pub fn sriov(&self) -> Result<Vec<Pf>> {
        let sysfs = Sysfs::default();
        let mut netlink = Netlink::open(&self.home)?;
        sysfs
            .network_functions()?
            .iter()
            .filter(|function| matches!(function.sriov, Sriov::Pf { .. }))
            .map(|pf| self.describe_pf(&sysfs, &mut netlink, pf))
            .collect()
    }

    /// Has a PF make this many VFs, and returns when they have their interfaces. Nothing is done
    /// when it has them already.
    ///
    /// The PF is set up first, and given some time to have a carrier: VFs that some NICs make
    /// before it never have one.
    ///
    /// # Errors
    /// [`Error::Conflict`] while any VF is in use: the kernel can change the number only by ending
    /// them all. [`Error::NotFound`], [`Error::Unsupported`] for a NIC without SR-IOV,
    /// [`Error::Invalid`] for more than it can have.
    pub fn set_vfs(&self, request: &VfsRequest) -> Result<Pf> {
        let sysfs = Sysfs::default();
        let mut netlink = Netlink::open(&self.home)?;
        let pf = find_pf(&sysfs, &request.pf)?;
        let Sriov::Pf { num_vfs, total_vfs } = pf.sriov else {
            return Err(Error::Unsupported(format!(
                "{} has no SR-IOV, or its firmware or kernel has it switched off; \
                 `sluice sriov show` lists the NICs that have it",
                request.pf
            )));
        };
        if request.num_vfs > total_vfs {
            return Err(Error::Invalid(format!(
                "{} can have {total_vfs} VFs at most, not {}; ask for fewer, or raise the limit in \
                 its firmware",
                request.pf, request.num_vfs
            )));
        }
        if request.num_vfs != num_vfs {
            let before = self.describe_pf(&sysfs, &mut netlink, &pf)?;
            refuse_in_use(&request.pf, &before)?;
            let interface = raise(&mut netlink, &pf)?;
            sysfs.set_num_vfs(&pf.address, request.num_vfs)?;
            wait_for_interfaces(&sysfs, &pf.address, request.num_vfs)?;
            // Some NICs start anew with it.
            if let Some(index) = interface {
                wait_for_carrier(&mut netlink, index)?;
            }
        }
        let pf = sysfs.pci(&pf.address)?;
        self.describe_pf(&sysfs, &mut netlink, &pf)
    }

    fn describe_pf(&self, sysfs: &Sysfs, netlink: &mut Netlink, pf: &PciFunction) -> Result<Pf> {
        let interface = pf.netdevs.first().cloned();
        let index = match &interface {
            Some(name) => netlink.interface(name).ok().map(|found| found.ifindex),
            None => None,
        };
        let total_vfs = match pf.sriov {
            Sriov::Pf { total_vfs, .. } => total_vfs,
            _ => 0,
        };
        let carrier = index
            .and_then(|index| netlink.details(index).ok())
            .is_some_and(|details| details.carrier);
        let mut vfs = Vec::new();
        for (number, vf) in (0..).zip(sysfs.vfs(&pf.address)?) {
            let state = index.and_then(|index| netlink.vf_state(index, number).ok());
            vfs.push(self.describe_vf(number, vf, state));
        }
        Ok(Pf {
            pci: pf.address.clone(),
            interface,
            vendor: format!("{:04x}", pf.vendor),
            device: format!("{:04x}", pf.device),
            driver: pf.driver.clone(),
            carrier,
            total_vfs,
            vfs,
        })
    }

    fn describe_vf(&self, index: u32, vf: PciFunction, state: Option<crate::link::VfState>) -> Vf {
        let endpoint = {
            let state = self.state();
            let found = state.endpoints.values().find(|endpoint| {
                let device = endpoint.interface.device.as_ref();
                device.is_some_and(|device| device.name == vf.address)
            });
            found.map(|endpoint| (endpoint.record.id, endpoint.record.pod.clone()))
        };
        Vf {
            index,
            in_use: vf.in_use() || endpoint.is_some(),
            pci: vf.address,
            driver: vf.driver,
            interface: vf.netdevs.into_iter().next(),
            rdma: vf.rdma,
            pod: endpoint.as_ref().and_then(|(_, pod)| pod.clone()),
            endpoint: endpoint.map(|(id, _)| id),
            state,
        }
    }
}

fn find_pf(sysfs: &Sysfs, name: &str) -> Result<PciFunction> {
    let functions = sysfs.network_functions()?;
    let found = functions
        .iter()
        .find(|function| function.address == name || function.netdevs.iter().any(|n| n == name));
    found.cloned().ok_or_else(|| {
        let known: Vec<_> = functions
            .iter()
            .filter(|function| matches!(function.sriov, Sriov::Pf { .. }))
            .map(|function| {
                function
                    .netdevs
                    .first()
                    .unwrap_or(&function.address)
                    .as_str()
            })
            .collect();
        let known = match known[..] {
            [] => "this machine has no NIC with SR-IOV".to_owned(),
            _ => format!("NICs with SR-IOV: {}", known.join(", ")),
        };
        Error::NotFound(format!("no PCI network device {name}; {known}"))
    })
}

fn refuse_in_use(name: &str, pf: &Pf) -> Result<()> {
    let used: Vec<_> = pf
        .vfs
        .iter()
        .filter(|vf| vf.in_use)
        .map(|vf| match (&vf.pod, &vf.driver) {
            (Some(pod), _) => format!("{} (pod {pod})", vf.pci),
            (None, Some(driver)) => format!("{} (driver {driver})", vf.pci),
            (None, None) => vf.pci.clone(),
        })
        .collect();
    if used.is_empty() {
        return Ok(());
    }
    Err(Error::Conflict(format!(
        "{name} has {} VFs, and the number cannot change while some are in use: {}; end their \
         users first",
        pf.vfs.len(),
        used.join(", ")
    )))
}

/// Sets a PF up and waits for its carrier; its interface's index, if it has one here.
fn raise(netlink: &mut Netlink, pf: &PciFunction) -> Result<Option<u32>> {
    let Some(name) = pf.netdevs.first() else {
        return Ok(None);
    };
    let index = netlink.interface(name)?.ifindex;
    if !netlink.details(index)?.up {
        netlink.set_up(index, true)?;
    }
    wait_for_carrier(netlink, index)?;
    Ok(Some(index))
}

/// A PF without a cable makes VFs as well.
fn wait_for_carrier(netlink: &mut Netlink, index: u32) -> Result<()> {
    let begin = Instant::now();
    loop {
        let details = netlink.details(index)?;
        if details.carrier {
            return Ok(());
        }
        if begin.elapsed() > PATIENCE {
            let name = details.name;
            tracing::warn!("{name} has no carrier; its VFs will have none either");
            return Ok(());
        }
        thread::sleep(POLL);
    }
}

/// Waits until each VF that a driver has taken has its interface.
fn wait_for_interfaces(sysfs: &Sysfs, pf: &str, number: u32) -> Result<()> {
    let begin = Instant::now();
    loop {
        let vfs = sysfs.vfs(pf)?;
        let ready = vfs.iter().filter(|vf| !vf.netdevs.is_empty()).count();
        if ready == number as usize {
            return Ok(());
        }
        if begin.elapsed() > PATIENCE {
            tracing::warn!(
                "{pf}: {ready} of {number} VFs have an interface; is their driver loaded?"
            );
            return Ok(());
        }
        thread::sleep(POLL);
    }
}
