//! Questions about two parties: which of their interfaces and addresses can
//! meet, and what policy says where they do.

use std::net::IpAddr;

use dataplane_ebpf::abi::Direction;

use super::{
    compile::Endpoint,
    explain::{Finding, Lookup, Service, explain},
    model::{Model, NetworkName, Pod, PodName},
};

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The network, where known.
    pub network: Option<NetworkName>,
    /// The endpoint, where it is one of this node's.
    pub endpoint: Option<u32>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A connection between two addresses, and what both ends say to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The initiator.
    pub from: IpAddr,
    /// The other side.
    pub to: IpAddr,
    /// The network, where known.
    pub network: Option<NetworkName>,
    /// The initiator's endpoint, and what it says.
    pub egress: Option<(u32, Finding)>,
    /// The other side's.
    pub ingress: Option<(u32, Finding)>,
}

impl Flow {
    /// Whether every end that is judged here allows it.
    pub fn is_allowed(&self) -> bool {
        let mut ends = self.egress.iter().chain(&self.ingress);
        ends.all(|(_, finding)| finding.is_allowed())
    }
}

/// Who is meant by `text`: `NAMESPACE/NAME` of a pod, an address, or the
/// number of an endpoint.
///
/// # Errors
/// Nobody of that name is known.
pub fn sites(text: &str, model: &Model, endpoints: &[Endpoint]) -> Result<Vec<Site>, String> {
    if let Ok(id) = text.parse::<u32>() {
        let endpoint = endpoints.iter().find(|endpoint| endpoint.id == id);
        let endpoint = endpoint
            .ok_or_else(|| format!("no endpoint has id {id}; `sluice endpoints` lists them"))?;
        return Ok(vec![site_of(endpoint, model)]);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        let address = address.to_canonical();
        let mut here = endpoints
            .iter()
            .filter(|endpoint| endpoint.addresses.contains(&address))
            .map(|endpoint| Site {
                addresses: vec![address],
                ..site_of(endpoint, model)
            })
            .peekable();
        if here.peek().is_some() {
            return Ok(here.collect());
        }
        return Ok(vec![Site {
            network: None,
            endpoint: None,
            addresses: vec![address],
        }]);
    }
    let name: PodName = text
        .parse()
        .map_err(|_| format!("'{text}' is no pod (NAMESPACE/NAME), address or endpoint number"))?;
    let mut sites: Vec<_> = endpoints
        .iter()
        .filter(|endpoint| endpoint.pod.as_ref() == Some(&name))
        .map(|endpoint| site_of(endpoint, model))
        .collect();
    if let Some(pod) = model.pods.get(&name) {
        // Where it is not an endpoint of this node.
        let elsewhere = pod_sites(pod).into_iter().filter(|site| {
            let same = |known: &Site| {
                known.network == site.network
                    || known
                        .addresses
                        .iter()
                        .any(|one| site.addresses.contains(one))
            };
            !sites.iter().any(same)
        });
        let elsewhere: Vec<_> = elsewhere.collect();
        sites.extend(elsewhere);
    }
    if sites.iter().all(|site| site.addresses.is_empty()) {
        return Err(format!(
            "pod {name} has no address that is known here: neither an endpoint of this node \
             nor the policy source has one"
        ));
    }
    Ok(sites)
}

/// Where a pod is attached, by what the source says of it.
fn pod_sites(pod: &Pod) -> Vec<Site> {
    let attachments = pod.attachments.iter().flatten().map(|attachment| Site {
        network: Some(attachment.network.clone()),
        endpoint: None,
        addresses: attachment.addresses.clone(),
    });
    let mut sites: Vec<_> = attachments.collect();
    let listed = |address: &IpAddr| sites.iter().any(|site| site.addresses.contains(address));
    let rest: Vec<_> = pod
        .addresses
        .iter()
        .copied()
        .filter(|one| !listed(one))
        .collect();
    if !rest.is_empty() {
        sites.push(Site {
            network: None,
            endpoint: None,
            addresses: rest,
        });
    }
    sites
}

/// Every interface of every pod as an endpoint, for judging without a node.
pub fn endpoints_of(model: &Model) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for (name, pod) in &model.pods {
        if pod.host_network || pod.finished {
            continue;
        }
        let mut add = |interface: String, addresses: &[IpAddr]| {
            endpoints.push(Endpoint {
                id: endpoints.len() as u32 + 1,
                pod: Some(name.clone()),
                interface,
                addresses: addresses.to_vec(),
                patience_over: false,
            });
        };
        match &pod.attachments {
            None => add("eth0".into(), &pod.addresses),
            Some(attachments) => {
                for attachment in attachments {
                    let interface = attachment.interface.clone().unwrap_or_default();
                    add(interface, &attachment.addresses);
                }
            }
        }
    }
    endpoints
}

fn site_of(endpoint: &Endpoint, model: &Model) -> Site {
    let pod = endpoint.pod.as_ref().and_then(|name| model.pods.get(name));
    let attachment = pod.and_then(|pod| pod.attachment(&endpoint.interface));
    Site {
        network: attachment.map(|attachment| attachment.network.clone()),
        endpoint: Some(endpoint.id),
        addresses: endpoint.addresses.clone(),
    }
}

/// Judges the connections that are possible between two parties: on one
/// network, or where that is not known; of one family. `network` leaves only
/// one.
///
/// # Errors
/// A lookup fails.
pub fn flows<L: Lookup>(
    tables: &L,
    from: &[Site],
    to: &[Site],
    what: &Service,
    network: Option<&NetworkName>,
) -> Result<Vec<Flow>, L::Error> {
    let mut flows = Vec::new();
    for (one, other) in from
        .iter()
        .flat_map(|one| to.iter().map(move |other| (one, other)))
    {
        let meet = one.network.is_none() || other.network.is_none() || one.network == other.network;
        let on = one.network.as_ref().or(other.network.as_ref());
        if !meet || network.is_some_and(|wanted| on != Some(wanted)) {
            continue;
        }
        for from in &one.addresses {
            for to in other
                .addresses
                .iter()
                .filter(|to| to.is_ipv4() == from.is_ipv4())
            {
                let at = |endpoint: Option<u32>, direction, peer: &IpAddr| {
                    endpoint
                        .map(|id| Ok((id, explain(tables, id, direction, *peer, what)?)))
                        .transpose()
                };
                flows.push(Flow {
                    from: *from,
                    to: *to,
                    network: on.cloned(),
                    egress: at(one.endpoint, Direction::Egress, to)?,
                    ingress: at(other.endpoint, Direction::Ingress, from)?,
                });
            }
        }
    }
    Ok(flows)
}
