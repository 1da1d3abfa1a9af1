//! From a file's text to objects.

use std::{collections::HashMap, sync::Arc};

use super::{
    Located, Refused,
    annotation::{self, POLICY_FOR},
    documents,
    manifest::{
        Container, Metadata, NamespaceManifest, PodManifest, PolicyManifest, PolicySpec, PolicyType,
    },
    read, syntax,
};
use crate::policy::model::{
    ContainerPort, NAMESPACE_NAME_LABEL, Object, Pod, PodName, Policy, PolicyKind, PolicyName,
    Scope,
};

/// Where an object without a namespace is.
const DEFAULT_NAMESPACE: &str = "default";

/// An object and the line where it begins.
pub type Placed = (usize, Object);

/// Reads all objects of a file. Kinds that policies do not need are passed
/// over.
///
/// # Errors
/// Anything about the file is wrong; it is refused as a whole.
pub fn read_objects(text: &str) -> Result<Vec<Placed>, Refused> {
    let mut objects = Vec::new();
    for document in documents(text)? {
        read_document(&document, None, &mut objects)?;
    }
    let mut seen = HashMap::new();
    for (line, object) in &objects {
        if let Some(first) = seen.insert(object.name(), *line) {
            let name = object.name();
            return Err(Refused {
                line: *line,
                reason: format!("{name} is already in line {first}; remove one of them"),
            });
        }
    }
    Ok(objects)
}

fn read_document(
    document: &Located,
    defaults: Option<(&str, &str)>,
    objects: &mut Vec<Placed>,
) -> Result<(), Refused> {
    let refuse = |reason: String| Refused {
        line: document.line,
        reason,
    };
    let field = |name: &str, default: Option<&str>| {
        let text = document.get(name).map(Located::text);
        text.unwrap_or(default).map(str::to_owned).ok_or_else(|| {
            refuse(format!(
                "{name} is missing: this is no Kubernetes object; add it, or move the file away"
            ))
        })
    };
    let api_version = field("apiVersion", defaults.map(|(version, _)| version))?;
    let kind = field("kind", defaults.map(|(_, kind)| kind))?;
    if let Some(element) = kind.strip_suffix("List") {
        let defaults = (!element.is_empty()).then_some((api_version.as_str(), element));
        let items = document.get("items").filter(|items| !items.is_null());
        let Some(items) = items else { return Ok(()) };
        let items = items
            .items()
            .ok_or_else(|| refuse("items: is no list".into()))?;
        return items
            .iter()
            .try_for_each(|item| read_document(item, defaults, objects));
    }
    let object = match (api_version.as_str(), kind.as_str()) {
        ("v1", "Namespace") => namespace(document)?,
        ("v1", "Pod") => pod(document)?,
        ("networking.k8s.io/v1", "NetworkPolicy") => policy(document, PolicyKind::NetworkPolicy)?,
        ("k8s.cni.cncf.io/v1beta1" | "k8s.cni.cncf.io/v1beta2", "MultiNetworkPolicy") => {
            policy(document, PolicyKind::MultiNetworkPolicy)?
        }
        _ => return foreign(&api_version, &kind).map_err(refuse),
    };
    objects.push((document.line, object));
    Ok(())
}

/// Other kinds are none of our business, but what looks like one of ours must
/// not be passed over in silence.
fn foreign(api_version: &str, kind: &str) -> Result<(), String> {
    let ours = [
        ("Namespace", "v1"),
        ("Pod", "v1"),
        ("NetworkPolicy", "networking.k8s.io/v1"),
        (
            "MultiNetworkPolicy",
            "k8s.cni.cncf.io/v1beta1 or k8s.cni.cncf.io/v1beta2",
        ),
    ];
    let mut alike = ours
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case(kind));
    match alike.next() {
        None => Ok(()),
        Some((name, versions)) => Err(format!(
            "kind {kind} of apiVersion {api_version} is not known here; \
             {name} is read as of {versions}"
        )),
    }
}

fn place(document: &Located, metadata: &Metadata) -> Result<String, Refused> {
    let namespace = metadata
        .namespace
        .as_deref()
        .filter(|name| !name.is_empty());
    let namespace = namespace.unwrap_or(DEFAULT_NAMESPACE);
    for name in [metadata.name.as_str(), namespace] {
        syntax::object_name(name).map_err(|reason| in_metadata(document, reason))?;
    }
    Ok(namespace.to_owned())
}

fn in_metadata(document: &Located, reason: String) -> Refused {
    let metadata = document.get("metadata");
    Refused {
        line: metadata.map_or(document.line, |metadata| metadata.line),
        reason: format!("metadata: {reason}"),
    }
}

fn namespace(document: &Located) -> Result<Object, Refused> {
    let NamespaceManifest { metadata } = read(document)?;
    place(document, &metadata)?;
    let mut labels = metadata.labels.unwrap_or_default();
    labels.insert(NAMESPACE_NAME_LABEL.into(), metadata.name.clone());
    Ok(Object::Namespace(metadata.name, Arc::new(labels)))
}

fn pod(document: &Located) -> Result<Object, Refused> {
    let PodManifest {
        metadata,
        spec,
        status,
    } = read(document)?;
    let namespace = place(document, &metadata)?;
    let annotations = metadata.annotations.unwrap_or_default();
    let attachments = annotation::attachments(&annotations, &namespace)
        .map_err(|reason| in_metadata(document, reason))?;
    let status = status.unwrap_or_default();
    let mut addresses: Vec<_> = status.pod_ip.into_iter().collect();
    addresses.extend(status.pod_ips.iter().flatten().map(|pod_ip| pod_ip.ip));
    addresses.sort_unstable();
    addresses.dedup();
    let sidecars = spec.init_containers.unwrap_or_default();
    let sidecars = sidecars
        .into_iter()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.into_iter().chain(sidecars);
    let pod = Pod {
        uid: annotations
            .get(annotation::CONFIG_HASH)
            .cloned()
            .or(metadata.uid),
        labels: metadata.labels.unwrap_or_default(),
        ports: containers.flat_map(named_ports).collect(),
        host_network: spec.host_network,
        finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        addresses: addresses.into_iter().map(|ip| ip.to_canonical()).collect(),
        attachments,
    };
    let name = PodName {
        namespace,
        name: metadata.name,
    };
    Ok(Object::Pod(name, Arc::new(pod)))
}

fn named_ports(container: Container) -> impl Iterator<Item = ContainerPort> {
    let ports = container.ports.unwrap_or_default().into_iter();
    ports.filter_map(|port| {
        Some(ContainerPort {
            name: port.name.filter(|name| !name.is_empty())?,
            protocol: port.protocol.unwrap_or_default(),
            number: port.container_port,
        })
    })
}

fn policy(document: &Located, kind: PolicyKind) -> Result<Object, Refused> {
    let PolicyManifest { metadata, spec, .. } = read(document)?;
    let namespace = place(document, &metadata)?;
    let annotations = metadata.annotations.unwrap_or_default();
    let networks = annotation::policy_for(&annotations, &namespace)
        .map_err(|reason| in_metadata(document, reason))?;
    let scope = match (networks, kind) {
        (Some(networks), PolicyKind::NetworkPolicy) if networks.is_empty() => {
            let reason = format!("{POLICY_FOR} names no network; remove it or name one");
            return Err(in_metadata(document, reason));
        }
        (Some(networks), _) => Scope::Networks(networks),
        (None, PolicyKind::NetworkPolicy) => Scope::Cluster,
        (None, PolicyKind::MultiNetworkPolicy) => Scope::Networks(Default::default()),
    };
    let PolicySpec {
        pod_selector,
        policy_types,
        ingress,
        egress,
    } = spec;
    let ingress: Vec<_> = ingress.unwrap_or_default();
    let egress: Vec<_> = egress.unwrap_or_default();
    // Without policyTypes: ingress always, egress if there are rules for it.
    let types = policy_types.filter(|types| !types.is_empty());
    let has = |which: PolicyType, default: bool| {
        types
            .as_ref()
            .map_or(default, |types| types.contains(&which))
    };
    let (isolates_in, isolates_out) = (
        has(PolicyType::Ingress, true),
        has(PolicyType::Egress, !egress.is_empty()),
    );
    let ingress = ingress.into_iter().map(|rule| rule.rule(&namespace));
    let egress = egress.into_iter().map(|rule| rule.rule(&namespace));
    let policy = Policy {
        scope,
        pods: pod_selector.map(|selector| selector.0).unwrap_or_default(),
        ingress: isolates_in.then(|| ingress.collect()),
        egress: isolates_out.then(|| egress.collect()),
    };
    let name = PolicyName {
        namespace,
        name: metadata.name,
        kind,
    };
    Ok(Object::Policy(name, Arc::new(policy)))
}
