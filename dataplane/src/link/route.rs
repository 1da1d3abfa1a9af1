//! Routes and source rules.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
        RouteScope, RouteType,
    },
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use serde::{Deserialize, Serialize};

use super::{
    LinkError, Netlink,
    decode::{RouteEntry, RuleEntry},
};
use crate::netlink::NetlinkError;

/// The table that is looked up without any rule (`RT_TABLE_MAIN`, uapi `linux/rtnetlink.h`).
pub const MAIN_TABLE: u32 = 254;

/// A unicast route out of one interface.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Route {
    /// The interface.
    pub ifindex: u32,
    /// Where it leads; of length 0 for the default route.
    pub destination: IpNet,
    /// The next hop; without one the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The source address of packets that have none yet.
    pub source: Option<IpAddr>,
    /// The table, [`MAIN_TABLE`] by default.
    pub table: u32,
    /// Its rank among routes to the same destination; the kernel's default when absent.
    pub metric: Option<u32>,
    /// `RT_SCOPE_*` for IPv4: by default link without a gateway, else universe.
    pub scope: Option<u8>,
    /// The gateway is on the link though no address says so.
    pub onlink: bool,
    /// Path MTU, bytes.
    pub mtu: Option<u32>,
    /// What TCP advertises as its largest segment, bytes.
    pub advmss: Option<u32>,
}

impl Route {
    /// A route in the main table with the kernel's defaults.
    pub fn new(ifindex: u32, destination: IpNet, gateway: Option<IpAddr>) -> Self {
        Self {
            ifindex,
            destination: destination.trunc(),
            gateway,
            source: None,
            table: MAIN_TABLE,
            metric: None,
            scope: None,
            onlink: false,
            mtu: None,
            advmss: None,
        }
    }
}

/// Sends what comes from some addresses to a table of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SourceRule {
    /// The addresses.
    pub from: IpNet,
    /// The table.
    pub table: u32,
    /// Lower comes first; the main table is looked up at 32766.
    pub priority: u32,
}

impl Netlink {
    /// Adds a route; `false` when the very same is there.
    ///
    /// # Errors
    /// [`LinkError::Invalid`] when the families differ, [`LinkError::Change`]: another route with
    /// the same destination, table and metric (EEXIST), a gateway that is not on the link
    /// (ENETUNREACH), an interface that is down (ENETDOWN).
    pub fn add_route(&mut self, route: &Route) -> Result<bool, LinkError> {
        check_families(route)?;
        let message = RouteNetlinkMessage::NewRoute(route_message(route));
        let source = match self.socket.change(message, NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => return Ok(true),
            Err(source) => source,
        };
        if source.is(libc::EEXIST) && self.routes(route.table)?.iter().any(|r| same(r, route)) {
            return Ok(false);
        }
        let remedy = match source.errno() {
            Some(libc::EEXIST) => "another route leads there; give one of them another metric",
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => {
                "give the interface an address in the gateway's subnet, or mark the route on-link"
            }
            Some(libc::ENETDOWN) => "set the interface up first",
            Some(libc::EINVAL) => "the source address must be one of this namespace",
            _ => "",
        };
        Err(self.refused(format!("add a route {}", describe(route)), source, remedy))
    }

    /// Takes a route away; `false` when there is none.
    ///
    /// # Errors
    /// [`LinkError::Change`].
    pub fn remove_route(&mut self, route: &Route) -> Result<bool, LinkError> {
        let message = RouteNetlinkMessage::DelRoute(route_message(route));
        let removed = self.socket.change(message, 0);
        self.removed(removed, &[libc::ESRCH, libc::ENODEV], || {
            format!("remove a route {}", describe(route))
        })
    }

    /// The unicast routes of one table, IPv4 and IPv6. Those with several next hops are left out.
    ///
    /// # Errors
    /// [`LinkError::Request`].
    pub fn routes(&mut self, table: u32) -> Result<Vec<Route>, LinkError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let found = self.dump(RouteNetlinkMessage::GetRoute(request), |message| {
                Ok(RouteEntry::decode(message.body)?.filter(|entry| entry.0.table == table))
            });
            match found {
                Ok(found) => routes.extend(found.into_iter().map(|RouteEntry(route)| route)),
                Err(error) if family_is_missing(&error) => {}
                Err(source) => return Err(self.failed("list routes", source)),
            }
        }
        Ok(routes)
    }

    /// Adds a rule; `false` when the very same is there.
    ///
    /// # Errors
    /// [`LinkError::Change`].
    pub fn add_rule(&mut self, rule: &SourceRule) -> Result<bool, LinkError> {
        let message = RouteNetlinkMessage::NewRule(rule_message(rule));
        match self.socket.change(message, NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => Ok(true),
            Err(error) if error.is(libc::EEXIST) => Ok(false),
            Err(source) => Err(self.refused(
                format!("add a rule from {} to table {}", rule.from, rule.table),
                source,
                "",
            )),
        }
    }

    /// Takes a rule away; `false` when there is none.
    ///
    /// # Errors
    /// [`LinkError::Change`].
    pub fn remove_rule(&mut self, rule: &SourceRule) -> Result<bool, LinkError> {
        let message = RouteNetlinkMessage::DelRule(rule_message(rule));
        let removed = self.socket.change(message, 0);
        self.removed(removed, &[libc::ENOENT], || {
            format!("remove a rule from {} to table {}", rule.from, rule.table)
        })
    }

    /// The rules that judge by source alone and lead to a table, IPv4 and IPv6.
    ///
    /// # Errors
    /// [`LinkError::Request`].
    pub fn source_rules(&mut self) -> Result<Vec<SourceRule>, LinkError> {
        let mut rules = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RuleMessage::default();
            request.header.family = family;
            let found = self.dump(RouteNetlinkMessage::GetRule(request), |message| {
                RuleEntry::decode(message.body)
            });
            match found {
                Ok(found) => rules.extend(found.into_iter().map(|RuleEntry(rule)| rule)),
                Err(error) if family_is_missing(&error) => {}
                Err(source) => return Err(self.failed("list rules", source)),
            }
        }
        Ok(rules)
    }
}

/// A kernel without IPv6, or without its rules.
fn family_is_missing(error: &NetlinkError) -> bool {
    error.is(libc::EAFNOSUPPORT) || error.is(libc::EOPNOTSUPP)
}

fn check_families(route: &Route) -> Result<(), LinkError> {
    let v6 = route.destination.addr().is_ipv6();
    for address in [route.gateway, route.source].into_iter().flatten() {
        if address.is_ipv6() != v6 {
            return Err(LinkError::Invalid {
                thing: "route",
                value: describe(route),
                reason: format!("{address} is of the other address family"),
            });
        }
    }
    Ok(())
}

/// Whether the kernel's route is the wanted one: what was left to the kernel is not compared.
fn same(found: &Route, wanted: &Route) -> bool {
    found.ifindex == wanted.ifindex
        && found.destination == wanted.destination.trunc()
        && found.gateway == wanted.gateway
        && (wanted.source.is_none() || found.source == wanted.source)
        && (wanted.metric.is_none() || found.metric == wanted.metric)
}

fn describe(route: &Route) -> String {
    let via = route
        .gateway
        .map(|gateway| format!(" via {gateway}"))
        .unwrap_or_default();
    format!(
        "to {}{via} on interface {} in table {}",
        route.destination, route.ifindex, route.table
    )
}

fn family(net: IpNet) -> AddressFamily {
    match net {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    }
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let scope = route.scope.map_or_else(
        || match (route.destination, route.gateway) {
            (IpNet::V4(_), None) => RouteScope::Link,
            _ => RouteScope::Universe,
        },
        RouteScope::from,
    );
    message.header = RouteHeader {
        address_family: family(route.destination),
        destination_prefix_length: route.destination.prefix_len(),
        // Tables above 255 are in the attribute alone.
        table: u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC),
        protocol: RouteProtocol::Static,
        scope,
        kind: RouteType::Unicast,
        flags: if route.onlink {
            RouteFlags::Onlink
        } else {
            RouteFlags::empty()
        },
        ..RouteHeader::default()
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table));
    attributes.push(RouteAttribute::Oif(route.ifindex));
    if route.destination.prefix_len() > 0 {
        let destination = route.destination.network().into();
        attributes.push(RouteAttribute::Destination(destination));
    }
    let gateway = route.gateway.map(|ip| RouteAttribute::Gateway(ip.into()));
    let source = route.source.map(|ip| RouteAttribute::PrefSource(ip.into()));
    let metric = route.metric.map(RouteAttribute::Priority);
    attributes.extend([gateway, source, metric].into_iter().flatten());
    let metrics: Vec<_> = [
        route.mtu.map(RouteMetric::Mtu),
        route.advmss.map(RouteMetric::Advmss),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !metrics.is_empty() {
        attributes.push(RouteAttribute::Metrics(metrics));
    }
    message
}

fn rule_message(rule: &SourceRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(rule.from);
    message.header.src_len = rule.from.prefix_len();
    message.header.action = RuleAction::ToTable;
    message.header.table = u8::try_from(rule.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.attributes = vec![
        RuleAttribute::Source(rule.from.network()),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Priority(rule.priority),
    ];
    message
}
