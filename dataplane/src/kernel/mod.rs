//! All that touches eBPF: loading, pinning, attaching, and typed views of the
//! maps. Nothing else imports aya.

mod attach;
mod batch;
mod bytes;
mod error;
mod events;
mod flows;
mod layout;
#[cfg(feature = "log")]
mod log;
mod maps;
mod migrate;
mod object;
mod pins;
mod policy;
mod prefix;
mod probe;
mod sys;
mod uplink;
mod value;

pub use attach::TcMode;
pub use error::KernelError;
pub use events::EventReader;
pub use flows::{FlowCount, FlowMaps};
pub use layout::{ROCE_FLOWS, Sizes};
#[cfg(feature = "log")]
pub use log::Logger;
pub use maps::{Drops, Maps, Roce};
pub use object::Kernel;
pub use pins::Pins;
pub use policy::{IdentityPrefix, PolicyMap, PolicyMaps};
pub use probe::{Features, TICK_NS, monotonic_ns};
pub use uplink::{UplinkSettings, XdpPreference};
