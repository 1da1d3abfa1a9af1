//! API and metrics as their clients meet them, over real sockets, in front of a
//! dataplane that lives in memory.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail it by panicking")]

mod api;
#[path = "../../examples/fake_agent/fake.rs"]
mod fake;
mod metrics;
