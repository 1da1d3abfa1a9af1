//! `sluice roce`.

mod alarm;
mod detect;
mod flows;
mod rated;
mod table;
mod watch;

use std::time::Duration;

use clap::Subcommand;

use crate::api::client::Client;

#[derive(Debug, Subcommand)]
pub(super) enum Roce {
    /// Show who talks to whom, how fast, and what goes wrong
    Flows(flows::Flows),
    /// Tell of congestion, errors, retries, full GID tables and ports as they happen
    Watch(watch::Watch),
}

impl Roce {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        match self {
            Self::Flows(flows) => flows.run(client).await,
            Self::Watch(watch) => watch.run(client).await,
        }
    }
}

/// Seconds between two readings.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("give a number of seconds from 0.1 to 3600".into()),
    }
}
