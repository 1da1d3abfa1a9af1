//! Numbers of rules: small, since the kernel counts hits in an array, and
//! kept over restarts, since counters are.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use dataplane_ebpf::abi::Direction;
use serde::{Deserialize, Serialize};

use crate::policy::model::PolicyName;

/// One rule of one policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleName {
    /// The policy.
    pub policy: PolicyName,
    /// `ingress` or `egress`.
    #[serde(with = "direction")]
    pub direction: Direction,
    /// Its place in the policy's list, from 0.
    pub index: u32,
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (direction, index) = (self.direction.name(), self.index);
        write!(f, "{} {direction}[{index}]", self.policy)
    }
}

mod direction {
    use dataplane_ebpf::abi::Direction;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &Direction, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(value.name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Direction, D::Error> {
        let name = String::deserialize(from)?;
        let found = Direction::ALL.iter().find(|one| one.name() == name);
        found
            .copied()
            .ok_or_else(|| D::Error::custom(format!("'{name}' is no direction")))
    }
}

/// Which number stands for which rule. 0 stands for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleNumbers {
    numbers: HashMap<RuleName, u32>,
    taken: BTreeSet<u32>,
}

impl RuleNumbers {
    /// As they were kept.
    pub fn restore(kept: impl IntoIterator<Item = (u32, RuleName)>) -> Self {
        let mut this = Self::default();
        for (number, rule) in kept {
            if number != 0 && this.taken.insert(number) {
                this.numbers.insert(rule, number);
            }
        }
        this
    }

    /// A rule's number: the one that it has, or the lowest free one.
    pub fn number(&mut self, rule: &RuleName) -> u32 {
        if let Some(number) = self.numbers.get(rule) {
            return *number;
        }
        let free = (1..).zip(&self.taken).find(|(free, taken)| free != *taken);
        let number = free.map_or(self.taken.len() as u32 + 1, |(free, _)| free);
        self.taken.insert(number);
        self.numbers.insert(rule.clone(), number);
        number
    }

    /// Frees the numbers of all rules but these.
    pub fn retain(&mut self, wanted: impl Fn(&RuleName) -> bool) {
        self.numbers.retain(|rule, number| {
            let keep = wanted(rule);
            if !keep {
                self.taken.remove(number);
            }
            keep
        });
    }

    /// All of them.
    pub fn all(&self) -> BTreeMap<u32, RuleName> {
        let numbers = self.numbers.iter();
        numbers
            .map(|(rule, number)| (*number, rule.clone()))
            .collect()
    }
}
