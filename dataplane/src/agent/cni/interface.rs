//! What is done to a new interface in its container.

use std::{net::IpAddr, thread};

use ipnet::IpNet;

use super::super::{Error, Result};
use crate::{
    api::types::cni::{ConfigureRequest, Route as WantedRoute},
    link::{
        Dad, Interface, InterfaceKind, MAIN_TABLE, Netlink, Netns, ProbeTiming, Route, SourceRule,
        Sysctl, announce, find_conflicts, set_sysctls,
    },
};

/// The number of an interface's own routing table is this and its index.
const TABLES: u32 = 5100;
/// Source rules come before the main table's rule (32766) and after what an
/// application may want to put first.
const RULE_PRIORITY: u32 = 5100;

/// One interface to be configured.
pub(super) struct Work<'a> {
    request: &'a ConfigureRequest,
    netns: &'a Netns,
    netlink: Netlink,
    interface: Interface,
}

impl<'a> Work<'a> {
    pub(super) fn open(
        request: &'a ConfigureRequest,
        netns: &'a Netns,
        ifindex: u32,
    ) -> Result<Self> {
        let mut netlink = Netlink::open(netns)?;
        let interface = netlink.interface_by_index(ifindex)?;
        Ok(Self {
            request,
            netns,
            netlink,
            interface,
        })
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let addresses = self.request.addresses.iter();
        addresses.map(|given| given.address.addr()).collect()
    }

    /// Sets the interface up, silent about addresses of others, and looks for
    /// other users of its own.
    pub(super) fn prepare(&mut self) -> Result<()> {
        let settings = self.request.settings;
        if settings.arp {
            // Before the interface can answer for anything.
            let sysctls = Sysctl::several_interfaces(&self.interface.name);
            set_sysctls(self.netns, &sysctls)?;
        }
        self.netlink.set_up(self.interface.ifindex, true)?;
        let addresses = self.addresses();
        let Some(mac) = self.interface.mac else {
            return Ok(());
        };
        if !settings.detect_conflicts || addresses.is_empty() || !self.asks() {
            return Ok(());
        }
        let conflicts = find_conflicts(
            self.netns,
            self.interface.ifindex,
            mac,
            &addresses,
            ProbeTiming::default(),
        )?;
        if conflicts.is_empty() {
            return Ok(());
        }
        let users: Vec<_> = conflicts
            .iter()
            .map(|conflict| format!("{} is in use by {}", conflict.address, conflict.mac))
            .collect();
        Err(Error::Conflict(format!(
            "address conflict: {}; take the address away from the other, or exclude it from the \
             pool",
            users.join(", ")
        )))
    }

    /// Whether there is a link on which neighbours can be asked: an ipvlan
    /// child in a layer 3 mode has none.
    fn asks(&self) -> bool {
        use crate::link::IpvlanMode;
        !matches!(
            self.interface.kind,
            InterfaceKind::Ipvlan {
                mode: IpvlanMode::L3 | IpvlanMode::L3s
            }
        )
    }

    pub(super) fn add_addresses(&mut self) -> Result<()> {
        for given in &self.request.addresses {
            // Conflicts have been looked for, or are not to be.
            self.netlink
                .add_address(self.interface.ifindex, given.address, Dad::Skip)?;
            self.interface.addresses.push(given.address);
        }
        Ok(())
    }

    /// Adds the routes, and where the container has other interfaces a table of
    /// their own for what comes from this one's addresses; the rules that will
    /// lead there.
    pub(super) fn add_routes(&mut self, through_node: &[WantedRoute]) -> Result<Vec<SourceRule>> {
        let wanted: Vec<_> = self.request.routes.iter().chain(through_node).collect();
        for wanted in &wanted {
            let route = self.route(wanted);
            self.netlink.add_route(&route)?;
        }
        if !self.request.settings.arp || !self.has_siblings()? {
            return Ok(Vec::new());
        }
        let table = TABLES + self.interface.ifindex;
        let ifindex = self.interface.ifindex;
        for given in &self.request.addresses {
            let connected = Route {
                table,
                source: Some(given.address.addr()),
                ..Route::new(ifindex, given.address, None)
            };
            self.netlink.add_route(&connected)?;
        }
        for wanted in wanted.iter().filter(|wanted| wanted.table.is_none()) {
            let route = Route {
                table,
                ..self.route(wanted)
            };
            self.netlink.add_route(&route)?;
        }
        for route in self.default_routes(table) {
            self.netlink.add_route(&route)?;
        }
        let rules = self.request.addresses.iter().map(|given| SourceRule {
            from: IpNet::from(given.address.addr()),
            table,
            priority: RULE_PRIORITY,
        });
        Ok(rules.collect())
    }

    pub(super) fn add_rules(&mut self, rules: &[SourceRule]) -> Result<()> {
        for rule in rules {
            self.netlink.add_rule(rule)?;
        }
        Ok(())
    }

    /// Tells the neighbours; without it those that knew an earlier owner of an
    /// address would go on to send there.
    ///
    /// On a thread of its own: closing the socket that this takes waits for an
    /// RCU grace period, for which the pod's start need not.
    pub(super) fn announce(self, netns: Netns) {
        let Some(mac) = self.interface.mac else {
            return;
        };
        if !self.request.settings.announce || !self.asks() {
            return;
        }
        let (ifindex, addresses) = (self.interface.ifindex, self.addresses());
        let name = self.request.attachment.to_string();
        thread::spawn(move || {
            if let Err(error) = announce(&netns, ifindex, mac, &addresses) {
                tracing::warn!("{name}: {error}");
            }
        });
    }

    /// Whether the container has other interfaces with addresses.
    fn has_siblings(&mut self) -> Result<bool> {
        let own = self.interface.ifindex;
        let interfaces = self.netlink.interfaces()?;
        Ok(interfaces.iter().any(|other| {
            // Loopback's have none.
            other.ifindex != own && other.mac.is_some() && !other.addresses.is_empty()
        }))
    }

    /// Through the gateways that IPAM named, where the routes do not say it.
    fn default_routes(&self, table: u32) -> Vec<Route> {
        let mut routes: Vec<Route> = Vec::new();
        for gateway in self.request.addresses.iter().filter_map(|a| a.gateway) {
            let everywhere = IpNet::new(unspecified(gateway), 0);
            let Ok(everywhere) = everywhere else { continue };
            let known = self.request.routes.iter().any(|one| one.dst == everywhere)
                || routes.iter().any(|route| route.destination == everywhere);
            if !known {
                routes.push(Route {
                    table,
                    onlink: self.is_off_link(gateway),
                    ..Route::new(self.interface.ifindex, everywhere, Some(gateway))
                });
            }
        }
        routes
    }

    /// A route as the kernel takes it; one without a gateway goes through that
    /// of the first address of its family, as the reference plugins have it.
    fn route(&self, wanted: &WantedRoute) -> Route {
        let v6 = wanted.dst.addr().is_ipv6();
        let gateway = wanted.gw.or_else(|| {
            let mut gateways = self.request.addresses.iter().filter_map(|a| a.gateway);
            gateways.find(|gateway| gateway.is_ipv6() == v6)
        });
        Route {
            table: wanted.table.unwrap_or(MAIN_TABLE),
            metric: wanted.priority,
            scope: wanted.scope,
            onlink: gateway.is_some_and(|gateway| self.is_off_link(gateway)),
            mtu: wanted.mtu,
            advmss: wanted.advmss,
            ..Route::new(self.interface.ifindex, wanted.dst, gateway)
        }
    }

    /// Whether no subnet of the interface has this gateway: it is there all
    /// the same, the kernel need only be told.
    fn is_off_link(&self, gateway: IpAddr) -> bool {
        let mut addresses = self.interface.addresses.iter();
        !addresses.any(|net| net.contains(&gateway))
    }
}

fn unspecified(of_family: IpAddr) -> IpAddr {
    match of_family {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}
