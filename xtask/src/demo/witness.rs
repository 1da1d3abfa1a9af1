//! A second opinion: what the kernel counted on each pod's interface, beside what Sluice counted.

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::{
    agent::Agent,
    interrupt,
    model::{Count, Stats},
    topology::{Pod, Topology},
};

/// `ip -json -stats link show`, as far as it is needed.
#[derive(Deserialize)]
struct Link {
    stats64: Stats64,
}

#[derive(Deserialize)]
struct Stats64 {
    rx: Received,
    tx: Count,
}

#[derive(Deserialize)]
struct Received {
    #[serde(flatten)]
    count: Count,
    multicast: u64,
}

/// What the kernel counted on one interface.
struct Interface {
    /// Received, sent.
    counts: [Count; 2],
    /// Received to more than one.
    multicast: u64,
}

/// Everything counted up to one moment at which nothing was under way.
pub(super) struct Snapshot {
    pub(super) stats: Stats,
    /// The kernel's, by pod in the topology's order.
    interfaces: Vec<Interface>,
}

impl Snapshot {
    /// Reads both, at a moment when no packet came between.
    ///
    /// # Errors
    /// Either cannot be read, or there is never such a moment.
    pub(super) fn take(agent: &Agent, topology: &Topology) -> Result<Self> {
        interrupt::wait_for("a quiet moment to read the counters", || {
            let before: Stats = agent.json("stats")?;
            let interfaces = topology.pods().into_iter().map(interface);
            let interfaces = interfaces.collect::<Result<_>>()?;
            let stats: Stats = agent.json("stats")?;
            Ok((totals(&before) == totals(&stats)).then_some(Self { stats, interfaces }))
        })
    }

    /// Holds what Sluice counted since `earlier` against the interfaces' counters.
    ///
    /// Bytes must be equal. So must packets, unless `segmented`: an interface counts a segmentation
    /// offloaded buffer as one packet, Sluice counts the segments that go over the wire.
    ///
    /// # Errors
    /// They differ, or the dataplane itself knows of a fault.
    pub(super) fn agrees(
        &self,
        earlier: &Self,
        topology: &Topology,
        segmented: bool,
    ) -> Result<u64> {
        if let Some((fault, count)) = self.stats.fault() {
            bail!("the dataplane reports a fault: {fault}, {count} times");
        }
        let mut packets = 0;
        for (index, pod) in topology.pods().into_iter().enumerate() {
            let counted = self.of(pod)?;
            let counted_before = earlier.of(pod)?;
            let (here, before) = (&self.interfaces[index], &earlier.interfaces[index]);
            let multicast = here.multicast.wrapping_sub(before.multicast);
            for (side, word) in ["to", "from"].into_iter().enumerate() {
                let sluice = since(counted[side], counted_before[side]);
                let kernel = since(here.counts[side], before.counts[side]);
                let equal = if segmented {
                    sluice.packets >= kernel.packets
                } else {
                    sluice.packets == kernel.packets
                };
                let most = if side == 0 { multicast } else { 0 };
                ensure!(
                    equal && is_same_length(sluice.bytes, kernel.bytes, most),
                    "{word} pod {}: Sluice counted {} packets and {} bytes, the interface {} and {}",
                    pod.name,
                    sluice.packets,
                    sluice.bytes,
                    kernel.packets,
                    kernel.bytes
                );
                packets += sluice.packets;
            }
        }
        Ok(packets)
    }

    fn of(&self, pod: &Pod) -> Result<[Count; 2]> {
        let found = self.stats.pod(pod.name);
        let stats = found.with_context(|| format!("no counters of pod {}", pod.name))?;
        Ok([stats.ingress, stats.egress])
    }
}

/// Whether the bytes agree. macvlan takes a broadcast from a sibling, which still has its Ethernet
/// header, for one whose header is gone, and counts those 14 bytes twice; of `multicast` packets
/// any may be one.
fn is_same_length(sluice: u64, kernel: u64, multicast: u64) -> bool {
    const ETHERNET_HEADER: u64 = 14;
    let excess = kernel.wrapping_sub(sluice);
    excess.is_multiple_of(ETHERNET_HEADER) && excess / ETHERNET_HEADER <= multicast
}

fn totals(stats: &Stats) -> Vec<(u32, Count, Count)> {
    let endpoints = stats.endpoints.iter();
    endpoints
        .map(|endpoint| (endpoint.id, endpoint.ingress, endpoint.egress))
        .collect()
}

fn since(now: Count, before: Count) -> Count {
    Count {
        packets: now.packets.wrapping_sub(before.packets),
        bytes: now.bytes.wrapping_sub(before.bytes),
    }
}

fn interface(pod: &Pod) -> Result<Interface> {
    let interface = pod.interface;
    let text = pod
        .namespace
        .ip(&format!("-json -stats link show dev {interface}"))?;
    let links: Vec<Link> = serde_json::from_str(&text)
        .with_context(|| format!("`ip -json` said something else: {text}"))?;
    match links.into_iter().next() {
        Some(Link {
            stats64: Stats64 { rx, tx },
        }) => Ok(Interface {
            counts: [rx.count, tx],
            multicast: rx.multicast,
        }),
        None => bail!("`ip -json` says nothing about {interface}"),
    }
}
