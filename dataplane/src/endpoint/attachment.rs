//! What the agent did for one CNI attachment, so that it can be undone.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    api::types::{PodName, cni::Attachment},
    link::{NetnsId, NetnsRef},
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
    /// What was made for it, and has to go with it.
    pub made: Option<Made>,
    /// The result of the ADD, for one that is repeated.
    pub result: Option<Value>,
}

/// An interface that the agent made or brought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Made {
    /// A macvlan or ipvlan child, made in the container's namespace.
    Child {
        /// Its index there, once it exists.
        ifindex: Option<u32>,
    },
}
