//! The RDMA subsystem's mode, and what else of a node's hardware the configuration declares: set by
//! Sluice itself, `rdma` and sysfs being the witnesses; and what is in the way of a change.

use std::{fs, os::unix::fs::MetadataExt as _, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sluice_tests::{
    agent::TestAgent,
    netns::{TestNetns, output},
    poll::wait_until,
};

use crate::{
    card::{Card, PF},
    hardware::{QUIET, interfaces, refused},
};

const MODES: [&str; 2] = ["shared", "exclusive"];

/// The mode, as `rdma` says it.
fn mode() -> Result<&'static str> {
    let system = output(Command::new("rdma").arg("system"))?;
    let word = system.split_whitespace().nth(1).context("no mode")?;
    let known = MODES.into_iter().find(|mode| *mode == word);
    known.with_context(|| format!("mode {word}"))
}

/// The other mode than the present one.
fn other() -> Result<&'static str> {
    let present = mode()?;
    let other = MODES.into_iter().find(|mode| *mode != present);
    other.context("only one mode")
}

/// Sets the mode by the command, once the namespaces of earlier tests have ended.
fn set(agent: &TestAgent, mode: &str) -> Result<()> {
    wait_until(&format!("the mode to become {mode}"), || {
        let output = agent.output(&["rdma", "mode", mode])?;
        Ok(output.status.success())
    })
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn the_mode_is_set_by_the_command_unless_a_namespace_is_in_the_way() -> Result<()> {
    let card = Card::up()?;
    let agent = TestAgent::start(&card.node, &QUIET)?;
    let first = mode()?;
    for wanted in [other()?, first] {
        set(&agent, wanted)?;
        ensure!(mode()? == wanted, "{} after {wanted}", mode()?);
        let shown = agent.json(&["rdma", "show"])?;
        ensure!(shown["mode"] == wanted, "{shown}");
    }

    let pod = TestNetns::new()?;
    let words = [pod.name(), "in the way", "modprobe.d", "reboot"];
    refused(&agent, &["rdma", "mode", other()?], 5, &words)?;
    ensure!(mode()? == first, "changed all the same");
    pod.remove()?;
    let sleeper = TestNetns::new()?;
    let process = sleeper.spawn("sleep", &["1000"])?;
    let unnamed = format!("process {}", process.id());
    let inside = fs::metadata(sleeper.path())?;
    wait_until("the process to be in the namespace", || {
        let its = fs::metadata(format!("/proc/{}/ns/net", process.id()))?;
        Ok(its.ino() == inside.ino())
    })?;
    // With its name only: the process lives on.
    output(Command::new("ip").args(["netns", "delete", sleeper.name()]))?;
    refused(&agent, &["rdma", "mode", other()?], 5, &[&unnamed])?;
    drop(process);
    set(&agent, other()?)?;
    set(&agent, first)
}

fn problems(agent: &TestAgent) -> Result<String> {
    Ok(agent.json(&["status"])?["problems"].to_string())
}

fn indexes(card: &Card, pf: &Value) -> Result<Vec<Value>> {
    let names = interfaces(pf)?;
    let index = |name: &String| Ok(card.node.describe(name)?["ifindex"].clone());
    names.iter().map(index).collect()
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn the_configuration_makes_functions_uplinks_and_the_mode_at_start() -> Result<()> {
    let card = Card::up()?;
    card.node.ip(&format!("link set {PF} down"))?;
    let first = mode()?;
    let wanted = other()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("config.toml");
    let configure = |mode: &str, functions: u32| {
        fs::write(
            &file,
            format!(
                "rdma_mode = \"{mode}\"\n\
                 [[nics]]\ndriver = \"igb\"\nvendor = \"8086\"\nnum_vfs = {functions}\nuplink = true\n\
                 [[nics]]\nname = \"eth9\"\nnum_vfs = 1\n"
            ),
        )
    };
    let mut agent = TestAgent::start(&card.node, &QUIET)?;
    // The namespaces of earlier tests have ended when this is done.
    set(&agent, wanted)?;
    set(&agent, first)?;
    agent.kill()?;

    configure(wanted, 2)?;
    agent.set_config(&file);
    agent.restart()?;
    ensure!(mode()? == wanted, "{}", problems(&agent)?);
    let pf = agent.json(&["sriov", "show"])?[0].clone();
    ensure!(interfaces(&pf)?.len() == 2, "{pf}");
    // The card starts anew when XDP is attached to it, after the agent had waited for its carrier.
    wait_until("the PF's carrier", || {
        Ok(agent.json(&["sriov", "show"])?[0]["carrier"] == true)
    })?;
    let uplinks = agent.json(&["uplink", "list"])?;
    ensure!(uplinks[0]["interface"] == PF, "{uplinks}");
    ensure!(uplinks[0]["state"] == "attached", "{uplinks}");
    let told = problems(&agent)?;
    ensure!(
        told.contains("eth9") && !told.contains("rdma_mode"),
        "{told}"
    );

    // What is as it should be is left alone.
    let before = indexes(&card, &pf)?;
    agent.kill()?;
    agent.restart()?;
    ensure!(indexes(&card, &pf)? == before, "made anew");

    // What cannot be done is told, and stops nothing.
    let pod = TestNetns::new()?;
    let [name, _] = &interfaces(&pf)?[..] else {
        anyhow::bail!("{pf}");
    };
    card.node
        .ip(&format!("link set {name} netns {}", pod.name()))?;
    agent.kill()?;
    configure(first, 3)?;
    agent.restart()?;
    let told = problems(&agent)?;
    for word in ["rdma_mode", pod.name(), "end their users first"] {
        ensure!(told.contains(word), "no {word} in {told}");
    }
    ensure!(mode()? == wanted, "changed all the same");
    let pf = agent.json(&["sriov", "show"])?[0].clone();
    ensure!(pf["vfs"].as_array().map(Vec::len) == Some(2), "{pf}");
    agent.attach(&pod, name)?;
    pod.remove()?;
    set(&agent, first)
}
