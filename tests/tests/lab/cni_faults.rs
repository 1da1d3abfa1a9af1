//! Agent and plugin killed at each step of an ADD and a DEL that lend a virtual function.

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{
    cni::{call::Call, chain::Chain, sandbox::Sandbox},
    netns::TestNetns,
    poll::wait_until,
};

use crate::cni::{Node, call};

const AGENT_ADD: &[&str] = &[
    "cni::add::before_intent",
    "cni::add::after_intent",
    "cni::add::after_vf",
    "cni::add::after_create",
    "cni::add::after_attach",
    "cni::add::after_created",
    "cni::configure::after_addresses",
    "cni::configure::after_done",
];
const AGENT_DEL: &[&str] = &[
    "cni::del::before_undo",
    "cni::del::after_unmake",
    "cni::del::after_detach",
    "cni::del::after_forget",
];
const PLUGIN_ADD: &[&str] = &[
    "cni::plugin::add::before_ipam",
    "cni::plugin::add::after_create",
    "cni::plugin::add::after_configure",
];
const PLUGIN_DEL: &[&str] = &[
    "cni::plugin::del::before_agent",
    "cni::plugin::del::after_agent",
];

fn set(node: &mut Node, failpoint: Option<&str>) -> Result<()> {
    let value = failpoint.map(|point| format!("{point}=return(kill)"));
    node.agent
        .set_environment("FAILPOINTS", &value.unwrap_or_default());
    // It may have killed itself, as it was told to.
    let _ = node.agent.kill();
    node.agent.restart()
}

/// DEL as a runtime does it: again until it is done.
fn del(chain: &Chain, sandbox: &Sandbox, call: &Call) -> Result<()> {
    let mut last = None;
    let done = wait_until("DEL to succeed", || {
        last = chain.del(sandbox, call, None).err();
        Ok(last.is_none())
    });
    done.with_context(|| format!("{last:?}"))
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn functions_come_back_whoever_is_killed_and_when() -> Result<()> {
    let mut node = Node::with_failpoints(1)?;
    let before = node.state(0)?;
    let chain = node.chain(0, "10.96.0.10", "on")?;
    let cases = [
        ("agent", "ADD", AGENT_ADD),
        ("agent", "DEL", AGENT_DEL),
        ("plugin", "ADD", PLUGIN_ADD),
        ("plugin", "DEL", PLUGIN_DEL),
    ];
    let mut killed = 0;
    for (who, verb, points) in cases {
        for &point in points {
            let context = || format!("{who} killed at {point}");
            let pod = TestNetns::new()?;
            let mut add = call("ADD", "pod", &pod);
            let mut first = call("DEL", "pod", &pod);
            if verb == "DEL" {
                chain.add(&node.sandbox, &add).with_context(context)?;
            }
            if who == "agent" {
                set(&mut node, Some(point)).with_context(context)?;
            } else {
                let fault = format!("{point}=return(kill)");
                add = add.with("FAILPOINTS", &fault);
                first = first.with("FAILPOINTS", &fault);
            }
            let done = match verb {
                "ADD" => chain.add(&node.sandbox, &add).map(drop),
                _ => chain.del(&node.sandbox, &first, None),
            };
            if who == "agent" {
                node.agent.wait_dead().with_context(context)?;
                set(&mut node, None).with_context(context)?;
            } else {
                ensure!(done.is_err(), "{}: it was not reached", context());
            }
            killed += 1;
            del(&chain, &node.sandbox, &call("DEL", "pod", &pod)).with_context(context)?;
            let after = node.state(0).with_context(context)?;
            ensure!(after == before, "{}: {after:?} was {before:?}", context());
            ensure!(
                node.agent
                    .json(&["endpoints"])?
                    .as_array()
                    .is_some_and(Vec::is_empty)
            );
        }
    }
    println!("killed at {killed} steps; the function was as before each time");
    Ok(())
}
