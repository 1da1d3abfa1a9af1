//! Lending an interface of the node, a VF say, to a pod, and taking it back as it was.
//!
//! The kernel moves and renames in one request, so there is never a half-named interface anywhere.
//! Two traps of names are in the way. Whatever else carries the name in the other namespace stops
//! the move; and so do alternative names, which udev gives to the node's interfaces: older kernels
//! forget to take them along, newer ones refuse the move when one is taken. So the alternative
//! names stay behind, in the record, and come back with the interface.

use serde::{Deserialize, Serialize};

use super::{LinkError, Mac, Netlink, Netns};

/// The beginning of the name of an interface whose own was given away while it was lent.
const FALLBACK_NAME: &str = "sluice";

/// What is given back with an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetdevState {
    /// Its name.
    pub name: String,
    /// Its other names.
    pub altnames: Vec<String>,
    /// Its free text.
    pub alias: Option<String>,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// Bytes.
    pub mtu: u32,
    /// Whether it was up.
    pub up: bool,
}

/// An interface that came back.
#[derive(Debug)]
pub struct Returned {
    /// Its index in the node's namespace.
    pub ifindex: u32,
    /// What could not be restored.
    pub problems: Vec<LinkError>,
}

impl Netlink {
    /// Reads what must be given back with an interface.
    ///
    /// # Errors
    /// [`LinkError::NotFound`], [`LinkError::Request`].
    pub fn netdev_state(&mut self, ifindex: u32) -> Result<NetdevState, LinkError> {
        let details = self.details(ifindex)?;
        Ok(NetdevState {
            name: details.name,
            altnames: details.altnames,
            alias: details.alias,
            mac: details.mac,
            mtu: details.mtu,
            up: details.up,
        })
    }

    /// Moves an interface of this socket's namespace to a pod, as `name`. It is down afterwards.
    /// `state` is what [`Netlink::netdev_state`] said; keep it where a crash does not reach it
    /// before this is called.
    ///
    /// # Errors
    /// [`LinkError::Exists`] when the pod has something of that name, [`LinkError::Change`]. The
    /// interface is then as it was.
    pub fn lend(
        &mut self,
        ifindex: u32,
        state: &NetdevState,
        pod: &Netns,
        name: &str,
    ) -> Result<(), LinkError> {
        let mut at_pod = Self::open(pod)?;
        if at_pod.has(name)? {
            return Err(LinkError::Exists {
                interface: name.to_owned(),
                netns: pod.to_string(),
            });
        }
        let moved = self
            .prepare(ifindex)
            .and_then(|()| self.move_to(ifindex, pod, Some(name)));
        if moved.is_err() {
            for problem in self.restore_netdev(ifindex, state) {
                tracing::warn!("undoing the loan of {}: {problem}", state.name);
            }
        }
        moved
    }

    /// Takes an interface from this socket's namespace, a pod's, back to `node`, as it was.
    ///
    /// When its name was given away meanwhile it comes back under another one, which is among the
    /// problems: an interface under a strange name is better than one in a pod that ends.
    ///
    /// # Errors
    /// The interface could not be moved: [`LinkError::NotFound`], [`LinkError::Change`].
    pub fn take_back(
        &mut self,
        ifindex: u32,
        state: &NetdevState,
        node: &Netns,
    ) -> Result<Returned, LinkError> {
        self.prepare(ifindex)?;
        let mut at_node = Self::open(node)?;
        let mut problems = Vec::new();
        let mut wanted = state.clone();
        for number in 0.. {
            if !at_node.has(&wanted.name)? {
                break;
            }
            if number == 0 {
                problems.push(LinkError::Exists {
                    interface: state.name.clone(),
                    netns: node.to_string(),
                });
            }
            wanted.name = format!("{FALLBACK_NAME}{number}");
        }
        self.move_to(ifindex, node, Some(&wanted.name))?;
        let ifindex = at_node.interface(&wanted.name)?.ifindex;
        problems.extend(at_node.restore_netdev(ifindex, &wanted));
        Ok(Returned { ifindex, problems })
    }

    /// Makes an interface of this socket's namespace what it was, as far as it goes, and returns
    /// what could not be. For one that came back by itself, too: the kernel returns hardware to
    /// the node when a namespace ends.
    pub fn restore_netdev(&mut self, ifindex: u32, state: &NetdevState) -> Vec<LinkError> {
        let now = match self.details(ifindex) {
            Ok(now) => now,
            Err(error) => return vec![error],
        };
        let mut outcomes = Vec::new();
        if now.name != state.name || now.mac != state.mac {
            // Older kernels rename, and some drivers take an address, only while it is down.
            outcomes.push(self.set_up(ifindex, false));
        }
        if now.name != state.name {
            outcomes.push(self.rename(ifindex, &state.name));
        }
        if let Some(mac) = state.mac.filter(|_| now.mac != state.mac) {
            outcomes.push(self.insist_on_mac(ifindex, mac));
        }
        if now.mtu != state.mtu {
            outcomes.push(self.set_mtu(ifindex, state.mtu));
        }
        if now.alias != state.alias {
            outcomes.push(self.set_alias(ifindex, state.alias.as_deref()));
        }
        for altname in &state.altnames {
            if !now.altnames.contains(altname) && *altname != state.name {
                outcomes.push(self.add_altname(ifindex, altname));
            }
        }
        outcomes.push(self.set_up(ifindex, state.up));
        outcomes.into_iter().filter_map(Result::err).collect()
    }

    /// Gives an interface that is down an address over which its PF may have the last word. A VF's
    /// driver that refuses takes what the PF has for it when it is started anew.
    ///
    /// # Errors
    /// As [`Netlink::set_mac`].
    pub fn insist_on_mac(&mut self, ifindex: u32, mac: Mac) -> Result<(), LinkError> {
        let Err(refused) = self.set_mac(ifindex, mac) else {
            return Ok(());
        };
        self.set_up(ifindex, true)?;
        self.set_up(ifindex, false)?;
        if self.details(ifindex)?.mac == Some(mac) {
            Ok(())
        } else {
            Err(refused)
        }
    }

    /// Sets an interface down and leaves its alternative names behind.
    fn prepare(&mut self, ifindex: u32) -> Result<(), LinkError> {
        self.set_up(ifindex, false)?;
        for altname in self.details(ifindex)?.altnames {
            self.remove_altname(ifindex, &altname)?;
        }
        Ok(())
    }

    /// Whether an interface answers to a name.
    fn has(&mut self, name: &str) -> Result<bool, LinkError> {
        match self.interface(name) {
            Ok(_) => Ok(true),
            Err(LinkError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
