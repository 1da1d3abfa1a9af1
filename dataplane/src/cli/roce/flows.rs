//! `sluice roce flows`.

use std::{cmp::Reverse, io::IsTerminal as _, time::Duration};

use clap::ValueEnum;
use serde::Serialize;

use super::{
    rated::{Rated, rated},
    seconds, table,
};
use crate::{
    api::{client::Client, roce::RoceFlows},
    cli::{Format, Output, print},
};

const HELP: &str = "\
Columns:
  LOCAL       the pod, or the interface and address where no pod is known
  DIR         in: to the pod, out: from it
  PEER        the other side's pod where it is known, else its address
  TO-QP       the queue pair that the packets go to
  OPERATIONS  the commonest two, by packets
  RTT         mean time from a request to its answer, one in 32 timed; of
              requests to a pod: how long the pod takes
  TROUBLE     since the flow began, and a second now (on a narrow terminal one
              of the two): ce: marked by a switch, cnp: told to slow down, nak,
              rnr: receiver not ready, gap: came too early, miss: skipped,
              dup: sent again

RoCE that a NIC handles in hardware passes no program and is not shown.

Examples:
  sluice roce flows --sort duplicates
  sluice roce flows --watch --pod training/
  sluice roce flows --peer 10.57.0.7 -o json";

/// Flows that have been silent for longer are shown on request.
const IDLE_SECONDS: f64 = 60.0;

/// Show who talks to whom, how fast, and what goes wrong.
///
/// Each line is one direction of one queue pair's traffic, as eBPF saw it on
/// the wire. Rates are of the time between two readings.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct Flows {
    /// Seconds between the two readings that rates are made from, 0.1 to 3600
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,
    /// Show the flows again and again; as JSON a line each time
    #[arg(short, long)]
    watch: bool,
    /// What comes first
    #[arg(short, long, value_enum, default_value_t)]
    sort: Sort,
    /// How many to show
    #[arg(short = 'n', long, value_name = "N", default_value = "30")]
    top: usize,
    /// Only flows whose pod or interface contains this
    #[arg(long, value_name = "TEXT")]
    pod: Option<String>,
    /// Only flows whose peer's pod or address contains this
    #[arg(long, value_name = "TEXT")]
    peer: Option<String>,
    /// Also those that uplinks saw arrive, whomever they are for
    #[arg(long)]
    uplinks: bool,
    /// Also those that have been silent for a minute
    #[arg(long)]
    idle: bool,
    #[command(flatten)]
    output: Output,
}

/// What flows are sorted by, the most first; trouble by the interval first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// Bits a second
    #[default]
    Rate,
    /// Packets since the flow began
    Packets,
    /// Packets marked by a switch
    Ce,
    /// Congestion notifications
    Cnp,
    /// Negative acknowledgements
    Nak,
    /// Receivers that were not ready
    Rnr,
    /// Requests that came too early
    Gaps,
    /// Requests sent again
    Duplicates,
    /// Time from request to answer
    Rtt,
}

impl Sort {
    /// By what happened in the interval, then by what happened before.
    fn key(self, rated: &Rated) -> (u64, u64) {
        let (now, all) = (&rated.interval.counts, &rated.flow.counts);
        match self {
            Self::Rate => (now.bytes, all.bytes),
            Self::Packets => (all.packets, 0),
            Self::Ce => (now.ce_marked, all.ce_marked),
            Self::Cnp => (now.cnps(), all.cnps()),
            Self::Nak => (now.naks, all.naks),
            Self::Rnr => (now.rnr_naks, all.rnr_naks),
            Self::Gaps => (now.gaps, all.gaps),
            Self::Duplicates => (now.duplicates, all.duplicates),
            Self::Rtt => {
                let trip = rated.flow.round_trip.unwrap_or_default();
                (trip.mean_ns, trip.samples)
            }
        }
    }
}

/// What `-o json` prints.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    /// How many there is room for.
    limit: u32,
    /// How many there are, shown or not.
    known: usize,
    flows: &'a [Rated],
}

impl Flows {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let mut before = client.roce_flows().await?;
        loop {
            tokio::time::sleep(self.interval).await;
            let after = client.roce_flows().await?;
            self.show(&before, &after)?;
            if !self.watch {
                return Ok(());
            }
            before = after;
        }
    }

    fn show(&self, before: &RoceFlows, after: &RoceFlows) -> anyhow::Result<()> {
        let (known, limit) = (after.flows.len(), after.limit);
        let flows = self.choose(rated(before, after.clone()));
        let shown = &flows[..flows.len().min(self.top)];
        if self.output.output == Format::Json {
            let shown = Shown {
                limit,
                known,
                flows: shown,
            };
            let text = if self.watch {
                serde_json::to_string(&shown)?
            } else {
                serde_json::to_string_pretty(&shown)?
            };
            return print(&(text + "\n"));
        }
        let terminal = std::io::stdout().is_terminal();
        let width = terminal.then(|| ratatui::crossterm::terminal::size().ok());
        let width = width.flatten().map(|(columns, _)| usize::from(columns));
        let mut text = table::table(shown, width);
        if shown.len() < flows.len() {
            let hidden = flows.len() - shown.len();
            text.push_str(&format!("({hidden} more; --top shows them)\n"));
        }
        if known == 0 {
            text = "no RoCE has been seen on the wire; what a NIC handles in hardware passes no \
                    program (see sluice rdma show)\n"
                .into();
        }
        if known as f64 >= f64::from(limit) * 0.95 {
            text.push_str(&format!(
                "(the table of {limit} flows is full: the least recently used have given way)\n"
            ));
        }
        if self.watch && terminal {
            // Home, and clear what is below: a screen that does not flicker.
            text.insert_str(0, "\x1b[H\x1b[J");
        }
        print(&text)
    }

    /// Those to be shown, in order.
    fn choose(&self, flows: Vec<Rated>) -> Vec<Rated> {
        let contains = |text: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| text.contains(wanted))
        };
        let name = |pod: &Option<crate::api::types::PodName>| {
            pod.as_ref().map(ToString::to_string).unwrap_or_default()
        };
        let mut chosen: Vec<_> = flows
            .into_iter()
            .filter(|Rated { flow, .. }| {
                (self.uplinks || flow.seen_at.endpoint.is_some())
                    && (self.idle || flow.idle_seconds < IDLE_SECONDS)
                    && (contains(&name(&flow.pod), &self.pod)
                        || contains(&flow.seen_at.interface, &self.pod))
                    && (contains(&name(&flow.peer_pod), &self.peer)
                        || contains(&flow.peer.to_string(), &self.peer))
            })
            .collect();
        chosen.sort_by(|a, b| {
            let (a_key, b_key) = (Reverse(self.sort.key(a)), Reverse(self.sort.key(b)));
            // The same flows keep their order from one reading to the next.
            (a_key, a.flow.key()).cmp(&(b_key, b.flow.key()))
        });
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::rated::tests::{flow, packets, reading},
        *,
    };

    fn flows() -> Flows {
        Flows {
            interval: Duration::from_secs(1),
            watch: false,
            sort: Sort::Rate,
            top: 30,
            pod: None,
            peer: None,
            uplinks: false,
            idle: false,
            output: Output {
                output: Format::Table,
            },
        }
    }

    fn peers(flows: &Flows, rated: Vec<Rated>) -> Vec<String> {
        let chosen = flows.choose(rated);
        chosen
            .iter()
            .map(|rated| rated.flow.peer.to_string())
            .collect()
    }

    fn three() -> Vec<Rated> {
        let mut slow = flow(2, 17, packets(1000));
        slow.counts.duplicates = 5;
        let mut uplink = flow(4, 17, packets(5000));
        uplink.seen_at.endpoint = None;
        let mut silent = flow(5, 17, packets(10));
        silent.idle_seconds = 61.0;
        let fast = flow(3, 17, packets(1));
        let before = vec![slow.clone(), fast, uplink.clone(), silent.clone()];
        let after = vec![slow, flow(3, 17, packets(900)), uplink, silent];
        rated(&reading(1, before), reading(2, after))
    }

    #[test]
    fn sorted_by_what_is_asked_for() {
        let mut flows = flows();
        assert_eq!(peers(&flows, three()), ["10.0.0.3", "10.0.0.2"]);
        flows.sort = Sort::Duplicates;
        assert_eq!(peers(&flows, three())[0], "10.0.0.2");
        flows.sort = Sort::Packets;
        assert_eq!(peers(&flows, three())[0], "10.0.0.2");
    }

    #[test]
    fn filtered_by_pod_peer_and_place() {
        let mut flows = flows();
        flows.peer = Some("0.3".into());
        assert_eq!(peers(&flows, three()), ["10.0.0.3"]);
        flows.pod = Some("nobody".into());
        assert!(peers(&flows, three()).is_empty());
        flows.pod = Some("web-0".into());
        assert_eq!(peers(&flows, three()), ["10.0.0.3"]);
        flows.peer = None;
        flows.uplinks = true;
        flows.idle = true;
        assert_eq!(peers(&flows, three()).len(), 4);
    }
}
