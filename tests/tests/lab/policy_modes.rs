//! Policy on every kind of interface: what is allowed, what is not, answers, a change under way; and
//! a pod that takes its interface out of the programs' sight.

use std::{net::SocketAddr, thread};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use sluice_tests::{
    agent::TestAgent,
    netns::TestNetns,
    node::{MACHINE, POD_INTERFACE, TestNode, UPLINK, addresses, announce, pings},
    policy::{PolicyFolder, namespace, pod, policy},
    poll::wait_until,
    service::{Conversation, Server, tcp_connects, udp_answers},
};

use crate::card::{Card, PF};

/// Whether pods of one parent reach each other where nothing forbids it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Siblings {
    Together,
    Apart,
}

/// The server `x/a`, its sibling `x/b`, and a machine that is no pod.
struct Place<'a> {
    node: &'a TestNetns,
    machine: &'a TestNetns,
    pods: &'a [TestNetns],
    siblings: Siblings,
}

/// Who asks whom on which port, and whether the policy lets them.
type Probe<'a> = (&'a TestNetns, [String; 2], u16, bool);

/// Over TCP and UDP, IPv4 and IPv6, all at once.
fn probe(what: &str, probes: &[Probe<'_>]) -> Result<()> {
    thread::scope(|scope| {
        let mut running = Vec::new();
        for (from, to, port, expected) in probes {
            for address in to {
                let target = SocketAddr::new(address.parse()?, *port);
                for protocol in ["tcp", "udp"] {
                    running.push(scope.spawn(move || {
                        let found = match protocol {
                            "tcp" => tcp_connects(from, target, *expected)?,
                            _ => udp_answers(from, target, *expected)?,
                        };
                        let from = from.name();
                        ensure!(
                            found == *expected,
                            "{what}: {from} to {target} {protocol}: passes {found}"
                        );
                        Ok(())
                    }));
                }
            }
        }
        for probe in running {
            probe.join().unwrap_or_else(|_| bail!("a probe panicked"))?;
        }
        Ok(())
    })
}

/// Packets that policy kept from an endpoint, or from leaving it.
fn denied(agent: &TestAgent, endpoint: u64, direction: &str) -> Result<u64> {
    let stats = agent.stats(endpoint)?;
    let drops = stats["drops"].as_array().context("no drops")?;
    let denied = drops
        .iter()
        .filter(|drop| drop["reason"] == "policy_denied" && drop["direction"] == direction);
    Ok(denied.filter_map(|drop| drop["packets"].as_u64()).sum())
}

fn machine_block() -> Value {
    let [v4, v6] = MACHINE;
    json!([{"ipBlock": {"cidr": format!("{v4}/32")}}, {"ipBlock": {"cidr": format!("{v6}/128")}}])
}

fn both(port: u16) -> Value {
    json!([{"port": port}, {"port": port, "protocol": "UDP"}])
}

/// The machine may ask the server on port 80.
fn first() -> Value {
    let server = json!({"matchLabels": {"pod": "a"}});
    let rules = json!([{"from": machine_block(), "ports": both(80)}]);
    policy("x", "p", json!({"podSelector": server, "ingress": rules}))
}

/// The machine on 81, the sibling on 80; and the server may ask the machine on 80.
fn second() -> Value {
    let spec = json!({
        "podSelector": {"matchLabels": {"pod": "a"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": machine_block(), "ports": both(81)},
            {"from": [{"podSelector": {"matchLabels": {"pod": "b"}}}], "ports": both(80)},
        ],
        "egress": [{"to": machine_block(), "ports": both(80)}],
    });
    policy("x", "p", spec)
}

impl Place<'_> {
    fn check(&self) -> Result<()> {
        let folder = PolicyFolder::new()?;
        let objects = [namespace("x"), pod(0, "x", "a"), pod(1, "x", "b")];
        folder.write("cluster.yaml", &objects)?;
        folder.write("policy.yaml", &[first()])?;
        let path = folder.path();
        let options = ["--metrics-address", "off", "--policy-dir", &path];
        let agent = TestAgent::start(self.node, &options)?;
        let mut ids = Vec::new();
        for (netns, name) in self.pods.iter().zip(["x/a", "x/b"]) {
            let netns = netns.name();
            let attach = ["attach", "--netns", netns, POD_INTERFACE, "--pod", name];
            let id = agent.json(&attach)?["id"].as_u64();
            ids.push(id.context("endpoint without id")?);
        }
        let (machine, server) = (self.machine, &self.pods[0]);
        // Echo requests leave; what answers them is an answer.
        for address in MACHINE {
            wait_until("the server to reach the machine", || pings(server, address))?;
        }
        let _servers = [Server::start(server)?, Server::start(machine)?];
        let to_machine = MACHINE.map(String::from);
        let sibling = self.pods.get(1);

        let mut probes = vec![
            (machine, addresses(0), 80, true),
            (machine, addresses(0), 81, false),
            (server, to_machine.clone(), 80, true),
            (server, to_machine.clone(), 81, true),
        ];
        probes.extend(sibling.map(|sibling| (sibling, addresses(0), 80, false)));
        probe("the first policy", &probes)?;
        ensure!(denied(&agent, ids[0], "ingress")? > 0, "nothing was denied");
        ensure!(denied(&agent, ids[0], "egress")? == 0, "egress is open");

        let conversations: Vec<_> = addresses(0)
            .iter()
            .map(|address| Conversation::new(machine, SocketAddr::new(address.parse()?, 80)))
            .collect::<Result<_>>()?;
        for conversation in &conversations {
            ensure!(conversation.goes_on(true)?, "an allowed conversation");
        }
        folder.write("policy.yaml", &[second()])?;
        wait_until("the second policy to be in force", || {
            let shown = agent.json(&["policy", "show", &ids[0].to_string()])?;
            Ok(shown.to_string().contains("81/udp"))
        })?;
        let goes_on = thread::scope(|scope| {
            let asking = conversations.iter();
            let asking: Vec<_> = asking
                .map(|conversation| scope.spawn(|| conversation.goes_on(false)))
                .collect();
            asking
                .into_iter()
                .map(|asking| asking.join().unwrap_or_else(|_| bail!("panicked")))
                .collect::<Result<Vec<_>>>()
        })?;
        ensure!(
            goes_on == [false, false],
            "a conversation goes on under a policy that forbids it: {goes_on:?}"
        );
        let mut probes = vec![
            (machine, addresses(0), 80, false),
            (machine, addresses(0), 81, true),
            (server, to_machine.clone(), 80, true),
            (server, to_machine, 81, false),
        ];
        let together = self.siblings == Siblings::Together;
        probes.extend(sibling.map(|sibling| (sibling, addresses(0), 80, together)));
        probe("the second policy", &probes)?;
        ensure!(denied(&agent, ids[0], "egress")? > 0, "nothing was denied");
        Ok(())
    }
}

fn check(kind: &str, pods: usize, siblings: Siblings) -> Result<()> {
    let setup = TestNode::with(kind, pods)?;
    if kind.contains("l3") {
        announce(&setup)?;
    }
    let place = Place {
        node: &setup.node,
        machine: &setup.machine,
        pods: &setup.pods,
        siblings,
    };
    place.check().with_context(|| kind.to_owned())
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn macvlan_bridge() -> Result<()> {
    check("macvlan mode bridge", 2, Siblings::Together)
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn macvlan_private() -> Result<()> {
    check("macvlan mode private", 2, Siblings::Apart)
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn macvlan_vepa() -> Result<()> {
    check("macvlan mode vepa", 2, Siblings::Apart)
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn macvlan_passthru() -> Result<()> {
    check("macvlan mode passthru", 1, Siblings::Apart)
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn ipvlan_l2() -> Result<()> {
    check("ipvlan mode l2", 2, Siblings::Together)
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn ipvlan_l2_private() -> Result<()> {
    check("ipvlan mode l2 private", 2, Siblings::Apart)
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn ipvlan_l3() -> Result<()> {
    check("ipvlan mode l3", 2, Siblings::Together)
}

/// The card's own switch is between them all; the machine is behind a function of its own.
#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn virtual_functions() -> Result<()> {
    let card = Card::up()?;
    let own = [addresses(0), addresses(1), MACHINE.map(String::from)];
    let mut pods = Vec::new();
    for (function, own) in card.functions(3)?.iter().zip(own) {
        let pod = TestNetns::new()?;
        let rename = format!(
            "link set {function} netns {} name {POD_INTERFACE}",
            pod.name()
        );
        card.node.ip(&rename)?;
        pod.set_up(POD_INTERFACE)?;
        pod.wait_carrier(POD_INTERFACE)?;
        for (address, bits) in own.iter().zip([24, 64]) {
            pod.add_address(POD_INTERFACE, &format!("{address}/{bits}"))?;
        }
        pods.push(pod);
    }
    let place = Place {
        node: &card.node,
        machine: &pods[2],
        pods: &pods[..2],
        siblings: Siblings::Together,
    };
    place.check().with_context(|| format!("functions of {PF}"))
}

/// In mode l3s what arrives passes no hook of the interface. That is the parent's mode: one pod
/// switches all.
#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn a_pod_that_switches_its_ipvlan_to_l3s_is_switched_back() -> Result<()> {
    for (mode, others) in [("l2", "l3"), ("l3", "l2")] {
        let node = TestNode::with(&format!("ipvlan mode {mode}"), 2)?;
        let mut agent = TestAgent::start(&node.node, &["--metrics-address", "off"])?;
        let id = agent.attach(&node.pods[0], POD_INTERFACE)?;
        agent.attach(&node.pods[1], POD_INTERFACE)?;
        let back = |agent: &TestAgent, before: u64| {
            wait_until("the mode to be set back", || {
                let stats = agent.json(&["stats"])?;
                let modes = node.pods.iter().map(|pod| {
                    let link = pod.describe(POD_INTERFACE)?;
                    Ok(link["linkinfo"]["info_data"]["mode"].clone())
                });
                let modes: Vec<_> = modes.collect::<Result<_>>()?;
                Ok(modes.iter().all(|found| found == mode)
                    && stats["repairs"].as_u64() > Some(before))
            })
        };
        let switch = format!("link set dev {POD_INTERFACE} type ipvlan mode l3s");
        let mut before = 0;
        for pod in &node.pods {
            pod.ip(&switch)?;
            back(&agent, before).with_context(|| format!("out of {mode}"))?;
            before = agent.json(&["stats"])?["repairs"].as_u64().unwrap_or(0);
        }
        let status = agent.json(&["status"])?["problems"].to_string();
        let told = format!("endpoint {id} ({POD_INTERFACE}): found in ipvlan mode l3s");
        ensure!(status.contains(&told), "{status}");

        // While no agent watches, and through another mode.
        agent.kill()?;
        node.pods[0].ip(&format!(
            "link set dev {POD_INTERFACE} type ipvlan mode {others}"
        ))?;
        node.pods[0].ip(&switch)?;
        agent.restart()?;
        back(&agent, 0).with_context(|| format!("out of {mode}, without an agent"))?;
        // A third child, made in that mode, that is no endpoint.
        node.pods[1].ip(&format!(
            "link add link {POD_INTERFACE} name more type ipvlan mode l3s"
        ))?;
        let before = agent.json(&["stats"])?["repairs"].as_u64().unwrap_or(0);
        back(&agent, before.saturating_sub(1)).context("by another interface")?;
        ensure!(!node.node.ip(&format!("link show {UPLINK}"))?.is_empty());
    }
    Ok(())
}
