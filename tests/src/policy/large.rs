//! A node of the largest size that is promised, always the same.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::{Cluster, NETWORK, namespace, policy};
use crate::node::POD_INTERFACE;

/// Pods of the cluster.
pub const PODS: usize = 5000;
/// Those of them that are on the node.
pub const ENDPOINTS: usize = 500;
/// Policies.
pub const POLICIES: usize = 1000;
/// Prefixes that policies name.
pub const CIDRS: usize = 10_000;

const NAMESPACES: usize = 20;
/// Applications of a namespace, each isolated by policies of its own.
const APPS: usize = 25;
const TIERS: [&str; 3] = ["front", "middle", "back"];
/// Every tenth policy names prefixes, so many each.
const CIDRS_EACH: usize = CIDRS / (POLICIES / 10);

/// The name of a namespace.
pub fn namespace_name(number: usize) -> String {
    format!("team-{}", number % NAMESPACES)
}

/// The address of a pod.
pub fn address(pod: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits((172 << 24 | 16 << 16) + pod as u32 + 1)
}

/// A pod by its number; those of the node are the first.
pub fn numbered_pod(number: usize) -> Value {
    let status = json!([{
        "name": NETWORK,
        "interface": POD_INTERFACE,
        "ips": [address(number)],
    }]);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": namespace_name(number),
            "name": format!("pod-{number}"),
            "labels": {
                "app": format!("app-{}", number / NAMESPACES % APPS),
                "tier": TIERS[number / (NAMESPACES * APPS) % TIERS.len()],
            },
            "annotations": {"k8s.v1.cni.cncf.io/network-status": status.to_string()},
        },
        "spec": {"containers": []},
    })
}

/// A prefix by its number, all of them disjoint.
pub fn cidr(number: usize) -> String {
    let [low, high, ..] = (number as u32).to_le_bytes();
    format!("11.{high}.{low}.0/24")
}

/// A policy by its number: its application may be entered by another one of
/// its namespace, by the same tier elsewhere, perhaps from prefixes, and may
/// itself reach one more.
pub fn numbered_policy(number: usize) -> Value {
    let name = namespace_name(number);
    let app = number / NAMESPACES % APPS;
    // So that every application is somebody's peer.
    let other = format!(
        "app-{}",
        (app + 1 + number / (NAMESPACES * APPS) * 4) % APPS
    );
    let port = 8000 + number % 50;
    let mut from = vec![
        json!({"podSelector": {"matchLabels": {"app": other}}}),
        json!({
            "namespaceSelector": {"matchLabels": {"ns": namespace_name(number + 1)}},
            "podSelector": {"matchExpressions": [
                {"key": "app", "operator": "In", "values": [other]},
                {"key": "tier", "operator": "NotIn", "values": ["back"]},
            ]},
        }),
    ];
    if number.is_multiple_of(10) {
        let first = number / 10 * CIDRS_EACH;
        from.extend((first..first + CIDRS_EACH).map(|at| match at % 10 {
            0 => json!({"ipBlock": {
                "cidr": cidr(at),
                "except": [cidr(at).replace(".0/24", ".128/25")],
            }}),
            _ => json!({"ipBlock": {"cidr": cidr(at)}}),
        }));
    }
    let spec = json!({
        "podSelector": {"matchLabels": {"app": format!("app-{app}")}},
        "policyTypes": if number.is_multiple_of(2) { vec!["Ingress", "Egress"] } else { vec!["Ingress"] },
        "ingress": [
            {"from": from, "ports": [{"port": port}, {"port": 9000, "endPort": 9100}]},
            {"ports": [{"port": 53, "protocol": "UDP"}]},
        ],
        "egress": [{
            "to": [{"podSelector": {"matchLabels": {"app": other}}}],
            "ports": [{"port": port}],
        }],
    });
    policy(&name, &format!("policy-{number}"), spec)
}

/// The whole cluster.
pub fn large_cluster() -> Cluster {
    let mut objects: Vec<_> = (0..NAMESPACES)
        .map(|number| namespace(&namespace_name(number)))
        .collect();
    objects.extend((0..PODS).map(numbered_pod));
    objects.extend((0..POLICIES).map(numbered_policy));
    Cluster { objects }
}
