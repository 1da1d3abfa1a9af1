//! What the API and the metrics need of the agent.

use ipnet::IpNet;
use tokio::sync::broadcast;

use super::{
    Hardware,
    roce::RoceFlows,
    types::{
        AttachRequest, Block, Endpoint, EndpointSelector, Event, Stats, Status, Uplink,
        UplinkRequest, cni,
        policy::{
            EndpointPolicy, EndpointRules, ExplainRequest, ExplainedFlow, PolicyStatus,
            VerifyRequest,
        },
    },
};
use crate::agent::{Agent, Result};

/// The operations behind the API. [`Agent`] is the one that touches the
/// kernel; a test answers from memory, without root. Every method may block.
pub trait Dataplane: Send + Sync + 'static {
    /// See [`Agent::attach`].
    fn attach(&self, request: &AttachRequest) -> Result<Endpoint>;
    /// See [`Agent::detach`].
    fn detach(&self, selector: &EndpointSelector) -> Result<Endpoint>;
    /// See [`Agent::endpoints`].
    fn endpoints(&self) -> Vec<Endpoint>;
    /// See [`Agent::stats`].
    fn stats(&self) -> Result<Stats>;
    /// See [`Agent::status`].
    fn status(&self) -> Result<Status>;
    /// See [`Agent::add_uplink`].
    fn add_uplink(&self, request: &UplinkRequest) -> Result<Uplink>;
    /// See [`Agent::remove_uplink`].
    fn remove_uplink(&self, interface: &str) -> Result<Uplink>;
    /// See [`Agent::uplinks`].
    fn uplinks(&self) -> Vec<Uplink>;
    /// See [`Agent::block`].
    fn block(&self, cidr: IpNet) -> Result<Block>;
    /// See [`Agent::unblock`].
    fn unblock(&self, cidr: IpNet) -> Result<Block>;
    /// See [`Agent::blocks`].
    fn blocks(&self) -> Result<Vec<Block>>;
    /// See [`Agent::events`].
    fn events(&self) -> broadcast::Receiver<Event>;
    /// See [`Agent::roce_flows`].
    fn roce_flows(&self) -> Result<RoceFlows>;
    /// What knows the node's hardware, where there is such a thing.
    fn hardware(&self) -> Option<&dyn Hardware>;
    /// What serves the CNI plugin, where there is such a thing.
    fn cni(&self) -> Option<&dyn Cni>;
    /// What knows of policies, where there is such a thing.
    fn policies(&self) -> Option<&dyn Policies>;
}

impl Dataplane for Agent {
    fn attach(&self, request: &AttachRequest) -> Result<Endpoint> {
        self.attach(request)
    }

    fn detach(&self, selector: &EndpointSelector) -> Result<Endpoint> {
        self.detach(selector)
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        self.endpoints()
    }

    fn stats(&self) -> Result<Stats> {
        self.stats()
    }

    fn status(&self) -> Result<Status> {
        self.status()
    }

    fn add_uplink(&self, request: &UplinkRequest) -> Result<Uplink> {
        self.add_uplink(request)
    }

    fn remove_uplink(&self, interface: &str) -> Result<Uplink> {
        self.remove_uplink(interface)
    }

    fn uplinks(&self) -> Vec<Uplink> {
        self.uplinks()
    }

    fn block(&self, cidr: IpNet) -> Result<Block> {
        self.block(cidr)
    }

    fn unblock(&self, cidr: IpNet) -> Result<Block> {
        self.unblock(cidr)
    }

    fn blocks(&self) -> Result<Vec<Block>> {
        self.blocks()
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events()
    }

    fn roce_flows(&self) -> Result<RoceFlows> {
        self.roce_flows()
    }

    fn hardware(&self) -> Option<&dyn Hardware> {
        Some(self)
    }

    fn cni(&self) -> Option<&dyn Cni> {
        Some(self)
    }

    fn policies(&self) -> Option<&dyn Policies> {
        Some(self)
    }
}

/// Questions about policies. Every method may block.
pub trait Policies: Send + Sync {
    /// See [`Agent::policy_status`].
    fn policy_status(&self) -> Result<PolicyStatus>;
    /// See [`Agent::endpoint_rules`].
    fn endpoint_rules(&self, id: u32) -> Result<EndpointRules>;
    /// See [`Agent::explain`].
    fn explain(&self, request: &ExplainRequest) -> Result<Vec<ExplainedFlow>>;
    /// See [`Agent::verify`].
    fn verify(&self, request: &VerifyRequest) -> Result<Vec<Option<String>>>;
    /// See [`Agent::set_audit`].
    fn set_audit(&self, id: u32, audit: bool) -> Result<EndpointPolicy>;
}

impl Policies for Agent {
    fn policy_status(&self) -> Result<PolicyStatus> {
        self.policy_status()
    }

    fn endpoint_rules(&self, id: u32) -> Result<EndpointRules> {
        self.endpoint_rules(id)
    }

    fn explain(&self, request: &ExplainRequest) -> Result<Vec<ExplainedFlow>> {
        self.explain(request)
    }

    fn verify(&self, request: &VerifyRequest) -> Result<Vec<Option<String>>> {
        self.verify(request)
    }

    fn set_audit(&self, id: u32, audit: bool) -> Result<EndpointPolicy> {
        self.set_audit(id, audit)
    }
}

/// What the CNI plugin needs of the agent. Every method may block.
pub trait Cni: Send + Sync {
    /// See [`Agent::cni_add`].
    fn cni_add(&self, request: &cni::AddRequest) -> Result<cni::AddAnswer>;
    /// See [`Agent::cni_configure`].
    fn cni_configure(&self, request: &cni::ConfigureRequest) -> Result<cni::ConfigureAnswer>;
    /// See [`Agent::cni_del`].
    fn cni_del(&self, request: &cni::DelRequest) -> Result<cni::Done>;
    /// See [`Agent::cni_check`].
    fn cni_check(&self, request: &cni::CheckRequest) -> Result<cni::Done>;
    /// See [`Agent::cni_gc`].
    fn cni_gc(&self, request: &cni::GcRequest) -> Result<cni::GcAnswer>;
    /// See [`Agent::cni_status`].
    fn cni_status(&self) -> cni::Readiness;
}

impl Cni for Agent {
    fn cni_add(&self, request: &cni::AddRequest) -> Result<cni::AddAnswer> {
        self.cni_add(request)
    }

    fn cni_configure(&self, request: &cni::ConfigureRequest) -> Result<cni::ConfigureAnswer> {
        self.cni_configure(request)
    }

    fn cni_del(&self, request: &cni::DelRequest) -> Result<cni::Done> {
        self.cni_del(request)
    }

    fn cni_check(&self, request: &cni::CheckRequest) -> Result<cni::Done> {
        self.cni_check(request)
    }

    fn cni_gc(&self, request: &cni::GcRequest) -> Result<cni::GcAnswer> {
        self.cni_gc(request)
    }

    fn cni_status(&self) -> cni::Readiness {
        self.cni_status()
    }
}
