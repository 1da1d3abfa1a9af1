//! The families of uplinks.

use dataplane_ebpf::abi::UplinkCounter;

use super::{
    collector::{attached, mechanism},
    family::{Families, Family, Label, Labels},
    roce::encode_roce,
};
use crate::api::types::{Count, DropCount, Status, UplinkStats, XdpMode};

fn row(interface: &str) -> Labels {
    Labels::new([("uplink", interface)])
}

/// `uplink_...`
pub(super) fn encode_uplinks(families: &mut Families, uplinks: &[UplinkStats], status: &Status) {
    families.info(
        "uplink",
        "An uplink: a NIC of the node that pods' interfaces hang off",
        &|family| {
            for uplink in &status.uplinks {
                let xdp = match uplink.xdp {
                    XdpMode::Native => "native",
                    XdpMode::Generic => "generic",
                };
                let reach = if uplink.host_reach { "on" } else { "off" };
                let extra = [
                    ("mechanism", mechanism(uplink.mechanism)),
                    ("xdp", xdp),
                    ("host_reach", reach),
                ];
                family.sample(&row(&uplink.interface), &extra, 1);
            }
        },
    );
    families.gauge(
        "uplink_attached",
        "Whether the uplink's programs are attached, so that its counters move",
        None,
        &|family| {
            for uplink in &status.uplinks {
                let labels = [("uplink", uplink.interface.as_str())];
                family.value(&labels, attached(&uplink.health));
            }
        },
    );

    let counter = |family: &mut Family<'_>,
                   counter: UplinkCounter,
                   extra: &[Label<'_>],
                   value: fn(&Count) -> u64| {
        for uplink in uplinks {
            if let Some(count) = uplink.counters.get(counter.name()) {
                family.sample(&row(&uplink.interface), extra, value(count));
            }
        }
    };
    type Value = fn(&Count) -> u64;
    let (packets, bytes): (Value, Value) = (|count| count.packets, |count| count.bytes);

    let help = "Frames that the uplink's XDP program saw arrive";
    families.packets("uplink_received", help, &|family| {
        counter(family, UplinkCounter::Received, &[], packets);
    });
    let help = "Bytes of frames that the uplink's XDP program saw arrive";
    families.bytes("uplink_received", help, &|family| {
        counter(family, UplinkCounter::Received, &[], bytes);
    });
    let help = "Frames that arrived and that XDP could not parse; they were passed on";
    families.packets("uplink_malformed", help, &|family| {
        counter(family, UplinkCounter::Malformed, &[], packets);
    });
    let host_reach = |family: &mut Family<'_>, value: Value| {
        for direction in [UplinkCounter::NodeToPod, UplinkCounter::PodToNode] {
            counter(family, direction, &[("direction", direction.name())], value);
        }
    };
    let help = "Frames turned around at the uplink between the node and its pods";
    families.packets("uplink_host_reach", help, &|family| {
        host_reach(family, packets);
    });
    let help = "Bytes of frames turned around at the uplink between the node and its pods";
    families.bytes("uplink_host_reach", help, &|family| {
        host_reach(family, bytes);
    });
    let help = "ARP and neighbour discovery frames copied between the node and its pods";
    families.packets("uplink_neighbor_copied", help, &|family| {
        counter(family, UplinkCounter::NeighborCopied, &[], packets);
    });

    let drops = |family: &mut Family<'_>, value: Value| {
        for uplink in uplinks {
            for DropCount { reason, count, .. } in &uplink.drops {
                let labels = [("uplink", uplink.interface.as_str()), ("reason", reason)];
                family.value(&labels, value(count));
            }
        }
    };
    let help = "Frames dropped at the uplink; reason block_list are the block list's";
    families.packets("uplink_dropped", help, &|family| drops(family, packets));
    let help = "Bytes of frames dropped at the uplink";
    families.bytes("uplink_dropped", help, &|family| drops(family, bytes));
    encode_roce(families, "uplink_roce", &|visit| {
        for uplink in uplinks {
            for roce in &uplink.roce {
                visit(&row(&uplink.interface), roce);
            }
        }
    })
}
