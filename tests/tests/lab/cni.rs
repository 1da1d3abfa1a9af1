//! The CNI plugin as the main plugin for virtual functions: lent with settings, taken back as they
//! were, whatever happens in between.

use std::{fs, thread};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use sluice_tests::{
    agent::TestAgent,
    cni::{call::Call, chain::Chain, sandbox::Sandbox, with_failpoints},
    netns::TestNetns,
    node::pings,
    poll::wait_until,
};

use crate::card::{Card, PF};

/// A node that lends functions by CNI.
pub(crate) struct Node {
    pub(crate) card: Card,
    pub(crate) agent: TestAgent,
    pub(crate) sandbox: Sandbox,
    functions: Vec<String>,
}

impl Node {
    pub(crate) fn new(functions: u32) -> Result<Self> {
        let card = Card::up()?;
        let functions = card.functions(functions)?;
        let agent = TestAgent::start(&card.node, &["--metrics-address", "off"])?;
        Ok(Self {
            sandbox: Sandbox::new(&card.node, &agent)?,
            functions,
            agent,
            card,
        })
    }

    /// With binaries that have failpoints.
    pub(crate) fn with_failpoints(functions: u32) -> Result<Self> {
        let card = Card::up()?;
        let functions = card.functions(functions)?;
        let mut agent = TestAgent::prepare(&card.node, &["--metrics-address", "off"])?;
        let folder = with_failpoints()?;
        agent.set_binary(folder.join("sluice"));
        agent.restart()?;
        Ok(Self {
            sandbox: Sandbox::with_plugin(&card.node, &agent, &folder.join("sluice-cni"))?,
            functions,
            agent,
            card,
        })
    }

    /// The chain that lends a function with every setting that the card knows. One that is not
    /// trusted cannot have its MAC address set from its own side.
    pub(crate) fn chain(&self, function: u32, address: &str, trust: &str) -> Result<Chain> {
        let plugin = json!({
            "type": "sluice",
            "mode": "sriov",
            "deviceID": self.card.address(function)?,
            "mac": format!("02:00:00:00:00:0{function}"),
            "vlan": 100,
            "spoofchk": "off",
            "trust": trust,
            "max_tx_rate": 100,
            "ipam": {"type": "static", "addresses": [{"address": format!("{address}/24")}]},
        });
        Ok(Chain::of("1.0.0", "fast", &[plugin]))
    }

    /// What the card and the node say of a function that is on the node.
    pub(crate) fn state(&self, function: u32) -> Result<[Value; 4]> {
        let at_pf = self.at_pf(function)?;
        let name = &self.functions[usize::try_from(function)?];
        let netdev = self.card.node.describe(name)?;
        Ok([
            at_pf,
            netdev["address"].clone(),
            netdev["mtu"].clone(),
            netdev["ifname"].clone(),
        ])
    }

    /// What the card says of a function.
    fn at_pf(&self, function: u32) -> Result<Value> {
        let pf = self.card.node.describe(PF)?;
        let functions = pf["vfinfo_list"].as_array().context("no functions")?;
        let found = functions.iter().find(|found| found["vf"] == function);
        found.cloned().context("no such function")
    }
}

pub(crate) fn call(verb: &str, container: &str, pod: &TestNetns) -> Call {
    Call::new(verb, container, &pod.path().display().to_string(), "net1")
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn functions_are_lent_with_settings_and_come_back_as_they_were() -> Result<()> {
    let mut node = Node::new(2)?;
    let before = [node.state(0)?, node.state(1)?];
    let pods = [TestNetns::new()?, TestNetns::new()?];
    let chains = [
        node.chain(0, "10.96.0.10", "on")?,
        node.chain(1, "10.96.0.11", "off")?,
    ];
    let mut added = Vec::new();
    for (number, (chain, pod)) in chains.iter().zip(&pods).enumerate() {
        let call = call("ADD", &format!("pod-{number}"), pod);
        added.push(chain.add(&node.sandbox, &call)?);
        let at_pf = node.at_pf(u32::try_from(number)?)?;
        ensure!(at_pf["vlan_list"][0]["vlan"] == 100, "{at_pf}");
        ensure!(
            at_pf["spoofchk"] == false
                && at_pf["trust"] == (number == 0)
                && at_pf["rate"]["max_tx"] == 100,
            "{at_pf}"
        );
        ensure!(
            at_pf["address"] == format!("02:00:00:00:00:0{number}"),
            "{at_pf}"
        );
    }
    wait_until("the pods to reach each other", || {
        pings(&pods[0], "10.96.0.11")
    })?;
    let endpoints = node.agent.json(&["endpoints"])?;
    ensure!(endpoints.as_array().map(Vec::len) == Some(2), "{endpoints}");

    // A function in use is not lent again.
    let other = TestNetns::new()?;
    let refused = chains[0].add(&node.sandbox, &call("ADD", "another", &other));
    let text = format!("{:#}", refused.unwrap_err());
    ensure!(text.contains("pod-0"), "{text}");

    node.agent.kill()?;
    node.agent.restart()?;
    for (number, (chain, pod)) in chains.iter().zip(&pods).enumerate() {
        let call = call("DEL", &format!("pod-{number}"), pod);
        chain.del(&node.sandbox, &call, Some(&added[number]))?;
        let after = node.state(u32::try_from(number)?)?;
        ensure!(
            after == before[number],
            "{after:?} was {:?}",
            before[number]
        );
    }
    Ok(())
}

/// Several pods are promised the same function at the same moment.
#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn of_many_pods_that_want_one_function_one_gets_it() -> Result<()> {
    let node = Node::new(1)?;
    let before = node.state(0)?;
    let chain = node.chain(0, "10.96.0.10", "on")?;
    let pods: Vec<_> = (0..4).map(|_| TestNetns::new()).collect::<Result<_>>()?;
    let named = |verb, number: usize| call(verb, &format!("pod-{number}"), &pods[number]);
    let added: Vec<Result<Value>> = thread::scope(|scope| {
        let adding: Vec<_> = (0..pods.len())
            .map(|number| {
                let call = named("ADD", number);
                let (chain, sandbox) = (&chain, &node.sandbox);
                scope.spawn(move || chain.add(sandbox, &call))
            })
            .collect();
        let added = adding.into_iter().map(|thread| thread.join());
        added
            .map(|added| added.unwrap_or_else(|_| bail!("an ADD panicked")))
            .collect()
    });
    let winners: Vec<_> = (0..pods.len()).filter(|&at| added[at].is_ok()).collect();
    let [winner] = winners[..] else {
        bail!("{winners:?} got it: {added:?}");
    };
    // What ends the others takes nothing from it.
    for number in (0..pods.len()).filter(|&number| number != winner) {
        chain.del(&node.sandbox, &named("DEL", number), None)?;
        ensure!(
            pods[number].describe("net1").is_err(),
            "pod-{number} has it"
        );
    }
    pods[winner].describe("net1")?;
    let result = added[winner].as_ref().ok();
    chain.del(&node.sandbox, &named("DEL", winner), result)?;
    let after = node.state(0)?;
    ensure!(after == before, "{after:?} was {before:?}");
    Ok(())
}

/// Without any DEL.
#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn a_function_whose_pod_dies_comes_back_as_it_was() -> Result<()> {
    let mut node = Node::new(1)?;
    let before = node.state(0)?;
    for (alive, trust) in [(true, "on"), (true, "off"), (false, "on"), (false, "off")] {
        let pod = TestNetns::new()?;
        let chain = node.chain(0, "10.96.0.10", trust)?;
        chain.add(&node.sandbox, &call("ADD", "pod", &pod))?;
        if !alive {
            node.agent.kill()?;
        }
        pod.remove()?;
        if !alive {
            node.agent.restart()?;
        }
        wait_until("the function to be as it was", || {
            Ok(node.state(0).is_ok_and(|state| state == before))
        })
        .with_context(|| format!("agent alive: {alive}, trust {trust}; {:?}", node.at_pf(0)))?;
        let links = fs::read_dir(node.agent.pins().join("links"))?.count();
        ensure!(links == 0, "{links} links left");
    }
    Ok(())
}

/// What a reboot leaves of the agent is its files. The card keeps the pod's settings here, as one
/// with settings in its firmware may.
#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn after_a_reboot_with_a_boot_id_file_of_the_tests_own_functions_are_as_they_were() -> Result<()> {
    let mut node = Node::new(1)?;
    let before = node.state(0)?;
    let chain = node.chain(0, "10.96.0.10", "on")?;
    let pod = TestNetns::new()?;
    chain.add(&node.sandbox, &call("ADD", "pod", &pod))?;
    node.agent.kill()?;
    pod.remove()?;
    node.card.function(0)?;
    fs::remove_dir_all(node.agent.pins().parent().context("no folder")?)?;
    let boot_id = node.sandbox.folder().join("boot_id");
    fs::write(&boot_id, "00000000-0000-4000-8000-000000000000\n")?;
    node.agent.set_mounts(&format!(
        "mount --bind {} /proc/sys/kernel/random/boot_id",
        boot_id.display()
    ));
    node.agent.restart()?;
    let after = node.state(0)?;
    ensure!(after == before, "{after:?} was {before:?}");
    let pod = TestNetns::new()?;
    let added = chain.add(&node.sandbox, &call("ADD", "pod", &pod))?;
    chain.del(&node.sandbox, &call("DEL", "pod", &pod), Some(&added))?;
    let after = node.state(0)?;
    ensure!(after == before, "{after:?} was {before:?}");
    Ok(())
}
