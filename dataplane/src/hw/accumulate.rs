//! Counters that never go backwards, made of ones that do.
//!
//! A device's counter falls for two reasons. It *wraps*: 32 bits are full after a minute of small
//! messages on a fast NIC. Or it is *reset*: the driver was loaded anew, an optional counter was
//! switched off and on. Which one it was cannot be known for certain from two readings; it is taken
//! for a wrap if the counter has 32 bits, fell by more than half of its range, and nothing else of
//! the same reading says reset. A counter that wraps twice between two readings loses 2^32.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    catalogue::{Entry, Kind, lookup},
    table::Table,
};
use crate::rdma::{Driver, HwCounter};

/// What a 32-bit counter holds before it starts anew.
const RANGE: u64 = 1 << 32;

/// How a counter moved between two readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Forward(u64),
    Wrap(u64),
    Reset,
}

/// The kernel adds to a port's counter what counter sets have had, so that one of 32 bits may well
/// be above 2^32 before it wraps.
fn step(last: u64, value: u64, kind: Kind) -> Step {
    match value.checked_sub(last) {
        Some(increase) => Step::Forward(increase),
        None if kind == Kind::Counter32 && (RANGE / 2..=RANGE).contains(&(last - value)) => {
            Step::Wrap(RANGE - (last - value))
        }
        None => Step::Reset,
    }
}

/// One counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accumulator {
    /// The device's value at the last reading.
    last: u64,
    /// What was counted in all.
    total: u64,
}

impl Accumulator {
    /// Counts on from what the device has counted.
    pub fn adopt(value: u64) -> Self {
        Self {
            last: value,
            total: value,
        }
    }

    /// Whether it tells more than the device does.
    pub fn remembers(self) -> bool {
        self.total != self.last
    }

    /// Returns the increase.
    fn take(&mut self, value: u64, step: Step) -> u64 {
        let increase = match step {
            Step::Forward(increase) | Step::Wrap(increase) => increase,
            // It has counted this much since.
            Step::Reset => value,
        };
        self.total = self.total.saturating_add(increase);
        self.last = value;
        increase
    }
}

/// The counters of one port or counter set, by the driver's names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Accumulators {
    counters: Table<Accumulator>,
}

/// One counter after a reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The driver's name for it.
    pub raw: Arc<str>,
    /// What is known of it.
    pub entry: Option<&'static Entry>,
    /// What was counted in all; of a gauge, its value.
    pub total: u64,
    /// How much of it since the reading before; of the first reading, all; of a gauge, nothing.
    pub increase: u64,
}

/// How a counter behaves; one of which nothing is known is taken for the usual.
fn kind(entry: Option<&'static Entry>) -> Kind {
    entry.map_or(Kind::Counter64, |entry| entry.kind)
}

/// Whether the counter is there: ionic's firmware may not have it.
fn is_there(counter: &HwCounter) -> bool {
    counter.value != u64::MAX
}

impl Accumulators {
    /// Takes a whole reading. Counters that the device does not have now are left out of the
    /// answer and not forgotten.
    pub fn read(&mut self, driver: Option<Driver>, reading: &[HwCounter]) -> Vec<Counted> {
        self.counters.set_driver(driver);
        let reset = self.steps(reading).any(|(.., step)| step == Step::Reset);
        let mut next = 0;
        let reading = reading.iter().filter(|counter| is_there(counter));
        let counted = reading.map(|HwCounter { name, value }| {
            let counted = |entry, total, increase| Counted {
                raw: name.clone(),
                entry,
                total,
                increase,
            };
            let Some(place) = self.counters.find(name, next) else {
                let entry = lookup(driver, name);
                if kind(entry) == Kind::Gauge {
                    return counted(entry, *value, 0);
                }
                next = 1 + self.counters.add(name.clone(), Accumulator::adopt(*value));
                return counted(entry, *value, *value);
            };
            next = place + 1;
            let row = self.counters.at(place);
            let step = match step(row.value.last, *value, kind(row.entry)) {
                Step::Wrap(_) if reset => Step::Reset,
                other => other,
            };
            let increase = row.value.take(*value, step);
            counted(row.entry, row.value.total, increase)
        });
        counted.collect()
    }

    /// The counters of a reading that are known already: where each is, its value, how it moved.
    fn steps(&self, reading: &[HwCounter]) -> impl Iterator<Item = (usize, u64, Step)> {
        let mut next = 0;
        let reading = reading.iter().filter(|counter| is_there(counter));
        reading.filter_map(move |counter| {
            let place = self.counters.find(&counter.name, next)?;
            next = place + 1;
            let row = &self.counters.rows()[place];
            let step = step(row.value.last, counter.value, kind(row.entry));
            Some((place, counter.value, step))
        })
    }

    /// Has the counters that fell count on from where they are now.
    pub fn rebase_fallen(&mut self, driver: Option<Driver>, reading: &[HwCounter]) {
        self.counters.set_driver(driver);
        let steps = self.steps(reading);
        let fallen: Vec<_> = steps.filter(|(.., step)| *step == Step::Reset).collect();
        for (place, value, _) in fallen {
            self.counters.at(place).value.last = value;
        }
    }

    /// The part that a restarted agent would otherwise not know.
    pub fn remembered(&self) -> Self {
        let rows = self.counters.rows().iter();
        let remembered = rows.filter(|row| row.value.remembers());
        Self {
            counters: remembered
                .map(|row| (row.name.clone(), row.value))
                .collect(),
        }
    }

    /// How much they tell more than the device does, which only a wrap or a reset changes.
    pub fn memory(&self) -> u64 {
        let more = |one: &Accumulator| one.total.wrapping_sub(one.last);
        let rows = self.counters.rows().iter();
        rows.fold(0, |sum, row| sum.wrapping_add(more(&row.value)))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.counters.rows().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reading(values: &[(&str, u64)]) -> Vec<HwCounter> {
        let counters = values.iter().map(|&(name, value)| HwCounter {
            name: name.into(),
            value,
        });
        counters.collect()
    }

    fn totals(counters: &mut Accumulators, values: &[(&str, u64)]) -> Vec<u64> {
        let counted = counters.read(Some(Driver::Mlx5), &reading(values));
        counted.into_iter().map(|counted| counted.total).collect()
    }

    /// `out_of_sequence` has 32 bits, `np_cnp_sent` 64.
    #[test]
    fn wraps_are_added_up_and_resets_survived() {
        let mut counters = Accumulators::default();
        let top = RANGE - 10;
        let at = |narrow, wide| [("out_of_sequence", narrow), ("np_cnp_sent", wide)];
        assert_eq!(totals(&mut counters, &at(top, 50)), [top, 50]);
        assert_eq!(totals(&mut counters, &at(5, 60)), [RANGE + 5, 60]);
        assert_eq!(totals(&mut counters, &at(9, 60)), [RANGE + 9, 60]);
        // The driver was loaded anew.
        assert_eq!(totals(&mut counters, &at(2, 3)), [RANGE + 11, 63]);
    }

    #[test]
    fn what_looks_like_a_wrap_beside_a_reset_is_one() {
        let mut counters = Accumulators::default();
        let at = |narrow, wide| [("out_of_sequence", narrow), ("np_cnp_sent", wide)];
        assert_eq!(totals(&mut counters, &at(RANGE - 1, 7)), [RANGE - 1, 7]);
        assert_eq!(totals(&mut counters, &at(4, 1)), [RANGE + 3, 8]);
    }

    /// The sum of a device's own counter and of counter sets that have ended.
    #[test]
    fn a_sum_above_the_range_wraps_as_well() {
        let mut counters = Accumulators::default();
        let last = 3 * RANGE + 7;
        totals(&mut counters, &[("out_of_sequence", last)]);
        let after = last - RANGE + 20;
        assert_eq!(
            totals(&mut counters, &[("out_of_sequence", after)]),
            [last + 20]
        );
    }

    #[test]
    fn what_the_firmware_has_not_is_absent() {
        let mut counters = Accumulators::default();
        assert!(totals(&mut counters, &[("np_cnp_sent", u64::MAX)]).is_empty());
    }

    #[test]
    fn a_gauge_goes_up_and_down() {
        let mut counters = Accumulators::default();
        for value in [5, 2] {
            let counted = counters.read(Some(Driver::BnxtRe), &reading(&[("active_qps", value)]));
            assert_eq!(counted[0].total, value);
        }
        assert!(counters.is_empty());
    }

    #[test]
    fn a_restarted_agent_goes_on() {
        let mut counters = Accumulators::default();
        totals(
            &mut counters,
            &[("out_of_sequence", RANGE - 1), ("np_cnp_sent", 4)],
        );
        totals(&mut counters, &[("out_of_sequence", 1), ("np_cnp_sent", 4)]);
        let text = serde_json::to_string(&counters.remembered()).unwrap();
        assert!(!text.contains("np_cnp_sent"), "{text}");
        let mut restarted: Accumulators = serde_json::from_str(&text).unwrap();
        assert_eq!(
            totals(
                &mut restarted,
                &[("out_of_sequence", 3), ("np_cnp_sent", 6)]
            ),
            [RANGE + 3, 6]
        );
    }

    proptest! {
        /// Against the true count, for steps below half of the range.
        #[test]
        fn totals_are_the_true_count(
            start in any::<u32>(),
            steps in prop::collection::vec(0..RANGE / 2, 1..20),
        ) {
            let mut counters = Accumulators::default();
            let mut truth = u64::from(start);
            totals(&mut counters, &[("out_of_sequence", truth % RANGE)]);
            for step in steps {
                truth += step;
                let told = totals(&mut counters, &[("out_of_sequence", truth % RANGE)]);
                prop_assert_eq!(told, [truth]);
            }
        }
    }
}
