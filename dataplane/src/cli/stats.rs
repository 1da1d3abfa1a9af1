//! `sluice stats`.

use super::table::{Table, bytes, optional};
use crate::api::types::{Count, DropCount, RoceCount, Stats};

/// Endpoints, uplinks, drops, RoCE and faults; what did not occur is left out.
pub(super) fn table(stats: &Stats) -> String {
    let mut parts = vec![endpoints(stats)];
    if !stats.uplinks.is_empty() {
        parts.push(uplinks(stats));
    }
    parts.extend(drops(stats));
    parts.extend(roce(stats));
    parts.extend(faults(stats));
    parts.join("\n")
}

fn endpoints(stats: &Stats) -> String {
    let mut table = Table::new(&[
        "#ID",
        "POD",
        "NETNS",
        "INTERFACE",
        "#IN-PACKETS",
        "#IN-BYTES",
        "#OUT-PACKETS",
        "#OUT-BYTES",
        "#DROPS",
        "#ROCE",
    ]);
    for endpoint in &stats.endpoints {
        let drops: u64 = endpoint.drops.iter().map(|drop| drop.count.packets).sum();
        let roce = endpoint.roce.iter().filter(|roce| roce.operation);
        let roce: u64 = roce.map(|roce| roce.count.packets).sum();
        table.row(vec![
            endpoint.id.to_string(),
            optional(&endpoint.pod),
            endpoint.netns.to_string(),
            endpoint.interface.clone(),
            endpoint.ingress.packets.to_string(),
            bytes(endpoint.ingress.bytes),
            endpoint.egress.packets.to_string(),
            bytes(endpoint.egress.bytes),
            drops.to_string(),
            roce.to_string(),
        ]);
    }
    table.text()
}

fn uplinks(stats: &Stats) -> String {
    let mut table = Table::new(&["UPLINK", "COUNTER", "#PACKETS", "#BYTES"]);
    for uplink in &stats.uplinks {
        for (counter, count) in &uplink.counters {
            table.row(vec![
                uplink.interface.clone(),
                counter.clone(),
                count.packets.to_string(),
                bytes(count.bytes),
            ]);
        }
    }
    table.text()
}

/// Names an endpoint or uplink in the tables below.
fn owners<'a, T>(
    stats: &'a Stats,
    endpoint: impl Fn(&'a crate::api::types::EndpointStats) -> &'a [T],
    uplink: impl Fn(&'a crate::api::types::UplinkStats) -> &'a [T],
) -> Vec<(String, &'a T)> {
    let endpoints = stats.endpoints.iter().flat_map(|stats| {
        let name = stats
            .pod
            .as_ref()
            .map_or_else(|| stats.id.to_string(), ToString::to_string);
        endpoint(stats).iter().map(move |item| (name.clone(), item))
    });
    let uplinks = stats.uplinks.iter().flat_map(|stats| {
        let name = &stats.interface;
        uplink(stats).iter().map(move |item| (name.clone(), item))
    });
    endpoints.chain(uplinks).collect()
}

fn drops(stats: &Stats) -> Option<String> {
    let drops: Vec<(String, &DropCount)> =
        owners(stats, |stats| &stats.drops, |stats| &stats.drops);
    let mut table = Table::new(&["DROPPED AT", "DIRECTION", "REASON", "#PACKETS", "#BYTES"]);
    for (owner, drop) in &drops {
        let Count {
            packets,
            bytes: size,
        } = drop.count;
        table.row(vec![
            owner.clone(),
            drop.direction.clone(),
            drop.reason.clone(),
            packets.to_string(),
            bytes(size),
        ]);
    }
    (!drops.is_empty()).then(|| table.text())
}

fn roce(stats: &Stats) -> Option<String> {
    let roce: Vec<(String, &RoceCount)> = owners(stats, |stats| &stats.roce, |stats| &stats.roce);
    let mut table = Table::new(&[
        "ROCE AT",
        "DIRECTION",
        "TRANSPORT",
        "KIND",
        "#PACKETS",
        "#BYTES",
    ]);
    for (owner, roce) in &roce {
        table.row(vec![
            owner.clone(),
            roce.direction.clone(),
            roce.transport.clone(),
            roce.kind.clone(),
            roce.count.packets.to_string(),
            bytes(roce.count.bytes),
        ]);
    }
    (!roce.is_empty()).then(|| table.text())
}

fn faults(stats: &Stats) -> Option<String> {
    let mut table = Table::new(&["FAULT", "#COUNT"]);
    let repairs = ("put_back", stats.repairs);
    let faults = stats
        .faults
        .iter()
        .map(|(name, count)| (name.as_str(), *count));
    let occurred: Vec<_> = faults
        .chain([repairs])
        .filter(|(_, count)| *count > 0)
        .collect();
    for (name, count) in &occurred {
        table.row(vec![(*name).to_owned(), count.to_string()]);
    }
    (!occurred.is_empty()).then(|| table.text())
}
