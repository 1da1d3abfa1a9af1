//! RDMA devices and virtual functions of the node.

mod declare;
mod rdma;
mod sriov;

pub use declare::Nic;
pub(super) use rdma::RdmaView;

use super::Agent;
use crate::{
    agent::Result,
    api::{
        Hardware,
        hardware::{NodeRdma, Pf, VfsRequest},
    },
    rdma::NetnsMode,
};

impl Hardware for Agent {
    fn rdma(&self) -> Result<NodeRdma> {
        self.rdma()
    }

    fn set_rdma_mode(&self, mode: NetnsMode) -> Result<NodeRdma> {
        self.set_rdma_mode(mode)
    }

    fn sriov(&self) -> Result<Vec<Pf>> {
        self.sriov()
    }

    fn set_vfs(&self, request: &VfsRequest) -> Result<Pf> {
        self.set_vfs(request)
    }
}
