//! What the kernel holds, and how it becomes what is compiled.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Debug,
    sync::Arc,
};

use dataplane_ebpf::abi::{Direction, EndpointConfig};

use super::{
    DIRECTIONS, JUDGING, Outcome, Switches, Tables, Wanted, flags,
    identities::{Held, Moves, covering},
    too_large, wanted,
};
use crate::{
    kernel::{IdentityPrefix, KernelError},
    policy::compile::{Compiled, Key, Table, TableRule},
};

type Result<T> = std::result::Result<T, KernelError>;
type Entries = Vec<(Key, u32)>;

/// Entries that a table can get without being made anew.
const CAPACITY: usize = 1 << 17;

/// What the kernel is known to hold.
pub struct Applied<T: Tables> {
    /// `None` before it was read.
    held: Option<Held>,
    /// Tables, by a number of our own.
    lives: BTreeMap<u64, Live<T::Map>>,
    /// The tables whose rules are known, by these.
    spelled: HashMap<Vec<TableRule>, u64>,
    next_life: u64,
    endpoints: BTreeMap<u32, Slots>,
}

/// A table in the kernel.
struct Live<M> {
    map: M,
    /// The rules that it spells out; `None` where it was found in the kernel.
    rules: Option<Vec<TableRule>>,
    /// Sorted.
    entries: Arc<Entries>,
}

/// What an endpoint goes by.
struct Slots {
    /// Tells owners of the same endpoint id apart.
    first_epoch: u32,
    /// By direction.
    lives: [Option<u64>; 2],
}

/// A table whose rules stay and whose entries change.
struct Growth {
    added: Entries,
    removed: Vec<Key>,
    entries: Arc<Entries>,
}

impl<T: Tables> Default for Applied<T> {
    fn default() -> Self {
        Self {
            held: None,
            lives: BTreeMap::new(),
            spelled: HashMap::new(),
            next_life: 0,
            endpoints: BTreeMap::new(),
        }
    }
}

impl<T: Tables> Debug for Applied<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Applied({} tables)", self.lives.len())
    }
}

/// One change on its way.
struct Change<'a, T: Tables> {
    applied: &'a mut Applied<T>,
    tables: &'a T,
    compiled: &'a Compiled,
    switches: &'a Switches,
    moves: Moves,
    held: Held,
    outcome: Outcome,
    growing: BTreeMap<u64, Growth>,
    /// Endpoints whose open connections are to be judged again.
    judged_anew: BTreeSet<u32>,
}

impl<T: Tables> Applied<T> {
    /// Makes the kernel hold what is compiled. What fails closes the endpoints
    /// that it concerns, and is tried again at the next call.
    pub fn apply(&mut self, tables: &T, compiled: &Compiled, switches: &Switches) -> Outcome {
        let change = self.start(tables, compiled, switches);
        let carried = change.and_then(Change::carry_out);
        match carried {
            Ok(outcome) => outcome,
            Err(error) => {
                // What the kernel holds now is for it to say.
                *self = Self::default();
                Outcome {
                    problems: vec![format!("policy: {error}; trying again")],
                    ..Outcome::default()
                }
            }
        }
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

    fn start<'a>(
        &'a mut self,
        tables: &'a T,
        compiled: &'a Compiled,
        switches: &'a Switches,
    ) -> Result<Change<'a, T>> {
        let held = match self.held.take() {
            Some(held) => held,
            None => tables.identities()?.into_iter().collect(),
        };
        self.meet_endpoints(tables, compiled)?;
        Ok(Change {
            moves: Moves::new(&held, compiled),
            applied: self,
            tables,
            compiled,
            switches,
            held,
            outcome: Outcome {
                closed: too_large(compiled),
                ..Outcome::default()
            },
            growing: BTreeMap::new(),
            judged_anew: BTreeSet::new(),
        })
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
                        let life = self.live(map, None, Arc::new(entries));
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

    fn live(&mut self, map: T::Map, rules: Option<Vec<TableRule>>, entries: Arc<Entries>) -> u64 {
        let life = self.next_life;
        self.next_life += 1;
        if let Some(rules) = &rules {
            self.spelled.insert(rules.clone(), life);
        }
        self.lives.insert(
            life,
            Live {
                map,
                rules,
                entries,
            },
        );
        life
    }
}

impl<T: Tables> Change<'_, T> {
    fn carry_out(mut self) -> Result<Outcome> {
        self.grow();
        self.bridge()?;
        self.move_identities()?;
        self.settle()?;
        self.shrink()?;
        self.raise_epochs()?;
        let used: BTreeSet<_> = self
            .applied
            .endpoints
            .values()
            .flat_map(|slots| slots.lives.into_iter().flatten())
            .collect();
        self.applied.lives.retain(|life, _| used.contains(life));
        self.applied.spelled.retain(|_, life| used.contains(life));
        self.applied.held = Some(self.held);
        Ok(self.outcome)
    }

    /// Adds entries to the tables whose rules stay.
    fn grow(&mut self) {
        let mut growing = BTreeMap::new();
        let mut seen = HashSet::new();
        for policy in self.compiled.endpoints.values() {
            for direction in DIRECTIONS {
                let Wanted::Table(table) = wanted(policy, direction) else {
                    continue;
                };
                let Some(life) = self.life_of(table) else {
                    continue;
                };
                let present = &self.applied.lives[&life].entries;
                if seen.insert(life) && **present != table.entries {
                    growing.insert(life, Growth::new(present, table));
                }
            }
        }
        for (life, growth) in growing {
            let Some(live) = self.applied.lives.get_mut(&life) else {
                continue;
            };
            match self.tables.extend(&live.map, &growth.added) {
                Ok(()) => {
                    self.growing.insert(life, growth);
                }
                // Replaced by a new one, then.
                Err(error) => {
                    tracing::warn!("policy: a table cannot grow: {error}");
                    if let Some(rules) = live.rules.take() {
                        self.applied.spelled.remove(&rules);
                    }
                }
            }
            self.outcome.changed = true;
        }
    }

    /// The table in the kernel with the rules of `table`.
    fn life_of(&self, table: &Table) -> Option<u64> {
        self.applied.spelled.get(&table.rules).copied()
    }

    /// Opens and closes, and puts tables of the old and new entries where
    /// rules change while identities move.
    fn bridge(&mut self) -> Result<()> {
        let mut bridges = HashMap::new();
        let (mut bridged, mut cleared) = (Vec::new(), Vec::new());
        let compiled = self.compiled;
        for (id, policy) in &compiled.endpoints {
            let config = self.tables.config(*id)?;
            for direction in DIRECTIONS {
                let enforced = config.flags & EndpointConfig::enforce(direction) != 0;
                let present = self.applied.endpoints[id].lives[direction as usize];
                match (wanted(policy, direction), present) {
                    (Wanted::Open, _) if enforced => {
                        let off = EndpointConfig::enforce(direction);
                        self.change_flags(*id, |flags| flags & !off)?;
                        self.judged_anew.insert(*id);
                        cleared.push((*id, direction));
                    }
                    (Wanted::Open, Some(_)) => cleared.push((*id, direction)),
                    (Wanted::Closed, Some(_)) => {
                        self.judged_anew.insert(*id);
                        cleared.push((*id, direction));
                    }
                    (Wanted::Table(table), Some(life))
                        if enforced && !self.moves.is_empty() && !self.spells(life, table) =>
                    {
                        let key = (life, Arc::as_ptr(table));
                        let bridge = match bridges.get(&key) {
                            Some(bridge) => Some(*bridge),
                            None => self.bridge_table(life, table),
                        };
                        bridges.extend(bridge.map(|bridge| (key, bridge)));
                        match bridge {
                            Some(bridge) => bridged.push((*id, direction, bridge)),
                            None => cleared.push((*id, direction)),
                        }
                    }
                    _ => {}
                }
            }
        }
        self.clear_slots(&cleared)?;
        self.set_slots(&bridged)
    }

    /// Whether a table in the kernel is, or will be at the end, the wanted one.
    fn spells(&self, life: u64, table: &Table) -> bool {
        let live = &self.applied.lives[&life];
        match &live.rules {
            Some(rules) => *rules == table.rules,
            None => *live.entries == table.entries,
        }
    }

    /// A table of the entries of both; without one nothing passes meanwhile.
    fn bridge_table(&mut self, life: u64, table: &Table) -> Option<u64> {
        let mut entries = Entries::clone(&self.applied.lives[&life].entries);
        entries.extend(&table.entries);
        entries.sort_unstable();
        entries.dedup_by_key(|(key, _)| *key);
        let made = self.create(None, Arc::new(entries));
        made.inspect_err(|error| tracing::warn!("policy: {error}"))
            .ok()
    }

    fn move_identities(&mut self) -> Result<()> {
        let set = std::mem::take(&mut self.moves.set);
        let unset = std::mem::take(&mut self.moves.unset);
        self.outcome.changed |= !set.is_empty() || !unset.is_empty();
        let mut failed = self.write(&set)?;
        if !failed.is_empty() {
            // Before anything else moves.
            self.close_affected(&failed)?;
        }
        self.write(&unset)?;
        if !failed.is_empty() {
            failed = self.write(&failed)?;
            // Those that fit now are settled like any other.
            self.outcome.closed = too_large(self.compiled);
            self.close_affected(&failed)?;
        }
        Ok(())
    }

    /// Writes changes; returns those for which there is no room, and those
    /// that follow them.
    fn write(
        &mut self,
        changes: &[(IdentityPrefix, Option<u32>)],
    ) -> Result<Vec<(IdentityPrefix, Option<u32>)>> {
        match self.tables.set_identities(changes) {
            Ok(()) => {
                for (prefix, number) in changes {
                    match number {
                        Some(number) => self.held.insert(*prefix, *number),
                        None => self.held.remove(prefix),
                    };
                }
                Ok(Vec::new())
            }
            Err(KernelError::Full { .. }) => {
                self.held = self.tables.identities()?.into_iter().collect();
                let missing = changes
                    .iter()
                    .filter(|(prefix, number)| self.held.get(prefix).copied() != *number);
                Ok(missing.copied().collect())
            }
            Err(error) => Err(error),
        }
    }

    /// Closes the endpoints that would judge an address by an identity that is
    /// not its own: those whose tables know the missing one, or the one around
    /// it.
    fn close_affected(&mut self, failed: &[(IdentityPrefix, Option<u32>)]) -> Result<()> {
        let mut numbers: BTreeSet<u32> = failed.iter().filter_map(|(_, number)| *number).collect();
        numbers.extend(
            failed
                .iter()
                .filter_map(|(prefix, _)| covering(prefix, &self.compiled.prefixes)),
        );
        numbers.extend(
            failed
                .iter()
                .filter_map(|(prefix, _)| self.held.get(prefix).copied()),
        );
        numbers.remove(&0);
        let compiled = self.compiled;
        let mut affected = Vec::new();
        for (id, policy) in &compiled.endpoints {
            for direction in DIRECTIONS {
                let Wanted::Table(table) = wanted(policy, direction) else {
                    continue;
                };
                if !has_any(&table.entries, &numbers) {
                    continue;
                }
                let reason = format!(
                    "{} identities of its {} policy's peers did not fit; \
                     raise identities in the configuration",
                    failed.len(),
                    direction.name()
                );
                affected.push((*id, direction, reason));
            }
        }
        self.close(affected)
    }

    /// Puts the new tables in place, then the flags.
    fn settle(&mut self) -> Result<()> {
        let compiled = self.compiled;
        let (mut slots, mut failed) = (Vec::new(), Vec::new());
        let reason = |direction: Direction, error| {
            let name = direction.name();
            format!("its {name} policy: {error}")
        };
        for (id, policy) in &compiled.endpoints {
            for direction in DIRECTIONS {
                let Wanted::Table(table) = wanted(policy, direction) else {
                    continue;
                };
                if self.outcome.closed.contains_key(&(*id, direction)) {
                    continue;
                }
                match self.settle_slot(*id, direction, table) {
                    Ok(life) => slots.extend(life.map(|life| (*id, direction, life))),
                    Err(error) => failed.push((*id, direction, reason(direction, error))),
                }
            }
        }
        if self.set_slots(&slots).is_err() {
            // Which of them it was is only told one by one.
            for (id, direction, life) in slots {
                if let Err(error) = self.set_slots(&[(id, direction, life)]) {
                    failed.push((id, direction, reason(direction, error)));
                }
            }
        }
        self.close(failed)?;
        for (id, policy) in &compiled.endpoints {
            let wanted = flags(policy) | self.switches.flags(*id);
            let present = self.tables.config(*id)?.flags & JUDGING;
            if present != wanted {
                self.change_flags(*id, |flags| flags & !JUDGING | wanted)?;
                self.judged_anew.insert(*id);
            }
        }
        Ok(())
    }

    /// Lets nothing pass there, for these reasons.
    fn close(&mut self, endpoints: Vec<(u32, Direction, String)>) -> Result<()> {
        let slots: Vec<_> = endpoints
            .iter()
            .map(|(id, direction, _)| (*id, *direction))
            .collect();
        self.clear_slots(&slots)?;
        for (id, direction, reason) in endpoints {
            self.outcome.closed.insert((id, direction), reason);
            let on = EndpointConfig::enforce(direction);
            self.change_flags(id, |flags| flags | on)?;
            self.judged_anew.insert(id);
        }
        Ok(())
    }

    /// The table that the slot is yet to get.
    fn settle_slot(
        &mut self,
        id: u32,
        direction: Direction,
        table: &Arc<Table>,
    ) -> Result<Option<u64>> {
        let present = self.applied.endpoints[&id].lives[direction as usize];
        if let Some(life) = present
            && self.spells(life, table)
        {
            if has_any(&table.entries, &self.moves.numbers) {
                self.judged_anew.insert(id);
            }
            if let Some(live) = self.applied.lives.get_mut(&life)
                && live.rules.is_none()
            {
                live.rules = Some(table.rules.clone());
                self.applied.spelled.insert(table.rules.clone(), life);
            }
            return Ok(None);
        }
        let life = match self.life_of(table) {
            Some(life) => life,
            None => self.create(Some(table.rules.clone()), Arc::new(table.entries.clone()))?,
        };
        self.judged_anew.insert(id);
        Ok(Some(life))
    }

    /// Removes entries of identities that no address has any more.
    fn shrink(&mut self) -> Result<()> {
        for (life, growth) in std::mem::take(&mut self.growing) {
            let Some(live) = self.applied.lives.get_mut(&life) else {
                continue;
            };
            self.tables.remove(&live.map, &growth.removed)?;
            live.entries = growth.entries;
        }
        Ok(())
    }

    fn raise_epochs(&mut self) -> Result<()> {
        for id in &self.judged_anew {
            self.tables.change_config(*id, &mut |config| {
                config.policy_epoch = config.policy_epoch.wrapping_add(1);
            })?;
        }
        Ok(())
    }

    fn create(&mut self, rules: Option<Vec<TableRule>>, entries: Arc<Entries>) -> Result<u64> {
        let room = CAPACITY.saturating_sub(entries.len());
        let map = self.tables.create(&entries, room as u32)?;
        Ok(self.applied.live(map, rules, entries))
    }

    fn set_slots(&mut self, slots: &[(u32, Direction, u64)]) -> Result<()> {
        if slots.is_empty() {
            return Ok(());
        }
        let lives = &self.applied.lives;
        let maps: Vec<_> = slots
            .iter()
            .map(|(id, direction, life)| (*id, *direction, &lives[life].map))
            .collect();
        self.tables.set_slots(&maps)?;
        for (id, direction, life) in slots {
            self.filled(*id, *direction, Some(*life));
        }
        Ok(())
    }

    fn clear_slots(&mut self, slots: &[(u32, Direction)]) -> Result<()> {
        if slots.is_empty() {
            return Ok(());
        }
        self.tables.clear_slots(slots)?;
        for (id, direction) in slots {
            self.filled(*id, *direction, None);
        }
        Ok(())
    }

    fn filled(&mut self, id: u32, direction: Direction, life: Option<u64>) {
        self.outcome.changed = true;
        if let Some(slots) = self.applied.endpoints.get_mut(&id) {
            slots.lives[direction as usize] = life;
        }
    }

    fn change_flags(&mut self, id: u32, change: impl Fn(u32) -> u32) -> Result<()> {
        self.outcome.changed = true;
        self.tables.change_config(id, &mut |config| {
            // Not of an id that was given back meanwhile.
            if config.flags & EndpointConfig::IN_USE != 0 {
                config.flags = change(config.flags);
            }
        })
    }
}

impl Growth {
    fn new(present: &Entries, table: &Table) -> Self {
        let missing =
            |from: &Entries, (key, rule): &(Key, u32)| from.binary_search(&(*key, *rule)).is_err();
        let lacks_key =
            |from: &Entries, key: &Key| from.binary_search_by_key(key, |(key, _)| *key).is_err();
        let wanted = &table.entries;
        let added = wanted.iter().filter(|entry| missing(present, entry));
        let removed = present.iter().filter(|(key, _)| lacks_key(wanted, key));
        Self {
            added: added.copied().collect(),
            removed: removed.map(|(key, _)| *key).collect(),
            entries: Arc::new(wanted.clone()),
        }
    }
}

/// Whether a table knows one of the identities. Goes through the fewer.
fn has_any(entries: &Entries, numbers: &BTreeSet<u32>) -> bool {
    if entries.len() < numbers.len() {
        return entries
            .iter()
            .any(|(key, _)| numbers.contains(&key.identity));
    }
    numbers.iter().any(|number| {
        let from = entries.partition_point(|(key, _)| key.identity < *number);
        entries
            .get(from)
            .is_some_and(|(key, _)| key.identity == *number)
    })
}
