//! What may be set, and within which bounds: the file's keys, and the agent's
//! flags and variables.

use std::path::PathBuf;

use clap::{Args, builder::RangedU64ValueParser};
use dataplane_ebpf::abi::MAX_ENDPOINTS;
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{LogLevel, MetricsAddress, NetworkPolicyScope, UnknownPods};
use crate::{
    agent::Nic,
    api::types::UplinkRequest,
    kernel::{TcMode, XdpPreference},
    metrics::Compat,
    rdma::NetnsMode,
};

/// Most connections that can be remembered: half a gigabyte of them.
const MAX_FLOWS: u32 = 1 << 22;
/// Most new connections a second of one endpoint that are remembered.
const MAX_FLOW_RATE: u32 = 1_000_000;
/// Most events a second that one endpoint may be granted.
const MAX_EVENT_RATE: u32 = 10_000;
/// Least and most room for the addresses that policies name.
const MIN_IDENTITIES: u32 = 1024;
const MAX_IDENTITIES: u32 = 1 << 20;

/// What one source of configuration says: the file's keys, and the flags and
/// variables of `sluice agent`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where the API listens; on the command line a flag of every command.
    #[arg(skip)]
    pub socket: Option<PathBuf>,

    /// Folder for what must outlive the agent, besides the pins
    /// [default: /var/lib/sluice]
    #[arg(long, value_name = "DIR", env = "SLUICE_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    /// Folder for the pinned maps, links and programs, on a mounted bpffs
    /// [default: /sys/fs/bpf/sluice]
    #[arg(long, value_name = "DIR", env = "SLUICE_BPFFS")]
    pub bpffs: Option<PathBuf>,

    /// Serve /metrics and /healthz at this address, or "off"
    /// [default: 127.0.0.1:9655]
    #[arg(long, value_name = "IP:PORT", env = "SLUICE_METRICS_ADDRESS")]
    pub metrics_address: Option<MetricsAddress>,

    /// Serve numbers under the names of another exporter too, so that its
    /// dashboards go on working; several separated by commas
    #[arg(
        long,
        value_enum,
        value_name = "EXPORTER",
        env = "SLUICE_METRICS_COMPAT",
        value_delimiter = ','
    )]
    pub metrics_compat: Option<Vec<Compat>>,

    /// Endpoints that the maps have room for, 1 to 4096 [default: 512]
    #[arg(long, value_name = "N", env = "SLUICE_MAX_ENDPOINTS",
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=u64::from(MAX_ENDPOINTS)))]
    #[serde(deserialize_with = "max_endpoints")]
    pub max_endpoints: Option<u32>,

    /// Connections of isolated endpoints that are remembered, 1024 to 4194304
    /// [default: 65536]
    #[arg(long, value_name = "N", env = "SLUICE_MAX_FLOWS",
          value_parser = RangedU64ValueParser::<u32>::new().range(1024..=u64::from(MAX_FLOWS)))]
    #[serde(deserialize_with = "max_flows")]
    pub max_flows: Option<u32>,

    /// New connections a second of each isolated endpoint that are remembered,
    /// 1 to 1000000 [default: 2048]
    #[arg(long, value_name = "N", env = "SLUICE_FLOW_RATE",
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=u64::from(MAX_FLOW_RATE)))]
    #[serde(deserialize_with = "flow_rate")]
    pub flow_rate: Option<u32>,

    /// Events a second that each endpoint may cause, 0 to 10000
    /// [default: 10]
    #[arg(long, value_name = "N", env = "SLUICE_EVENT_RATE",
          value_parser = RangedU64ValueParser::<u32>::new().range(0..=u64::from(MAX_EVENT_RATE)))]
    #[serde(deserialize_with = "event_rate")]
    pub event_rate: Option<u32>,

    /// How endpoints are attached [default: auto]
    #[arg(long, value_enum, env = "SLUICE_TC")]
    pub tc: Option<TcMode>,

    /// How XDP runs on uplinks [default: auto]
    #[arg(long, value_enum, env = "SLUICE_XDP")]
    pub xdp: Option<XdpPreference>,

    /// Uplink to register at start, with host reach; several separated by
    /// commas. Replaces the file's list.
    #[arg(long = "uplink", value_name = "INTERFACE", env = "SLUICE_UPLINKS",
          value_delimiter = ',', value_parser = uplink)]
    pub uplinks: Option<Vec<UplinkRequest>>,

    /// Folder of Kubernetes manifests: policies, pods, namespaces. Without it
    /// every endpoint is open
    #[arg(long, value_name = "DIR", env = "SLUICE_POLICY_DIR")]
    pub policy_dir: Option<PathBuf>,

    /// Networks that a NetworkPolicy without policy-for is about
    /// [default: cluster]
    #[arg(long, value_enum, env = "SLUICE_NETWORK_POLICY")]
    pub network_policy: Option<NetworkPolicyScope>,

    /// What a pod may do that the policy folder does not know: "isolate" (it
    /// may do nothing), "open", or "open-after=SECONDS" [default: isolate]
    #[arg(long, value_name = "WHAT", env = "SLUICE_UNKNOWN_PODS")]
    pub unknown_pods: Option<UnknownPods>,

    /// Whether what the node itself sends to its pods always passes
    /// [default: true]
    #[arg(long, value_name = "BOOL", env = "SLUICE_ALLOW_NODE")]
    pub allow_node: Option<bool>,

    /// Whether policies only count and tell what they would drop
    /// [default: false]
    #[arg(long, value_name = "BOOL", env = "SLUICE_POLICY_AUDIT")]
    pub policy_audit: Option<bool>,

    /// Addresses that policies may name on this node, and as many prefixes,
    /// 1024 to 1048576 [default: 65536]
    #[arg(long, value_name = "N", env = "SLUICE_IDENTITIES",
          value_parser = RangedU64ValueParser::<u32>::new()
              .range(u64::from(MIN_IDENTITIES)..=u64::from(MAX_IDENTITIES)))]
    #[serde(deserialize_with = "identities")]
    pub identities: Option<u32>,

    /// Who is to see RDMA devices; in the file only.
    #[arg(skip)]
    pub rdma_mode: Option<NetnsMode>,

    /// Whether RDMA ports are to count by process; in the file only.
    #[arg(skip)]
    pub rdma_pod_counters: Option<bool>,

    /// What NICs are to be; in the file only.
    #[arg(skip)]
    pub nics: Option<Vec<Nic>>,

    /// How much the agent logs [default: info]
    #[arg(long, value_enum, env = "SLUICE_LOG")]
    pub log: Option<LogLevel>,
}

impl Settings {
    /// What these settings say, and where they say nothing, the others.
    pub(super) fn or(self, others: Self) -> Self {
        Self {
            socket: self.socket.or(others.socket),
            state_dir: self.state_dir.or(others.state_dir),
            bpffs: self.bpffs.or(others.bpffs),
            metrics_address: self.metrics_address.or(others.metrics_address),
            metrics_compat: self.metrics_compat.or(others.metrics_compat),
            max_endpoints: self.max_endpoints.or(others.max_endpoints),
            max_flows: self.max_flows.or(others.max_flows),
            flow_rate: self.flow_rate.or(others.flow_rate),
            event_rate: self.event_rate.or(others.event_rate),
            tc: self.tc.or(others.tc),
            xdp: self.xdp.or(others.xdp),
            uplinks: self.uplinks.or(others.uplinks),
            policy_dir: self.policy_dir.or(others.policy_dir),
            network_policy: self.network_policy.or(others.network_policy),
            unknown_pods: self.unknown_pods.or(others.unknown_pods),
            allow_node: self.allow_node.or(others.allow_node),
            policy_audit: self.policy_audit.or(others.policy_audit),
            identities: self.identities.or(others.identities),
            rdma_mode: self.rdma_mode.or(others.rdma_mode),
            rdma_pod_counters: self.rdma_pod_counters.or(others.rdma_pod_counters),
            nics: self.nics.or(others.nics),
            log: self.log.or(others.log),
        }
    }
}

fn uplink(interface: &str) -> Result<UplinkRequest, String> {
    if interface.is_empty() {
        return Err("an interface's name is missing".into());
    }
    Ok(UplinkRequest {
        interface: interface.into(),
        host_reach: true,
    })
}

fn max_endpoints<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    within(deserializer, 1, MAX_ENDPOINTS)
}

fn max_flows<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    within(deserializer, 1024, MAX_FLOWS)
}

fn flow_rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    within(deserializer, 1, MAX_FLOW_RATE)
}

fn event_rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    within(deserializer, 0, MAX_EVENT_RATE)
}

fn identities<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    within(deserializer, MIN_IDENTITIES, MAX_IDENTITIES)
}

fn within<'de, D: Deserializer<'de>>(
    deserializer: D,
    least: u32,
    most: u32,
) -> Result<Option<u32>, D::Error> {
    let number = i64::deserialize(deserializer)?;
    u32::try_from(number)
        .ok()
        .filter(|number| (least..=most).contains(number))
        .map(Some)
        .ok_or_else(|| D::Error::custom(format!("{number} is not from {least} to {most}")))
}
