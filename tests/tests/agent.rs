//! The life of an agent: attaching, counting, dying, coming back.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluice_tests::{
    agent::{TestAgent, mechanisms},
    netns::{TestNetns, output},
    node::{NODE, POD_INTERFACE, TestNode, UPLINK, addresses, pings},
    poll::wait_until,
    traffic::Stream,
};

fn packets(stats: &Value, direction: &str) -> Result<u64> {
    stats[direction]["packets"].as_u64().context("no packets")
}

fn kill_under_load(options: &[&str]) -> Result<()> {
    let setup = TestNode::quiet_pair()?;
    let mut agent = TestAgent::start(&setup.node, options)?;
    let sender = agent.attach(&setup.pods[0], POD_INTERFACE)?;
    let receiver = agent.attach(&setup.pods[1], POD_INTERFACE)?;
    let base = (
        packets(&agent.stats(sender)?, "egress")?,
        packets(&agent.stats(receiver)?, "ingress")?,
    );
    let [address, _] = addresses(1);
    let stream = Stream::start(&setup.pods[0], &setup.pods[1], &address)?;
    let pipeline = agent.json(&["status"])?["pipeline"].clone();
    for round in 1..=5 {
        let before = stream.sent();
        agent.kill()?;
        wait_until("traffic while no agent runs", || {
            Ok(stream.sent() > before + 200)
        })?;
        agent
            .restart()
            .with_context(|| format!("restart {round}"))?;
        let before = stream.sent();
        wait_until("traffic under the new agent", || {
            Ok(stream.sent() > before + 200)
        })?;
    }
    let (sent, received) = stream.stop();
    ensure!(sent == received, "sent {sent}, received {received}");
    let counted = (
        packets(&agent.stats(sender)?, "egress")? - base.0,
        packets(&agent.stats(receiver)?, "ingress")? - base.1,
    );
    ensure!(
        counted == (sent, received),
        "counted {counted:?}, sent {sent}"
    );
    ensure!(agent.json(&["status"])?["pipeline"] == pipeline);
    let endpoints = agent.json(&["endpoints"])?;
    ensure!(endpoints.as_array().map(Vec::len) == Some(2), "{endpoints}");
    Ok(())
}

#[test]
fn kill_9_under_load_loses_no_packet_and_no_count() -> Result<()> {
    for mechanism in mechanisms() {
        kill_under_load(&["--metrics-address", "off", "--tc", mechanism]).context(*mechanism)?;
    }
    Ok(())
}

#[test]
fn attaching_twice_is_attaching_once_by_any_name_of_the_namespace() -> Result<()> {
    for mechanism in mechanisms() {
        attach_twice(mechanism).context(*mechanism)?;
    }
    Ok(())
}

fn attach_twice(mechanism: &str) -> Result<()> {
    let setup = TestNode::new(1)?;
    let pod = &setup.pods[0];
    let agent = TestAgent::start(
        &setup.node,
        &["--metrics-address", "off", "--tc", mechanism],
    )?;
    let id = agent.attach(pod, POD_INTERFACE)?;
    let path = pod.path().display().to_string();
    let inside = pod.spawn("sleep", &["60"])?;
    let pid = format!("pid:{}", inside.id());
    for name in [pod.name(), &path, &pid] {
        let again = agent.json(&[
            "attach",
            "--netns",
            name,
            POD_INTERFACE,
            "--pod",
            "default/web-0",
        ])?;
        ensure!(again["id"] == id, "{name}: {again}");
        ensure!(again["pod"]["name"] == "web-0", "{again}");
    }
    let expected = if mechanism == "tcx" { (2, 0) } else { (0, 2) };
    let attached = attachments(&agent, pod)?;
    ensure!(attached == expected, "{attached:?}");
    agent.run(&["detach", &id.to_string()])?;
    let attached = attachments(&agent, pod)?;
    ensure!(attached == (0, 0), "{attached:?} left");
    Ok(())
}

/// Pinned links of the agent, and TC filters on a pod's interface.
fn attachments(agent: &TestAgent, pod: &TestNetns) -> Result<(usize, usize)> {
    let links = fs::read_dir(agent.pins().join("links"))?.count();
    let mut filters = 0;
    for direction in ["ingress", "egress"] {
        let shown = pod.run("tc", &["filter", "show", "dev", POD_INTERFACE, direction])?;
        filters += shown.matches("handle 0x51ce").count();
    }
    Ok((links, filters))
}

#[test]
fn detaching_leaves_nothing_and_the_id_starts_from_zero() -> Result<()> {
    for mechanism in mechanisms() {
        let setup = TestNode::new(1)?;
        let pod = &setup.pods[0];
        let agent = TestAgent::start(
            &setup.node,
            &["--metrics-address", "off", "--tc", mechanism],
        )?;
        let id = agent.attach(pod, POD_INTERFACE)?;
        ensure!(pings(pod, "10.78.0.254")?);
        ensure!(packets(&agent.stats(id)?, "egress")? > 0);
        agent.run(&["detach", &id.to_string()])?;
        let attached = attachments(&agent, pod)?;
        ensure!(attached == (0, 0), "{attached:?} left");
        pod.set_sysctl(&format!("ipv6/conf/{POD_INTERFACE}/disable_ipv6"), "1")?;
        ensure!(agent.attach(pod, POD_INTERFACE)? == id, "another id");
        let stats = agent.stats(id)?;
        ensure!(packets(&stats, "egress")? == 0, "{stats}");
    }
    Ok(())
}

#[test]
fn an_interface_or_namespace_that_vanishes_is_forgotten() -> Result<()> {
    for mechanism in mechanisms() {
        vanish(mechanism).context(*mechanism)?;
    }
    Ok(())
}

fn vanish(mechanism: &str) -> Result<()> {
    let mut setup = TestNode::new(3)?;
    let agent = TestAgent::start(
        &setup.node,
        &["--metrics-address", "off", "--tc", mechanism],
    )?;
    for pod in &setup.pods {
        agent.attach(pod, POD_INTERFACE)?;
    }
    let count = || -> Result<usize> {
        let endpoints = agent.json(&["endpoints"])?;
        Ok(endpoints.as_array().context("no list")?.len())
    };
    ensure!(count()? == 3);
    setup.pods[0].delete_link(POD_INTERFACE)?;
    wait_until("the endpoint without interface to go", || Ok(count()? == 2))?;
    let gone = setup.pods.remove(1);
    gone.remove()?;
    wait_until("the endpoint without namespace to go", || Ok(count()? == 1))?;
    let links = if mechanism == "tcx" { 2 } else { 0 };
    wait_until("the pins to go", || {
        Ok(fs::read_dir(agent.pins().join("links"))?.count() == links)
    })
}

#[test]
fn what_vanishes_while_no_agent_runs_is_cleared_away_at_start() -> Result<()> {
    for mechanism in mechanisms() {
        vanish_unseen(mechanism).context(*mechanism)?;
    }
    Ok(())
}

fn vanish_unseen(mechanism: &str) -> Result<()> {
    let setup = TestNode::new(2)?;
    let mut agent = TestAgent::start(
        &setup.node,
        &["--metrics-address", "off", "--tc", mechanism],
    )?;
    agent.run(&["uplink", "add", UPLINK])?;
    for pod in &setup.pods {
        agent.attach(pod, POD_INTERFACE)?;
    }
    agent.kill()?;
    setup.pods[0].delete_link(POD_INTERFACE)?;
    agent.restart()?;
    let endpoints = agent.json(&["endpoints"])?;
    ensure!(endpoints.as_array().map(Vec::len) == Some(1), "{endpoints}");
    let mut links: Vec<_> = fs::read_dir(agent.pins().join("links"))?
        .map(|entry| entry.map(|entry| entry.file_name().into_string().unwrap_or_default()))
        .collect::<std::io::Result<_>>()?;
    links.sort();
    let expected: &[&str] = if mechanism == "tcx" {
        &[
            "endpoint2_egress",
            "endpoint2_ingress",
            "uplink0_egress",
            "uplink0_xdp",
        ]
    } else {
        &["uplink0_xdp"]
    };
    ensure!(links == expected, "{links:?}");
    let [address, _] = addresses(1);
    ensure!(
        pings(&setup.node, &address)?,
        "host reach after the restart"
    );
    Ok(())
}

#[test]
fn what_was_taken_away_while_no_agent_ran_is_put_back() -> Result<()> {
    for mechanism in mechanisms() {
        take_away(mechanism).context(*mechanism)?;
    }
    Ok(())
}

fn take_away(mechanism: &str) -> Result<()> {
    let setup = TestNode::new(1)?;
    let pod = &setup.pods[0];
    let mut agent = TestAgent::start(
        &setup.node,
        &["--metrics-address", "off", "--tc", mechanism],
    )?;
    let id = agent.attach(pod, POD_INTERFACE)?;
    agent.kill()?;
    if mechanism == "tcx" {
        fs::remove_file(agent.pins().join("links/endpoint1_egress"))?;
    } else {
        pod.run("tc", &["qdisc", "del", "dev", POD_INTERFACE, "clsact"])?;
    }
    agent.restart()?;
    let before = packets(&agent.stats(id)?, "egress")?;
    ensure!(pings(pod, "10.78.0.254")?);
    ensure!(packets(&agent.stats(id)?, "egress")? > before);
    Ok(())
}

#[test]
fn malformed_packets_are_dropped_by_name_and_told_of() -> Result<()> {
    let setup = TestNode::quiet_pair()?;
    let agent = TestAgent::start(&setup.node, &["--metrics-address", "off"])?;
    let id = agent.attach(&setup.pods[0], POD_INTERFACE)?;
    let events = setup.node.command("timeout");
    let mut events = events;
    events
        .arg("20")
        .arg(sluice_tests::agent::binary()?)
        .arg("--socket")
        .arg(agent.socket())
        .args(["events", "--count", "1", "-o", "json"])
        .stdout(std::process::Stdio::piped());
    let listener = events.spawn()?;
    // Sent until the listener has heard one: it may connect late.
    let sender = setup.pods[0].spawn(
        "python3",
        &[
            "-c",
            "import socket,time\n\
             s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW)\n\
             s.bind(('net1',0))\n\
             f=bytes.fromhex('ffffffffffff020000000001080044')+bytes(30)\n\
             while True:\n\
             \x20try: s.send(f)\n\
             \x20except OSError: pass\n\
             \x20time.sleep(.05)",
        ],
    )?;
    let heard = listener.wait_with_output()?;
    drop(sender);
    let event: Value = serde_json::from_slice(&heard.stdout)?;
    ensure!(event["kind"] == "drop", "{event}");
    ensure!(event["reason"] == "ipv4_malformed", "{event}");
    ensure!(event["direction"] == "egress", "{event}");
    ensure!(event["interface"] == POD_INTERFACE, "{event}");
    let drops = agent.stats(id)?["drops"].clone();
    ensure!(drops[0]["reason"] == "ipv4_malformed", "{drops}");
    ensure!(
        drops[0]["bytes"].as_u64() == drops[0]["packets"].as_u64().map(|n| n * 45),
        "{drops}"
    );
    Ok(())
}

#[test]
fn blocked_prefixes_are_stopped_at_the_uplink_and_counted() -> Result<()> {
    let setup = TestNode::new(1)?;
    let mut agent = TestAgent::start(&setup.node, &["--metrics-address", "off"])?;
    agent.run(&["uplink", "add", UPLINK])?;
    ensure!(pings(&setup.machine, NODE[0])? && pings(&setup.machine, NODE[1])?);
    agent.run(&["block", "add", "10.78.0.128/25"])?;
    agent.run(&["block", "add", "fd78::254/128"])?;
    ensure!(!pings(&setup.machine, NODE[0])?, "IPv4 passes");
    ensure!(!pings(&setup.machine, NODE[1])?, "IPv6 passes");
    // The list outlives the agent, in force and on record.
    agent.kill()?;
    ensure!(
        !pings(&setup.machine, NODE[0])?,
        "IPv4 passes without an agent"
    );
    agent.restart()?;
    let blocks = agent.json(&["block", "list"])?;
    let blocks = blocks.as_array().context("no list")?;
    ensure!(blocks.len() == 2, "{blocks:?}");
    for block in blocks {
        ensure!(block["packets"].as_u64() > Some(0), "{block}");
    }
    let drops = agent.json(&["stats"])?["uplinks"][0]["drops"].clone();
    ensure!(drops[0]["reason"] == "block_list", "{drops}");
    agent.run(&["block", "del", "10.78.0.128/25"])?;
    agent.run(&["block", "del", "fd78::254/128"])?;
    wait_until("the other machine to be heard again", || {
        Ok(pings(&setup.machine, NODE[0])? && pings(&setup.machine, NODE[1])?)
    })
}

#[test]
fn bpftool_shows_the_maps_with_their_fields() -> Result<()> {
    let setup = TestNode::new(1)?;
    let agent = TestAgent::start(&setup.node, &["--metrics-address", "off"])?;
    let id = agent.attach(&setup.pods[0], POD_INTERFACE)?;
    let dump = |map: &str| -> Result<String> {
        let mut command = std::process::Command::new("bpftool");
        command
            .args(["map", "dump", "pinned"])
            .arg(agent.pins().join(map));
        output(&mut command)
    };
    let stats = dump("ep_stats")?;
    ensure!(
        stats.contains("\"packets\"") && stats.contains("\"bytes\""),
        "{stats}"
    );
    let endpoints = dump("endpoints")?;
    ensure!(endpoints.contains("\"policy_epoch\""), "{endpoints}");
    // Every pinned map has its command, below words that tell what it shows, and every command runs.
    let text = agent.run(&["bpf"])?;
    let commands: Vec<(&str, &str)> = text
        .lines()
        .zip(text.lines().skip(1))
        .filter(|(_, command)| command.starts_with("bpftool "))
        .collect();
    for pin in fs::read_dir(agent.pins())? {
        let pin = pin?;
        if pin.file_type()?.is_dir() {
            continue;
        }
        let path = format!(" pinned {}", pin.path().display());
        let found = commands
            .iter()
            .find(|(_, command)| command.ends_with(&path));
        let (words, _) = found.with_context(|| format!("nothing about{path} in:\n{text}"))?;
        ensure!(words.starts_with("# ") && !words.contains("another version"));
    }
    for (_, command) in commands {
        let mut shell = std::process::Command::new("sh");
        output(shell.args(["-c", command]))?;
    }
    agent.run(&["detach", &id.to_string()])?;
    Ok(())
}

/// A pod with all capabilities in its namespace cannot take the links away.
#[test]
fn a_pod_cannot_detach_its_tcx_links() -> Result<()> {
    let setup = TestNode::new(1)?;
    let pod: &TestNetns = &setup.pods[0];
    let options = ["--metrics-address", "off", "--tc", "tcx"];
    if !mechanisms().contains(&"tcx") {
        let refused = TestAgent::start(&setup.node, &options).unwrap_err();
        let text = format!("{refused:#}");
        ensure!(
            text.contains("has no TCX (Linux 6.6 and newer have); set tc to auto or clsact"),
            "{text}"
        );
        return Ok(());
    }
    let agent = TestAgent::start(&setup.node, &options)?;
    let id = agent.attach(pod, POD_INTERFACE)?;
    for attempt in [
        vec!["qdisc", "del", "dev", POD_INTERFACE, "clsact"],
        vec!["filter", "del", "dev", POD_INTERFACE, "egress"],
        vec!["qdisc", "add", "dev", POD_INTERFACE, "clsact"],
    ] {
        // Whatever the answer: the programs must stay.
        let _ = pod.run("tc", &attempt);
    }
    let before = packets(&agent.stats(id)?, "egress")?;
    ensure!(pings(pod, "10.78.0.254")?);
    ensure!(packets(&agent.stats(id)?, "egress")? > before);
    Ok(())
}

/// On clsact it can, and finds them back.
#[test]
fn filters_that_a_pod_removes_are_put_back() -> Result<()> {
    let setup = TestNode::new(1)?;
    let pod = &setup.pods[0];
    let agent = TestAgent::start(&setup.node, &["--metrics-address", "off", "--tc", "clsact"])?;
    let id = agent.attach(pod, POD_INTERFACE)?;
    for round in 1..=3 {
        pod.run("tc", &["qdisc", "del", "dev", POD_INTERFACE, "clsact"])?;
        wait_until("both filters to be back", || {
            Ok(agent.json(&["stats"])?["repairs"] == round * 2)
        })?;
        let before = packets(&agent.stats(id)?, "egress")?;
        ensure!(pings(pod, "10.78.0.254")?);
        ensure!(packets(&agent.stats(id)?, "egress")? > before);
    }
    Ok(())
}
