//! `sluice rdma counters`.

use super::super::{Output, table::Table};
use crate::{
    api::{
        client::Client,
        hardware::{CountersRequest, PortOptions},
    },
    rdma::CounterMode,
};

/// Switch counters that RDMA ports keep only on demand.
#[derive(Debug, clap::Subcommand)]
pub(in crate::cli) enum Counters {
    /// List the counters that can be switched, and how ports count by process
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Have ports count these
    Enable(Switch),
    /// Have ports not count these any more
    Disable(Switch),
}

/// Which counters, and where.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Switch {
    /// Counters, by the driver's names
    #[arg(required = true, value_name = "COUNTER")]
    counters: Vec<String>,
    /// Only at this device
    #[arg(long)]
    device: Option<String>,
    /// Only at this port
    #[arg(long)]
    port: Option<u32>,
    #[command(flatten)]
    output: Output,
}

impl Counters {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let (switch, enable) = match self {
            Self::List { output } => {
                let ports = client.rdma_counters().await?;
                return output.print(&ports, |ports| table(ports));
            }
            Self::Enable(switch) => (switch, true),
            Self::Disable(switch) => (switch, false),
        };
        let output = switch.output;
        let request = CountersRequest {
            device: switch.device,
            port: switch.port,
            counters: switch.counters,
            enable,
        };
        let ports = client.set_rdma_counters(&request).await?;
        output.print(&ports, |ports| table(ports))
    }
}

/// A line for each counter of each port, and one for a port that has none.
fn table(ports: &[PortOptions]) -> String {
    let mut table = Table::new(&[
        "DEVICE",
        "PORT",
        "NETNS",
        "DRIVER",
        "BY PROCESS",
        "COUNTER",
        "COUNTS",
    ]);
    for port in ports {
        let driver = port.driver.map(|driver| driver.to_string());
        let mut row = |counter: String, counts: &str| {
            table.row(vec![
                port.device.clone(),
                port.port.to_string(),
                port.netns.to_string(),
                driver.clone().unwrap_or_default(),
                mode(port.sets).to_owned(),
                counter,
                counts.to_owned(),
            ]);
        };
        if port.counters.is_empty() {
            row(String::new(), "");
        }
        for counter in &port.counters {
            row(
                counter.name.clone(),
                if counter.enabled { "yes" } else { "no" },
            );
        }
    }
    table.text()
}

fn mode(mode: Option<CounterMode>) -> &'static str {
    match mode {
        None => "",
        Some(CounterMode::Off) => "no",
        Some(CounterMode::Auto {
            by_process: true, ..
        }) => "yes",
        Some(CounterMode::Auto { .. }) => "by type only",
        Some(CounterMode::Manual) => "by hand",
    }
}
