//! From the agent's data to metric families.

use std::sync::Arc;

use super::{
    Compat,
    endpoints::EndpointRows,
    family::{Families, Format, Unit},
    hw::encode_hw,
    policy::encode_policy,
    rdma::encode_rdma,
    spiderpool,
    uplinks::encode_uplinks,
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
    pub hw: Option<Arc<HwStats>>,
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

/// The snapshot as text.
pub fn encode(format: Format, snapshot: &Snapshot) -> String {
    encode_with(format, &[], snapshot)
}

/// The same with, before it, what other exporters would say.
pub(super) fn encode_with(format: Format, compat: &[Compat], snapshot: &Snapshot) -> String {
    let mut families = Families::new(format, snapshot.size());
    for compat in compat {
        match compat {
            Compat::Spiderpool => {
                if let (Some(hw), Some(rdma)) = (&snapshot.hw, &snapshot.rdma) {
                    let ports = spiderpool::Ports::read(hw, rdma, &Sysfs::default());
                    ports.encode(&mut families);
                }
            }
        }
    }
    families.set_prefix("sluice_");
    snapshot.encode(&mut families);
    families.finish()
}

impl Snapshot {
    /// About how many bytes its text has, rather more than less.
    fn size(&self) -> usize {
        // An endpoint has some 30 samples of some 150 bytes; a counter of a pod's some 250.
        let endpoints = self.stats.endpoints.len() * 5000;
        let counters = self.hw.iter().flat_map(|hw| {
            let shares = hw.shares.iter().map(|share| share.counters.len());
            let ports = hw.ports.iter().map(|port| port.counters.len());
            shares.chain(ports).chain([hw.holdings.len()])
        });
        16_384 + endpoints + 250 * counters.sum::<usize>()
    }

    fn encode(&self, families: &mut Families) {
        let Self {
            stats,
            endpoints,
            status,
            rdma,
            hw,
            policy,
        } = self;
        EndpointRows::new(stats, endpoints).encode(families);
        encode_uplinks(families, &stats.uplinks, status);
        if let Some(rdma) = rdma {
            encode_rdma(families, rdma);
        }
        if let Some(hw) = hw {
            encode_hw(families, hw);
        }
        if let Some(policy) = policy {
            encode_policy(families, policy);
        }
        encode_agent(families, stats, status);
    }
}

fn encode_flows(families: &mut Families, flows: &FlowStats) {
    let help = "What happened to connections of isolated endpoints";
    families.counter("flow_events", help, &|family| {
        for (event, count) in &flows.events {
            family.value(&[("event", event)], *count);
        }
    });
    let help = "Connections remembered, at most ten seconds ago";
    families.gauge("flows", help, None, &|family| {
        family.value(&[("state", "answered")], flows.answered);
        family.value(&[("state", "unanswered")], flows.unanswered);
    });
    let help = "Connections that the tables have room for";
    families.gauge("flows_limit", help, None, &|family| {
        family.value(&[("state", "answered")], flows.answered_limit);
        family.value(&[("state", "unanswered")], flows.unanswered_limit);
    });
}

fn encode_agent(families: &mut Families, stats: &Stats, status: &Status) {
    let help = "Faults of the dataplane; each makes another number incomplete";
    families.counter("faults", help, &|family| {
        for (fault, count) in &stats.faults {
            family.value(&[("fault", fault)], *count);
        }
    });
    let help = "Filters put back, and interfaces taken out of ipvlan mode l3s, after somebody had \
                done the contrary, since the agent started";
    families.counter("filter_repairs", help, &|family| {
        family.value(&[], stats.repairs);
    });
    encode_flows(families, &stats.flows);
    let single = |families: &mut Families, name: &str, help: &str, unit, value: u64| {
        families.gauge(name, help, unit, &|family| family.value(&[], value));
    };
    let (endpoints, limit) = (status.endpoints.into(), status.max_endpoints.into());
    single(families, "endpoints", "Endpoints attached", None, endpoints);
    single(
        families,
        "endpoints_limit",
        "Endpoints that fit",
        None,
        limit,
    );
    let problems = status.problems.len() as u64;
    let help = "What sluice status lists as not as it should be";
    single(families, "problems", help, None, problems);
    let help = "Time since the agent started";
    let uptime = status.uptime_seconds;
    single(families, "uptime", help, Some(Unit::Seconds), uptime);

    let help = "Memory of a map when full, computed from its sizes";
    families.gauge("map_memory", help, Some(Unit::Bytes), &|family| {
        for map in &status.maps {
            let labels = [("map", map.name.as_str()), ("kind", &map.kind)];
            family.value(&labels, map.memory_bytes);
        }
    });
    families.gauge(
        "map_max_entries",
        "Entries that a map can hold",
        None,
        &|family| {
            for map in &status.maps {
                let labels = [("map", map.name.as_str()), ("kind", &map.kind)];
                family.value(&labels, map.max_entries.into());
            }
        },
    );
    families.info("build", "The agent and what it runs on", &|family| {
        let layout = status.layout.to_string();
        let labels = [
            ("version", status.version.as_str()),
            ("layout", &layout),
            ("pipeline", &status.pipeline),
            ("kernel", &status.kernel),
            ("mechanism", mechanism(status.mechanism)),
        ];
        family.value(&labels, 1);
    });
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
