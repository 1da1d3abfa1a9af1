//! What the CLI tells of policies.

use std::{net::SocketAddr, thread};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::{
    node::{addresses, pings},
    policy::{NETWORK, namespace, pod, policy},
    service::{Server, tcp_connects},
};

use crate::lab::Lab;

#[test]
fn list_show_explain_test_and_audit_tell_what_is_in_force() -> Result<()> {
    let objects = [
        namespace("x"),
        pod(0, "x", "a"),
        pod(1, "x", "b"),
        policy(
            "x",
            "web",
            json!({
                "podSelector": {"matchLabels": {"pod": "a"}},
                "ingress": [{
                    "from": [{"podSelector": {"matchLabels": {"pod": "b"}}}],
                    "ports": [{"port": 80}, {"port": 5000, "endPort": 5007, "protocol": "SCTP"}],
                }],
            }),
        ),
    ];
    let lab = Lab::new(2, &objects)?;
    let id = lab.attach(0, "x/a")?;
    let _server = Server::start(&lab.node.pods[0])?;
    let agent = &lab.agent;
    let explain = |from: &str, port: &str| {
        agent.json(&[
            "policy", "explain", "--from", from, "--to", "x/a", "--port", port,
        ])
    };
    let rule = "MultiNetworkPolicy x/web ingress[0]";
    let allowed = explain("x/b", "80/tcp")?;
    ensure!(allowed[0]["passes"] == true, "{allowed}");
    ensure!(allowed[0]["network"] == NETWORK, "{allowed}");
    ensure!(allowed[0]["ends"][0]["rule"] == rule, "{allowed}");
    ensure!(explain("x/b", "5007/sctp")?[0]["passes"] == true);
    ensure!(explain("x/b", "5007/tcp")?[0]["passes"] == false);
    ensure!(explain("x/b", "5008/sctp")?[0]["passes"] == false);
    let port = explain("x/b", "81/tcp")?[0]["ends"][0]["why"].to_string();
    let wanted = format!("{rule} is for this peer, but allows only 80/tcp, 5000-5007/sctp");
    ensure!(port.contains(&wanted), "{port}");
    let peer = explain("192.0.2.1", "80/tcp")?[0]["ends"][0]["why"].to_string();
    ensure!(
        peer.contains("isolated by MultiNetworkPolicy x/web"),
        "{peer}"
    );
    ensure!(
        peer.contains(&format!("{rule} allows 80/tcp, but not for this peer")),
        "{peer}"
    );

    let target = SocketAddr::new(addresses(0)[0].parse()?, 80);
    ensure!(tcp_connects(&lab.node.pods[1], target, true)?);
    let shown = agent.json(&["policy", "show", &id.to_string()])?;
    ensure!(shown["rules"][0]["rule"] == rule, "{shown}");
    ensure!(shown["rules"][0]["hits"].as_u64() >= Some(1), "{shown}");
    agent.run(&["policy", "list"])?;

    let expectations = lab.folder.file("expected");
    let text = "
- {from: x/b, to: x/a, port: 80/tcp, expect: allow}
- {from: x/b, to: x/a, port: 81/tcp, expect: deny}
- {from: 192.0.2.1, to: x/a, port: 80/tcp, expect: deny}
";
    std::fs::write(&expectations, text)?;
    let expectations = expectations.display().to_string();
    let folder = lab.folder.path();
    for arguments in [
        vec!["policy", "test", &expectations],
        vec!["policy", "test", &expectations, "--policy-dir", &folder],
    ] {
        ensure!(agent.run(&arguments)? == "3 expectations met\n");
    }
    std::fs::write(
        &expectations,
        text.replace("81/tcp, expect: deny", "81/tcp, expect: allow"),
    )?;
    for arguments in [
        vec!["policy", "test", &expectations],
        vec!["policy", "test", &expectations, "--policy-dir", &folder],
    ] {
        let output = agent.output(&arguments)?;
        ensure!(output.status.code() == Some(1), "{output:?}");
        let printed = String::from_utf8(output.stdout)?;
        let wanted = "expected:3: x/b -> x/a 81/tcp: expected allow: ";
        ensure!(printed.contains(wanted), "{printed}");
    }

    let closed = SocketAddr::new(target.ip(), 81);
    agent.run(&["policy", "audit", &id.to_string(), "on"])?;
    ensure!(
        tcp_connects(&lab.node.pods[1], closed, true)?,
        "audit mode drops"
    );
    let audited = explain("x/b", "81/tcp")?;
    ensure!(audited[0]["passes"] == true && audited[0]["ends"][0]["allowed"] == false);
    agent.run(&["policy", "audit", &id.to_string(), "off"])?;
    ensure!(
        !tcp_connects(&lab.node.pods[1], closed, false)?,
        "audit mode is not off"
    );
    Ok(())
}

#[test]
fn a_drop_names_both_pods_and_each_rule_has_its_hits() -> Result<()> {
    let objects = [
        namespace("x"),
        pod(0, "x", "a"),
        pod(1, "x", "b"),
        policy(
            "x",
            "web",
            json!({
                "podSelector": {"matchLabels": {"pod": "a"}},
                "ingress": [
                    {"ports": [{"port": 81}]},
                    {"from": [{"podSelector": {}}], "ports": [{"port": 80}]},
                ],
            }),
        ),
    ];
    let lab = Lab::new(2, &objects)?;
    lab.attach(0, "x/a")?;
    let _server = Server::start(&lab.node.pods[0])?;
    let [v4, _] = addresses(0);
    ensure!(tcp_connects(
        &lab.node.pods[1],
        SocketAddr::new(v4.parse()?, 80),
        true
    )?);
    let list = lab.agent.json(&["policy", "list"])?;
    let hits = |rule: usize| {
        let rules = list["rules"].as_array().into_iter().flatten();
        let mut of_rule = rules.filter(|one| one["policy"] == "web" && one["rule"] == rule);
        of_rule.next().and_then(|one| one["hits"].as_u64())
    };
    ensure!(
        hits(0) == Some(0) && hits(1) == Some(1),
        "{}",
        list["rules"]
    );

    // Other drops may come first: neighbours announce themselves by other protocols.
    let follow = |format: &'static str| {
        lab.agent
            .run(&["events", "--count", "1", "--duration", "20", "-o", format])
    };
    let event = |format| -> Result<String> {
        thread::scope(|scope| {
            let following = scope.spawn(move || follow(format));
            while !following.is_finished() {
                ensure!(!pings(&lab.node.pods[1], &v4)?, "a ping passed");
            }
            following.join().ok().context("panicked")?
        })
    };
    let told: Value = serde_json::from_str(&event("json")?)?;
    ensure!(told["reason"] == "policy_denied", "{told}");
    ensure!(
        told["pod"] == json!({"namespace": "x", "name": "a"}),
        "{told}"
    );
    ensure!(
        told["peer"] == json!({"namespace": "x", "name": "b"}),
        "{told}"
    );
    let line = event("table")?;
    let [peer, _] = addresses(1);
    let from = format!("x/a ingress drop policy_denied {peer}:8 (x/b) -> {v4}:0 protocol 1 ");
    ensure!(line.contains(&from), "{line}");
    Ok(())
}
