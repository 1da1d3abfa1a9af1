//! What the integration tests share.

pub mod agent;
pub mod cni;
pub mod counters;
pub mod harness;
pub mod hca;
pub mod judge;
pub mod model;
pub mod netns;
pub mod node;
pub mod packets;
pub mod policy;
pub mod poll;
pub mod prometheus;
pub mod ring;
pub mod scrape;
pub mod service;
pub mod traffic;
pub mod wire;
