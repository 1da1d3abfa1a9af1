//! A change of policies, and what each packet may get meanwhile.

use std::{cell::RefCell, collections::BTreeMap};

use dataplane::policy::{
    apply::{Applied, Switches},
    compile::{Compiled, Compiler, RuleNumbers},
};
use dataplane_ebpf::abi::EndpointConfig;
use proptest::prelude::*;
use sluice_tests::policy::{Cluster, endpoints, model};

use crate::{
    memory::{Memory, Verdicts},
    under_way::Watch,
};

/// The node's own addresses.
const NODE: [&str; 2] = ["192.0.2.1", "11.0.0.0"];

pub struct World {
    pub memory: Memory,
    pub before: Compiled,
    pub after: Compiled,
    pub ids: Vec<u32>,
    pub switches: Switches,
    /// The endpoints' epochs before the change.
    epochs: RefCell<BTreeMap<u32, u32>>,
}

impl World {
    pub fn new(before: &Cluster, after: &Cluster) -> Self {
        let attached = endpoints(after);
        let attached: Vec<_> = attached.into_iter().map(|(_, endpoint)| endpoint).collect();
        let mut compiler = Compiler::new(
            Default::default(),
            RuleNumbers::default(),
            Default::default(),
        );
        let node = NODE.map(|address| address.parse().unwrap());
        let before = compiler.compile(&model(before), &attached, &node);
        let after = compiler.compile(&model(after), &attached, &node);
        Self {
            memory: Memory::new(&attached),
            ids: attached.iter().map(|endpoint| endpoint.id).collect(),
            before,
            after,
            switches: Switches::default(),
            epochs: RefCell::default(),
        }
    }

    /// The verdicts when a state is reached from nothing.
    pub fn verdicts_of(&self, compiled: &Compiled) -> Verdicts {
        let fresh = Memory::default();
        fresh.room.set(usize::MAX);
        fresh.steps_left.set(usize::MAX);
        for id in &self.ids {
            let config = EndpointConfig {
                flags: EndpointConfig::IN_USE,
                ..EndpointConfig::default()
            };
            fresh.configs.borrow_mut().insert(*id, config);
        }
        let outcome = Applied::default().apply(&fresh, compiled, &self.switches);
        assert_eq!(outcome.problems, Vec::<String>::new());
        fresh.verdicts(&self.ids)
    }

    /// From now on each step is looked at.
    pub fn watch(&self) {
        let (before, after) = (
            self.verdicts_of(&self.before),
            self.verdicts_of(&self.after),
        );
        let watch = Watch::new(&self.memory, &self.ids, before, after);
        *self.memory.watch.borrow_mut() = Some(watch);
        self.epochs.replace(self.memory.epochs());
    }

    pub fn check_end(&self) -> std::result::Result<(), TestCaseError> {
        let wrong = self
            .memory
            .watch
            .borrow_mut()
            .as_mut()
            .and_then(|watch| watch.wrong.take());
        prop_assert_eq!(wrong, None);
        prop_assert_eq!(
            self.memory.verdicts(&self.ids),
            self.verdicts_of(&self.after)
        );
        self.check_epochs()?;
        prop_assert_eq!(&*self.memory.addresses.borrow(), &self.after.addresses);
        prop_assert_eq!(&*self.memory.prefixes.borrow(), &self.after.prefixes);
        // Nothing is left over in any table.
        for ((id, direction), map) in &*self.memory.slots.borrow() {
            let table = self.after.endpoints[id].table(*direction).unwrap();
            let entries: Vec<_> = map
                .1
                .borrow()
                .iter()
                .map(|(key, rule)| (*key, *rule))
                .collect();
            prop_assert_eq!(&entries, &table.entries);
        }
        Ok(())
    }
    /// Open connections feel what has changed.
    fn check_epochs(&self) -> std::result::Result<(), TestCaseError> {
        let watch = self.memory.watch.borrow();
        let Some((before, after)) = watch.as_ref().map(Watch::expected) else {
            return Ok(());
        };
        let ids = &self.ids;
        let of_each = before.len() / ids.len().max(1);
        let (before, after) = (before.chunks(of_each), after.chunks(of_each));
        let now = self.memory.epochs();
        for (id, (before, after)) in ids.iter().zip(before.zip(after)) {
            let same_epoch = now[id] == self.epochs.borrow()[id];
            prop_assert!(before == after || !same_epoch, "endpoint {}", id);
        }
        Ok(())
    }
}
