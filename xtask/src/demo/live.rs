//! The live table: what each endpoint sends and receives, twice a second.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{
    agent::Agent,
    interrupt,
    model::{Count, EndpointStats, Stats},
    screen,
};

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(500);
/// Where there is no terminal, one table in so many looks is printed.
const SPARE: u32 = 4;

/// Shows the table for `time`; on a terminal always in the same place.
///
/// # Errors
/// The agent does not answer, or somebody asked to stop.
pub(super) fn watch(agent: &Agent, time: Duration) -> Result<()> {
    let mut before: Stats = agent.json("stats")?;
    let end = Instant::now() + time;
    let mut drawn = 0;
    for look in 1.. {
        interrupt::sleep(PERIOD)?;
        let now: Stats = agent.json("stats")?;
        let lines = table(&before, &now);
        if screen::is_terminal() {
            if drawn > 0 {
                // Back to the table's first line; each line is cleared as it is drawn.
                screen::raw(&format!("\x1b[{drawn}A"));
            }
            drawn = lines.len();
            for line in lines {
                screen::raw(&format!("{}\x1b[K\n", screen::fit(&line)));
            }
        } else if look % SPARE == 0 {
            screen::line(&(lines.join("\n") + "\n"));
        }
        if Instant::now() >= end {
            return Ok(());
        }
        before = now;
    }
    Ok(())
}

fn table(before: &Stats, now: &Stats) -> Vec<String> {
    let seconds = now.time_ns.saturating_sub(before.time_ns) as f64 / 1e9;
    let row = |label: &str, rates: [&str; 4], counts: [&str; 4]| {
        let [a, b, c, d] = rates;
        let [e, f, g, h] = counts;
        format!("     {label:<10} {a:>8} {b:>7}  {c:>8} {d:>7}  {e:>5} {f:>9} {g:>5} {h:>5}")
    };
    let mut lines = vec![
        format!(
            "     {:<10} {:>16}  {:>16}",
            "", "to the pod", "from the pod"
        ),
        row(
            "",
            ["pkt/s", "Mb/s", "pkt/s", "Mb/s"],
            ["drops", "RoCE", "CE", "CNP"],
        ),
    ];
    for endpoint in &now.endpoints {
        let earlier = before.endpoints.iter().find(|old| old.id == endpoint.id);
        let rate = |of: fn(&EndpointStats) -> Count| {
            let old = earlier.map(of).unwrap_or_default();
            rate(of(endpoint), old, seconds)
        };
        let [to, to_bits] = rate(|stats| stats.ingress);
        let [from, from_bits] = rate(|stats| stats.egress);
        let of_kind = |kind| screen::grouped(endpoint.sum_roce(|roce| roce.kind == kind));
        lines.push(row(
            &endpoint.label(),
            [&to, &to_bits, &from, &from_bits],
            [
                &screen::grouped(endpoint.dropped()),
                &screen::grouped(endpoint.roce_packets()),
                &of_kind("ce_marked"),
                &of_kind("cnp"),
            ],
        ));
    }
    for uplink in &now.uplinks {
        let counter = |name| screen::grouped(uplink.counter(name).packets);
        lines.push(format!(
            "     {:<10} {:>8} packets in, {} turned around to pods, {} to the node",
            uplink.interface,
            counter("received"),
            counter("node_to_pod"),
            counter("pod_to_node"),
        ));
    }
    lines
}

/// Packets a second and millions of bits a second.
fn rate(now: Count, before: Count, seconds: f64) -> [String; 2] {
    let per_second = |amount: u64| {
        if seconds > 0.0 {
            amount as f64 / seconds
        } else {
            0.0
        }
    };
    let packets = per_second(now.packets.saturating_sub(before.packets));
    let bits = per_second(now.bytes.saturating_sub(before.bytes)) * 8.0;
    [
        screen::grouped(packets.round() as u64),
        format!("{:.1}", bits / 1e6),
    ]
}
