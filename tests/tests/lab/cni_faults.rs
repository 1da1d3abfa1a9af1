//! Agent and plugin killed at each step of an ADD and a DEL that lend a virtual function.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::{
    cni::{call::Call, chain::Chain},
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

/// A node with a function whose settings must come back.
struct Case {
    node: Node,
    chain: Chain,
    before: [Value; 4],
    killed: u32,
}

impl Case {
    fn new() -> Result<Self> {
        let node = Node::with_failpoints(1)?;
        Ok(Self {
            before: node.state(0)?,
            chain: node.chain(0, "10.96.0.10", "on")?,
            node,
            killed: 0,
        })
    }

    /// Starts the agent anew, to die at this step. Each start takes seconds in emulation.
    fn restart(&mut self, failpoint: Option<&str>) -> Result<()> {
        let agent = &mut self.node.agent;
        agent.set_environment("FAILPOINTS", &failpoint.map(kill).unwrap_or_default());
        // It may have killed itself, as it was told to.
        let _ = agent.kill();
        agent.restart()
    }

    fn add(&self, call: &Call) -> Result<()> {
        self.chain.add(&self.node.sandbox, call).map(drop)
    }

    /// DEL as a runtime does it: again until it is done. Then the function is what it was.
    fn del(&mut self, call: &Call) -> Result<()> {
        let mut last = None;
        let done = wait_until("DEL to succeed", || {
            last = self.chain.del(&self.node.sandbox, call, None).err();
            Ok(last.is_none())
        });
        done.with_context(|| format!("{last:?}"))?;
        let after = self.node.state(0)?;
        ensure!(after == self.before, "{after:?} was {:?}", self.before);
        let endpoints = self.node.agent.json(&["endpoints"])?;
        ensure!(endpoints == json!([]), "{endpoints}");
        self.killed += 1;
        Ok(())
    }
}

fn kill(failpoint: &str) -> String {
    format!("{failpoint}=return(kill)")
}

fn agent_in_add(case: &mut Case) -> Result<()> {
    case.restart(AGENT_ADD.first().copied())?;
    for (number, point) in AGENT_ADD.iter().enumerate() {
        let pod = TestNetns::new()?;
        ensure!(case.add(&call("ADD", "pod", &pod)).is_err(), "{point}");
        case.node.agent.wait_dead().context(*point)?;
        // Nothing of a DEL or of a start is at the next step, so the next agent may have it set.
        case.restart(AGENT_ADD.get(number + 1).copied())?;
        case.del(&call("DEL", "pod", &pod)).context(*point)?;
    }
    Ok(())
}

fn agent_in_del(case: &mut Case) -> Result<()> {
    for point in AGENT_DEL {
        let pod = TestNetns::new()?;
        case.add(&call("ADD", "pod", &pod)).context(*point)?;
        case.restart(Some(point))?;
        let del = call("DEL", "pod", &pod);
        // It may be done by then, or be left to the next start.
        let _ = case.chain.del(&case.node.sandbox, &del, None);
        case.node.agent.wait_dead().context(*point)?;
        case.restart(None)?;
        case.del(&del).context(*point)?;
    }
    Ok(())
}

fn plugin(case: &mut Case, verb: &str, points: &[&'static str]) -> Result<()> {
    for point in points {
        let pod = TestNetns::new()?;
        let set = |call: Call, at: &str| match at == verb {
            true => call.with("FAILPOINTS", &kill(point)),
            false => call,
        };
        let added = case.add(&set(call("ADD", "pod", &pod), "ADD"));
        let done = added.and_then(|()| {
            let del = set(call("DEL", "pod", &pod), "DEL");
            case.chain.del(&case.node.sandbox, &del, None)
        });
        ensure!(done.is_err(), "{point} was not reached");
        case.del(&call("DEL", "pod", &pod)).context(*point)?;
    }
    Ok(())
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn functions_come_back_whoever_is_killed_and_when() -> Result<()> {
    let mut case = Case::new()?;
    plugin(&mut case, "ADD", PLUGIN_ADD)?;
    plugin(&mut case, "DEL", PLUGIN_DEL)?;
    agent_in_del(&mut case)?;
    agent_in_add(&mut case)?;
    println!(
        "killed at {} steps; the function was as before each time",
        case.killed
    );
    Ok(())
}
