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
