//! `sluice status`.

use std::fmt::Write as _;

use super::{
    endpoints::mechanism,
    table::{Table, bytes, duration},
    uplink,
};
use crate::api::types::{RoceEndpoints, Status};

/// The agent, its maps, its uplinks, and what is wrong.
pub(super) fn table(status: &Status) -> String {
    let mut text = String::new();
    let facts = [
        (
            "agent",
            format!(
                "{} (pid {}), up {}",
                status.version,
                status.pid,
                duration(status.uptime_seconds)
            ),
        ),
        ("kernel", format!("{}, {} CPUs", status.kernel, status.cpus)),
        ("attaches with", mechanism(status.mechanism).to_owned()),
        (
            "endpoints",
            format!("{} of {}", status.endpoints, status.max_endpoints),
        ),
        (
            "pins",
            format!("{} (layout {})", status.pins.display(), status.layout),
        ),
        ("pipeline", status.pipeline.clone()),
        (
            "map memory",
            format!("{} when full", bytes(status.memory_bytes)),
        ),
    ];
    let roce = roce(&status.roce);
    for (name, value) in facts.into_iter().chain([("RoCE", roce)]) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<14} {value}");
    }
    if !status.uplinks.is_empty() {
        text.push('\n');
        text.push_str(&uplink::table(&status.uplinks));
    }
    let mut maps = Table::new(&["MAP", "KIND", "#ENTRIES", "#MEMORY"]);
    for map in &status.maps {
        maps.row(vec![
            map.name.clone(),
            map.kind.clone(),
            map.max_entries.to_string(),
            bytes(map.memory_bytes),
        ]);
    }
    text.push('\n');
    text.push_str(&maps.text());
    text.push('\n');
    if status.problems.is_empty() {
        text.push_str("no problems\n");
    }
    for problem in &status.problems {
        let _ = writeln!(text, "PROBLEM: {problem}");
    }
    text
}

/// Who sees the endpoints' RoCE; those that eBPF does not see by their ids.
fn roce(roce: &RoceEndpoints) -> String {
    let mut parts = vec![format!("{} endpoints seen on the wire", roce.wire)];
    for (ids, what) in [
        (&roce.offloaded, "offloaded (hardware counters only)"),
        (&roce.unknown, "not known"),
    ] {
        if !ids.is_empty() {
            let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
            parts.push(format!("{what}: {}", ids.join(" ")));
        }
    }
    parts.push(format!("{} without RDMA", roce.none));
    parts.join("; ")
}
