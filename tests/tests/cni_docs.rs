//! Every configuration in `docs/cni.md` and `deploy/multus/`, given to the plugin on a node that
//! has the interface they name.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sluice_tests::cni::{
    PLUGIN,
    chain::Chain,
    node::{CniNode, CniPod, INTERFACE},
};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The lists in fenced `json` blocks.
fn fenced(text: &str) -> Result<Vec<Value>> {
    text.split("```json\n")
        .skip(1)
        .map(|rest| {
            let (block, _) = rest.split_once("```").context("an open block")?;
            serde_json::from_str(block).with_context(|| block.to_owned())
        })
        .collect()
}

/// The lists in network attachment definitions: the literal block below `config`.
fn attachments(text: &str) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.trim() != "config: |" {
            continue;
        }
        let indent = |line: &str| line.len() - line.trim_start().len();
        let outer = indent(line);
        let mut block = String::new();
        while let Some(line) = lines.next_if(|line| indent(line) > outer) {
            block.push_str(line);
            block.push('\n');
        }
        found.push(serde_json::from_str(&block).with_context(|| block.clone())?);
    }
    Ok(found)
}

/// What the plugin says to a list on this node: nothing, or an error of the node rather than of the
/// configuration, such as a device that is not there.
fn accepted(node: &CniNode, list: &Value) -> Result<bool> {
    let pod = CniPod::new("pod-1")?;
    let chain = Chain::new(list.clone());
    let mut configurations = chain.configurations(None)?;
    let (plugin, mut config) = configurations.pop().context("an empty list")?;
    ensure!(plugin == PLUGIN, "the last plugin is not ours: {plugin}");
    if config["mode"] == "sriov" && config["deviceID"].is_null() {
        // As Multus does for a network with a resource.
        config["deviceID"] = json!("0000:3b:00.2");
    }
    if !configurations.is_empty() {
        // What the plugins before ours would have made.
        node.node
            .node
            .add_macvlan("eth1", &pod.netns, INTERFACE, "bridge")?;
        config["prevResult"] = json!({
            "cniVersion": config["cniVersion"],
            "interfaces": [{"name": INTERFACE, "sandbox": pod.netns.path().display().to_string()}],
        });
    }
    let reply = pod.call("ADD").run(&node.sandbox, PLUGIN, &config)?;
    if reply.output.status.success() {
        assert!(pod.protected(INTERFACE)?);
        pod.call("CHECK")
            .run(&node.sandbox, PLUGIN, &{
                config["prevResult"] = reply.result()?;
                config.clone()
            })?
            .result()?;
        pod.call("DEL")
            .run(&node.sandbox, PLUGIN, &config)?
            .result()?;
        return Ok(true);
    }
    match reply.error()? {
        (100.., _) => Ok(false),
        (code, text) => bail!("{code}: {text}\n{list:#}"),
    }
}

#[test]
fn every_documented_configuration_is_accepted() -> Result<()> {
    let node = CniNode::new()?;
    node.node
        .node
        .add_veth("eth1", &node.node.machine, "eth1")?;
    let (interface, mtu) = ("eth1", "9000");
    node.node
        .node
        .ip(&format!("link set {interface} mtu {mtu}"))?;
    node.node
        .machine
        .ip(&format!("link set {interface} mtu {mtu}"))?;
    node.node.node.add_address("eth1", "10.56.0.1/16")?;
    // No distribution packages it; any IPAM plugin is one to ours.
    node.sandbox.script(
        "whereabouts",
        "#!/bin/sh\ncat > /dev/null\n[ $CNI_COMMAND != ADD ] || \
         echo '{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.58.0.9/16\"}]}'\n",
    )?;
    let text = fs::read_to_string(repository().join("docs/cni.md"))?;
    let mut lists = fenced(&text)?;
    ensure!(lists.len() == 6, "{} lists in docs/cni.md", lists.len());
    lists.extend(attachments(&text)?);
    for entry in fs::read_dir(repository().join("deploy/multus"))? {
        let found = attachments(&fs::read_to_string(entry?.path())?)?;
        ensure!(!found.is_empty(), "a file without a configuration");
        lists.extend(found);
    }
    let mut complete = 0;
    for list in &lists {
        if accepted(&node, list)? {
            complete += 1;
        }
    }
    println!(
        "{} configurations, {complete} of them added a pod",
        lists.len()
    );
    // Two chained and one main in the page, one each in the folder: those of macvlan.
    ensure!(complete >= 5, "only {complete} added a pod");
    Ok(())
}
