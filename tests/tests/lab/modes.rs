//! Every mode of macvlan and ipvlan: attaching, counting, and who reaches whom with host reach.

use std::fmt;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluice_tests::{
    agent::TestAgent,
    netns::TestNetns,
    node::{MACHINE, NODE, POD_INTERFACE, TestNode, UPLINK, addresses, announce, pings},
    poll::wait_until,
};

/// Who reaches whom.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Reach {
    node_to_pod: bool,
    pod_to_node: bool,
    pod_to_pod: bool,
    machine: bool,
}

impl fmt::Debug for Reach {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            ("node->pod", self.node_to_pod),
            ("pod->node", self.pod_to_node),
            ("pod<->pod", self.pod_to_pod),
            ("machine<->pod", self.machine),
        ];
        let mut set = out.debug_map();
        for (name, reached) in all {
            set.entry(&format_args!("{name}"), &reached);
        }
        set.finish()
    }
}

fn packets(stats: &Value, direction: &str) -> Result<u64> {
    stats[direction]["packets"].as_u64().context("no packets")
}

/// Whether somebody answers within a few tries: the first may go while
/// addresses are still being resolved.
fn reaches(from: &TestNetns, to: &[String]) -> Result<bool> {
    for address in to {
        if !(pings(from, address)? || pings(from, address)?) {
            eprintln!("{address} does not answer");
            return Ok(false);
        }
    }
    Ok(true)
}

fn examine(kind: &str, pods: usize) -> Result<Reach> {
    let setup = TestNode::with(kind, pods)?;
    let (node, machine) = (&setup.node, &setup.machine);
    if kind.contains("l3") {
        announce(&setup)?;
    }
    let agent = TestAgent::start(node, &["--metrics-address", "off"])?;
    agent.run(&["uplink", "add", UPLINK])?;
    let ids: Vec<u64> = setup
        .pods
        .iter()
        .map(|pod| agent.attach(pod, POD_INTERFACE))
        .collect::<Result<_>>()?;
    let pod = &setup.pods[0];
    wait_until("the pod to reach another machine", || {
        reaches(pod, &MACHINE.map(String::from))
    })?;
    let before = agent.stats(ids[0])?;
    let machine_reached = reaches(machine, &addresses(0))?;
    let after = agent.stats(ids[0])?;
    for direction in ["ingress", "egress"] {
        // One request or answer for each family at least.
        ensure!(
            !machine_reached || packets(&after, direction)? >= packets(&before, direction)? + 2,
            "{direction}: {before} {after}"
        );
    }
    let reach = Reach {
        node_to_pod: reaches(node, &addresses(0))?,
        pod_to_node: reaches(pod, &NODE.map(String::from))?,
        pod_to_pod: pods > 1 && reaches(pod, &addresses(1))?,
        machine: machine_reached,
    };
    Ok(reach)
}

/// All reach all.
const ALL: Reach = Reach {
    node_to_pod: true,
    pod_to_node: true,
    pod_to_pod: true,
    machine: true,
};
/// Siblings stay apart, as the mode has it.
const APART: Reach = Reach {
    pod_to_pod: false,
    ..ALL
};

fn check(kind: &str, pods: usize, expected: Reach) -> Result<()> {
    let found = examine(kind, pods)?;
    ensure!(found == expected, "{kind}: {found:?}, not {expected:?}");
    Ok(())
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn macvlan_bridge() -> Result<()> {
    check("macvlan mode bridge", 2, ALL)
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn macvlan_private() -> Result<()> {
    check("macvlan mode private", 2, APART)
}

/// The switch at the other end of the wire would have to send frames between siblings back.
#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn macvlan_vepa() -> Result<()> {
    check("macvlan mode vepa", 2, APART)
}

/// The pod has the uplink to itself, its MAC address included: nothing that arrives there reaches
/// the node.
#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn macvlan_passthru() -> Result<()> {
    let only_the_wire = Reach {
        node_to_pod: false,
        pod_to_node: false,
        ..APART
    };
    check("macvlan mode passthru", 1, only_the_wire)
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn ipvlan_l2() -> Result<()> {
    check("ipvlan mode l2", 2, ALL)
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn ipvlan_l2_private() -> Result<()> {
    check("ipvlan mode l2 private", 2, APART)
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn ipvlan_l3() -> Result<()> {
    check("ipvlan mode l3", 2, ALL)
}

/// What arrives in this mode passes no TC hook of the pod's interface: counters would stay at zero
/// and a policy for ingress would do nothing, so the interface is refused.
#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn ipvlan_l3s_is_refused() -> Result<()> {
    let setup = TestNode::with("ipvlan mode l3s", 1)?;
    let agent = TestAgent::start(&setup.node, &["--metrics-address", "off"])?;
    let error = agent
        .attach(&setup.pods[0], POD_INTERFACE)
        .unwrap_err()
        .to_string();
    ensure!(
        error.contains("mode l3s") && error.contains("use mode l2 or l3"),
        "{error}"
    );
    Ok(())
}
