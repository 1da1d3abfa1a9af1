//! One change of what the kernel holds, step by step.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use dataplane_ebpf::abi::{Direction, EndpointConfig};

use super::{
    DIRECTIONS, JUDGING, Outcome, Switches, Tables, Wanted,
    detour::differing,
    entries::{Entries, Growth, have_any, meanwhile},
    flags,
    identities::{Lengths, Move, Moves, is_wanted},
    state::Applied,
    too_large, wanted,
};
use crate::{
    kernel::KernelError,
    policy::compile::{Compiled, Table, TableRule},
};

type Result<T> = std::result::Result<T, KernelError>;

/// Entries that a table can get without being made anew.
const CAPACITY: usize = 1 << 17;

/// One change on its way.
pub(super) struct Change<'a, T: Tables> {
    applied: &'a mut Applied<T>,
    tables: &'a T,
    compiled: &'a Compiled,
    switches: &'a Switches,
    moves: Moves,
    outcome: Outcome,
    growing: BTreeMap<u64, Growth>,
    /// Tables that have, or may have, more entries than are known of them.
    touched: BTreeSet<u64>,
    /// Slots that mean nothing any more: everything passes there.
    opened: Vec<(u32, Direction)>,
    /// Endpoints whose open connections are to be judged again.
    judged_anew: BTreeSet<u32>,
}

impl<'a, T: Tables> Change<'a, T> {
    pub fn new(
        applied: &'a mut Applied<T>,
        tables: &'a T,
        compiled: &'a Compiled,
        switches: &'a Switches,
        moves: Moves,
        judged_anew: BTreeSet<u32>,
    ) -> Self {
        Self {
            moves,
            applied,
            tables,
            compiled,
            switches,
            outcome: Outcome {
                closed: too_large(compiled),
                ..Outcome::default()
            },
            growing: BTreeMap::new(),
            touched: BTreeSet::new(),
            opened: Vec::new(),
            judged_anew,
        }
    }

    pub fn carry_out(mut self) -> Result<Outcome> {
        self.wait()?;
        self.grow();
        self.bridge()?;
        self.move_identities()?;
        self.settle()?;
        self.raise_epochs()?;
        self.tidy()?;
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
                let Some(life) = self.applied.life_of(table) else {
                    continue;
                };
                let present = &self.applied.lives[&life].entries;
                if seen.insert(life) && **present != table.entries {
                    growing.insert(life, Growth::new(present, table));
                }
            }
        }
        for (life, growth) in growing {
            self.touched.insert(life);
            let map = &self.applied.lives[&life].map;
            match self.tables.extend(map, &growth.added) {
                Ok(()) => {
                    self.growing.insert(life, growth);
                }
                // Replaced by a new one, then.
                Err(error) => {
                    tracing::warn!("policy: a table cannot grow: {error}");
                    self.applied.disown(life);
                }
            }
            self.outcome.changed = true;
        }
    }

    /// Opens and closes, and puts tables for the meantime where rules change
    /// while identities move.
    fn bridge(&mut self) -> Result<()> {
        let mut bridges = HashMap::new();
        let (mut bridged, mut cleared) = (Vec::new(), Vec::new());
        let compiled = self.compiled;
        for (id, policy) in &compiled.endpoints {
            let config = self.tables.config(*id)?;
            for direction in DIRECTIONS {
                let enforced = config.flags & EndpointConfig::enforce(direction) != 0;
                let present = self.applied.life(*id, direction);
                match (wanted(policy, direction), present) {
                    (Wanted::Open, _) if enforced => {
                        let off = EndpointConfig::enforce(direction);
                        self.change_flags(*id, |flags| flags & !off)?;
                        self.applied.unseen = true;
                        self.judged_anew.insert(*id);
                        self.opened.push((*id, direction));
                    }
                    (Wanted::Open, Some(_)) => self.opened.push((*id, direction)),
                    (Wanted::Closed, Some(_)) => {
                        self.judged_anew.insert(*id);
                        cleared.push((*id, direction));
                    }
                    (Wanted::Table(table), Some(life))
                        if enforced
                            && !self.applied.spells(life, table)
                            && !self.is_right_meanwhile(life) =>
                    {
                        self.judged_anew.insert(*id);
                        let key = (life, Arc::as_ptr(table));
                        let bridge = match bridges.get(&key) {
                            Some(bridge) => Some(*bridge),
                            None => self.bridge_table(life, table),
                        };
                        bridges.extend(bridge.map(|bridge| (key, bridge)));
                        match bridge {
                            Some(bridge) if bridge == life => {}
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

    /// Whether a table gives the old verdicts while identities move: none is left,
    /// and those that are come to are none to it.
    fn is_right_meanwhile(&self, life: u64) -> bool {
        let Moves { joined, left, .. } = &self.moves;
        let present = &self.applied.lives[&life].entries;
        left.is_empty() && !self.touched.contains(&life) && !have_any(present, joined)
    }

    /// The table for the meantime: the present one, the wanted one, or one that
    /// is neither. Without one nothing passes meanwhile.
    fn bridge_table(&mut self, life: u64, table: &Table) -> Option<u64> {
        let present = &self.applied.lives[&life].entries;
        let Moves { joined, left, .. } = &self.moves;
        let both: Vec<_> = joined.intersection(left).copied().collect();
        if differing(&both, present, &table.entries).next().is_some() {
            return None;
        }
        let entries = meanwhile(present, &table.entries, joined);
        let wanted = self.applied.life_of(table);
        let mut made = [Some(life), wanted].into_iter().flatten();
        let is_it = |life: &u64| {
            *self.applied.lives[life].entries == entries && !self.touched.contains(life)
        };
        if let Some(life) = made.find(is_it) {
            return Some(life);
        }
        let is_wanted = wanted.is_none() && entries == table.entries;
        let rules = is_wanted.then(|| table.rules.clone());
        let made = self.create(rules, Arc::new(entries));
        made.inspect_err(|error| tracing::warn!("policy: {error}"))
            .ok()
    }

    fn move_identities(&mut self) -> Result<()> {
        let addresses = std::mem::take(&mut self.moves.addresses);
        let prefixes = std::mem::take(&mut self.moves.prefixes);
        if addresses.is_empty() && prefixes.is_empty() {
            return Ok(());
        }
        // Who was found isolated goes by the old table still.
        self.wait()?;
        self.applied.unseen = true;
        let mut failed = self.write(&addresses)?;
        if !prefixes.is_empty() {
            // Who has not found an address yet looks at prefixes next.
            self.wait()?;
            self.applied.unseen = true;
        }
        failed.extend(match failed.is_empty() {
            true => self.write(&prefixes)?,
            false => prefixes,
        });
        if failed.is_empty() {
            return Ok(());
        }
        // Before anything else moves.
        self.close_affected(&failed)?;
        self.wait()?;
        self.applied.unseen = true;
        let unset = std::mem::take(&mut self.moves.unset);
        self.write(&unset)?;
        failed.retain(|(prefix, _)| is_wanted(prefix, self.compiled));
        failed = self.write(&failed)?;
        // Those that fit now are settled like any other.
        self.outcome.closed = too_large(self.compiled);
        self.close_affected(&failed)
    }

    /// Writes changes; returns those for which there is no room, and those
    /// that follow them.
    fn write(&mut self, changes: &[Move]) -> Result<Vec<Move>> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        self.outcome.changed = true;
        match self.tables.set_identities(changes) {
            Ok(()) => {
                for (prefix, number) in changes {
                    match number {
                        Some(number) => self.applied.held.insert(*prefix, *number),
                        None => self.applied.held.remove(prefix),
                    };
                }
                Ok(Vec::new())
            }
            Err(KernelError::Full { .. }) => {
                self.applied.held = self.tables.identities()?.into_iter().collect();
                let missing = changes
                    .iter()
                    .filter(|(prefix, number)| self.applied.held.get(prefix).copied() != *number);
                Ok(missing.copied().collect())
            }
            Err(error) => Err(error),
        }
    }

    /// Closes the endpoints that would judge an address by an identity that is
    /// not its own: those whose tables know the missing one, or the one around
    /// it.
    fn close_affected(&mut self, failed: &[Move]) -> Result<()> {
        let prefixes = &self.compiled.prefixes;
        let lengths = Lengths::new(prefixes.keys());
        let mut numbers = BTreeSet::new();
        for (prefix, number) in failed {
            numbers.extend(*number);
            numbers.extend(lengths.around(prefix, |cidr| prefixes.get(&cidr).copied()));
            numbers.extend(self.applied.held.get(prefix));
        }
        numbers.remove(&0);
        let compiled = self.compiled;
        let mut affected = Vec::new();
        for (id, policy) in &compiled.endpoints {
            for direction in DIRECTIONS {
                let Wanted::Table(table) = wanted(policy, direction) else {
                    continue;
                };
                if !self.knows_any(*id, direction, table, &numbers) {
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

    /// Whether what an endpoint goes by, or is to go by, has entries of any of
    /// these identities.
    fn knows_any(
        &self,
        id: u32,
        direction: Direction,
        table: &Table,
        numbers: &BTreeSet<u32>,
    ) -> bool {
        let present = self.applied.life(id, direction);
        let present = present.map(|life| &*self.applied.lives[&life].entries);
        present.is_some_and(|entries| have_any(entries, numbers))
            || have_any(&table.entries, numbers)
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
        // One table for the same rules, or one of two would not grow with them.
        let wanted = self.applied.life_of(table);
        if let Some(life) = self.applied.life(id, direction)
            && self.applied.spells(life, table)
            && wanted.is_none_or(|wanted| wanted == life)
        {
            let Moves { joined, left, .. } = &self.moves;
            if self.knows_any(id, direction, table, joined)
                || self.knows_any(id, direction, table, left)
            {
                self.judged_anew.insert(id);
            }
            self.applied.recognise(life, table.rules.clone());
            return Ok(None);
        }
        let life = match wanted {
            Some(life) => life,
            None => self.create(Some(table.rules.clone()), Arc::new(table.entries.clone()))?,
        };
        self.judged_anew.insert(id);
        Ok(Some(life))
    }

    fn raise_epochs(&mut self) -> Result<()> {
        for id in &self.judged_anew {
            self.tables.change_config(*id, &mut |config| {
                config.policy_epoch = config.policy_epoch.wrapping_add(1);
            })?;
        }
        Ok(())
    }

    /// Once no packet is under way that began before, removes what none asks for
    /// any more: slots of who is open, entries of identities that no address
    /// has, prefixes that say what the one around them says.
    fn tidy(&mut self) -> Result<()> {
        let opened = std::mem::take(&mut self.opened);
        let growing = std::mem::take(&mut self.growing);
        let unset = std::mem::take(&mut self.moves.unset);
        self.wait()?;
        self.clear_slots(&opened)?;
        for (life, growth) in growing {
            let Some(live) = self.applied.lives.get_mut(&life) else {
                continue;
            };
            self.tables.remove(&live.map, &growth.removed)?;
            live.entries = growth.entries;
        }
        self.write(&unset).map(drop)
    }

    /// Waits for the packets that may not have seen what was changed: the kernel
    /// does when a slot is written, and that may be what is in it.
    fn wait(&mut self) -> Result<()> {
        let applied = &mut *self.applied;
        let filled = applied.endpoints.iter().find_map(|(id, slots)| {
            let filled = |direction: &Direction| slots.lives[*direction as usize].is_some();
            let direction = DIRECTIONS.into_iter().find(filled)?;
            Some((*id, direction, slots.lives[direction as usize]?))
        });
        // Without a table no packet's verdict depends on what it has read.
        if let Some((id, direction, life)) = filled
            && applied.unseen
        {
            let map = &applied.lives[&life].map;
            self.tables.set_slots(&[(id, direction, map)])?;
        }
        applied.unseen = false;
        Ok(())
    }

    fn create(&mut self, rules: Option<Vec<TableRule>>, entries: Arc<Entries>) -> Result<u64> {
        let room = CAPACITY.saturating_sub(entries.len());
        let map = self.tables.create(&entries, room as u32)?;
        Ok(self.applied.insert(map, rules, entries))
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
        self.applied.unseen = false;
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
