//! Interfaces and network namespaces, read, changed and watched over rtnetlink.
//!
//! - [`Netns`] opens a namespace and runs closures inside it on a throw-away thread.
//! - [`Netlink`] is a request socket bound to one namespace: interfaces, addresses, namespace ids.
//!   It also changes them: children made in place, names, moves, addresses, routes, rules.
//! - [`announce`] and [`find_conflicts`] speak with an interface's neighbours.
//! - [`Monitor`] is one socket that hears the link and address changes of every namespace that has
//!   an id in the agent's own ([`Netlink::ensure_nsid`]).
//!
//! Requests are built with `netlink-packet-route`, replies are decoded here. A pod chooses the
//! names and aliases of its interfaces: a decoder that insists on UTF-8, or on knowing each
//! attribute, would let a pod hide an interface from the agent by giving it a strange alias. The
//! decoder of this module looks at the attributes that it needs and passes over the rest.
//!
//! The requests are synchronous. The kernel answers a netlink request within the `sendmsg` and
//! `recvmsg` calls themselves, so an asynchronous socket would not wait less, and would cost a task
//! and a buffer for each namespace.

mod address;
mod change;
mod create;
mod decode;
mod error;
mod ethtool;
mod events;
mod interface;
mod lend;
mod monitor;
mod namespaces;
mod neighbour;
mod netns;
mod nsid;
mod qdisc;
mod query;
mod route;
mod socket;
mod sysctl;
pub(crate) mod sysfs;
mod vf;

pub use address::{AddressState, Dad};
pub use create::{ChildKind, ChildSpec};
pub use error::LinkError;
pub use ethtool::{Ethtool, NicStatistics};
pub use events::{LinkChange, LinkEvent};
pub use interface::{Details, Device, Interface, InterfaceKind, IpvlanMode, MacvlanMode, Parent};
pub use lend::{NetdevState, Returned};
pub use monitor::Monitor;
pub use namespaces::other_namespaces;
pub use neighbour::{Conflict, ProbeTiming, announce, find_conflicts};
pub use netns::{Netns, NetnsId, NetnsRef};
pub use route::{MAIN_TABLE, Route, SourceRule};
pub use sluice_api::Mac;
pub use socket::Netlink;
pub use sysctl::{Sysctl, set_sysctls};
pub use sysfs::{DeviceId, PciFunction, Sriov, Sysfs, with_sysfs_of};
pub use vf::{VfConfig, VfLink, VfState, VfVlanTag, VlanProtocol};
