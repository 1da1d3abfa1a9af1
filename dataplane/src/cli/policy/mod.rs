//! `sluice policy`.

mod test;
mod text;

use clap::ValueEnum;

use super::Output;
use crate::api::{
    client::Client,
    types::policy::{AuditRequest, ExplainRequest},
};

/// Show and explain network policies.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Policy {
    /// List the policies, the source's files and how each endpoint is judged
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Show the rules that an endpoint goes by, with their hits
    Show {
        /// Endpoint id, as `sluice endpoints` lists it
        endpoint: u32,
        #[command(flatten)]
        output: Output,
    },
    /// Tell which rule allows a connection, or why none does
    ///
    /// Looked up in the kernel's maps, as packets are. At least one of both
    /// sides must be an endpoint of this node; what is said of the other side's
    /// node only its own agent knows.
    Explain {
        /// Who begins: a pod (NAMESPACE/NAME), an address, or an endpoint id
        #[arg(long)]
        from: String,
        /// The other side
        #[arg(long)]
        to: String,
        /// PORT/tcp, PORT/udp, PORT/sctp, icmp, or a protocol number
        #[arg(long)]
        port: String,
        #[command(flatten)]
        output: Output,
    },
    /// Hold a list of expectations against policies
    Test(test::Test),
    /// Count and tell what an endpoint's policy would drop, instead of dropping
    Audit {
        /// Endpoint id
        endpoint: u32,
        /// Whether audit mode is on
        #[arg(value_enum)]
        switch: Switch,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

impl Policy {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        match self {
            Self::List { output } => output.print(&client.policy_status().await?, text::status),
            Self::Show { endpoint, output } => {
                output.print(&client.endpoint_rules(endpoint).await?, text::rules)
            }
            Self::Explain {
                from,
                to,
                port,
                output,
            } => {
                let request = ExplainRequest { from, to, port };
                let flows = client.explain(&request).await?;
                output.print(&flows, |flows| text::flows(flows))
            }
            Self::Test(test) => test.run(client).await,
            Self::Audit {
                endpoint,
                switch,
                output,
            } => {
                let request = AuditRequest {
                    id: endpoint,
                    audit: switch == Switch::On,
                };
                let policy = client.set_audit(&request).await?;
                output.print(&policy, |policy| {
                    text::endpoints(std::slice::from_ref(policy))
                })
            }
        }
    }
}
