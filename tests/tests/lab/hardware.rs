//! Virtual functions and RDMA devices by Sluice's own commands and its library, with `ip`, `rdma`
//! and sysfs as witnesses.

use std::{fs, net::Ipv4Addr, process::Command};

use anyhow::{Context as _, Result, ensure};
use dataplane::{
    link::{Mac, NetdevState, Netlink, Netns, VfConfig, VfLink, VfVlanTag, VlanProtocol},
    rdma::{NetnsMode, Rdma},
};
use serde_json::Value;
use sluice_tests::{
    agent::TestAgent,
    netns::{TestNetns, output},
    poll::{wait_for, wait_until},
};

use crate::card::{Card, PF};

pub(crate) const QUIET: [&str; 2] = ["--metrics-address", "off"];

/// Runs a command that must fail with this exit code and these words.
pub(crate) fn refused(
    agent: &TestAgent,
    arguments: &[&str],
    code: i32,
    words: &[&str],
) -> Result<()> {
    let output = agent.output(arguments)?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(code),
        "{arguments:?}: {stderr}"
    );
    for word in words {
        ensure!(stderr.contains(word), "no {word:?} in {stderr}");
    }
    Ok(())
}

pub(crate) fn interfaces(pf: &Value) -> Result<Vec<String>> {
    let vfs = pf["vfs"].as_array().context("no list")?;
    vfs.iter()
        .map(|vf| Ok(vf["interface"].as_str().context("no interface")?.to_owned()))
        .collect()
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn functions_are_made_shown_and_kept_by_the_command() -> Result<()> {
    let card = Card::up()?;
    // Functions made while it is down would never have a carrier.
    card.node.ip(&format!("link set {PF} down"))?;
    let agent = TestAgent::start(&card.node, &QUIET)?;
    let set = |number: &'static str| agent.json(&["sriov", "set", "--pf", PF, "--num-vfs", number]);
    let made = set("2")?;
    let names = interfaces(&made)?;
    ensure!(names.len() == 2, "{made}");
    ensure!(made["carrier"] == true && made["driver"] == "igb", "{made}");
    for name in &names {
        card.node.set_up(name)?;
        card.node.wait_carrier(name)?;
    }
    let index = |name: &str| Ok::<_, anyhow::Error>(card.node.describe(name)?["ifindex"].clone());
    let before = index(&names[0])?;
    set("2")?;
    ensure!(index(&names[0])? == before, "made anew");

    let pod = TestNetns::new()?;
    card.node
        .ip(&format!("link set {} netns {}", names[1], pod.name()))?;
    let shown = agent.json(&["sriov", "show"])?;
    ensure!(shown[0]["vfs"][0]["in_use"] == false, "{shown}");
    ensure!(shown[0]["vfs"][1]["in_use"] == true, "{shown}");
    let pci = shown[0]["vfs"][1]["pci"].as_str().context("no address")?;
    let change = ["sriov", "set", "--pf", PF, "--num-vfs", "3"];
    refused(&agent, &change, 5, &[pci, "end their users first"])?;
    agent.attach(&pod, &names[1])?;
    let shown = agent.json(&["sriov", "show"])?;
    ensure!(shown[0]["vfs"][1]["endpoint"].is_u64(), "{shown}");

    let many = ["sriov", "set", "--pf", PF, "--num-vfs", "99"];
    refused(&agent, &many, 1, &["7 VFs at most"])?;
    let absent = ["sriov", "set", "--pf", "eth9", "--num-vfs", "1"];
    refused(&agent, &absent, 4, &["eth9", PF])?;
    pod.remove()?;
    wait_until("the function to be free", || {
        Ok(agent.json(&["sriov", "show"])?[0]["vfs"][1]["in_use"] == false)
    })?;
    let none = set("0")?;
    ensure!(none["vfs"].as_array().is_some_and(Vec::is_empty), "{none}");
    Ok(())
}

/// What `ip` says of a function at its PF.
fn witness(card: &Card, number: usize) -> Result<Value> {
    let text = card.node.ip(&format!("-json -details link show {PF}"))?;
    let all: Value = serde_json::from_str(&text)?;
    Ok(all[0]["vfinfo_list"][number].clone())
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn settings_of_a_function_are_applied_and_restored() -> Result<()> {
    let card = Card::up()?;
    card.functions(2)?;
    let mut netlink = Netlink::open(&Netns::host()?)?;
    let pf = netlink.interface(PF)?.ifindex;
    let before = netlink.vf_state(pf, 1)?;
    let at_first = witness(&card, 1)?;
    let wanted = VfConfig {
        mac: Some("02:00:00:00:91:01".parse()?),
        vlan: Some(VfVlanTag {
            id: 100,
            qos: 3,
            protocol: VlanProtocol::Dot1Q,
        }),
        spoofchk: Some(before.spoofchk == Some(false)),
        trust: Some(true),
        max_tx_rate: Some(100),
        ..VfConfig::default()
    };
    netlink.configure_vf(pf, 1, &wanted)?;
    let seen = witness(&card, 1)?;
    ensure!(seen["rate"]["max_tx"] == 100, "{seen}");
    ensure!(seen["address"] == "02:00:00:00:91:01", "{seen}");
    ensure!(seen["vlan_list"][0]["vlan"] == 100, "{seen}");
    ensure!(seen["vlan_list"][0]["qos"] == 3, "{seen}");
    ensure!(seen["spoofchk"] != at_first["spoofchk"], "{seen}");
    ensure!(seen["trust"] == true, "{seen}");
    let now = netlink.vf_state(pf, 1)?;
    ensure!(
        now.mac == wanted.mac && now.vlan.id == 100 && now.vlan.qos == 3,
        "{now:?}"
    );
    ensure!(
        witness(&card, 0)? != seen,
        "another function changed as well"
    );

    let problems = netlink.restore_vf(pf, 1, &before);
    ensure!(problems.is_empty(), "{problems:?}");
    ensure!(netlink.vf_state(pf, 1)? == before);
    ensure!(witness(&card, 1)? == at_first, "{}", witness(&card, 1)?);

    // igb knows no least rate, nor a function's link state: what came before it is set back.
    let impossible = VfConfig {
        min_tx_rate: Some(10),
        ..wanted
    };
    ensure!(netlink.configure_vf(pf, 1, &impossible).is_err());
    ensure!(witness(&card, 1)? == at_first, "{}", witness(&card, 1)?);
    let impossible = VfConfig {
        link: Some(VfLink::Disable),
        ..wanted
    };
    let error = netlink.configure_vf(pf, 1, &impossible).unwrap_err();
    ensure!(error.to_string().contains("link state of VF 1"), "{error}");
    ensure!(witness(&card, 1)? == at_first, "{}", witness(&card, 1)?);
    Ok(())
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn a_function_is_lent_and_comes_back_as_it_was() -> Result<()> {
    let card = Card::up()?;
    let name = card.functions(1)?.remove(0);
    let node = Netns::host()?;
    let mut netlink = Netlink::open(&node)?;
    let index = netlink.interface(&name)?.ifindex;
    netlink.add_altname(index, "enp1s0f0v0")?;
    netlink.set_alias(index, Some("the first function"))?;
    let before = netlink.netdev_state(index)?;

    let pod = TestNetns::new()?;
    netlink.lend(index, &before, &pod.open()?, "net1")?;
    let mut at_pod = Netlink::open(&pod.open()?)?;
    let lent = at_pod.interface("net1")?.ifindex;
    at_pod.set_mac(lent, Mac([2, 0, 0, 0, 0x91, 2]))?;
    at_pod.set_mtu(lent, 1400)?;
    at_pod.set_up(lent, true)?;
    let returned = at_pod.take_back(lent, &before, &node)?;
    ensure!(returned.problems.is_empty(), "{:?}", returned.problems);
    same(&before, &netlink.netdev_state(returned.ifindex)?)?;
    drop(at_pod);

    // The pod's namespace dies with it.
    netlink.lend(returned.ifindex, &before, &pod.open()?, "net1")?;
    pod.remove()?;
    let present = card.function(0)?;
    ensure!(present == "net1", "it came back as {present}");
    let index = netlink.interface(&present)?.ifindex;
    let problems = netlink.restore_netdev(index, &before);
    ensure!(problems.is_empty(), "{problems:?}");
    same(&before, &netlink.netdev_state(index)?)
}

fn same(before: &NetdevState, after: &NetdevState) -> Result<()> {
    ensure!(before == after, "{before:?} became {after:?}");
    Ok(())
}

fn rdma(arguments: &[&str]) -> Result<Value> {
    let text = output(Command::new("rdma").arg("-j").args(arguments))?;
    Ok(serde_json::from_str(&text)?)
}

/// A soft-RoCE device, gone when dropped or with its interface.
struct Device(&'static str);

impl Device {
    /// The device is the node's, wherever its interface is.
    fn new(name: &'static str, netns: &TestNetns, netdev: &str) -> Result<Self> {
        netns.run(
            "rdma",
            &["link", "add", name, "type", "rxe", "netdev", netdev],
        )?;
        Ok(Self(name))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = output(Command::new("rdma").args(["link", "delete", self.0]));
    }
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn rdma_show_agrees_with_rdma_and_sysfs() -> Result<()> {
    let card = Card::up()?;
    let _device = Device::new("rxe70", &card.node, PF)?;
    card.node.add_address(PF, "10.93.0.1/24")?;
    let agent = TestAgent::start(&card.node, &QUIET)?;
    let pod = TestNetns::new()?;
    card.node.add_macvlan(PF, &pod, "net1", "bridge")?;
    pod.add_address("net1", "10.93.0.11/24")?;
    let id = agent.attach(&pod, "net1")?;

    // iproute2 6.1 knows no JSON here.
    let system = output(Command::new("rdma").arg("system"))?;
    let mode = system.split_whitespace().nth(1).context("no mode")?;
    // GIDs come a moment after their addresses.
    let shown = wait_for("the node's address among the GIDs", || {
        let shown = agent.json(&["rdma", "show"])?;
        Ok(gid(&shown, "10.93.0.1").is_some().then_some(shown))
    })?;
    ensure!(shown["mode"] == *mode, "{shown}");
    let device = &shown["devices"][0];
    let link = rdma(&["link"])?;
    ensure!(device["name"] == link[0]["ifname"], "{device} {link}");
    let port = &device["port_list"][0];
    let state = link[0]["state"].as_str().unwrap_or_default();
    ensure!(port["state"] == state.to_lowercase(), "{port} {link}");
    ensure!(port["netdev"]["name"] == PF, "{port}");
    ensure!(device["char_devices"][0]["name"] == "uverbs0", "{device}");
    let capacity = fs::read_dir("/sys/class/infiniband/rxe70/ports/1/gids")?.count();
    ensure!(port["gids"]["capacity"] == capacity, "{port}");
    let index = gid(&shown, "10.93.0.1").context("no GID")?;
    let file = format!("/sys/class/infiniband/rxe70/ports/1/gids/{index}");
    ensure!(fs::read_to_string(file)?.trim().ends_with(":0a5d:0001"));

    let text = agent.run(&["rdma", "show"])?;
    ensure!(text.contains("rxe70") && text.contains("RoCE v2"), "{text}");
    if mode == "shared" {
        let endpoint = wait_for("the pod's GID", || {
            let endpoints = agent.json(&["endpoints"])?;
            let found = endpoints[0]["rdma"].clone();
            Ok(found["gid"]["index"].is_u64().then_some(found))
        })?;
        let index = endpoint["gid"]["index"].to_string();
        ensure!(
            endpoint["environment"]["NCCL_IB_GID_INDEX"] == index,
            "{endpoint}"
        );
        ensure!(
            endpoint["environment"]["NCCL_IB_HCA"] == "rxe70:1",
            "{endpoint}"
        );
        ensure!(endpoint["exclusive"] == false, "{endpoint}");
        let text = agent.run(&["rdma", "show"])?;
        ensure!(text.contains(&format!("endpoint {id}")), "{text}");
    }

    // A namespace exists, so the mode cannot change; to what it is it can.
    agent.run(&["rdma", "mode", mode])?;
    let other = if mode == "shared" {
        "exclusive"
    } else {
        "shared"
    };
    refused(
        &agent,
        &["rdma", "mode", other],
        5,
        &["lsns -t net", "modprobe.d", "reboot"],
    )
}

/// The index of the RoCE v2 GID of an IPv4 address.
fn gid(shown: &Value, address: &str) -> Option<u64> {
    let address: Ipv4Addr = address.parse().ok()?;
    let mapped = address.to_ipv6_mapped().to_string();
    let gids = shown["devices"][0]["port_list"][0]["gids"]["entries"].as_array()?;
    let found = gids
        .iter()
        .find(|gid| gid["gid"] == mapped && gid["type"] == "RoCE v2")?;
    found["index"].as_u64()
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn an_rdma_device_goes_to_a_pod_and_comes_back() -> Result<()> {
    let card = Card::up()?;
    let function = card.functions(1)?.remove(0);
    let node = Netns::host()?;
    let mut at_node = Rdma::open(&node)?;
    let pod = TestNetns::new()?;
    card.node
        .ip(&format!("link set {function} netns {}", pod.name()))?;
    pod.set_up(&function)?;
    pod.add_address(&function, "10.93.0.21/24")?;
    let _device = Device::new("rxe71", &pod, &function)?;
    let device = at_node.device("rxe71")?;
    if at_node.mode()? == NetnsMode::Shared {
        let error = at_node.move_to(&device, &pod.open()?).unwrap_err();
        ensure!(error.to_string().contains("exclusive mode"), "{error}");
        return Ok(());
    }
    at_node.move_to(&device, &pod.open()?)?;
    ensure!(at_node.devices()?.is_empty());
    let mut at_pod = Rdma::open(&pod.open()?)?;
    let index = Netlink::open(&pod.open()?)?.interface(&function)?.ifindex;
    let (found, port) = at_pod.of_netdev(index)?.context("not by its interface")?;
    ensure!((found.index, port.port) == (device.index, 1));

    let agent = TestAgent::start(&card.node, &QUIET)?;
    agent.attach(&pod, &function)?;
    let endpoint = wait_for("the pod's GID", || {
        let found = agent.json(&["endpoints"])?[0]["rdma"].clone();
        Ok(found["gid"]["index"].is_u64().then_some(found))
    })?;
    ensure!(endpoint["exclusive"] == true, "{endpoint}");
    let shown = agent.json(&["rdma", "show"])?;
    ensure!(shown["devices"][0]["netns"] == pod.name(), "{shown}");

    ensure!(at_pod.take_back(device.index, "rxe71", &node)?);
    ensure!(!at_pod.take_back(device.index, "rxe71", &node)?, "twice");
    ensure!(at_node.device("rxe71")?.index == device.index);
    Ok(())
}
