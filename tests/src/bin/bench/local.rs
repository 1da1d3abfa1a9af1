//! An agent inside this process, with pins and records of its own.

use std::{fs, path::PathBuf};

use anyhow::Result;
use dataplane::{
    agent::{Agent, Options},
    api::types::{AttachRequest, EndpointSelector},
    kernel::{TcMode, XdpPreference},
};
use sluice_tests::netns::TestNetns;
use tempfile::TempDir;

/// Gone, pins and all, when dropped.
pub(crate) struct LocalAgent {
    pub(crate) agent: Agent,
    pins: PathBuf,
    _folder: TempDir,
}

impl LocalAgent {
    pub(crate) fn open() -> Result<Self> {
        // On a disk, as the records of an agent are, which /tmp may not be.
        let folder = TempDir::with_prefix_in("sluice-bench-", "/var/tmp")?;
        let name = folder.path().file_name().unwrap_or_default();
        let pins = PathBuf::from("/sys/fs/bpf").join(name);
        let agent = Agent::open(options(folder.path().join("state"), pins.clone()));
        match agent {
            Ok(agent) => Ok(Self {
                agent,
                pins,
                _folder: folder,
            }),
            Err(error) => {
                let _ = fs::remove_dir_all(&pins);
                Err(error)
            }
        }
    }
}

impl Drop for LocalAgent {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.pins) {
            eprintln!("cannot remove {}: {error}", self.pins.display());
        }
    }
}

/// An agent of the default size.
pub(crate) fn options(state_dir: PathBuf, bpffs: PathBuf) -> Options {
    Options {
        state_dir,
        bpffs,
        max_endpoints: 512,
        max_flows: 65536,
        flow_rate: 2048,
        event_rate: 10,
        tc: TcMode::Auto,
        xdp: XdpPreference::Auto,
        identities: 65536,
        policy: dataplane::agent::PolicyOptions::default(),
        rdma_pod_counters: false,
    }
}

/// The request to attach an interface.
pub(crate) fn request(netns: &TestNetns, interface: &str) -> AttachRequest {
    AttachRequest {
        netns: netns.reference(),
        interface: interface.to_owned(),
        pod: None,
    }
}

/// Names an attached interface.
pub(crate) fn selector(netns: &TestNetns, interface: &str) -> EndpointSelector {
    EndpointSelector::Interface {
        netns: netns.reference(),
        interface: interface.to_owned(),
    }
}
