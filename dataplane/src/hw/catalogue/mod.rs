//! What each driver's counters mean.
//!
//! A counter gets a unified name only where its meaning is the same as elsewhere; every other one
//! keeps the driver's. A driver has at most one counter of a meaning at a time: names that it once
//! had stand beside today's.

mod bnxt_re;
mod ionic;
mod irdma;
mod mlx5;
mod rxe;

use std::{collections::HashMap, sync::LazyLock};

use super::family::{Family, Meaning};
use crate::rdma::Driver;

/// What is known of a driver's counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The driver's name for it.
    pub raw: &'static str,
    /// What it means, where that has a unified name.
    pub meaning: Option<Meaning>,
    /// How it behaves.
    pub kind: Kind,
}

/// How a counter behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It counts up and starts anew at 2^32.
    Counter32,
    /// It counts up.
    Counter64,
    /// A number of things that are there now.
    Gauge,
}

/// What is known of a counter; nothing of one that is not listed.
pub fn lookup(driver: Option<Driver>, raw: &str) -> Option<&'static Entry> {
    static BY_NAME: LazyLock<HashMap<(Driver, &str), &Entry>> = LazyLock::new(|| {
        let entries = TABLES.iter().flat_map(|(driver, table)| {
            let entries = table.iter().copied().flatten();
            entries.map(|entry| ((*driver, entry.raw), entry))
        });
        entries.collect()
    });
    BY_NAME.get(&(driver?, raw)).copied()
}

/// Every counter that is known of a driver.
pub fn known(driver: Driver) -> impl Iterator<Item = &'static Entry> {
    let tables = TABLES.iter().filter(move |(other, _)| *other == driver);
    tables.flat_map(|(_, tables)| tables.iter().copied().flatten())
}

/// The tables of each driver.
const TABLES: &[(Driver, &[&[Entry]])] = &[
    (Driver::Mlx5, mlx5::TABLES),
    (Driver::BnxtRe, bnxt_re::TABLES),
    (Driver::Irdma, irdma::TABLES),
    (Driver::Rxe, rxe::TABLES),
    (Driver::Ionic, ionic::TABLES),
];

type Labels = &'static [(&'static str, &'static str)];

const NONE: Labels = &[];
const RECEIVED: Labels = &[("direction", "ingress")];
const SENT: Labels = &[("direction", "egress")];
const REQUESTER: Labels = &[("side", "requester")];
const RESPONDER: Labels = &[("side", "responder")];
const BY_TRANSPORT: Labels = &[("reason", "transport")];
const BY_RNR: Labels = &[("reason", "rnr")];
const CNP_SENT: Labels = &[("action", "sent")];
const CNP_RECEIVED: Labels = &[("action", "received")];
const CNP_HANDLED: Labels = &[("action", "handled")];
const CNP_IGNORED: Labels = &[("action", "ignored")];
const RECEIVED_SENDS: Labels = &[("direction", "ingress"), ("operation", "send")];
const RECEIVED_WRITES: Labels = &[("direction", "ingress"), ("operation", "write")];
const RECEIVED_READS: Labels = &[("direction", "ingress"), ("operation", "read")];
const RECEIVED_ATOMICS: Labels = &[("direction", "ingress"), ("operation", "atomic")];
const SENT_SENDS: Labels = &[("direction", "egress"), ("operation", "send")];
const SENT_WRITES: Labels = &[("direction", "egress"), ("operation", "write")];
const SENT_READS: Labels = &[("direction", "egress"), ("operation", "read")];
const SENT_ATOMICS: Labels = &[("direction", "egress"), ("operation", "atomic")];

/// A counter of 64 bits with a unified name.
const fn wide(raw: &'static str, family: Family, labels: Labels) -> Entry {
    Entry {
        raw,
        meaning: Some(Meaning { family, labels }),
        kind: Kind::Counter64,
    }
}

/// A counter of 32 bits with a unified name.
const fn narrow(raw: &'static str, family: Family, labels: Labels) -> Entry {
    Entry {
        kind: Kind::Counter32,
        ..wide(raw, family, labels)
    }
}

/// A counter of 32 bits that keeps its name.
const fn own32(raw: &'static str) -> Entry {
    Entry {
        raw,
        meaning: None,
        kind: Kind::Counter32,
    }
}

/// A number of things.
const fn gauge(raw: &'static str) -> Entry {
    Entry {
        raw,
        meaning: None,
        kind: Kind::Gauge,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn entries() -> impl Iterator<Item = (Driver, &'static Entry)> {
        TABLES.iter().flat_map(|(driver, table)| {
            let entries = table.iter().copied().flatten();
            entries.map(|entry| (*driver, entry))
        })
    }

    #[test]
    fn each_name_is_listed_once() {
        let mut seen = BTreeSet::new();
        for (driver, entry) in entries() {
            assert!(seen.insert((driver, entry.raw)), "{driver} {}", entry.raw);
            assert_eq!(lookup(Some(driver), entry.raw), Some(entry));
        }
        assert_eq!(lookup(Some(Driver::Mlx5), "sent_pkts"), None);
        assert_eq!(lookup(None, "out_of_sequence"), None);
    }

    #[test]
    fn samples_of_a_family_have_the_same_labels() {
        for family in Family::ALL {
            let names: BTreeSet<Vec<_>> = entries()
                .filter_map(|(_, entry)| entry.meaning)
                .filter(|meaning| meaning.family == *family)
                .map(|meaning| meaning.labels.iter().map(|(name, _)| *name).collect())
                .collect();
            assert_eq!(names.len(), 1, "{family:?}: {names:?}");
        }
    }

    /// What soft-RoCE on Linux 7.3 answered (`rdma/recorded`).
    #[test]
    fn the_counters_of_soft_roce_are_known() {
        for (raw, family) in [
            ("sent_pkts", Some(Family::Packets)),
            ("rcvd_bytes", Some(Family::Bytes)),
            ("out_of_seq_request", Some(Family::OutOfSequence)),
            ("ack_deferred", None),
        ] {
            let found = lookup(Some(Driver::Rxe), raw).and_then(|entry| entry.meaning);
            assert_eq!(found.map(|meaning| meaning.family), family, "{raw}");
        }
    }
}
