//! What the programs say in a build for debugging.

use anyhow::{Result, ensure};
use sluice_tests::{
    agent::TestAgent,
    node::{POD_INTERFACE, TestNode},
    packets::{Frame, tcp_with_offset},
    poll::wait_until,
    wire::Wire,
};

/// By hand: `cargo xtask build --log --debug`, then `SLUICE_BIN=$PWD/target/debug/sluice cargo test
/// -p sluice-tests --test log -- --ignored`.
#[test]
#[ignore = "needs a binary of `cargo xtask build --log`"]
fn dropped_packets_are_told_of_in_the_agents_log() -> Result<()> {
    let setup = TestNode::new(1)?;
    let pod = &setup.pods[0];
    let agent = TestAgent::start(&setup.node, &["--log", "debug"])?;
    let id = agent.attach(pod, POD_INTERFACE)?;
    let frame = Frame::v4().carry(6, &tcp_with_offset(1, 2, 4, &[]));
    ensure!(!Wire::open(pod, POD_INTERFACE)?.send(&frame)?, "it passed");
    let words = format!(
        "endpoint {id} direction 1: {} bytes of ethertype 800 dropped, reason 11",
        frame.len()
    );
    wait_until("the drop in the log", || {
        Ok(agent.log_text().contains(&words))
    })
}
