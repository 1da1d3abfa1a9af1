//! The families of what hardware counts: RDMA ports, holders of RDMA objects, NICs.

use super::family::{Families, Family as Samples, Label, Labels};
use crate::{
    api::types::PodName,
    hw::{
        Counted, Counts, Entry, Family, Holder, Holding, HwStats, Kind, Meaning, NicCounters,
        NicFamily, PortCounters, Share,
    },
    rdma::PortState,
};

const SOURCE: Label<'_> = ("source", "hw");
const MICROSECONDS: f64 = 1e6;

/// `rdma_port_...`, `rdma_resources...`, `rdma_pod_...`, `nic_...`
pub(super) fn encode_hw(families: &mut Families, stats: &HwStats) {
    encode_ports(families, &stats.ports);
    let shares = stats.shares.iter().map(|share| Row {
        labels: share_labels(share),
        counters: &share.counters,
    });
    Rows::new(shares).encode(families, "rdma_pod");
    encode_holdings(families, stats);
    encode_nics(families, &stats.nics);
}

/// The labels of a pod that may not be known.
fn pod_labels(pod: Option<&PodName>) -> [Label<'_>; 2] {
    [
        ("namespace", pod.map_or("", |pod| &pod.namespace)),
        ("pod", pod.map_or("", |pod| &pod.name)),
    ]
}

fn port_labels(port: &PortCounters) -> Labels {
    let (number, netns) = (port.port.to_string(), port.netns.to_string());
    let place = [
        ("device", port.device.as_str()),
        ("port", &number),
        ("netns", &netns),
    ];
    let pod = pod_labels(port.pod.as_ref());
    Labels::new(place.into_iter().chain(pod).chain([SOURCE]))
}

/// The labels of who has something at a place.
fn holder_labels(place: &[Label<'_>], holder: &Holder) -> Labels {
    let (pod, uid, endpoint) = match holder {
        Holder::Pod { pod, uid, endpoint } => (pod.as_ref(), uid.as_deref(), *endpoint),
        _ => (None, None, None),
    };
    let endpoint = endpoint.map(|id| id.to_string()).unwrap_or_default();
    let who = [("pod_uid", uid.unwrap_or("")), ("endpoint", &endpoint)];
    let labels = place.iter().copied().chain([("owner", holder.label())]);
    Labels::new(labels.chain(pod_labels(pod)).chain(who).chain([SOURCE]))
}

fn share_labels(share: &Share) -> Labels {
    let (number, netns) = (share.port.to_string(), share.netns.to_string());
    let place = [
        ("device", share.device.as_str()),
        ("port", &number),
        ("netns", &netns),
    ];
    holder_labels(&place, &share.holder)
}

fn holding_labels(holding: &Holding) -> Labels {
    let netns = holding.netns.to_string();
    let place = [("device", holding.device.as_str()), ("netns", &netns)];
    holder_labels(&place, &holding.holder)
}

/// Counters with the labels that they share.
struct Row<'a> {
    labels: Labels,
    counters: &'a [Counted],
}

/// Counters by the family that they belong to.
struct Rows<'a> {
    rows: Vec<Row<'a>>,
    /// For each of [`Family::ALL`], the numbers of rows, with what they have of it.
    unified: Vec<Vec<(usize, &'static Meaning, u64)>>,
    /// The counters that have only their driver's name, and of these the gauges.
    own: Vec<(usize, &'a Counted)>,
    gauges: Vec<(usize, &'a Counted)>,
}

impl<'a> Rows<'a> {
    fn new(rows: impl Iterator<Item = Row<'a>>) -> Self {
        let rows: Vec<_> = rows.collect();
        let mut unified = vec![Vec::new(); Family::ALL.len()];
        let (mut own, mut gauges) = (Vec::new(), Vec::new());
        for (number, row) in rows.iter().enumerate() {
            for counted in row.counters {
                match counted.entry {
                    Some(Entry {
                        meaning: Some(meaning),
                        ..
                    }) => unified[meaning.family as usize].push((number, meaning, counted.total)),
                    Some(Entry {
                        kind: Kind::Gauge, ..
                    }) => gauges.push((number, counted)),
                    _ => own.push((number, counted)),
                }
            }
        }
        Self {
            rows,
            unified,
            own,
            gauges,
        }
    }

    /// The unified families under a prefix, and the counters that have only their driver's name.
    fn encode(&self, families: &mut Families, prefix: &str) {
        for (unified, samples) in Family::ALL.iter().zip(&self.unified) {
            if samples.is_empty() {
                continue;
            }
            let name = match unified.name() {
                "" => prefix.to_owned(),
                name => format!("{prefix}_{name}"),
            };
            let encode = |family: &mut Samples<'_>| {
                for (row, meaning, total) in samples {
                    family.sample(&self.rows[*row].labels, meaning.labels, *total);
                }
            };
            let help = unified.help();
            match unified.counts() {
                Counts::Packets => families.packets(&name, help, &encode),
                Counts::Bytes => families.bytes(&name, help, &encode),
                Counts::Events => families.counter(&name, help, &encode),
            }
        }
        if !self.own.is_empty() {
            let help = "What an RDMA driver counts under a name of its own";
            families.counter(&format!("{prefix}_driver"), help, &|family| {
                self.encode_own(family, &self.own);
            });
        }
    }

    fn encode_own(&self, family: &mut Samples<'_>, counters: &[(usize, &Counted)]) {
        for (row, counted) in counters {
            let extra = [("counter", &*counted.raw)];
            family.sample(&self.rows[*row].labels, &extra, counted.total);
        }
    }
}

fn encode_ports(families: &mut Families, ports: &[PortCounters]) {
    if ports.is_empty() {
        return;
    }
    let rows = Rows::new(ports.iter().map(|port| Row {
        labels: port_labels(port),
        counters: &port.counters,
    }));
    let labelled = || ports.iter().zip(rows.rows.iter().map(|row| &row.labels));
    families.info("rdma_port", "A port of an RDMA device", &|family| {
        for (port, labels) in labelled() {
            let state = port.state.to_string();
            let extra = [
                ("driver", port.driver.map_or("", |driver| driver.name())),
                ("protocol", port.protocol.as_deref().unwrap_or("")),
                ("netdev", port.netdev.as_deref().unwrap_or("")),
                ("pci", port.pci.as_deref().unwrap_or("")),
                ("state", &state),
            ];
            family.sample(labels, &extra, 1);
        }
    });
    let help = "Whether an RDMA port can carry traffic";
    families.gauge("rdma_port_active", help, None, &|family| {
        for (port, labels) in labelled() {
            family.sample(labels, &[], u64::from(port.state == PortState::Active));
        }
    });
    rows.encode(families, "rdma_port");
    if !rows.gauges.is_empty() {
        let help = "What an RDMA driver tells under a name of its own and that is no counter";
        families.gauge("rdma_port_driver_value", help, None, &|family| {
            rows.encode_own(family, &rows.gauges);
        });
    }
}

fn encode_holdings(families: &mut Families, stats: &HwStats) {
    if !stats.holdings.is_empty() {
        let help = "RDMA objects: qp queue pairs, cq completion queues, mr memory regions, pd \
                    protection domains, cm_id connections";
        families.gauge("rdma_resources", help, None, &|family| {
            for holding in &stats.holdings {
                let extra = [("kind", holding.kind.name())];
                family.sample(&holding_labels(holding), &extra, holding.count);
            }
        });
    }
    if stats.limits.is_empty() {
        return;
    }
    let help = "RDMA objects of a kind that a device can have";
    families.gauge("rdma_resources_limit", help, None, &|family| {
        for limit in &stats.limits {
            let netns = limit.netns.to_string();
            let labels = [
                ("device", limit.device.as_str()),
                ("netns", &netns),
                SOURCE,
                ("kind", &limit.kind),
            ];
            family.value(&labels, limit.max);
        }
    });
}

fn nic_labels(nic: &NicCounters) -> Labels {
    let netns = nic.netns.to_string();
    let place = [("interface", nic.interface.as_str()), ("netns", &netns)];
    let pod = pod_labels(nic.pod.as_ref());
    Labels::new(place.into_iter().chain(pod).chain([SOURCE]))
}

fn encode_nics(families: &mut Families, nics: &[NicCounters]) {
    let nics: Vec<_> = nics.iter().map(|nic| (nic, nic_labels(nic))).collect();
    for wanted in NicFamily::ALL {
        let mut samples = nics.iter().flat_map(|(nic, _)| &nic.samples);
        if !samples.any(|sample| sample.family == *wanted) {
            continue;
        }
        let encode = |family: &mut Samples<'_>| {
            for (nic, labels) in &nics {
                for sample in &nic.samples {
                    if sample.family != *wanted {
                        continue;
                    }
                    match wanted {
                        NicFamily::PauseTime => {
                            let seconds = sample.value as f64 / MICROSECONDS;
                            family.fraction(labels, &sample.labels, seconds);
                        }
                        _ => family.sample(labels, &sample.labels, sample.value),
                    }
                }
            }
        };
        let (name, help) = (format!("nic_{}", wanted.name()), wanted.help());
        match wanted {
            NicFamily::PauseTime => families.duration(&name, help, &encode),
            NicFamily::Discarded | NicFamily::EcnMarked | NicFamily::RdmaPackets => {
                families.packets(&name, help, &encode);
            }
            NicFamily::RdmaBytes => families.bytes(&name, help, &encode),
            _ => families.counter(&name, help, &encode),
        }
    }
}
