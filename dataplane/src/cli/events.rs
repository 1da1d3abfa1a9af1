//! `sluice events`.

use std::net::SocketAddr;

use dataplane_ebpf::abi::Direction;

use super::{Format, Lasting, Output, clock, print};
use crate::api::{
    client::Client,
    types::{Event, EventLine},
};

const EXAMPLES: &str = "\
Examples:
  sluice events
  sluice events --count 1 -o json";

/// Follow drops and RoCE trouble as they happen.
///
/// Each endpoint may cause so many events a second (the setting event_rate);
/// `sluice stats` counts all, also those held back.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Events {
    /// Stop after so many
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    lasting: Lasting,
    #[command(flatten)]
    output: Output,
}

impl Events {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        self.lasting.limit(self.follow(client)).await
    }

    async fn follow(&self, client: &Client) -> anyhow::Result<()> {
        let mut stream = client.events().await?;
        let mut left = self.count;
        while left != Some(0) {
            let Some(line) = stream.next().await? else {
                anyhow::bail!("the agent has stopped; start it again to follow on");
            };
            match (&line, self.output.output) {
                (_, Format::Json) => print(&(serde_json::to_string(&line)? + "\n"))?,
                (EventLine::Event(event), Format::Table) => print(&describe(event))?,
                (EventLine::Missed { missed }, Format::Table) => {
                    print(&format!(
                        "({missed} events missed: this terminal is too slow)\n"
                    ))?;
                }
            }
            if matches!(line, EventLine::Event(_)) {
                left = left.map(|left| left - 1);
            }
        }
        Ok(())
    }
}

/// One line.
fn describe(event: &Event) -> String {
    let owner = match (&event.pod, &event.interface) {
        (Some(pod), _) => pod.to_string(),
        (None, Some(interface)) => format!("endpoint {} ({interface})", event.endpoint),
        (None, None) => format!("endpoint {}", event.endpoint),
    };
    let mut text = format!(
        "{} {owner} {} {} {}",
        clock(event.time),
        event.direction,
        event.kind,
        event.reason
    );
    if let (Some(source), Some(destination)) = (event.source, event.destination) {
        let peer = event.peer.as_ref();
        let peer = peer.map_or(String::new(), |peer| format!(" ({peer})"));
        let (at_source, at_destination) = match event.direction == Direction::Ingress.name() {
            true => (peer.as_str(), ""),
            false => ("", peer.as_str()),
        };
        text.push_str(&format!(
            " {}{at_source} -> {}{at_destination} protocol {}",
            SocketAddr::new(source, event.source_port),
            SocketAddr::new(destination, event.destination_port),
            event.protocol
        ));
    } else if event.length > 0 {
        text.push_str(&format!(" ethertype {:#06x}", event.ether_type));
    }
    if event.kind == "roce" {
        text.push_str(&format!(" qp {} psn {}", event.destination_qp, event.psn));
    }
    if event.length > 0 {
        text.push_str(&format!(" {} bytes", event.length));
    }
    text.push('\n');
    text
}
