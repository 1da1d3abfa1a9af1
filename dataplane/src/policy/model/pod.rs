//! Pods.

use std::net::IpAddr;

use super::{Labels, NetworkName, Protocol, Scope};

/// What policies ask of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// The UID by which the node's cgroups know it.
    pub uid: Option<String>,
    /// Its labels.
    pub labels: Labels,
    /// The named ports of its containers.
    pub ports: Vec<ContainerPort>,
    /// It shares the node's network, and has no address of its own.
    pub host_network: bool,
    /// It has run to its end; its addresses may be another's by now.
    pub finished: bool,
    /// Its addresses in the cluster's own network (`status.podIPs`).
    pub addresses: Vec<IpAddr>,
    /// Its networks (annotation `network-status`); `None` where it does not
    /// say, which a plugin other than Multus never does.
    pub attachments: Option<Vec<Attachment>>,
}

/// A container port with a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerPort {
    /// Its name.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub number: u16,
}

/// One network that a pod is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The network.
    pub network: NetworkName,
    /// The interface in the pod, where known.
    pub interface: Option<String>,
    /// The pod's addresses there.
    pub addresses: Vec<IpAddr>,
    /// It is the cluster's own network.
    pub cluster: bool,
}

impl Pod {
    /// The addresses by which policies of that scope know the pod.
    pub fn addresses_in(&self, scope: &Scope) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        if self.host_network || self.finished {
            return addresses;
        }
        if matches!(scope, Scope::Cluster | Scope::All) {
            addresses.extend(&self.addresses);
        }
        for attachment in self.attachments.iter().flatten() {
            let counts = match scope {
                Scope::All => true,
                Scope::Cluster => attachment.cluster,
                Scope::Networks(networks) => networks.contains(&attachment.network),
            };
            if counts {
                addresses.extend(&attachment.addresses);
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// The numbers that a port's name stands for.
    pub fn named_ports<'a>(
        &'a self,
        name: &'a str,
        protocol: Protocol,
    ) -> impl Iterator<Item = u16> + 'a {
        let named = move |port: &&ContainerPort| port.name == name && port.protocol == protocol;
        self.ports.iter().filter(named).map(|port| port.number)
    }

    /// The attachment of an interface.
    pub fn attachment(&self, interface: &str) -> Option<&Attachment> {
        self.attachments
            .iter()
            .flatten()
            .find(|attachment| attachment.interface.as_deref() == Some(interface))
    }
}
