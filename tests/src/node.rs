//! A node with macvlan pods and another machine, out of namespaces.

use anyhow::{Context as _, Result};

use crate::{
    netns::{TestNetns, output},
    poll::wait_until,
};

/// The node's uplink.
pub const UPLINK: &str = "up0";
/// A pod's interface.
pub const POD_INTERFACE: &str = "net1";
/// The node's addresses.
pub const NODE: [&str; 2] = ["10.78.0.1", "fd78::1"];
/// Another machine's addresses, beyond the uplink.
pub const MACHINE: [&str; 2] = ["10.78.0.254", "fd78::254"];

/// A namespace that plays the node, with an uplink to one that plays another
/// machine, and macvlan pods.
#[derive(Debug)]
pub struct TestNode {
    /// The node.
    pub node: TestNetns,
    /// The other machine; its interface is `eth0`.
    pub machine: TestNetns,
    /// The pods.
    pub pods: Vec<TestNetns>,
}

impl TestNode {
    /// Makes a node with so many pods on macvlan in bridge mode.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn new(pods: usize) -> Result<Self> {
        Self::with("macvlan mode bridge", pods)
    }

    /// The same with pods of another kind, as `ip link add type` takes it.
    ///
    /// # Errors
    /// `ip` fails, or the kernel has no such kind.
    pub fn with(kind: &str, pods: usize) -> Result<Self> {
        let node = TestNetns::new()?;
        let machine = TestNetns::new()?;
        node.add_veth(UPLINK, &machine, "eth0")?;
        add_addresses(&node, UPLINK, NODE)?;
        add_addresses(&machine, "eth0", MACHINE)?;
        let mut this = Self {
            node,
            machine,
            pods: Vec::new(),
        };
        for number in 0..pods {
            let pod = TestNetns::new()?;
            this.node.add_child(UPLINK, &pod, POD_INTERFACE, kind)?;
            let [v4, v6] = addresses(number);
            add_addresses(&pod, POD_INTERFACE, [&v4, &v6])?;
            this.pods.push(pod);
        }
        Ok(this)
    }

    /// Waits until the node's addresses change no more by themselves: the kernel makes the uplink's
    /// link-local one and tries for a second whether somebody has it.
    ///
    /// # Errors
    /// It never comes.
    pub fn settle(&self) -> Result<()> {
        let show = format!("-6 address show dev {UPLINK} scope link");
        wait_until("the uplink's link-local address", || {
            let addresses = self.node.ip(&show)?;
            Ok(addresses.contains("fe80::") && !addresses.contains("tentative"))
        })
    }

    /// Two pods that know each other's MAC address once and for all, and no
    /// IPv6 anywhere, which would talk of its own accord: what is sent is all
    /// that flows.
    ///
    /// # Errors
    /// `ip` fails, or a sysctl is not there.
    pub fn quiet_pair() -> Result<Self> {
        let this = Self::new(2)?;
        for (netns, interface) in [(&this.node, UPLINK), (&this.machine, "eth0")] {
            netns.set_sysctl(&format!("ipv6/conf/{interface}/disable_ipv6"), "1")?;
        }
        for pod in &this.pods {
            pod.set_sysctl(&format!("ipv6/conf/{POD_INTERFACE}/disable_ipv6"), "1")?;
        }
        for (here, there) in [(0, 1), (1, 0)] {
            let [address, _] = addresses(there);
            let described = this.pods[there].describe(POD_INTERFACE)?;
            let mac = described["address"].as_str().context("no MAC address")?;
            this.pods[here].ip(&format!(
                "neighbor replace {address} lladdr {mac} dev {POD_INTERFACE} nud permanent"
            ))?;
        }
        Ok(this)
    }
}

/// A pod's addresses, by its place in [`TestNode::pods`].
pub fn addresses(pod: usize) -> [String; 2] {
    [
        format!("10.78.0.{}", 11 + pod),
        format!("fd78::{}", 11 + pod),
    ]
}

/// Tells node and machine of pods that answer no neighbour discovery: to the machine they are behind
/// the node, to the node they are neighbours with the uplink's MAC address.
///
/// # Errors
/// `ip` fails.
pub fn announce(setup: &TestNode) -> Result<()> {
    let mac = setup.node.describe(UPLINK)?["address"].clone();
    let mac = mac.as_str().context("no MAC address")?;
    for pod in 0..setup.pods.len() {
        for (address, gateway) in addresses(pod).iter().zip(NODE) {
            setup
                .machine
                .ip(&format!("route add {address} via {gateway}"))?;
            setup.node.ip(&format!(
                "neighbor add {address} lladdr {mac} dev {UPLINK} nud permanent"
            ))?;
        }
    }
    Ok(())
}

fn add_addresses(netns: &TestNetns, interface: &str, [v4, v6]: [&str; 2]) -> Result<()> {
    netns.add_address(interface, &format!("{v4}/24"))?;
    netns.add_address(interface, &format!("{v6}/64"))
}

/// Whether `to` answers a ping from `from`.
///
/// # Errors
/// `ping` cannot be run.
pub fn pings(from: &TestNetns, to: &str) -> Result<bool> {
    let mut command = from.command("ping");
    command.args(["-c", "1", "-W", "1", to]);
    Ok(output(&mut command).is_ok())
}
