//! How long a change of policy takes until packets go by it: of the kernel's maps alone, and from
//! the change of a manifest on, with reading and compiling it.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use dataplane::kernel::{IdentityPrefix, Sizes};
use dataplane_ebpf::abi::{Direction, DropReason, EndpointConfig, PolicyKey, PolicyRule, identity};
use serde_json::{Value, json};
use sluice_tests::{
    agent::TestAgent,
    judge::{Judge, Verdict},
    node::{POD_INTERFACE, TestNode, addresses},
    packets::{Frame, tcp_flags},
    policy::{Cluster, PolicyFolder, namespace, pod, policy},
    poll::wait_until,
};

use super::prefix;
use crate::{
    interrupt,
    row::{Bar, Row},
    sys,
};

const PREFIXES: u32 = 10_000;
const ENDPOINTS: u32 = 500;
const SAMPLES: u32 = 15;
const PORT: u16 = 7000;
const TCP: u8 = 6;
const SYN: u8 = 2;

pub(crate) fn measure() -> Result<Vec<Row>> {
    sys::pin_to_cpu(0)?;
    Ok(vec![one_endpoint()?, many_endpoints()?, manifest()?])
}

/// One endpoint whose policy gets 10,000 prefixes that nothing has named before: from the first
/// system call to the verdict on a packet that only the new policy allows.
fn one_endpoint() -> Result<Row> {
    let judge = Judge::new(1)?;
    let maps = judge.kernel().maps();
    let pod = Ipv4Addr::new(192, 168, 0, 1);
    let mut samples = Vec::new();
    for sample in 0..SAMPLES {
        interrupt::check()?;
        judge.isolate(1, Direction::Ingress, &[])?;
        let class = identity::FIRST + sample;
        let mut identities = Vec::new();
        for number in 0..PREFIXES {
            let cidr = IdentityPrefix::Cidr(prefix(number)?.into());
            identities.push((cidr, Some(class)));
        }
        let last = prefix(PREFIXES - 1)?.addr();
        let segment = tcp_flags(1000 + sample as u16, 80, SYN);
        let frame = Frame::between(last.into(), pod.into()).carry(TCP, &segment);
        let before = judge.run(1, Direction::Ingress, &frame)?;
        ensure!(
            before == Verdict::Drop(DropReason::PolicyDenied),
            "{before:?}"
        );

        let start = Instant::now();
        maps.policy().set_identities(&identities)?;
        let entry = (PolicyKey::port(class, TCP, 80), PolicyRule::default());
        judge.isolate(1, Direction::Ingress, &[entry])?;
        let after = judge.run(1, Direction::Ingress, &frame)?;
        let taken = start.elapsed();
        ensure!(after == Verdict::Pass, "{after:?}");
        samples.push(taken.as_secs_f64() * 1000.0);

        let gone: Vec<_> = identities.iter().map(|(cidr, _)| (*cidr, None)).collect();
        maps.policy().set_identities(&gone)?;
    }
    let name = "policy-change/10000-cidrs-from-maps-to-first-packet";
    Ok(Row::alone(name, "ms", &samples, Bar::AtMost(50.0)))
}

/// 500 endpoints that all change to the same policy: one map for all.
fn many_endpoints() -> Result<Row> {
    // No packets here, so no entry programs either.
    let judge = Judge::without_entries(Sizes::DEFAULT)?;
    let maps = judge.kernel().maps();
    let entries: Vec<_> = (0..100)
        .map(|number| {
            let key = PolicyKey::port(identity::FIRST + number, TCP, 80);
            (key, PolicyRule::default())
        })
        .collect();
    let mut samples = Vec::new();
    for _ in 0..SAMPLES {
        interrupt::check()?;
        let start = Instant::now();
        let policy = maps.policy().create_policy(&entries, 0)?;
        let slots: Vec<_> = (1..=ENDPOINTS)
            .map(|endpoint| (endpoint, Direction::Ingress, &policy))
            .collect();
        maps.policy().set_policy_slots(&slots)?;
        for endpoint in 1..=ENDPOINTS {
            maps.change_endpoint(endpoint, |config| {
                config.flags |= EndpointConfig::ENFORCE_INGRESS;
                config.policy_epoch += 1;
            })?;
        }
        samples.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    let mut used = BTreeSet::new();
    for endpoint in 1..=ENDPOINTS {
        let slot = maps
            .policy()
            .open_policy_slot(endpoint, Direction::Ingress)?;
        used.extend(slot.map(|policy| policy.id()));
    }
    ensure!(used.len() == 1, "{} inner maps for one policy", used.len());
    let name = "policy-change/500-endpoints-one-policy";
    Ok(Row::alone(name, "ms", &samples, Bar::None))
}

/// A manifest with 10,000 prefixes takes the place of one with none, in the folder of a running
/// agent: from then on to the first datagram that the new rules let in.
fn manifest() -> Result<Row> {
    let node = TestNode::quiet_pair()?;
    let folder = PolicyFolder::new()?;
    let objects = [namespace("a"), pod(0, "a", "server"), pod(1, "a", "client")];
    folder.write("pods.yaml", &objects)?;
    let [client, _] = addresses(1);
    let mut blocks = Vec::new();
    for number in 1..PREFIXES {
        blocks.push(json!({"ipBlock": {"cidr": prefix(number)?}}));
    }
    blocks.push(json!({"ipBlock": {"cidr": format!("{client}/32")}}));
    let closed = text(json!([]));
    let open = text(json!([{"from": blocks, "ports": [{"port": PORT, "protocol": "UDP"}]}]));
    folder.write_text("policy.yaml", &closed)?;
    let agent = TestAgent::start(&node.node, &["--policy-dir", &folder.path()])?;
    for (pod, name) in node.pods.iter().zip(["a/server", "a/client"]) {
        agent.run(&[
            "attach",
            "--netns",
            pod.name(),
            POD_INTERFACE,
            "--pod",
            name,
        ])?;
    }
    let [server, _] = addresses(0);
    let receiver = node.pods[0].enter(|| UdpSocket::bind((server.as_str(), PORT)))??;
    let sender = node.pods[1].enter(|| UdpSocket::bind((client.as_str(), 0)))??;
    sender.connect((server.as_str(), PORT))?;
    let stop = AtomicBool::new(false);
    let samples = thread::scope(|scope| {
        let sending = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // What policy drops is no error of the sender's.
                let _ = sender.send(b"x");
                thread::sleep(Duration::from_micros(200));
            }
        });
        let samples = first_datagrams(&agent, &folder, &receiver, &closed, &open);
        stop.store(true, Ordering::Relaxed);
        let _ = sending.join();
        samples
    })?;
    let name = "policy-change/10000-cidrs-from-file-to-first-packet";
    Ok(Row::alone(name, "ms", &samples, Bar::AtMost(50.0)))
}

fn first_datagrams(
    agent: &TestAgent,
    folder: &PolicyFolder,
    receiver: &UdpSocket,
    closed: &str,
    open: &str,
) -> Result<Vec<f64>> {
    // So that the agent sees one change: the file, complete, by its name.
    let beside = PolicyFolder::new()?;
    let replace = |text: &str| -> Result<Instant> {
        let file = beside.file("policy.yaml");
        fs::write(&file, text)?;
        let start = Instant::now();
        fs::rename(&file, folder.file("policy.yaml"))?;
        Ok(start)
    };
    let mut samples = Vec::new();
    let mut datagram = [0; 16];
    for _ in 0..SAMPLES {
        interrupt::check()?;
        replace(closed)?;
        wait_until("nothing to enter", || {
            let status = agent.json(&["policy", "list"])?;
            Ok(status["prefixes"] == 0)
        })?;
        receiver.set_nonblocking(true)?;
        while receiver.recv(&mut datagram).is_ok() {}
        receiver.set_nonblocking(false)?;
        receiver.set_read_timeout(Some(Duration::from_secs(20)))?;
        let start = replace(open)?;
        receiver
            .recv(&mut datagram)
            .context("the new policy lets nothing in")?;
        samples.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(samples)
}

/// A policy for the server with these rules.
fn text(ingress: Value) -> String {
    let spec = json!({
        "podSelector": {"matchLabels": {"pod": "server"}},
        "policyTypes": ["Ingress"],
        "ingress": ingress,
    });
    let objects = vec![policy("a", "in", spec)];
    Cluster { objects }.text()
}
