//! The tables by which an uplink knows the node's own addresses and those of
//! its pods. What should be in them is computed afresh after every change, and
//! the difference written.

use std::{collections::HashMap, hash::Hash};

use dataplane_ebpf::abi::{Address, LocalAddrKey, LocalMacKey, UPLINK_BIT};

use super::{Agent, Changes, State};
use crate::{
    kernel::{KernelError, Maps},
    link::InterfaceKind,
};

/// What is in the kernel's tables.
pub(super) struct Reach {
    macs: HashMap<LocalMacKey, u32>,
    addrs: HashMap<LocalAddrKey, u32>,
}

impl Reach {
    /// Starts from what the tables hold.
    pub(super) fn adopt(maps: &Maps) -> Result<Self, KernelError> {
        Ok(Self {
            macs: maps.local_macs()?,
            addrs: maps.local_addrs()?,
        })
    }
}

impl Agent {
    /// Brings the tables in step with the endpoints and uplinks. What fails is
    /// logged and tried again with the next change.
    pub(super) fn sync_reach(&self, changes: &mut Changes) {
        let wanted = wanted(&self.state());
        let maps = self.kernel.maps();
        let reach = &mut changes.reach;
        update(&mut reach.macs, wanted.macs, |key, owner| {
            maps.set_local_mac(key, owner)
        });
        update(&mut reach.addrs, wanted.addrs, |key, owner| {
            maps.set_local_addr(key, owner)
        });
    }
}

fn update<K: Copy + Eq + Hash>(
    present: &mut HashMap<K, u32>,
    wanted: HashMap<K, u32>,
    set: impl Fn(K, Option<u32>) -> Result<(), KernelError>,
) {
    let stale: Vec<K> = present
        .keys()
        .filter(|key| !wanted.contains_key(*key))
        .copied()
        .collect();
    let new = wanted
        .into_iter()
        .filter(|(key, owner)| present.get(key) != Some(owner));
    let changes: Vec<_> = stale
        .into_iter()
        .map(|key| (key, None))
        .chain(new.map(|(key, owner)| (key, Some(owner))))
        .collect();
    for (key, owner) in changes {
        match set(key, owner) {
            Ok(()) => {
                match owner {
                    Some(owner) => present.insert(key, owner),
                    None => present.remove(&key),
                };
            }
            Err(error) => tracing::warn!("host reach: {error}"),
        }
    }
}

fn wanted(state: &State) -> Reach {
    let mut macs = HashMap::new();
    let mut addrs = HashMap::new();
    for endpoint in state.endpoints.values() {
        let Some(uplink) = endpoint.uplink else {
            continue;
        };
        let id = endpoint.record.id;
        // An ipvlan child has the uplink's own MAC address.
        if let (InterfaceKind::Macvlan { .. }, Some(mac)) =
            (&endpoint.interface.kind, endpoint.interface.mac)
        {
            let key = LocalMacKey {
                uplink,
                mac: mac.0,
                pad: [0; 2],
            };
            macs.insert(key, id);
        }
        for address in &endpoint.interface.addresses {
            let address = Address::from(address.addr());
            addrs.insert(LocalAddrKey { address, uplink }, id);
        }
    }
    // Last, so that an address which a pod took from the node stays the node's.
    for uplink in state.uplinks.values() {
        let id = uplink.record.id;
        for address in uplink.interface.iter().flat_map(|link| &link.addresses) {
            let key = LocalAddrKey {
                address: Address::from(address.addr()),
                uplink: id,
            };
            addrs.insert(key, UPLINK_BIT | id);
        }
    }
    Reach { macs, addrs }
}
