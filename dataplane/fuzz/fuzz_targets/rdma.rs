//! Any bytes as an answer of RDMA netlink.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dataplane::rdma::exercise_decoders(bytes));
