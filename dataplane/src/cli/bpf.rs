//! `sluice bpf`.

use crate::api::types::Status;

/// What each map shows, for those worth a look.
fn meaning(map: &str) -> &'static str {
    match map {
        "pipeline" => "the shared programs that every endpoint runs",
        "endpoints" => "configuration by endpoint id",
        "ep_stats" => "packets and bytes: index 2 x id is ingress, 2 x id + 1 egress",
        "drops" => "drops by endpoint, direction and reason",
        "roce_stats" => "RoCE by endpoint, direction, transport and kind",
        "roce_flows" => "RoCE by destination queue pair, with sequence",
        "faults" => "what the dataplane itself could not do",
        "uplinks" => "the registered NICs",
        "uplink_stats" => "their counters",
        "local_macs" => "MAC addresses of local pods, for host reach",
        "local_addrs" => "addresses of the node and local pods, for host reach",
        "block_list" => "blocked prefixes with what they stopped",
        _ => "",
    }
}

/// Commands to copy, each under a line that says what it shows.
pub(super) fn commands(status: &Status) -> String {
    let mut text = String::new();
    for map in &status.maps {
        let meaning = meaning(&map.name);
        if !meaning.is_empty() {
            let pin = status.pins.join(&map.name);
            text.push_str(&format!(
                "# {meaning}\nbpftool map dump pinned {}\n\n",
                pin.display()
            ));
        }
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
