//! Nine pods, real connections between all of them.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use sluice_tests::{
    node::{POD_INTERFACE, addresses},
    policy::{Cluster, Packet, Verdict, namespace, pod, policy},
    service::{PORTS, Server, tcp_connects, udp_answers},
};

use crate::lab::Lab;

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const NAMES: [&str; 3] = ["a", "b", "c"];

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

/// SCTP is not in every kernel: `lab::policy_sctp` has the same for it.
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
            .map(|probe @ &(from, to, family, protocol, port)| {
                let pods = &lab.node.pods;
                let address = &address;
                let expected = expected(probe);
                scope.spawn(move || {
                    let target = SocketAddr::new(address(to, family)?, port);
                    match protocol {
                        6 => tcp_connects(&pods[from], target, expected?),
                        _ => udp_answers(&pods[from], target, expected?),
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
