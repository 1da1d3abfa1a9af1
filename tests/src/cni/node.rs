//! A node with our agent and plugin, ready for pods.

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use serde_json::{Value, json};

use super::{
    PLUGIN, call::Call, chain::Chain, sandbox::Sandbox, snapshot::Snapshot, with_failpoints,
};
use crate::{
    agent::TestAgent,
    netns::TestNetns,
    node::{TestNode, UPLINK},
    poll::wait_until,
};

/// The addresses that host-local gives, the first first.
pub const POD_ADDRESS: &str = "10.78.0.100";

/// A node, its agent, and a sandbox in which CNI finds both.
#[derive(Debug)]
pub struct CniNode {
    /// The files that CNI sees.
    pub sandbox: Sandbox,
    /// The agent, running.
    pub agent: TestAgent,
    /// The node and another machine on its wire.
    pub node: TestNode,
}

impl CniNode {
    /// Makes all three.
    ///
    /// # Errors
    /// One of them cannot be made.
    pub fn new() -> Result<Self> {
        Self::with(&[])
    }

    /// With more options for the agent.
    ///
    /// # Errors
    /// As [`CniNode::new`].
    pub fn with(options: &[&str]) -> Result<Self> {
        let node = TestNode::new(0)?;
        let agent = TestAgent::start(&node.node, options)?;
        let sandbox = Sandbox::new(&node.node, &agent)?;
        Ok(Self {
            sandbox,
            agent,
            node,
        })
    }

    /// With binaries that have failpoints.
    ///
    /// # Errors
    /// As [`CniNode::new`].
    pub fn with_failpoints() -> Result<Self> {
        let node = TestNode::new(0)?;
        let mut agent = TestAgent::prepare(&node.node, &[])?;
        let folder = with_failpoints()?;
        agent.set_binary(folder.join("sluice"));
        agent.restart()?;
        let sandbox = Sandbox::with_plugin(&node.node, &agent, &folder.join("sluice-cni"))?;
        Ok(Self {
            sandbox,
            agent,
            node,
        })
    }

    /// All that an ADD may touch, but for the locks of host-local and the agent, the last address
    /// that the first gave, and addresses of the link, which the kernel makes in its own time.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn look(&self, pods: &[(&str, &TestNetns)]) -> Result<Snapshot> {
        let mut namespaces = vec![("node", &self.node.node), ("machine", &self.node.machine)];
        namespaces.extend(pods);
        let state = self.agent.state();
        let lib = self.sandbox.lib_cni();
        let snapshot = Snapshot::take(&namespaces, &[&state, &lib], Some(&self.agent))?;
        Ok(snapshot.without(&["last_reserved_ip", "lock ", "fe80::"]))
    }

    /// Endpoints that the agent knows.
    ///
    /// # Errors
    /// It does not answer.
    pub fn endpoints(&self) -> Result<Vec<Value>> {
        let list = self.agent.json(&["endpoints"])?;
        let endpoints = list.as_array().or_else(|| list["endpoints"].as_array());
        endpoints.cloned().context("no list of endpoints")
    }

    /// Waits until nothing differs from an earlier look: for what the agent or the kernel does in
    /// its own time.
    ///
    /// # Errors
    /// It never is as it was; the text has the differences.
    pub fn wait_same(&self, before: &Snapshot, pods: &[(&str, &TestNetns)]) -> Result<()> {
        let mut last = Vec::new();
        let waited = wait_until("everything to be as before", || {
            last = before.differences(&self.look(pods)?);
            Ok(last.is_empty())
        });
        waited.with_context(|| last.join("\n"))
    }
}

/// The reference macvlan plugin on the node's uplink, addresses from host-local.
pub fn reference_macvlan() -> Value {
    json!({"type": "macvlan", "master": UPLINK, "mode": "bridge", "ipam": host_local()})
}

/// Host-local with the range of [`POD_ADDRESS`].
pub fn host_local() -> Value {
    json!({"type": "host-local", "ranges": [[{
        "subnet": "10.78.0.0/24", "rangeStart": POD_ADDRESS, "rangeEnd": "10.78.0.200",
    }]]})
}

/// Static with one address.
pub fn static_ipam(address: &str) -> Value {
    json!({"type": "static", "addresses": [{"address": format!("{address}/24")}]})
}

/// Our plugin, chained.
pub fn chained() -> Value {
    json!({"type": PLUGIN})
}

/// Our plugin as the main one, macvlan, with this IPAM. It does not look for address conflicts,
/// which takes as long as RFC 5227 says.
pub fn main_macvlan(ipam: &Value) -> Value {
    json!({
        "type": PLUGIN, "mode": "macvlan", "master": UPLINK, "detectConflicts": false,
        "ipam": ipam,
    })
}

/// A list of [`reference_macvlan`] and [`chained`].
pub fn chained_list(version: &str) -> Chain {
    Chain::of(version, "net", &[reference_macvlan(), chained()])
}

/// A list of [`main_macvlan`] with host-local.
pub fn main_list(version: &str) -> Chain {
    Chain::of(version, "net", &[main_macvlan(&host_local())])
}

/// A pod as a runtime sees it: a namespace, a container id, and an interface to be.
#[derive(Debug)]
pub struct CniPod {
    /// Its namespace.
    pub netns: TestNetns,
    /// Its container id.
    pub container: String,
}

/// The interface's name in every [`CniPod`].
pub const INTERFACE: &str = "net1";

impl CniPod {
    /// A pod with this container id.
    ///
    /// # Errors
    /// No namespace can be made.
    pub fn new(container: &str) -> Result<Self> {
        Ok(Self {
            netns: TestNetns::new()?,
            container: container.to_owned(),
        })
    }

    /// A call for it.
    pub fn call(&self, verb: &str) -> Call {
        let path = self.netns.path().display().to_string();
        Call::new(verb, &self.container, &path, INTERFACE)
    }

    /// Whether our programs are on both hooks of an interface, by TCX or as filters on clsact.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn protected(&self, interface: &str) -> Result<bool> {
        let [ingress, egress] = ["ingress", "egress"].map(|hook| self.programs(interface, hook));
        Ok(ingress? && egress?)
    }

    fn programs(&self, interface: &str, hook: &str) -> Result<bool> {
        let kind = match hook {
            "ingress" => TcAttachType::Ingress,
            _ => TcAttachType::Egress,
        };
        let [entry, stand_in] = ["entry", "standin"].map(|kind| format!("{kind}_{hook}"));
        // Filters first: they stand in until the TCX attachment has taken over.
        let filters = self
            .netns
            .run("tc", &["filter", "show", "dev", interface, hook])?;
        if [&entry, &stand_in]
            .iter()
            .any(|name| filters.contains(*name))
        {
            return Ok(true);
        }
        // A kernel without TCX has no such query.
        let tcx = self.netns.enter(|| {
            let (_, programs) = SchedClassifier::query_tcx(interface, kind).ok()?;
            let mut names = programs.iter().map(|program| program.name_as_str());
            names.any(|name| name == Some(&entry)).then_some(())
        })?;
        Ok(tcx.is_some())
    }

    /// Its interfaces but the loopback.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn interfaces(&self) -> Result<Vec<String>> {
        let links: Vec<Value> = serde_json::from_str(&self.netns.ip("-json link show")?)?;
        let names = links.iter().filter_map(|link| link["ifname"].as_str());
        Ok(names
            .filter(|name| *name != "lo")
            .map(str::to_owned)
            .collect())
    }

    /// Fails if an interface is up that our programs are not on.
    ///
    /// # Errors
    /// There is one.
    pub fn ensure_protected(&self) -> Result<()> {
        for interface in self.interfaces()? {
            let up = self.netns.describe(&interface)?["flags"]
                .as_array()
                .is_some_and(|flags| flags.iter().any(|flag| flag == "UP"));
            ensure!(
                !up || self.protected(&interface)?,
                "{interface} of {} is up and unprotected",
                self.container
            );
        }
        Ok(())
    }
}
