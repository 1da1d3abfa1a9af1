//! Random clusters. All names, addresses and ports come from small sets, so
//! that what is drawn has much to do with each other.

use proptest::{collection::vec, option, prelude::*, sample::select, strategy::Strategy};
use serde_json::{Value, json};

use super::Cluster;

/// Addresses to try: those of pods, of nobody, and at the edges of prefixes.
pub const ADDRESSES: [&str; 18] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "10.0.1.1",
    "10.0.1.2",
    "10.1.0.1",
    "10.1.0.2",
    "10.255.255.255",
    "11.0.0.0",
    "192.0.2.1",
    "fd00::1",
    "fd00::2",
    "fd00:0:0:1::1",
    "fd00:1::1",
    "fd00:1::2",
    "fe00::1",
    "2001:db8::1",
    "::1",
];

/// Ports to try.
pub const PORTS: [u16; 9] = [1, 79, 80, 81, 443, 1023, 8080, 8081, 65535];

const PREFIXES: [&str; 13] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/16",
    "10.0.0.0/24",
    "10.0.0.1/32",
    "10.0.0.2/31",
    "10.1.0.0/16",
    "128.0.0.0/1",
    "::/0",
    "fd00::/16",
    "fd00::/64",
    "fd00:1::/32",
    "::/90",
];
const NAMESPACES: [&str; 3] = ["one", "two", "three"];
const KEYS: [&str; 3] = ["app", "tier", "example.com/zone"];
const VALUES: [&str; 3] = ["a", "b", ""];
const PORT_NAMES: [&str; 3] = ["http", "dns", "metrics"];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const NETWORKS: [&str; 3] = ["one/red", "two/red", "blue"];

/// Three namespaces, some pods, some policies.
pub fn cluster() -> impl Strategy<Value = Cluster> {
    let namespaces = vec(option::weighted(0.7, labels()), NAMESPACES.len());
    (namespaces, vec(pod(), 1..7), vec(policy(), 0..7)).prop_map(|(namespaces, pods, policies)| {
        let mut objects = Vec::new();
        for (name, labels) in NAMESPACES.iter().zip(namespaces) {
            if let Some(labels) = labels {
                objects.push(json!({
                    "apiVersion": "v1",
                    "kind": "Namespace",
                    "metadata": {"name": name, "labels": labels},
                }));
            }
        }
        let numbered = pods.into_iter().chain(policies).enumerate();
        objects.extend(numbered.map(|(number, mut object)| {
            object["metadata"]["name"] = format!("object-{number}").into();
            object
        }));
        Cluster { objects }
    })
}

fn labels() -> impl Strategy<Value = Value> {
    vec((select(&KEYS[..]), select(&VALUES[..])), 0..3).prop_map(|pairs| {
        Value::Object(
            pairs
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
        )
    })
}

/// Half of the pods have a network-status, with one interface to three.
fn pod() -> impl Strategy<Value = Value> {
    let statuses = option::weighted(0.8, vec(addresses(), 1..4));
    let odd = option::weighted(0.1, select(vec!["hostNetwork", "Succeeded", "Failed"]));
    let ports = vec(container_port(), 0..4);
    let default = any::<bool>();
    (
        namespace(),
        labels(),
        statuses,
        addresses(),
        ports,
        default,
        odd,
    )
        .prop_map(|(namespace, labels, statuses, ips, ports, default, odd)| {
            let pod_ips: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
            let mut pod = json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"namespace": namespace, "labels": labels},
                "spec": {"containers": [{"name": "c", "ports": ports}]},
                "status": {"phase": "Running", "podIPs": pod_ips},
            });
            if let Some(statuses) = statuses {
                let statuses: Vec<_> = statuses
                    .into_iter()
                    .enumerate()
                    .map(|(at, ips)| {
                        json!({
                            "name": NETWORKS[at],
                            "interface": format!("net{at}"),
                            "ips": ips,
                            "default": at == 0 && default,
                        })
                    })
                    .collect();
                pod["metadata"]["annotations"] = json!({
                    "k8s.v1.cni.cncf.io/network-status": Value::from(statuses).to_string(),
                });
            }
            match odd {
                Some("hostNetwork") => pod["spec"]["hostNetwork"] = true.into(),
                Some(phase) => pod["status"]["phase"] = phase.into(),
                None => {}
            }
            pod
        })
}

fn addresses() -> impl Strategy<Value = Vec<&'static str>> {
    vec(select(&ADDRESSES[..]), 0..3)
}

fn container_port() -> impl Strategy<Value = Value> {
    let name = select(&PORT_NAMES[..]);
    let protocol = option::of(select(&PROTOCOLS[..]));
    (name, select(&PORTS[..]), protocol).prop_map(|(name, number, protocol)| {
        let mut port = json!({"name": name, "containerPort": number});
        if let Some(protocol) = protocol {
            port["protocol"] = protocol.into();
        }
        port
    })
}

fn namespace() -> impl Strategy<Value = &'static str> {
    select(&NAMESPACES[..])
}

fn policy() -> impl Strategy<Value = Value> {
    let scope = option::weighted(0.7, vec(select(&NETWORKS[..]), 1..3));
    let types = option::of(select(vec![
        json!(["Ingress"]),
        json!(["Egress"]),
        json!(["Ingress", "Egress"]),
    ]));
    let rules = || option::weighted(0.8, vec((peers(), ports()), 0..3));
    (
        namespace(),
        scope,
        selector(),
        types,
        rules(),
        rules(),
        any::<bool>(),
    )
        .prop_map(|(namespace, scope, pods, types, ingress, egress, multi)| {
            let (version, kind) = match multi {
                true => ("k8s.cni.cncf.io/v1beta1", "MultiNetworkPolicy"),
                false => ("networking.k8s.io/v1", "NetworkPolicy"),
            };
            let mut policy = json!({
                "apiVersion": version,
                "kind": kind,
                "metadata": {"namespace": namespace},
                "spec": {"podSelector": pods},
            });
            if let Some(networks) = scope {
                policy["metadata"]["annotations"] =
                    json!({"k8s.v1.cni.cncf.io/policy-for": networks.join(", ")});
            }
            if let Some(types) = types {
                policy["spec"]["policyTypes"] = types;
            }
            for (list, peers, rules) in [("ingress", "from", ingress), ("egress", "to", egress)] {
                if let Some(rules) = rules {
                    policy["spec"][list] =
                        rules.into_iter().map(|rule| rule_of(peers, rule)).collect();
                }
            }
            policy
        })
}

fn rule_of(list: &str, (peers, ports): (Option<Vec<Value>>, Option<Vec<Value>>)) -> Value {
    let mut rule = json!({});
    if let Some(peers) = peers {
        rule[list] = peers.into();
    }
    if let Some(ports) = ports {
        rule["ports"] = ports.into();
    }
    rule
}

fn selector() -> impl Strategy<Value = Value> {
    let expression = (
        select(&KEYS[..]),
        select(vec!["In", "NotIn", "Exists", "DoesNotExist"]),
        vec(select(&VALUES[..]), 1..3),
    )
        .prop_map(|(key, operator, values)| match operator {
            "In" | "NotIn" => json!({"key": key, "operator": operator, "values": values}),
            _ => json!({"key": key, "operator": operator}),
        });
    (option::weighted(0.4, labels()), vec(expression, 0..2)).prop_map(|(equal, expressions)| {
        let mut selector = json!({});
        if let Some(equal) = equal {
            selector["matchLabels"] = equal;
        }
        if !expressions.is_empty() {
            selector["matchExpressions"] = expressions.into();
        }
        selector
    })
}

fn peers() -> impl Strategy<Value = Option<Vec<Value>>> {
    option::weighted(0.8, vec(peer(), 0..4))
}

fn peer() -> impl Strategy<Value = Value> {
    let by_name = select(&NAMESPACES[..])
        .prop_map(|name| json!({"matchLabels": {"kubernetes.io/metadata.name": name}}));
    let namespaces = prop_oneof![3 => selector(), 1 => by_name];
    prop_oneof![
        selector().prop_map(|pods| json!({"podSelector": pods})),
        namespaces
            .clone()
            .prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        (namespaces, selector()).prop_map(|(namespaces, pods)| json!({
            "namespaceSelector": namespaces,
            "podSelector": pods,
        })),
        block(),
        block(),
    ]
}

/// A prefix, without some of those inside it.
fn block() -> impl Strategy<Value = Value> {
    (select(&PREFIXES[..]), vec(any::<bool>(), PREFIXES.len())).prop_map(|(cidr, picks)| {
        let outer: ipnet::IpNet = cidr.parse().unwrap();
        let inside = |text: &&str| {
            let inner: ipnet::IpNet = text.parse().unwrap();
            outer.contains(&inner) && outer != inner
        };
        let except: Vec<_> = PREFIXES
            .into_iter()
            .zip(picks)
            .filter(|(text, picked)| *picked && inside(text))
            .map(|(text, _)| text)
            .collect();
        match except.is_empty() {
            true => json!({"ipBlock": {"cidr": cidr}}),
            false => json!({"ipBlock": {"cidr": cidr, "except": except}}),
        }
    })
}

fn ports() -> impl Strategy<Value = Option<Vec<Value>>> {
    option::weighted(0.7, vec(port(), 0..3))
}

fn port() -> impl Strategy<Value = Value> {
    let which = prop_oneof![
        1 => Just(json!({})),
        3 => select(&PORTS[..]).prop_map(|port| json!({"port": port})),
        2 => (select(&PORTS[..]), select(&PORTS[..]))
            .prop_map(|(a, b)| json!({"port": a.min(b), "endPort": a.max(b)})),
        3 => select(&PORT_NAMES[..]).prop_map(|name| json!({"port": name})),
    ];
    (which, option::of(select(&PROTOCOLS[..]))).prop_map(|(mut port, protocol)| {
        if let Some(protocol) = protocol {
            port["protocol"] = protocol.into();
        }
        port
    })
}
