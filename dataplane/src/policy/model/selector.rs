//! Label selectors.

use std::collections::{BTreeMap, BTreeSet};

/// Keys and values.
pub type Labels = BTreeMap<String, String>;

/// All requirements must hold; without any it matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// In an order of their own, so that equal selectors compare equal.
    pub requirements: BTreeSet<Requirement>,
}

/// One requirement on labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    /// The key is there, with one of the values.
    In(String, BTreeSet<String>),
    /// The key is missing, or has none of the values.
    NotIn(String, BTreeSet<String>),
    /// The key is there.
    Exists(String),
    /// The key is missing.
    DoesNotExist(String),
}

impl Selector {
    /// Whether labels satisfy it.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => {
                !labels.get(key).is_some_and(|value| values.contains(value))
            }
            Self::Exists(key) => labels.contains_key(key),
            Self::DoesNotExist(key) => !labels.contains_key(key),
        }
    }
}
