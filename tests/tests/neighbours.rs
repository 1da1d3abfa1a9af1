//! What a pod's interface says to its neighbours, and asks them. The neighbours are kernels in
//! other namespaces.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use dataplane::link::{
    AddressState, ChildKind, ChildSpec, Conflict, Dad, LinkError, Mac, MacvlanMode, Netlink, Netns,
    ProbeTiming, announce, find_conflicts,
};
use sluice_tests::{netns::TestNetns, poll::wait_until};

/// A neighbour at the other end of the node's uplink, and a pod on it.
struct Place {
    node: TestNetns,
    neighbour: TestNetns,
    neighbour_mac: Mac,
    pod: TestNetns,
}

/// The pod's interface, ready to speak.
struct Nic {
    netns: Netns,
    ifindex: u32,
    mac: Mac,
}

impl Place {
    fn new() -> Result<Self> {
        let (node, neighbour, pod) = (TestNetns::new()?, TestNetns::new()?, TestNetns::new()?);
        node.add_veth("uplink", &neighbour, "peer")?;
        node.wait_carrier("uplink")?;
        let neighbour_mac = mac(&neighbour, "peer")?;
        Ok(Self {
            node,
            neighbour,
            neighbour_mac,
            pod,
        })
    }

    fn nic(&self, pod: &TestNetns) -> Result<Nic> {
        let spec = ChildSpec {
            master: "uplink".to_owned(),
            name: "net1".to_owned(),
            kind: ChildKind::Macvlan(MacvlanMode::Bridge),
            mac: None,
            mtu: None,
            up: true,
        };
        let netns = pod.open()?;
        Netlink::open(&self.node.open()?)?.create_child(&spec, &netns)?;
        pod.wait_carrier("net1")?;
        let found = Netlink::open(&netns)?.interface("net1")?;
        Ok(Nic {
            netns,
            ifindex: found.ifindex,
            mac: found.mac.context("net1 has no address")?,
        })
    }
}

fn mac(netns: &TestNetns, interface: &str) -> Result<Mac> {
    let found = netns.describe(interface)?;
    Ok(found["address"].as_str().context("no address")?.parse()?)
}

fn addresses(texts: &[&str]) -> Result<Vec<IpAddr>> {
    Ok(texts
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?)
}

/// Patient: the machine may be busy, and an answer that is too late would be no fault of the code.
fn patient() -> ProbeTiming {
    ProbeTiming {
        wait: Duration::from_secs(2),
        ..ProbeTiming::default()
    }
}

#[test]
fn an_address_that_a_neighbour_holds_is_found() -> Result<()> {
    let place = Place::new()?;
    for address in ["10.9.0.5/24", "2001:db8::5/64"] {
        place.neighbour.add_address("peer", address)?;
    }
    let nic = place.nic(&place.pod)?;
    let asked = addresses(&["10.9.0.5", "10.9.0.6", "2001:db8::5", "2001:db8::6"])?;
    let mut found = find_conflicts(&nic.netns, nic.ifindex, nic.mac, &asked, patient())?;
    found.sort_by_key(|conflict| conflict.address);
    let expected: Vec<_> = addresses(&["10.9.0.5", "2001:db8::5"])?
        .into_iter()
        .map(|address| Conflict {
            address,
            mac: place.neighbour_mac,
        })
        .collect();
    assert_eq!(found, expected);
    // Asking must not have taught the neighbour that the address is ours.
    let table = place.neighbour.ip("neighbour show")?;
    assert!(!table.contains("10.9.0.6"), "{table}");
    Ok(())
}

/// Nothing answers, so the whole time is spent, and no more than that times a busy machine's share.
#[test]
fn a_search_that_finds_nothing_takes_what_it_says() -> Result<()> {
    let place = Place::new()?;
    let nic = place.nic(&place.pod)?;
    let timing = ProbeTiming::default();
    assert_eq!(timing.cost(), Duration::from_millis(80));
    let begin = Instant::now();
    let asked = addresses(&["10.9.0.6", "2001:db8::6"])?;
    let found = find_conflicts(&nic.netns, nic.ifindex, nic.mac, &asked, timing)?;
    assert!(found.is_empty(), "{found:?}");
    assert!(begin.elapsed() >= timing.cost());
    Ok(())
}

/// Who asks first hears the other one ask, and gives up; the other may have the address.
#[test]
fn of_two_pods_that_want_the_same_address_one_gives_up() -> Result<()> {
    let place = Place::new()?;
    let other = TestNetns::new()?;
    let (first, second) = (place.nic(&place.pod)?, place.nic(&other)?);
    let asked = addresses(&["10.9.0.7", "2001:db8::7"])?;
    let search = |nic: &Nic| find_conflicts(&nic.netns, nic.ifindex, nic.mac, &asked, patient());
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| search(&first));
        let two = scope.spawn(|| search(&second));
        (one.join(), two.join())
    });
    let mut noticed = Vec::new();
    for (found, mac) in [(one, second.mac), (two, first.mac)] {
        let found = found.map_err(|_| anyhow::anyhow!("a search panicked"))??;
        assert!(
            found.iter().all(|conflict| conflict.mac == mac),
            "{found:?}"
        );
        noticed.extend(found.iter().map(|conflict| conflict.address));
    }
    for address in asked {
        assert!(noticed.contains(&address), "nobody noticed {address}");
    }
    Ok(())
}

#[test]
fn neighbours_learn_the_new_owner_of_an_address() -> Result<()> {
    let place = Place::new()?;
    let nic = place.nic(&place.pod)?;
    let mut netlink = Netlink::open(&nic.netns)?;
    for address in ["10.9.0.8/24", "2001:db8::8/64"] {
        netlink.add_address(nic.ifindex, address.parse()?, Dad::Skip)?;
    }
    for address in ["10.9.0.9/24", "2001:db8::9/64"] {
        place.neighbour.add_address("peer", address)?;
    }
    let asked = addresses(&["10.9.0.8", "2001:db8::8"])?;
    for address in &asked {
        place.neighbour.ip(&format!(
            "neighbour replace {address} lladdr 02:de:ad:00:00:01 dev peer nud stale"
        ))?;
    }
    announce(&nic.netns, nic.ifindex, nic.mac, &asked)?;
    for address in &asked {
        wait_until(&format!("the neighbour to learn {address}"), || {
            let known = place
                .neighbour
                .ip(&format!("neighbour show {address} dev peer"))?;
            Ok(known.contains(&nic.mac.to_string()))
        })?;
    }
    Ok(())
}

#[test]
fn the_kernels_own_duplicate_address_detection_is_read() -> Result<()> {
    let place = Place::new()?;
    place.neighbour.add_address("peer", "2001:db8::5/64")?;
    let nic = place.nic(&place.pod)?;
    let mut netlink = Netlink::open(&nic.netns)?;
    let asked = addresses(&["2001:db8::5", "2001:db8::6"])?;
    for address in &asked {
        netlink.add_address(nic.ifindex, format!("{address}/64").parse()?, Dad::Wait)?;
    }
    let duplicates = netlink.wait_dad(nic.ifindex, &asked, Duration::from_secs(60))?;
    assert_eq!(duplicates, addresses(&["2001:db8::5"])?);
    let state = netlink.address_state(nic.ifindex, asked[1])?;
    assert_eq!(state, Some(AddressState::Usable));
    Ok(())
}

#[test]
fn an_interface_that_is_down_is_named() -> Result<()> {
    let place = Place::new()?;
    let nic = place.nic(&place.pod)?;
    Netlink::open(&nic.netns)?.set_up(nic.ifindex, false)?;
    let asked = addresses(&["10.9.0.5"])?;
    let error = announce(&nic.netns, nic.ifindex, nic.mac, &asked).unwrap_err();
    assert!(matches!(error, LinkError::PacketSocket { .. }), "{error}");
    assert!(
        error.to_string().contains("is the interface up?"),
        "{error}"
    );
    Ok(())
}
