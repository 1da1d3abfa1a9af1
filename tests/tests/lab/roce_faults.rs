//! What goes wrong on the wire between two pods, and which counters it moves: a switch between their
//! uplinks loses, doubles, reorders or marks packets, or the receiver is slow. Four readers look at
//! each end.
//!
//! Every equation is exact but where it says so. How often RoCE's own timers resend is the emulated machine's affair: only
//! that all readers see the same resending counts.

use anyhow::{Context as _, Result, ensure};

use crate::readers::{Lab, Outcome};

/// The switch's port to the server: what happens there happens to requests, not to answers.
const PORT: &str = "sw0";
/// No timer of the sender runs out on a busy machine: 4.096 us * 2^19 are two seconds.
const PATIENT: &str = "-u 19";
/// Where requests get lost, only the timer may help: a quarter of a second. A receiver that has sent
/// one NAK sends no other before it gets what it misses. Few messages under way, so that few are sent
/// again.
const IMPATIENT: &str = "-u 16 -t 8";

/// Counters that may have moved, and no others; of `moved` each must have.
fn moved(name: &str, found: &[impl AsRef<str>], moved: &[&str], may: &[&str]) -> Result<()> {
    let found: Vec<_> = found.iter().map(AsRef::as_ref).collect();
    for one in moved {
        ensure!(
            found.contains(one),
            "{name}: {one} has not moved: {found:?}"
        );
    }
    for one in &found {
        ensure!(
            moved.contains(one) || may.contains(one),
            "{name}: {one} has moved"
        );
    }
    Ok(())
}

/// A transfer while the switch does what these commands have it do, until others undo it; what those
/// print.
fn transfer(lab: &Lab, tool: &str, set: &[&str], unset: &[&str]) -> Result<(Outcome, String)> {
    for command in set {
        lab.at_switch(command)?;
    }
    let outcome = lab.run(tool)?;
    let printed: Result<String> = unset.iter().map(|command| lab.at_switch(command)).collect();
    Ok((outcome, printed?))
}

/// A transfer while netem does this to each request.
fn emulated(lab: &Lab, tool: &str, what: &str) -> Result<Outcome> {
    let set = format!("tc qdisc add dev {PORT} root netem {what}");
    let unset = format!("tc qdisc del dev {PORT} root");
    Ok(transfer(lab, tool, &[&set], &[&unset])?.0)
}

fn nothing_wrong(lab: &Lab) -> Result<()> {
    for (tool, kind) in [("ib_write_bw", "write"), ("ib_send_bw", "send")] {
        let outcome = lab.run(&format!("{tool} {PATIENT}"))?;
        let Outcome { server, client, .. } = &outcome;
        let sent = outcome.first_time();
        ensure!(outcome.requests(kind) == (sent, sent), "{outcome:?}");
        for (name, end) in [("server", server), ("client", client)] {
            moved(name, &end.marks(), &[], &[])?;
            moved(name, &end.trouble(), &[], &[])?;
        }
    }
    Ok(())
}

/// Each 29th request is lost behind the client's hook.
fn loss(lab: &Lab) -> Result<()> {
    let drop = format!(
        "tc filter add dev {PORT} egress protocol ip u32 match ip protocol 17 0xff \
         match ip dport 4791 0xffff action pass random determ drop 29"
    );
    let (outcome, shown) = transfer(
        lab,
        &format!("ib_write_bw {IMPATIENT}"),
        &[&format!("tc qdisc add dev {PORT} clsact"), &drop],
        &[
            &format!("tc -s filter show dev {PORT} egress"),
            &format!("tc qdisc del dev {PORT} clsact"),
        ],
    )?;
    let (_, rest) = shown
        .split_once("(dropped ")
        .with_context(|| shown.clone())?;
    let (dropped, _) = rest.split_once(',').with_context(|| shown.clone())?;
    let dropped: u64 = dropped.parse()?;
    let Outcome { server, client, .. } = &outcome;
    let (sent, received) = outcome.requests("write");
    ensure!(
        dropped > 0 && sent - received == dropped,
        "{dropped}: {outcome:?}"
    );
    let resent = client.wire("egress", "duplicate");
    ensure!(sent - resent == outcome.first_time(), "{outcome:?}");
    sequence_errors(&outcome)?;
    moved(
        "server",
        &server.marks(),
        &[
            "ingress gap",
            "ingress missing",
            "ingress duplicate",
            "egress nak_sequence",
        ],
        &[],
    )?;
    moved(
        "client",
        &client.marks(),
        &["egress duplicate", "ingress nak_sequence"],
        &[],
    )
}

/// The responder's NAKs, as four readers have them. At the requester soft-RoCE's `rcvd_seq_err`
/// leaves out NAKs that acknowledge nothing new, so it may be less.
fn sequence_errors(outcome: &Outcome) -> Result<()> {
    let Outcome { server, client, .. } = outcome;
    let naks = server.wire("egress", "nak_sequence");
    let all = [
        client.wire("ingress", "nak_sequence"),
        server.hw("out_of_seq_request")?,
    ];
    ensure!(all == [naks; 2], "{naks}, {all:?}: {outcome:?}");
    ensure!(client.hw("rcvd_seq_err")? <= naks, "{outcome:?}");
    moved(
        "server's device",
        &server.trouble(),
        &["out_of_seq_request"],
        &["duplicate_request"],
    )?;
    moved(
        "client's device",
        &client.trouble(),
        &["completer_retry_err"],
        &["rcvd_seq_err"],
    )
}

/// A fifth of the requests comes twice.
fn duplication(lab: &Lab) -> Result<()> {
    let outcome = emulated(lab, &format!("ib_write_bw {PATIENT}"), "duplicate 20%")?;
    let Outcome { server, client, .. } = &outcome;
    let (sent, received) = outcome.requests("write");
    ensure!(sent == outcome.first_time(), "{outcome:?}");
    let doubled = received - sent;
    let all = [
        server.wire("ingress", "duplicate"),
        server.hw("duplicate_request")?,
    ];
    ensure!(doubled > 0 && all == [doubled; 2], "{doubled}: {outcome:?}");
    moved("server", &server.marks(), &["ingress duplicate"], &[])?;
    moved("client", &client.marks(), &[], &[])?;
    moved(
        "server's device",
        &server.trouble(),
        &["duplicate_request"],
        &[],
    )?;
    moved("client's device", &client.trouble(), &[], &[])
}

/// One request in ten overtakes others.
fn reordering(lab: &Lab) -> Result<()> {
    let tool = format!("ib_write_bw {IMPATIENT}");
    let outcome = emulated(lab, &tool, "delay 20ms reorder 10%")?;
    let Outcome { server, client, .. } = &outcome;
    let (sent, received) = outcome.requests("write");
    ensure!(sent == received, "{outcome:?}");
    let resent = client.wire("egress", "duplicate");
    ensure!(sent - resent == outcome.first_time(), "{outcome:?}");
    sequence_errors(&outcome)?;
    moved(
        "server",
        &server.marks(),
        &[
            "ingress gap",
            "ingress missing",
            "ingress duplicate",
            "egress nak_sequence",
        ],
        &[],
    )?;
    moved(
        "client",
        &client.marks(),
        &["egress duplicate", "ingress nak_sequence"],
        &[],
    )
}

/// The switch marks every request: congestion experienced. Soft-RoCE takes no notice of it.
fn congestion(lab: &Lab) -> Result<()> {
    let chain = format!("{{ type filter hook egress device {PORT} priority 0; }}");
    let (outcome, _) = transfer(
        lab,
        &format!("ib_write_bw {PATIENT}"),
        &[
            "nft add table netdev congested",
            &format!("nft add chain netdev congested out {chain}"),
            "nft add rule netdev congested out udp dport 4791 ip ecn set ce",
        ],
        &["nft delete table netdev congested"],
    )?;
    let Outcome { server, client, .. } = &outcome;
    ensure!(
        server.wire("ingress", "ce_marked") == outcome.first_time(),
        "{outcome:?}"
    );
    moved("server", &server.marks(), &["ingress ce_marked"], &[])?;
    moved("client", &client.marks(), &[], &[])?;
    moved("server's device", &server.trouble(), &[], &[])?;
    moved("client's device", &client.trouble(), &[], &[])
}

/// The receiver has room for one message at a time. At the requester soft-RoCE's `rcvd_rnr_err`
/// leaves out a NAK of a packet that has been answered by then, so it may be less.
fn slow_receiver(lab: &Lab) -> Result<()> {
    let outcome = lab.run(&format!("ib_send_bw -r 1 {PATIENT}"))?;
    let Outcome { server, client, .. } = &outcome;
    let refused = server.wire("egress", "rnr_nak");
    let all = [
        refused,
        client.wire("ingress", "rnr_nak"),
        server.hw("send_rnr_err")?,
    ];
    ensure!(refused > 0 && all == [refused; 3], "{all:?}: {outcome:?}");
    let heeded = client.hw("rcvd_rnr_err")?;
    ensure!(
        heeded > 0 && heeded <= refused,
        "{heeded} of {refused}: {outcome:?}"
    );
    let (sent, received) = outcome.requests("send");
    ensure!(sent == received, "{outcome:?}");
    moved(
        "server",
        &server.marks(),
        &["egress rnr_nak"],
        &["ingress duplicate", "egress nak_sequence"],
    )?;
    moved(
        "client",
        &client.marks(),
        &["ingress rnr_nak"],
        &["egress duplicate", "ingress nak_sequence"],
    )
}

type Fault = fn(&Lab) -> Result<()>;

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn each_fault_moves_the_counters_that_it_should_and_no_other() -> Result<()> {
    let faults: [(&str, Fault); 6] = [
        ("nothing wrong", nothing_wrong),
        ("loss", loss),
        ("duplication", duplication),
        ("reordering", reordering),
        ("congestion", congestion),
        ("slow receiver", slow_receiver),
    ];
    let mut lab = Lab::new()?;
    let mut failures = Vec::new();
    for (name, fault) in faults {
        if let Err(error) = fault(&lab) {
            failures.push(format!("{name}: {error:#}"));
            // Nothing of it may show in the next one.
            drop(lab);
            lab = Lab::new()?;
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}
