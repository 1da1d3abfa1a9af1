//! What the integration tests share.

pub mod agent;
pub mod cni;
pub mod harness;
pub mod netns;
pub mod node;
pub mod packets;
pub mod poll;
pub mod traffic;
pub mod wire;
