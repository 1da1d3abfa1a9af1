//! The unit in `deploy`: sound by systemd's own judgement, and what it leaves
//! the agent suffices. systemd itself does not run here.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sluice_tests::{
    agent::{TestAgent, binary, install},
    cni::{call::Call, chain::Chain, sandbox::Sandbox},
    netns::TestNetns,
    node::{MACHINE, NODE, POD_INTERFACE, TestNode, UPLINK, addresses, pings},
};

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/sluice.service");
/// Where the unit expects the binary.
const INSTALLED: &str = "/usr/local/bin/sluice";

#[test]
fn systemd_has_nothing_against_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let unit = fs::read_to_string(UNIT)?;
    ensure!(unit.contains(INSTALLED), "{unit}");
    let copy = folder.path().join("sluice.service");
    let there = binary()?.display().to_string();
    fs::write(&copy, unit.replace(INSTALLED, &there))?;
    let mut command = Command::new("systemd-analyze");
    let judged = command.arg("verify").arg(&copy).output()?;
    let told = [judged.stdout, judged.stderr].concat();
    ensure!(
        judged.status.success() && told.is_empty(),
        "{}",
        String::from_utf8_lossy(&told)
    );
    Ok(())
}

/// A script that runs the binary under test with the unit's capabilities only.
fn confined(folder: &Path) -> Result<std::path::PathBuf> {
    let unit = fs::read_to_string(UNIT)?;
    let capabilities = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .context("no CapabilityBoundingSet")?;
    let set: Vec<_> = capabilities
        .split_whitespace()
        .map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    ensure!(unit.contains("\nNoNewPrivileges=yes\n"), "{unit}");
    let written = folder.join("written");
    let text = format!(
        "#!/bin/sh\nexec setpriv --no-new-privs --bounding-set=-all{} -- {} \"$@\"\n",
        set.concat(),
        binary()?.display()
    );
    fs::write(&written, text)?;
    let script = folder.join("sluice");
    install(&written, &script)?;
    Ok(script)
}

#[test]
fn its_capabilities_suffice() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let setup = TestNode::new(1)?;
    let mut agent = TestAgent::prepare(&setup.node, &["--metrics-address", "off"])?;
    agent.set_binary(confined(folder.path())?);
    agent.restart()?;
    let status = fs::read_to_string(format!("/proc/{}/status", agent.id()?))?;
    let held = status.lines().find(|line| line.starts_with("CapBnd:"));
    // CAP_SYS_CHROOT, number 18, is not the unit's.
    let held = held.and_then(|line| line.split_whitespace().nth(1));
    let held = u64::from_str_radix(held.context("no CapBnd")?, 16)?;
    ensure!(held & 1 << 18 == 0, "the agent is not confined: {held:x}");

    agent.run(&["uplink", "add", UPLINK])?;
    agent.attach(&setup.pods[0], POD_INTERFACE)?;
    let [address, _] = addresses(0);
    ensure!(pings(&setup.node, &address)?, "no host reach");
    agent.run(&["block", "add", "10.78.0.254/32"])?;
    ensure!(!pings(&setup.machine, NODE[0])?, "not blocked");
    agent.run(&["block", "del", "10.78.0.254/32"])?;
    agent.kill()?;
    agent.restart()?;
    let endpoints = agent.json(&["endpoints"])?;
    ensure!(endpoints[0]["state"] == "attached", "{endpoints}");

    // A pod's interface made from nothing, its address asked for on the wire.
    let sandbox = Sandbox::new(&setup.node, &agent)?;
    let pod = TestNetns::new()?;
    let path = pod.path().display().to_string();
    let plugin = json!({
        "type": "sluice",
        "mode": "macvlan",
        "master": UPLINK,
        "ipam": {"type": "static", "addresses": [{"address": "10.78.0.77/24"}]},
    });
    let chain = Chain::of("1.0.0", "net", &[plugin]);
    let added = chain.add(&sandbox, &Call::new("ADD", "pod-1", &path, "net1"))?;
    ensure!(pings(&pod, MACHINE[0])?, "{added}");
    chain.del(
        &sandbox,
        &Call::new("DEL", "pod-1", &path, "net1"),
        Some(&added),
    )?;
    let endpoints = agent.json(&["endpoints"])?;
    ensure!(endpoints.as_array().map(Vec::len) == Some(1), "{endpoints}");
    agent.run(&["uplink", "del", UPLINK])?;
    Ok(())
}
