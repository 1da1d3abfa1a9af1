//! `sluice block`.

use ipnet::IpNet;

use super::{
    Output,
    table::{Table, bytes},
};
use crate::api::{client::Client, types};

/// Drop packets by their source, at the uplinks.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Block {
    /// Block a source prefix
    Add {
        /// Prefix such as 192.0.2.0/24 or 2001:db8::/32
        #[arg(value_parser = prefix)]
        cidr: IpNet,
        #[command(flatten)]
        output: Output,
    },
    /// Lift a block
    Del {
        /// The prefix, as listed
        #[arg(value_parser = prefix)]
        cidr: IpNet,
        #[command(flatten)]
        output: Output,
    },
    /// List the blocked prefixes with what they stopped
    List {
        #[command(flatten)]
        output: Output,
    },
}

fn prefix(text: &str) -> Result<IpNet, String> {
    // The parser's own error knows but one reason for all that may be wrong.
    text.parse()
        .map_err(|_| "give an address and a length, such as 192.0.2.0/24 or 2001:db8::/32".into())
}

impl Block {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let one = |block: &types::Block| table(std::slice::from_ref(block));
        match self {
            Self::Add { cidr, output } => output.print(&client.block(cidr).await?, one),
            Self::Del { cidr, output } => output.print(&client.unblock(cidr).await?, one),
            Self::List { output } => output.print(&client.blocks().await?, |list| table(list)),
        }
    }
}

fn table(blocks: &[types::Block]) -> String {
    let mut table = Table::new(&["SOURCE", "#PACKETS", "#BYTES"]);
    for block in blocks {
        table.row(vec![
            block.cidr.to_string(),
            block.count.packets.to_string(),
            bytes(block.count.bytes),
        ]);
    }
    table.text()
}
