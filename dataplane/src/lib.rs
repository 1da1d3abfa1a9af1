//! Sluice's agent and its command line.
//!
//! Dependencies point one way: `cli` and `api` -> `agent` -> `kernel` and
//! `link` -> the types of `dataplane-ebpf`. Only `kernel` imports aya.

pub mod agent;
pub mod api;
pub mod config;
pub mod endpoint;
pub mod kernel;
mod http;
pub mod link;
