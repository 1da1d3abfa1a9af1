//! The plugin's verbs against a real agent: chained behind the reference macvlan plugin, and as the
//! main plugin.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::{
    agent::TestAgent,
    cni::{call::Call, chain::Chain, sandbox::Sandbox},
    netns::TestNetns,
    node::{TestNode, UPLINK, pings},
};

const ADDRESS: &str = "10.78.0.77";

/// A node with an agent, and a pod's namespace.
struct Setup {
    node: TestNode,
    pod: TestNetns,
    agent: TestAgent,
    sandbox: Sandbox,
}

impl Setup {
    fn new() -> Result<Self> {
        let node = TestNode::new(0)?;
        let agent = TestAgent::start(&node.node, &["--metrics-address", "off"])?;
        Ok(Self {
            pod: TestNetns::new()?,
            sandbox: Sandbox::new(&node.node, &agent)?,
            agent,
            node,
        })
    }

    fn call(&self, verb: &str) -> Call {
        let path = self.pod.path().display().to_string();
        let mut call = Call::new(verb, "pod-1", &path, "net1");
        call.arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0".into();
        call
    }

    fn endpoints(&self) -> Result<Vec<Value>> {
        let endpoints = self.agent.json(&["endpoints"])?;
        endpoints.as_array().cloned().context("no list")
    }
}

fn static_ipam() -> Value {
    json!({
        "type": "static",
        "addresses": [{"address": format!("{ADDRESS}/24"), "gateway": "10.78.0.254"}],
        "routes": [{"dst": "10.99.0.0/16", "gw": "10.78.0.254"}],
    })
}

fn main_plugin() -> Value {
    json!({"type": "sluice", "mode": "macvlan", "master": UPLINK, "ipam": static_ipam()})
}

fn chained() -> Chain {
    Chain::of(
        "1.0.0",
        "net",
        &[
            json!({"type": "macvlan", "master": UPLINK, "ipam": static_ipam()}),
            json!({"type": "sluice"}),
        ],
    )
}

#[test]
fn chained_it_attaches_and_passes_the_result_on() -> Result<()> {
    let setup = Setup::new()?;
    let added = chained().add(&setup.sandbox, &setup.call("ADD"))?;
    ensure!(added["interfaces"][0]["name"] == "net1", "{added}");
    ensure!(added["cniVersion"] == "1.0.0", "{added}");
    let endpoints = setup.endpoints()?;
    ensure!(endpoints.len() == 1, "{endpoints:?}");
    ensure!(endpoints[0]["pod"]["name"] == "web-0", "{endpoints:?}");
    ensure!(pings(&setup.node.machine, ADDRESS)?, "{added}");
    chained().check(&setup.sandbox, &setup.call("CHECK"), &added)?;
    chained().del(&setup.sandbox, &setup.call("DEL"), Some(&added))?;
    ensure!(setup.endpoints()?.is_empty());
    Ok(())
}

#[test]
fn as_main_plugin_it_makes_the_interface_and_removes_it() -> Result<()> {
    let setup = Setup::new()?;
    let chain = Chain::of("1.0.0", "net", &[main_plugin()]);
    let added = chain.add(&setup.sandbox, &setup.call("ADD"))?;
    let interface = setup.pod.describe("net1")?;
    ensure!(
        added["interfaces"][0]["mac"] == interface["address"],
        "{added}"
    );
    ensure!(
        added["ips"][0]["address"] == format!("{ADDRESS}/24"),
        "{added}"
    );
    ensure!(pings(&setup.node.machine, ADDRESS)?, "{added}");
    let route = setup.pod.ip("route get 10.99.1.1")?;
    ensure!(route.contains("via 10.78.0.254 dev net1"), "{route}");

    let again = chain.add(&setup.sandbox, &setup.call("ADD"))?;
    ensure!(again == added, "{again} is not {added}");
    ensure!(setup.endpoints()?.len() == 1);

    chain.check(&setup.sandbox, &setup.call("CHECK"), &added)?;
    setup
        .pod
        .ip(&format!("address del {ADDRESS}/24 dev net1"))?;
    ensure!(
        chain
            .check(&setup.sandbox, &setup.call("CHECK"), &added)
            .is_err()
    );

    for _ in 0..2 {
        chain.del(&setup.sandbox, &setup.call("DEL"), Some(&added))?;
        ensure!(setup.pod.ip("link show net1").is_err());
        ensure!(setup.endpoints()?.is_empty());
    }
    Ok(())
}

#[test]
fn an_address_in_use_is_refused_and_nothing_stays() -> Result<()> {
    let setup = Setup::new()?;
    let add = || {
        let call = setup.call("ADD");
        let mut config = main_plugin();
        config["cniVersion"] = "1.0.0".into();
        config["name"] = "net".into();
        call.run(&setup.sandbox, "sluice", &config)
    };
    setup
        .node
        .machine
        .add_address("eth0", &format!("{ADDRESS}/32"))?;
    let (code, words) = add()?.error()?;
    ensure!(code == 102 && words.contains(ADDRESS), "{code}: {words}");
    ensure!(setup.pod.ip("link show net1").is_err());
    ensure!(setup.endpoints()?.is_empty());
    ensure!(records(&setup)? == 0);
    setup
        .node
        .machine
        .ip(&format!("address del {ADDRESS}/32 dev eth0"))?;
    add()?.result()?;
    Ok(())
}

/// Records of attachments that the agent keeps.
fn records(setup: &Setup) -> Result<usize> {
    let mut records = 0;
    for entry in std::fs::read_dir(setup.agent.state().join("cni"))? {
        records += usize::from(entry?.file_type()?.is_file());
    }
    Ok(records)
}

#[test]
fn a_second_interface_answers_and_routes_for_itself() -> Result<()> {
    let setup = Setup::new()?;
    let add = |interface: &str, address: &str| {
        let mut call = setup.call("ADD");
        call.interface = interface.into();
        let mut plugin = main_plugin();
        plugin["ipam"]["addresses"][0]["address"] = format!("{address}/24").into();
        plugin["ipam"]["routes"] = json!([]);
        let chain = Chain::of("1.0.0", "net", &[plugin]);
        let added = chain.add(&setup.sandbox, &call)?;
        Ok::<_, anyhow::Error>((chain, call, added))
    };
    add("net1", "10.78.0.77")?;
    let (chain, mut call, added) = add("net2", "10.78.0.78")?;
    let route = setup.pod.ip("route get 10.78.0.254 from 10.78.0.78")?;
    ensure!(route.contains("dev net2"), "{route}");
    let route = setup.pod.ip("route get 10.99.0.1 from 10.78.0.78")?;
    ensure!(route.contains("via 10.78.0.254 dev net2"), "{route}");
    for address in ["10.78.0.77", "10.78.0.78"] {
        ensure!(pings(&setup.node.machine, address)?, "{address}");
    }
    // Each address is answered for by its own interface.
    let neighbor = setup.node.machine.ip("neighbor show 10.78.0.78")?;
    let mac = setup.pod.describe("net2")?["address"].clone();
    let mac = mac.as_str().context("no MAC address")?;
    ensure!(neighbor.contains(mac), "{neighbor}, not {mac}");
    call.verb = "DEL".into();
    chain.del(&setup.sandbox, &call, Some(&added))?;
    let rules = setup.pod.ip("rule show")?;
    ensure!(!rules.contains("10.78.0.78"), "{rules}");
    Ok(())
}

#[test]
fn a_del_while_no_agent_runs_is_made_up_for() -> Result<()> {
    let mut setup = Setup::new()?;
    let chain = Chain::of("1.0.0", "net", &[main_plugin()]);
    let added = chain.add(&setup.sandbox, &setup.call("ADD"))?;
    setup.agent.kill()?;
    let replies = chain.configurations(None)?;
    let (plugin, config) = replies.first().context("no plugin")?;
    let (code, words) = setup
        .call("ADD")
        .run(&setup.sandbox, plugin, config)?
        .error()?;
    ensure!(code == 11, "{code}: {words}");
    chain.del(&setup.sandbox, &setup.call("DEL"), Some(&added))?;
    let tombstones = setup.agent.state().join("cni/tombstones");
    let left = || Ok::<_, std::io::Error>(std::fs::read_dir(&tombstones)?.count());
    ensure!(left()? == 1);
    setup.agent.restart()?;
    ensure!(left()? == 0);
    ensure!(setup.pod.ip("link show net1").is_err());
    ensure!(setup.endpoints()?.is_empty());
    ensure!(records(&setup)? == 0);
    Ok(())
}

#[test]
fn gc_removes_what_is_not_in_use() -> Result<()> {
    let setup = Setup::new()?;
    let add = |interface: &str, address: &str| {
        let mut call = setup.call("ADD");
        call.interface = interface.into();
        let mut plugin = main_plugin();
        plugin["ipam"]["addresses"][0]["address"] = format!("{address}/24").into();
        plugin["ipam"]["routes"] = json!([]);
        Chain::of("1.0.0", "net", &[plugin]).add(&setup.sandbox, &call)
    };
    add("net1", "10.78.0.77")?;
    add("net2", "10.78.0.78")?;
    let mut call = Call::new("GC", "", "", "");
    call.netns = None;
    let collect = |network: &str| {
        let config = json!({
            "cniVersion": "1.1.0", "name": network, "type": "sluice", "mode": "macvlan",
            "cni.dev/valid-attachments": [{"containerID": "pod-1", "ifname": "net2"}],
        });
        call.run(&setup.sandbox, "sluice", &config)?.result()
    };
    collect("another")?;
    ensure!(setup.endpoints()?.len() == 2);
    collect("net")?;
    let endpoints = setup.endpoints()?;
    ensure!(endpoints.len() == 1, "{endpoints:?}");
    ensure!(endpoints[0]["interface"] == "net2", "{endpoints:?}");
    ensure!(setup.pod.ip("link show net1").is_err());
    Ok(())
}

#[test]
fn a_container_that_vanishes_is_forgotten() -> Result<()> {
    let setup = Setup::new()?;
    let chain = Chain::of("1.0.0", "net", &[main_plugin()]);
    let added = chain.add(&setup.sandbox, &setup.call("ADD"))?;
    let (del, mut gone) = (setup.call("DEL"), setup.call("DEL"));
    let Setup {
        pod,
        agent,
        sandbox,
        node,
    } = setup;
    pod.remove()?;
    gone.netns = None;
    for call in [del, gone] {
        chain.del(&sandbox, &call, Some(&added))?;
    }
    ensure!(
        agent
            .json(&["endpoints"])?
            .as_array()
            .is_some_and(Vec::is_empty)
    );
    drop(node);
    Ok(())
}
