//! Network policy by the book: random clusters as manifests, and an evaluator
//! that reads the very same manifests, slowly and literally. It shares no code
//! with what it judges.

#![expect(
    clippy::unwrap_used,
    reason = "a manifest that makes no sense is the test's own mistake"
)]

mod lab;
pub mod large;
mod naive;
mod plain;
mod random;

pub use lab::{NETWORK, PolicyFolder, namespace, pod, policy};
pub use naive::{Cluster, Packet, Verdict};
pub use plain::{allows, endpoints, identity, model, verdict};
pub use random::{ADDRESSES, PORTS, cluster};
