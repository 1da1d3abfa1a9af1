//! The compiler's plain data, looked up as the kernel looks its maps up, and
//! what it is compiled from.

use std::{collections::HashMap, net::IpAddr};

use dataplane::policy::{
    compile::{Compiled, Endpoint, Key, Ports},
    model::{Model, PodName},
    source::read_objects,
};
use dataplane_ebpf::abi::Direction;
use ipnet::IpNet;
use serde_json::Value;

use super::{Cluster, Packet, Verdict};

/// An address's identity, by the rules of the kernel's two maps.
pub fn identity(
    addresses: &HashMap<IpAddr, u32>,
    prefixes: &HashMap<IpNet, u32>,
    address: IpAddr,
) -> u32 {
    if let Some(exact) = addresses.get(&address) {
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
    let longest = prefixes
        .iter()
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

/// Whether a table has an entry for a packet of that peer, or of any.
pub fn allows<'a>(
    entries: impl IntoIterator<Item = &'a Key>,
    identity: u32,
    packet: &Packet,
) -> bool {
    let protocol = packet.protocol;
    let port = matches!(protocol, 6 | 17 | 132).then_some(packet.port);
    entries.into_iter().any(|key| {
        entry_matches(key, identity, protocol, port) || entry_matches(key, 0, protocol, port)
    })
}

/// What the source makes of the manifests.
pub fn model(cluster: &Cluster) -> Model {
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
pub fn endpoints(cluster: &Cluster) -> Vec<(&Value, Endpoint)> {
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

/// What the compiled tables say, which must be what their own lookup says.
pub fn verdict(compiled: &Compiled, endpoint: u32, packet: &Packet) -> Verdict {
    let direction = match packet.ingress {
        true => Direction::Ingress,
        false => Direction::Egress,
    };
    let Some(table) = compiled.endpoints[&endpoint].table(direction) else {
        return Verdict::Open;
    };
    let port = matches!(packet.protocol, 6 | 17 | 132).then_some(packet.port);
    let identity = identity(&compiled.addresses, &compiled.prefixes, packet.peer);
    let allowed = allows(table.entries.iter().map(|(key, _)| key), identity, packet);
    let found = table.lookup(identity, packet.protocol, port);
    assert_eq!(found.is_some(), allowed, "the table's own lookup");
    match allowed {
        true => Verdict::Allowed,
        false => Verdict::Denied,
    }
}
