//! What the kernel is known to hold.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Debug,
    sync::Arc,
};

use dataplane_ebpf::abi::Direction;

use super::{
    DIRECTIONS, Outcome, Switches, Tables, Wanted,
    change::Change,
    detour::{self, Detour},
    entries::Entries,
    identities::{Held, Moves},
    wanted,
};
use crate::{
    kernel::KernelError,
    policy::compile::{Compiled, Table, TableRule},
};

type Result<T> = std::result::Result<T, KernelError>;

/// What the kernel is known to hold.
pub struct Applied<T: Tables> {
    /// Identities; empty before they were read.
    pub(super) held: Held,
    /// It was read.
    is_read: bool,
    /// Tables, by a number of our own.
    pub(super) lives: BTreeMap<u64, Live<T::Map>>,
    /// The tables whose rules are known, by these.
    spelled: HashMap<Vec<TableRule>, u64>,
    next_life: u64,
    pub(super) endpoints: BTreeMap<u32, Slots>,
    /// Packets may be under way that have read what was changed since.
    pub(super) unseen: bool,
}

/// A table in the kernel.
pub(super) struct Live<M> {
    pub map: M,
    /// The rules that it spells out; `None` where it was found in the kernel,
    /// or is there for a moment only.
    pub rules: Option<Vec<TableRule>>,
    /// Sorted.
    pub entries: Arc<Entries>,
}

/// What an endpoint goes by.
pub(super) struct Slots {
    /// Tells owners of the same endpoint id apart.
    first_epoch: u32,
    /// By direction.
    pub lives: [Option<u64>; 2],
}

impl<T: Tables> Default for Applied<T> {
    fn default() -> Self {
        Self {
            held: Held::new(),
            is_read: false,
            lives: BTreeMap::new(),
            spelled: HashMap::new(),
            next_life: 0,
            endpoints: BTreeMap::new(),
            // Nobody knows what was changed last.
            unseen: true,
        }
    }
}

impl<T: Tables> Debug for Applied<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Applied({} tables)", self.lives.len())
    }
}

impl<T: Tables> Applied<T> {
    /// Makes the kernel hold what is compiled. What fails closes the endpoints
    /// that it concerns, and is tried again at the next call.
    pub fn apply(&mut self, tables: &T, compiled: &Compiled, switches: &Switches) -> Outcome {
        let carried = self.carry_out(tables, compiled, switches);
        carried.unwrap_or_else(|error| {
            // What the kernel holds now is for it to say.
            *self = Self::default();
            Outcome {
                problems: vec![format!("policy: {error}; trying again")],
                ..Outcome::default()
            }
        })
    }

    /// Tables in the kernel, and their entries.
    pub fn sizes(&self) -> (usize, usize) {
        let entries = self.lives.values().map(|live| live.entries.len()).sum();
        (self.lives.len(), entries)
    }

    /// The table that an endpoint goes by.
    pub fn map(&self, endpoint: u32, direction: Direction) -> Option<&T::Map> {
        let life = self.endpoints.get(&endpoint)?.lives[direction as usize]?;
        self.lives.get(&life).map(|live| &live.map)
    }

    fn carry_out(
        &mut self,
        tables: &T,
        compiled: &Compiled,
        switches: &Switches,
    ) -> Result<Outcome> {
        // Whoever was here before may have died before the last step.
        let mut judged_anew = BTreeSet::new();
        if !self.is_read {
            judged_anew.extend(compiled.endpoints.keys());
            self.held = tables.identities()?.into_iter().collect();
            self.is_read = true;
        }
        self.meet_endpoints(tables, compiled)?;

        let moves = Moves::new(&self.held, compiled);
        let Some(first) = self.detour(&moves, compiled) else {
            return self.change(tables, compiled, switches, moves, judged_anew);
        };
        let moves = Moves::new(&self.held, &first);
        self.change(tables, &first, switches, moves, judged_anew)?;
        let moves = Moves::new(&self.held, compiled);
        self.change(tables, compiled, switches, moves, BTreeSet::new())
    }

    fn change(
        &mut self,
        tables: &T,
        compiled: &Compiled,
        switches: &Switches,
        moves: Moves,
        judged_anew: BTreeSet<u32>,
    ) -> Result<Outcome> {
        let change = Change::new(self, tables, compiled, switches, moves, judged_anew);
        let outcome = change.carry_out()?;
        self.forget_unused();
        Ok(outcome)
    }

    /// What to go by first, where no table could be right while addresses move.
    fn detour(&self, moves: &Moves, compiled: &Compiled) -> Option<Compiled> {
        let mut detour = Detour::new(moves)?;
        for (id, policy) in &compiled.endpoints {
            for direction in DIRECTIONS {
                if let Some(life) = self.life(*id, direction)
                    && let Wanted::Table(table) = wanted(policy, direction)
                    && !self.spells(life, table)
                {
                    detour.compare(&self.lives[&life].entries, &table.entries);
                }
            }
        }
        let present = self.lives.values().map(|live| live.entries.as_slice());
        detour.compile(compiled, || detour::in_use(&self.held, present, compiled))
    }

    /// Reads what endpoints go by that are not known yet, or are others than
    /// they were.
    fn meet_endpoints(&mut self, tables: &T, compiled: &Compiled) -> Result<()> {
        self.endpoints
            .retain(|id, _| compiled.endpoints.contains_key(id));
        let mut met = HashMap::new();
        for id in compiled.endpoints.keys() {
            let first_epoch = tables.config(*id)?.first_epoch;
            let known = self.endpoints.get(id);
            if known.is_some_and(|slots| slots.first_epoch == first_epoch) {
                continue;
            }
            let mut lives = [None, None];
            for direction in DIRECTIONS {
                let Some(map) = tables.slot(*id, direction)? else {
                    continue;
                };
                let life = match met.get(&tables.id(&map)) {
                    Some(life) => *life,
                    None => {
                        let kernel_id = tables.id(&map);
                        // A form unknown here is no table of ours: replaced.
                        let entries = tables.read(&map)?.unwrap_or_default();
                        let life = self.insert(map, None, Arc::new(entries));
                        met.insert(kernel_id, life);
                        life
                    }
                };
                lives[direction as usize] = Some(life);
            }
            self.endpoints.insert(*id, Slots { first_epoch, lives });
        }
        Ok(())
    }

    pub(super) fn insert(
        &mut self,
        map: T::Map,
        rules: Option<Vec<TableRule>>,
        entries: Arc<Entries>,
    ) -> u64 {
        let life = self.next_life;
        self.next_life += 1;
        let live = Live {
            map,
            rules: None,
            entries,
        };
        self.lives.insert(life, live);
        if let Some(rules) = rules {
            self.recognise(life, rules);
        }
        life
    }

    /// A table turns out to spell out these rules.
    pub(super) fn recognise(&mut self, life: u64, rules: Vec<TableRule>) {
        if let Some(live) = self.lives.get_mut(&life)
            && live.rules.is_none()
        {
            live.rules = Some(rules.clone());
            self.spelled.insert(rules, life);
        }
    }

    /// A table is no longer known to spell out its rules.
    pub(super) fn disown(&mut self, life: u64) {
        let live = self.lives.get_mut(&life);
        if let Some(rules) = live.and_then(|live| live.rules.take()) {
            self.spelled.remove(&rules);
        }
    }

    /// What an endpoint goes by.
    pub(super) fn life(&self, id: u32, direction: Direction) -> Option<u64> {
        self.endpoints.get(&id)?.lives[direction as usize]
    }

    /// The table in the kernel with the rules of `table`.
    pub(super) fn life_of(&self, table: &Table) -> Option<u64> {
        self.spelled.get(&table.rules).copied()
    }

    /// Whether a table in the kernel is, or will be at the end, the wanted one.
    pub(super) fn spells(&self, life: u64, table: &Table) -> bool {
        let live = &self.lives[&life];
        match &live.rules {
            Some(rules) => *rules == table.rules,
            None => *live.entries == table.entries,
        }
    }

    fn forget_unused(&mut self) {
        let slots = self.endpoints.values();
        let used: BTreeSet<_> = slots
            .flat_map(|slots| slots.lives.into_iter().flatten())
            .collect();
        self.lives.retain(|life, _| used.contains(life));
        self.spelled.retain(|_, life| used.contains(life));
    }
}
