//! The families of RoCE, for endpoints and for uplinks.

use dataplane_ebpf::roce::Kind;

use super::family::{Families, Family, Labels};
use crate::api::types::{Count, RoceCount};

/// RoCE counted from packets that eBPF saw; counters of the device itself are
/// another source, and the two are never added up.
const WIRE: (&str, &str) = ("source", "wire");

/// Calls back with every RoCE count and the labels of its endpoint or uplink.
pub(super) type EachRoce<'a> = &'a dyn Fn(&mut dyn FnMut(&Labels, &RoceCount));

/// NAK codes, each a value of the label `code`.
const NAKS: [(Kind, &str); 6] = [
    (Kind::NakSequence, "sequence"),
    (Kind::NakInvalidRequest, "invalid_request"),
    (Kind::NakRemoteAccess, "remote_access"),
    (Kind::NakRemoteOperational, "remote_operational"),
    (Kind::NakInvalidRd, "invalid_rd"),
    (Kind::NakReserved, "reserved"),
];

/// Marks other than NAKs: the metric, in packets where the name ends so.
const MARKS: [(Kind, &str, &str); 5] = [
    (
        Kind::CeMarked,
        "ce_marked_packets",
        "RoCE packets that a switch marked with congestion experienced",
    ),
    (
        Kind::RnrNak,
        "rnr_naks",
        "RoCE NAKs of a receiver that was not ready",
    ),
    (
        Kind::Duplicate,
        "duplicate_packets",
        "RoCE requests with a sequence number behind the expected one",
    ),
    (
        Kind::Gap,
        "sequence_gaps",
        "RoCE requests with a sequence number ahead of the expected one",
    ),
    (
        Kind::Missing,
        "missing_packets",
        "RoCE sequence numbers that gaps skipped",
    ),
];

/// `PREFIX_packets_total` and so on.
pub(super) fn encode_roce(families: &mut Families, prefix: &str, each: EachRoce<'_>) {
    let operations = |family: &mut Family<'_>, value: fn(Count) -> u64| {
        each(&mut |labels, roce| {
            if !roce.operation {
                return;
            }
            let extra = [
                ("direction", roce.direction.as_str()),
                ("transport", &roce.transport),
                ("operation", &roce.kind),
                WIRE,
            ];
            family.sample(labels, &extra, value(roce.count));
        });
    };
    families.packets(prefix, "RoCE packets by operation", &|family| {
        operations(family, |count| count.packets);
    });
    families.bytes(prefix, "Bytes of RoCE frames by operation", &|family| {
        operations(family, |count| count.bytes);
    });
    families.counter(
        &format!("{prefix}_naks"),
        "RoCE negative acknowledgements by code",
        &|family| {
            each(&mut |labels, roce| {
                let Some((_, code)) = NAKS.iter().find(|(kind, _)| kind.name() == roce.kind) else {
                    return;
                };
                let extra = [
                    ("direction", roce.direction.as_str()),
                    ("transport", &roce.transport),
                    ("code", code),
                    WIRE,
                ];
                family.sample(labels, &extra, roce.count.packets);
            });
        },
    );
    for (kind, name, help) in MARKS {
        families.counter(&format!("{prefix}_{name}"), help, &|family| {
            each(&mut |labels, roce| {
                if roce.kind != kind.name() {
                    return;
                }
                let extra = [
                    ("direction", roce.direction.as_str()),
                    ("transport", &roce.transport),
                    WIRE,
                ];
                family.sample(labels, &extra, roce.count.packets);
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_metric() {
        for kind in Kind::ALL {
            let metrics = usize::from(kind.is_operation())
                + NAKS.iter().filter(|(nak, _)| nak == kind).count()
                + MARKS.iter().filter(|(mark, ..)| mark == kind).count();
            assert_eq!(metrics, 1, "{kind:?}");
        }
    }
}
