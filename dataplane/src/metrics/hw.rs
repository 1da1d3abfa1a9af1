//! The families of what hardware counts: RDMA ports, holders of RDMA objects, NICs.

use std::fmt;

use super::family::{Families, Family as Samples};
use crate::{
    api::types::PodName,
    hw::{
        Counted, Counts, Entry, Family, Holder, HwStats, Kind, NicCounters, NicFamily,
        PortCounters, Share,
    },
    rdma::PortState,
};

const SOURCE: (&str, &str) = ("source", "hw");
const MICROSECONDS: f64 = 1e6;

type Label<'a> = (&'static str, &'a str);

/// `rdma_port_...`, `rdma_resources...`, `rdma_pod_...`, `nic_...`
pub(super) fn encode_hw(families: &mut Families<'_>, stats: &HwStats) -> fmt::Result {
    let ports: Vec<_> = stats.ports.iter().map(PortRow::new).collect();
    encode_ports(families, &ports)?;
    let shares: Vec<_> = stats.shares.iter().map(ShareRow::new).collect();
    encode_unified(families, "rdma_pod", &shares)?;
    encode_holdings(families, stats)?;
    let nics: Vec<_> = stats.nics.iter().map(NicRow::new).collect();
    encode_nics(families, &nics)
}

/// Counters with the labels that they share.
trait Row {
    fn labels(&self) -> Vec<Label<'_>>;
    fn counters(&self) -> &[Counted];
}

/// The labels of a pod that may not be known.
fn pod_labels(pod: Option<&PodName>) -> [Label<'_>; 2] {
    [
        ("namespace", pod.map_or("", |pod| &pod.namespace)),
        ("pod", pod.map_or("", |pod| &pod.name)),
    ]
}

struct PortRow<'a> {
    port: &'a PortCounters,
    number: String,
    netns: String,
}

impl<'a> PortRow<'a> {
    fn new(port: &'a PortCounters) -> Self {
        Self {
            number: port.port.to_string(),
            netns: port.netns.to_string(),
            port,
        }
    }
}

impl Row for PortRow<'_> {
    fn labels(&self) -> Vec<Label<'_>> {
        let mut labels = vec![
            ("device", self.port.device.as_str()),
            ("port", &self.number),
            ("netns", &self.netns),
        ];
        labels.extend(pod_labels(self.port.pod.as_ref()));
        labels.push(SOURCE);
        labels
    }

    fn counters(&self) -> &[Counted] {
        &self.port.counters
    }
}

/// The labels of who has something.
struct HolderLabels<'a> {
    holder: &'a Holder,
    endpoint: String,
}

impl<'a> HolderLabels<'a> {
    fn new(holder: &'a Holder) -> Self {
        let endpoint = match holder {
            Holder::Pod { endpoint, .. } => endpoint.map(|id| id.to_string()),
            _ => None,
        };
        Self {
            holder,
            endpoint: endpoint.unwrap_or_default(),
        }
    }

    fn labels(&self) -> impl Iterator<Item = Label<'_>> {
        let (pod, uid) = match self.holder {
            Holder::Pod { pod, uid, .. } => (pod.as_ref(), uid.as_deref()),
            _ => (None, None),
        };
        [("owner", self.holder.label())]
            .into_iter()
            .chain(pod_labels(pod))
            .chain([
                ("pod_uid", uid.unwrap_or("")),
                ("endpoint", &self.endpoint),
                SOURCE,
            ])
    }
}

struct ShareRow<'a> {
    share: &'a Share,
    number: String,
    netns: String,
    holder: HolderLabels<'a>,
}

impl<'a> ShareRow<'a> {
    fn new(share: &'a Share) -> Self {
        Self {
            number: share.port.to_string(),
            netns: share.netns.to_string(),
            holder: HolderLabels::new(&share.holder),
            share,
        }
    }
}

impl Row for ShareRow<'_> {
    fn labels(&self) -> Vec<Label<'_>> {
        let mut labels = vec![
            ("device", self.share.device.as_str()),
            ("port", &self.number),
            ("netns", &self.netns),
        ];
        labels.extend(self.holder.labels());
        labels
    }

    fn counters(&self) -> &[Counted] {
        &self.share.counters
    }
}

fn encode_ports(families: &mut Families<'_>, ports: &[PortRow<'_>]) -> fmt::Result {
    if ports.is_empty() {
        return Ok(());
    }
    families.info("rdma_port", "A port of an RDMA device", &|family| {
        for row in ports {
            let port = row.port;
            let state = port.state.to_string();
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let (protocol, netdev, pci) =
                (text(&port.protocol), text(&port.netdev), text(&port.pci));
            let extra = [
                ("driver", port.driver.map_or("", |driver| driver.name())),
                ("protocol", &protocol),
                ("netdev", &netdev),
                ("pci", &pci),
                ("state", &state),
            ];
            family.sample(&row.labels(), &extra, 1)?;
        }
        Ok(())
    })?;
    let help = "Whether an RDMA port can carry traffic";
    families.gauge("rdma_port_active", help, None, &|family| {
        for row in ports {
            let active = row.port.state == PortState::Active;
            family.sample(&row.labels(), &[], u64::from(active))?;
        }
        Ok(())
    })?;
    encode_unified(families, "rdma_port", ports)?;
    let help = "What an RDMA driver tells under a name of its own and that is no counter";
    encode_raw(families, "rdma_port_driver_value", help, ports, true)
}

/// The unified families under a prefix, and the counters that have only their driver's name.
fn encode_unified(families: &mut Families<'_>, prefix: &str, rows: &[impl Row]) -> fmt::Result {
    for unified in Family::ALL {
        let meaning = |counted: &Counted| {
            let meaning = counted.entry?.meaning?;
            (meaning.family == *unified).then_some(meaning)
        };
        let mut counters = rows.iter().flat_map(Row::counters);
        if !counters.any(|counted| meaning(counted).is_some()) {
            continue;
        }
        let name = match unified.name() {
            "" => prefix.to_owned(),
            name => format!("{prefix}_{name}"),
        };
        let encode = |family: &mut Samples<'_>| {
            for row in rows {
                let labels = row.labels();
                for counted in row.counters() {
                    if let Some(meaning) = meaning(counted) {
                        family.sample(&labels, meaning.labels, counted.total)?;
                    }
                }
            }
            Ok(())
        };
        let help = unified.help();
        match unified.counts() {
            Counts::Packets => families.packets(&name, help, &encode)?,
            Counts::Bytes => families.bytes(&name, help, &encode)?,
            Counts::Events => families.counter(&name, help, &encode)?,
        }
    }
    let name = format!("{prefix}_driver");
    let help = "What an RDMA driver counts under a name of its own";
    encode_raw(families, &name, help, rows, false)
}

/// The counters without a unified name, or the gauges.
fn encode_raw(
    families: &mut Families<'_>,
    name: &str,
    help: &str,
    rows: &[impl Row],
    gauges: bool,
) -> fmt::Result {
    let wanted = |counted: &&Counted| match counted.entry {
        Some(Entry { kind, meaning, .. }) => meaning.is_none() && (*kind == Kind::Gauge) == gauges,
        None => !gauges,
    };
    if !rows.iter().flat_map(Row::counters).any(|one| wanted(&one)) {
        return Ok(());
    }
    let encode = |family: &mut Samples<'_>| {
        for row in rows {
            let labels = row.labels();
            for counted in row.counters().iter().filter(wanted) {
                family.sample(&labels, &[("counter", &counted.raw)], counted.total)?;
            }
        }
        Ok(())
    };
    if gauges {
        families.gauge(name, help, None, &encode)
    } else {
        families.counter(name, help, &encode)
    }
}

fn encode_holdings(families: &mut Families<'_>, stats: &HwStats) -> fmt::Result {
    if !stats.holdings.is_empty() {
        let help = "RDMA objects: qp queue pairs, cq completion queues, mr memory regions, pd \
                    protection domains, cm_id connections";
        families.gauge("rdma_resources", help, None, &|family| {
            for holding in &stats.holdings {
                let netns = holding.netns.to_string();
                let holder = HolderLabels::new(&holding.holder);
                let mut labels = vec![("device", holding.device.as_str()), ("netns", &netns)];
                labels.extend(holder.labels());
                family.sample(&labels, &[("kind", holding.kind.name())], holding.count)?;
            }
            Ok(())
        })?;
    }
    if stats.limits.is_empty() {
        return Ok(());
    }
    let help = "RDMA objects of a kind that a device can have";
    families.gauge("rdma_resources_limit", help, None, &|family| {
        for limit in &stats.limits {
            let netns = limit.netns.to_string();
            let labels = [("device", limit.device.as_str()), ("netns", &netns), SOURCE];
            family.sample(&labels, &[("kind", &limit.kind)], limit.max)?;
        }
        Ok(())
    })
}

struct NicRow<'a> {
    nic: &'a NicCounters,
    netns: String,
}

impl<'a> NicRow<'a> {
    fn new(nic: &'a NicCounters) -> Self {
        Self {
            netns: nic.netns.to_string(),
            nic,
        }
    }

    fn labels(&self) -> Vec<Label<'_>> {
        let mut labels = vec![
            ("interface", self.nic.interface.as_str()),
            ("netns", &self.netns),
        ];
        labels.extend(pod_labels(self.nic.pod.as_ref()));
        labels.push(SOURCE);
        labels
    }
}

fn encode_nics(families: &mut Families<'_>, nics: &[NicRow<'_>]) -> fmt::Result {
    for wanted in NicFamily::ALL {
        let mut samples = nics.iter().flat_map(|row| &row.nic.samples);
        if !samples.any(|sample| sample.family == *wanted) {
            continue;
        }
        let encode = |family: &mut Samples<'_>| {
            for row in nics {
                let labels = row.labels();
                for sample in &row.nic.samples {
                    if sample.family != *wanted {
                        continue;
                    }
                    match wanted {
                        NicFamily::PauseTime => {
                            let seconds = sample.value as f64 / MICROSECONDS;
                            family.fraction(&labels, &sample.labels, seconds)?;
                        }
                        _ => family.sample(&labels, &sample.labels, sample.value)?,
                    }
                }
            }
            Ok(())
        };
        let (name, help) = (format!("nic_{}", wanted.name()), wanted.help());
        match wanted {
            NicFamily::PauseTime => families.duration(&name, help, &encode)?,
            NicFamily::Discarded | NicFamily::EcnMarked | NicFamily::RdmaPackets => {
                families.packets(&name, help, &encode)?;
            }
            NicFamily::RdmaBytes => families.bytes(&name, help, &encode)?,
            _ => families.counter(&name, help, &encode)?,
        }
    }
    Ok(())
}
