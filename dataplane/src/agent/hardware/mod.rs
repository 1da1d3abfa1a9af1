//! RDMA devices and virtual functions of the node.

mod counters;
mod declare;
mod optional;
mod rdma;
mod sriov;

pub(super) use counters::HwView;
pub use declare::Nic;
pub(super) use rdma::RdmaView;

use std::sync::Arc;

use super::Agent;
use crate::{
    agent::Result,
    api::{
        Hardware,
        hardware::{CountersRequest, NodeRdma, Pf, PortOptions, RdmaResources, VfsRequest},
    },
    hw::HwStats,
    rdma::NetnsMode,
};

impl Hardware for Agent {
    fn rdma(&self) -> Result<NodeRdma> {
        self.rdma()
    }

    fn set_rdma_mode(&self, mode: NetnsMode) -> Result<NodeRdma> {
        self.set_rdma_mode(mode)
    }

    fn hw(&self) -> Result<Arc<HwStats>> {
        self.hw()
    }

    fn rdma_resources(&self) -> Result<RdmaResources> {
        self.rdma_resources()
    }

    fn rdma_counters(&self) -> Result<Vec<PortOptions>> {
        self.rdma_counters()
    }

    fn set_rdma_counters(&self, request: &CountersRequest) -> Result<Vec<PortOptions>> {
        self.set_rdma_counters(request)
    }

    fn sriov(&self) -> Result<Vec<Pf>> {
        self.sriov()
    }

    fn set_vfs(&self, request: &VfsRequest) -> Result<Pf> {
        self.set_vfs(request)
    }
}
