//! What the demo plays on: a node with an uplink, three pods, and another machine, each a network
//! namespace, laid out as Multus does it.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::Result;

use super::netns::Namespace;

/// What the namespaces' names end in.
pub(super) const ROLES: [&str; 5] = ["fabric", "node", "red", "blue", "green"];

/// The node's interface to the fabric.
pub(super) const UPLINK: &str = "up0";

/// A pod: its namespace, and the interface in it that is attached.
pub(super) struct Pod {
    pub(super) namespace: Namespace,
    /// `red`, `blue` or `green`.
    pub(super) name: &'static str,
    pub(super) interface: &'static str,
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Ipv6Addr,
}

impl Pod {
    /// As the agent knows it.
    pub(super) fn full_name(&self) -> String {
        format!("demo/{}", self.name)
    }
}

/// The whole of it. Fields are dropped in their order, so pods go before the node.
pub(super) struct Topology {
    /// On the fast network only: a macvlan child of the uplink.
    pub(super) red: Pod,
    /// Likewise.
    pub(super) blue: Pod,
    /// On the cluster network only: a veth to the node.
    pub(super) green: Pod,
    pub(super) node: Namespace,
    /// Another machine, at the other end of the uplink.
    pub(super) fabric: Namespace,
}

/// The node on the uplink.
pub(super) const NODE_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The node on the uplink.
pub(super) const NODE_V6: Ipv6Addr = fast(1);
/// The other machine.
pub(super) const FABRIC_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);
/// An address of the other machine that gets blocked.
pub(super) const INTRUDER_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 66);

/// An address of the fast network, fd77::/64.
const fn fast(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, host)
}

/// An address of the cluster network, fd77:0:0:1::/64.
const fn cluster(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 1, 0, 0, 0, host)
}

impl Topology {
    /// Makes everything, with names that start with `prefix`.
    ///
    /// # Errors
    /// `ip` fails, or the kernel lacks macvlan or veth.
    pub(super) fn new(prefix: &str) -> Result<Self> {
        let namespace = |name: &str| Namespace::new(format!("{prefix}-{name}"));
        let pod = |name, interface, v4, v6| {
            Ok::<_, anyhow::Error>(Pod {
                namespace: namespace(name)?,
                name,
                interface,
                v4,
                v6,
            })
        };
        let topology = Self {
            fabric: namespace("fabric")?,
            node: namespace("node")?,
            red: pod("red", "net1", Ipv4Addr::new(10, 77, 0, 11), fast(0x11))?,
            blue: pod("blue", "net1", Ipv4Addr::new(10, 77, 0, 12), fast(0x12))?,
            green: pod("green", "eth0", Ipv4Addr::new(10, 77, 1, 13), cluster(0x13))?,
        };
        topology.wire_fabric()?;
        topology.wire_macvlan(&topology.red)?;
        topology.wire_macvlan(&topology.blue)?;
        topology.wire_veth(&topology.green)?;
        Ok(topology)
    }

    /// The pods, in the order in which they are shown.
    pub(super) fn pods(&self) -> [&Pod; 3] {
        [&self.red, &self.blue, &self.green]
    }

    fn wire_fabric(&self) -> Result<()> {
        let Self { node, fabric, .. } = self;
        node.ip(&format!(
            "link add {UPLINK} type veth peer name eth0 netns {}",
            fabric.name()
        ))?;
        address(node, UPLINK, NODE_V4, 24)?;
        address(node, UPLINK, NODE_V6, 64)?;
        address(fabric, "eth0", FABRIC_V4, 24)?;
        address(fabric, "eth0", INTRUDER_V4, 24)?;
        address(fabric, "eth0", fast(0xfe), 64)?;
        node.ip(&format!("link set {UPLINK} up"))?;
        fabric.ip("link set eth0 up")?;
        routes_to_cluster(fabric)?;
        node.sysctl("ipv4/ip_forward", "1")?;
        node.sysctl("ipv6/conf/all/forwarding", "1")
    }

    fn wire_macvlan(&self, pod: &Pod) -> Result<()> {
        let Pod {
            namespace,
            interface,
            name,
            ..
        } = pod;
        // Made under a name of its own: the node may have an interface of the pod's name.
        self.node.ip(&format!(
            "link add link {UPLINK} name {name} type macvlan mode bridge"
        ))?;
        self.node.ip(&format!(
            "link set {name} netns {} name {interface}",
            namespace.name()
        ))?;
        address(namespace, interface, pod.v4, 24)?;
        address(namespace, interface, pod.v6, 64)?;
        namespace.ip(&format!("link set {interface} up"))?;
        routes_to_cluster(namespace)
    }

    fn wire_veth(&self, pod: &Pod) -> Result<()> {
        let Pod {
            namespace,
            interface,
            name,
            ..
        } = pod;
        let gateway_v4 = Ipv4Addr::new(10, 77, 1, 1);
        let gateway_v6 = cluster(1);
        self.node.ip(&format!(
            "link add {name} type veth peer name {interface} netns {}",
            namespace.name()
        ))?;
        address(&self.node, name, gateway_v4, 24)?;
        address(&self.node, name, gateway_v6, 64)?;
        address(namespace, interface, pod.v4, 24)?;
        address(namespace, interface, pod.v6, 64)?;
        self.node.ip(&format!("link set {name} up"))?;
        namespace.ip(&format!("link set {interface} up"))?;
        namespace.ip(&format!("route add default via {gateway_v4}"))?;
        namespace.ip(&format!("-6 route add default via {gateway_v6}"))?;
        Ok(())
    }

    /// A picture of it, with what is where.
    pub(super) fn picture(&self) -> Vec<String> {
        let columns =
            |cells: [&dyn Display; 3]| format!("     {:<21}{:<21}{}", cells[0], cells[1], cells[2]);
        let Self {
            red, blue, green, ..
        } = self;
        vec![
            columns([&"pod red", &"pod blue", &"pod green"]),
            columns([&"net1 (macvlan)", &"net1 (macvlan)", &"eth0 (veth)"]),
            columns([&red.v4, &blue.v4, &green.v4]),
            columns([&red.v6, &blue.v6, &green.v6]),
            "  ┌────┴────────────────────┴─────┐         ┌────┴─────┐".into(),
            format!("  │ {UPLINK}, the uplink: {NODE_V4:<12} ├── node ─┤ routed   │"),
            "  └────┬──────────────────────────┘         └──────────┘".into(),
            format!("     fabric (another machine): {FABRIC_V4}"),
        ]
    }
}

fn address(
    namespace: &Namespace,
    interface: &str,
    address: impl Into<IpAddr>,
    prefix: u8,
) -> Result<()> {
    let address = address.into();
    // The addresses are the demo's own: they are usable at once.
    let nodad = if address.is_ipv6() { "nodad" } else { "" };
    namespace
        .ip(&format!(
            "address add {address}/{prefix} dev {interface} {nodad}"
        ))
        .map(drop)
}

/// Routes of a machine on the fast network to the cluster network, through the node.
fn routes_to_cluster(namespace: &Namespace) -> Result<()> {
    namespace.ip(&format!("route add 10.77.1.0/24 via {NODE_V4}"))?;
    namespace.ip(&format!("-6 route add fd77:0:0:1::/64 via {NODE_V6}"))?;
    Ok(())
}

/// Any address of that family, any port: what a client binds.
pub(super) fn any(like: IpAddr) -> SocketAddr {
    match like {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
