//! Prefixes and the terms that hold in them.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A term, by its place among those in use.
pub(super) type TermId = u32;

/// Terms that hold together; sorted.
pub(super) type Class = Vec<TermId>;

/// Every prefix that some block begins or ends at, with the terms whose
/// blocks hold there. An address has those of its longest prefix.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// Sorted, so that a prefix stands behind those around it.
    prefixes: Vec<Prefix>,
}

#[derive(Debug)]
struct Prefix {
    cidr: IpNet,
    class: Class,
    /// The next larger prefix around it.
    parent: Option<usize>,
}

/// What begins at one prefix.
#[derive(Default)]
struct Edges {
    /// Blocks that hold from here, with their terms.
    starts: Vec<(usize, TermId)>,
    /// Blocks that do not hold from here.
    stops: Vec<(usize, TermId)>,
}

impl Blocks {
    /// From the blocks of each term.
    pub fn new<'a>(
        blocks: impl Iterator<Item = (TermId, &'a crate::policy::model::Block)>,
    ) -> Self {
        let mut edges = BTreeMap::<IpNet, Edges>::new();
        for (number, (term, block)) in blocks.enumerate() {
            edges
                .entry(block.cidr)
                .or_default()
                .starts
                .push((number, term));
            for inner in &block.except {
                edges.entry(*inner).or_default().stops.push((number, term));
            }
        }
        // IPv4 lies inside of IPv6 where addresses are looked up; no IPv6
        // prefix may be found for it.
        let around_ipv4 = |cidr: &IpNet| matches!(cidr, IpNet::V6(v6) if v6.prefix_len() < 96 && v6.contains(&MAPPED));
        if edges.keys().any(around_ipv4) {
            edges.entry(Ipv4Net::default().into()).or_default();
        }
        Self::walk(edges)
    }

    /// Goes through the prefixes from the outside to the inside, with the
    /// blocks that hold at each.
    fn walk(edges: BTreeMap<IpNet, Edges>) -> Self {
        let mut prefixes = Vec::<Prefix>::with_capacity(edges.len());
        let mut open = Vec::<(usize, Undo)>::new();
        let mut holding = Holding::default();
        for (cidr, edges) in edges {
            while let Some((around, _)) = open.last()
                && !prefixes[*around].cidr.contains(&cidr)
            {
                if let Some((_, undo)) = open.pop() {
                    holding.undo(undo);
                }
            }
            let parent = open.last().map(|(around, _)| *around);
            let undo = holding.pass(edges);
            open.push((prefixes.len(), undo));
            prefixes.push(Prefix {
                cidr,
                class: holding.class(),
                parent,
            });
        }
        Self { prefixes }
    }

    /// The terms that an address satisfies by its blocks.
    pub fn class_of(&self, address: IpAddr) -> &[TermId] {
        let cidr = IpNet::from(address);
        let behind = self.prefixes.partition_point(|prefix| prefix.cidr <= cidr);
        let mut next = behind.checked_sub(1);
        while let Some(prefix) = next.and_then(|at| self.prefixes.get(at)) {
            if prefix.cidr.contains(&address) {
                return &prefix.class;
            }
            next = prefix.parent;
        }
        &[]
    }

    /// The prefixes that a longest-prefix match needs, each with its terms:
    /// those that differ from the one around them.
    pub fn needed(&self) -> impl Iterator<Item = (IpNet, &Class)> {
        let needed = self.prefixes.iter().filter(|prefix| {
            let around = prefix.parent.and_then(|at| self.prefixes.get(at));
            match around {
                Some(around) => around.class != prefix.class,
                // Without terms it is there for IPv4's sake.
                None => !prefix.class.is_empty() || prefix.cidr == Ipv4Net::default().into(),
            }
        });
        needed.map(|prefix| (prefix.cidr, &prefix.class))
    }
}

/// Where IPv4 lies in IPv6 (RFC 4291 section 2.5.5.2).
const MAPPED: Ipv6Net =
    Ipv6Net::new_assert(std::net::Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);

/// The blocks that hold at the present prefix.
#[derive(Default)]
struct Holding {
    blocks: HashMap<usize, TermId>,
    terms: BTreeMap<TermId, u32>,
}

/// What a prefix changed.
struct Undo {
    started: Vec<(usize, TermId)>,
    stopped: Vec<(usize, TermId)>,
}

impl Holding {
    fn pass(&mut self, edges: Edges) -> Undo {
        let Edges { starts, stops } = edges;
        for (block, term) in &starts {
            self.start(*block, *term);
        }
        let stopped: Vec<_> = stops
            .into_iter()
            .filter(|(block, term)| self.stop(*block, *term))
            .collect();
        Undo {
            started: starts,
            stopped,
        }
    }

    fn undo(&mut self, undo: Undo) {
        for (block, term) in undo.stopped {
            self.start(block, term);
        }
        for (block, term) in undo.started {
            self.stop(block, term);
        }
    }

    fn start(&mut self, block: usize, term: TermId) {
        self.blocks.insert(block, term);
        *self.terms.entry(term).or_default() += 1;
    }

    /// False where it did not hold: an except inside of another.
    fn stop(&mut self, block: usize, term: TermId) -> bool {
        if self.blocks.remove(&block).is_none() {
            return false;
        }
        if let Some(count) = self.terms.get_mut(&term) {
            *count -= 1;
            if *count == 0 {
                self.terms.remove(&term);
            }
        }
        true
    }

    fn class(&self) -> Class {
        self.terms.keys().copied().collect()
    }
}
