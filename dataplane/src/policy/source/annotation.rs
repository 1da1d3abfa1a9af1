//! The annotations of the network plumbing working group.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::Deserialize;

use crate::policy::model::{Attachment, NetworkName};

/// The networks that a policy is about.
pub(super) const POLICY_FOR: &str = "k8s.v1.cni.cncf.io/policy-for";
/// The networks that a pod is attached to, as Multus writes it.
const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// What the kubelet takes for the UID of a static pod; that of the object in the API, which mirrors
/// it, is another.
pub(super) const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// Annotations of an object.
pub(super) type Annotations = BTreeMap<String, String>;

/// The names in `policy-for`, a comma-separated list; `None` without it.
pub(super) fn policy_for(
    annotations: &Annotations,
    namespace: &str,
) -> Result<Option<BTreeSet<NetworkName>>, String> {
    let Some(text) = annotations.get(POLICY_FOR) else {
        return Ok(None);
    };
    let names = text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    let names = names.map(|name| {
        NetworkName::parse(name, namespace).ok_or_else(|| {
            format!("{POLICY_FOR}: '{name}' is neither a network's name nor NAMESPACE/NAME")
        })
    });
    names.collect::<Result<_, _>>().map(Some)
}

/// One element of `network-status`; what policies do not need is passed over.
#[derive(Deserialize)]
struct NetworkStatus {
    name: String,
    #[serde(default)]
    interface: Option<String>,
    #[serde(default)]
    ips: Option<Vec<IpAddr>>,
    #[serde(default)]
    default: bool,
}

/// The networks of a pod; `None` where the annotation is missing.
pub(super) fn attachments(
    annotations: &Annotations,
    namespace: &str,
) -> Result<Option<Vec<Attachment>>, String> {
    let text = annotations.get(NETWORK_STATUS).map(|text| text.trim());
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let list: Vec<NetworkStatus> =
        serde_json::from_str(text).map_err(|error| format!("{NETWORK_STATUS}: {error}"))?;
    let attachments = list.into_iter().map(|status| {
        let network = NetworkName::parse(&status.name, namespace)
            .ok_or_else(|| format!("{NETWORK_STATUS}: '{}' is no network's name", status.name))?;
        Ok(Attachment {
            network,
            interface: status.interface.filter(|name| !name.is_empty()),
            addresses: status
                .ips
                .unwrap_or_default()
                .into_iter()
                .map(|address| address.to_canonical())
                .collect(),
            cluster: status.default,
        })
    });
    attachments.collect::<Result<_, String>>().map(Some)
}
