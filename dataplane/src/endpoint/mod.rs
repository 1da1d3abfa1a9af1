//! What the agent remembers of endpoints and uplinks, and where it keeps it.

mod attachment;
mod attachments;
mod file;
mod record;
mod store;

pub use attachment::{AttachmentRecord, LentVf, Made, MovedRdma, Stage};
pub use attachments::Recorded;
pub use file::StoreError;
pub use record::{EndpointRecord, Phase, UplinkRecord};
pub use store::Store;
