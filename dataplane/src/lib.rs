//! Sluice's agent: it loads and attaches the eBPF programs of `dataplane-ebpf`, keeps the state of
//! the node's endpoints, compiles their policies, and serves the command line `sluice`.

pub mod link;
