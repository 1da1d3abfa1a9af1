//! Counters of RDMA ports that can be switched.

use std::collections::BTreeSet;

use super::super::{Agent, Error, Result};
use crate::{
    api::hardware::{CountersRequest, PortOptions},
    link::{Netns, NetnsRef},
    rdma::{OptionalCounter, PlacedDevice, Rdma},
};

impl Agent {
    /// What each RDMA port can count besides, and how it makes counter sets.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when this kernel has no RDMA.
    pub fn rdma_counters(&self) -> Result<Vec<PortOptions>> {
        let node = self.rdma()?;
        let mut ports = Vec::new();
        for placed in &node.devices {
            let Some(mut rdma) = self.rdma_in(placed)? else {
                continue;
            };
            for port in &placed.ports {
                ports.push(options(&mut rdma, placed, port.port.port));
            }
        }
        Ok(ports)
    }

    /// Switches optional counters on or off, at every port that is meant and has them.
    ///
    /// # Errors
    /// [`Error::NotFound`] when no such port has a counter of that name, and what
    /// the kernel refuses.
    pub fn set_rdma_counters(&self, request: &CountersRequest) -> Result<Vec<PortOptions>> {
        let node = self.rdma()?;
        let mut changed = Vec::new();
        let mut known = BTreeSet::new();
        for placed in &node.devices {
            let device = &placed.device;
            if request
                .device
                .as_ref()
                .is_some_and(|name| *name != device.name)
            {
                continue;
            }
            let Some(mut rdma) = self.rdma_in(placed)? else {
                continue;
            };
            for port in &placed.ports {
                let number = port.port.port;
                if request.port.is_some_and(|wanted| wanted != number) {
                    continue;
                }
                let before = options(&mut rdma, placed, number).counters;
                known.extend(before.iter().map(|counter| counter.name.clone()));
                let Some(indices) = switched(&before, request) else {
                    continue;
                };
                rdma.set_optional_counters(device.index, number, &indices)?;
                changed.push(options(&mut rdma, placed, number));
            }
        }
        let missing = request.counters.iter().find(|name| !known.contains(*name));
        match missing {
            None => Ok(changed),
            Some(name) => Err(Error::NotFound(format!(
                "no port that was named has an optional counter {name}; there are: {}",
                listed(&known)
            ))),
        }
    }

    /// A socket to a device; `None` when its pod has gone meanwhile.
    pub(super) fn rdma_in(&self, placed: &PlacedDevice) -> Result<Option<Rdma>> {
        match &placed.netns {
            NetnsRef::Host => Ok(Some(Rdma::open(&self.home)?)),
            pod => match Netns::open(pod) {
                Ok(netns) => Ok(Some(Rdma::open(&netns)?)),
                Err(error) => {
                    tracing::debug!("RDMA devices of {pod}: {error}");
                    Ok(None)
                }
            },
        }
    }
}

fn options(rdma: &mut Rdma, placed: &PlacedDevice, port: u32) -> PortOptions {
    let index = placed.device.index;
    PortOptions {
        device: placed.device.name.clone(),
        port,
        netns: placed.netns.clone(),
        driver: placed.driver,
        sets: rdma.counter_mode(index, port).ok(),
        // A driver or a kernel without such counters refuses to list them.
        counters: rdma.optional_counters(index, port).unwrap_or_default(),
    }
}

/// The indices that are to count afterwards; `None` when the port has none of the counters.
fn switched(before: &[OptionalCounter], request: &CountersRequest) -> Option<Vec<u32>> {
    let named = |counter: &OptionalCounter| request.counters.contains(&counter.name);
    if !before.iter().any(named) {
        return None;
    }
    let on = before.iter().filter(|counter| {
        if named(counter) {
            request.enable
        } else {
            counter.enabled
        }
    });
    Some(on.map(|counter| counter.index).collect())
}

fn listed(names: &BTreeSet<String>) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_others_stay_as_they_are() {
        let counter = |index, name: &str, enabled| OptionalCounter {
            index,
            name: name.into(),
            enabled,
        };
        let before = [
            counter(20, "cc_rx_ce_pkts", true),
            counter(21, "cc_rx_cnp_pkts", false),
            counter(22, "cc_tx_cnp_pkts", true),
        ];
        let request = |names: &[&str], enable| CountersRequest {
            device: None,
            port: None,
            counters: names.iter().map(|name| (*name).to_owned()).collect(),
            enable,
        };
        let after = |names: &[&str], enable| switched(&before, &request(names, enable));
        assert_eq!(after(&["cc_rx_cnp_pkts"], true), Some(vec![20, 21, 22]));
        assert_eq!(after(&["cc_tx_cnp_pkts", "x"], false), Some(vec![20]));
        assert_eq!(after(&["x"], true), None);
    }
}
