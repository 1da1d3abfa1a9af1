//! What the CNI plugin asks of the agent.
//!
//! | request | verb | body | answer |
//! |---|---|---|---|
//! | `POST /v1/cni/add` | ADD | [`AddRequest`] | [`AddAnswer`] |
//! | `POST /v1/cni/configure` | ADD as main plugin, once IPAM has answered | [`ConfigureRequest`] | [`ConfigureAnswer`] |
//! | `POST /v1/cni/del` | DEL | [`DelRequest`] | [`Done`] |
//! | `POST /v1/cni/check` | CHECK | [`CheckRequest`] | [`Done`] |
//! | `POST /v1/cni/gc` | GC | [`GcRequest`] | [`GcAnswer`] |
//! | `GET /v1/cni/status` | STATUS | none | [`Readiness`] |

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Mac, PodName};

/// The folder below the agent's state folder where the plugin leaves a file
/// for each DEL that the agent did not hear.
pub const TOMBSTONES: &str = "cni/tombstones";
/// Folder of the locks that ADDs hold while their IPAM plugins run, in the
/// agent's state folder.
pub const IPAM_LOCKS: &str = "cni/ipam";
/// Version of a tombstone's format.
pub const TOMBSTONE_VERSION: u32 = 1;
/// The field of a result under which stands what CNI has no place for.
pub const RESULT_KEY: &str = "sluice";
/// Longest interface name (`IFNAMSIZ` - 1, uapi `linux/if.h`).
const NAME_MAX: usize = 15;
/// Longest container id that still makes a file name (`NAME_MAX`, uapi
/// `linux/limits.h`, less an interface name and a suffix).
const CONTAINER_MAX: usize = 200;

/// One attachment of a container to a network, by what a runtime never uses
/// twice: the container's id and the interface's name in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Names")]
pub struct Attachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

/// As it comes from a runtime.
#[derive(Deserialize)]
struct Names {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

/// The CNI specification does not allow this name.
#[derive(Debug, thiserror::Error)]
#[error("{what} {text:?} is not valid: {rule}")]
pub struct InvalidName {
    what: &'static str,
    text: String,
    rule: &'static str,
}

impl Attachment {
    /// # Errors
    /// A name that the CNI specification does not allow.
    pub fn new(
        container_id: impl Into<String>,
        ifname: impl Into<String>,
    ) -> Result<Self, InvalidName> {
        let (container_id, ifname) = (container_id.into(), ifname.into());
        if !is_word(&container_id) || container_id.len() > CONTAINER_MAX {
            return Err(InvalidName {
                what: "container id",
                text: container_id,
                rule: "a letter or digit, then letters, digits, '_', '.' and '-', 200 at most",
            });
        }
        let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if ifname.is_empty()
            || ifname.len() > NAME_MAX
            || ifname == "."
            || ifname == ".."
            || ifname.contains(forbidden)
        {
            return Err(InvalidName {
                what: "interface name",
                text: ifname,
                rule: "1 to 15 characters without '/', ':' and blanks",
            });
        }
        Ok(Self {
            container_id,
            ifname,
        })
    }

    /// The container's id.
    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    /// The interface's name in the container.
    pub fn ifname(&self) -> &str {
        &self.ifname
    }

    /// The name of the attachment's files. Neither part has a ':', so no two
    /// attachments share one.
    pub fn file_name(&self) -> String {
        format!("{}:{}.json", self.container_id, self.ifname)
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of container {}", self.ifname, self.container_id)
    }
}

impl TryFrom<Names> for Attachment {
    type Error = InvalidName;

    fn try_from(names: Names) -> Result<Self, InvalidName> {
        Self::new(names.container_id, names.ifname)
    }
}

/// Whether a text is what CNI demands of container ids and network names: a
/// letter or digit, then letters, digits, `_`, `.` and `-`.
pub fn is_word(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// `POST /v1/cni/add`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddRequest {
    /// What to attach.
    pub attachment: Attachment,
    /// The network's name.
    pub network: String,
    /// Path of the container's network namespace.
    pub netns: String,
    /// The pod, when the runtime tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// What to do.
    pub work: Work,
    /// PCI address or auxiliary device that was assigned to the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What is to become of the interface's RDMA device.
    #[serde(default)]
    pub rdma: Rdma,
}

/// Whether the interface is there already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// Take over interfaces that other plugins made, by their names in the
    /// container.
    Adopt(Vec<String>),
    /// Make the interface under the attachment's name.
    Create(Create),
}

/// An interface to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// What kind.
    pub kind: Kind,
    /// Bytes; by default the master's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// By default the kernel chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Register the master as an uplink with (or without) host reach; absent,
    /// nothing is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_reach: Option<bool>,
}

/// Kinds of interface that the agent makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "mode")]
pub enum Kind {
    /// A macvlan child.
    Macvlan {
        /// Its parent on the node; by default, where the default route leads.
        #[serde(default)]
        master: Option<String>,
        /// bridge, private, vepa or passthru.
        submode: String,
        /// The master's VLAN to hang off, 1 to 4094.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vlan: Option<u16>,
    },
    /// An ipvlan child.
    Ipvlan {
        /// Its parent on the node; by default, where the default route leads.
        #[serde(default)]
        master: Option<String>,
        /// l2, l3 or l3s.
        submode: String,
        /// The master's VLAN to hang off, 1 to 4094.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vlan: Option<u16>,
    },
    /// The SR-IOV virtual function that [`AddRequest::device`] names.
    Sriov(VfSettings),
}

/// What a PF is told about a VF. What is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VfSettings {
    /// VLAN id, 0 to 4094; 0 is none.
    pub vlan: Option<u16>,
    /// VLAN priority, 0 to 7.
    pub vlan_qos: Option<u8>,
    /// The tag is 802.1ad's rather than 802.1q's.
    pub vlan_ad: bool,
    /// Refuse frames with a source MAC address that is not the VF's.
    pub spoofchk: Option<bool>,
    /// The pod may change its MAC address and go promiscuous.
    pub trust: Option<bool>,
    /// auto, enable or disable.
    pub link_state: Option<String>,
    /// Mbit/s; 0 is none.
    pub min_tx_rate: Option<u32>,
    /// Mbit/s; 0 is none.
    pub max_tx_rate: Option<u32>,
}

/// What is to become of an interface's RDMA device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rdma {
    /// Moved into the container where there is one and the node gives each
    /// namespace its own devices.
    #[default]
    Auto,
    /// Left alone.
    Off,
    /// As `auto`, but having none is an error.
    Require,
}

/// Answer to `POST /v1/cni/add`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddAnswer {
    /// The container's interfaces, as they are now.
    pub interfaces: Vec<AddedInterface>,
    /// RDMA device of the interface, moved into the container where the node
    /// gives each namespace its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdma_device: Option<String>,
    /// Device, port and GID of each interface that has RDMA, by its name; as
    /// the endpoint's field `rdma` says it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rdma: BTreeMap<String, serde_json::Value>,
    /// The attachment was complete already; the result that it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing: Option<serde_json::Value>,
}

/// An interface of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedInterface {
    /// Name in the container.
    pub name: String,
    /// MAC address.
    pub mac: Option<Mac>,
    /// Bytes.
    pub mtu: u32,
    /// PCI address, of a device that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci: Option<String>,
}

/// `POST /v1/cni/configure`: what IPAM said of an interface that
/// [`Work::Create`] made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigureRequest {
    /// Which interface.
    pub attachment: Attachment,
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// Its routes.
    pub routes: Vec<Route>,
    /// Prefixes to reach through the node.
    #[serde(default)]
    pub through_node: Vec<IpNet>,
    /// How it is to behave.
    pub settings: Settings,
    /// What the plugin will print, kept for an ADD that is repeated.
    pub result: serde_json::Value,
}

/// An address for an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// With its prefix length.
    pub address: IpNet,
    /// The gateway of routes that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A route, with the fields of a CNI result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub dst: IpNet,
    /// Through whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// Largest packet, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// TCP segment size that is advertised, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Lower wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Routing table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// `RT_SCOPE_*` (uapi `linux/rtnetlink.h`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

/// How an interface is to behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Ask for other users of the addresses before using them.
    pub detect_conflicts: bool,
    /// Tell the neighbours of the addresses.
    pub announce: bool,
    /// Answer for the interface's own addresses only, and route what comes
    /// from them through it.
    pub arp: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            detect_conflicts: true,
            announce: true,
            arp: true,
        }
    }
}

/// Answer to `POST /v1/cni/configure`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigureAnswer {
    /// The routes through the node.
    pub through_node: Vec<Route>,
    /// As [`AddAnswer::rdma`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rdma: BTreeMap<String, serde_json::Value>,
}

/// `POST /v1/cni/del`, and what a tombstone holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DelRequest {
    /// What to undo.
    pub attachment: Attachment,
    /// The network's name.
    pub network: String,
}

/// A DEL that the agent did not hear: the plugin leaves it in the folder
/// [`TOMBSTONES`], under [`Attachment::file_name`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// [`TOMBSTONE_VERSION`].
    pub version: u32,
    /// The request.
    pub del: DelRequest,
}

/// `POST /v1/cni/check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckRequest {
    /// What to check.
    pub attachment: Attachment,
    /// Path of the container's network namespace.
    pub netns: String,
    /// What must be there.
    pub interfaces: Vec<ExpectedInterface>,
    /// Routes that must be there.
    pub routes: Vec<Route>,
}

/// An interface as a result described it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedInterface {
    /// Name in the container.
    pub name: String,
    /// MAC address, where the result had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Addresses that the result gave it.
    pub addresses: Vec<IpNet>,
}

/// `POST /v1/cni/gc`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GcRequest {
    /// The network's name; attachments to others are not looked at.
    pub network: String,
    /// The attachments that are still in use.
    pub valid: Vec<Attachment>,
}

/// Answer to `POST /v1/cni/gc`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcAnswer {
    /// What was removed.
    pub removed: Vec<Attachment>,
}

/// Answer of a request that leaves nothing to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// `GET /v1/cni/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Why no pod can be added; empty when the agent is ready.
    pub obstacles: Vec<String>,
    /// Pods that are attached suffer as well.
    pub pods_suffer: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_cni_allows() {
        for (container_id, ifname) in [
            ("a", "eth0"),
            ("0f1E_.-", "net1"),
            ("cnitool-77383ca0a0715733ca6f", "e-.@"),
        ] {
            assert!(Attachment::new(container_id, ifname).is_ok());
        }
        for (container_id, ifname) in [
            ("", "eth0"),
            ("-a", "eth0"),
            (".", "eth0"),
            ("../../etc", "eth0"),
            ("a/b", "eth0"),
            ("a:b", "eth0"),
            ("a", ""),
            ("a", "."),
            ("a", ".."),
            ("a", "a/b"),
            ("a", "a:b"),
            ("a", "a b"),
            ("a", "a\n"),
            ("a", "sixteen-letters-"),
        ] {
            assert!(Attachment::new(container_id, ifname).is_err());
            let json = serde_json::json!({ "containerID": container_id, "ifname": ifname });
            assert!(serde_json::from_value::<Attachment>(json).is_err());
        }
    }

    #[test]
    fn no_two_attachments_share_a_file() {
        let one = Attachment::new("a-b", "c").unwrap();
        let other = Attachment::new("a", "b-c").unwrap();
        assert_ne!(one.file_name(), other.file_name());
    }
}
