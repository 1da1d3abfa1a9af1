//! `sluice bpf`.

use crate::api::types::{MapStatus, Status};

/// What each map shows.
fn meaning(map: &str) -> Option<&'static str> {
    Some(match map {
        "pipeline" => "the shared programs that every endpoint runs",
        "endpoints" => "configuration by endpoint id",
        "ep_stats" => "packets and bytes: index 2 x id is ingress, 2 x id + 1 egress",
        "drops" => "drops by endpoint, direction and reason",
        "roce_stats" => "RoCE by endpoint, direction, transport and kind",
        "roce_flows" => "RoCE by destination queue pair, with sequence",
        "roce_requests" => "requests whose answer is being timed, by a hash of the connection",
        "events" => "the way of events to the agent; `sluice events` shows them",
        "event_tokens" => "by endpoint id, in billionths: events it may still cause",
        "faults" => "what the dataplane itself could not do",
        "uplinks" => "the registered NICs",
        "uplink_stats" => "their counters",
        "local_macs" => "MAC addresses of local pods, for host reach",
        "local_addrs" => "addresses of the node and local pods, for host reach",
        "block_list" => "blocked prefixes with what they stopped",
        "identity" => "peers' addresses by the identity that policies know them by",
        "identity_cidr" => "likewise prefixes, for addresses that `identity` does not have",
        "policy" => "policies, each a map: slot 2 x id is ingress, 2 x id + 1 egress",
        "rule_hits" => "packets that opened a connection, by rule of a policy",
        "flows" => "connections of isolated endpoints, answered ones",
        "flows_new" => "connections that nobody has answered yet",
        "flow_credit" => {
            "by endpoint id, in billionths: new connections that may still wait in flows"
        }
        "flow_tokens" => "by endpoint id, in billionths: connections it may still open",
        "flow_stats" => "connections remembered, answered, judged again, refused",
        "fragments" => "IP packets in pieces whose first piece passed",
        "would_drop" => "what audit mode let pass, by endpoint, direction and reason",
        "carried" => "records of an upgrade that are added up already",
        _ => return None,
    })
}

/// The command that shows a map.
fn command(map: &MapStatus) -> &'static str {
    match map.kind.as_str() {
        // Reading it would take events away from the agent; the kernel lets nobody list it.
        "ringbuf" => "show",
        _ => "dump",
    }
}

/// Commands to copy, each under a line that says what it shows.
pub(super) fn commands(status: &Status) -> String {
    let mut text = String::new();
    for map in &status.maps {
        let meaning = meaning(&map.name).unwrap_or("a map of another version of Sluice");
        text.push_str(&format!(
            "# {meaning}\nbpftool map {} pinned {}\n\n",
            command(map),
            status.pins.join(&map.name).display()
        ));
    }
    text.push_str(
        "# the loaded programs, with run counts after `sysctl kernel.bpf_stats_enabled=1`\n\
         bpftool prog show name pipeline_ingress\n\
         bpftool prog show name pipeline_egress\n\n\
         # what the verifier accepted, with source lines\n\
         bpftool prog dump xlated name pipeline_ingress linum\n",
    );
    text
}
