//! RDMA devices and virtual functions: what travels, the requests, and what they need of the agent.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};

use super::{
    Dataplane,
    request::Parameters,
    server::{Answer, Server},
};
pub use crate::rdma::NodeRdma;
use crate::{
    agent::{Error, Result},
    api::types::PodName,
    hw::{Holder, Holding, HwStats},
    link::{NetnsRef, VfState},
    rdma::{CounterMode, Driver, Gid, NetnsMode, OptionalCounter, QueuePair},
};

/// What an endpoint has of RDMA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRdma {
    /// The RDMA device.
    pub device: String,
    /// Its port.
    pub port: u32,
    /// Whether the device is the pod's alone. Otherwise other pods and the node see it too.
    pub exclusive: bool,
    /// The GID to use; absent while the device has none for the interface's addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<Gid>,
    /// The same for programs that take it from their environment.
    pub environment: BTreeMap<String, String>,
}

/// `POST /v1/rdma/mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RdmaModeRequest {
    /// The mode that the node is to be in.
    pub mode: NetnsMode,
}

/// `POST /v1/sriov`: have a PF make this many VFs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VfsRequest {
    /// The PF, by its interface or its PCI address.
    pub pf: String,
    /// How many VFs it is to have.
    pub num_vfs: u32,
}

/// An element of `GET /v1/sriov`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pf {
    /// PCI address.
    pub pci: String,
    /// Interface in the node's namespace.
    pub interface: Option<String>,
    /// Vendor, four hexadecimal digits.
    pub vendor: String,
    /// Device, four hexadecimal digits.
    pub device: String,
    /// Kernel driver.
    pub driver: Option<String>,
    /// Whether its interface can carry traffic.
    pub carrier: bool,
    /// How many VFs it can have.
    pub total_vfs: u32,
    /// Its VFs.
    pub vfs: Vec<Vf>,
}

/// A VF.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vf {
    /// Number at its PF.
    pub index: u32,
    /// PCI address.
    pub pci: String,
    /// Kernel driver.
    pub driver: Option<String>,
    /// Interface in the node's namespace; absent while a pod has it.
    pub interface: Option<String>,
    /// RDMA devices in the node's namespace.
    pub rdma: Vec<String>,
    /// Whether a pod or a program in user space has it.
    pub in_use: bool,
    /// The endpoint that it is, when it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<u32>,
    /// The endpoint's pod, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// What the PF says of it, where its driver tells.
    pub state: Option<VfState>,
}

/// `GET /v1/rdma/resources`: the RDMA objects of the node and of every pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RdmaResources {
    /// How many of each kind each holder has of each device.
    pub holdings: Vec<Holding>,
    /// Every queue pair.
    pub queue_pairs: Vec<OwnedQueuePair>,
}

/// A queue pair and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedQueuePair {
    /// The device.
    pub device: String,
    /// The device's namespace.
    pub netns: NetnsRef,
    /// Whose.
    pub holder: Holder,
    /// The name of the process that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// The queue pair.
    pub pair: QueuePair,
}

/// An element of `GET /v1/rdma/counters`: what a port can count besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortOptions {
    /// The device.
    pub device: String,
    /// The port.
    pub port: u32,
    /// The device's namespace.
    pub netns: NetnsRef,
    /// The driver, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<Driver>,
    /// How queue pairs come into counter sets; absent where the kernel does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sets: Option<CounterMode>,
    /// The counters that can be switched.
    pub counters: Vec<OptionalCounter>,
}

/// `POST /v1/rdma/counters`: switch optional counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountersRequest {
    /// The device; every one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Its port; every one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u32>,
    /// Names of counters, as the driver has them.
    pub counters: Vec<String>,
    /// Whether they are to count.
    pub enable: bool,
}

/// What these requests need of the agent. Every method may block.
pub trait Hardware: Send + Sync {
    /// See [`Agent::rdma`](crate::agent::Agent::rdma).
    fn rdma(&self) -> Result<NodeRdma>;
    /// See [`Agent::set_rdma_mode`](crate::agent::Agent::set_rdma_mode).
    fn set_rdma_mode(&self, mode: NetnsMode) -> Result<NodeRdma>;
    /// See [`Agent::hw`](crate::agent::Agent::hw).
    fn hw(&self) -> Result<Arc<HwStats>>;
    /// See [`Agent::rdma_resources`](crate::agent::Agent::rdma_resources).
    fn rdma_resources(&self) -> Result<RdmaResources>;
    /// See [`Agent::rdma_counters`](crate::agent::Agent::rdma_counters).
    fn rdma_counters(&self) -> Result<Vec<PortOptions>>;
    /// See [`Agent::set_rdma_counters`](crate::agent::Agent::set_rdma_counters).
    fn set_rdma_counters(&self, request: &CountersRequest) -> Result<Vec<PortOptions>>;
    /// See [`Agent::sriov`](crate::agent::Agent::sriov).
    fn sriov(&self) -> Result<Vec<Pf>>;
    /// See [`Agent::set_vfs`](crate::agent::Agent::set_vfs).
    fn set_vfs(&self, request: &VfsRequest) -> Result<Pf>;
}

/// `/v1/rdma` and `/v1/sriov`.
pub(super) fn router() -> Router<Server> {
    Router::new()
        .route("/rdma", get(rdma))
        .route("/rdma/mode", post(set_rdma_mode))
        .route("/rdma/resources", get(rdma_resources))
        .route("/rdma/counters", get(rdma_counters).post(set_rdma_counters))
        .route("/sriov", get(sriov).post(set_vfs))
}

fn hardware(dataplane: &dyn Dataplane) -> Result<&dyn Hardware> {
    dataplane
        .hardware()
        .ok_or_else(|| Error::Unsupported("this agent has no access to hardware".into()))
}

async fn rdma(State(server): State<Server>) -> Answer<NodeRdma> {
    server.run(|node| hardware(node)?.rdma()).await
}

async fn set_rdma_mode(
    State(server): State<Server>,
    Parameters(request): Parameters<RdmaModeRequest>,
) -> Answer<NodeRdma> {
    server
        .run(move |node| hardware(node)?.set_rdma_mode(request.mode))
        .await
}

async fn rdma_resources(State(server): State<Server>) -> Answer<RdmaResources> {
    server.run(|node| hardware(node)?.rdma_resources()).await
}

async fn rdma_counters(State(server): State<Server>) -> Answer<Vec<PortOptions>> {
    server.run(|node| hardware(node)?.rdma_counters()).await
}

async fn set_rdma_counters(
    State(server): State<Server>,
    Parameters(request): Parameters<CountersRequest>,
) -> Answer<Vec<PortOptions>> {
    server
        .run(move |node| hardware(node)?.set_rdma_counters(&request))
        .await
}

async fn sriov(State(server): State<Server>) -> Answer<Vec<Pf>> {
    server.run(|node| hardware(node)?.sriov()).await
}

async fn set_vfs(
    State(server): State<Server>,
    Parameters(request): Parameters<VfsRequest>,
) -> Answer<Pf> {
    server
        .run(move |node| hardware(node)?.set_vfs(&request))
        .await
}
