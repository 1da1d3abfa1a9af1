//! What each pod did on a device that several share: from counter sets, one for each process and
//! type of queue pair, which the kernel makes in auto mode (mlx5, ionic) and ends with the last
//! queue pair.
//!
//! A pod's sum takes what its sets have counted since the last reading. When a set ends, the kernel
//! adds its counts to the port's and tells nobody whose they were: what a set counted between the
//! last reading and its end is in the port's counters and in no pod's. So is what queue pairs count
//! that were made before auto mode, and all of a set that came and went between two readings.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::{
    accumulate::{Accumulators, Counted},
    owner::Holder,
    table::Table,
};
use crate::rdma::{CounterSet, Driver};

/// Readings that a holder is remembered for after its last set has ended and its endpoint has gone.
const KEPT_READINGS: u64 = 40;

/// A port of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortKey {
    /// The device's index.
    pub device: u32,
    /// Its node GUID, lest it is another one under the same index.
    pub guid: u64,
    /// The port's number.
    pub port: u32,
}

/// Sums by port and holder.
#[derive(Debug, Default)]
pub struct Sets {
    live: HashMap<(PortKey, u32, Option<u32>), Live>,
    sums: BTreeMap<PortKey, BTreeMap<Holder, Sum>>,
    reading: u64,
}

/// A set that was there at the last reading.
#[derive(Debug)]
struct Live {
    holder: Holder,
    counters: Accumulators,
    queue_pairs: Vec<u32>,
    reading: u64,
}

#[derive(Debug, Default)]
struct Sum {
    totals: Table<u64>,
    reading: u64,
}

/// Sums and the sets that they are made of, for the next agent.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSets {
    live: Vec<SavedLive>,
    sums: Vec<(PortKey, Holder, Table<u64>)>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedLive {
    port: PortKey,
    set: u32,
    process: Option<u32>,
    holder: Holder,
    queue_pairs: Vec<u32>,
    counters: Accumulators,
}

impl Sum {
    fn add(&mut self, driver: Option<Driver>, counted: Vec<Counted>) {
        self.totals.set_driver(driver);
        let mut next = 0;
        for Counted { raw, increase, .. } in counted {
            let place = match self.totals.find(&raw, next) {
                Some(place) => place,
                None => self.totals.add(raw, 0),
            };
            let total = &mut self.totals.at(place).value;
            *total = total.saturating_add(increase);
            next = place + 1;
        }
    }
}

impl Sets {
    /// Takes a reading of one set. Its holder is who it was when the set was first seen.
    pub fn read(
        &mut self,
        port: PortKey,
        driver: Option<Driver>,
        set: CounterSet,
        holder: impl FnOnce() -> Holder,
    ) {
        let reading = self.reading;
        let key = (port, set.id, set.process);
        let live = self.live.entry(key).or_insert_with(|| Live {
            holder: holder(),
            counters: Accumulators::default(),
            queue_pairs: Vec::new(),
            reading,
        });
        let left = live.queue_pairs != set.queue_pairs
            && live
                .queue_pairs
                .iter()
                .any(|number| !set.queue_pairs.contains(number));
        if left {
            // ionic adds up the queue pairs that are there, so that the one that went took its
            // counts along: what fell counts on from where it is.
            live.counters.rebase_fallen(driver, &set.counters);
        }
        let counted = live.counters.read(driver, &set.counters);
        live.queue_pairs = set.queue_pairs;
        live.reading = reading;
        let sums = self.sums.entry(port).or_default();
        if !sums.contains_key(&live.holder) {
            sums.insert(live.holder.clone(), Sum::default());
        }
        if let Some(sum) = sums.get_mut(&live.holder) {
            sum.reading = reading;
            sum.add(driver, counted);
        }
    }

    /// Ends a reading of all ports: forgets the sets that have ended, and after a while the holders
    /// that have none and that are not `known` any more. Whether a set has ended.
    pub fn end_reading(&mut self, known: impl Fn(&Holder) -> bool) -> bool {
        let (reading, before) = (self.reading, self.live.len());
        self.live.retain(|_, live| live.reading == reading);
        self.sums.retain(|_, sums| {
            sums.retain(|holder, sum| {
                reading.saturating_sub(sum.reading) < KEPT_READINGS || known(holder)
            });
            !sums.is_empty()
        });
        self.reading += 1;
        self.live.len() < before
    }

    /// The sums.
    pub fn sums(
        &mut self,
        driver: impl Fn(PortKey) -> Option<Driver>,
    ) -> impl Iterator<Item = (PortKey, &Holder, Vec<Counted>)> {
        let sums = self.sums.iter_mut();
        let sums = sums.flat_map(|(port, sums)| sums.iter_mut().map(|sum| (*port, sum)));
        sums.map(move |(port, (holder, sum))| {
            sum.totals.set_driver(driver(port));
            let counted = sum.totals.rows().iter().map(|row| Counted {
                raw: row.name.clone(),
                entry: row.entry,
                total: row.value,
                increase: 0,
            });
            (port, holder, counted.collect())
        })
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// What the next agent has to know.
    pub fn save(&self) -> SavedSets {
        let live = self.live.iter().map(|(key, live)| SavedLive {
            port: key.0,
            set: key.1,
            process: key.2,
            holder: live.holder.clone(),
            queue_pairs: live.queue_pairs.clone(),
            counters: live.counters.clone(),
        });
        let sums = self.sums.iter().flat_map(|(port, sums)| {
            let saved =
                |(holder, sum): (&Holder, &Sum)| (*port, holder.clone(), sum.totals.clone());
            sums.iter().map(saved)
        });
        SavedSets {
            live: live.collect(),
            sums: sums.collect(),
        }
    }

    /// What an earlier agent knew.
    pub fn restore(saved: SavedSets) -> Self {
        let live = saved.live.into_iter().map(|one| {
            let live = Live {
                holder: one.holder,
                counters: one.counters,
                queue_pairs: one.queue_pairs,
                reading: 0,
            };
            ((one.port, one.set, one.process), live)
        });
        let mut sums = BTreeMap::<_, BTreeMap<_, _>>::new();
        for (port, holder, totals) in saved.sums {
            let sum = Sum { totals, reading: 0 };
            sums.entry(port).or_default().insert(holder, sum);
        }
        Self {
            live: live.collect(),
            sums,
            reading: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdma::HwCounter;

    const PORT: PortKey = PortKey {
        device: 0,
        guid: 1,
        port: 1,
    };

    fn set(id: u32, process: u32, pairs: &[u32], packets: u64) -> CounterSet {
        CounterSet {
            port: 1,
            id,
            process: Some(process),
            queue_pairs: pairs.to_vec(),
            counters: vec![HwCounter {
                name: "rdma_tx_packets".into(),
                value: packets,
            }],
        }
    }

    fn pod(endpoint: u32) -> Holder {
        Holder::Pod {
            pod: None,
            uid: None,
            endpoint: Some(endpoint),
        }
    }

    /// One reading of these sets; process 10 x N is endpoint N's.
    fn read(sets: &mut Sets, driver: Driver, all: &[CounterSet]) -> Vec<(u32, u64)> {
        for set in all {
            let endpoint = set.process.unwrap() / 10;
            sets.read(PORT, Some(driver), set.clone(), || pod(endpoint));
        }
        sets.end_reading(|_| false);
        told(sets)
    }

    fn told(sets: &mut Sets) -> Vec<(u32, u64)> {
        sets.sums(|_| Some(Driver::Mlx5))
            .map(|(_, holder, counted)| match holder {
                Holder::Pod {
                    endpoint: Some(endpoint),
                    ..
                } => (*endpoint, counted[0].total),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn sums_outlive_the_sets_that_they_are_made_of() {
        let mut sets = Sets::default();
        let mlx5 = Driver::Mlx5;
        let both = [
            set(1, 10, &[7], 100),
            set(2, 11, &[8], 5),
            set(3, 20, &[9], 50),
        ];
        assert_eq!(read(&mut sets, mlx5, &both), [(1, 105), (2, 50)]);
        // One of the first pod's processes has ended.
        assert_eq!(
            read(&mut sets, mlx5, &[set(2, 11, &[8], 9)]),
            [(1, 109), (2, 50)]
        );
        // Another set under an old number is another process's.
        let next = [set(1, 21, &[7], 4)];
        assert_eq!(read(&mut sets, mlx5, &next), [(1, 109), (2, 54)]);
    }

    #[test]
    fn a_queue_pair_that_takes_its_counts_along_makes_no_sum_fall_or_jump() {
        let mut sets = Sets::default();
        let ionic = Driver::Ionic;
        assert_eq!(
            read(&mut sets, ionic, &[set(1, 10, &[7, 8], 100)]),
            [(1, 100)]
        );
        assert_eq!(read(&mut sets, ionic, &[set(1, 10, &[8], 30)]), [(1, 100)]);
        assert_eq!(read(&mut sets, ionic, &[set(1, 10, &[8], 31)]), [(1, 101)]);
    }

    #[test]
    fn a_restarted_agent_counts_nothing_twice() {
        let mut sets = Sets::default();
        let mlx5 = Driver::Mlx5;
        read(
            &mut sets,
            mlx5,
            &[set(1, 10, &[7], 100), set(2, 10, &[8], 7)],
        );
        let text = serde_json::to_string(&sets.save()).unwrap();
        let mut restarted = Sets::restore(serde_json::from_str(&text).unwrap());
        assert_eq!(told(&mut restarted), [(1, 107)]);
        assert_eq!(
            read(&mut restarted, mlx5, &[set(1, 10, &[7], 101)]),
            [(1, 108)]
        );
    }

    #[test]
    fn who_is_gone_is_forgotten_after_a_while() {
        let mut sets = Sets::default();
        read(&mut sets, Driver::Mlx5, &[set(1, 10, &[7], 100)]);
        for _ in 0..KEPT_READINGS - 1 {
            sets.end_reading(|_| true);
        }
        sets.end_reading(|_| true);
        assert!(!sets.is_empty());
        sets.end_reading(|_| false);
        assert!(sets.is_empty());
    }
}
