//! Another agent takes the dataplane over while traffic flows: of another
//! build, with other sizes, with another layout of the maps. No packet is lost
//! and no counter goes back.

use std::{fs, net::UdpSocket, ops::Range, path::PathBuf, thread, time::Instant};

use anyhow::{Context, Result, ensure};
use dataplane_ebpf::abi::LAYOUT;
use serde_json::Value;
use sluice_tests::{
    agent::{TestAgent, binary, install, mechanisms},
    harness,
    node::{MACHINE, NODE, POD_INTERFACE, TestNode, UPLINK, addresses, pings},
    poll::wait_until,
    traffic::Stream,
};

/// A node whose first pod sends to its second, both attached.
struct Setup {
    // Ends before the namespaces do.
    stream: Stream,
    agent: TestAgent,
    ids: [u64; 2],
    /// What was counted before the stream.
    base: [u64; 2],
    node: TestNode,
    mechanism: &'static str,
}

impl Setup {
    fn new(mechanism: &'static str, max_endpoints: &str) -> Result<Self> {
        let node = TestNode::quiet_pair()?;
        let agent = TestAgent::start(&node.node, &options(mechanism, max_endpoints))?;
        let ids = [
            agent.attach(&node.pods[0], POD_INTERFACE)?,
            agent.attach(&node.pods[1], POD_INTERFACE)?,
        ];
        leave_traces(&node, &agent)?;
        let base = counted(&agent, ids)?;
        let [address, _] = addresses(1);
        Ok(Self {
            stream: Stream::start(&node.pods[0], &node.pods[1], &address)?,
            agent,
            ids,
            base,
            node,
            mechanism,
        })
    }

    fn resize(&mut self, max_endpoints: &str) {
        let options = options(self.mechanism, max_endpoints);
        self.agent.set_options(&options);
    }

    fn flows(&self) -> Result<()> {
        let before = self.stream.sent();
        wait_until("traffic", || Ok(self.stream.sent() > before + 200))
    }

    /// Ends the stream and holds the counters against it.
    fn check(self) -> Result<()> {
        let (sent, received) = self.stream.stop();
        let after = counted(&self.agent, self.ids)?;
        let counted = [after[0] - self.base[0], after[1] - self.base[1]];
        ensure!(
            counted == [sent, sent] && received == sent,
            "sent {sent}, received {received}, counted {counted:?}"
        );
        ensure!(
            !pings(&self.node.machine, NODE[0])?,
            "the block list is not in force"
        );
        Ok(())
    }
}

fn options<'a>(mechanism: &'a str, max_endpoints: &'a str) -> [&'a str; 6] {
    [
        "--metrics-address",
        "off",
        "--tc",
        mechanism,
        "--max-endpoints",
        max_endpoints,
    ]
}

/// The sender's egress and the receiver's ingress.
fn counted(agent: &TestAgent, [sender, receiver]: [u64; 2]) -> Result<[u64; 2]> {
    let packets = |id, direction: &str| -> Result<u64> {
        let stats = agent.stats(id)?;
        stats[direction]["packets"].as_u64().context("no packets")
    };
    Ok([packets(sender, "egress")?, packets(receiver, "ingress")?])
}

/// Makes counters of other kinds than the stream's, and an entry of each table
/// that the programs go by.
fn leave_traces(node: &TestNode, agent: &TestAgent) -> Result<()> {
    agent.run(&["uplink", "add", UPLINK])?;
    // A SEND and a packet that is no RoCE, from the second pod to the machine,
    // which must not answer that its port is closed.
    let _open = node.machine.enter(|| UdpSocket::bind("0.0.0.0:4791"))??;
    let socket = node.pods[1].enter(|| UdpSocket::bind("0.0.0.0:0"))??;
    let bth = [0x04, 0, 0xff, 0xff, 0, 0, 0, 0x11, 0x80, 0, 0, 1];
    let send = [&bth[..], &[0; 4]].concat();
    for payload in [&send[..], &[0]] {
        socket.send_to(payload, (MACHINE[0], 4791))?;
    }
    agent.run(&["block", "add", "10.78.0.254/32"])?;
    ensure!(!pings(&node.machine, NODE[0])?, "it is not blocked");
    Ok(())
}

/// What [`leave_traces`] left, as the agent tells it.
fn traces(agent: &TestAgent, id: u64) -> Result<Value> {
    let stats = agent.json(&["stats"])?;
    Ok(serde_json::json!({
        "roce": agent.stats(id)?["roce"],
        "drops": stats["uplinks"][0]["drops"],
        "blocks": agent.json(&["block", "list"])?,
    }))
}

#[test]
fn maps_of_another_size_take_over_what_the_old_ones_held() -> Result<()> {
    for mechanism in mechanisms() {
        let mut setup = Setup::new(mechanism, "8")?;
        let before = traces(&setup.agent, setup.ids[1])?;
        ensure!(
            before["roce"].as_array().map(Vec::len) == Some(2)
                && before["drops"][0]["packets"].as_u64() > Some(0)
                && before["blocks"].as_array().map(Vec::len) == Some(1),
            "{before:#}"
        );
        for size in ["600", "2", "512"] {
            setup.flows()?;
            setup.agent.kill()?;
            setup.resize(size);
            setup.agent.restart().context(size)?;
            setup.flows()?;
            let after = traces(&setup.agent, setup.ids[1])?;
            ensure!(after == before, "{size}: {after:#}, not {before:#}");
            let status = setup.agent.json(&["status"])?;
            ensure!(status["max_endpoints"] == size.parse::<u32>()?, "{status}");
            left_nothing_but(&setup.agent, LAYOUT)?;
        }
        setup.check().context(*mechanism)?;
    }
    Ok(())
}

#[test]
fn an_agent_that_dies_while_it_takes_over_is_followed_by_one_that_goes_on() -> Result<()> {
    for mechanism in mechanisms() {
        let mut setup = Setup::new(mechanism, "8")?;
        let before = traces(&setup.agent, setup.ids[1])?;
        setup.agent.kill()?;
        let start = Instant::now();
        setup.agent.restart()?;
        let usual = start.elapsed();
        setup.agent.kill()?;
        // Each time a little later in the start, which takes longer than usual.
        let deaths = 9_u32;
        for death in 0..deaths {
            setup.resize(&(20 + death).to_string());
            let mut child = setup.agent.command()?.spawn()?;
            thread::sleep(usual * (death + 1) / deaths);
            child.kill()?;
            child.wait()?;
            if death % 3 == 2 {
                setup.agent.restart().with_context(|| format!("{death}"))?;
                let after = traces(&setup.agent, setup.ids[1])?;
                ensure!(after == before, "{death}: {after:#}, not {before:#}");
                setup.agent.kill()?;
            } else {
                // Whatever was begun is finished with the same sizes.
                setup.agent.restart()?;
                setup.agent.kill()?;
            }
        }
        setup.agent.restart()?;
        setup.flows()?;
        left_nothing_but(&setup.agent, LAYOUT)?;
        let log = setup.agent.log_text();
        ensure!(log.contains("/previous"), "none died half-way: {log}");
        setup.check().context(*mechanism)?;
    }
    Ok(())
}

#[test]
fn pins_of_an_older_layout_are_taken_over_and_of_a_newer_one_refused() -> Result<()> {
    let mut setup = Setup::new(mechanisms()[0], "8")?;
    let root = setup.agent.pins();
    let root = root.parent().context("no root")?;
    let folder = |layout: u32| root.join(format!("v{layout}"));
    setup.flows()?;
    setup.agent.kill()?;
    // Poses as what an older version would have left: the same maps under an
    // older number.
    fs::rename(folder(LAYOUT), folder(LAYOUT - 1))?;
    setup.agent.restart()?;
    setup.flows()?;
    left_nothing_but(&setup.agent, LAYOUT)?;
    setup.agent.kill()?;

    fs::rename(folder(LAYOUT), folder(LAYOUT + 1))?;
    let output = setup.agent.command()?.output()?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{told}");
    ensure!(
        told.contains("a newer version") && told.contains("rm -r"),
        "{told}"
    );
    left_nothing_but(&setup.agent, LAYOUT + 1)?;
    // Nothing has happened to what runs.
    setup.flows()?;
    fs::rename(folder(LAYOUT + 1), folder(LAYOUT))?;
    setup.agent.restart()?;
    setup.check()
}

#[test]
fn a_pipeline_of_another_build_is_replaced_under_load() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (written, other) = (folder.path().join("written"), folder.path().join("sluice"));
    fs::write(&written, another_build()?)?;
    install(&written, &other)?;
    for mechanism in mechanisms() {
        let mut setup = Setup::new(mechanism, "8")?;
        let ours = setup.agent.json(&["status"])?["pipeline"].clone();
        let mut last = ours.clone();
        for binary in [&other, &binary()?, &other, &binary()?, &other] {
            setup.flows()?;
            setup.agent.kill()?;
            setup.agent.set_binary(binary.clone());
            setup.agent.restart()?;
            setup.flows()?;
            let pipeline = setup.agent.json(&["status"])?["pipeline"].clone();
            ensure!(pipeline != last, "the pipeline is the same: {last}");
            last = pipeline;
        }
        setup.check().context(*mechanism)?;
    }
    Ok(())
}

/// The binary under test with other programs in it: its parser takes 0x9100 for
/// a service tag's ethertype in the place of 0x88a8 (IEEE 802.1ad).
fn another_build() -> Result<Vec<u8>> {
    const SERVICE_TAG: [u8; 4] = 0x88a8_u32.to_le_bytes();
    const OTHER_TAG: [u8; 4] = 0x9100_u32.to_le_bytes();
    /// `BPF_JMP | BPF_JEQ | BPF_K` and `BPF_JMP | BPF_JNE | BPF_K` (uapi
    /// `linux/bpf_common.h`, `linux/bpf.h`).
    const JUMPS: [u8; 2] = [0x15, 0x55];
    let mut binary = fs::read(binary()?)?;
    let object = fs::read(harness::object_path())?;
    let start = binary
        .windows(object.len())
        .position(|window| window == object)
        .context("the binary does not hold the object; build both with cargo xtask build")?;
    let mut changed = 0;
    for section in code(&object)? {
        let section = start + section.start..start + section.end;
        for instruction in binary[section].chunks_exact_mut(8) {
            if JUMPS.contains(&instruction[0]) && instruction[4..] == SERVICE_TAG {
                instruction[4..].copy_from_slice(&OTHER_TAG);
                changed += 1;
            }
        }
    }
    ensure!(changed > 0, "the programs compare nothing with 0x88a8");
    Ok(binary)
}

/// Where an object's sections of instructions are (`Elf64_Ehdr`, `Elf64_Shdr`:
/// elf(5)).
fn code(object: &[u8]) -> Result<Vec<Range<usize>>> {
    const EXECUTABLE: usize = 4;
    let number = |offset: usize, length: usize| -> Result<usize> {
        let bytes = object.get(offset..offset + length);
        let bytes = bytes.context("an object cut short")?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |all, byte| all << 8 | usize::from(*byte)))
    };
    let (headers, length, count) = (number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?);
    let mut sections = Vec::new();
    for header in (0..count).map(|section| headers + section * length) {
        let (flags, start, size) = (
            number(header + 0x08, 8)?,
            number(header + 0x18, 8)?,
            number(header + 0x20, 8)?,
        );
        if flags & EXECUTABLE != 0 {
            sections.push(start..start + size);
        }
    }
    Ok(sections)
}

#[test]
fn sizes_that_do_not_hold_what_is_attached_are_refused() -> Result<()> {
    let mut setup = Setup::new(mechanisms()[0], "8")?;
    setup.agent.kill()?;
    setup.resize("1");
    let output = setup.agent.command()?.output()?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{told}");
    ensure!(
        told.contains("max_endpoints 1 is less than the id of endpoint 2"),
        "{told}"
    );
    setup.flows()?;
    setup.resize("8");
    setup.agent.restart()?;
    setup.check()
}

/// Below the agent's folder of pins there is one layout's folder and nothing
/// else.
fn left_nothing_but(agent: &TestAgent, layout: u32) -> Result<()> {
    let pins = agent.pins();
    let root = pins.parent().context("no root")?;
    let found: Vec<PathBuf> = fs::read_dir(root)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    ensure!(found == [root.join(format!("v{layout}"))], "{found:?}");
    Ok(())
}
