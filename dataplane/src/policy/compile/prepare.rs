//! Rules with their names resolved, as far as they are the same for every
//! endpoint only once.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    rc::Rc,
    sync::Arc,
};

use dataplane_ebpf::abi::Direction;

use super::{
    ports::Ports,
    rules::{RuleName, RuleNumbers},
    table::TableRule,
    term::{NamedPort, Term},
};
use crate::policy::model::{Model, Pod, Policy, PolicyName, Port, Protocol, Rule, Scope};

/// A policy's rules for one direction, but for the ports that each selected
/// pod names for itself.
struct Prepared {
    rule: TableRule,
    named: Vec<(Protocol, String)>,
}

/// The rules of one run of the compiler.
pub(super) struct Preparation<'a> {
    model: &'a Model,
    numbers: &'a mut RuleNumbers,
    every_network: bool,
    terms: HashSet<Arc<Term>>,
    order: Vec<Arc<Term>>,
    used: HashSet<RuleName>,
    prepared: HashMap<(&'a PolicyName, u8), Rc<Vec<Prepared>>>,
    /// Numbers that each port's name stands for, on any pod.
    named: Option<HashMap<(Protocol, &'a str), BTreeSet<u16>>>,
}

impl<'a> Preparation<'a> {
    pub fn new(model: &'a Model, numbers: &'a mut RuleNumbers, every_network: bool) -> Self {
        Self {
            model,
            numbers,
            every_network,
            terms: HashSet::new(),
            order: Vec::new(),
            used: HashSet::new(),
            prepared: HashMap::new(),
            named: None,
        }
    }

    /// The rules of an endpoint's table; `None` where no policy isolates it in
    /// this direction.
    pub fn rules(
        &mut self,
        pod: &Pod,
        policies: &[(&'a PolicyName, &'a Arc<Policy>)],
        direction: Direction,
    ) -> Option<Vec<TableRule>> {
        let mut isolated = false;
        let mut rules = Vec::new();
        for (name, policy) in policies {
            let Some(of_policy) = of_direction(policy, direction) else {
                continue;
            };
            isolated = true;
            let prepared = self.prepared(name, policy, of_policy, direction);
            rules.extend(prepared.iter().filter_map(|one| one.for_pod(pod)));
        }
        isolated.then_some(rules)
    }

    /// The terms in use, and the rules.
    pub fn finish(self) -> (Vec<Arc<Term>>, HashSet<RuleName>) {
        (self.order, self.used)
    }

    fn prepared(
        &mut self,
        name: &'a PolicyName,
        policy: &Policy,
        rules: &[Rule],
        direction: Direction,
    ) -> Rc<Vec<Prepared>> {
        let key = (name, direction as u8);
        if let Some(known) = self.prepared.get(&key) {
            return Rc::clone(known);
        }
        let scope = match &policy.scope {
            Scope::Cluster if self.every_network => &Scope::All,
            scope => scope,
        };
        let mut prepared = Vec::new();
        for (index, rule) in (0..).zip(rules) {
            let name = RuleName {
                policy: name.clone(),
                direction,
                index,
            };
            let number = self.numbers.number(&name);
            self.used.insert(name);
            self.prepare(rule, scope, direction, number, &mut prepared);
        }
        let prepared = Rc::new(prepared);
        self.prepared.insert(key, Rc::clone(&prepared));
        prepared
    }

    fn prepare(
        &mut self,
        rule: &Rule,
        scope: &Scope,
        direction: Direction,
        number: u32,
        prepared: &mut Vec<Prepared>,
    ) {
        let mut ports = Vec::new();
        let mut named = Vec::new();
        for port in &rule.ports {
            match port {
                Port::Any(protocol) => ports.push(Ports::Protocol(protocol.number())),
                Port::Range(protocol, range) => ports.extend(Ports::of_range(*protocol, *range)),
                Port::Named(protocol, name) => named.push((*protocol, name.clone())),
            }
        }
        if rule.ports.is_empty() {
            ports.push(Ports::All);
        }
        if direction == Direction::Egress {
            self.by_peers_names(rule, scope, &named, number, prepared);
            named.clear();
        }
        // Rules whose names stand for nothing allow nothing.
        if !ports.is_empty() || !named.is_empty() {
            let term = self.intern(Term::new(scope, &rule.peers, None));
            let rule = TableRule {
                term,
                ports: sorted(ports),
                rule: number,
            };
            prepared.push(Prepared { rule, named });
        }
    }

    /// Named ports of an egress rule: each number goes with the peers on which
    /// the name stands for it.
    fn by_peers_names(
        &mut self,
        rule: &Rule,
        scope: &Scope,
        named: &[(Protocol, String)],
        number: u32,
        prepared: &mut Vec<Prepared>,
    ) {
        for (protocol, name) in named {
            for port in self.numbers_of(*protocol, name) {
                let on_peer = NamedPort {
                    protocol: *protocol,
                    name: name.clone(),
                    number: port,
                };
                let term = self.intern(Term::new(scope, &rule.peers, Some(on_peer)));
                let rule = TableRule {
                    term,
                    ports: vec![Ports::exact(*protocol, port)],
                    rule: number,
                };
                let named = Vec::new();
                prepared.push(Prepared { rule, named });
            }
        }
    }

    fn numbers_of(&mut self, protocol: Protocol, name: &str) -> BTreeSet<u16> {
        let model = self.model;
        let named = self.named.get_or_insert_with(|| {
            let mut named = HashMap::<_, BTreeSet<_>>::new();
            for port in model.pods.values().flat_map(|pod| &pod.ports) {
                let key = (port.protocol, port.name.as_str());
                named.entry(key).or_default().insert(port.number);
            }
            named
        });
        named.get(&(protocol, name)).cloned().unwrap_or_default()
    }

    fn intern(&mut self, term: Option<Term>) -> Option<Arc<Term>> {
        let term = term?;
        if let Some(known) = self.terms.get(&term) {
            return Some(Arc::clone(known));
        }
        let term = Arc::new(term);
        self.terms.insert(Arc::clone(&term));
        self.order.push(Arc::clone(&term));
        Some(term)
    }
}

impl Prepared {
    /// The rule with the numbers that its ports' names stand for on `pod`.
    fn for_pod(&self, pod: &Pod) -> Option<TableRule> {
        let mut rule = self.rule.clone();
        for (protocol, name) in &self.named {
            let numbers = pod.named_ports(name, *protocol);
            rule.ports
                .extend(numbers.map(|number| Ports::exact(*protocol, number)));
        }
        rule.ports = sorted(rule.ports);
        (!rule.ports.is_empty()).then_some(rule)
    }
}

fn of_direction(policy: &Policy, direction: Direction) -> Option<&[Rule]> {
    match direction {
        Direction::Ingress => policy.ingress.as_deref(),
        Direction::Egress => policy.egress.as_deref(),
    }
}

fn sorted(mut ports: Vec<Ports>) -> Vec<Ports> {
    ports.sort_unstable();
    ports.dedup();
    ports
}
