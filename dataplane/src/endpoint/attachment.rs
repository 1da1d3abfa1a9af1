//! What the agent did for one CNI attachment, so that it can be undone.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    api::types::{PodName, cni::Attachment},
    link::{NetdevState, NetnsId, NetnsRef, SourceRule, VfState},
};

/// How far an attachment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Begun; after a crash it is taken back.
    Intent,
    /// The interface is there and attached, and waits for its addresses; after
    /// a crash it is taken back.
    Created,
    /// All in place.
    Done,
}

/// One attachment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttachmentRecord {
    /// Which.
    pub attachment: Attachment,
    /// The network's name.
    pub network: String,
    /// How far it has come.
    pub stage: Stage,
    /// Where the container's namespace can be opened again.
    pub netns: NetnsRef,
    /// Which namespace that must be.
    pub netns_id: NetnsId,
    /// The pod, when known.
    pub pod: Option<PodName>,
    /// The interfaces in the container that are attached.
    pub interfaces: Vec<String>,
    /// The interface that was made or lent for it, which has to go with it.
    pub made: Option<Made>,
    /// Its index in the container, once it is there.
    pub ifindex: Option<u32>,
    /// Rules in the container that lead to the interface's own routes.
    #[serde(default)]
    pub rules: Vec<SourceRule>,
    /// VLAN interface on the node that was made for this and others of its
    /// VLAN, and goes with the last of them.
    #[serde(default)]
    pub vlan: Option<String>,
    /// RDMA device that was moved into the container.
    #[serde(default)]
    pub rdma: Option<MovedRdma>,
    /// The result of the ADD, for one that is repeated.
    pub result: Option<Value>,
}

/// An interface that the agent made, or brought from the node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Made {
    /// A macvlan or ipvlan child, made in the container's namespace under the
    /// attachment's name.
    Child,
    /// A virtual function, lent under that name.
    Vf(Box<LentVf>),
}

/// An RDMA device that was moved into a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedRdma {
    /// Its index, which it keeps.
    pub index: u32,
    /// Its name on the node.
    pub name: String,
}

/// A virtual function, and how it has to be given back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LentVf {
    /// Its PCI address.
    pub address: String,
    /// The PCI address of its physical function.
    pub pf: String,
    /// Its number there.
    pub index: u32,
    /// What it was at the physical function.
    pub at_pf: VfState,
    /// What its interface was on the node.
    pub netdev: NetdevState,
}
