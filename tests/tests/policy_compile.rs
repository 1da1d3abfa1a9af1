//! The compiler's plain data against the naive evaluator: for random clusters,
//! every interface of every pod, many addresses, protocols and ports.

#![expect(
    clippy::unwrap_used,
    reason = "a manifest that makes no sense is the test's own mistake"
)]

use std::{net::IpAddr, sync::Arc};

use dataplane::policy::{
    compile::{
        Compiled, Compiler, Endpoint, EndpointPolicy, Key, Ports, RuleNumbers, State, Table,
    },
    model::{Model, PodName},
    source::read_objects,
};
use dataplane_ebpf::abi::Direction;
use ipnet::IpNet;
use proptest::prelude::*;
use serde_json::Value;
use sluice_tests::policy::{ADDRESSES, Cluster, PORTS, Packet, Verdict, cluster};

/// An address's identity, by the rules of the kernel's two maps.
fn identity(compiled: &Compiled, address: IpAddr) -> u32 {
    if let Some(exact) = compiled.addresses.get(&address) {
        return *exact;
    }
    // IPv4 lies inside of IPv6 there.
    let mapped = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => u128::from(v6),
    };
    let length = |cidr: &IpNet| match cidr {
        IpNet::V4(v4) => 96 + u32::from(v4.prefix_len()),
        IpNet::V6(v6) => u32::from(v6.prefix_len()),
    };
    let covers = |cidr: &IpNet| {
        let differing = mapped(cidr.addr()) ^ mapped(address);
        differing.leading_zeros() >= length(cidr)
    };
    let prefixes = compiled.prefixes.iter();
    let longest = prefixes
        .filter(|(cidr, _)| covers(cidr))
        .max_by_key(|(cidr, _)| length(cidr));
    longest.map_or(0, |(_, identity)| *identity)
}

fn entry_matches(key: &Key, identity: u32, protocol: u8, port: Option<u16>) -> bool {
    key.identity == identity
        && match key.ports {
            Ports::All => true,
            Ports::Protocol(only) => only == protocol,
            Ports::Prefix {
                protocol: only,
                port: first,
                bits,
            } => {
                only == protocol
                    && port.is_some_and(|port| (port ^ first).leading_zeros() >= u32::from(bits))
            }
        }
}

fn allows(table: &Table, identity: u32, protocol: u8, port: Option<u16>) -> bool {
    let entries = &table.entries;
    entries.iter().any(|(key, _)| {
        entry_matches(key, identity, protocol, port) || entry_matches(key, 0, protocol, port)
    })
}

fn verdict(compiled: &Compiled, policy: &EndpointPolicy, packet: &Packet) -> Verdict {
    let direction = match packet.ingress {
        true => Direction::Ingress,
        false => Direction::Egress,
    };
    let Some(table) = policy.table(direction) else {
        return Verdict::Open;
    };
    let port = matches!(packet.protocol, 6 | 17 | 132).then_some(packet.port);
    let identity = identity(compiled, packet.peer);
    let allowed = allows(table, identity, packet.protocol, port);
    let found = table.lookup(identity, packet.protocol, port);
    assert_eq!(found.is_some(), allowed, "the table's own lookup");
    match allowed {
        true => Verdict::Allowed,
        false => Verdict::Denied,
    }
}

fn model(cluster: &Cluster) -> Model {
    let mut model = Model::default();
    let text = cluster.text();
    let objects = read_objects(&text).unwrap_or_else(|error| panic!("{error} in\n{text}"));
    for (_, object) in objects {
        model.put(object);
    }
    model
}

/// An endpoint for each interface that a pod's network-status tells of; one
/// for a pod without.
fn endpoints(cluster: &Cluster) -> Vec<(&Value, Endpoint)> {
    let mut endpoints = Vec::new();
    for pod in cluster.pods() {
        let annotation = &pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"];
        let interfaces = match annotation.as_str() {
            Some(text) => {
                let statuses: Vec<Value> = serde_json::from_str(text).unwrap();
                let names = statuses.iter().map(|status| status["interface"].as_str());
                names.map(|name| name.unwrap().to_owned()).collect()
            }
            None => vec!["net0".to_owned()],
        };
        for interface in interfaces {
            let text = |field: &str| pod["metadata"][field].as_str().unwrap().to_owned();
            let endpoint = Endpoint {
                id: endpoints.len() as u32 + 1,
                pod: Some(PodName {
                    namespace: text("namespace"),
                    name: text("name"),
                }),
                interface,
                addresses: Vec::new(),
                patience_over: false,
            };
            endpoints.push((pod, endpoint));
        }
    }
    endpoints
}

/// A MultiNetworkPolicy for a pod of which nobody knows the networks isolates
/// it until they are known; the evaluator does not judge that.
fn is_undecided(policy: &EndpointPolicy) -> bool {
    matches!(policy.state, State::Isolated(_))
}

fn packets() -> Vec<Packet> {
    let mut packets = Vec::new();
    for ingress in [true, false] {
        for peer in ADDRESSES {
            let peer = peer.parse().unwrap();
            for port in PORTS {
                packets.extend([6, 17, 132].map(|protocol| Packet {
                    ingress,
                    peer,
                    protocol,
                    port,
                }));
            }
            packets.push(Packet {
                ingress,
                peer,
                protocol: 1,
                port: 0,
            });
        }
    }
    packets
}

fn compare(cluster: &Cluster, compiled: &Compiled) -> Result<(), TestCaseError> {
    let packets = packets();
    for (pod, endpoint) in endpoints(cluster) {
        let policy = &compiled.endpoints[&endpoint.id];
        if is_undecided(policy) {
            continue;
        }
        for packet in &packets {
            prop_assert_eq!(
                verdict(compiled, policy, packet),
                cluster.verdict(pod, &endpoint.interface, packet),
                "{:?} at {} of {}",
                packet,
                endpoint.interface,
                pod
            );
        }
    }
    Ok(())
}

fn compile(compiler: &mut Compiler, cluster: &Cluster) -> Compiled {
    let endpoints: Vec<_> = endpoints(cluster)
        .into_iter()
        .map(|(_, endpoint)| endpoint)
        .collect();
    compiler.compile(&model(cluster), &endpoints, &[])
}

proptest! {
    // PROPTEST_CASES asks for more.
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").map_or(60, |cases| cases.parse().unwrap()),
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_compiled_says_what_the_manifests_say(cluster in cluster()) {
        let mut compiler = Compiler::new(Default::default(), RuleNumbers::default());
        compare(&cluster, &compile(&mut compiler, &cluster))?;
    }

    /// What the compiler remembers from another cluster changes nothing.
    #[test]
    fn compiling_again_says_the_same_as_compiling_afresh(before in cluster(), after in cluster()) {
        let mut used = Compiler::new(Default::default(), RuleNumbers::default());
        compile(&mut used, &before);
        let again = compile(&mut used, &after);
        compare(&after, &again)?;
        let mut fresh = Compiler::new(Default::default(), RuleNumbers::default());
        let afresh = compile(&mut fresh, &after);
        prop_assert_eq!(&again.addresses, &afresh.addresses);
        prop_assert_eq!(&again.prefixes, &afresh.prefixes);
        // Nothing has changed: not even the allocations.
        let third = compile(&mut used, &after);
        for (id, policy) in &again.endpoints {
            for direction in [Direction::Ingress, Direction::Egress] {
                let (one, other) = (policy.table(direction), third.endpoints[id].table(direction));
                match (one, other) {
                    (Some(one), Some(other)) => prop_assert!(Arc::ptr_eq(one, other)),
                    (one, other) => prop_assert!(one.is_none() && other.is_none()),
                }
            }
        }
    }
}
