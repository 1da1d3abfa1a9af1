//! What other implementations of network policy get or got wrong, one test
//! each, named after the feature and who erred. The verdicts are written down
//! by hand; compiled tables and naive evaluator must both give them.
//!
//! Elsewhere, because they need more than a table: replies, fragments, ICMP
//! errors, neighbour discovery (`policy`), atomic updates (`policy_apply`),
//! isolation before a pod starts (`policy_node`), a pod with NET_ADMIN
//! (`agent`).

#![expect(
    clippy::unwrap_used,
    reason = "a manifest that makes no sense is the test's own mistake"
)]

use dataplane::policy::{
    compile::{Compiled, Compiler, RuleNumbers, Settings},
    source::read_objects,
};
use serde_json::{Value, json};
use sluice_tests::policy::{
    Cluster, Packet, Verdict, endpoints, model, namespace, policy, verdict,
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP: u8 = 1;

/// A pod on the laboratory's network.
fn pod(namespace: &str, name: &str, address: &str) -> Value {
    let status = json!([{"name": "lab/fast", "interface": "net1", "ips": [address]}]);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "labels": {"app": name},
            "annotations": {"k8s.v1.cni.cncf.io/network-status": status.to_string()},
        },
        "spec": {"containers": []},
    })
}

fn with_port(mut pod: Value, name: &str, number: u16) -> Value {
    pod["spec"]["containers"] = json!([{"ports": [{"name": name, "containerPort": number}]}]);
    pod
}

struct Case {
    cluster: Cluster,
    compiled: Compiled,
}

impl Case {
    fn new(objects: Vec<Value>) -> Self {
        let cluster = Cluster { objects };
        let ends: Vec<_> = endpoints(&cluster)
            .into_iter()
            .map(|(_, one)| one)
            .collect();
        let mut compiler = Compiler::new(
            Settings::default(),
            RuleNumbers::default(),
            Default::default(),
        );
        let compiled = compiler.compile(&model(&cluster), &ends, &[]);
        Self { cluster, compiled }
    }

    /// The verdict at the only interface of a pod.
    fn verdict(&self, pod: &str, ingress: bool, peer: &str, protocol: u8, port: u16) -> Verdict {
        let packet = Packet {
            ingress,
            peer: peer.parse().unwrap(),
            protocol,
            port,
        };
        let mut all = endpoints(&self.cluster).into_iter();
        let (object, endpoint) = all
            .find(|(object, _)| object["metadata"]["name"] == pod)
            .unwrap();
        let compiled = verdict(&self.compiled, endpoint.id, &packet);
        let naive = self.cluster.verdict(object, &endpoint.interface, &packet);
        assert_eq!(compiled, naive, "{packet:?}");
        compiled
    }

    fn enters(&self, pod: &str, peer: &str, protocol: u8, port: u16) -> bool {
        self.verdict(pod, true, peer, protocol, port) != Verdict::Denied
    }

    fn leaves(&self, pod: &str, peer: &str, protocol: u8, port: u16) -> bool {
        self.verdict(pod, false, peer, protocol, port) != Verdict::Denied
    }
}

#[test]
fn match_expressions_which_iptables_and_tc_ignore() {
    let case = Case::new(vec![
        pod("x", "web", "10.0.0.1"),
        pod("x", "db", "10.0.0.2"),
        pod("x", "log", "10.0.0.3"),
        policy(
            "x",
            "p",
            json!({
                "podSelector": {"matchExpressions": [
                    {"key": "app", "operator": "In", "values": ["web"]},
                ]},
                "ingress": [{"from": [{"podSelector": {"matchExpressions": [
                    {"key": "app", "operator": "NotIn", "values": ["db"]},
                    {"key": "app", "operator": "Exists"},
                    {"key": "old", "operator": "DoesNotExist"},
                ]}}]}],
            }),
        ),
    ]);
    assert!(!case.enters("web", "10.0.0.2", TCP, 80));
    assert!(case.enters("web", "10.0.0.3", TCP, 80));
    assert_eq!(case.verdict("db", true, "10.0.0.3", TCP, 80), Verdict::Open);
}

#[test]
fn a_pod_selector_means_the_policys_own_namespace_not_all_as_in_iptables() {
    let case = Case::new(vec![
        pod("x", "web", "10.0.0.1"),
        pod("x", "here", "10.0.0.2"),
        pod("y", "there", "10.0.0.3"),
        policy(
            "x",
            "p",
            json!({
                "podSelector": {"matchLabels": {"app": "web"}},
                "ingress": [{"from": [{"podSelector": {}}]}],
            }),
        ),
    ]);
    assert!(case.enters("web", "10.0.0.2", TCP, 80));
    assert!(!case.enters("web", "10.0.0.3", TCP, 80));
}

#[test]
fn policy_types_default_to_ingress_even_without_rules_unlike_iptables() {
    let case = Case::new(vec![
        pod("x", "web", "10.0.0.1"),
        policy("x", "p", json!({"podSelector": {}})),
    ]);
    assert_eq!(
        case.verdict("web", true, "10.0.0.9", TCP, 80),
        Verdict::Denied
    );
    assert_eq!(
        case.verdict("web", false, "10.0.0.9", TCP, 80),
        Verdict::Open
    );
}

#[test]
fn an_except_does_not_override_later_rules_as_in_iptables_and_tc() {
    let case = Case::new(vec![
        pod("x", "web", "10.0.0.1"),
        policy(
            "x",
            "p",
            json!({
                "podSelector": {},
                "ingress": [
                    {"from": [{"ipBlock": {"cidr": "10.1.0.0/16", "except": ["10.1.1.0/24"]}}]},
                    {"from": [{"ipBlock": {"cidr": "10.1.1.0/25"}}], "ports": [{"port": 80}]},
                ],
            }),
        ),
    ]);
    assert!(case.enters("web", "10.1.0.1", TCP, 22));
    assert!(case.enters("web", "10.1.1.1", TCP, 80));
    assert!(!case.enters("web", "10.1.1.1", TCP, 22));
    assert!(!case.enters("web", "10.1.1.200", TCP, 80));
}

#[test]
fn an_except_is_not_merged_over_the_other_blocks_of_its_rule_as_in_nftables() {
    let case = Case::new(vec![
        pod("x", "web", "10.0.0.1"),
        policy(
            "x",
            "p",
            json!({
                "podSelector": {},
                "ingress": [{"from": [
                    {"ipBlock": {"cidr": "10.1.0.0/16", "except": ["10.1.1.0/24"]}},
                    {"ipBlock": {"cidr": "10.1.1.7/32"}},
                ]}],
            }),
        ),
    ]);
    assert!(case.enters("web", "10.1.1.7", TCP, 80));
    assert!(!case.enters("web", "10.1.1.8", TCP, 80));
}

#[test]
fn a_named_port_is_looked_up_on_the_pod_not_in_etc_services_as_in_iptables() {
    // /etc/services has http at 80.
    let case = Case::new(vec![
        with_port(pod("x", "web", "10.0.0.1"), "http", 8080),
        policy(
            "x",
            "p",
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": "http"}]}]}),
        ),
    ]);
    assert!(case.enters("web", "10.0.0.9", TCP, 8080));
    assert!(!case.enters("web", "10.0.0.9", TCP, 80));
}

#[test]
fn a_named_port_of_an_egress_rule_is_each_peers_own() {
    let case = Case::new(vec![
        pod("x", "client", "10.0.0.1"),
        with_port(pod("x", "old", "10.0.0.2"), "http", 80),
        with_port(pod("x", "new", "10.0.0.3"), "http", 8080),
        policy(
            "x",
            "p",
            json!({
                "podSelector": {"matchLabels": {"app": "client"}},
                "policyTypes": ["Egress"],
                "egress": [{"to": [{"podSelector": {}}], "ports": [{"port": "http"}]}],
            }),
        ),
    ]);
    assert!(case.leaves("client", "10.0.0.2", TCP, 80));
    assert!(case.leaves("client", "10.0.0.3", TCP, 8080));
    assert!(!case.leaves("client", "10.0.0.2", TCP, 8080));
    assert!(!case.leaves("client", "10.0.0.3", TCP, 80));
}

#[test]
fn a_named_port_of_no_pod_allows_nothing_rather_than_everything() {
    let case = Case::new(vec![
        pod("x", "web", "10.0.0.1"),
        policy(
            "x",
            "p",
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": "http"}]}]}),
        ),
    ]);
    assert!(!case.enters("web", "10.0.0.9", TCP, 80));
}

#[test]
fn an_end_port_which_tc_lacks_opens_its_range_and_no_more() {
    let case = Case::new(vec![
        pod("x", "web", "10.0.0.1"),
        policy(
            "x",
            "p",
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": 1024, "endPort": 65535}]}]}),
        ),
    ]);
    assert!(!case.enters("web", "10.0.0.9", TCP, 1023));
    assert!(case.enters("web", "10.0.0.9", TCP, 1024));
    assert!(case.enters("web", "10.0.0.9", TCP, 65535));
}

/// AWS's agent: 24 ports and ranges for an entry at most.
#[test]
fn more_ports_than_twenty_four_in_one_rule_are_all_allowed() {
    let ports: Vec<_> = (0..100).map(|at| json!({"port": 2000 + 7 * at})).collect();
    let case = Case::new(vec![
        pod("x", "web", "10.0.0.1"),
        policy(
            "x",
            "p",
            json!({"podSelector": {}, "ingress": [{"ports": ports}]}),
        ),
    ]);
    for at in 0..100 {
        assert!(case.enters("web", "10.0.0.9", TCP, 2000 + 7 * at));
        assert!(!case.enters("web", "10.0.0.9", TCP, 2001 + 7 * at));
    }
}

#[test]
fn sctp_which_tc_lacks_is_its_own_protocol_and_never_tcp() {
    let case = Case::new(vec![
        pod("x", "web", "10.0.0.1"),
        policy(
            "x",
            "p",
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80, "protocol": "SCTP"}]}]}),
        ),
    ]);
    assert!(case.enters("web", "10.0.0.9", SCTP, 80));
    assert!(!case.enters("web", "10.0.0.9", TCP, 80));
    assert!(!case.enters("web", "10.0.0.9", UDP, 80));
}

#[test]
fn ingress_which_tc_does_not_implement_is_isolated() {
    let case = Case::new(vec![
        pod("x", "web", "10.0.0.1"),
        policy(
            "x",
            "p",
            json!({"podSelector": {}, "policyTypes": ["Ingress"]}),
        ),
    ]);
    assert!(!case.enters("web", "10.0.0.9", TCP, 80));
}

#[test]
fn a_selector_of_no_pod_with_ports_opens_them_to_nobody_unlike_tc() {
    let case = Case::new(vec![
        pod("x", "web", "10.0.0.1"),
        policy(
            "x",
            "p",
            json!({
                "podSelector": {},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "none"}}}], "ports": [{"port": 80}]}],
                "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "none"}}}], "ports": [{"port": 80}]}],
            }),
        ),
    ]);
    assert!(!case.enters("web", "10.0.0.9", TCP, 80));
    assert!(!case.leaves("web", "10.0.0.9", TCP, 80));
}

#[test]
fn a_port_without_a_number_which_crashes_tc_is_every_port_of_its_protocol() {
    let case = Case::new(vec![
        pod("x", "web", "10.0.0.1"),
        policy(
            "x",
            "p",
            json!({"podSelector": {}, "ingress": [{"ports": [{"protocol": "UDP"}]}]}),
        ),
    ]);
    assert!(case.enters("web", "10.0.0.9", UDP, 1));
    assert!(!case.enters("web", "10.0.0.9", TCP, 1));
}

#[test]
fn a_pods_own_address_is_no_pass_from_elsewhere_unlike_iptables() {
    let case = Case::new(vec![
        pod("x", "web", "10.0.0.1"),
        policy("x", "p", json!({"podSelector": {}})),
    ]);
    assert!(!case.enters("web", "10.0.0.1", TCP, 80));
}

/// Issue 14 of the iptables implementation.
#[test]
fn a_namespace_selector_alone_means_all_pods_of_the_namespaces() {
    let case = Case::new(vec![
        namespace("y"),
        namespace("z"),
        pod("x", "web", "10.0.0.1"),
        pod("y", "one", "10.0.0.2"),
        pod("z", "two", "10.0.0.3"),
        policy(
            "x",
            "p",
            json!({
                "podSelector": {},
                "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"ns": "y"}}}]}],
            }),
        ),
    ]);
    assert!(case.enters("web", "10.0.0.2", TCP, 80));
    assert!(!case.enters("web", "10.0.0.3", TCP, 80));
    assert!(!case.enters("web", "10.0.0.1", TCP, 80));
}

/// Issue 17 of the iptables implementation.
#[test]
fn several_policies_on_one_pod_add_up() {
    let rule = |port: u16| json!({"podSelector": {}, "ingress": [{"ports": [{"port": port}]}]});
    let case = Case::new(vec![
        pod("x", "web", "10.0.0.1"),
        policy("x", "one", rule(80)),
        policy("x", "two", rule(81)),
        policy("x", "none", json!({"podSelector": {}})),
    ]);
    assert!(case.enters("web", "10.0.0.9", TCP, 80));
    assert!(case.enters("web", "10.0.0.9", TCP, 81));
    assert!(!case.enters("web", "10.0.0.9", TCP, 82));
}

/// Issue 68 of the iptables implementation.
#[test]
fn icmp_passes_with_rules_without_ports_only() {
    let rule = |rule: Value| {
        Case::new(vec![
            pod("x", "web", "10.0.0.1"),
            policy("x", "p", json!({"podSelector": {}, "ingress": [rule]})),
        ])
    };
    assert!(rule(json!({})).enters("web", "10.0.0.9", ICMP, 0));
    assert!(!rule(json!({"ports": [{"port": 80}]})).enters("web", "10.0.0.9", ICMP, 0));
    assert!(!rule(json!({"ports": [{"protocol": "TCP"}]})).enters("web", "10.0.0.9", ICMP, 0));
}

/// Issue 42 of the iptables implementation.
#[test]
fn a_new_pod_is_a_peer_of_policies_that_were_there_before() {
    let before = vec![
        pod("x", "web", "10.0.0.1"),
        policy(
            "x",
            "p",
            json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}),
        ),
    ];
    let mut after = before.clone();
    after.push(pod("x", "new", "10.0.0.2"));
    let mut compiler = Compiler::new(
        Settings::default(),
        RuleNumbers::default(),
        Default::default(),
    );
    let packet = Packet {
        ingress: true,
        peer: "10.0.0.2".parse().unwrap(),
        protocol: TCP,
        port: 80,
    };
    let mut verdicts = Vec::new();
    for objects in [before, after] {
        let cluster = Cluster { objects };
        let ends: Vec<_> = endpoints(&cluster)
            .into_iter()
            .map(|(_, one)| one)
            .collect();
        let compiled = compiler.compile(&model(&cluster), &ends, &[]);
        verdicts.push(verdict(&compiled, 1, &packet));
    }
    assert_eq!(verdicts, [Verdict::Denied, Verdict::Allowed]);
}

/// Azure's: a prefix that two policies name is gone when one of them is.
#[test]
fn a_prefix_of_two_policies_outlives_one_of_them() {
    let block =
        json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}]});
    let web = pod("x", "web", "10.0.0.1");
    let both = vec![
        web,
        policy("x", "one", block.clone()),
        policy("x", "two", block),
    ];
    let one = both[..2].to_vec();
    for objects in [both, one] {
        assert!(Case::new(objects).enters("web", "10.1.0.1", TCP, 80));
    }
}

#[test]
fn an_ipv6_block_of_everything_says_nothing_of_ipv4() {
    let case = Case::new(vec![
        pod("x", "web", "10.0.0.1"),
        policy(
            "x",
            "p",
            json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "::/0"}}]}]}),
        ),
    ]);
    assert!(case.enters("web", "2001:db8::1", TCP, 80));
    assert!(!case.enters("web", "192.0.2.1", TCP, 80));
}

#[test]
fn a_peer_is_known_by_its_addresses_on_the_policys_networks_only() {
    let mut other = pod("x", "other", "10.0.0.2");
    other["status"] = json!({"podIPs": [{"ip": "10.200.0.2"}]});
    let case = Case::new(vec![
        pod("x", "web", "10.0.0.1"),
        other,
        policy(
            "x",
            "p",
            json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}),
        ),
    ]);
    assert!(case.enters("web", "10.0.0.2", TCP, 80));
    assert!(!case.enters("web", "10.200.0.2", TCP, 80));
}

#[test]
fn a_wrong_end_port_is_refused_rather_than_ignored() {
    let bad = policy(
        "x",
        "p",
        json!({"podSelector": {}, "ingress": [{"ports": [{"port": "http", "endPort": 90}]}]}),
    );
    assert!(read_objects(&bad.to_string()).is_err());
}
