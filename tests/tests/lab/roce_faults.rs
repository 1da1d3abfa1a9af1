//! What goes wrong on the wire between two pods, and which counters it moves: a switch between their
//! uplinks loses, doubles, reorders or marks packets, or the receiver is slow. Four readers look at
//! each end.
//!
//! Every equation is exact but where it says so. How often RoCE's own timers resend is the emulated machine's affair: only
//! that all readers see the same resending counts.

use anyhow::{Context as _, Result, ensure};

use crate::readers::{Lab, Outcome, readers_agree};

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

/// Packets of 2048-byte messages at RoCE's MTU of 1024 bytes, each sent once.
fn first_time(outcome: &Outcome) -> u64 {
    2 * outcome.messages
}

fn nothing_wrong(lab: &Lab) -> Result<()> {
    for (tool, kind) in [("ib_write_bw", "write"), ("ib_send_bw", "send")] {
        let outcome = lab.run(&format!("{tool} {PATIENT}"))?;
        readers_agree(&outcome)?;
        let Outcome { server, client, .. } = &outcome;
        ensure!(
            client.wire("egress", kind) == first_time(&outcome),
            "{outcome:?}"
        );
        ensure!(
            server.wire("ingress", kind) == first_time(&outcome),
            "{outcome:?}"
        );
        for (name, end) in [("server", server), ("client", client)] {
            moved(name, &end.marks(), &[], &[])?;
            moved(name, &end.trouble(), &[], &[])?;
        }
    }
    Ok(())
}

/// Each 29th request is lost behind the client's hook.
fn loss(lab: &Lab) -> Result<()> {
    lab.at_switch(&format!("tc qdisc add dev {PORT} clsact"))?;
    lab.at_switch(&format!(
        "tc filter add dev {PORT} egress protocol ip u32 match ip protocol 17 0xff \
         match ip dport 4791 0xffff action pass random determ drop 29"
    ))?;
    let outcome = lab.run(&format!("ib_write_bw {IMPATIENT}"))?;
    let shown = lab.at_switch(&format!("tc -s filter show dev {PORT} egress"))?;
    lab.at_switch(&format!("tc qdisc del dev {PORT} clsact"))?;
    let (_, rest) = shown
        .split_once("(dropped ")
        .with_context(|| shown.clone())?;
    let (dropped, _) = rest.split_once(',').with_context(|| shown.clone())?;
    let dropped: u64 = dropped.parse()?;

    readers_agree(&outcome)?;
    let Outcome { server, client, .. } = &outcome;
    let (sent, received) = (
        client.wire("egress", "write"),
        server.wire("ingress", "write"),
    );
    ensure!(
        dropped > 0 && sent - received == dropped,
        "{dropped}: {outcome:?}"
    );
    let resent = client.wire("egress", "duplicate");
    ensure!(sent - resent == first_time(&outcome), "{outcome:?}");
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
    lab.at_switch(&format!("tc qdisc add dev {PORT} root netem duplicate 20%"))?;
    let outcome = lab.run(&format!("ib_write_bw {PATIENT}"))?;
    lab.at_switch(&format!("tc qdisc del dev {PORT} root"))?;
    readers_agree(&outcome)?;
    let Outcome { server, client, .. } = &outcome;
    let (sent, received) = (
        client.wire("egress", "write"),
        server.wire("ingress", "write"),
    );
    ensure!(sent == first_time(&outcome), "{outcome:?}");
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
    lab.at_switch(&format!(
        "tc qdisc add dev {PORT} root netem delay 20ms reorder 10%"
    ))?;
    let outcome = lab.run(&format!("ib_write_bw {IMPATIENT}"))?;
    lab.at_switch(&format!("tc qdisc del dev {PORT} root"))?;
    readers_agree(&outcome)?;
    let Outcome { server, client, .. } = &outcome;
    let (sent, received) = (
        client.wire("egress", "write"),
        server.wire("ingress", "write"),
    );
    ensure!(sent == received, "{outcome:?}");
    let resent = client.wire("egress", "duplicate");
    ensure!(sent - resent == first_time(&outcome), "{outcome:?}");
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
    let rules = format!(
        "table netdev congested {{\nchain out {{\n\
         type filter hook egress device {PORT} priority 0\n\
         udp dport 4791 ip ecn set ce\n}}\n}}"
    );
    lab.switch.run("nft", &[&rules])?;
    let outcome = lab.run(&format!("ib_write_bw {PATIENT}"))?;
    lab.at_switch("nft delete table netdev congested")?;
    readers_agree(&outcome)?;
    let Outcome { server, client, .. } = &outcome;
    ensure!(
        server.wire("ingress", "ce_marked") == first_time(&outcome),
        "{outcome:?}"
    );
    moved("server", &server.marks(), &["ingress ce_marked"], &[])?;
    moved("client", &client.marks(), &[], &[])?;
    moved("server's device", &server.trouble(), &[], &[])?;
    moved("client's device", &client.trouble(), &[], &[])
}

/// The receiver has room for one message at a time.
fn slow_receiver(lab: &Lab) -> Result<()> {
    let outcome = lab.run(&format!("ib_send_bw -r 1 {PATIENT}"))?;
    readers_agree(&outcome)?;
    let Outcome { server, client, .. } = &outcome;
    let refused = server.wire("egress", "rnr_nak");
    let all = [
        refused,
        client.wire("ingress", "rnr_nak"),
        server.hw("send_rnr_err")?,
        client.hw("rcvd_rnr_err")?,
    ];
    ensure!(refused > 0 && all == [refused; 4], "{all:?}: {outcome:?}");
    let (sent, received) = (
        client.wire("egress", "send"),
        server.wire("ingress", "send"),
    );
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
