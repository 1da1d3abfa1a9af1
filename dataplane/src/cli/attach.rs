//! `sluice attach`.

use super::{Output, endpoints};
use crate::{
    api::{
        client::Client,
        types::{AttachRequest, PodName},
    },
    link::NetnsRef,
};

const EXAMPLES: &str = "\
Examples:
  sluice attach --netns web net1 --pod default/web-0
  sluice attach --netns /proc/4711/ns/net net1
  sluice attach --netns pid:4711 net1 -o json";

/// Attach a pod's interface to the dataplane.
///
/// Its packets are counted from then on, and the node reaches it if it hangs
/// off a registered uplink. Attaching it again changes nothing but its pod.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Attach {
    /// Network namespace: a path, a name under /run/netns, pid:N, or host
    #[arg(long, value_name = "NETNS")]
    netns: NetnsRef,
    /// The interface's name there
    interface: String,
    /// The pod that it belongs to
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pod: Option<PodName>,
    #[command(flatten)]
    output: Output,
}

impl Attach {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        let request = AttachRequest {
            netns: self.netns,
            interface: self.interface,
            pod: self.pod,
        };
        let endpoint = client.attach(&request).await?;
        self.output.print(&endpoint, |endpoint| {
            endpoints::table(std::slice::from_ref(endpoint))
        })
    }
}
