//! What goes wrong on a network, and how it shows.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};

use super::STEPS;
use crate::demo::{
    Stage,
    agent::Follower,
    interrupt,
    model::{Block, EndpointStats, Stats},
    screen::{self, Style, paint},
    topology,
    traffic::{Conversation, Frame, Ledger, Wire, ping},
};

/// Events that must show up: what each of them is about, as `sluice events` words it.
const EVENTS: [&str; 9] = [
    "egress drop ipv4_malformed",
    "egress drop ipv6_truncated",
    "egress drop transport_malformed",
    "egress drop vlan_too_deep",
    "demo/blue ingress drop ipv4_malformed",
    "roce gap",
    "roce nak_sequence",
    "roce rnr_nak",
    "roce nak_remote_access",
];

/// Makes trouble, and holds every counter of it against what was done.
pub(in crate::demo) fn trouble(stage: &Stage, mut ledger: Ledger) -> Result<()> {
    let Stage { agent, topology } = stage;
    let (red, blue) = (&topology.red, &topology.blue);
    screen::title(
        7,
        STEPS,
        "Trouble: loss, congestion, refusals, malformed frames, an unwanted peer",
    );

    let red_wire = Wire::open(&red.namespace, red.interface)?;
    let blue_wire = Wire::open(&blue.namespace, blue.interface)?;
    let fabric_wire = Wire::open(&topology.fabric, "eth0")?;
    let mut events = agent.follow_events()?;
    let mut broken = Broken {
        red: &red_wire,
        to: blue_wire.mac(),
        sent: [0; Frame::ALL.len()],
    };
    // Once the first event arrives, whoever follows them hears all.
    interrupt::wait_for("the first event", || {
        if events.text()?.is_empty() {
            broken.send(Frame::Ipv4Header)?;
            interrupt::sleep(Duration::from_millis(100))?;
            return Ok(None);
        }
        Ok(Some(()))
    })?;
    screen::command("sluice events", None);
    for frame in Frame::ALL {
        broken.send(frame)?;
        // An endpoint may cause ten events a second.
        interrupt::sleep(Duration::from_millis(100))?;
    }
    for _ in 0..2 {
        let dropped = fabric_wire.send(blue_wire.mac(), Frame::Ipv4Header)?;
        ensure!(!dropped, "the kernel did not take a frame of the fabric");
    }
    let mut roce = Conversation::open(red, blue, 0x21)?;
    roce.loss(3)?;
    roce.congestion(5, 2)?;
    roce.refusals()?;
    ledger.merge(roce.ledger());
    show_events(&mut events)?;

    let stats: Stats = agent.json("stats")?;
    let red_stats = stats.pod(red.name).context("no counters of pod red")?;
    let blue_stats = stats.pod(blue.name).context("no counters of pod blue")?;
    hold_frames(&broken, red_stats, blue_stats)?;
    hold_roce(&ledger, red_stats, blue_stats)?;
    block(stage)
}

/// Sends malformed frames and knows how many.
struct Broken<'a> {
    red: &'a Wire,
    to: [u8; 6],
    sent: [u64; Frame::ALL.len()],
}

impl Broken<'_> {
    fn send(&mut self, frame: Frame) -> Result<()> {
        let dropped = self.red.send(self.to, frame)?;
        ensure!(dropped, "a frame passed that is {}", frame.reason());
        self.sent[frame as usize] += 1;
        Ok(())
    }
}

fn show_events(events: &mut Follower) -> Result<()> {
    let missing = |text: &str| EVENTS.into_iter().find(|event| !text.contains(event));
    let text = interrupt::wait_for("the events", || {
        let text = events.text()?;
        Ok(missing(&text).is_none().then_some(text))
    });
    let Ok(text) = text else {
        interrupt::check()?;
        let text = events.text()?;
        bail!(
            "no event '{}' among:\n{text}",
            missing(&text).unwrap_or("?")
        );
    };
    screen::output(&text, 12);
    screen::good(&format!(
        "all {} sorts of trouble were reported",
        EVENTS.len()
    ));
    Ok(())
}

/// Malformed frames: dropped, each under its reason.
fn hold_frames(broken: &Broken<'_>, red: &EndpointStats, blue: &EndpointStats) -> Result<()> {
    for (frame, sent) in Frame::ALL.into_iter().zip(broken.sent) {
        let counted = red.dropped_for("egress", frame.reason());
        ensure!(
            counted == sent,
            "red sent {sent} frames that are {}, {counted} were counted",
            frame.reason()
        );
    }
    let counted = blue.dropped_for("ingress", Frame::Ipv4Header.reason());
    ensure!(
        counted == 2,
        "blue was sent 2 malformed frames, {counted} were counted"
    );
    let sent: u64 = broken.sent.iter().sum();
    ensure!(
        red.dropped() == sent && blue.dropped() == 2,
        "more was dropped than was malformed: {} at red, {} at blue",
        red.dropped(),
        blue.dropped()
    );
    screen::good(&format!(
        "{sent} malformed frames from red and 2 to blue: each dropped, counted under its reason"
    ));
    Ok(())
}

/// RoCE: what was sent, and what was counted at both ends of both ways.
fn hold_roce(ledger: &Ledger, red: &EndpointStats, blue: &EndpointStats) -> Result<()> {
    screen::line("");
    let heading = format!(
        "     {:<18} {:>9} {:>8} {:>8}  {:>9} {:>8} {:>8}",
        "RoCE, both steps", "red sent", "at red", "at blue", "blue sent", "at blue", "at red"
    );
    screen::line(&paint(Style::Bold, &heading));
    let mut wrong = Vec::new();
    for (kind, there, back) in ledger.rows() {
        let there = [there, red.roce("egress", kind), blue.roce("ingress", kind)];
        let back = [back, blue.roce("egress", kind), red.roce("ingress", kind)];
        let [a, b, c] = there.map(number);
        let [d, e, f] = back.map(number);
        screen::line(&format!(
            "     {kind:<18} {a:>9} {b:>8} {c:>8}  {d:>9} {e:>8} {f:>8}"
        ));
        if [there, back]
            .iter()
            .any(|[sent, near, far]| sent != near || sent != far)
        {
            wrong.push(kind);
        }
    }
    let known = |kind: &str| ledger.rows().any(|(row, ..)| row == kind);
    for endpoint in [red, blue] {
        let unknown = endpoint.roce.iter().find(|roce| !known(&roce.kind));
        if let Some(unknown) = unknown {
            bail!(
                "{} counted {}, which nobody sent",
                endpoint.label(),
                unknown.kind
            );
        }
    }
    ensure!(
        wrong.is_empty(),
        "counted otherwise than sent: {}",
        wrong.join(", ")
    );
    screen::good("every RoCE counter equals what was sent, at both ends");
    Ok(())
}

/// Nothing is shown as a dash, so that the numbers stand out.
fn number(count: u64) -> String {
    if count == 0 {
        "-".into()
    } else {
        screen::grouped(count)
    }
}

/// The fabric has an address that is not wanted.
fn block(stage: &Stage) -> Result<()> {
    const PINGS: u64 = 3;
    let Stage { agent, topology } = stage;
    let intruder = IpAddr::from(topology::INTRUDER_V4);
    let to_red = || {
        ping(
            &topology.fabric,
            Some(intruder),
            topology.red.v4.into(),
            PINGS,
        )
    };
    screen::line("");
    let before = to_red()?;
    ensure!(
        before.received == PINGS,
        "the peer at {intruder} does not reach red"
    );
    agent.show(&format!("block add {intruder}/32"))?;
    let after = to_red()?;
    ensure!(
        after.received == 0,
        "{intruder} is blocked and still reaches red"
    );
    screen::output(&agent.show("block list")?, 4);
    let blocks: Vec<Block> = agent.json("block list")?;
    let stopped = blocks
        .iter()
        .find(|block| block.cidr == format!("{intruder}/32"));
    let stopped = stopped.context("the block is not listed")?.count.packets;
    ensure!(
        stopped == after.sent,
        "{} pings were sent, {stopped} packets stopped",
        after.sent
    );
    agent.show(&format!("block del {intruder}/32"))?;
    let lifted = to_red()?;
    ensure!(
        lifted.received == PINGS,
        "the block of {intruder} is lifted and red still out of reach"
    );
    screen::good(&format!(
        "{intruder} -> red: {PINGS} of {PINGS} answered before, none while blocked, {PINGS} after; {stopped} stopped"
    ));
    Ok(())
}
