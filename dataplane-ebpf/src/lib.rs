//! What Sluice's two sides share: the types in the maps ([`abi`]), the packet
//! parsers ([`parse`]), the following of connections ([`flow`]) and the reading
//! of RoCE ([`roce`]).
//!
//! This library is `no_std`, has no dependency and makes no system call: the
//! same code is compiled into the eBPF programs (`src/main.rs`) and tested,
//! fuzzed and compared with other parsers on an ordinary machine.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod abi;
pub mod flow;
pub mod parse;
pub mod roce;

// Shared with the integration tests, so that both meet the same packets.
#[cfg(test)]
#[path = "../../tests/src/packets/mod.rs"]
pub mod packets;
