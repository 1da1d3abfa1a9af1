//! The records that outlive the agent.

use serde::{Deserialize, Serialize};

use crate::{
    api::types::{PodName, TcMechanism, XdpMode},
    link::{IpvlanMode, NetnsId, NetnsRef},
};

/// How far an operation got. A record is written before the kernel is touched
/// and again when all is in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Begun; after a crash it is taken back.
    Intent,
    /// All in place.
    Attached,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// Endpoint id.
    pub id: u32,
    /// How far its attachment got.
    pub phase: Phase,
    /// Where its namespace can be opened again.
    pub netns: NetnsRef,
    /// Which namespace that must be.
    pub netns_id: NetnsId,
    /// Interface name there.
    pub interface: String,
    /// Interface index there.
    pub ifindex: u32,
    /// The pod, when known.
    pub pod: Option<PodName>,
    /// How the programs are attached.
    pub mechanism: TcMechanism,
    /// The clsact qdisc was made for this attachment, and goes with it if
    /// nobody else uses it by then.
    #[serde(default)]
    pub made_clsact: bool,
    /// Tags of the entry programs that are attached.
    pub entry_tags: [u64; 2],
    /// What policy would drop passes, and is only counted and told.
    #[serde(default)]
    pub audit: bool,
    /// Stand-ins may be in the place of the entry programs, or beside them.
    #[serde(default)]
    pub stand_in: bool,
    /// Of an ipvlan interface: the mode that it had when it was attached.
    #[serde(default)]
    pub ipvlan_mode: Option<IpvlanMode>,
    /// Nobody asked for it: the interface came to be beside an endpoint, that
    /// of the interface of this name, and is held to the policies of that one.
    #[serde(default)]
    pub beside: Option<String>,
}

/// One uplink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkRecord {
    /// Uplink number.
    pub id: u32,
    /// Interface name in the agent's namespace.
    pub interface: String,
    /// Frames between the node and its pods are turned around.
    pub host_reach: bool,
    /// How the TC program is attached.
    pub mechanism: TcMechanism,
    /// As of an endpoint.
    #[serde(default)]
    pub made_clsact: bool,
    /// How XDP was attached.
    pub xdp: Option<XdpMode>,
}
