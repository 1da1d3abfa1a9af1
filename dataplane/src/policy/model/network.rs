//! Networks that pods are attached to, and those that a policy is about.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

/// A NetworkAttachmentDefinition, written `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetworkName {
    /// Its namespace.
    pub namespace: String,
    /// Its name there.
    pub name: String,
}

impl NetworkName {
    /// Reads `name` or `namespace/name`; without a namespace it is in `home`.
    pub fn parse(text: &str, home: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/').unwrap_or((home, text));
        let sound = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
        sound.then(|| Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The networks that a policy is about: whose interfaces it isolates, and
/// whose addresses its peers have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The cluster's own network: a NetworkPolicy without `policy-for`.
    Cluster,
    /// Every network.
    All,
    /// Those that `policy-for` names. A MultiNetworkPolicy without the
    /// annotation has none, and does nothing.
    Networks(BTreeSet<NetworkName>),
}

impl Scope {
    /// Whether it names no network at all.
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::Networks(names) if names.is_empty())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster network"),
            Self::All => f.write_str("all networks"),
            Self::Networks(names) if names.is_empty() => f.write_str("none"),
            Self::Networks(names) => {
                let names: Vec<_> = names.iter().map(ToString::to_string).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}
