//! Who a rule speaks of.

use ipnet::IpNet;

use super::Selector;

/// An element of `from` or `to`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Pods by their labels.
    Pods {
        /// In which namespaces.
        namespaces: Namespaces,
        /// Which of their pods.
        pods: Selector,
    },
    /// Addresses.
    Block(Block),
}

/// The namespaces of a peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespaces {
    /// This one: the policy's own.
    Only(String),
    /// By their labels.
    Matching(Selector),
}

/// An `ipBlock`. What is excepted is taken from this block alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// The prefix, without host bits.
    pub cidr: IpNet,
    /// Prefixes inside it, without host bits.
    pub except: Vec<IpNet>,
}
