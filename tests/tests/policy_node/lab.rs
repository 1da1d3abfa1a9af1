//! A node with pods, a folder of policies and a real agent.

use anyhow::{Context as _, Result};
use serde_json::Value;
use sluice_tests::{
    agent::TestAgent,
    node::{POD_INTERFACE, TestNode},
    policy::PolicyFolder,
    poll::wait_until,
};

pub(crate) struct Lab {
    pub(crate) node: TestNode,
    pub(crate) folder: PolicyFolder,
    pub(crate) agent: TestAgent,
}

impl Lab {
    /// So many pods, none attached yet, and a folder that says this.
    pub(crate) fn new(pods: usize, objects: &[Value]) -> Result<Self> {
        Self::with(&[], pods, objects)
    }

    /// The same, the agent with these options too.
    pub(crate) fn with(options: &[&str], pods: usize, objects: &[Value]) -> Result<Self> {
        let node = TestNode::new(pods)?;
        let folder = PolicyFolder::new()?;
        folder.write("cluster.yaml", objects)?;
        let path = folder.path();
        let options = [&["--policy-dir", &path], options].concat();
        let agent = TestAgent::start(&node.node, &options)?;
        Ok(Self {
            node,
            folder,
            agent,
        })
    }

    pub(crate) fn attach(&self, at: usize, pod: &str) -> Result<u64> {
        let netns = self.node.pods[at].name();
        let arguments = ["attach", "--netns", netns, POD_INTERFACE, "--pod", pod];
        let endpoint = self.agent.json(&arguments)?;
        endpoint["id"].as_u64().context("endpoint without id")
    }

    /// Waits until the agent has made the folder's last version its own.
    pub(crate) fn wait_for(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<()> {
        wait_until(what, || Ok(is(&self.agent.json(&["policy", "list"])?)))
    }
}
