//! Sluice's agent and its command line.
//!
//! Dependencies point one way: `cli` and `api` -> `agent` -> `kernel` and
//! `link` -> the types of `dataplane-ebpf`. Only `kernel` imports aya.
//! `link` and `rdma` speak to the kernel over `netlink`.

pub mod agent;
pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod endpoint;
mod http;
pub mod hw;
pub mod kernel;
pub mod link;
pub mod metrics;
pub mod netlink;
pub mod policy;
pub mod rdma;
