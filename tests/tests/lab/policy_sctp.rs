//! SCTP under policy, by the kernel's own SCTP: ordinary machines often have none.

use std::{thread, time::Duration};

use anyhow::{Result, bail, ensure};
use serde_json::json;
use sluice_tests::{
    agent::TestAgent,
    netns::{Background, TestNetns, output},
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

/// How many sockets listen on a port, on whatever address.
fn listeners(pod: &TestNetns, port: u16) -> Result<usize> {
    let table = output(pod.command("cat").arg("/proc/net/sctp/eps"))?;
    let port = port.to_string();
    let on_port = |line: &&str| line.split_whitespace().any(|word| word == port);
    Ok(table.lines().filter(on_port).count())
}

fn serve(pod: &TestNetns, address: &str, port: u16) -> Result<Background> {
    let before = listeners(pod, port)?;
    let server = pod.spawn("python3", &["-c", SERVER, address, &port.to_string()])?;
    wait_until(
        "the server to listen",
        || Ok(listeners(pod, port)? > before),
    )?;
    Ok(server)
}

/// Whether a connection comes about, and what was said if not.
fn connects(from: &TestNetns, to: &str, port: u16, patience: Duration) -> Result<(bool, String)> {
    let mut command = from.command("python3");
    let seconds = patience.as_secs().to_string();
    command.args(["-c", CLIENT, to, &port.to_string(), &seconds]);
    let told = command.output()?;
    let error = String::from_utf8_lossy(&told.stderr).into_owned();
    Ok((told.stdout == b"sctp", error))
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn sctp_connects_as_the_manifests_say() -> Result<()> {
    output(std::process::Command::new("modprobe").arg("sctp"))?;
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
        let (netns, pod) = (netns.name(), format!("x/{name}"));
        agent.run(&["attach", "--netns", netns, POD_INTERFACE, "--pod", &pod])?;
    }
    let mut servers = Vec::new();
    let mut probes = Vec::new();
    for address in addresses(0) {
        for port in PORTS {
            servers.push(serve(&node.pods[0], &address, port)?);
            probes.extend([1, 2].map(|client| (client, address.clone(), port)));
        }
    }
    let Some(server) = cluster.pods().next() else {
        bail!("no pods");
    };
    let found: Vec<Result<(bool, String)>> = thread::scope(|scope| {
        let running: Vec<_> =
            probes
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
                    let verdict = cluster.verdict(server, POD_INTERFACE, &packet);
                    let allowed = verdict != Verdict::Denied;
                    // One that is refused is waited for in vain.
                    let patience = Duration::from_secs(if allowed { 100 } else { 10 });
                    let (found, error) = connects(&node.pods[*client], address, *port, patience)?;
                    let complaint = format!(
                        "{} to {address} port {port}: passes {found}, should {allowed}: {error}",
                        NAMES[*client]
                    );
                    Ok((allowed, if found == allowed { String::new() } else { complaint }))
                })
                })
                .collect();
        let results = running.into_iter().map(|probe| probe.join());
        results
            .map(|result| result.unwrap_or_else(|_| bail!("a probe panicked")))
            .collect()
    });
    let found: Vec<_> = found.into_iter().collect::<Result<_>>()?;
    let wrong: Vec<_> = found
        .iter()
        .filter(|(_, wrong)| !wrong.is_empty())
        .collect();
    ensure!(wrong.is_empty(), "{wrong:#?}");
    let allowed = found.iter().filter(|(allowed, _)| *allowed).count();
    ensure!(allowed == 2, "{allowed} of eight are allowed");
    Ok(())
}
