//! From the agent's data to metric families.

use std::fmt;

use prometheus_client::{
    collector::Collector, encoding::DescriptorEncoder, registry::Registry, registry::Unit,
};

use super::{
    Compat, endpoints::EndpointRows, family::Families, hw::encode_hw, policy::encode_policy,
    rdma::encode_rdma, spiderpool, uplinks::encode_uplinks,
};
use crate::{
    agent::Result,
    api::{
        Dataplane,
        hardware::NodeRdma,
        types::{Endpoint, FlowStats, Health, Stats, Status, TcMechanism, policy::PolicyStatus},
    },
    hw::HwStats,
    link::Sysfs,
};

/// What one scrape tells, read at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Counters.
    pub stats: Stats,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// The agent.
    pub status: Status,
    /// RDMA devices, where the kernel has RDMA.
    pub rdma: Option<NodeRdma>,
    /// What hardware counts, where the kernel has RDMA.
    pub hw: Option<HwStats>,
    /// Policies, where there is a source of them.
    pub policy: Option<PolicyStatus>,
}

impl Snapshot {
    /// Reads everything from the agent.
    ///
    /// # Errors
    /// The kernel's maps cannot be read.
    pub fn read(dataplane: &dyn Dataplane) -> Result<Self> {
        Ok(Self {
            stats: dataplane.stats()?,
            endpoints: dataplane.endpoints(),
            status: dataplane.status()?,
            rdma: dataplane.hardware().and_then(|node| node.rdma().ok()),
            hw: dataplane.hardware().and_then(|node| node.hw().ok()),
            policy: match dataplane.policies() {
                Some(policies) => {
                    Some(policies.policy_status()?).filter(|policy| policy.source.is_some())
                }
                None => None,
            },
        })
    }
}

/// The snapshot as OpenMetrics text.
///
/// # Errors
/// None in practice: a [`String`] takes any text.
pub fn encode(snapshot: Snapshot) -> std::result::Result<String, fmt::Error> {
    // An endpoint has some 30 samples of some 150 bytes.
    let mut text = String::with_capacity(8192 + snapshot.stats.endpoints.len() * 5000);
    let mut registry = Registry::with_prefix("sluice");
    registry.register_collector(Box::new(snapshot));
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// The same with, before it, what other exporters would say.
pub(super) fn encode_with(
    compat: &[Compat],
    snapshot: Snapshot,
) -> std::result::Result<String, fmt::Error> {
    let mut text = String::new();
    for compat in compat {
        match compat {
            Compat::Spiderpool => text.push_str(&as_spiderpool(&snapshot)?),
        }
    }
    text.push_str(&encode(snapshot)?);
    Ok(text)
}

/// Without the end mark, since more follows.
fn as_spiderpool(snapshot: &Snapshot) -> std::result::Result<String, fmt::Error> {
    let (Some(hw), Some(rdma)) = (&snapshot.hw, &snapshot.rdma) else {
        return Ok(String::new());
    };
    let text = spiderpool::encode(spiderpool::Ports::read(hw, rdma, &Sysfs::default()))?;
    Ok(text.trim_end_matches("# EOF\n").to_owned())
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families::new(encoder);
        let Self {
            stats,
            endpoints,
            status,
            rdma,
            hw,
            policy,
        } = self;
        EndpointRows::new(stats, endpoints).encode(&mut families)?;
        encode_uplinks(&mut families, &stats.uplinks, status)?;
        if let Some(rdma) = rdma {
            encode_rdma(&mut families, rdma)?;
        }
        if let Some(hw) = hw {
            encode_hw(&mut families, hw)?;
        }
        if let Some(policy) = policy {
            encode_policy(&mut families, policy)?;
        }
        encode_agent(&mut families, stats, status)
    }
}

fn encode_flows(families: &mut Families<'_>, flows: &FlowStats) -> fmt::Result {
    let help = "What happened to connections of isolated endpoints";
    families.counter("flow_events", help, &|family| {
        for (event, count) in &flows.events {
            family.sample(&[("event", event)], &[], *count)?;
        }
        Ok(())
    })?;
    let help = "Connections remembered, at most ten seconds ago";
    families.gauge("flows", help, None, &|family| {
        family.sample(&[("state", "answered")], &[], flows.answered)?;
        family.sample(&[("state", "unanswered")], &[], flows.unanswered)
    })?;
    let help = "Connections that the tables have room for";
    families.gauge("flows_limit", help, None, &|family| {
        family.sample(&[("state", "answered")], &[], flows.answered_limit)?;
        family.sample(&[("state", "unanswered")], &[], flows.unanswered_limit)
    })
}

fn encode_agent(families: &mut Families<'_>, stats: &Stats, status: &Status) -> fmt::Result {
    let help = "Faults of the dataplane; each makes another number incomplete";
    families.counter("faults", help, &|family| {
        for (fault, count) in &stats.faults {
            family.sample(&[("fault", fault)], &[], *count)?;
        }
        Ok(())
    })?;
    let help = "Filters put back, and interfaces taken out of ipvlan mode l3s, after somebody had \
                done the contrary, since the agent started";
    families.counter("filter_repairs", help, &|family| {
        family.sample(&[], &[], stats.repairs)
    })?;
    encode_flows(families, &stats.flows)?;
    let single = |families: &mut Families<'_>, name: &str, help: &str, unit, value: u64| {
        families.gauge(name, help, unit, &|family| family.sample(&[], &[], value))
    };
    let (endpoints, limit) = (status.endpoints.into(), status.max_endpoints.into());
    single(families, "endpoints", "Endpoints attached", None, endpoints)?;
    single(
        families,
        "endpoints_limit",
        "Endpoints that fit",
        None,
        limit,
    )?;
    let problems = status.problems.len() as u64;
    let help = "What sluice status lists as not as it should be";
    single(families, "problems", help, None, problems)?;
    let help = "Time since the agent started";
    let uptime = status.uptime_seconds;
    single(families, "uptime", help, Some(&Unit::Seconds), uptime)?;

    let help = "Memory of a map when full, computed from its sizes";
    families.gauge("map_memory", help, Some(&Unit::Bytes), &|family| {
        for map in &status.maps {
            family.sample(
                &[("map", &map.name), ("kind", &map.kind)],
                &[],
                map.memory_bytes,
            )?;
        }
        Ok(())
    })?;
    families.gauge(
        "map_max_entries",
        "Entries that a map can hold",
        None,
        &|family| {
            for map in &status.maps {
                let labels = [("map", map.name.as_str()), ("kind", &map.kind)];
                family.sample(&labels, &[], map.max_entries.into())?;
            }
            Ok(())
        },
    )?;
    families.info("build", "The agent and what it runs on", &|family| {
        let layout = status.layout.to_string();
        let labels = [
            ("version", status.version.as_str()),
            ("layout", &layout),
            ("pipeline", &status.pipeline),
            ("kernel", &status.kernel),
            ("mechanism", mechanism(status.mechanism)),
        ];
        family.sample(&labels, &[], 1)
    })
}

/// 1 or 0.
pub(super) fn attached(health: &Health) -> u64 {
    u64::from(*health == Health::Attached)
}

/// As in the API.
pub(super) fn mechanism(mechanism: TcMechanism) -> &'static str {
    match mechanism {
        TcMechanism::Tcx => "tcx",
        TcMechanism::Clsact => "clsact",
    }
}
