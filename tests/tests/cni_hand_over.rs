//! Between the end of an ADD and the attachments that stay, filters stand in: no packet may pass
//! unseen meanwhile, and none may be counted twice.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sluice_tests::{
    agent::TestAgent,
    cni::{call::Call, sandbox::Sandbox},
    node::{POD_INTERFACE, TestNode, addresses},
    poll::wait_until,
    traffic::Stream,
};

/// Tries until the stand-ins were seen at work: a slow machine may be past them before the stream
/// has begun.
const TRIES: usize = 20;

/// Whether a filter stands in on the receiver's interface.
fn stands_in(setup: &TestNode) -> Result<bool> {
    let filters = setup.pods[1].run("tc", &["filter", "show", "dev", POD_INTERFACE, "ingress"])?;
    Ok(filters.contains("standin_ingress"))
}

/// One hand-over under load; whether the load met the stand-ins.
fn hand_over() -> Result<bool> {
    let setup = TestNode::quiet_pair()?;
    let agent = TestAgent::start(&setup.node, &["--metrics-address", "off"])?;
    let sandbox = Sandbox::new(&setup.node, &agent)?;
    let netns = setup.pods[1].path().display().to_string();
    let config = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "sluice",
        "prevResult": {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": POD_INTERFACE, "sandbox": netns}],
        },
    });
    let call = Call::new("ADD", "pod-1", &netns, POD_INTERFACE);
    call.run(&sandbox, "sluice", &config)?.result()?;

    let [address, _] = addresses(1);
    let stream = Stream::start(&setup.pods[0], &setup.pods[1], &address)?;
    wait_until("traffic", || Ok(stream.sent() > 0))?;
    let met = stands_in(&setup)?;
    wait_until("the stand-ins to go", || Ok(!stands_in(&setup)?))?;
    let seen = stream.sent();
    wait_until("traffic behind TCX", || Ok(stream.sent() > seen + 200))?;
    let (sent, received) = stream.stop();
    ensure!(sent == received, "sent {sent}, received {received}");

    let endpoints = agent.json(&["endpoints"])?;
    let id = endpoints[0]["id"].as_u64().context("no endpoint")?;
    let counted = agent.stats(id)?["ingress"]["packets"].as_u64();
    ensure!(counted == Some(sent), "counted {counted:?}, sent {sent}");
    let links = std::fs::read_dir(agent.pins().join("links"))?.count();
    ensure!(links == 2, "{links} links");
    Ok(met)
}

#[test]
fn each_packet_is_counted_once_while_stand_ins_give_way() -> Result<()> {
    for _ in 0..TRIES {
        if hand_over()? {
            return Ok(());
        }
    }
    anyhow::bail!("the stand-ins were never met");
}

#[test]
fn a_killed_agent_leaves_stand_ins_that_the_next_one_replaces() -> Result<()> {
    let setup = TestNode::new(2)?;
    let mut agent = TestAgent::start(&setup.node, &["--metrics-address", "off"])?;
    let sandbox = Sandbox::new(&setup.node, &agent)?;
    let netns = setup.pods[1].path().display().to_string();
    let config = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "sluice",
        "prevResult": {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": POD_INTERFACE, "sandbox": netns}],
        },
    });
    let call = Call::new("ADD", "pod-1", &netns, POD_INTERFACE);
    call.run(&sandbox, "sluice", &config)?.result()?;
    agent.kill()?;
    let links = agent.pins().join("links");
    let attached = || Ok::<_, std::io::Error>(std::fs::read_dir(&links)?.count() == 2);
    ensure!(stands_in(&setup)? || attached()?, "nothing is attached");
    agent.restart()?;
    ensure!(attached()? && !stands_in(&setup)?);
    let endpoints = agent.json(&["endpoints"])?;
    ensure!(endpoints[0]["state"] == "attached", "{endpoints}");
    Ok(())
}
