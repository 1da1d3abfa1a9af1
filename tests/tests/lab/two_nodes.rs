//! Two nodes, their cards wired to each other: RoCE between their pods, counted at both ends.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
};

use anyhow::{Context as _, Result, bail, ensure};
use sluice_tests::{
    agent::TestAgent,
    node::pings,
    poll::{wait_for, wait_until},
};

use crate::{
    card::{Card, PF},
    rdma::{TOOLS, agree},
    rxe::{Rxe, succeeded},
};

/// The other node's test, which runs the same steps.
struct Peer {
    stream: BufReader<TcpStream>,
}

impl Peer {
    /// Finds the other node; the first one listens.
    fn meet(node: u32) -> Result<Self> {
        const PORT: u16 = 7000;
        let stream = if node == 1 {
            TcpListener::bind(("10.93.0.1", PORT))?.accept()?.0
        } else {
            wait_for("the other node", || {
                Ok(TcpStream::connect(("10.93.0.1", PORT)).ok())
            })?
        };
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Waits until the other one has come to the same step.
    fn sync(&mut self, step: &str) -> Result<()> {
        writeln!(self.stream.get_mut(), "{step}")?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if line.trim_end() != step {
            bail!("the other node does not come to {step}: {line:?}");
        }
        Ok(())
    }
}

/// This node's number, 1 or 2.
fn node() -> Result<u32> {
    env::var("SLUICE_LAB_NODE")
        .context("this test runs in the lab only: cargo xtask test --lab")?
        .parse()
        .context("SLUICE_LAB_NODE is no number")
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn roce_between_nodes_is_counted_at_both_ends() -> Result<()> {
    let node = node()?;
    let card = Card::up()?;
    card.node.add_address(PF, &format!("10.93.0.{node}/24"))?;
    let mut peer = Peer::meet(node)?;
    let agent = TestAgent::start(&card.node, &["--metrics-address", "off"])?;
    agent.run(&["uplink", "add", PF])?;

    let functions = card.functions(1)?;
    let on_function = card.pod(&functions[0])?;
    let on_macvlan = sluice_tests::netns::TestNetns::new()?;
    card.node.add_macvlan(PF, &on_macvlan, "net1", "bridge")?;
    for (kind, pod, interface, subnet) in [
        ("function", &on_function, functions[0].as_str(), 94),
        ("macvlan", &on_macvlan, "net1", 95),
    ] {
        let address = |node: u32| format!("10.{subnet}.0.{node}");
        pod.add_address(interface, &format!("{}/24", address(node)))?;
        let id = agent.attach(pod, interface)?;
        let device = Rxe::new(&card.node, pod, interface, &address(node))?;
        peer.sync(&format!("{kind} is there"))?;
        wait_until("the other node's pod to answer", || {
            pings(pod, &address(3 - node))
        })?;
        for tool in TOOLS {
            if node == 1 {
                let serving = device.serve(tool)?;
                peer.sync(&format!("{kind} {tool}"))?;
                serving.finish()
            } else {
                peer.sync(&format!("{kind} {tool}"))?;
                succeeded(&device.call(tool, &address(1))?)
            }
            .with_context(|| format!("{kind}, {tool}"))?;
        }
        let operations = agree(&agent, id, &device)?;
        ensure!(operations.len() >= 4, "{operations:?}");
        peer.sync(&format!("{kind} has counted"))?;
    }
    Ok(())
}
