//! Which policies an endpoint goes by.

use std::{net::IpAddr, sync::Arc};

use crate::policy::model::{Model, Pod, PodName, Policy, PolicyName, Scope};

/// What policies need to know of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Endpoint id.
    pub id: u32,
    /// The pod, where known.
    pub pod: Option<PodName>,
    /// The interface's name in the pod.
    pub interface: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// It has waited long enough for its pod to become known.
    pub patience_over: bool,
}

/// What is known of an endpoint.
pub(super) enum Selection<'a> {
    /// Its pod, and the policies that isolate it.
    Known {
        pod: &'a Pod,
        policies: Vec<(&'a PolicyName, &'a Arc<Policy>)>,
    },
    /// Not enough; why.
    Unknown(String),
}

/// Finds the policies that select an endpoint. `every_network` widens
/// policies about the cluster's network to all networks.
pub(super) fn select<'a>(
    model: &'a Model,
    endpoint: &Endpoint,
    every_network: bool,
) -> Selection<'a> {
    let Some(name) = &endpoint.pod else {
        return Selection::Unknown(
            "no pod was named when it was attached; attach it with --pod".into(),
        );
    };
    let Some(pod) = model.pods.get(name) else {
        return Selection::Unknown(format!("pod {name} is not known to the policy source"));
    };
    let mut policies = Vec::new();
    for (name, policy) in model.policies_of(&name.namespace) {
        if !policy.pods.matches(&pod.labels) {
            continue;
        }
        match covers(&policy.scope, pod, &endpoint.interface, every_network) {
            Some(true) => policies.push((name, policy)),
            Some(false) => {}
            None => {
                return Selection::Unknown(format!(
                    "{name} may be about it, but its network is not known: the pod's annotation \
                     k8s.v1.cni.cncf.io/network-status has no interface {}",
                    endpoint.interface
                ));
            }
        }
    }
    Selection::Known { pod, policies }
}

/// Whether a policy of that scope is about an interface; `None` where nobody
/// says which network the interface is on.
fn covers(scope: &Scope, pod: &Pod, interface: &str, every_network: bool) -> Option<bool> {
    match scope {
        Scope::All => Some(true),
        Scope::Cluster if every_network => Some(true),
        // A pod without network-status has one network only: the cluster's.
        Scope::Cluster if pod.attachments.is_none() => Some(true),
        Scope::Cluster => Some(pod.attachment(interface)?.cluster),
        Scope::Networks(networks) if networks.is_empty() => Some(false),
        Scope::Networks(networks) => Some(networks.contains(&pod.attachment(interface)?.network)),
    }
}
