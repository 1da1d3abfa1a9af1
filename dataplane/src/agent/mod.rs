//! The agent: one a node.

mod error;

pub use error::{Error, Result};
use ipnet::IpNet;
use tokio::sync::broadcast;

use crate::api::types::{
    AttachRequest, Block, Endpoint, EndpointSelector, Event, Stats, Status, Uplink, UplinkRequest,
};

/// Owns the dataplane of the node. Its methods block for as long as the
/// kernel takes (a TCX attachment: some 10 ms), so asynchronous callers run
/// them on a thread of their own.
pub struct Agent {}

impl Agent {
    /// Attaches an interface; attaching it again returns the same endpoint.
    pub fn attach(&self, _request: &AttachRequest) -> Result<Endpoint> {
        unimplemented!()
    }
    /// Detaches an endpoint and forgets its counters.
    pub fn detach(&self, _selector: &EndpointSelector) -> Result<Endpoint> {
        unimplemented!()
    }
    /// The endpoints, by id.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        unimplemented!()
    }
    /// Every counter.
    pub fn stats(&self) -> Result<Stats> {
        unimplemented!()
    }
    /// The state of the agent and its dataplane.
    pub fn status(&self) -> Result<Status> {
        unimplemented!()
    }
    /// Registers an uplink, or changes its settings.
    pub fn add_uplink(&self, _request: &UplinkRequest) -> Result<Uplink> {
        unimplemented!()
    }
    /// Forgets an uplink.
    pub fn remove_uplink(&self, _interface: &str) -> Result<Uplink> {
        unimplemented!()
    }
    /// The uplinks, by name.
    pub fn uplinks(&self) -> Vec<Uplink> {
        unimplemented!()
    }
    /// Blocks a source prefix at every uplink.
    pub fn block(&self, _cidr: IpNet) -> Result<Block> {
        unimplemented!()
    }
    /// Lifts a block; returns what it had stopped.
    pub fn unblock(&self, _cidr: IpNet) -> Result<Block> {
        unimplemented!()
    }
    /// The block list.
    pub fn blocks(&self) -> Result<Vec<Block>> {
        unimplemented!()
    }
    /// Events from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        unimplemented!()
    }
}
