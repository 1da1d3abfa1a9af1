//! What the agent remembers of endpoints and uplinks, and where it keeps it.

mod record;
mod store;

pub use record::{EndpointRecord, Phase, UplinkRecord};
pub use store::{Store, StoreError};
