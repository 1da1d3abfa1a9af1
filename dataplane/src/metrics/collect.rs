//! From counters to OpenMetrics.

use std::{fmt, fmt::Write as _};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Registry,
};

use crate::api::{
    Dataplane,
    types::{Block, Count, DropCount, Endpoint, Health, RoceCount, Stats, Status, TcMechanism},
};

/// Everything that a scrape shows.
#[derive(Debug)]
struct Snapshot {
    endpoints: Vec<Endpoint>,
    stats: Stats,
    status: Status,
    blocks: Vec<Block>,
}

/// Reads all counters and writes them as OpenMetrics.
///
/// # Errors
/// The maps cannot be read.
pub(super) fn encode(dataplane: &dyn Dataplane) -> anyhow::Result<String> {
    let snapshot = Snapshot {
        endpoints: dataplane.endpoints(),
        stats: dataplane.stats()?,
        status: dataplane.status()?,
        blocks: dataplane.blocks()?,
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// The text format of Prometheus 0.0.4, for readers that do not ask for
/// OpenMetrics: there a counter's family has the name of its samples.
pub(super) fn to_classic(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help = None;
    for line in openmetrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
            continue;
        }
        let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let suffix = if kind == "counter" { "_total" } else { "" };
        if let Some((_, words)) = help.take() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# HELP {name}{suffix} {words}");
        }
        let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
    }
    text
}

type Labels<'a> = [(&'static str, &'a str)];

/// One family of counters or gauges.
struct Family<'a>(MetricEncoder<'a>, bool);

impl Family<'_> {
    fn sample(&mut self, labels: &Labels<'_>, value: u64) -> fmt::Result {
        // The encoder takes a fixed-size array or a vector of label pairs.
        let labels = labels.to_vec();
        let mut metric = self.0.encode_family(&labels)?;
        if self.1 {
            metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
        } else {
            metric.encode_gauge(&(value as f64))
        }
    }
}

fn counter<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
) -> Result<Family<'a>, fmt::Error> {
    encoder
        .encode_descriptor(name, help, None, MetricType::Counter)
        .map(|metric| Family(metric, true))
}

fn gauge<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
) -> Result<Family<'a>, fmt::Error> {
    encoder
        .encode_descriptor(name, help, None, MetricType::Gauge)
        .map(|metric| Family(metric, false))
}

/// Packets or bytes of a count, with the unit's word in the metric's name.
#[derive(Clone, Copy)]
struct Unit {
    name: &'static str,
    of: fn(&Count) -> u64,
}

const UNITS: [Unit; 2] = [
    Unit {
        name: "packets",
        of: |count| count.packets,
    },
    Unit {
        name: "bytes",
        of: |count| count.bytes,
    },
];

/// What identifies the owner of a counter.
struct Owner<'a> {
    endpoint: String,
    interface: &'a str,
    namespace: &'a str,
    pod: &'a str,
    uplink: &'a str,
}

impl<'a> Owner<'a> {
    fn labels<'b>(&'b self, more: &[(&'static str, &'b str)]) -> Vec<(&'static str, &'b str)> {
        let mut labels = vec![
            ("endpoint", self.endpoint.as_str()),
            ("interface", self.interface),
            ("namespace", self.namespace),
            ("pod", self.pod),
            ("uplink", self.uplink),
        ];
        labels.extend_from_slice(more);
        labels
    }
}

impl Snapshot {
    /// Endpoints and uplinks with their drops and RoCE counters.
    fn owners(&self) -> Vec<(Owner<'_>, &[DropCount], &[RoceCount])> {
        let endpoints = self.stats.endpoints.iter().map(|stats| {
            (
                self.owner(stats.id),
                stats.drops.as_slice(),
                stats.roce.as_slice(),
            )
        });
        let uplinks = self.stats.uplinks.iter().map(|stats| {
            let owner = Owner {
                endpoint: String::new(),
                interface: &stats.interface,
                namespace: "",
                pod: "",
                uplink: &stats.interface,
            };
            (owner, stats.drops.as_slice(), stats.roce.as_slice())
        });
        endpoints.chain(uplinks).collect()
    }

    fn owner(&self, id: u32) -> Owner<'_> {
        let found = self
            .endpoints
            .binary_search_by_key(&id, |endpoint| endpoint.id)
            .ok()
            .and_then(|index| self.endpoints.get(index));
        let pod = found.and_then(|endpoint| endpoint.pod.as_ref());
        Owner {
            endpoint: id.to_string(),
            interface: found.map_or("", |endpoint| &endpoint.interface),
            namespace: pod.map_or("", |pod| &pod.namespace),
            pod: pod.map_or("", |pod| &pod.name),
            uplink: found.map_or("", |endpoint| endpoint.uplink.as_deref().unwrap_or("")),
        }
    }

    fn endpoint_counters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for unit in UNITS {
            let name = format!("sluice_endpoint_{}", unit.name);
            let help = format!("{} that passed, seen from the pod", title(unit.name));
            let mut family = counter(encoder, &name, &help)?;
            for stats in &self.stats.endpoints {
                let owner = self.owner(stats.id);
                for (direction, count) in [("ingress", &stats.ingress), ("egress", &stats.egress)] {
                    let labels = owner.labels(&[("direction", direction)]);
                    family.sample(&labels, (unit.of)(count))?;
                }
            }
        }
        Ok(())
    }

    fn drops(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for unit in UNITS {
            let name = format!("sluice_drop_{}", unit.name);
            let help = format!("{} dropped, by reason", title(unit.name));
            let mut family = counter(encoder, &name, &help)?;
            for (owner, drops, _) in self.owners() {
                for drop in drops {
                    let labels =
                        owner.labels(&[("direction", &drop.direction), ("reason", &drop.reason)]);
                    family.sample(&labels, (unit.of)(&drop.count))?;
                }
            }
        }
        Ok(())
    }

    /// Operations partition the packets; marks come besides, so they are a
    /// metric of their own that nobody adds up with the others by mistake.
    fn roce(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for unit in UNITS {
            let name = format!("sluice_roce_{}", unit.name);
            let help = format!("RoCE {} seen on the wire, by operation", unit.name);
            let mut family = counter(encoder, &name, &help)?;
            for (owner, _, roce) in self.owners() {
                for roce in roce.iter().filter(|roce| roce.operation) {
                    let labels = owner.labels(&[
                        ("direction", &roce.direction),
                        ("transport", &roce.transport),
                        ("operation", &roce.kind),
                        ("source", "wire"),
                    ]);
                    family.sample(&labels, (unit.of)(&roce.count))?;
                }
            }
        }
        let mut family = counter(
            encoder,
            "sluice_roce_mark_packets",
            "RoCE packets on the wire that carry a mark: CE, NAK, retransmission, gap",
        )?;
        for (owner, _, roce) in self.owners() {
            for roce in roce.iter().filter(|roce| !roce.operation) {
                let labels = owner.labels(&[
                    ("direction", &roce.direction),
                    ("transport", &roce.transport),
                    ("mark", &roce.kind),
                    ("source", "wire"),
                ]);
                family.sample(&labels, roce.count.packets)?;
            }
        }
        Ok(())
    }

    fn uplinks(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for unit in UNITS {
            let name = format!("sluice_uplink_{}", unit.name);
            let help = format!("{} at an uplink, by what was done", title(unit.name));
            let mut family = counter(encoder, &name, &help)?;
            for stats in &self.stats.uplinks {
                for (what, count) in &stats.counters {
                    let labels = [("uplink", stats.interface.as_str()), ("counter", what)];
                    family.sample(&labels, (unit.of)(count))?;
                }
            }
        }
        let blocked = self
            .blocks
            .iter()
            .fold(0, |sum, block| sum + block.count.packets);
        counter(
            encoder,
            "sluice_blocked_packets",
            "Packets that the present block list has stopped",
        )?
        .sample(&[], blocked)?;
        gauge(
            encoder,
            "sluice_block_list_prefixes",
            "Prefixes on the block list",
        )?
        .sample(&[], self.blocks.len() as u64)
    }

    fn agent(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let status = &self.status;
        gauge(encoder, "sluice_build_info", "The agent's version")?.sample(
            &[("version", &status.version), ("kernel", &status.kernel)],
            1,
        )?;
        gauge(encoder, "sluice_endpoints", "Endpoints in the dataplane")?
            .sample(&[], status.endpoints.into())?;
        gauge(encoder, "sluice_endpoints_max", "Endpoints that fit")?
            .sample(&[], status.max_endpoints.into())?;
        let mut family = gauge(
            encoder,
            "sluice_endpoint_info",
            "How an endpoint is attached; 0 while it is not",
        )?;
        for endpoint in &self.endpoints {
            let owner = self.owner(endpoint.id);
            let mechanism = match endpoint.mechanism {
                TcMechanism::Tcx => "tcx",
                TcMechanism::Clsact => "clsact",
            };
            let labels = owner.labels(&[("kind", &endpoint.kind), ("mechanism", mechanism)]);
            family.sample(&labels, u64::from(endpoint.health == Health::Attached))?;
        }
        let mut family = gauge(
            encoder,
            "sluice_map_memory_bytes",
            "Memory of a map when it is full",
        )?;
        for map in &status.maps {
            family.sample(&[("map", &map.name)], map.memory_bytes)?;
        }
        let mut family = counter(
            encoder,
            "sluice_faults",
            "Times that the dataplane could not do or count something",
        )?;
        for (fault, count) in &self.stats.faults {
            family.sample(&[("fault", fault)], *count)?;
        }
        counter(
            encoder,
            "sluice_filter_repairs",
            "Filters put back after somebody had removed them",
        )?
        .sample(&[], self.stats.repairs)
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.endpoint_counters(&mut encoder)?;
        self.drops(&mut encoder)?;
        self.roce(&mut encoder)?;
        self.uplinks(&mut encoder)?;
        self.agent(&mut encoder)
    }
}

fn title(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_classic_counter_is_named_like_its_samples() {
        let openmetrics = "# HELP a_packets Packets.\n# TYPE a_packets counter\n\
                           # UNIT a_packets packets\na_packets_total{x=\"1\"} 5\n\
                           # HELP b Things.\n# TYPE b gauge\nb 1\n# EOF\n";
        assert_eq!(
            to_classic(openmetrics),
            "# HELP a_packets_total Packets.\n# TYPE a_packets_total counter\n\
             a_packets_total{x=\"1\"} 5\n# HELP b Things.\n# TYPE b gauge\nb 1\n"
        );
    }
}
