//! From a model to plain data: who has which identity, and which endpoint
//! goes by which table.
//!
//! A rule's peer list is a *term*. Addresses that satisfy the same terms are
//! one identity; so a rule with ten thousand prefixes is one term, and mostly
//! one identity. A table has, for each of its rules, the identities that
//! satisfy the rule's term, with the rule's ports.

mod blocks;
mod members;
mod number;
mod ports;
mod prepare;
mod rules;
mod select;
mod table;
mod term;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use blocks::{Blocks, Class, TermId};
use dataplane_ebpf::abi::Direction;
use ipnet::IpNet;
use members::Memberships;
pub use number::FIRST_COMPILED;
use number::{ClassKey, Numbers, node_number};
pub use ports::Ports;
use prepare::Preparation;
pub use rules::{RuleName, RuleNumbers};
pub use select::Endpoint;
use select::{Selection, select};
pub use table::{Key, Table, TableRule};
pub use term::Term;

use super::model::{Model, PolicyName};

/// How policies are meant, where Kubernetes leaves it open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A NetworkPolicy without `policy-for` is about all of a pod's networks,
    /// not only the cluster's own.
    pub every_network: bool,
    /// What an endpoint may do whose pod is not known.
    pub unknown: Unknown,
    /// Entries that one table may have.
    pub max_entries: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            every_network: false,
            unknown: Unknown::Isolate,
            max_entries: 65536,
        }
    }
}

/// What an endpoint may do whose pod the source does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unknown {
    /// Nothing.
    #[default]
    Isolate,
    /// Everything.
    Open,
    /// Nothing at first, everything after so long.
    OpenAfter(Duration),
}

/// What the kernel is to hold.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// Identities of single addresses, which go before prefixes.
    pub addresses: HashMap<IpAddr, u32>,
    /// Identities of prefixes, the longest of which counts; 0 is none.
    pub prefixes: HashMap<IpNet, u32>,
    /// The endpoints.
    pub endpoints: BTreeMap<u32, EndpointPolicy>,
    /// The numbers of the rules in the tables.
    pub rules: BTreeMap<u32, RuleName>,
}

/// What one endpoint goes by.
#[derive(Clone, Debug, Default)]
pub struct EndpointPolicy {
    /// Whether and why it is judged.
    pub state: State,
    /// What may enter; `None` where the direction is open.
    pub ingress: Option<Arc<Table>>,
    /// What may leave.
    pub egress: Option<Arc<Table>>,
    /// The policies that isolate it.
    pub policies: Vec<PolicyName>,
}

/// Whether policies are known to decide over an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// The pod is known; without tables no policy selects it.
    #[default]
    Known,
    /// It is not, and nothing may pass; why.
    Isolated(String),
    /// It is not, and everything may pass; why.
    Open(String),
}

impl State {
    /// Why policies do not decide, where they do not.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Known => None,
            Self::Isolated(reason) | Self::Open(reason) => Some(reason),
        }
    }
}

impl EndpointPolicy {
    /// The table of a direction.
    pub fn table(&self, direction: Direction) -> Option<&Arc<Table>> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }
}

/// Compiles, and remembers what makes the next time quicker.
#[derive(Debug)]
pub struct Compiler {
    settings: Settings,
    members: Memberships,
    identities: IdentityNumbers,
    rules: RuleNumbers,
    tables: HashMap<Vec<TableRule>, Arc<Table>>,
}

impl Compiler {
    /// `rules` are the numbers of rules in use already, `held` the identities
    /// that the kernel holds, from an agent before.
    pub fn new(settings: Settings, rules: RuleNumbers, held: HashSet<u32>) -> Self {
        Self {
            settings,
            rules,
            identities: IdentityNumbers::new(held),
            members: Memberships::default(),
            tables: HashMap::new(),
        }
    }

    /// Compiles `model` for these endpoints; `node` are the node's own
    /// addresses.
    pub fn compile(&mut self, model: &Model, endpoints: &[Endpoint], node: &[IpAddr]) -> Compiled {
        let mut prepared = Preparation::new(model, &mut self.rules, self.settings.every_network);
        let selected: Vec<_> = endpoints
            .iter()
            .map(|endpoint| {
                let selection = select(model, endpoint, self.settings.every_network);
                let rules = match &selection {
                    Selection::Known { pod, policies } => [Direction::Ingress, Direction::Egress]
                        .map(|direction| prepared.rules(pod, policies, direction)),
                    Selection::Unknown(_) => [None, None],
                };
                (endpoint, selection, rules)
            })
            .collect();
        let (terms, rules) = prepared.finish();
        self.members.update(model, &terms);
        let identified = Identified::new(&terms, &self.members, node, &mut self.identities);

        let mut tables = HashMap::new();
        let mut table = |rules: Option<Vec<TableRule>>| {
            let rules = rules?;
            let table = tables.entry(rules.clone()).or_insert_with(|| {
                let fresh = Table::new(
                    rules.clone(),
                    |term| identified.numbers(term),
                    self.settings.max_entries,
                );
                // The same table stays the same allocation.
                match self.tables.get(&rules) {
                    Some(known) if **known == fresh => Arc::clone(known),
                    _ => Arc::new(fresh),
                }
            });
            Some(Arc::clone(table))
        };
        let endpoints = selected.into_iter().map(|(endpoint, selection, rules)| {
            let [ingress, egress] = rules.map(&mut table);
            let (state, policies) = match selection {
                Selection::Unknown(reason) => {
                    (self.settings.unknown_state(endpoint, reason), vec![])
                }
                Selection::Known { policies, .. } => {
                    let names = policies.into_iter().map(|(name, _)| name.clone());
                    (State::Known, names.collect())
                }
            };
            let policy = EndpointPolicy {
                state,
                ingress,
                egress,
                policies,
            };
            (endpoint.id, policy)
        });
        let endpoints = endpoints.collect();
        self.tables = tables;
        self.rules.retain(|rule| rules.contains(rule));
        Compiled {
            addresses: identified.addresses,
            prefixes: identified.prefixes,
            endpoints,
            rules: self.rules.all(),
        }
    }
}

impl Settings {
    fn unknown_state(&self, endpoint: &Endpoint, reason: String) -> State {
        match self.unknown {
            Unknown::Open => State::Open(reason),
            Unknown::OpenAfter(_) if endpoint.patience_over => State::Open(reason),
            Unknown::Isolate | Unknown::OpenAfter(_) => State::Isolated(reason),
        }
    }
}

/// Addresses and prefixes with their identities.
struct Identified {
    addresses: HashMap<IpAddr, u32>,
    prefixes: HashMap<IpNet, u32>,
    ids: HashMap<Arc<Term>, TermId>,
    /// The identities that satisfy each term.
    numbers: Vec<Vec<u32>>,
}

impl Identified {
    fn new(
        terms: &[Arc<Term>],
        members: &Memberships,
        node: &[IpAddr],
        numbers: &mut IdentityNumbers,
    ) -> Self {
        let ids: HashMap<_, TermId> = terms.iter().cloned().zip(0..).collect();
        let by_id = || (0..).zip(terms);
        let blocks = by_id().flat_map(|(id, term)| term.blocks().map(move |block| (id, block)));
        let blocks = Blocks::new(blocks);
        let keys = Keys(terms.iter().map(|term| term.fingerprint()).collect());

        let of_prefixes = blocks.needed().map(|(cidr, class)| (cidr, keys.of(class)));
        let of_prefixes: Vec<_> = of_prefixes.collect();
        let of_pods: Vec<_> = classes_of_pods(terms, members, &blocks)
            .into_iter()
            .map(|(address, class)| (address, keys.of(&class)))
            .collect();
        let of_node = node.iter();
        let of_node = of_node.map(|address| (*address, keys.of(blocks.class_of(*address))));
        let of_node: Vec<_> = of_node.collect();
        numbers.assign(&of_prefixes, &of_pods, &of_node);

        let peer = |class: &ClassKey| numbers.peers.get(class).unwrap_or(0);
        let of_pods = of_pods
            .iter()
            .map(|(address, class)| (*address, peer(class)));
        let of_node = of_node
            .iter()
            .map(|(address, class)| (*address, node_number(&numbers.node, class)));
        Self {
            // An address that is both is the node's.
            addresses: of_pods.chain(of_node).collect(),
            prefixes: of_prefixes
                .iter()
                .map(|(cidr, class)| (*cidr, peer(class)))
                .collect(),
            numbers: keys.numbers_by_term(numbers),
            ids,
        }
    }

    fn numbers(&self, term: &Term) -> &[u32] {
        let numbers = self.ids.get(term).map(|id| &self.numbers[*id as usize]);
        numbers.map_or(&[], Vec::as_slice)
    }
}

/// The terms that each pod's addresses satisfy, those of the blocks included.
fn classes_of_pods(
    terms: &[Arc<Term>],
    members: &Memberships,
    blocks: &Blocks,
) -> HashMap<IpAddr, Class> {
    let mut classes = HashMap::<IpAddr, Class>::new();
    for (id, term) in (0..).zip(terms) {
        for address in members.addresses(term) {
            let class = classes.entry(address).or_default();
            // Two pods may share an address, on networks of their own.
            if class.last() != Some(&id) {
                class.push(id);
            }
        }
    }
    for (address, class) in &mut classes {
        class.extend(blocks.class_of(*address));
        class.sort_unstable();
        class.dedup();
    }
    classes
}

/// The fingerprints of the terms, by their ids.
struct Keys(Vec<u64>);

impl Keys {
    fn of(&self, class: &[TermId]) -> ClassKey {
        let mut key: Vec<_> = class.iter().map(|term| self.0[*term as usize]).collect();
        key.sort_unstable();
        key
    }

    fn numbers_by_term(&self, numbers: &IdentityNumbers) -> Vec<Vec<u32>> {
        let mut by_fingerprint = HashMap::<u64, Vec<u32>>::new();
        for (class, number) in numbers.peers.all().chain(numbers.node.all()) {
            for fingerprint in class {
                by_fingerprint.entry(*fingerprint).or_default().push(number);
            }
        }
        let mut list = |fingerprint| {
            let mut list: Vec<_> = by_fingerprint.remove(fingerprint).unwrap_or_default();
            list.sort_unstable();
            list
        };
        self.0.iter().map(&mut list).collect()
    }
}

/// The numbers of identities, as long as they are in use.
#[derive(Debug)]
struct IdentityNumbers {
    peers: Numbers,
    node: Numbers,
}

impl IdentityNumbers {
    fn new(held: HashSet<u32>) -> Self {
        Self {
            peers: Numbers::of_peers(held.clone()),
            node: Numbers::of_node(held),
        }
    }

    fn assign(
        &mut self,
        prefixes: &[(IpNet, ClassKey)],
        pods: &[(IpAddr, ClassKey)],
        node: &[(IpAddr, ClassKey)],
    ) {
        let prefixes = prefixes.iter().map(|(_, class)| class);
        let peers = prefixes.chain(pods.iter().map(|(_, class)| class));
        self.peers.assign(&some(peers));
        self.node.assign(&some(node.iter().map(|(_, class)| class)));
    }
}

/// Those that any term holds in.
fn some<'a>(classes: impl Iterator<Item = &'a ClassKey>) -> BTreeSet<ClassKey> {
    classes.filter(|class| !class.is_empty()).cloned().collect()
}
