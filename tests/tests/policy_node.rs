//! Policies on a real node: real pods, real connections, a real agent.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::{
    agent::TestAgent,
    netns::TestNetns,
    node::{POD_INTERFACE, TestNode, addresses, pings},
    policy::{Cluster, NETWORK, Packet, PolicyFolder, Verdict, namespace, pod, policy},
    poll::wait_until,
};

/// How long a connection may take that should not come about. An allowed one
/// that takes longer on a busy machine fails the test; it never passes wrongly.
const PATIENCE: Duration = Duration::from_secs(5);

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const NAMES: [&str; 3] = ["a", "b", "c"];
const PORTS: [u16; 2] = [80, 81];

/// Place of a pod of the truth table.
fn place(namespace: &str, name: &str) -> usize {
    let at = |list: &[&str], wanted| list.iter().position(|one| *one == wanted).unwrap_or(0);
    at(&NAMESPACES, namespace) * NAMES.len() + at(&NAMES, name)
}

fn nine_pods() -> Vec<Value> {
    let mut objects: Vec<_> = NAMESPACES.map(namespace).into();
    for at in 0..9 {
        let mut pod = pod(at, NAMESPACES[at / 3], NAMES[at % 3]);
        if at == place("z", "a") {
            pod["spec"]["containers"] = json!([{"ports": [{"name": "web", "containerPort": 81}]}]);
        }
        objects.push(pod);
    }
    objects
}

fn policies() -> Vec<Value> {
    let [blocked, _] = addresses(place("y", "a"));
    vec![
        policy("x", "nothing-in", json!({"podSelector": {}})),
        policy(
            "x",
            "web",
            json!({
                "podSelector": {"matchLabels": {"pod": "a"}},
                "ingress": [{
                    "from": [{
                        "namespaceSelector": {"matchLabels": {"ns": "y"}},
                        "podSelector": {"matchExpressions": [
                            {"key": "pod", "operator": "In", "values": ["a", "b"]},
                        ]},
                    }],
                    "ports": [{"port": 80}, {"port": 81, "protocol": "UDP"}],
                }],
            }),
        ),
        policy(
            "y",
            "out",
            json!({
                "podSelector": {"matchLabels": {"pod": "b"}},
                "policyTypes": ["Egress"],
                "egress": [
                    {"to": [{"namespaceSelector": {"matchLabels": {"ns": "x"}}}]},
                    {"ports": [{"port": 80, "endPort": 81}]},
                ],
            }),
        ),
        policy(
            "y",
            "neighbours",
            json!({
                "podSelector": {"matchLabels": {"pod": "c"}},
                "ingress": [{"from": [{"podSelector": {}}]}],
            }),
        ),
        policy(
            "z",
            "blocks",
            json!({
                "podSelector": {"matchLabels": {"pod": "c"}},
                "ingress": [{
                    "from": [
                        {"ipBlock": {"cidr": "10.78.0.0/24", "except": [format!("{blocked}/32")]}},
                        {"ipBlock": {"cidr": "fd78::/64"}},
                    ],
                    "ports": [{"port": 81}],
                }],
            }),
        ),
        policy(
            "z",
            "named",
            json!({
                "podSelector": {"matchLabels": {"pod": "a"}},
                "ingress": [{"ports": [{"port": "web"}]}],
            }),
        ),
    ]
}

/// Answers on the ports of a pod, over TCP and UDP, until dropped.
struct Server {
    stop: Arc<AtomicBool>,
}

impl Server {
    fn start(pod: &TestNetns) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for port in PORTS {
            let any = (Ipv6Addr::UNSPECIFIED, port);
            let (tcp, udp) = pod.enter(|| (TcpListener::bind(any), UdpSocket::bind(any)))?;
            let (tcp, udp) = (tcp?, udp?);
            tcp.set_nonblocking(true)?;
            udp.set_read_timeout(Some(Duration::from_millis(50)))?;
            let stopped = Arc::clone(&stop);
            thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    match tcp.accept() {
                        Ok((mut stream, _)) => drop(stream.write_all(b"tcp")),
                        Err(_) => thread::sleep(Duration::from_millis(5)),
                    }
                }
            });
            let stopped = Arc::clone(&stop);
            thread::spawn(move || {
                let mut buffer = [0; 16];
                while !stopped.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = udp.recv_from(&mut buffer) {
                        let _ = udp.send_to(&buffer[..length], from);
                    }
                }
            });
        }
        Ok(Self { stop })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn tcp_connects(from: &TestNetns, to: SocketAddr) -> Result<bool> {
    let connected = from.enter(|| {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    })?;
    Ok(connected.is_ok_and(|text| text == "tcp"))
}

fn udp_answers(from: &TestNetns, to: SocketAddr) -> Result<bool> {
    let socket = from.enter(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)))??;
    // IPv4 goes through a socket of both families as a mapped address.
    let to = match to.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), to.port()),
        IpAddr::V6(_) => to,
    };
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let tries = PATIENCE.as_millis() / 500;
    for _ in 0..tries {
        socket.send_to(b"udp", to)?;
        let mut buffer = [0; 16];
        if socket.recv(&mut buffer).is_ok_and(|length| length == 3) {
            return Ok(true);
        }
    }
    Ok(false)
}

struct Lab {
    node: TestNode,
    folder: PolicyFolder,
    agent: TestAgent,
}

impl Lab {
    /// Nine pods, all attached; what the folder says besides is up to the test.
    fn new(pods: usize, objects: &[Value]) -> Result<Self> {
        let node = TestNode::new(pods)?;
        let folder = PolicyFolder::new()?;
        folder.write("cluster.yaml", objects)?;
        let agent = TestAgent::start(&node.node, &["--policy-dir", &folder.path()])?;
        Ok(Self {
            node,
            folder,
            agent,
        })
    }

    fn attach(&self, at: usize, pod: &str) -> Result<u64> {
        let netns = self.node.pods[at].name();
        let arguments = ["attach", "--netns", netns, POD_INTERFACE, "--pod", pod];
        let endpoint = self.agent.json(&arguments)?;
        endpoint["id"].as_u64().context("endpoint without id")
    }

    /// Waits until the agent has made the folder's last version its own.
    fn wait_for(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<()> {
        wait_until(what, || Ok(is(&self.agent.json(&["policy", "list"])?)))
    }
}

/// SCTP is not in every kernel; there its packets are judged without
/// connections (`explain` here, BPF_PROG_TEST_RUN elsewhere).
#[test]
fn nine_pods_connect_as_the_manifests_say_over_tcp_and_udp_ipv4_and_ipv6() -> Result<()> {
    let mut objects = nine_pods();
    objects.extend(policies());
    let cluster = Cluster {
        objects: objects.clone(),
    };
    let lab = Lab::new(9, &objects)?;
    let mut servers = Vec::new();
    for at in 0..9 {
        lab.attach(at, &format!("{}/{}", NAMESPACES[at / 3], NAMES[at % 3]))?;
        servers.push(Server::start(&lab.node.pods[at])?);
    }
    let pods: Vec<_> = cluster.pods().collect();
    let mut probes = Vec::new();
    for from in 0..9 {
        for to in (0..9).filter(|to| *to != from) {
            for family in 0..2 {
                for port in PORTS {
                    probes.extend([6, 17].map(|protocol| (from, to, family, protocol, port)));
                }
            }
        }
    }
    let address =
        |at: usize, family: usize| -> Result<IpAddr> { Ok(addresses(at)[family].parse()?) };
    let expected = |&(from, to, family, protocol, port): &(usize, usize, usize, u8, u16)| {
        let verdict = |at: usize, ingress, peer: usize| -> Result<Verdict> {
            let packet = Packet {
                ingress,
                peer: address(peer, family)?,
                protocol,
                port,
            };
            Ok(cluster.verdict(pods[at], POD_INTERFACE, &packet))
        };
        let (leaves, enters) = (verdict(from, false, to)?, verdict(to, true, from)?);
        anyhow::Ok(leaves != Verdict::Denied && enters != Verdict::Denied)
    };
    let found: Vec<Result<bool>> = thread::scope(|scope| {
        let running: Vec<_> = probes
            .iter()
            .map(|&(from, to, family, protocol, port)| {
                let pods = &lab.node.pods;
                let address = &address;
                scope.spawn(move || {
                    let target = SocketAddr::new(address(to, family)?, port);
                    match protocol {
                        6 => tcp_connects(&pods[from], target),
                        _ => udp_answers(&pods[from], target),
                    }
                })
            })
            .collect();
        let results = running.into_iter().map(|thread| thread.join());
        results
            .map(|result| result.unwrap_or_else(|_| anyhow::bail!("a probe panicked")))
            .collect()
    });
    let mut wrong = Vec::new();
    let mut counts = [0, 0];
    for (probe, found) in probes.iter().zip(found) {
        let (found, expected) = (found?, expected(probe)?);
        counts[usize::from(expected)] += 1;
        if found != expected {
            wrong.push(format!("{probe:?}: passes {found}, should {expected}"));
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} of {}: {wrong:#?}",
        wrong.len(),
        probes.len()
    );
    ensure!(
        counts[0] > 100 && counts[1] > 100,
        "a lopsided table: {counts:?}"
    );
    Ok(())
}

/// The pod's interface comes up only after it was attached, and the pod sends
/// in a tight loop all the while: whatever leaves it was judged.
#[test]
fn a_pod_that_sends_from_its_first_microsecond_is_isolated() -> Result<()> {
    let objects = [
        namespace("x"),
        pod(0, "x", "a"),
        pod(1, "x", "b"),
        policy(
            "x",
            "out",
            json!({
                "podSelector": {"matchLabels": {"pod": "a"}},
                "policyTypes": ["Egress"],
                "egress": [{"ports": [{"port": 80, "protocol": "UDP"}]}],
            }),
        ),
    ];
    let lab = Lab::new(2, &objects)?;
    let [sender, receiver] = &lab.node.pods[..] else {
        anyhow::bail!("two pods");
    };
    sender.ip(&format!("link set {POD_INTERFACE} down"))?;
    let [peer, _] = addresses(1);
    let sockets: Vec<_> = PORTS
        .iter()
        .map(|port| Ok(receiver.enter(|| UdpSocket::bind((peer.as_str(), *port)))??))
        .collect::<Result<_>>()?;
    let stop = Arc::new(AtomicBool::new(false));
    let flood = {
        let stop = Arc::clone(&stop);
        let peer = peer.clone();
        let socket = sender.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for port in PORTS {
                    // Fails until the interface is up.
                    let _ = socket.send_to(b"early", (peer.as_str(), port));
                }
            }
        })
    };
    lab.attach(0, "x/a")?;
    sender.ip(&format!("link set {POD_INTERFACE} up"))?;
    let mut buffer = [0; 16];
    let [allowed, denied] = &sockets[..] else {
        anyhow::bail!("two ports");
    };
    allowed.set_read_timeout(Some(Duration::from_secs(20)))?;
    for _ in 0..100 {
        allowed
            .recv(&mut buffer)
            .context("what is allowed does not come through")?;
    }
    denied.set_nonblocking(true)?;
    ensure!(denied.recv(&mut buffer).is_err(), "a packet got through");
    stop.store(true, Ordering::Relaxed);
    let _ = flood.join();
    Ok(())
}

#[test]
fn a_pod_that_the_source_does_not_know_is_isolated_until_it_does() -> Result<()> {
    let lab = Lab::new(2, &[namespace("x"), pod(1, "x", "b")])?;
    let [peer, _] = addresses(1);
    let id = lab.attach(0, "x/a")?;
    ensure!(!pings(&lab.node.pods[0], &peer)?, "an unknown pod is open");
    let status = lab.agent.json(&["status"])?.to_string();
    ensure!(
        status.contains(&format!("endpoint {id}: isolated: pod x/a is not known")),
        "{status}"
    );
    lab.folder.write("new.yaml", &[pod(0, "x", "a")])?;
    lab.wait_for("the pod to be known", |list| {
        list["endpoints"][0]["ingress"] == "open"
    })?;
    ensure!(pings(&lab.node.pods[0], &peer)?, "no policy selects it");
    Ok(())
}

#[test]
fn a_bad_file_changes_nothing_over_a_restart_and_is_named() -> Result<()> {
    let deny = policy("x", "deny", json!({"podSelector": {}}));
    let objects = [namespace("x"), pod(0, "x", "a"), pod(1, "x", "b")];
    let mut lab = Lab::new(2, &objects)?;
    lab.folder.write("deny.yaml", std::slice::from_ref(&deny))?;
    lab.attach(0, "x/a")?;
    let isolated = |list: &Value| list["endpoints"][0]["ingress"] == "isolated";
    lab.wait_for("the policy", isolated)?;
    let (sender, [target, _]) = (&lab.node.pods[1], addresses(0));
    ensure!(!pings(sender, &target)?);
    let bad = deny.to_string().replace("podSelector", "podSelectors");
    lab.folder.write_text("deny.yaml", &bad)?;
    let refused = |list: &Value| list["problems"].to_string().contains("podSelectors");
    lab.wait_for("the refusal", refused)?;
    ensure!(!pings(sender, &target)?, "the old policy is gone");
    lab.agent.kill()?;
    lab.agent.restart()?;
    ensure!(
        !pings(sender, &target)?,
        "the old policy is gone after a restart"
    );
    let list = lab.agent.json(&["policy", "list"])?;
    ensure!(isolated(&list) && refused(&list), "{list}");
    let problem = list["problems"].to_string();
    ensure!(
        problem.contains("deny.yaml: line 1: spec.podSelectors: unknown field"),
        "{problem}"
    );
    std::fs::remove_file(lab.folder.file("deny.yaml"))?;
    lab.wait_for("the policy's end", |list| !isolated(list))?;
    ensure!(pings(sender, &target)?);
    Ok(())
}

#[test]
fn list_show_explain_test_and_audit_tell_what_is_in_force() -> Result<()> {
    let objects = [
        namespace("x"),
        pod(0, "x", "a"),
        pod(1, "x", "b"),
        policy(
            "x",
            "web",
            json!({
                "podSelector": {"matchLabels": {"pod": "a"}},
                "ingress": [{
                    "from": [{"podSelector": {"matchLabels": {"pod": "b"}}}],
                    "ports": [{"port": 80}, {"port": 5000, "endPort": 5007, "protocol": "SCTP"}],
                }],
            }),
        ),
    ];
    let lab = Lab::new(2, &objects)?;
    let id = lab.attach(0, "x/a")?;
    let _server = Server::start(&lab.node.pods[0])?;
    let agent = &lab.agent;
    let explain = |from: &str, port: &str| {
        agent.json(&[
            "policy", "explain", "--from", from, "--to", "x/a", "--port", port,
        ])
    };
    let rule = "MultiNetworkPolicy x/web ingress[0]";
    let allowed = explain("x/b", "80/tcp")?;
    ensure!(allowed[0]["passes"] == true, "{allowed}");
    ensure!(allowed[0]["network"] == NETWORK, "{allowed}");
    ensure!(allowed[0]["ends"][0]["rule"] == rule, "{allowed}");
    ensure!(explain("x/b", "5007/sctp")?[0]["passes"] == true);
    ensure!(explain("x/b", "5007/tcp")?[0]["passes"] == false);
    ensure!(explain("x/b", "5008/sctp")?[0]["passes"] == false);
    let port = explain("x/b", "81/tcp")?[0]["ends"][0]["why"].to_string();
    let wanted = format!("{rule} is for this peer, but allows only 80/tcp, 5000-5007/sctp");
    ensure!(port.contains(&wanted), "{port}");
    let peer = explain("192.0.2.1", "80/tcp")?[0]["ends"][0]["why"].to_string();
    ensure!(
        peer.contains("isolated by MultiNetworkPolicy x/web"),
        "{peer}"
    );
    ensure!(
        peer.contains(&format!("{rule} allows 80/tcp, but not for this peer")),
        "{peer}"
    );

    let target = SocketAddr::new(addresses(0)[0].parse()?, 80);
    ensure!(tcp_connects(&lab.node.pods[1], target)?);
    let shown = agent.json(&["policy", "show", &id.to_string()])?;
    ensure!(shown["rules"][0]["rule"] == rule, "{shown}");
    ensure!(shown["rules"][0]["hits"].as_u64() >= Some(1), "{shown}");
    agent.run(&["policy", "list"])?;

    let expectations = lab.folder.file("expected");
    let text = "
- {from: x/b, to: x/a, port: 80/tcp, expect: allow}
- {from: x/b, to: x/a, port: 81/tcp, expect: deny}
- {from: 192.0.2.1, to: x/a, port: 80/tcp, expect: deny}
";
    std::fs::write(&expectations, text)?;
    let expectations = expectations.display().to_string();
    let folder = lab.folder.path();
    for arguments in [
        vec!["policy", "test", &expectations],
        vec!["policy", "test", &expectations, "--policy-dir", &folder],
    ] {
        ensure!(agent.run(&arguments)? == "3 expectations met\n");
    }
    std::fs::write(
        &expectations,
        text.replace("81/tcp, expect: deny", "81/tcp, expect: allow"),
    )?;
    for arguments in [
        vec!["policy", "test", &expectations],
        vec!["policy", "test", &expectations, "--policy-dir", &folder],
    ] {
        let output = agent.output(&arguments)?;
        ensure!(output.status.code() == Some(1), "{output:?}");
        let printed = String::from_utf8(output.stdout)?;
        let wanted = "expected:3: x/b -> x/a 81/tcp: expected allow: ";
        ensure!(printed.contains(wanted), "{printed}");
    }

    let closed = SocketAddr::new(target.ip(), 81);
    agent.run(&["policy", "audit", &id.to_string(), "on"])?;
    ensure!(tcp_connects(&lab.node.pods[1], closed)?, "audit mode drops");
    let audited = explain("x/b", "81/tcp")?;
    ensure!(audited[0]["passes"] == true && audited[0]["ends"][0]["allowed"] == false);
    agent.run(&["policy", "audit", &id.to_string(), "off"])?;
    ensure!(
        !tcp_connects(&lab.node.pods[1], closed)?,
        "audit mode is not off"
    );
    Ok(())
}
