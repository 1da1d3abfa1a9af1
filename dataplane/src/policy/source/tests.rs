//! What is accepted, and with which words the rest is refused.

use super::read_objects;
use crate::policy::model::{Object, Policy, Port, PortRange, Protocol, Scope};

fn policy(text: &str) -> Policy {
    let objects = read_objects(text).unwrap();
    let [(_, Object::Policy(_, policy))] = objects.as_slice() else {
        panic!("{objects:?}");
    };
    policy.as_ref().clone()
}

/// A NetworkPolicy with this `spec`, which begins in line 4.
fn with_spec(spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec: {spec}\n"
    )
}

#[test]
fn what_the_api_refuses_is_refused_with_its_line() {
    for (spec, expected) in [
        (
            "{podSelector: {}, ingres: []}",
            "spec.ingres: unknown field `ingres`, expected one of",
        ),
        (
            "{ingress: [{to: []}]}",
            "spec.ingress[0].to: unknown field `to`, expected `from` or `ports`",
        ),
        (
            "{policyTypes: [ingress]}",
            "spec.policyTypes[0]: unknown variant `ingress`",
        ),
        (
            "{ingress: [{from: [{}]}]}",
            "spec.ingress[0].from[0]: names no peer;",
        ),
        (
            "{ingress: [{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]}",
            "spec.ingress[0].from[0]: ipBlock stands alone;",
        ),
        (
            "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0}}]}]}",
            "spec.egress[0].to[0].ipBlock: '10.0.0.0' is no prefix",
        ),
        (
            "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}",
            "spec.egress[0].to[0].ipBlock: except 11.0.0.0/16 is not inside 10.0.0.0/8",
        ),
        (
            "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}",
            "spec.egress[0].to[0].ipBlock: except 10.0.0.0/8 is not inside 10.0.0.0/8",
        ),
        (
            "{egress: [{to: [{ipBlock: {cidr: '::ffff:10.0.0.0/104'}}]}]}",
            "spec.egress[0].to[0].ipBlock: '::ffff:10.0.0.0/104' is IPv4 mapped into IPv6;",
        ),
        (
            "{egress: [{ports: [{port: 0}]}]}",
            "spec.egress[0].ports[0]: 0 is no port: from 1 to 65535",
        ),
        (
            "{egress: [{ports: [{port: 65536}]}]}",
            "spec.egress[0].ports[0]: 65536 is no port",
        ),
        (
            "{egress: [{ports: [{port: '80'}]}]}",
            "spec.egress[0].ports[0]: '80' is no port name",
        ),
        (
            "{egress: [{ports: [{port: HTTP}]}]}",
            "spec.egress[0].ports[0]: 'HTTP' is no port name",
        ),
        (
            "{egress: [{ports: [{port: 80, endPort: 79}]}]}",
            "spec.egress[0].ports[0]: endPort 79 is below port 80",
        ),
        (
            "{egress: [{ports: [{port: http, endPort: 80}]}]}",
            "spec.egress[0].ports[0]: endPort needs a port that is a number",
        ),
        (
            "{egress: [{ports: [{endPort: 80}]}]}",
            "spec.egress[0].ports[0]: endPort needs a port that is a number",
        ),
        (
            "{egress: [{ports: [{protocol: tcp}]}]}",
            "spec.egress[0].ports[0].protocol: unknown variant `tcp`, expected one of `TCP`",
        ),
        (
            "{egress: [{ports: [{protocol: ICMP}]}]}",
            "spec.egress[0].ports[0].protocol: unknown variant `ICMP`",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Is, values: [b]}]}}",
            "spec.podSelector.matchExpressions[0].operator: unknown variant `Is`, expected one of",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: In}]}}",
            "spec.podSelector.matchExpressions[0]: values: In and NotIn need at least one",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
            "spec.podSelector.matchExpressions[0]: values: Exists and DoesNotExist take none",
        ),
        (
            "{podSelector: {matchLabels: {a: 'b c'}}}",
            "spec.podSelector: 'b c' is no label value",
        ),
        (
            "{podSelector: {matchLabels: {a: 1}}}",
            "spec.podSelector.matchLabels.a: invalid type: integer `1`, expected a string",
        ),
        (
            "{podSelector: {matchLabels: {'-a': b}}}",
            "spec.podSelector: '-a' is no label key",
        ),
    ] {
        let refused = read_objects(&with_spec(spec)).unwrap_err();
        assert!(refused.reason.starts_with(expected), "{spec}: {refused}");
        assert_eq!(refused.line, 4, "{spec}: {refused}");
        assert!(!refused.reason.contains('\n'), "{refused}");
    }
}

#[test]
fn what_is_no_object_or_of_another_api_is_refused() {
    for (text, expected) in [
        ("a: b", "line 1: apiVersion is missing"),
        ("- 1", "line 1: apiVersion is missing"),
        ("apiVersion: v1", "line 1: kind is missing"),
        (
            "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy",
            "line 1: kind NetworkPolicy of apiVersion projectcalico.org/v3 is not known here; NetworkPolicy is read as of networking.k8s.io/v1",
        ),
        (
            "apiVersion: networking.k8s.io/v1\nkind: Networkpolicy",
            "line 1: kind Networkpolicy of apiVersion networking.k8s.io/v1 is not known here",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  annotations:\n    k8s.v1.cni.cncf.io/network-status: '['",
            "line 4: metadata: k8s.v1.cni.cncf.io/network-status: EOF",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: A_b}",
            "line 3: metadata: 'A_b' is no object name",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}",
            "line 5: Pod default/a is already in line 1; remove one of them",
        ),
    ] {
        let refused = read_objects(text).unwrap_err().to_string();
        assert!(refused.starts_with(expected), "{text:?}: {refused}");
    }
}

#[test]
fn a_pods_uid_is_the_one_that_cgroups_have() {
    let text = "
apiVersion: v1
kind: PodList
items:
- metadata: {name: a}
- metadata: {name: b, uid: 0f0f4d9e-3a5c-4a7f-9d62-7c1b2a3d4e5f}
- metadata:
    name: c
    uid: 11111111-3a5c-4a7f-9d62-7c1b2a3d4e5f
    annotations: {kubernetes.io/config.hash: 0123456789abcdef0123456789abcdef}
";
    let pods = read_objects(text).unwrap();
    let uids: Vec<_> = pods
        .iter()
        .map(|(_, object)| match object {
            Object::Pod(_, pod) => pod.uid.as_deref(),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        None,
        Some("0f0f4d9e-3a5c-4a7f-9d62-7c1b2a3d4e5f"),
        Some("0123456789abcdef0123456789abcdef"),
    ];
    assert_eq!(uids, expected);
}

#[test]
fn other_kinds_are_passed_over_and_lists_are_read() {
    let text = "
apiVersion: v1
kind: List
items:
- apiVersion: apps/v1
  kind: Deployment
  metadata: {name: a}
- apiVersion: v1
  kind: Namespace
  metadata: {name: a}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicyList
items:
- metadata: {name: a, namespace: b, resourceVersion: '1'}
  spec: {podSelector: {}}
";
    let objects = read_objects(text).unwrap();
    let names: Vec<_> = objects
        .iter()
        .map(|(line, object)| format!("{line} {}", object.name()))
        .collect();
    assert_eq!(names, ["8 Namespace a", "15 NetworkPolicy b/a"]);
}

#[test]
fn both_versions_of_multi_network_policies_are_read_alike() {
    for version in ["v1beta1", "v1beta2"] {
        let text = format!(
            "apiVersion: k8s.cni.cncf.io/{version}
kind: MultiNetworkPolicy
metadata:
  name: p
  namespace: home
  annotations: {{k8s.v1.cni.cncf.io/policy-for: ' a, other/b ,'}}
spec:
  podSelector: {{}}
  ingress: [{{ports: [{{port: 80, endPort: 90}}]}}]"
        );
        let policy = policy(&text);
        assert_eq!(policy.scope.to_string(), "home/a,other/b");
        let ports = &policy.ingress.unwrap()[0].ports;
        let (first, last) = (80, 90);
        assert_eq!(
            *ports,
            [Port::Range(Protocol::Tcp, PortRange { first, last })]
        );
    }
}

#[test]
fn a_multi_network_policy_without_its_annotation_is_about_no_network() {
    let text = "apiVersion: k8s.cni.cncf.io/v1beta1\nkind: MultiNetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {}}";
    assert_eq!(policy(text).scope, Scope::Networks(Default::default()));
}

#[test]
fn policy_types_default_as_the_api_says() {
    for (spec, isolates) in [
        ("{}", (true, false)),
        ("{ingress: []}", (true, false)),
        ("{egress: []}", (true, false)),
        ("{egress: [{}]}", (true, true)),
        ("{policyTypes: [Egress]}", (false, true)),
        ("{policyTypes: [Ingress], egress: [{}]}", (true, false)),
        ("{policyTypes: [Ingress, Egress]}", (true, true)),
    ] {
        let policy = policy(&with_spec(spec));
        let found = (policy.ingress.is_some(), policy.egress.is_some());
        assert_eq!(found, isolates, "{spec}");
    }
}
