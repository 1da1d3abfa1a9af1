//! On kernels without TCX: the clsact qdisc goes with the programs that it was made for, and never
//! one that others made or use.

use anyhow::{Result, ensure};
use sluice_tests::{
    agent::TestAgent,
    netns::TestNetns,
    node::{POD_INTERFACE, TestNode, UPLINK},
};

const OPTIONS: &[&str] = &["--metrics-address", "off", "--tc", "clsact"];

fn has_clsact(netns: &TestNetns, interface: &str) -> Result<bool> {
    let qdiscs = netns.run("tc", &["qdisc", "show", "dev", interface])?;
    Ok(qdiscs.contains("clsact"))
}

/// Filters of ours on either hook.
fn has_filters(netns: &TestNetns, interface: &str) -> Result<bool> {
    for hook in ["ingress", "egress"] {
        let filters = netns.run("tc", &["filter", "show", "dev", interface, hook])?;
        if filters.contains("bpf") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A filter of somebody else's.
fn add_filter(netns: &TestNetns, interface: &str) -> Result<()> {
    let filter = format!(
        "filter add dev {interface} egress protocol all prio 77 u32 match u32 0 0 flowid 1:1"
    );
    netns.run("tc", &filter.split(' ').collect::<Vec<_>>())?;
    Ok(())
}

/// Attaches, detaches by way of a restart of the agent, and says whether the qdisc is left;
/// `attached` is called between.
fn is_left(netns: &TestNetns, interface: &str, attached: impl Fn() -> Result<()>) -> Result<bool> {
    let node = TestNode::new(0)?;
    let mut agent = TestAgent::start(&node.node, OPTIONS)?;
    let id = agent.attach(netns, interface)?;
    ensure!(has_clsact(netns, interface)? && has_filters(netns, interface)?);
    attached()?;
    agent.kill()?;
    agent.restart()?;
    agent.run(&["detach", &id.to_string()])?;
    ensure!(!has_filters(netns, interface)?);
    has_clsact(netns, interface)
}

#[test]
fn it_goes_with_the_programs() -> Result<()> {
    let setup = TestNode::new(1)?;
    let pod = &setup.pods[0];
    ensure!(!is_left(pod, POD_INTERFACE, || Ok(()))?);
    Ok(())
}

#[test]
fn it_stays_where_it_was_there_before() -> Result<()> {
    let setup = TestNode::new(1)?;
    let pod = &setup.pods[0];
    pod.run("tc", &["qdisc", "add", "dev", POD_INTERFACE, "clsact"])?;
    ensure!(is_left(pod, POD_INTERFACE, || Ok(()))?);
    Ok(())
}

#[test]
fn it_stays_with_the_filters_of_others() -> Result<()> {
    let setup = TestNode::new(1)?;
    let pod = &setup.pods[0];
    ensure!(is_left(pod, POD_INTERFACE, || add_filter(
        pod,
        POD_INTERFACE
    ))?);
    let filters = pod.run("tc", &["filter", "show", "dev", POD_INTERFACE, "egress"])?;
    ensure!(filters.contains("pref 77"), "{filters}");
    Ok(())
}

#[test]
fn an_uplink_leaves_none_either() -> Result<()> {
    let setup = TestNode::new(0)?;
    let node = &setup.node;
    let agent = TestAgent::start(node, OPTIONS)?;
    agent.run(&["uplink", "add", UPLINK])?;
    ensure!(has_clsact(node, UPLINK)?);
    agent.run(&["uplink", "del", UPLINK])?;
    ensure!(!has_clsact(node, UPLINK)?);

    node.run("tc", &["qdisc", "add", "dev", UPLINK, "clsact"])?;
    agent.run(&["uplink", "add", UPLINK])?;
    add_filter(node, UPLINK)?;
    agent.run(&["uplink", "del", UPLINK])?;
    ensure!(has_clsact(node, UPLINK)? && !has_filters(node, UPLINK)?);
    Ok(())
}
