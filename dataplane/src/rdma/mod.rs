//! RDMA devices: what there is, who has it, what it counts.
//!
//! - [`Rdma`] is a client of RDMA netlink (`NETLINK_RDMA`, the kernel's nldev) in one namespace:
//!   devices, ports, modes, resources, counters, character devices, moves.
//! - sysfs gives the rest: which PCI function a device belongs to, and its GID table.
//!
//! A device is known by its index, never by its name alone: since Linux 7.3 two namespaces may each
//! have a device of one name.

mod chardev;
mod client;
mod counter;
mod device;
mod driver;
mod error;
mod gid;
mod place;
#[cfg(test)]
mod recorded;
mod resource;
mod survey;
mod system;
mod wire;

pub use chardev::CharDevice;
pub use client::Rdma;
pub use counter::{CounterMode, CounterSet, HwCounter, OptionalCounter};
pub use device::{Guid, PhysicalState, PortNetdev, PortState, RdmaDevice, RdmaPort};
pub use driver::Driver;
pub use error::RdmaError;
pub use gid::{Gid, GidTable, GidType};
pub use resource::{
    CmId, CompletionQueue, MemoryRegion, Owned, Owner, ProtectionDomain, QpState, QpType,
    QueuePair, ResourceCount, ResourceKind,
};
pub use survey::{Earlier, NodeRdma, PlacedDevice, PlacedPort, TURNS, survey};
pub use system::NetnsMode;

/// Feeds any bytes to every decoder, as a datagram and as the body of an answer. For the fuzzer; it
/// must not panic.
#[doc(hidden)]
pub fn exercise_decoders(bytes: &[u8]) {
    for message in crate::netlink::decode::messages(bytes).map_while(Result::ok) {
        exercise(message.body);
    }
    exercise(bytes);
}

fn exercise(body: &[u8]) {
    let _ = RdmaDevice::decode(body);
    let _ = RdmaPort::decode(body);
    let _ = CharDevice::decode(body);
    let _ = NetnsMode::decode(body);
    resource::exercise(body);
    counter::exercise(body);
}
