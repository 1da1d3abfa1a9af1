//! Where the collector reads: the kernel, or in its place a simulated one.

use std::path::Path;

use super::nic;
use crate::{
    link::{Ethtool, LinkError, Netns, NetnsRef, NicStatistics},
    rdma::{Rdma, RdmaError},
};

/// What the collector reads from.
pub trait Sources: Send {
    /// A socket to the RDMA devices of a namespace.
    ///
    /// # Errors
    /// As [`Rdma::open`].
    fn rdma(&self, netns: &NetnsRef) -> Result<Rdma, RdmaError>;

    /// What the driver of a network interface counts, as far as it is of interest here.
    ///
    /// # Errors
    /// As [`Ethtool::statistics`].
    fn nic(&self, netns: &NetnsRef, interface: &str) -> Result<Option<NicStatistics>, LinkError>;

    /// Where processes are shown.
    fn processes(&self) -> &Path;
}

/// The kernel that the agent runs on.
#[derive(Debug)]
pub struct Kernel;

impl Sources for Kernel {
    fn rdma(&self, netns: &NetnsRef) -> Result<Rdma, RdmaError> {
        Rdma::open(&Netns::open(netns)?)
    }

    fn nic(&self, netns: &NetnsRef, interface: &str) -> Result<Option<NicStatistics>, LinkError> {
        Ethtool::open(&Netns::open(netns)?)?.statistics(interface, nic::wanted)
    }

    fn processes(&self) -> &Path {
        Path::new("/proc")
    }
}
