//! Interfaces made, changed, moved and removed, with `ip` as the witness.

use anyhow::{Context, Result};
use dataplane::link::{
    AddressState, ChildKind, ChildSpec, Dad, IpvlanMode, LinkError, MacvlanMode, Netlink, Route,
    SourceRule, Sysctl, set_sysctls,
};
use serde_json::Value;
use sluice_tests::{netns::TestNetns, poll::wait_until};

/// A node with an uplink, the other end of its cable, and a pod without interfaces.
struct Place {
    node: TestNetns,
    _switch: TestNetns,
    pod: TestNetns,
}

fn place() -> Result<Place> {
    let (node, switch, pod) = (TestNetns::new()?, TestNetns::new()?, TestNetns::new()?);
    node.add_veth("uplink", &switch, "peer")?;
    Ok(Place {
        node,
        _switch: switch,
        pod,
    })
}

fn macvlan(name: &str, mode: MacvlanMode) -> ChildSpec {
    ChildSpec {
        master: "uplink".to_owned(),
        name: name.to_owned(),
        kind: ChildKind::Macvlan(mode),
        mac: None,
        mtu: None,
        up: true,
    }
}

fn json(netns: &TestNetns, arguments: &str) -> Result<Vec<Value>> {
    Ok(serde_json::from_str(
        &netns.ip(&format!("-json {arguments}"))?,
    )?)
}

#[test]
fn macvlan_children_are_made_in_the_pod() -> Result<()> {
    let place = place()?;
    let (node, pod) = (&place.node, &place.pod);
    let mut netlink = Netlink::open(&node.open()?)?;
    for (name, mode) in [
        ("private", MacvlanMode::Private),
        ("vepa", MacvlanMode::Vepa),
        ("bridge", MacvlanMode::Bridge),
    ] {
        let spec = ChildSpec {
            mac: Some("02:00:00:00:77:01".parse()?),
            mtu: Some(1400),
            up: false,
            ..macvlan(name, mode)
        };
        netlink.create_child(&spec, &pod.open()?)?;
        let found = pod.describe(name)?;
        assert_eq!(found["linkinfo"]["info_kind"], "macvlan", "{found}");
        assert_eq!(found["linkinfo"]["info_data"]["mode"], name, "{found}");
        assert_eq!(found["address"], "02:00:00:00:77:01", "{found}");
        assert_eq!(found["mtu"], 1400, "{found}");
        assert_eq!(found["operstate"], "DOWN", "{found}");
        assert!(node.describe(name).is_err(), "{name} is on the node too");
    }
    netlink.create_child(&macvlan("up", MacvlanMode::Bridge), &pod.open()?)?;
    pod.wait_carrier("up")
}

#[test]
fn a_passthru_child_is_the_only_one() -> Result<()> {
    let place = place()?;
    let (node, pod) = (&place.node, &place.pod);
    let mut netlink = Netlink::open(&node.open()?)?;
    let pod_netns = pod.open()?;
    netlink.create_child(&macvlan("net1", MacvlanMode::Passthru), &pod_netns)?;
    let found = pod.describe("net1")?;
    assert_eq!(
        found["linkinfo"]["info_data"]["mode"], "passthru",
        "{found}"
    );
    let error = netlink
        .create_child(&macvlan("net2", MacvlanMode::Bridge), &pod_netns)
        .unwrap_err();
    assert!(error.to_string().contains("passthru"), "{error}");
    assert!(pod.describe("net2").is_err());
    Ok(())
}

#[test]
fn what_cannot_be_made_is_named() -> Result<()> {
    let place = place()?;
    let (node, pod) = (&place.node, &place.pod);
    let mut netlink = Netlink::open(&node.open()?)?;
    let pod_netns = pod.open()?;
    let good = macvlan("net1", MacvlanMode::Bridge);
    netlink.create_child(&good, &pod_netns)?;

    let mut refused = |spec: ChildSpec| netlink.create_child(&spec, &pod_netns).unwrap_err();
    let error = refused(good.clone());
    assert!(matches!(error, LinkError::Exists { .. }), "{error}");
    let error = refused(ChildSpec {
        master: "absent".to_owned(),
        ..macvlan("net2", MacvlanMode::Bridge)
    });
    assert!(matches!(error, LinkError::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("uplink"), "{error}");

    let uplink_mac = node.describe("uplink")?["address"]
        .as_str()
        .context("no address")?
        .parse()?;
    for (spec, words) in [
        (
            ChildSpec {
                mtu: Some(1501),
                ..macvlan("net2", MacvlanMode::Bridge)
            },
            "master uplink has only 1500",
        ),
        (
            ChildSpec {
                mac: Some("01:00:5e:00:00:01".parse()?),
                ..macvlan("net2", MacvlanMode::Bridge)
            },
            "group address",
        ),
        (
            ChildSpec {
                mac: Some(uplink_mac),
                ..macvlan("net2", MacvlanMode::Bridge)
            },
            "it is the master's",
        ),
        (macvlan("too-long-a-name-", MacvlanMode::Bridge), "1 to 15"),
        (macvlan("net%d", MacvlanMode::Bridge), "'%'"),
    ] {
        let error = refused(spec);
        assert!(matches!(error, LinkError::Invalid { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let left: Vec<_> = json(pod, "link show")?
        .iter()
        .map(|link| link["ifname"].clone())
        .collect();
    assert_eq!(left, ["lo", "net1"]);
    Ok(())
}

/// On a kernel without ipvlan the words say so; with it, the child is there.
#[test]
fn ipvlan_children_or_clear_words() -> Result<()> {
    let place = place()?;
    let (node, pod) = (&place.node, &place.pod);
    let mut netlink = Netlink::open(&node.open()?)?;
    for (name, mode) in [
        ("l2", IpvlanMode::L2),
        ("l3", IpvlanMode::L3),
        ("l3s", IpvlanMode::L3s),
    ] {
        let spec = ChildSpec {
            kind: ChildKind::Ipvlan(mode),
            ..macvlan(name, MacvlanMode::Bridge)
        };
        match netlink.create_child(&spec, &pod.open()?) {
            Ok(()) => {
                let found = pod.describe(name)?;
                assert_eq!(found["linkinfo"]["info_kind"], "ipvlan", "{found}");
                assert_eq!(found["linkinfo"]["info_data"]["mode"], name, "{found}");
                let mut at_pod = Netlink::open(&pod.open()?)?;
                let index = at_pod.interface(name)?.ifindex;
                at_pod.set_ipvlan_mode(index, IpvlanMode::L3)?;
                let found = pod.describe(name)?;
                assert_eq!(found["linkinfo"]["info_data"]["mode"], "l3", "{found}");
                netlink_delete(pod, name)?;
            }
            Err(error) => {
                assert!(matches!(error, LinkError::Unsupported { .. }), "{error}");
                assert!(
                    error.to_string().contains("no ipvlan interfaces"),
                    "{error}"
                );
            }
        }
    }
    Ok(())
}

fn netlink_delete(netns: &TestNetns, name: &str) -> Result<()> {
    let mut netlink = Netlink::open(&netns.open()?)?;
    let ifindex = netlink.interface(name)?.ifindex;
    assert!(netlink.delete(ifindex)?);
    assert!(!netlink.delete(ifindex)?, "deleted twice");
    Ok(())
}

#[test]
fn names_aliases_moves_and_the_end() -> Result<()> {
    let place = place()?;
    let (node, pod) = (&place.node, &place.pod);
    let (node_netns, pod_netns) = (node.open()?, pod.open()?);
    let mut at_node = Netlink::open(&node_netns)?;
    let mut at_pod = Netlink::open(&pod_netns)?;
    let mut spec = macvlan("made-here", MacvlanMode::Bridge);
    spec.up = false;
    at_node.create_child(&spec, &node_netns)?;
    let index = at_node.interface("made-here")?.ifindex;

    at_node.set_alias(index, Some("once eth7"))?;
    at_node.add_altname(index, "a-name-longer-than-fifteen-bytes")?;
    at_node.add_altname(index, "other")?;
    let details = at_node.details(index)?;
    assert_eq!(details.alias.as_deref(), Some("once eth7"));
    assert_eq!(
        details.altnames,
        ["a-name-longer-than-fifteen-bytes", "other"]
    );
    let error = at_node.add_altname(index, "uplink").unwrap_err();
    assert!(matches!(error, LinkError::Exists { .. }), "{error}");
    let error = at_node.rename(index, "uplink").unwrap_err();
    assert!(matches!(error, LinkError::Exists { .. }), "{error}");

    // udev gives a name as an alternative one; then nothing can be called so.
    at_node.rename(index, "other")?;
    assert_eq!(node.describe("other")?["ifname"], "other");
    assert!(at_node.remove_altname(index, "a-name-longer-than-fifteen-bytes")?);
    assert!(!at_node.remove_altname(index, "a-name-longer-than-fifteen-bytes")?);

    at_node.move_to(index, &pod_netns, Some("net1"))?;
    assert!(node.describe("other").is_err());
    let moved = at_pod.interface("net1")?.ifindex;
    assert_eq!(at_pod.details(moved)?.alias.as_deref(), Some("once eth7"));
    at_pod.set_alias(moved, None)?;
    assert_eq!(at_pod.details(moved)?.alias, None);

    at_pod.set_mtu(moved, 1300)?;
    at_pod.set_mac(moved, "02:00:00:00:77:02".parse()?)?;
    at_pod.set_up(moved, true)?;
    wait_until("a carrier", || Ok(at_pod.details(moved)?.carrier))?;
    let found = pod.describe("net1")?;
    assert_eq!(
        (&found["mtu"], &found["address"]),
        (&1300.into(), &"02:00:00:00:77:02".into())
    );
    at_pod.set_up(moved, false)?;
    assert!(!at_pod.details(moved)?.up);

    node.ip("link add net1 type veth peer name net1-peer")?;
    let error = at_pod.move_to(moved, &node_netns, None).unwrap_err();
    assert!(matches!(error, LinkError::Exists { .. }), "{error}");
    netlink_delete(pod, "net1")?;
    let error = at_pod.set_up(moved, true).unwrap_err();
    assert!(matches!(error, LinkError::NotFound { .. }), "{error}");
    Ok(())
}

#[test]
fn addresses_come_and_go() -> Result<()> {
    let place = place()?;
    let (node, pod) = (&place.node, &place.pod);
    let mut netlink = Netlink::open(&node.open()?)?;
    netlink.create_child(&macvlan("net1", MacvlanMode::Bridge), &pod.open()?)?;
    let mut netlink = Netlink::open(&pod.open()?)?;
    let index = netlink.interface("net1")?.ifindex;
    for address in ["10.9.0.5/24", "2001:db8::5/64", "192.0.2.1/32"] {
        let address = address.parse()?;
        assert!(netlink.add_address(index, address, Dad::Skip)?);
        assert!(!netlink.add_address(index, address, Dad::Skip)?);
        assert_eq!(
            netlink.address_state(index, address.addr())?,
            Some(AddressState::Usable)
        );
        let found = pod.describe("net1")?.to_string();
        assert!(
            found.contains(&format!("\"{}\"", address.addr())),
            "{found}"
        );
    }
    let found = pod.describe("net1")?.to_string();
    assert!(found.contains("\"broadcast\":\"10.9.0.255\""), "{found}");

    let checked = "2001:db8::6/64".parse()?;
    netlink.add_address(index, checked, Dad::Wait)?;
    let state = netlink.address_state(index, checked.addr())?;
    assert_eq!(state, Some(AddressState::Tentative));

    for address in ["10.9.0.5/24", "2001:db8::5/64"] {
        let address = address.parse()?;
        assert!(netlink.remove_address(index, address)?);
        assert!(!netlink.remove_address(index, address)?);
        assert_eq!(netlink.address_state(index, address.addr())?, None);
    }
    let error = netlink
        .add_address(9999, "10.0.0.1/8".parse()?, Dad::Wait)
        .unwrap_err();
    assert_eq!(error.errno(), Some(libc::ENODEV), "{error}");
    Ok(())
}

#[test]
fn routes_and_rules_come_and_go() -> Result<()> {
    let place = place()?;
    let (node, pod) = (&place.node, &place.pod);
    Netlink::open(&node.open()?)?
        .create_child(&macvlan("net1", MacvlanMode::Bridge), &pod.open()?)?;
    let mut netlink = Netlink::open(&pod.open()?)?;
    let index = netlink.interface("net1")?.ifindex;
    for address in ["10.9.0.5/24", "2001:db8::5/64"] {
        netlink.add_address(index, address.parse()?, Dad::Skip)?;
    }
    let routes = [
        Route {
            metric: Some(7),
            mtu: Some(1400),
            advmss: Some(1300),
            source: Some("10.9.0.5".parse()?),
            ..Route::new(index, "0.0.0.0/0".parse()?, Some("10.9.0.1".parse()?))
        },
        Route::new(index, "::/0".parse()?, Some("2001:db8::1".parse()?)),
        Route {
            table: 1000,
            ..Route::new(index, "10.10.0.0/16".parse()?, None)
        },
        Route {
            table: 100,
            onlink: true,
            ..Route::new(index, "10.11.0.0/16".parse()?, Some("172.16.0.1".parse()?))
        },
    ];
    for route in &routes {
        assert!(netlink.add_route(route)?, "{route:?}");
        assert!(!netlink.add_route(route)?, "{route:?}");
    }
    let default = json(pod, "route show default")?;
    assert_eq!(default[0]["gateway"], "10.9.0.1");
    assert_eq!(default[0]["metric"], 7);
    assert_eq!(default[0]["prefsrc"], "10.9.0.5");
    assert_eq!(
        json(pod, "-6 route show default")?[0]["gateway"],
        "2001:db8::1"
    );
    assert_eq!(
        json(pod, "route show table 1000")?[0]["dst"],
        "10.10.0.0/16"
    );
    let found = netlink.routes(254)?;
    let ours = found
        .iter()
        .find(|route| route.metric == Some(7))
        .context("the default route is not listed")?;
    assert_eq!(
        ours,
        &Route {
            scope: Some(0),
            ..routes[0].clone()
        }
    );
    assert!(netlink.routes(100)?[0].onlink);

    let other = Route {
        gateway: Some("10.9.0.2".parse()?),
        ..routes[0].clone()
    };
    let error = netlink.add_route(&other).unwrap_err();
    assert!(error.to_string().contains("another metric"), "{error}");
    let far = Route::new(index, "10.12.0.0/16".parse()?, Some("192.0.2.1".parse()?));
    let error = netlink.add_route(&far).unwrap_err();
    assert!(error.to_string().contains("gateway's subnet"), "{error}");
    let mixed = Route::new(index, "10.12.0.0/16".parse()?, Some("2001:db8::1".parse()?));
    let error = netlink.add_route(&mixed).unwrap_err();
    assert!(matches!(error, LinkError::Invalid { .. }), "{error}");

    let rules = [("10.9.0.5/32", 1000), ("2001:db8::5/128", 100)].map(|(from, table)| {
        from.parse().map(|from| SourceRule {
            from,
            table,
            priority: 500,
        })
    });
    for rule in rules {
        let rule = rule?;
        assert!(netlink.add_rule(&rule)?);
        assert!(!netlink.add_rule(&rule)?);
        assert!(
            netlink.source_rules()?.contains(&rule),
            "{:?}",
            netlink.source_rules()?
        );
        assert!(netlink.remove_rule(&rule)?);
        assert!(!netlink.remove_rule(&rule)?);
        assert!(!netlink.source_rules()?.contains(&rule));
    }
    for route in &routes {
        assert!(netlink.remove_route(route)?, "{route:?}");
        assert!(!netlink.remove_route(route)?, "{route:?}");
    }
    assert!(json(pod, "route show default")?.is_empty());
    Ok(())
}

#[test]
fn sysctls_are_set_and_restored() -> Result<()> {
    let place = place()?;
    let (node, pod) = (&place.node, &place.pod);
    let pod_netns = pod.open()?;
    Netlink::open(&node.open()?)?
        .create_child(&macvlan("net1", MacvlanMode::Bridge), &pod_netns)?;
    let read = |key: &str| -> Result<String> {
        let path = format!("/proc/sys/net/ipv4/conf/net1/{key}");
        Ok(pod.run("cat", &[&path])?.trim().to_owned())
    };
    let before = [
        read("arp_ignore")?,
        read("arp_announce")?,
        read("rp_filter")?,
    ];
    let wanted = Sysctl::several_interfaces("net1");
    let old = set_sysctls(&pod_netns, &wanted)?;
    assert_eq!(
        [
            read("arp_ignore")?,
            read("arp_announce")?,
            read("rp_filter")?
        ],
        ["1", "2", "2"]
    );
    assert_eq!(old.len(), wanted.len());
    set_sysctls(&pod_netns, &old)?;
    assert_eq!(
        [
            read("arp_ignore")?,
            read("arp_announce")?,
            read("rp_filter")?
        ],
        before
    );

    let mut broken = Sysctl::several_interfaces("net1");
    broken.push(Sysctl::interface("ipv4", "absent", "arp_ignore", "1"));
    let error = set_sysctls(&pod_netns, &broken).unwrap_err();
    assert!(matches!(error, LinkError::Sysctl { .. }), "{error}");
    assert_eq!(read("arp_ignore")?, before[0], "half of it stayed");
    Ok(())
}
