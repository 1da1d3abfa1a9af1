//! Policy where the kernel of an ordinary machine lacks something: SCTP by real connections, and a
//! pod that takes its ipvlan out of the programs' sight.

use std::{
    process::{Child, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use sluice_tests::{
    agent::TestAgent,
    netns::{TestNetns, output},
    node::{POD_INTERFACE, TestNode, addresses},
    policy::{Cluster, Packet, PolicyFolder, Verdict, namespace, pod, policy},
    poll::wait_until,
};

const SCTP: u8 = 132;
const PORTS: [u16; 2] = [5000, 5001];
const NAMES: [&str; 3] = ["server", "friend", "stranger"];

/// Says `sctp` to everybody who connects; `IPPROTO_SCTP` is 132.
const SERVER: &str = "\
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
listener = socket.socket(family, socket.SOCK_STREAM, 132)
listener.bind((sys.argv[1], int(sys.argv[2])))
listener.listen(8)
while True:
    connection, _ = listener.accept()
    connection.send(b'sctp')
    connection.close()
";
/// Connects, and prints what it is told.
const CLIENT: &str = "\
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
connection = socket.socket(family, socket.SOCK_STREAM, 132)
connection.settimeout(float(sys.argv[3]))
connection.connect((sys.argv[1], int(sys.argv[2])))
print(connection.recv(4).decode(), end='')
";

struct Server(Child);

impl Server {
    fn start(pod: &TestNetns, address: &str, port: u16) -> Result<Self> {
        let mut command = pod.command("python3");
        command.args(["-c", SERVER, address, &port.to_string()]);
        let mut server = Self(command.stdin(Stdio::null()).spawn()?);
        wait_until("the server to listen", || {
            if let Some(status) = server.0.try_wait()? {
                bail!("the server ended: {status}");
            }
            let mut table = pod.command("cat");
            let table = output(table.arg("/proc/net/sctp/eps"))?;
            Ok(table
                .split_whitespace()
                .any(|word| word == port.to_string()))
        })?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a connection comes about within so many seconds.
fn connects(from: &TestNetns, to: &str, port: u16, seconds: u32) -> Result<bool> {
    let mut command = from.command("python3");
    command.args(["-c", CLIENT, to, &port.to_string(), &seconds.to_string()]);
    let told = command.stdin(Stdio::null()).output()?;
    Ok(told.stdout == b"sctp")
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn sctp_connects_as_the_manifests_say() -> Result<()> {
    let status = std::process::Command::new("modprobe")
        .arg("sctp")
        .status()?;
    ensure!(status.success(), "this kernel has no SCTP");
    let mut objects = vec![namespace("x")];
    objects.extend((0..3).map(|at| pod(at, "x", NAMES[at])));
    objects.push(policy(
        "x",
        "in",
        json!({
            "podSelector": {"matchLabels": {"pod": "server"}},
            "ingress": [{
                "from": [{"podSelector": {"matchLabels": {"pod": "friend"}}}],
                // The other port for TCP only, which says nothing of SCTP.
                "ports": [{"port": 5000, "protocol": "SCTP"}, {"port": 5001}],
            }],
        }),
    ));
    let cluster = Cluster { objects };
    let node = TestNode::new(3)?;
    let folder = PolicyFolder::new()?;
    folder.write("cluster.yaml", &cluster.objects)?;
    let folder_path = folder.path();
    let options = ["--metrics-address", "off", "--policy-dir", &folder_path];
    let agent = TestAgent::start(&node.node, &options)?;
    for (netns, name) in node.pods.iter().zip(NAMES) {
        let pod = format!("x/{name}");
        agent.run(&[
            "attach",
            "--netns",
            netns.name(),
            POD_INTERFACE,
            "--pod",
            &pod,
        ])?;
    }
    let mut servers = Vec::new();
    let mut probes = Vec::new();
    for address in addresses(0) {
        for port in PORTS {
            servers.push(Server::start(&node.pods[0], &address, port)?);
            probes.extend([1, 2].map(|client| (client, address.clone(), port)));
        }
    }
    let server = cluster.pods().next().context("no pods")?;
    thread::scope(|scope| {
        let running: Vec<_> = probes
            .iter()
            .map(|(client, address, port)| {
                let (cluster, node) = (&cluster, &node);
                scope.spawn(move || {
                    let family = usize::from(address.contains(':'));
                    let packet = Packet {
                        ingress: true,
                        peer: addresses(*client)[family].parse()?,
                        protocol: SCTP,
                        port: *port,
                    };
                    let allowed =
                        cluster.verdict(server, POD_INTERFACE, &packet) != Verdict::Denied;
                    // One that is refused is waited for in vain.
                    let patience = if allowed { 100 } else { 10 };
                    let found = connects(&node.pods[*client], address, *port, patience)?;
                    ensure!(found == allowed, "{client} to {address} {port}: {found}");
                    Ok(allowed)
                })
            })
            .collect();
        let mut allowed = 0;
        for probe in running {
            let probe = probe.join().unwrap_or_else(|_| bail!("a probe panicked"));
            allowed += usize::from(probe?);
        }
        ensure!(allowed == 2, "{allowed} of eight are allowed");
        Ok(())
    })
}

/// In mode l3s what arrives passes no hook of the interface. The switch is the kernel's event for
/// the agent.
#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn a_pod_that_switches_its_ipvlan_to_l3s_is_switched_back() -> Result<()> {
    let node = TestNode::with("ipvlan mode l2", 2)?;
    let agent = TestAgent::start(&node.node, &["--metrics-address", "off"])?;
    let pod = &node.pods[0];
    agent.attach(pod, POD_INTERFACE)?;
    for repairs in 1..=3 {
        let switch = format!("link set dev {POD_INTERFACE} type ipvlan mode l3s");
        pod.ip(&switch)?;
        wait_until("the mode to be set back", || {
            let shown = pod.run("ip", &["-d", "link", "show", POD_INTERFACE])?;
            let stats = agent.json(&["stats"])?;
            Ok(shown.contains("mode l2 ") && stats["repairs"].as_u64() >= Some(repairs))
        })?;
    }
    Ok(())
}
