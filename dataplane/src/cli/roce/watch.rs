//! `sluice roce watch`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{MissedTickBehavior, interval};

use super::{
    alarm::{Alarm, Kind, Stage, Subject},
    detect::{Detector, Thresholds, plain},
    seconds,
};
use crate::{
    api::{
        client::{Client, ClientError, EventStream},
        hardware::NodeRdma,
        roce::RoceFlows,
        types::EventLine,
    },
    cli::{Format, Lasting, Output, print},
};

const EXAMPLES: &str = "\
A trouble makes a line when it begins, one every ten seconds while it goes on,
and one when it has been over for five seconds.

Examples:
  sluice roce watch
  sluice roce watch --cnp-rate 1000 -o json";

/// Tell of congestion, errors, retries, full GID tables and ports as they happen.
///
/// Between two addresses: bursts of congestion notifications (CNP), negative
/// acknowledgements, receivers that are not ready, retry storms, as eBPF sees
/// them on the wire; of RDMA ports: their state, and GID tables that fill.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Watch {
    /// Seconds between two readings, 0.1 to 3600
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,
    /// A burst: so many CNPs a second between two addresses
    #[arg(long, value_name = "RATE", default_value = "100")]
    cnp_rate: f64,
    /// A retry storm: so many requests a second sent again, at the least ...
    #[arg(long, value_name = "RATE", default_value = "10")]
    retry_rate: f64,
    /// ... which are such a part of the requests
    #[arg(long, value_name = "PART", default_value = "0.01")]
    retry_share: f64,
    /// Nearly full: such a part of a GID table
    #[arg(long, value_name = "PART", default_value = "0.8")]
    gid_share: f64,
    #[command(flatten)]
    lasting: Lasting,
    #[command(flatten)]
    output: Output,
}

/// Seconds between two lines about the same.
const REPEAT: f64 = 10.0;

impl Watch {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        self.lasting.limit(self.follow(client)).await
    }

    async fn follow(&self, client: &Client) -> anyhow::Result<()> {
        let mut detector = Detector::new(Thresholds {
            cnps: self.cnp_rate,
            retries: self.retry_rate,
            retry_share: self.retry_share,
            gids: self.gid_share,
            repeat: REPEAT,
        });
        // An agent that is not there at all is better told at once.
        let mut events = Some(client.events().await?);
        let mut answers = true;
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                line = next(&mut events) => match line {
                    Some(EventLine::Event(event)) => detector.event(&event),
                    Some(EventLine::Missed { .. }) => {}
                    // The agent has gone; the next reading tells.
                    None => events = None,
                },
                _ = ticks.tick() => {
                    let read = read(client).await;
                    if answers != read.is_ok() {
                        answers = read.is_ok();
                        self.tell(&[agent(read.as_ref().err())])?;
                    }
                    let Ok((flows, rdma)) = read else {
                        continue;
                    };
                    if events.is_none() {
                        events = client.events().await.ok();
                    }
                    self.tell(&detector.flows(now(), flows))?;
                    if let Some(rdma) = rdma {
                        self.tell(&detector.rdma(now(), &rdma))?;
                    }
                }
            }
        }
    }

    fn tell(&self, alarms: &[Alarm]) -> anyhow::Result<()> {
        for alarm in alarms {
            match self.output.output {
                Format::Json => print(&(serde_json::to_string(alarm)? + "\n"))?,
                Format::Table => print(&alarm.line())?,
            }
        }
        Ok(())
    }
}

/// The next event; without a stream there never is one.
async fn next(events: &mut Option<EventStream>) -> Option<EventLine> {
    match events {
        Some(events) => events.next().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

/// The flows, and the ports where the kernel has RDMA.
async fn read(client: &Client) -> Result<(RoceFlows, Option<NodeRdma>), ClientError> {
    let rdma = match client.rdma().await {
        Ok(rdma) => Some(rdma),
        Err(ClientError::Refused { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok((client.roce_flows().await?, rdma))
}

fn agent(error: Option<&ClientError>) -> Alarm {
    let stage = if error.is_some() {
        Stage::Begins
    } else {
        Stage::Over
    };
    let detail = match error {
        Some(error) => error.to_string(),
        None => "it answers again; what happened meanwhile was not seen".into(),
    };
    plain(now(), Kind::NoAgent, stage, Subject::Node {}, Some(detail))
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}
