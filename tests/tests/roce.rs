//! `sluice roce flows` and `watch`, from packets on real interfaces.

use std::{
    io::{BufRead as _, BufReader},
    net::IpAddr,
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use dataplane_ebpf::roce::timing;
use serde_json::{Value, json};
use sluice_tests::{
    agent::{TestAgent, binary},
    netns::TestNetns,
    node::{MACHINE, POD_INTERFACE, TestNode, addresses},
    packets::{Frame, Roce, aeth},
    policy::{PolicyFolder, namespace, pod},
    poll::{wait_for, wait_until},
    wire::Wire,
};

/// Queue pairs of the two pods.
const CLIENT_QP: u32 = 0x11;
const SERVER_QP: u32 = 0x12;

/// One end of a conversation.
struct End {
    wire: Wire,
    frame: Frame,
}

impl End {
    fn send(&self, packet: &Roce) -> Result<()> {
        self.wire.send(&packet.v2(&self.frame))?;
        Ok(())
    }

    fn send_marked(&self, packet: &Roce) -> Result<()> {
        self.wire.send(&packet.v2(&self.frame.clone().tos(3)))?;
        Ok(())
    }
}

/// Both ends between two interfaces.
fn ends(client: (&TestNetns, &str, &str), server: (&TestNetns, &str, &str)) -> Result<(End, End)> {
    let open = |(netns, interface, _): (&TestNetns, &str, &str)| Wire::open(netns, interface);
    let (client_wire, server_wire) = (open(client)?, open(server)?);
    let (from, to): (IpAddr, IpAddr) = (client.2.parse()?, server.2.parse()?);
    let frame = Frame::between(from, to).macs(client_wire.mac(), server_wire.mac());
    let back = frame.clone().reversed();
    Ok((
        End {
            wire: client_wire,
            frame,
        },
        End {
            wire: server_wire,
            frame: back,
        },
    ))
}

/// Two pods of a node in the dataplane.
fn pods(agent: &TestAgent, node: &TestNode) -> Result<(End, End)> {
    for (place, pod) in node.pods.iter().enumerate() {
        let name = format!("shop/web-{place}");
        let netns = pod.name();
        agent.run(&["attach", "--netns", netns, POD_INTERFACE, "--pod", &name])?;
    }
    let [client, server] = [addresses(0)[0].clone(), addresses(1)[0].clone()];
    ends(
        (&node.pods[0], POD_INTERFACE, &client),
        (&node.pods[1], POD_INTERFACE, &server),
    )
}

/// A request and its acknowledgement, so many times.
fn converse(client: &End, server: &End, psns: std::ops::Range<u32>) -> Result<()> {
    for psn in psns {
        client.send(&Roce::write(psn, 256).qp(SERVER_QP))?;
        server.send(&Roce::new(0x11).psn(psn).qp(CLIENT_QP).with(&aeth(0x1f)))?;
    }
    Ok(())
}

/// A pod of the namespace shop, as the API names it.
fn web(number: usize) -> Value {
    json!({"namespace": "shop", "name": format!("web-{number}")})
}

/// The flow of these that goes to a queue pair in a direction.
fn flow<'a>(shown: &'a Value, pod: &Value, direction: &str, qp: u32) -> Result<&'a Value> {
    let flows = shown["flows"].as_array().context("no flows")?;
    let found = flows.iter().find(|flow| {
        flow["pod"] == *pod && flow["direction"] == direction && flow["destination_qp"] == qp
    });
    found.with_context(|| format!("no flow {direction} of {pod} to {qp}: {shown:#}"))
}

fn ensure_fields(flow: &Value, expected: &Value) -> Result<()> {
    for (name, value) in expected.as_object().into_iter().flatten() {
        ensure!(flow[name] == *value, "{name}, not {value}: {flow:#}");
    }
    Ok(())
}

const PSNS: u32 = 300;

#[test]
fn flows_tell_who_talks_to_whom_and_what_goes_wrong() -> Result<()> {
    let node = TestNode::quiet_pair()?;
    let agent = TestAgent::start(&node.node, &["--metrics-address", "off"])?;
    let nothing = agent.run(&["roce", "flows", "--interval", "0.1"])?;
    ensure!(nothing.starts_with("no RoCE has been seen"), "{nothing}");

    let (client, server) = pods(&agent, &node)?;
    converse(&client, &server, 0..PSNS)?;
    // Sent again, too early, marked by a switch; refused, not ready, told to slow down.
    client.send(&Roce::write(PSNS - 1, 256).qp(SERVER_QP))?;
    client.send(&Roce::write(PSNS + 4, 256).qp(SERVER_QP))?;
    client.send_marked(&Roce::write(PSNS + 5, 256).qp(SERVER_QP))?;
    for syndrome in [0x60, 0x62, 0x20] {
        server.send(&Roce::new(0x11).qp(CLIENT_QP).with(&aeth(syndrome)))?;
    }
    server.send(&Roce::cnp().qp(CLIENT_QP))?;

    let shown = agent.json(&["roce", "flows", "--interval", "0.1"])?;
    let requests = json!({
        "peer": addresses(1)[0], "peer_pod": web(1), "local": addresses(0)[0],
        "source_qp": CLIENT_QP, "packets": PSNS + 3, "operations": {"write": PSNS + 3},
        "duplicates": 1, "gaps": 1, "missing": 4, "ce_marked": 1, "naks": 0, "rnr_naks": 0,
        "path_mtu": null,
    });
    let sent = flow(&shown, &web(0), "egress", SERVER_QP)?;
    ensure_fields(sent, &requests)?;
    let answers = json!({
        "peer_pod": web(1), "source_qp": SERVER_QP, "packets": PSNS + 4,
        "operations": {"ack": PSNS + 3, "cnp": 1},
        "naks": 2, "rnr_naks": 1, "duplicates": 0, "gaps": 0, "ce_marked": 0,
    });
    ensure_fields(flow(&shown, &web(0), "ingress", CLIENT_QP)?, &answers)?;
    // The same packets at the other pod.
    let received = flow(&shown, &web(1), "ingress", SERVER_QP)?;
    ensure_fields(
        received,
        &json!({"peer_pod": web(0), "packets": PSNS + 3, "duplicates": 1}),
    )?;

    // At the client the round trip, at the server how long it took; the one within the other.
    let timed = (0..PSNS).filter(|psn| timing::is_timed(*psn)).count();
    let mean = |flow: &Value| flow["round_trip"]["mean_ns"].as_u64().unwrap_or(0);
    for flow in [sent, received] {
        ensure!(flow["round_trip"]["samples"] == timed, "{flow:#}");
    }
    ensure!(mean(sent) > mean(received) && mean(received) > 0);

    // What is asked for and no more.
    let shown = |arguments: &[&str]| -> Result<usize> {
        let arguments = [&["roce", "flows", "--interval", "0.1"], arguments].concat();
        let shown = agent.json(&arguments)?;
        Ok(shown["flows"].as_array().map_or(0, Vec::len))
    };
    ensure!(shown(&[])? == 4);
    ensure!(shown(&["--pod", "web-0"])? == 2);
    ensure!(shown(&["--pod", "web-0", "--peer", "web-0"])? == 0);
    ensure!(shown(&["--top", "3"])? == 3);
    let table = agent.run(&["roce", "flows", "--interval", "0.1", "--sort", "duplicates"])?;
    let line = table.lines().nth(1).unwrap_or_default();
    ensure!(
        line.contains("write") && line.contains("ce 1 gap 1 miss 4 dup 1"),
        "{table}"
    );
    Ok(())
}

#[test]
fn peers_elsewhere_have_the_names_that_the_policy_source_knows() -> Result<()> {
    let node = TestNode::new(1)?;
    let folder = PolicyFolder::new()?;
    // Of another node: at the machine's address.
    let mut far = pod(0, "far", "away");
    far["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"] =
        json!([{"name": "lab/fast", "interface": "net1", "ips": [MACHINE[0]]}])
            .to_string()
            .into();
    folder.write("pods.yaml", &[namespace("far"), namespace("shop"), far])?;
    let folder_path = folder.path();
    let options = [
        "--metrics-address",
        "off",
        "--policy-dir",
        &folder_path,
        "--unknown-pods",
        "open",
    ];
    let agent = TestAgent::start(&node.node, &options)?;
    agent.attach(&node.pods[0], POD_INTERFACE)?;
    let local = addresses(0)[0].clone();
    let (client, _) = ends(
        (&node.pods[0], POD_INTERFACE, &local),
        (&node.machine, "eth0", MACHINE[0]),
    )?;
    wait_until("the packet to pass the policy", || {
        client.send(&Roce::write(1, 64).qp(SERVER_QP))?;
        let shown = agent.json(&["roce", "flows", "--interval", "0.1"])?;
        Ok(shown["flows"][0]["peer_pod"]["name"] == "away")
    })
}

/// `sluice roce watch -o json` in the background.
struct Watch {
    child: Child,
    lines: mpsc::Receiver<Value>,
}

impl Watch {
    fn start(agent: &TestAgent, node: &TestNetns) -> Result<Self> {
        let mut command = node.command(&binary()?.display().to_string());
        command
            .arg("--socket")
            .arg(agent.socket())
            .args(["roce", "watch", "--interval", "0.3", "-o", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().context("no output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(line) = serde_json::from_str(&line) {
                    let _ = sender.send(line);
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// Waits for a line of this kind and stage.
    fn wait(&self, kind: &str, stage: &str) -> Result<Value> {
        wait_for(&format!("{kind} {stage}"), || {
            let line = self.lines.recv_timeout(Duration::from_millis(10)).ok();
            Ok(line.filter(|line| line["kind"] == kind && line["stage"] == stage))
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn watch_tells_of_trouble_when_it_begins_and_when_it_is_over() -> Result<()> {
    let node = TestNode::quiet_pair()?;
    let mut agent = TestAgent::start(&node.node, &["--metrics-address", "off"])?;
    let (client, server) = pods(&agent, &node)?;
    let watch = Watch::start(&agent, &node.node)?;
    // Until it is told, so that it does not matter when the first reading was.
    let told = |kind: &str, packets: &dyn Fn(u32) -> Result<()>| {
        let mut round = 0;
        wait_for(kind, || {
            round += 1;
            packets(round)?;
            let line = watch.lines.recv_timeout(Duration::from_millis(50)).ok();
            Ok(line.filter(|line| line["kind"] == kind && line["stage"] == "begins"))
        })
    };

    let burst = told("cnp_burst", &|_| {
        (0..200).try_for_each(|_| server.send(&Roce::cnp().qp(CLIENT_QP)))
    })?;
    ensure_fields(
        &burst,
        // Both are of this node: told once, where it was sent.
        &json!({
            "pod": web(1), "peer_pod": web(0), "direction": "egress",
            "destination_qp": CLIENT_QP,
        }),
    )?;
    ensure!(burst["rate"].as_f64() >= Some(100.0), "{burst}");

    let nak = told("nak", &|psn| {
        server.send(&Roce::new(0x11).psn(psn).qp(CLIENT_QP).with(&aeth(0x62)))
    })?;
    ensure_fields(
        &nak,
        &json!({"pod": web(1), "peer_pod": web(0), "direction": "egress"}),
    )?;
    ensure!(
        nak["detail"]
            .as_str()
            .is_some_and(|detail| detail.starts_with("nak_remote_access psn ")),
        "{nak}"
    );

    told("receiver_not_ready", &|psn| {
        server.send(&Roce::new(0x11).psn(psn).qp(CLIENT_QP).with(&aeth(0x20)))
    })?;
    let storm = told("retry_storm", &|_| {
        (0..100).try_for_each(|psn| client.send(&Roce::write(psn % 10, 64).qp(SERVER_QP)))
    })?;
    ensure_fields(
        &storm,
        &json!({"pod": web(0), "direction": "egress", "destination_qp": SERVER_QP}),
    )?;

    let over = watch.wait("cnp_burst", "over")?;
    ensure!(over["count"].as_u64() >= Some(30), "{over}");
    agent.kill()?;
    watch.wait("no_agent", "begins")?;
    agent.restart()?;
    watch.wait("no_agent", "over")?;
    Ok(())
}
