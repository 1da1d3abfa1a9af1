//! `sluice rdma`.

mod counters;
mod resources;

use super::{Output, table::Table};
use crate::{
    api::{
        client::Client,
        hardware::{NodeRdma, RdmaModeRequest},
        types::Endpoint,
    },
    link::NetnsRef,
    rdma::{GidType, NetnsMode, PlacedDevice, PlacedPort},
};

const MODE_HELP: &str = "\
shared: every network namespace sees every RDMA device. For pods on macvlan and
  ipvlan; they are kept apart by nothing but their GIDs.
exclusive: a device is in one network namespace. For VFs and subfunctions, whose
  devices move into the pod.

The kernel lets the mode change only while no network namespace but the node's
exists: before the first pod, not after (`lsns -t net` lists them). It is gone
with the next boot. To have it from the start:
  echo 'options ib_core netns_mode=0' > /etc/modprobe.d/ib_core.conf   # exclusive
  update-initramfs -u    # or dracut -f, where ib_core is loaded from the initramfs
  reboot";

/// Show RDMA devices, who sees them, and who uses them.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Rdma {
    /// Show the mode, the devices, their ports and GIDs
    Show {
        #[command(flatten)]
        output: Output,
    },
    /// Show queue pairs and other objects, and whose they are
    Resources(resources::Resources),
    /// Switch counters that ports keep only on demand
    #[command(subcommand)]
    Counters(counters::Counters),
    /// Set who sees RDMA devices
    #[command(after_help = MODE_HELP)]
    Mode {
        /// shared or exclusive
        mode: NetnsMode,
        #[command(flatten)]
        output: Output,
    },
}

impl Rdma {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<()> {
        match self {
            Self::Show { output } => {
                let node = client.rdma().await?;
                let endpoints = client.endpoints().await?;
                output.print(&node, |node| table(node, &endpoints))
            }
            Self::Resources(resources) => resources.run(client).await,
            Self::Counters(counters) => counters.run(client).await,
            Self::Mode { mode, output } => {
                let node = client.set_rdma_mode(&RdmaModeRequest { mode }).await?;
                output.print(&node, |node| {
                    format!("RDMA namespace mode: {}\n", node.mode)
                })
            }
        }
    }
}

/// The mode, a line for each port, and one for each GID.
fn table(node: &NodeRdma, endpoints: &[Endpoint]) -> String {
    let mut ports = Table::new(&[
        "DEVICE",
        "PORT",
        "STATE",
        "PROTOCOL",
        "NETDEV",
        "NETNS",
        "POD",
        "PCI",
        "#GIDS",
        "#OF",
        "CHARACTER DEVICES",
    ]);
    let mut gids = Table::new(&["DEVICE", "PORT", "#INDEX", "GID", "TYPE", "NETDEV", "POD"]);
    for device in &node.devices {
        for port in &device.ports {
            ports.row(port_row(device, port, endpoints));
            for gid in &port.gids.entries {
                let version = match gid.kind {
                    GidType::RoceV1 => "IB/RoCE v1",
                    GidType::RoceV2 => "RoCE v2",
                };
                let owner = endpoints.iter().find(|endpoint| {
                    let addresses = &endpoint.addresses;
                    addresses.iter().any(|net| net.addr() == gid.address())
                        && Some(&endpoint.interface) == gid.netdev.as_ref()
                });
                gids.row(vec![
                    device.device.name.clone(),
                    port.port.port.to_string(),
                    gid.index.to_string(),
                    gid.gid.to_string(),
                    version.to_owned(),
                    gid.netdev.clone().unwrap_or_default(),
                    owner.map(pod).unwrap_or_default(),
                ]);
            }
        }
    }
    let mode = format!("RDMA namespace mode: {}\n", node.mode);
    if node.devices.is_empty() {
        return mode + "no RDMA devices\n";
    }
    [mode, ports.text(), gids.text()].join("\n")
}

fn port_row(device: &PlacedDevice, port: &PlacedPort, endpoints: &[Endpoint]) -> Vec<String> {
    let netns = port.netdev_netns.as_ref().unwrap_or(&device.netns);
    let owner = endpoints
        .iter()
        .find(|endpoint| *netns != NetnsRef::Host && endpoint.netns == *netns);
    let netdev = port.port.netdev.as_ref().map(|netdev| netdev.name.clone());
    let names = device.char_devices.iter().map(|device| device.name.clone());
    vec![
        device.device.name.clone(),
        port.port.port.to_string(),
        port.port.state.to_string(),
        device.device.protocol.clone().unwrap_or_default(),
        netdev.unwrap_or_default(),
        netns.to_string(),
        owner.map(pod).unwrap_or_default(),
        device.pci.clone().unwrap_or_default(),
        port.gids.entries.len().to_string(),
        port.gids.capacity.to_string(),
        names.collect::<Vec<_>>().join(","),
    ]
}

fn pod(endpoint: &Endpoint) -> String {
    let known = endpoint.pod.as_ref().map(ToString::to_string);
    known.unwrap_or_else(|| format!("endpoint {}", endpoint.id))
}
