//! The agent with 500 endpoints: its start, its memory, a scrape of its metrics.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixDatagram,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use dataplane::agent::Agent;
use sluice_tests::{
    agent::TestAgent,
    netns::TestNetns,
    node::{POD_INTERFACE, UPLINK},
};

use crate::{
    frames::{self, opcode},
    interrupt,
    local::{options, request},
    row::{Bar, Row},
    sys,
};

const ENDPOINTS: usize = 500;
const RESTARTS: usize = 11;
const SCRAPES: usize = 60;
/// Where the agent answers scrapes, in its own namespace.
const METRICS: &str = "127.0.0.1:9655";
/// What the agent is given to come up, and to answer.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn measure() -> Result<Vec<Row>> {
    let node = TestNetns::new()?;
    let machine = TestNetns::new()?;
    node.add_veth(UPLINK, &machine, "eth0")?;
    let agent = TestAgent::prepare(&node, &["--metrics-address", METRICS])?;
    eprintln!("    making and attaching {ENDPOINTS} pods, each in a namespace (up to a minute)");
    let pods = (0..ENDPOINTS)
        .map(|_| {
            interrupt::check()?;
            let pod = TestNetns::new()?;
            node.add_macvlan(UPLINK, &pod, POD_INTERFACE, "bridge")?;
            Ok(pod)
        })
        .collect::<Result<Vec<_>>>()?;
    attach(&node, &agent, &pods)?;

    let (mut starts, mut memory, mut scrapes) = (Vec::new(), Vec::new(), Vec::new());
    for restart in 0..RESTARTS {
        interrupt::check()?;
        let (process, took) = Process::start(&agent)?;
        starts.push(took.as_secs_f64());
        // The last one is scraped more, the others to have their memory as in use.
        let count = if restart + 1 == RESTARTS { SCRAPES } else { 3 };
        for _ in 0..count {
            let (took, text) = node.enter(scrape)??;
            check(&text)?;
            scrapes.push(took.as_secs_f64() * 1e3);
        }
        memory.push(process.resident_mib()?);
    }
    eprintln!("    removing them");
    agent.dismiss();
    Ok(vec![
        Row::alone("scale/restart-500", "s", &starts, Bar::AtMost(0.5)),
        Row::alone("scale/memory-500", "MiB", &memory, Bar::AtMost(30.0)),
        Row::alone("scale/scrape-500", "ms", &scrapes, Bar::AtMost(30.0)),
    ])
}

/// Attaches every pod, and sends what makes counters of each kind: RoCE packets and a broken one.
fn attach(node: &TestNetns, agent: &TestAgent, pods: &[TestNetns]) -> Result<()> {
    let pins = agent.pins();
    let root = pins.parent().context("pins without a folder")?;
    let options = options(agent.state(), root.to_owned());
    // Where the real one will run, so that it finds what it would have left.
    let opened = node.enter(|| Agent::open(options))??;
    let mut sent = vec![frames::broken_ipv4()];
    sent.extend(
        [
            opcode::SEND_ONLY,
            opcode::READ_REQUEST,
            opcode::READ_RESPONSE_MIDDLE,
            opcode::ACKNOWLEDGE,
        ]
        .map(frames::roce_ipv4),
    );
    for pod in pods {
        interrupt::check()?;
        let endpoint = opened.attach(&request(pod, POD_INTERFACE))?;
        pod.enter(|| sys::send(endpoint.ifindex, &sent))??;
    }
    Ok(())
}

/// The agent's process; killed when dropped.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts the agent and waits until it says that it is ready, as systemd would.
    pub(crate) fn start(agent: &TestAgent) -> Result<(Self, Duration)> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("notify");
        let notified = UnixDatagram::bind(&path)?;
        notified.set_read_timeout(Some(PATIENCE))?;
        let mut command = agent.command()?;
        command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null());
        let start = Instant::now();
        let process = Self {
            child: command.spawn().context("cannot start the agent")?,
        };
        let mut message = [0; 64];
        let length = notified
            .recv(&mut message)
            .context("the agent does not become ready")?;
        let took = start.elapsed();
        ensure!(message[..length].starts_with(b"READY=1"), "not ready");
        Ok((process, took))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn resident_mib(&self) -> Result<f64> {
        let path = format!("/proc/{}/status", self.id());
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
            .with_context(|| format!("no VmRSS in {path}"))?;
        Ok(kib.parse::<f64>()? / 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended on its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks for the metrics; the time until the last byte, and the answer.
fn scrape() -> Result<(Duration, String)> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(METRICS).context("cannot reach the agent's metrics")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok((start.elapsed(), text))
}

/// Holds the answer against what the pods sent.
fn check(text: &str) -> Result<()> {
    ensure!(
        text.starts_with("HTTP/1.1 200"),
        "the scrape failed: {text}"
    );
    for needle in ["ipv4_", "read_response"] {
        let lines = text.lines().filter(|line| line.contains(needle)).count();
        if lines < ENDPOINTS {
            bail!("only {lines} lines of the scrape tell of {needle}");
        }
    }
    Ok(())
}
