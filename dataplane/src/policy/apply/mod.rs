//! From one compiled state to the next, so that at no moment a packet gets a
//! verdict that neither of them gives.
//!
//! 1. Tables whose rules stay get the entries of identities to come, which no
//!    address has yet.
//! 2. What an endpoint may do at once more or less, everything or nothing, is
//!    done. An endpoint whose rules change while identities move goes by a
//!    table of its own for the moment: it has the new entries of identities
//!    that addresses come to, and the old ones of all others.
//! 3. Identities move, each address straight from its old to its new one: what is
//!    to go gets the identity around it.
//! 4. The new tables, then the flags; then the epoch is raised, so that open
//!    connections are judged again.
//! 5. What no packet asks for any more is removed.
//!
//! A packet reads one map after the other, and may be interrupted in between. So
//! where a step would take away what a packet has to find that has read something
//! before, the kernel is made to wait for those first. The last wait is behind
//! the last visible step: no packet sees two changes.
//!
//! That an identity is come to and left, and rules over it change, all at once,
//! is seen before, and gone around ([`detour`]).
//!
//! What the kernel holds is read at the first time, so an agent that died
//! anywhere in between is no special case.

mod change;
mod detour;
mod entries;
mod identities;
mod state;
mod tables;

use std::collections::{BTreeMap, BTreeSet};

use dataplane_ebpf::abi::{Direction, EndpointConfig};
pub use state::Applied;
pub use tables::Tables;
pub(crate) use tables::compiler_key;

use super::compile::{Compiled, EndpointPolicy, State};

/// What besides the policies decides over an endpoint.
#[derive(Clone, Debug, Default)]
pub struct Switches {
    /// What the node itself sends to pods passes.
    pub allow_node: bool,
    /// Endpoints that are in audit mode.
    pub audit: BTreeSet<u32>,
}

/// How it went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Endpoints that let nothing pass, although a policy would let something:
    /// why.
    pub closed: Closed,
    /// What the kernel refused; it is tried again with the next change.
    pub problems: Vec<String>,
    /// Something was changed.
    pub changed: bool,
}

/// Directions of endpoints that are closed, with the reason.
pub type Closed = BTreeMap<(u32, Direction), String>;

/// What a direction of an endpoint is to go by.
enum Wanted<'a> {
    /// Everything passes.
    Open,
    /// Nothing passes.
    Closed,
    /// What the table says.
    Table(&'a std::sync::Arc<super::compile::Table>),
}

fn wanted(policy: &EndpointPolicy, direction: Direction) -> Wanted<'_> {
    match (&policy.state, policy.table(direction)) {
        (State::Isolated(_), _) => Wanted::Closed,
        (State::Open(_), _) | (State::Known, None) => Wanted::Open,
        (State::Known, Some(table)) if table.too_large.is_some() => Wanted::Closed,
        (State::Known, Some(table)) => Wanted::Table(table),
    }
}

/// The flags that say how an endpoint is judged.
const JUDGING: u32 = EndpointConfig::ENFORCE_INGRESS
    | EndpointConfig::ENFORCE_EGRESS
    | EndpointConfig::AUDIT
    | EndpointConfig::ALLOW_NODE;

/// The flags that isolate an endpoint that goes by `policy`.
pub(super) fn flags(policy: &EndpointPolicy) -> u32 {
    let mut flags = 0;
    for direction in DIRECTIONS {
        if !matches!(wanted(policy, direction), Wanted::Open) {
            flags |= EndpointConfig::enforce(direction);
        }
    }
    flags
}

impl Switches {
    fn flags(&self, id: u32) -> u32 {
        let mut flags = 0;
        if self.audit.contains(&id) {
            flags |= EndpointConfig::AUDIT;
        }
        if self.allow_node {
            flags |= EndpointConfig::ALLOW_NODE;
        }
        flags
    }
}

/// Both of them.
const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// The tables that are too large.
fn too_large(compiled: &Compiled) -> Closed {
    let mut closed = Closed::new();
    for (id, policy) in &compiled.endpoints {
        for direction in DIRECTIONS {
            if let Some(size) = policy.table(direction).and_then(|table| table.too_large) {
                let reason = format!(
                    "its {} policy has {size} entries, more than a table may have; \
                     use fewer rules, ports or peers",
                    direction.name()
                );
                closed.insert((*id, direction), reason);
            }
        }
    }
    closed
}
