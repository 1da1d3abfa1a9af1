//! Interfaces and namespaces, with `ip` as the witness.

use std::{collections::BTreeSet, ffi::OsStr, fs, os::unix::ffi::OsStrExt, thread};

use anyhow::{Context, Result, ensure};
use dataplane::link::{
    Ethtool, Interface, InterfaceKind, LinkError, MacvlanMode, Netlink, Netns, NetnsId, NetnsRef,
};
use ipnet::IpNet;
use serde_json::Value;
use sluice_tests::{
    netns::{TestNetns, output},
    poll::wait_until,
};

/// Reads all interfaces of a namespace, in each of the ways that there are.
fn read(netns: &TestNetns) -> Result<Vec<Interface>> {
    let mut netlink = Netlink::open(&netns.open()?)?;
    let all = netlink.interfaces()?;
    for interface in &all {
        ensure!(netlink.interface(&interface.name)? == *interface);
        ensure!(netlink.interface_by_index(interface.ifindex)? == *interface);
    }
    Ok(all)
}

/// Checks that we and `ip` agree about the interfaces of a namespace.
fn compare_with_ip(netns: &TestNetns) -> Result<()> {
    let ours = read(netns)?;
    let theirs: Vec<Value> = serde_json::from_str(&netns.ip("-json -details address show")?)?;
    let names = |value: &Value| value["ifname"].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        ours.iter()
            .map(|interface| interface.name.clone())
            .collect::<Vec<_>>(),
        theirs.iter().map(names).collect::<Vec<_>>()
    );
    for (our, their) in ours.iter().zip(&theirs) {
        let context = format!("{our:?}\n{their}");
        assert_eq!(
            Some(u64::from(our.ifindex)),
            their["ifindex"].as_u64(),
            "{context}"
        );
        assert_eq!(Some(u64::from(our.mtu)), their["mtu"].as_u64(), "{context}");
        let flags = their["flags"].as_array().context("flags")?;
        assert_eq!(our.up, flags.iter().any(|flag| flag == "UP"), "{context}");
        let mac = (their["link_type"] == "ether")
            .then(|| their["address"].as_str())
            .flatten();
        assert_eq!(
            our.mac.map(|mac| mac.to_string()).as_deref(),
            mac,
            "{context}"
        );
        let info = &their["linkinfo"];
        let kind = match (
            info["info_kind"].as_str(),
            info["info_data"]["mode"].as_str(),
        ) {
            (Some("macvlan"), Some(mode)) => format!("macvlan {mode}"),
            (Some(kind), _) => kind.to_owned(),
            (None, _) => their["link_type"].as_str().unwrap_or_default().to_owned(),
        };
        assert_eq!(our.kind.to_string(), kind, "{context}");
        let addresses = |value: &Value| {
            format!(
                "{}/{}",
                value["local"].as_str().unwrap_or_default(),
                value["prefixlen"]
            )
        };
        let theirs: BTreeSet<String> = their["addr_info"]
            .as_array()
            .context("addr_info")?
            .iter()
            .map(addresses)
            .collect();
        assert_eq!(
            our.addresses
                .iter()
                .map(IpNet::to_string)
                .collect::<BTreeSet<_>>(),
            theirs
        );
    }
    Ok(())
}

#[test]
fn a_drivers_own_statistics_are_read() -> Result<()> {
    let netns = TestNetns::new()?;
    let peer = TestNetns::new()?;
    netns.add_veth("v0", &peer, "v1")?;
    let ethtool = Ethtool::open(&netns.open()?)?;
    let all = ethtool.statistics("v0", |driver, _| driver == "veth")?;
    let all = all.context("veth has some")?;
    ensure!(all.driver == "veth");
    // The first one is the index of the other end.
    let expected = Netlink::open(&peer.open()?)?.interface("v1")?.ifindex;
    ensure!(
        all.values.first() == Some(&("peer_ifindex".to_owned(), expected.into())),
        "{all:?}"
    );
    ensure!(all.values.len() > 1, "{all:?}");
    let some = ethtool.statistics("v0", |_, name| name.starts_with("rx_queue_0_"))?;
    let some = some.context("picked")?.values;
    ensure!(
        !some.is_empty() && some.len() < all.values.len(),
        "{some:?}"
    );
    ensure!(ethtool.statistics("lo", |_, _| true)?.is_none());
    let error = ethtool.statistics("gone", |_, _| true).unwrap_err();
    ensure!(error.errno() == Some(libc::ENODEV), "{error}");
    Ok(())
}

#[test]
fn agrees_with_ip() -> Result<()> {
    let (node, pod) = (TestNetns::new()?, TestNetns::new()?);
    for netns in [&node, &pod] {
        // Link-local addresses would come and change between two readings.
        netns.set_sysctl("ipv6/conf/default/addr_gen_mode", "1")?;
    }
    node.add_veth("uplink", &pod, "peer")?;
    for mode in ["private", "vepa", "bridge"] {
        node.add_macvlan("uplink", &pod, mode, mode)?;
    }
    node.ip("link add link uplink name tap type macvtap")?;
    node.ip("link add down type veth peer name other")?;
    node.ip("link set other mtu 9000")?;
    node.ip("tuntap add name tun mode tun")?;
    for address in [
        "10.1.0.1/24",
        "10.1.0.2/24",
        "2001:db8::1/64",
        "192.0.2.1/32",
    ] {
        pod.add_address("bridge", address)?;
    }
    pod.ip("address add 10.2.0.1 peer 10.2.0.2/32 dev private")?;
    compare_with_ip(&node)?;
    compare_with_ip(&pod)
}

#[test]
fn more_interfaces_than_fit_one_answer() -> Result<()> {
    let netns = TestNetns::new()?;
    for index in 0..40 {
        netns.ip(&format!("link add a{index} type veth peer name b{index}"))?;
        netns.add_address(&format!("a{index}"), &format!("10.0.{index}.1/24"))?;
    }
    compare_with_ip(&netns)
}

#[test]
fn a_macvlan_knows_its_parent() -> Result<()> {
    let (node, pod) = (TestNetns::new()?, TestNetns::new()?);
    node.add_veth("uplink", &pod, "peer")?;
    node.add_macvlan("uplink", &pod, "net1", "passthru")?;

    let mut node_netlink = Netlink::open(&node.open()?)?;
    let uplink = node_netlink.interface("uplink")?;
    let mut pod_netlink = Netlink::open(&pod.open()?)?;
    let net1 = pod_netlink.interface("net1")?;
    assert_eq!(
        net1.kind,
        InterfaceKind::Macvlan {
            mode: MacvlanMode::Passthru
        }
    );
    let parent = net1.parent.context("net1 has no parent")?;
    assert_eq!(parent.ifindex, uplink.ifindex);
    assert_eq!(parent.netnsid, pod_netlink.nsid(&node.open()?)?);
    assert!(parent.netnsid.is_some());
    let peer = pod_netlink.interface("peer")?;
    assert_eq!(peer.kind, InterfaceKind::Veth);
    assert_eq!(
        uplink.parent.map(|parent| parent.ifindex),
        Some(peer.ifindex)
    );
    Ok(())
}

#[test]
fn a_missing_interface_is_told_with_those_that_are_there() -> Result<()> {
    let netns = TestNetns::new()?;
    netns.ip("link add net1 type veth peer name net2")?;
    let mut netlink = Netlink::open(&netns.open()?)?;
    for name in ["net9", "", "a-name-that-is-much-too-long", "net1\0"] {
        let error = netlink.interface(name).unwrap_err();
        let LinkError::NotFound {
            interface, present, ..
        } = &error
        else {
            panic!("{name:?}: {error}");
        };
        assert_eq!(interface, name);
        assert_eq!(present.iter().collect::<BTreeSet<_>>().len(), 3);
        assert!(error.to_string().contains("lo, net2, net1"), "{error}");
        assert!(error.to_string().contains(netns.name()), "{error}");
    }
    for ifindex in [0, 99, u32::MAX] {
        let error = netlink.interface_by_index(ifindex).unwrap_err();
        assert!(matches!(error, LinkError::NotFound { .. }), "{error}");
    }
    Ok(())
}

#[test]
fn a_strange_name_or_alias_hides_nothing() -> Result<()> {
    let netns = TestNetns::new()?;
    netns.ip("link add net1 type veth peer name net2")?;
    let bad = OsStr::from_bytes(b"\xff\xfe");
    output(
        netns
            .command("ip")
            .args(["link", "set", "net1", "alias"])
            .arg(bad),
    )?;
    output(
        netns
            .command("ip")
            .args(["link", "set", "net2", "name"])
            .arg(bad),
    )?;
    let mut netlink = Netlink::open(&netns.open()?)?;
    assert_eq!(netlink.interface("net1")?.kind, InterfaceKind::Veth);
    let names: BTreeSet<_> = netlink
        .interfaces()?
        .into_iter()
        .map(|one| one.name)
        .collect();
    assert_eq!(
        names,
        ["lo", "net1", "\u{fffd}\u{fffd}"].map(str::to_owned).into()
    );
    Ok(())
}

#[test]
fn the_hardware_behind_an_interface() -> Result<()> {
    let sysfs = tempfile::tempdir()?;
    let mut netlink = Netlink::open(&Netns::host()?)?.with_sysfs(sysfs.path());
    for interface in netlink.interfaces()? {
        // sysfs as the witness, which shows the devices of the own namespace only.
        let link = fs::canonicalize(format!("/sys/class/net/{}/device", interface.name));
        let name = link
            .ok()
            .and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
        assert_eq!(
            interface.device.clone().map(|device| device.name),
            name,
            "{interface:?}"
        );
        let Some(device) = interface.device else {
            continue;
        };
        assert_eq!(
            (interface.kind, device.driver),
            (InterfaceKind::Physical, None)
        );
        let path = sysfs
            .path()
            .join(format!("bus/{}/devices/{}", device.bus, device.name));
        fs::create_dir_all(&path)?;
        std::os::unix::fs::symlink("../../../bus/drivers/some_nic", path.join("driver"))?;
        let again = netlink.interface_by_index(interface.ifindex)?;
        let driver = again.device.and_then(|device| device.driver);
        assert_eq!(driver.as_deref(), Some("some_nic"));
    }
    Ok(())
}

#[test]
fn work_inside_a_namespace_leaves_the_caller_where_it_is() -> Result<()> {
    let own = || fs::read_link("/proc/thread-self/ns/net");
    let netns = TestNetns::new()?;
    let opened = netns.open()?;
    let before = own()?;
    let inside = opened.run(own)??;
    assert_eq!(
        inside.to_str(),
        Some(format!("net:[{}]", opened.id()).as_str())
    );
    assert_ne!(inside, before);
    assert_eq!(own()?, before);

    let error = opened.run(|| panic!("on {}", "purpose")).unwrap_err();
    let LinkError::Panicked { message, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(message, "on purpose");
    assert_eq!(own()?, before);
    assert_eq!(Netns::host()?.run(own)??, before);
    Ok(())
}

#[test]
fn each_name_opens_the_same_namespace() -> Result<()> {
    let netns = TestNetns::new()?;
    let sleeper = netns.spawn("sleep", &["infinity"])?;
    let id = netns.open()?.id();
    let by_path = NetnsRef::Path(netns.path().display().to_string());
    assert_eq!(Netns::open(&by_path)?.id(), id);
    wait_until_inside(sleeper.id(), id)
}

#[test]
fn a_removed_namespace_is_gone() -> Result<()> {
    let netns = TestNetns::new()?;
    let reference = netns.reference();
    netns.remove()?;
    let error = Netns::open(&reference).unwrap_err();
    assert!(matches!(error, LinkError::NamespaceGone { .. }), "{error}");
    Ok(())
}

#[test]
fn a_test_namespace_takes_its_processes_with_it() -> Result<()> {
    let netns = TestNetns::new()?;
    let (path, id) = (netns.path(), netns.open()?.id());
    let mut sleeper = netns.command("sleep").arg("infinity").spawn()?;
    wait_until_inside(sleeper.id(), id)?;
    drop(netns);
    assert!(!sleeper.wait()?.success());
    assert!(!path.exists());
    Ok(())
}

/// `nsenter` enters the namespace before it becomes the command.
fn wait_until_inside(pid: u32, netns: NetnsId) -> Result<()> {
    wait_until("the process to enter the namespace", || {
        Ok(Netns::open(&NetnsRef::Pid(pid))?.id() == netns)
    })
}

#[test]
fn one_namespace_has_one_id_however_many_ask() -> Result<()> {
    let (home, pod) = (TestNetns::new()?, TestNetns::new()?);
    assert_eq!(Netlink::open(&home.open()?)?.nsid(&pod.open()?)?, None);
    let ask =
        || -> Result<Option<i32>> { Ok(Netlink::open(&home.open()?)?.ensure_nsid(&pod.open()?)?) };
    let answers: BTreeSet<Option<i32>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .collect::<Result<_>>()
    })?;
    assert_eq!(answers.len(), 1);
    let id = answers.into_iter().next().flatten().context("no id")?;
    let listed = home.ip("netns list-id")?;
    assert!(listed.contains(&format!("nsid {id} ")), "{listed}");
    assert!(listed.contains(pod.name()), "{listed}");
    Ok(())
}
