//! When pods, the source and the agent come and go.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::{
    node::{POD_INTERFACE, addresses, pings},
    policy::{namespace, pod, policy},
    service::PORTS,
};

use crate::lab::Lab;

/// The pod's interface comes up only after it was attached, and the pod sends
/// in a tight loop all the while: whatever leaves it was judged.
#[test]
fn a_pod_that_sends_from_its_first_microsecond_is_isolated() -> Result<()> {
    let objects = [
        namespace("x"),
        pod(0, "x", "a"),
        pod(1, "x", "b"),
        policy(
            "x",
            "out",
            json!({
                "podSelector": {"matchLabels": {"pod": "a"}},
                "policyTypes": ["Egress"],
                "egress": [{"ports": [{"port": 80, "protocol": "UDP"}]}],
            }),
        ),
    ];
    let lab = Lab::new(2, &objects)?;
    let [sender, receiver] = &lab.node.pods[..] else {
        anyhow::bail!("two pods");
    };
    sender.ip(&format!("link set {POD_INTERFACE} down"))?;
    let [peer, _] = addresses(1);
    let sockets: Vec<_> = PORTS
        .iter()
        .map(|port| Ok(receiver.enter(|| UdpSocket::bind((peer.as_str(), *port)))??))
        .collect::<Result<_>>()?;
    let stop = Arc::new(AtomicBool::new(false));
    let flood = {
        let stop = Arc::clone(&stop);
        let peer = peer.clone();
        let socket = sender.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for port in PORTS {
                    // Fails until the interface is up.
                    let _ = socket.send_to(b"early", (peer.as_str(), port));
                }
            }
        })
    };
    lab.attach(0, "x/a")?;
    sender.ip(&format!("link set {POD_INTERFACE} up"))?;
    let mut buffer = [0; 16];
    let [allowed, denied] = &sockets[..] else {
        anyhow::bail!("two ports");
    };
    allowed.set_read_timeout(Some(Duration::from_secs(20)))?;
    for _ in 0..100 {
        allowed
            .recv(&mut buffer)
            .context("what is allowed does not come through")?;
    }
    denied.set_nonblocking(true)?;
    ensure!(denied.recv(&mut buffer).is_err(), "a packet got through");
    stop.store(true, Ordering::Relaxed);
    let _ = flood.join();
    Ok(())
}

#[test]
fn a_pod_that_the_source_does_not_know_is_isolated_until_it_does() -> Result<()> {
    let lab = Lab::new(2, &[namespace("x"), pod(1, "x", "b")])?;
    let [peer, _] = addresses(1);
    let id = lab.attach(0, "x/a")?;
    ensure!(!pings(&lab.node.pods[0], &peer)?, "an unknown pod is open");
    let status = lab.agent.json(&["status"])?.to_string();
    ensure!(
        status.contains(&format!("endpoint {id}: isolated: pod x/a is not known")),
        "{status}"
    );
    lab.folder.write("new.yaml", &[pod(0, "x", "a")])?;
    lab.wait_for("the pod to be known", |list| {
        list["endpoints"][0]["ingress"] == "open"
    })?;
    ensure!(pings(&lab.node.pods[0], &peer)?, "no policy selects it");
    Ok(())
}

#[test]
fn a_bad_file_changes_nothing_over_a_restart_and_is_named() -> Result<()> {
    let deny = policy("x", "deny", json!({"podSelector": {}}));
    let objects = [namespace("x"), pod(0, "x", "a"), pod(1, "x", "b")];
    let mut lab = Lab::new(2, &objects)?;
    lab.folder.write("deny.yaml", std::slice::from_ref(&deny))?;
    lab.attach(0, "x/a")?;
    let isolated = |list: &Value| list["endpoints"][0]["ingress"] == "isolated";
    lab.wait_for("the policy", isolated)?;
    let (sender, [target, _]) = (&lab.node.pods[1], addresses(0));
    ensure!(!pings(sender, &target)?);
    let bad = deny.to_string().replace("podSelector", "podSelectors");
    lab.folder.write_text("deny.yaml", &bad)?;
    let refused = |list: &Value| list["problems"].to_string().contains("podSelectors");
    lab.wait_for("the refusal", refused)?;
    ensure!(!pings(sender, &target)?, "the old policy is gone");
    lab.agent.kill()?;
    lab.agent.restart()?;
    ensure!(
        !pings(sender, &target)?,
        "the old policy is gone after a restart"
    );
    let list = lab.agent.json(&["policy", "list"])?;
    ensure!(isolated(&list) && refused(&list), "{list}");
    let problem = list["problems"].to_string();
    ensure!(
        problem.contains("deny.yaml: line 1: spec.podSelectors: unknown field"),
        "{problem}"
    );
    std::fs::remove_file(lab.folder.file("deny.yaml"))?;
    lab.wait_for("the policy's end", |list| !isolated(list))?;
    ensure!(pings(sender, &target)?);
    Ok(())
}

#[test]
fn an_unknown_pod_is_opened_after_the_time_that_was_set_and_not_before() -> Result<()> {
    let objects = [namespace("x"), pod(1, "x", "b")];
    let lab = Lab::with(&["--unknown-pods", "open-after=3600"], 2, &objects)?;
    let [peer, _] = addresses(1);
    let id = lab.attach(0, "x/a")?;
    ensure!(!pings(&lab.node.pods[0], &peer)?, "an unknown pod is open");
    drop(lab);

    let lab = Lab::with(&["--unknown-pods", "open-after=1"], 2, &objects)?;
    lab.attach(0, "x/a")?;
    lab.wait_for("the pod to be opened", |list| {
        list["endpoints"][0]["ingress"] == "open"
    })?;
    ensure!(pings(&lab.node.pods[0], &peer)?, "it is still isolated");
    let status = lab.agent.json(&["status"])?.to_string();
    let told = format!("endpoint {id}: open, as configured for unknown pods: pod x/a is not known");
    ensure!(status.contains(&told), "{status}");
    Ok(())
}

#[test]
fn policies_do_not_vanish_with_the_setting_that_named_their_folder() -> Result<()> {
    let deny = policy("x", "deny", json!({"podSelector": {}}));
    let objects = [namespace("x"), pod(0, "x", "a"), pod(1, "x", "b"), deny];
    let mut lab = Lab::new(2, &objects)?;
    lab.attach(0, "x/a")?;
    let (sender, [target, _]) = (lab.node.pods[1].name().to_owned(), addresses(0));
    let sender = lab.node.pods.iter().position(|pod| pod.name() == sender);
    let sender = sender.context("no sender")?;
    ensure!(!pings(&lab.node.pods[sender], &target)?);
    lab.agent.kill()?;
    lab.agent.set_options(&[]);
    let Err(refusal) = lab.agent.restart() else {
        anyhow::bail!("an agent without the folder started");
    };
    let accepted = lab.agent.state().join("policy-files");
    let wanted = format!("remove {}", accepted.display());
    ensure!(format!("{refusal:#}").contains(&wanted), "{refusal:#}");
    ensure!(!pings(&lab.node.pods[sender], &target)?, "it is open");

    std::fs::remove_dir_all(&accepted)?;
    lab.agent.restart()?;
    lab.wait_for("the endpoint to be open", |list| {
        list["endpoints"][0]["ingress"] == "open"
    })?;
    ensure!(pings(&lab.node.pods[sender], &target)?, "it is isolated");
    Ok(())
}
