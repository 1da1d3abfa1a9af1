//! Whose RDMA objects are, and what a soft-RoCE device counts, with the kernel's own answers: in the
//! RDMA subsystem's mode that the machine was booted for.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{
    agent::TestAgent,
    netns::{TestNetns, output},
    node::pings,
    poll::wait_until,
    prometheus::http_get,
};

use crate::{
    card::{Card, PF},
    rxe::{Rxe, exclusive, succeeded},
};

const METRICS: &str = "127.0.0.1:9655";
const UID: &str = "0f0f4d9e-3a5c-4a7f-9d62-7c1b2a3d4e5f";

/// A process that has a queue pair of a device, waiting for a peer that never comes; ended when
/// dropped.
struct Holding(Child);

impl Holding {
    fn start(netns: &TestNetns, device: &str, port: u32, cgroup: Option<PathBuf>) -> Result<Self> {
        let mut command = netns.command("ibv_rc_pingpong");
        command
            .args(["-d", device, "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if let Some(folder) = cgroup {
            // SAFETY: between fork and exec only a file is written, by system calls.
            unsafe {
                command.pre_exec(move || fs::write(folder.join("cgroup.procs"), "0"));
            }
        }
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        // It may have ended on its own.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The folder of a container of a pod that is in the node's network, as containerd and a kubelet
/// with the cgroupfs driver make it; gone when dropped.
struct HostPod {
    mount: tempfile::TempDir,
}

impl HostPod {
    fn new() -> Result<Self> {
        let pod = Self {
            mount: tempfile::tempdir()?,
        };
        let path = pod.mount.path();
        output(
            Command::new("mount")
                .args(["-t", "cgroup2", "none"])
                .arg(path),
        )?;
        fs::create_dir_all(pod.container())?;
        Ok(pod)
    }

    fn container(&self) -> PathBuf {
        let id = "ab".repeat(32);
        self.mount
            .path()
            .join(format!("kubepods/burstable/pod{UID}/{id}"))
    }
}

impl Drop for HostPod {
    fn drop(&mut self) {
        let container = self.container();
        let folders = container
            .ancestors()
            .take_while(|folder| *folder != self.mount.path());
        for folder in folders.map(Path::to_path_buf).collect::<Vec<_>>() {
            let _ = fs::remove_dir(folder);
        }
        let _ = Command::new("umount").arg(self.mount.path()).status();
    }
}

/// Numbers of queue pairs by device and owner, without those of the kernel.
fn owners(agent: &TestAgent) -> Result<BTreeMap<(String, String), u64>> {
    let resources = agent.json(&["rdma", "resources"])?;
    let mut found = BTreeMap::new();
    for held in resources["holdings"].as_array().context("no list")? {
        let text = |field: &str| held[field].as_str().unwrap_or_default().to_owned();
        let owner = match text("owner").as_str() {
            "kernel" => continue,
            "pod" => match held["pod"]["name"].as_str() {
                Some(name) => name.to_owned(),
                None => text("uid"),
            },
            other => other.to_owned(),
        };
        if held["kind"] == "qp" {
            let count = held["count"].as_u64().context("no number")?;
            found.insert((text("device"), owner), count);
        }
    }
    Ok(found)
}

fn has(agent: &TestAgent, expected: &[(&str, &str)]) -> Result<()> {
    let expected: BTreeMap<_, _> = expected
        .iter()
        .map(|(device, owner)| (((*device).to_owned(), (*owner).to_owned()), 1))
        .collect();
    let mut last = BTreeMap::new();
    wait_until("queue pairs to have their owners", || {
        last = owners(agent)?;
        Ok(last == expected)
    })
    .with_context(|| format!("found {last:?}, expected {expected:?}"))
}

/// What people read of two pods with a queue pair on a device each, which may be in the pod's
/// namespace.
fn commands_show_them(
    agent: &TestAgent,
    pods: [&TestNetns; 2],
    devices: [&str; 2],
    own: bool,
) -> Result<()> {
    let all = agent.run(&["rdma", "resources"])?;
    let second = agent.run(&["rdma", "resources", "--pod", "lab/second"])?;
    for (pod, device, name) in [
        (pods[0], devices[0], "lab/first"),
        (pods[1], devices[1], "lab/second"),
    ] {
        let netns = if own {
            pod.reference().to_string()
        } else {
            "host".to_owned()
        };
        // Device, namespace, owner; then how many of each kind, or port, number, type, state.
        let lines = |text: &str| {
            let rows = text.lines().map(|line| line.split_whitespace().collect());
            rows.filter(|row: &Vec<&str>| row.contains(&device) && row.contains(&name))
                .map(|row| row.join(" "))
                .collect::<Vec<_>>()
        };
        let told = lines(&all);
        let held = format!("{device} {netns} {name} 1 ");
        ensure!(
            told.len() == 2
                && told[0].starts_with(&held)
                && told[1].starts_with(&format!("{device} 1 "))
                && told[1].contains(" RC ")
                && told[1].contains("ibv_rc_pingpong"),
            "{all}"
        );
        let shown = if name == "lab/second" { told } else { vec![] };
        ensure!(lines(&second) == shown, "{second}");
    }
    let ports = agent.json(&["rdma", "counters", "list"])?;
    let ports = ports.as_array().context("no list")?;
    for device in devices {
        let port = ports.iter().find(|port| port["device"] == device);
        let port = port.with_context(|| format!("no {device} in {ports:?}"))?;
        ensure!(port["port"] == 1 && port["driver"] == "rxe", "{port}");
        // Soft-RoCE has neither counter sets nor counters that can be switched.
        let none = port["counters"].as_array().is_some_and(Vec::is_empty);
        ensure!(none && port["sets"] == "off", "{port}");
    }
    let refused = agent.output(&["rdma", "counters", "enable", "cc_rx_ce_pkts"])?;
    let error = String::from_utf8(refused.stderr)?;
    ensure!(
        !refused.status.success() && error.contains("optional counter cc_rx_ce_pkts"),
        "{error}"
    );
    Ok(())
}

fn pods(card: &Card) -> Result<([TestNetns; 2], TestAgent)> {
    let pods = [TestNetns::new()?, TestNetns::new()?];
    for (pod, address) in pods.iter().zip(["10.93.0.11", "10.93.0.12"]) {
        card.node.add_macvlan(PF, pod, "net1", "bridge")?;
        pod.add_address("net1", &format!("{address}/24"))?;
    }
    wait_until("the pods to reach each other", || {
        pings(&pods[0], "10.93.0.12")
    })?;
    let agent = TestAgent::start(&card.node, &["--metrics-address", METRICS])?;
    for (pod, name) in pods.iter().zip(["lab/first", "lab/second"]) {
        agent.json(&["attach", "--netns", pod.name(), "net1", "--pod", name])?;
    }
    Ok((pods, agent))
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn queue_pairs_have_their_owners() -> Result<()> {
    let card = Card::up()?;
    let (pods, agent) = pods(&card)?;
    let first = Rxe::new(&card.node, &pods[0], "net1", "10.93.0.11")?;
    let second = Rxe::new(&card.node, &pods[1], "net1", "10.93.0.12")?;
    let (one, two) = (first.name.as_str(), second.name.as_str());
    let _first = Holding::start(&pods[0], one, 20001, None)?;
    let holding = Holding::start(&pods[1], two, 20002, None)?;
    has(&agent, &[(one, "first"), (two, "second")])?;
    let own = exclusive(&card.node)?;
    commands_show_them(&agent, [&pods[0], &pods[1]], [one, two], own)?;
    drop(holding);
    has(&agent, &[(one, "first")])?;
    if own {
        return Ok(());
    }
    // One device that both pods use, a process of the node, and a pod in the node's network.
    let host_pod = HostPod::new()?;
    let _second = Holding::start(&pods[1], one, 20003, None)?;
    let _node = Holding::start(&card.node, one, 20004, None)?;
    let _host = Holding::start(&card.node, one, 20005, Some(host_pod.container()))?;
    has(
        &agent,
        &[(one, "first"), (one, "second"), (one, "host"), (one, UID)],
    )?;
    let text = http_get(&card.node, METRICS, "/metrics")?;
    for owner in [
        "owner=\"pod\",namespace=\"lab\",pod=\"second\",pod_uid=\"\"".to_owned(),
        format!("owner=\"pod\",namespace=\"\",pod=\"\",pod_uid=\"{UID}\""),
        "owner=\"host\"".to_owned(),
    ] {
        let series = format!("sluice_rdma_resources{{device=\"{one}\",netns=\"host\",{owner}");
        let line = text
            .lines()
            .find(|line| line.starts_with(&series) && line.contains("kind=\"qp\""));
        ensure!(
            line.is_some_and(|line| line.ends_with(" 1")),
            "{series}\n{text}"
        );
    }
    Ok(())
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn ports_count_what_the_device_says() -> Result<()> {
    let card = Card::up()?;
    let (pods, agent) = pods(&card)?;
    let server = Rxe::new(&card.node, &pods[0], "net1", "10.93.0.11")?;
    let client = Rxe::new(&card.node, &pods[1], "net1", "10.93.0.12")?;
    let serving = server.serve("ib_send_bw")?;
    succeeded(&client.call("ib_send_bw", "10.93.0.11")?)?;
    serving.finish()?;
    for (device, pod) in [(&server, "first"), (&client, "second")] {
        let mut last = String::new();
        wait_until("the metrics to agree with the device", || {
            let text = http_get(&card.node, METRICS, "/metrics")?;
            let told = |direction: &str| -> Result<Option<u64>> {
                let name = &device.name;
                let start = format!("sluice_rdma_port_packets_total{{device=\"{name}\",port=\"1\"");
                let end = format!("source=\"hw\",direction=\"{direction}\"}} ");
                let value = text.lines().find_map(|line| {
                    line.strip_prefix(&start)?
                        .split_once(&end)
                        .map(|(_, value)| value)
                });
                Ok(value.map(str::parse).transpose()?)
            };
            // The agent looks for new devices every few seconds.
            let told = (told("ingress")?, told("egress")?);
            let counted = device.packets()?;
            let visible = format!("pod=\"{pod}\",uplink=\"\",visibility=\"wire\"");
            let visible = text.contains(&visible);
            last = format!("told {told:?}, counted {counted:?}, visible: {visible}");
            // 50 messages, and as many acknowledgements.
            let all = counted.0.min(counted.1) >= 50;
            Ok(visible && all && told == (Some(counted.0), Some(counted.1)))
        })
        .with_context(|| last)?;
    }
    let status = agent.json(&["status"])?;
    ensure!(status["roce"]["wire"] == 2, "{status}");
    Ok(())
}
