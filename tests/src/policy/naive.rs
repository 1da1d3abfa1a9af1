//! Kubernetes' rules, read off the manifests one by one.
//!
//! Where Kubernetes leaves something open, this follows `docs/policy.md`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

const POLICY_FOR: &str = "k8s.v1.cni.cncf.io/policy-for";
const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// All manifests of a cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Namespaces, pods and policies.
    pub objects: Vec<Value>,
}

/// A connection's first packet, seen at one interface of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// It enters the pod, rather than leaving it.
    pub ingress: bool,
    /// The other side.
    pub peer: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port; meaningless for protocols without.
    pub port: u16,
}

/// What policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// No policy isolates the pod in this direction.
    Open,
    /// Some rule allows it.
    Allowed,
    /// None does.
    Denied,
}

impl Cluster {
    /// The manifests as one file.
    pub fn text(&self) -> String {
        let texts: Vec<_> = self.objects.iter().map(Value::to_string).collect();
        texts.join("\n---\n")
    }

    /// The pods.
    pub fn pods(&self) -> impl Iterator<Item = &Value> {
        let pods = self.objects.iter();
        pods.filter(|object| object["kind"] == "Pod")
    }

    /// Judges a packet at an interface of a pod (rules 1, 3 and 13).
    pub fn verdict(&self, pod: &Value, interface: &str, packet: &Packet) -> Verdict {
        let direction = if packet.ingress { "Ingress" } else { "Egress" };
        let mut isolated = false;
        for policy in self.policies() {
            let selects = namespace_of(policy) == namespace_of(pod)
                && selector_matches(&policy["spec"]["podSelector"], labels(pod))
                && about_interface(policy, pod, interface)
                && policy_types(policy).contains(&direction);
            if !selects {
                continue;
            }
            isolated = true;
            let list = if packet.ingress { "ingress" } else { "egress" };
            let rules = elements(&policy["spec"][list]);
            if rules
                .iter()
                .any(|rule| self.rule_allows(policy, pod, rule, packet))
            {
                return Verdict::Allowed;
            }
        }
        if isolated {
            Verdict::Denied
        } else {
            Verdict::Open
        }
    }

    fn policies(&self) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(|object| {
            object["kind"] == "NetworkPolicy" || object["kind"] == "MultiNetworkPolicy"
        })
    }

    /// Rule 4: any peer and any port. Rule 5: none given is every one.
    fn rule_allows(&self, policy: &Value, pod: &Value, rule: &Value, packet: &Packet) -> bool {
        let peers = elements(if packet.ingress {
            &rule["from"]
        } else {
            &rule["to"]
        });
        let ports = elements(&rule["ports"]);
        let by_peer = peers.is_empty()
            || peers.iter().any(|peer| {
                in_block(peer, packet.peer)
                    || self
                        .pods()
                        .any(|other| self.is_peer(policy, peer, other, packet.peer))
            });
        let by_port = ports.is_empty() || ports.iter().any(|port| port_matches(pod, port, packet));
        let by_its_name = !packet.ingress
            && ports
                .iter()
                .any(|port| self.named_by_peer(policy, peers, port, packet));
        by_peer && by_port || by_its_name
    }

    /// Rule 6: whether a pod is meant by a selector, under this address.
    fn is_peer(&self, policy: &Value, peer: &Value, pod: &Value, address: IpAddr) -> bool {
        if !peer["ipBlock"].is_null() {
            return false;
        }
        let namespace = match &peer["namespaceSelector"] {
            Value::Null => namespace_of(pod) == namespace_of(policy),
            selector => selector_matches(selector, self.namespace_labels(namespace_of(pod))),
        };
        namespace
            && selector_matches(&peer["podSelector"], labels(pod))
            && addresses_for(policy, pod).contains(&address)
    }

    /// Rule 10, egress: some peer that the rule means has a port of this name
    /// and number. To a block, or to everybody, any pod is such a peer.
    fn named_by_peer(
        &self,
        policy: &Value,
        peers: &[Value],
        port: &Value,
        packet: &Packet,
    ) -> bool {
        self.pods().any(|other| {
            let is_here = all_addresses(other).contains(&packet.peer);
            let is_meant = is_here && peers.is_empty()
                || peers.iter().any(|peer| {
                    is_here && in_block(peer, packet.peer)
                        || self.is_peer(policy, peer, other, packet.peer)
                });
            is_meant && has_named_port(other, port, packet)
        })
    }

    /// Each namespace has its name as a label, told of or not.
    fn namespace_labels(&self, name: &str) -> Vec<(String, String)> {
        let mut all = vec![("kubernetes.io/metadata.name".to_owned(), name.to_owned())];
        for object in &self.objects {
            if object["kind"] == "Namespace" && object["metadata"]["name"] == name {
                all.extend(labels(object));
            }
        }
        all
    }
}

/// Rule 8.
fn in_block(peer: &Value, address: IpAddr) -> bool {
    let block = &peer["ipBlock"];
    let inside = |cidr: &Value| {
        let cidr: IpNet = text(cidr).parse().unwrap();
        cidr.contains(&address)
    };
    !block.is_null() && inside(&block["cidr"]) && !elements(&block["except"]).iter().any(inside)
}

/// Rule 9, and rule 10 for ingress, where the selected pod's names count.
fn port_matches(pod: &Value, port: &Value, packet: &Packet) -> bool {
    if protocol_of(port) != packet.protocol {
        return false;
    }
    match &port["port"] {
        Value::Null => true,
        Value::Number(first) => {
            let first = first.as_u64().unwrap();
            let last = port["endPort"].as_u64().unwrap_or(first);
            (first..=last).contains(&u64::from(packet.port))
        }
        _ => packet.ingress && has_named_port(pod, port, packet),
    }
}

fn has_named_port(pod: &Value, port: &Value, packet: &Packet) -> bool {
    port["port"].is_string()
        && protocol_of(port) == packet.protocol
        && container_ports(pod).iter().any(|container_port| {
            container_port["name"] == port["port"]
                && container_port["containerPort"] == packet.port
                && protocol_of(container_port) == packet.protocol
        })
}

fn protocol_of(port: &Value) -> u8 {
    match port["protocol"].as_str().unwrap_or("TCP") {
        "TCP" => 6,
        "UDP" => 17,
        "SCTP" => 132,
        other => panic!("{other}"),
    }
}

/// Rule 2.
fn policy_types(policy: &Value) -> Vec<&str> {
    let given = elements(&policy["spec"]["policyTypes"]);
    if !given.is_empty() {
        return given.iter().map(text).collect();
    }
    let mut types = vec!["Ingress"];
    if !elements(&policy["spec"]["egress"]).is_empty() {
        types.push("Egress");
    }
    types
}

/// Rule 7.
fn selector_matches(selector: &Value, labels: Vec<(String, String)>) -> bool {
    let value_of = |key: &Value| {
        let mut found = labels.iter().filter(|(name, _)| key == name.as_str());
        found.next().map(|(_, value)| value.as_str())
    };
    let empty = serde_json::Map::new();
    let equal = selector["matchLabels"].as_object().unwrap_or(&empty);
    let expressions = elements(&selector["matchExpressions"]);
    equal
        .iter()
        .all(|(key, value)| value_of(&Value::from(key.as_str())) == value.as_str())
        && expressions.iter().all(|expression| {
            let value = value_of(&expression["key"]);
            let listed = elements(&expression["values"])
                .iter()
                .any(|one| one.as_str() == value);
            match text(&expression["operator"]) {
                "In" => value.is_some() && listed,
                "NotIn" => value.is_none() || !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                other => panic!("{other}"),
            }
        })
}

/// Whether a policy is about an interface: of a network that `policy-for`
/// names; without it a NetworkPolicy is about the cluster's own network, a
/// MultiNetworkPolicy about none.
fn about_interface(policy: &Value, pod: &Value, interface: &str) -> bool {
    let statuses = network_statuses(pod);
    match networks_of(policy) {
        Some(networks) => statuses.iter().any(|status| {
            status["interface"] == interface && networks.contains(&network_name(pod, status))
        }),
        None if policy["kind"] == "MultiNetworkPolicy" => false,
        None => {
            statuses.is_empty()
                || statuses
                    .iter()
                    .any(|status| status["interface"] == interface && status["default"] == true)
        }
    }
}

/// The addresses by which a policy knows a pod.
fn addresses_for(policy: &Value, pod: &Value) -> Vec<IpAddr> {
    if is_no_peer(pod) {
        return Vec::new();
    }
    let networks = networks_of(policy);
    let mut addresses = Vec::new();
    for status in network_statuses(pod) {
        let counts = match &networks {
            Some(networks) => networks.contains(&network_name(pod, &status)),
            None => status["default"] == true,
        };
        if counts {
            addresses.extend(elements(&status["ips"]).iter().map(address));
        }
    }
    if networks.is_none() {
        addresses.extend(pod_ips(pod));
    }
    addresses
}

fn all_addresses(pod: &Value) -> Vec<IpAddr> {
    if is_no_peer(pod) {
        return Vec::new();
    }
    let mut addresses = pod_ips(pod);
    for status in network_statuses(pod) {
        addresses.extend(elements(&status["ips"]).iter().map(address));
    }
    addresses
}

/// A pod of the node's network has no address of its own, one that has ended
/// none any more.
fn is_no_peer(pod: &Value) -> bool {
    pod["spec"]["hostNetwork"] == true
        || pod["status"]["phase"] == "Succeeded"
        || pod["status"]["phase"] == "Failed"
}

fn pod_ips(pod: &Value) -> Vec<IpAddr> {
    let ips = elements(&pod["status"]["podIPs"]);
    ips.iter().map(|entry| address(&entry["ip"])).collect()
}

fn networks_of(policy: &Value) -> Option<Vec<String>> {
    let list = policy["metadata"]["annotations"][POLICY_FOR].as_str()?;
    let names = list.split(',').map(str::trim);
    let names = names.filter(|name| !name.is_empty());
    let full = names.map(|name| match name.contains('/') {
        true => name.to_owned(),
        false => format!("{}/{name}", namespace_of(policy)),
    });
    Some(full.collect())
}

fn network_name(pod: &Value, status: &Value) -> String {
    let name = text(&status["name"]);
    match name.contains('/') {
        true => name.to_owned(),
        false => format!("{}/{name}", namespace_of(pod)),
    }
}

/// A pod's networks, from its annotation.
fn network_statuses(pod: &Value) -> Vec<Value> {
    let annotation = pod["metadata"]["annotations"][NETWORK_STATUS].as_str();
    annotation.map_or(Vec::new(), |list| serde_json::from_str(list).unwrap())
}

fn container_ports(pod: &Value) -> Vec<Value> {
    let containers = elements(&pod["spec"]["containers"]);
    let ports = containers
        .iter()
        .flat_map(|container| elements(&container["ports"]));
    ports.cloned().collect()
}

fn labels(object: &Value) -> Vec<(String, String)> {
    let labels = object["metadata"]["labels"].as_object();
    let labels = labels.into_iter().flatten();
    labels
        .map(|(key, value)| (key.clone(), text(value).to_owned()))
        .collect()
}

fn namespace_of(object: &Value) -> &str {
    object["metadata"]["namespace"]
        .as_str()
        .unwrap_or("default")
}

fn elements(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn address(value: &Value) -> IpAddr {
    text(value).parse().unwrap()
}
