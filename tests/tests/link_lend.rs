//! Lending an interface of the node to a pod and taking it back. A veth stands in for a VF, which
//! this machine may not have: the moves and names are the kernel's either way. What happens to
//! hardware when a namespace dies under it needs a VF.

use anyhow::Result;
use dataplane::link::{LinkError, NetdevState, Netlink};
use sluice_tests::netns::TestNetns;

struct Place {
    node: TestNetns,
    _switch: TestNetns,
    pod: TestNetns,
}

/// A node with the interface `ens1f0v0`, which has other names, and a pod.
fn place() -> Result<Place> {
    let (node, switch, pod) = (TestNetns::new()?, TestNetns::new()?, TestNetns::new()?);
    node.add_veth("ens1f0v0", &switch, "port")?;
    for command in [
        "link property add dev ens1f0v0 altname enp59s0f0v0 altname a-name-longer-than-fifteen",
        "link set ens1f0v0 mtu 1400 alias mine",
    ] {
        node.ip(command)?;
    }
    Ok(Place {
        node,
        _switch: switch,
        pod,
    })
}

fn state(netns: &TestNetns, name: &str) -> Result<(u32, NetdevState)> {
    let mut netlink = Netlink::open(&netns.open()?)?;
    let ifindex = netlink.interface(name)?.ifindex;
    Ok((ifindex, netlink.netdev_state(ifindex)?))
}

fn lend(place: &Place, name: &str) -> Result<NetdevState> {
    let (ifindex, before) = state(&place.node, "ens1f0v0")?;
    Netlink::open(&place.node.open()?)?.lend(ifindex, &before, &place.pod.open()?, name)?;
    Ok(before)
}

#[test]
fn an_interface_comes_back_as_it_was() -> Result<()> {
    let place = place()?;
    let before = lend(&place, "net1")?;
    assert_eq!(before.altnames.len(), 2);
    assert!(place.node.describe("ens1f0v0").is_err());
    assert_eq!(place.pod.describe("net1")?["operstate"], "DOWN");

    // What a pod may do to it.
    for command in [
        "link set net1 mtu 1200 address 02:00:00:00:99:01 alias theirs",
        "link property add dev net1 altname ens1f0v0",
        "address add 10.0.0.1/24 dev net1",
        "link set net1 up",
    ] {
        place.pod.ip(command)?;
    }
    let (ifindex, _) = state(&place.pod, "net1")?;
    let returned =
        Netlink::open(&place.pod.open()?)?.take_back(ifindex, &before, &place.node.open()?)?;
    assert!(returned.problems.is_empty(), "{:?}", returned.problems);
    let (ifindex, mut after) = state(&place.node, "ens1f0v0")?;
    after.altnames.sort_unstable();
    let mut before = before;
    before.altnames.sort_unstable();
    assert_eq!((ifindex, after), (returned.ifindex, before));
    let pod = place.pod.ip("-brief link show")?;
    assert_eq!(pod.lines().count(), 1, "{pod}");
    Ok(())
}

/// As on kernels whose first interface has the same name everywhere.
#[test]
fn names_that_are_taken_on_the_way_do_not_stop_it() -> Result<()> {
    let place = place()?;
    place
        .pod
        .ip("link add ens1f0v0 type veth peer name enp59s0f0v0")?;
    let before = lend(&place, "net1")?;
    place.node.ip("link add net1 type veth peer name other")?;
    let (ifindex, _) = state(&place.pod, "net1")?;
    let returned =
        Netlink::open(&place.pod.open()?)?.take_back(ifindex, &before, &place.node.open()?)?;
    assert!(returned.problems.is_empty(), "{:?}", returned.problems);
    assert_eq!(state(&place.node, "ens1f0v0")?.0, returned.ifindex);
    Ok(())
}

#[test]
fn a_name_that_the_pod_has_is_refused_and_changes_nothing() -> Result<()> {
    let place = place()?;
    place.pod.ip("link add net1 type veth peer name other")?;
    let before = place.node.describe("ens1f0v0")?;
    let error = lend(&place, "net1").unwrap_err();
    let error = error.downcast::<LinkError>()?;
    assert!(matches!(error, LinkError::Exists { .. }), "{error}");
    assert_eq!(place.node.describe("ens1f0v0")?, before);
    Ok(())
}

#[test]
fn a_name_given_away_meanwhile_is_told() -> Result<()> {
    let place = place()?;
    let before = lend(&place, "net1")?;
    place
        .node
        .ip("link add ens1f0v0 type veth peer name sluice0")?;
    let (ifindex, _) = state(&place.pod, "net1")?;
    let returned =
        Netlink::open(&place.pod.open()?)?.take_back(ifindex, &before, &place.node.open()?)?;
    let [LinkError::Exists { interface, .. }] = &returned.problems[..] else {
        panic!("{:?}", returned.problems);
    };
    assert_eq!(interface, "ens1f0v0");
    let (ifindex, after) = state(&place.node, "sluice1")?;
    assert_eq!(ifindex, returned.ifindex);
    assert_eq!((after.mtu, after.alias), (1400, Some("mine".into())));
    Ok(())
}
