//! `sluice uplink`.

use super::{
    Output,
    endpoints::{health, mechanism},
    table::{Table, optional},
};
use crate::api::{
    client::Client,
    types::{self, UplinkRequest, XdpMode},
};

/// Register the node's NICs.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Uplink {
    /// Register a NIC, or change its settings
    ///
    /// Its XDP program counts what arrives and applies the block list; its TC
    /// program lets the node and its macvlan pods reach each other.
    Add {
        /// Interface in the agent's namespace
        interface: String,
        /// Leave frames between the node and its pods alone
        #[arg(long)]
        no_host_reach: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Forget a NIC; its pods stay attached
    Del {
        /// Interface in the agent's namespace
        interface: String,
        #[command(flatten)]
        output: Output,
    },
    /// List the registered NICs
    List {
        #[command(flatten)]
        output: Output,
    },
}

impl Uplink {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let one = |uplink: &types::Uplink| table(std::slice::from_ref(uplink));
        match self {
            Self::Add {
                interface,
                no_host_reach,
                output,
            } => {
                let request = UplinkRequest {
                    interface,
                    host_reach: !no_host_reach,
                };
                output.print(&client.add_uplink(&request).await?, one)
            }
            Self::Del { interface, output } => {
                output.print(&client.remove_uplink(&interface).await?, one)
            }
            Self::List { output } => output.print(&client.uplinks().await?, |list| table(list)),
        }
    }
}

/// One line for each uplink.
pub(super) fn table(uplinks: &[types::Uplink]) -> String {
    let mut table = Table::new(&[
        "UPLINK",
        "MAC",
        "ADDRESSES",
        "HOST REACH",
        "XDP",
        "TC",
        "STATE",
    ]);
    for uplink in uplinks {
        let addresses: Vec<_> = uplink.addresses.iter().map(ToString::to_string).collect();
        let xdp = match uplink.xdp {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        };
        table.row(vec![
            uplink.interface.clone(),
            optional(&uplink.mac),
            addresses.join(","),
            if uplink.host_reach { "on" } else { "off" }.into(),
            xdp.into(),
            mechanism(uplink.mechanism).into(),
            health(&uplink.health),
        ]);
    }
    table.text()
}
