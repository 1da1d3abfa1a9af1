//! The manifests as they are written, and their way into the model. What is
//! wrong is refused here, with the words of the API where it has some.

use std::{collections::BTreeMap, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, de::IgnoredAny};

use super::{annotation::Annotations, syntax};
use crate::policy::model::{
    Block, Labels, Namespaces, Peer, Port, PortRange, Protocol, Requirement, Rule, Selector,
};

/// `metadata`, of which most is passed over.
#[derive(Deserialize)]
pub(super) struct Metadata {
    pub name: String,
    #[serde(default)]
    pub namespace: Option<String>,
    #[serde(default)]
    pub uid: Option<String>,
    #[serde(default)]
    pub labels: Option<Labels>,
    #[serde(default)]
    pub annotations: Option<Annotations>,
}

/// A policy of either kind. Unknown fields are errors: a mistyped one would
/// silently change what the policy allows.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyManifest {
    #[serde(default, rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(default, rename = "kind")]
    _kind: IgnoredAny,
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: PolicySpec,
    #[serde(default, rename = "status")]
    _status: IgnoredAny,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct PolicySpec {
    pub pod_selector: Option<SelectorManifest>,
    pub policy_types: Option<Vec<PolicyType>>,
    pub ingress: Option<Vec<IngressRule>>,
    pub egress: Option<Vec<EgressRule>>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
pub(super) enum PolicyType {
    Ingress,
    Egress,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IngressRule {
    #[serde(default)]
    from: Option<Vec<PeerManifest>>,
    #[serde(default)]
    ports: Option<Vec<PortManifest>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EgressRule {
    #[serde(default)]
    to: Option<Vec<PeerManifest>>,
    #[serde(default)]
    ports: Option<Vec<PortManifest>>,
}

impl IngressRule {
    pub fn rule(self, namespace: &str) -> Rule {
        rule(self.from, self.ports, namespace)
    }
}

impl EgressRule {
    pub fn rule(self, namespace: &str) -> Rule {
        rule(self.to, self.ports, namespace)
    }
}

fn rule(
    peers: Option<Vec<PeerManifest>>,
    ports: Option<Vec<PortManifest>>,
    namespace: &str,
) -> Rule {
    let peers = peers.unwrap_or_default().into_iter();
    let ports = ports.unwrap_or_default().into_iter();
    Rule {
        peers: peers.map(|peer| peer.peer(namespace)).collect(),
        ports: ports.map(|port| port.0).collect(),
    }
}

/// A label selector.
#[derive(Clone, Deserialize)]
#[serde(try_from = "RawSelector")]
pub(super) struct SelectorManifest(pub Selector);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawSelector {
    #[serde(default)]
    match_labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    match_expressions: Option<Vec<RequirementManifest>>,
}

impl TryFrom<RawSelector> for SelectorManifest {
    type Error = String;

    fn try_from(raw: RawSelector) -> Result<Self, String> {
        let mut selector = Selector::default();
        for (key, value) in raw.match_labels.unwrap_or_default() {
            syntax::label_key(&key)?;
            syntax::label_value(&value)?;
            let one = Requirement::In(key, [value].into());
            selector.requirements.insert(one);
        }
        let expressions = raw.match_expressions.unwrap_or_default().into_iter();
        selector.requirements.extend(expressions.map(|one| one.0));
        Ok(Self(selector))
    }
}

#[derive(Deserialize)]
#[serde(try_from = "RawRequirement")]
struct RequirementManifest(Requirement);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRequirement {
    key: String,
    operator: Operator,
    #[serde(default)]
    values: Option<Vec<String>>,
}

#[derive(Deserialize)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl TryFrom<RawRequirement> for RequirementManifest {
    type Error = String;

    fn try_from(raw: RawRequirement) -> Result<Self, String> {
        let RawRequirement {
            key,
            operator,
            values,
        } = raw;
        syntax::label_key(&key)?;
        let values = values.unwrap_or_default();
        values
            .iter()
            .try_for_each(|value| syntax::label_value(value))?;
        let values: std::collections::BTreeSet<_> = values.into_iter().collect();
        match (operator, values.is_empty()) {
            (Operator::In, false) => Ok(Self(Requirement::In(key, values))),
            (Operator::NotIn, false) => Ok(Self(Requirement::NotIn(key, values))),
            (Operator::Exists, true) => Ok(Self(Requirement::Exists(key))),
            (Operator::DoesNotExist, true) => Ok(Self(Requirement::DoesNotExist(key))),
            (Operator::In | Operator::NotIn, true) => {
                Err("values: In and NotIn need at least one".into())
            }
            (Operator::Exists | Operator::DoesNotExist, false) => {
                Err("values: Exists and DoesNotExist take none".into())
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "RawPeer")]
enum PeerManifest {
    Pods {
        namespaces: Option<Selector>,
        pods: Option<Selector>,
    },
    Block(Block),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawPeer {
    #[serde(default)]
    pod_selector: Option<SelectorManifest>,
    #[serde(default)]
    namespace_selector: Option<SelectorManifest>,
    #[serde(default)]
    ip_block: Option<BlockManifest>,
}

impl TryFrom<RawPeer> for PeerManifest {
    type Error = String;

    fn try_from(raw: RawPeer) -> Result<Self, String> {
        match (raw.pod_selector, raw.namespace_selector, raw.ip_block) {
            (None, None, None) => Err(
                "names no peer; give podSelector, namespaceSelector or ipBlock, \
                     or leave the whole list out for every peer"
                    .into(),
            ),
            (None, None, Some(block)) => Ok(Self::Block(block.0)),
            (_, _, Some(_)) => {
                Err("ipBlock stands alone; put the selectors into an entry of their own".into())
            }
            (pods, namespaces, None) => Ok(Self::Pods {
                namespaces: namespaces.map(|selector| selector.0),
                pods: pods.map(|selector| selector.0),
            }),
        }
    }
}

impl PeerManifest {
    fn peer(self, namespace: &str) -> Peer {
        match self {
            Self::Block(block) => Peer::Block(block),
            Self::Pods { namespaces, pods } => Peer::Pods {
                namespaces: match namespaces {
                    Some(selector) => Namespaces::Matching(selector),
                    None => Namespaces::Only(namespace.to_owned()),
                },
                pods: pods.unwrap_or_default(),
            },
        }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "RawBlock")]
struct BlockManifest(Block);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBlock {
    cidr: String,
    #[serde(default)]
    except: Option<Vec<String>>,
}

impl TryFrom<RawBlock> for BlockManifest {
    type Error = String;

    fn try_from(raw: RawBlock) -> Result<Self, String> {
        let cidr = prefix(&raw.cidr)?;
        let mut except = Vec::new();
        for text in raw.except.unwrap_or_default() {
            let inner = prefix(&text)?;
            if !cidr.contains(&inner) || cidr == inner {
                return Err(format!("except {text} is not inside {}", raw.cidr));
            }
            except.push(inner);
        }
        except.sort_unstable();
        except.dedup();
        Ok(Self(Block { cidr, except }))
    }
}

/// A prefix; host bits are cut off, as the API's own implementations do.
fn prefix(text: &str) -> Result<IpNet, String> {
    let cidr = IpNet::from_str(text)
        .map_err(|_| format!("'{text}' is no prefix, such as 192.0.2.0/24 or 2001:db8::/32"))?;
    // It would stand for IPv4 addresses in the maps, and for none on the wire.
    if let IpNet::V6(v6) = cidr
        && v6.prefix_len() >= 96
        && v6.addr().to_ipv4_mapped().is_some()
    {
        return Err(format!(
            "'{text}' is IPv4 mapped into IPv6; write it as an IPv4 prefix"
        ));
    }
    Ok(cidr.trunc())
}

#[derive(Deserialize)]
#[serde(try_from = "RawPort")]
struct PortManifest(Port);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawPort {
    #[serde(default)]
    protocol: Option<Protocol>,
    #[serde(default)]
    port: Option<NumberOrName>,
    #[serde(default)]
    end_port: Option<i64>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "neither a number nor a name")]
enum NumberOrName {
    Number(i64),
    Name(String),
}

impl TryFrom<RawPort> for PortManifest {
    type Error = String;

    fn try_from(raw: RawPort) -> Result<Self, String> {
        let protocol = raw.protocol.unwrap_or_default();
        match (raw.port, raw.end_port) {
            (None, None) => Ok(Self(Port::Any(protocol))),
            (Some(NumberOrName::Name(name)), None) => {
                syntax::port_name(&name)?;
                Ok(Self(Port::Named(protocol, name)))
            }
            (Some(NumberOrName::Number(first)), last) => {
                let first = port_number(first)?;
                let last = last.map_or(Ok(first), port_number)?;
                if last < first {
                    return Err(format!("endPort {last} is below port {first}"));
                }
                Ok(Self(Port::Range(protocol, PortRange { first, last })))
            }
            (None | Some(NumberOrName::Name(_)), Some(_)) => {
                Err("endPort needs a port that is a number".into())
            }
        }
    }
}

fn port_number(number: i64) -> Result<u16, String> {
    let port = u16::try_from(number).ok().filter(|port| *port != 0);
    port.ok_or_else(|| format!("{number} is no port: from 1 to 65535"))
}

/// A namespace; the rest is passed over, as with pods.
#[derive(Deserialize)]
pub(super) struct NamespaceManifest {
    pub metadata: Metadata,
}

#[derive(Deserialize)]
pub(super) struct PodManifest {
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: PodSpec,
    #[serde(default)]
    pub status: Option<PodStatus>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub host_network: bool,
    pub containers: Vec<Container>,
    pub init_containers: Option<Vec<Container>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container {
    #[serde(default)]
    pub ports: Option<Vec<ContainerPortManifest>>,
    /// `Always` makes an init container one that keeps running.
    #[serde(default)]
    pub restart_policy: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerPortManifest {
    #[serde(default)]
    pub name: Option<String>,
    pub container_port: u16,
    #[serde(default)]
    pub protocol: Option<Protocol>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodStatus {
    pub phase: Option<String>,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<IpAddr>,
    #[serde(rename = "podIPs")]
    pub pod_ips: Option<Vec<PodIp>>,
}

#[derive(Deserialize)]
pub(super) struct PodIp {
    pub ip: IpAddr,
}
