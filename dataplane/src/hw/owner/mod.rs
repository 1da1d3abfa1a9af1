//! Whose an RDMA object is: from the process that made it to the pod.

mod cgroup;
mod process;

use std::collections::HashMap;

pub use cgroup::Container;
pub use process::{Process, Processes};
use serde::{Deserialize, Serialize};

use crate::{api::types::PodName, link::NetnsRef, rdma::Owner};

/// Who has something, as far as it can be told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "owner")]
pub enum Holder {
    /// A pod.
    Pod {
        /// Its name, when known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pod: Option<PodName>,
        /// Its UID, when known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<String>,
        /// The first endpoint in its namespace; absent for a pod in the node's network.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<u32>,
    },
    /// A process of the node that is in no pod.
    Host,
    /// A part of the kernel.
    Kernel,
    /// A process of which the agent is not told: it has ended, or is in a process namespace that
    /// the agent does not see.
    Unknown,
}

impl Holder {
    /// Its label in metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Pod { .. } => "pod",
            Self::Host => "host",
            Self::Kernel => "kernel",
            Self::Unknown => "unknown",
        }
    }
}

/// An endpoint, as far as owners are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resident {
    /// Its id.
    pub endpoint: u32,
    /// Its network namespace.
    pub netns: NetnsRef,
    /// The inode of that.
    pub inode: u64,
    /// Its pod, when known.
    pub pod: Option<PodName>,
}

/// What the agent knows of pods.
#[derive(Debug, Clone, Default)]
pub struct Pods {
    by_netns: HashMap<u64, (u32, Option<PodName>)>,
    inodes: HashMap<NetnsRef, u64>,
    by_container: HashMap<String, PodName>,
    by_uid: HashMap<String, PodName>,
}

impl Pods {
    /// From the endpoints, and from the container ids that pods' networks were asked for by.
    pub fn new(
        residents: impl IntoIterator<Item = Resident>,
        containers: impl IntoIterator<Item = (String, PodName)>,
    ) -> Self {
        let mut by_netns = HashMap::<u64, (u32, Option<PodName>)>::new();
        let mut inodes = HashMap::new();
        for resident in residents {
            inodes.insert(resident.netns, resident.inode);
            let known = by_netns
                .entry(resident.inode)
                .or_insert((resident.endpoint, None));
            known.0 = known.0.min(resident.endpoint);
            if known.1.is_none() {
                known.1 = resident.pod;
            }
        }
        Self {
            by_netns,
            inodes,
            by_container: containers.into_iter().collect(),
            by_uid: HashMap::new(),
        }
    }

    /// The same, with the names of pods whose UID is known: those in the node's network have no
    /// endpoint and no container that asked for a network.
    pub fn with_uids(mut self, uids: impl IntoIterator<Item = (String, PodName)>) -> Self {
        self.by_uid.extend(uids);
        self
    }

    /// Whether one of them is still there.
    pub fn has(&self, holder: &Holder) -> bool {
        match holder {
            Holder::Pod {
                endpoint: Some(endpoint),
                pod,
                ..
            } => {
                let mut known = self.by_netns.values();
                known.any(|(id, name)| id == endpoint && name == pod)
            }
            _ => false,
        }
    }

    /// The name of the pod that has a network namespace.
    pub fn name(&self, netns: &NetnsRef) -> Option<PodName> {
        let (_, pod) = self.by_netns.get(self.inodes.get(netns)?)?;
        pod.clone()
    }

    /// The pod that has a network namespace.
    pub fn in_netns(&self, netns: &NetnsRef) -> Option<Holder> {
        let (endpoint, pod) = self.by_netns.get(self.inodes.get(netns)?)?;
        Some(Holder::Pod {
            pod: pod.clone(),
            uid: None,
            endpoint: Some(*endpoint),
        })
    }

    /// The pod of a process: that in whose network it is, or else the one that its cgroup names.
    /// A UID that was seen in a pod's network stands for that pod from then on.
    fn of_process(&mut self, process: &Process) -> Holder {
        let Container { pod_uid, id } = &process.container;
        if let Some((endpoint, pod)) = process.netns.and_then(|netns| self.by_netns.get(&netns)) {
            if let (Some(uid), Some(pod)) = (pod_uid, pod) {
                self.by_uid.insert(uid.clone(), pod.clone());
            }
            return Holder::Pod {
                pod: pod.clone(),
                // One namespace is one holder, whichever of its processes was seen first.
                uid: None,
                endpoint: Some(*endpoint),
            };
        }
        let by_uid = pod_uid.as_ref().and_then(|uid| self.by_uid.get(uid));
        let by_id = || id.as_ref().and_then(|id| self.by_container.get(id));
        let pod = by_uid.or_else(by_id).cloned();
        if pod.is_none() && pod_uid.is_none() {
            return Holder::Host;
        }
        Holder::Pod {
            pod,
            uid: pod_uid.clone(),
            endpoint: None,
        }
    }

    /// Who an object's owner is.
    pub fn holder(&mut self, owner: &Owner, processes: &mut Processes) -> Holder {
        match owner {
            Owner::Kernel(_) => Holder::Kernel,
            Owner::Unknown => Holder::Unknown,
            Owner::Process(pid) => match processes.get(*pid) {
                Some(process) => self.of_process(process),
                None => Holder::Unknown,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> PodName {
        PodName {
            namespace: "shop".into(),
            name: name.into(),
        }
    }

    fn process(netns: u64, uid: Option<&str>, id: Option<&str>) -> Process {
        Process {
            name: "x".into(),
            netns: Some(netns),
            container: Container {
                pod_uid: uid.map(str::to_owned),
                id: id.map(str::to_owned),
            },
        }
    }

    fn pods() -> Pods {
        let resident = |endpoint, inode: u64, name| Resident {
            endpoint,
            netns: NetnsRef::Name(inode.to_string()),
            inode,
            pod: name,
        };
        Pods::new(
            [
                resident(4, 100, None),
                resident(3, 100, Some(pod("web"))),
                resident(9, 200, None),
            ],
            [("c0ffee".to_owned(), pod("cache"))],
        )
    }

    #[test]
    fn the_network_namespace_comes_first() {
        let web = Holder::Pod {
            pod: Some(pod("web")),
            uid: None,
            endpoint: Some(3),
        };
        let mut pods = pods();
        assert_eq!(
            pods.of_process(&process(100, Some("u1"), Some("c0ffee"))),
            web
        );
        assert_eq!(
            pods.in_netns(&NetnsRef::Name("100".into())),
            Some(web.clone())
        );
        assert!(pods.has(&web));
        let nameless = Holder::Pod {
            pod: None,
            uid: None,
            endpoint: Some(9),
        };
        assert_eq!(pods.of_process(&process(200, None, None)), nameless);
    }

    #[test]
    fn in_the_nodes_network_the_cgroup_tells() {
        let mut pods = pods();
        let of = |pods: &mut Pods, uid, id| pods.of_process(&process(1, uid, id));
        assert_eq!(of(&mut pods, None, None), Holder::Host);
        let by_uid = |name: Option<&str>| Holder::Pod {
            pod: name.map(pod),
            uid: Some("u1".into()),
            endpoint: None,
        };
        assert_eq!(of(&mut pods, Some("u1"), Some("beef")), by_uid(None));
        // Now the UID has been seen in a namespace that is known.
        pods.of_process(&process(100, Some("u1"), None));
        assert_eq!(of(&mut pods, Some("u1"), Some("beef")), by_uid(Some("web")));
        // One that the source of policies names.
        let mut told = pods.clone().with_uids([("u2".to_owned(), pod("db"))]);
        let of_told = told.of_process(&process(1, Some("u2"), None));
        let expected = Holder::Pod {
            pod: Some(pod("db")),
            uid: Some("u2".into()),
            endpoint: None,
        };
        assert_eq!(of_told, expected);
        let by_id = Holder::Pod {
            pod: Some(pod("cache")),
            uid: None,
            endpoint: None,
        };
        assert_eq!(of(&mut pods, None, Some("c0ffee")), by_id);
    }
}
