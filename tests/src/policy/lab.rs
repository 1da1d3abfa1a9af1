//! Pods of a test's node as Kubernetes would describe them.

use std::{fs, path::PathBuf};

use anyhow::Result;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Cluster;
use crate::node::{POD_INTERFACE, addresses};

/// The network that the pods of a [`TestNode`](crate::node::TestNode) are
/// attached to.
pub const NETWORK: &str = "lab/fast";

/// A folder of manifests, gone when dropped.
#[derive(Debug)]
pub struct PolicyFolder {
    folder: TempDir,
}

impl PolicyFolder {
    /// An empty one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> Result<Self> {
        let folder = TempDir::new()?;
        Ok(Self { folder })
    }

    /// Where it is, for `--policy-dir`.
    pub fn path(&self) -> String {
        self.folder.path().display().to_string()
    }

    /// Writes a file in one step.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, objects: &[Value]) -> Result<()> {
        let cluster = Cluster {
            objects: objects.to_vec(),
        };
        self.write_text(name, &cluster.text())
    }

    /// As [`PolicyFolder::write`], whatever the text.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_text(&self, name: &str, text: &str) -> Result<()> {
        let temporary = self.file(".new");
        fs::write(&temporary, text)?;
        Ok(fs::rename(&temporary, self.file(name))?)
    }

    /// A file's path.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// The pod at a place of [`TestNode::pods`](crate::node::TestNode::pods).
pub fn pod(place: usize, namespace: &str, name: &str) -> Value {
    let status = json!([{
        "name": NETWORK,
        "interface": POD_INTERFACE,
        "ips": addresses(place),
    }]);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "labels": {"pod": name},
            "annotations": {"k8s.v1.cni.cncf.io/network-status": status.to_string()},
        },
        "spec": {"containers": []},
    })
}

/// A namespace with its name as its label `ns`.
pub fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"ns": name}},
    })
}

/// A policy about [`NETWORK`].
pub fn policy(namespace: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "k8s.cni.cncf.io/v1beta1",
        "kind": "MultiNetworkPolicy",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "annotations": {"k8s.v1.cni.cncf.io/policy-for": NETWORK},
        },
        "spec": spec,
    })
}
