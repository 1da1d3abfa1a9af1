//! What policies speak of: namespaces, pods, and the policies themselves, as
//! Kubernetes means them and freed from how they were written down.

mod network;
mod peer;
mod pod;
mod port;
mod selector;

use std::{collections::BTreeMap, fmt, sync::Arc};

pub use network::{NetworkName, Scope};
pub use peer::{Block, Namespaces, Peer};
pub use pod::{Attachment, ContainerPort, Pod};
pub use port::{Port, PortRange, Protocol};
pub use selector::{Labels, Requirement, Selector};
use serde::{Deserialize, Serialize};

pub use crate::api::types::PodName;

/// The label that the API server gives each namespace: its own name.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A cluster as policies see it, at one moment. Cheap to clone and to compare:
/// what did not change is the same allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// Labels of the namespaces, by name.
    pub namespaces: BTreeMap<String, Arc<Labels>>,
    /// The pods.
    pub pods: BTreeMap<PodName, Arc<Pod>>,
    /// The policies.
    pub policies: BTreeMap<PolicyName, Arc<Policy>>,
}

/// One object of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A namespace's name and labels.
    Namespace(String, Arc<Labels>),
    /// A pod.
    Pod(PodName, Arc<Pod>),
    /// A policy of either kind.
    Policy(PolicyName, Arc<Policy>),
}

/// What no two objects of a source may share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectName {
    /// Of a namespace.
    Namespace(String),
    /// Of a pod.
    Pod(PodName),
    /// Of a policy.
    Policy(PolicyName),
}

impl Object {
    /// Its name.
    pub fn name(&self) -> ObjectName {
        match self {
            Self::Namespace(name, _) => ObjectName::Namespace(name.clone()),
            Self::Pod(name, _) => ObjectName::Pod(name.clone()),
            Self::Policy(name, _) => ObjectName::Policy(name.clone()),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "Namespace {name}"),
            Self::Pod(name) => write!(f, "Pod {name}"),
            Self::Policy(name) => name.fmt(f),
        }
    }
}

impl Model {
    /// Adds an object, or replaces the one of its name.
    pub fn put(&mut self, object: Object) {
        match object {
            Object::Namespace(name, labels) => {
                self.namespaces.insert(name, labels);
            }
            Object::Pod(name, pod) => {
                self.pods.insert(name, pod);
            }
            Object::Policy(name, policy) => {
                self.policies.insert(name, policy);
            }
        }
    }

    /// The policies of one namespace.
    pub fn policies_of(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = (&PolicyName, &Arc<Policy>)> {
        let first = PolicyName {
            namespace: namespace.to_owned(),
            name: String::new(),
            kind: PolicyKind::NetworkPolicy,
        };
        let policies = self.policies.range(first..);
        policies.take_while(move |(name, _)| name.namespace == namespace)
    }
}

/// Which API a policy belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1`.
    NetworkPolicy,
    /// `k8s.cni.cncf.io/v1beta1` and `v1beta2`.
    MultiNetworkPolicy,
}

impl PolicyKind {
    /// As in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::MultiNetworkPolicy => "MultiNetworkPolicy",
        }
    }
}

/// A policy's name; ordered by namespace first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyName {
    /// Its namespace.
    pub namespace: String,
    /// Its name there.
    pub name: String,
    /// The two kinds have names of their own.
    pub kind: PolicyKind,
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            name,
            kind,
        } = self;
        write!(f, "{} {namespace}/{name}", kind.name())
    }
}

/// What a policy says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// The networks that it is about.
    pub scope: Scope,
    /// The pods of its namespace that it isolates.
    pub pods: Selector,
    /// What may enter them; `None` does not isolate this direction, an empty
    /// list lets nothing in.
    pub ingress: Option<Vec<Rule>>,
    /// What may leave them, likewise.
    pub egress: Option<Vec<Rule>>,
}

/// One allowance: any of the peers, on any of the ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Empty is every peer.
    pub peers: Vec<Peer>,
    /// Empty is every port of every protocol.
    pub ports: Vec<Port>,
}
