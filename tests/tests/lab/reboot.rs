//! A node that reboots with pods on it: the machine is booted twice, and Sluice's records are in a
//! folder that outlives it.

use std::{env, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::{
    agent::TestAgent,
    cni::{call::Call, chain::Chain, sandbox::Sandbox},
    netns::TestNetns,
    node::pings,
    poll::wait_until,
};

use crate::card::{Card, PF};

/// Kept by the lab from one boot to the next.
const KEPT: &str = "/results/keep";
const BLOCKED: &str = "192.0.2.0/24";

/// A node whose configuration makes its functions, and whose pods get them by CNI.
struct Node {
    card: Card,
    agent: TestAgent,
    sandbox: Sandbox,
}

impl Node {
    fn start() -> Result<Self> {
        let card = Card::up()?;
        card.node.add_address(PF, "10.97.0.1/24")?;
        let kept = Path::new(KEPT);
        let config = kept.join("config.toml");
        fs::write(
            &config,
            "[[nics]]\ndriver = \"igb\"\nnum_vfs = 2\nuplink = true\n",
        )?;
        let mut agent = TestAgent::prepare(&card.node, &["--metrics-address", "off"])?;
        agent.set_state(&kept.join("state"));
        agent.set_config(&config);
        agent.restart()?;
        Ok(Self {
            sandbox: Sandbox::new(&card.node, &agent)?,
            agent,
            card,
        })
    }

    /// Lends a function with settings to a pod, as the same container in each boot; the pod answers.
    fn add(&self, function: u32, pod: &TestNetns) -> Result<()> {
        let address = format!("10.97.0.1{function}");
        let plugin = json!({
            "type": "sluice",
            "mode": "sriov",
            "deviceID": self.card.address(function)?,
            "mac": format!("02:00:00:00:97:0{function}"),
            "spoofchk": "off",
            "trust": "on",
            "ipam": {"type": "static", "addresses": [{"address": format!("{address}/24")}]},
        });
        let chain = Chain::of("1.0.0", "fast", &[plugin]);
        chain.add(&self.sandbox, &call("ADD", function, pod))?;
        let at_pf = self.at_pf(function)?;
        ensure!(
            at_pf["trust"] == true && at_pf["spoofchk"] == false,
            "{at_pf}"
        );
        wait_until("the pod to answer", || pings(&self.card.node, &address))
    }

    /// What the card says of a function, but for the MAC address that it gives at random.
    fn at_pf(&self, function: u32) -> Result<Value> {
        let pf = self.card.node.describe(PF)?;
        let functions = pf["vfinfo_list"].as_array().context("no functions")?;
        let found = functions.iter().find(|found| found["vf"] == function);
        let mut found = found.context("no such function")?.clone();
        if let Some(fields) = found.as_object_mut() {
            fields.remove("address");
        }
        Ok(found)
    }

    /// The names of the records of one kind.
    fn records(&self, kind: &str) -> Result<Vec<String>> {
        let folder = self.agent.state().join(kind);
        let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names: Result<Vec<_>> = names.collect();
        Ok(names?
            .into_iter()
            .filter(|name| name.ends_with(".json"))
            .collect())
    }
}

fn call(verb: &str, function: u32, pod: &TestNetns) -> Call {
    let container = format!("pod-{function}");
    Call::new(verb, &container, &pod.path().display().to_string(), "net1")
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn a_node_that_reboots_has_its_functions_as_new_and_lends_them_again() -> Result<()> {
    let boot = env::var("SLUICE_LAB_BOOT")
        .context("this test runs in the lab only: cargo xtask test --lab")?;
    let node = Node::start()?;
    let fresh = [node.at_pf(0)?, node.at_pf(1)?];
    let pods = [TestNetns::new()?, TestNetns::new()?];
    let before = Path::new(KEPT).join("before.json");
    if boot == "1" {
        fs::write(&before, serde_json::to_vec(&fresh)?)?;
        node.agent.run(&["block", "add", BLOCKED])?;
        node.add(0, &pods[0])?;
        node.add(1, &pods[1])?;
        ensure!(node.records("cni")?.len() == 2);
        ensure!(node.records("endpoints")?.len() == 2);
        // The machine goes down under all this: nobody says DEL, nobody stops the agent.
        std::mem::forget((node, pods));
        return Ok(());
    }

    let first: Value = serde_json::from_slice(&fs::read(&before)?)?;
    ensure!(first == json!(fresh), "{first} became {fresh:?}");
    let endpoints = node.agent.json(&["endpoints"])?;
    ensure!(endpoints == json!([]), "{endpoints}");
    for kind in ["cni", "endpoints"] {
        let records = node.records(kind)?;
        ensure!(records.is_empty(), "{kind}: {records:?}");
    }
    let status = node.agent.json(&["status"])?;
    ensure!(status["problems"] == json!([]), "{status}");
    let uplinks = node.agent.json(&["uplink", "list"])?;
    ensure!(uplinks[0]["interface"] == PF, "{uplinks}");
    ensure!(uplinks[0]["state"] == "attached", "{uplinks}");
    let blocked = node.agent.json(&["block", "list"])?.to_string();
    ensure!(blocked.contains(BLOCKED), "{blocked}");
    for function in 0..2 {
        node.add(function, &pods[usize::try_from(function)?])?;
    }
    // A DEL of the first boot's, which its runtime never came to.
    let gone = TestNetns::new()?;
    let late = call("DEL", 7, &gone);
    Chain::of(
        "1.0.0",
        "fast",
        &[json!({"type": "sluice", "mode": "sriov"})],
    )
    .del(&node.sandbox, &late, None)?;
    ensure!(node.records("cni")?.len() == 2);
    Ok(())
}
