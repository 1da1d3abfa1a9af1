//! Link events of many namespaces on one socket.

use std::{io::Write, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use dataplane::link::{LinkChange, LinkEvent, Monitor, Netlink};
use sluice_tests::netns::TestNetns;

/// The next event that `wanted` takes; every event before it goes to `seen`.
async fn next_event(
    monitor: &mut Monitor,
    seen: &mut Vec<LinkEvent>,
    wanted: impl Fn(&LinkEvent) -> bool,
) -> Result<LinkEvent> {
    let search = async {
        loop {
            let event = monitor.next().await?;
            seen.push(event.clone());
            if wanted(&event) {
                return Ok(event);
            }
        }
    };
    // Only a lost event ever gets here.
    tokio::time::timeout(Duration::from_secs(20), search)
        .await
        .with_context(|| {
            let last = &seen[seen.len().saturating_sub(20)..];
            format!(
                "the event did not come; the last of {} that did: {last:?}",
                seen.len()
            )
        })?
}

#[tokio::test]
async fn follows_many_namespaces_on_one_socket() -> Result<()> {
    let home = TestNetns::new()?;
    let (followed, stranger) = ([TestNetns::new()?, TestNetns::new()?], TestNetns::new()?);
    let mut monitor = Monitor::open(&home.open()?)?;
    let mut ids = Vec::new();
    let mut seen = Vec::new();
    for netns in &followed {
        ids.push(Netlink::open(&home.open()?)?.ensure_nsid(&netns.open()?)?);
    }
    assert!(ids[0].is_some() && ids[1].is_some() && ids[0] != ids[1]);

    stranger.ip("link add net1 type veth peer name net2")?;
    for (netns, id) in followed.iter().zip(&ids) {
        netns.ip("link add net1 type veth peer name net2")?;
        let ifindex = Netlink::open(&netns.open()?)?.interface("net1")?.ifindex;
        let changed = LinkChange::LinkChanged {
            ifindex,
            name: "net1".into(),
        };
        next_event(&mut monitor, &mut seen, |event| {
            event.nsid == *id && event.change == changed
        })
        .await?;
        for address in ["10.0.0.1/24", "2001:db8::1/64"] {
            netns.add_address("net1", address)?;
            let net = address.parse()?;
            let added = LinkChange::AddressAdded {
                ifindex,
                address: net,
            };
            next_event(&mut monitor, &mut seen, |event| {
                event.nsid == *id && event.change == added
            })
            .await?;
            netns.ip(&format!("address delete {address} dev net1"))?;
            let removed = LinkChange::AddressRemoved {
                ifindex,
                address: net,
            };
            next_event(&mut monitor, &mut seen, |event| {
                event.nsid == *id && event.change == removed
            })
            .await?;
        }
        netns.delete_link("net1")?;
        let removed = LinkChange::LinkRemoved {
            ifindex,
            name: "net1".into(),
        };
        next_event(&mut monitor, &mut seen, |event| {
            event.nsid == *id && event.change == removed
        })
        .await?;
    }
    for event in &seen {
        assert!(
            ids.contains(&event.nsid),
            "from nowhere that is followed: {event:?}"
        );
    }

    let [first, _second] = followed;
    first.remove()?;
    let gone = LinkEvent {
        nsid: ids[0],
        change: LinkChange::NamespaceRemoved,
    };
    next_event(&mut monitor, &mut seen, |event| *event == gone).await?;
    assert_eq!((monitor.malformed(), monitor.overruns()), (0, 0));
    Ok(())
}

#[tokio::test]
async fn own_events_have_no_id_even_when_the_namespace_got_one() -> Result<()> {
    for monitor_first in [true, false] {
        let home = TestNetns::new()?;
        let give_id = || home.ip(&format!("netns set {} 7", home.name()));
        if !monitor_first {
            give_id()?;
        }
        let mut monitor = Monitor::open(&home.open()?)?;
        if monitor_first {
            give_id()?;
        }
        let mut netlink = Netlink::open(&home.open()?)?;
        assert_eq!(netlink.nsid(&home.open()?)?, Some(7));
        assert_eq!(netlink.ensure_nsid(&home.open()?)?, None);
        home.add_address("lo", "10.9.9.9/32")?;
        let address = "10.9.9.9/32".parse()?;
        let added = LinkEvent {
            nsid: None,
            change: LinkChange::AddressAdded {
                ifindex: 1,
                address,
            },
        };
        next_event(&mut monitor, &mut Vec::new(), |event| *event == added).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_interface_that_moves_leaves_and_arrives() -> Result<()> {
    let (home, pod) = (TestNetns::new()?, TestNetns::new()?);
    let id = Netlink::open(&home.open()?)?.ensure_nsid(&pod.open()?)?;
    home.ip("link add net1 type veth peer name net2")?;
    let ifindex = Netlink::open(&home.open()?)?.interface("net1")?.ifindex;
    let mut monitor = Monitor::open(&home.open()?)?;
    home.ip(&format!("link set net1 netns {}", pod.name()))?;
    let removed = LinkChange::LinkRemoved {
        ifindex,
        name: "net1".into(),
    };
    let mut seen = Vec::new();
    next_event(&mut monitor, &mut seen, |event| {
        event.nsid.is_none() && event.change == removed
    })
    .await?;
    let arrived = |event: &LinkEvent| {
        event.nsid == id
            && matches!(&event.change, LinkChange::LinkChanged { name, .. } if name == "net1")
    };
    if !seen.iter().any(arrived) {
        next_event(&mut monitor, &mut seen, arrived).await?;
    }
    Ok(())
}

#[tokio::test]
async fn lost_events_are_told() -> Result<()> {
    let home = TestNetns::new()?;
    home.ip("link add net1 type veth peer name net2")?;
    let mut monitor = Monitor::open(&home.open()?)?;
    let mut batch = home
        .command("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    let mut lines = batch.stdin.take().context("no stdin")?;
    for round in 0..5000 {
        writeln!(lines, "link set net1 mtu {}", 1400 + round % 2)?;
    }
    drop(lines);
    ensure!(batch.wait()?.success());
    let mut seen = Vec::new();
    next_event(&mut monitor, &mut seen, |event| {
        event.change == LinkChange::Overrun
    })
    .await?;
    assert_eq!(monitor.overruns(), 1);
    // It goes on afterwards.
    home.add_address("lo", "10.9.9.9/32")?;
    let added = |event: &LinkEvent| matches!(event.change, LinkChange::AddressAdded { .. });
    next_event(&mut monitor, &mut seen, added).await?;
    Ok(())
}
