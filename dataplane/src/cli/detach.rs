//! `sluice detach`.

use super::{Output, endpoints};
use crate::{
    api::{client::Client, types::EndpointSelector},
    link::NetnsRef,
};

const EXAMPLES: &str = "\
Examples:
  sluice detach 12
  sluice detach --netns web net1";

/// Detach an endpoint and forget its counters.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Detach {
    /// Network namespace of the interface; without it, TARGET is an endpoint id
    #[arg(long, value_name = "NETNS")]
    netns: Option<NetnsRef>,
    /// Endpoint id, or with --netns the interface's name
    target: String,
    #[command(flatten)]
    output: Output,
}

/// What was given without a namespace is no endpoint id.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no endpoint id; give a number, or --netns and an interface")]
pub(super) struct NoId(String);

impl Detach {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let selector = match self.netns {
            Some(netns) => EndpointSelector::Interface {
                netns,
                interface: self.target,
            },
            None => EndpointSelector::Id {
                id: self.target.parse().map_err(|_| NoId(self.target))?,
            },
        };
        let endpoint = client.detach(&selector).await?;
        self.output.print(&endpoint, |endpoint| {
            endpoints::table(std::slice::from_ref(endpoint))
        })
    }
}
