//! RDMA counters under the names and labels of Spiderpool's exporter, so that
//! dashboards made for it go on working.
//!
//! What is right there is named as there; what was wrong is not repeated: values
//! that go up and down are gauges, whatever their name; the ports of one device
//! are told apart (`port`); a port's network interface is the one that the
//! kernel names, not the one whose MAC address resembles the device's GUID.
//! Owners of pods (`owner_*`) are not known here, and left out.

use std::{collections::BTreeMap, fs, path::Path};

use super::family::{Families, Format, Labels};
use crate::{
    api::types::PodName,
    hw::{HwStats, Kind, NicFamily, NicSample},
    link::{NetnsRef, Sriov, Sysfs},
    rdma::NodeRdma,
};

/// The ports of a node.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    /// The node's name.
    pub node: String,
    /// The ports.
    pub ports: Vec<Port>,
}

/// A port, its labels and its numbers.
#[derive(Clone, Debug, Default)]
pub struct Port {
    /// The RDMA device.
    pub device: String,
    /// The port's number.
    pub number: u32,
    /// Its network interface.
    pub netdev: Option<String>,
    /// The device's GUID, and that of what it is a part of.
    pub guids: [String; 2],
    /// The device of the PF whose VF this is, if it is one.
    pub parent: Option<String>,
    /// The pod that has it for itself.
    pub pod: Option<PodName>,
    /// What only goes up, by its name there without `rdma_` and `_total`.
    pub counters: Vec<(String, u64)>,
    /// The same by priority.
    pub by_priority: Vec<(String, &'static str, u64)>,
    /// Megabits a second; known of the node's own interfaces.
    pub speed: Option<u64>,
    /// Traffic class of all packets of the device, where one is set.
    pub traffic_class: Option<u64>,
}

impl Ports {
    /// From what hardware told.
    pub fn read(stats: &HwStats, rdma: &NodeRdma, sysfs: &Sysfs) -> Self {
        let ports = stats.ports.iter().map(|counted| {
            let placed = rdma.devices.iter().find(|placed| {
                placed.netns == counted.netns && placed.device.name == counted.device
            });
            let nic = stats.nics.iter().find(|nic| {
                nic.netns == counted.netns && counted.netdev.as_ref() == Some(&nic.interface)
            });
            let mut port = Port {
                device: counted.device.clone(),
                number: counted.port,
                netdev: counted.netdev.clone(),
                parent: parent(counted.pci.as_deref(), rdma, sysfs),
                pod: counted.pod.clone(),
                ..Port::default()
            };
            if let Some(placed) = placed {
                let device = &placed.device;
                port.guids = [device.node_guid, device.system_guid].map(|guid| guid.to_string());
            }
            let counters = counted.counters.iter().filter(|counter| {
                let gauge = |entry: &crate::hw::Entry| entry.kind == Kind::Gauge;
                !counter.entry.is_some_and(gauge)
            });
            port.counters = counters
                .map(|counter| (metric_name(&counter.raw), counter.total))
                .collect();
            for sample in nic.iter().flat_map(|nic| &nic.samples) {
                port.add_nic(sample);
            }
            if counted.netns == NetnsRef::Host {
                let speed = |netdev| number(&sysfs.path(&format!("class/net/{netdev}/speed")));
                // -1, and so none, while there is no link.
                port.speed = counted.netdev.as_ref().and_then(speed);
                let class = format!("class/infiniband/{}/tc/1/traffic_class", counted.device);
                port.traffic_class = number(&sysfs.path(&class));
            }
            port
        });
        Self {
            node: fs::read_to_string("/proc/sys/kernel/hostname")
                .map(|name| name.trim().to_owned())
                .unwrap_or_default(),
            ports: ports.collect(),
        }
    }
}

/// The RDMA device of a VF's PF; a PF that has none here is named by its
/// address.
fn parent(pci: Option<&str>, rdma: &NodeRdma, sysfs: &Sysfs) -> Option<String> {
    let Sriov::Vf { pf, .. } = sysfs.pci(pci?).ok()?.sriov else {
        return None;
    };
    let mut devices = rdma.devices.iter();
    let device = devices.find(|placed| placed.pci.as_ref() == Some(&pf));
    Some(device.map_or(pf, |placed| placed.device.name.clone()))
}

/// A file's number, which may stand behind a text and `=`.
fn number(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.rsplit('=').next()?.trim().parse().ok()
}

/// A driver's name as a part of a metric's.
fn metric_name(raw: &str) -> String {
    let fit = |c: char| match c {
        _ if c.is_ascii_alphanumeric() => c.to_ascii_lowercase(),
        _ => '_',
    };
    raw.chars().map(fit).collect()
}

impl Port {
    /// Takes a NIC's counter over, where there is a name for it.
    fn add_nic(&mut self, sample: &NicSample) {
        let label = |wanted: &str| {
            let found = sample.labels.iter().find(|(name, _)| *name == wanted);
            found.map_or("", |(_, value)| *value)
        };
        let way = match label("direction") {
            "ingress" => "rx",
            _ => "tx",
        };
        let what = match sample.family {
            NicFamily::RdmaPackets | NicFamily::RdmaBytes => {
                let unit = match sample.family {
                    NicFamily::RdmaBytes => "bytes",
                    _ => "packets",
                };
                let name = format!("{way}_vport_rdma_{}_{unit}", label("cast"));
                return self.counters.push((name, sample.value));
            }
            NicFamily::Discarded if label("reason") == "any" => "discards",
            NicFamily::PauseFrames => "pause",
            _ => return,
        };
        let priority = label("priority");
        // Those of all priorities together would be counted twice in a sum.
        if priority.parse::<u8>().is_ok() {
            let name = format!("{way}_{what}");
            self.by_priority.push((name, priority, sample.value));
        }
    }

    fn labels(&self, node: &str) -> Labels {
        let number = self.number.to_string();
        let [node_guid, system_guid] = &self.guids;
        let is_root = match self.parent {
            Some(_) => "false",
            None => "true",
        };
        let pod = self.pod.as_ref();
        Labels::new([
            ("node_name", node),
            ("ifname", &self.device),
            ("port", &number),
            ("net_dev_name", self.netdev.as_deref().unwrap_or("")),
            ("node_guid", node_guid),
            ("sys_image_guid", system_guid),
            ("is_root", is_root),
            (
                "rdma_parent_name",
                self.parent.as_ref().unwrap_or(&self.device),
            ),
            ("pod_namespace", pod.map_or("", |pod| &pod.namespace)),
            ("pod_name", pod.map_or("", |pod| &pod.name)),
        ])
    }
}

/// The ports as OpenMetrics text.
pub fn encode(ports: &Ports) -> String {
    let mut families = Families::new(Format::OpenMetrics, 0);
    ports.encode(&mut families);
    families.finish()
}

impl Ports {
    pub(super) fn encode(&self, families: &mut Families) {
        let ports: Vec<_> = self
            .ports
            .iter()
            .map(|port| (port, port.labels(&self.node)))
            .collect();
        // A family's samples stand together, whatever the order of the ports.
        let mut counters = BTreeMap::<&str, Vec<(usize, Option<&str>, u64)>>::new();
        for (place, (port, _)) in ports.iter().enumerate() {
            for (name, value) in &port.counters {
                counters
                    .entry(name)
                    .or_default()
                    .push((place, None, *value));
            }
            for (name, priority, value) in &port.by_priority {
                let sample = (place, Some(*priority), *value);
                counters.entry(name).or_default().push(sample);
            }
        }
        let help = "As the device counts it, in Spiderpool's words";
        for (name, samples) in &counters {
            families.counter(&format!("rdma_{name}"), help, &|family| {
                for (place, priority, value) in samples {
                    let priority = priority.map(|priority| ("priority", priority));
                    family.sample(&ports[*place].1, priority.as_slice(), *value);
                }
            });
        }
        type Value = fn(&Port) -> Option<u64>;
        let gauges: [(&str, &str, Value); 2] = [
            (
                "rdma_vport_speed_mbps_total",
                "Speed of the port's network interface, megabits a second",
                |port| port.speed,
            ),
            (
                "rdma_device_tos_total",
                "Traffic class of all packets of the device, where one is set",
                |port| port.traffic_class,
            ),
        ];
        for (name, help, value) in gauges {
            if ports.iter().all(|(port, _)| value(port).is_none()) {
                continue;
            }
            families.gauge(name, help, None, &|family| {
                for (port, labels) in &ports {
                    if let Some(value) = value(port) {
                        family.sample(labels, &[], value);
                    }
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_names_fit_into_metrics() {
        assert_eq!(metric_name("np_cnp_sent"), "np_cnp_sent");
        assert_eq!(metric_name("tx.RoCE-only"), "tx_roce_only");
    }

    #[test]
    fn counters_of_nics_have_their_name_and_priority() {
        let sample = |family, labels: &[(&'static str, &'static str)]| NicSample {
            family,
            labels: labels.to_vec(),
            value: 7,
        };
        let mut port = Port::default();
        for sample in [
            sample(
                NicFamily::RdmaBytes,
                &[("direction", "ingress"), ("cast", "unicast")],
            ),
            sample(
                NicFamily::PauseFrames,
                &[("direction", "egress"), ("priority", "3")],
            ),
            sample(
                NicFamily::PauseFrames,
                &[("direction", "egress"), ("priority", "global")],
            ),
            sample(
                NicFamily::Discarded,
                &[
                    ("direction", "ingress"),
                    ("priority", "0"),
                    ("reason", "any"),
                ],
            ),
            sample(
                NicFamily::Discarded,
                &[
                    ("direction", "ingress"),
                    ("priority", ""),
                    ("reason", "any"),
                ],
            ),
        ] {
            port.add_nic(&sample);
        }
        let counters = [("rx_vport_rdma_unicast_bytes".to_owned(), 7)];
        assert_eq!(port.counters, counters);
        let by_priority = [("tx_pause", "3"), ("rx_discards", "0")];
        let expected = by_priority.map(|(name, priority)| (name.to_owned(), priority, 7));
        assert_eq!(port.by_priority, expected);
    }

    #[test]
    fn numbers_of_sysfs_may_have_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for (text, expected) in [
            ("200000\n", Some(200_000)),
            ("Global tclass=106\n", Some(106)),
            ("-1\n", None),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(number(&path), expected);
        }
    }
}
