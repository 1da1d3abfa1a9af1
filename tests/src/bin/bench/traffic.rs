//! Traffic between two macvlan pods on one processor: bare, and with both attached.

use std::{
    io,
    net::UdpSocket,
    os::fd::OwnedFd,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use sluice_tests::{
    netns::{TestNetns, output},
    node::{POD_INTERFACE, TestNode, addresses},
    poll::wait_until,
};

use crate::{
    interrupt,
    local::{LocalAgent, request, selector},
    row::{Bar, Row},
    sys::{self, Kind},
};

/// The processor that all of the traffic runs on.
const CPU: usize = 1;
/// Samples of each kind, taken in turn.
const ROUNDS: usize = 60;
const ROUNDS_IPERF: usize = 16;
/// How long a sample of requests and responses takes.
const SAMPLE: Duration = Duration::from_millis(200);
/// What the kernel is given to be done with attachments, detachments and the memory of programs
/// that are gone, before a sample.
const SETTLE: Duration = Duration::from_millis(60);
/// Bytes of a request, and of a response.
const MESSAGE: usize = 64;
const PORT: u16 = 7777;
const BAR: Bar = Bar::PartOfBaseline(0.97);

/// What is on the pods' interfaces during a sample.
#[derive(Clone, Copy)]
enum Load {
    Bare,
    /// The same again: how far apart two measurements of one thing lie here.
    BareAgain,
    /// Programs that do nothing, to tell the price of the hooks from that of our programs.
    Empty,
    Attached,
}

const LOADS: [Load; 4] = [Load::Bare, Load::BareAgain, Load::Empty, Load::Attached];

/// Samples by [`Load`].
type Samples = [Vec<f64>; LOADS.len()];

/// Two pods, and the agent that attaches and detaches them.
struct Pods {
    node: TestNode,
    agent: LocalAgent,
    empty: OwnedFd,
}

impl Pods {
    fn new() -> Result<Self> {
        Ok(Self {
            node: TestNode::new(2)?,
            agent: LocalAgent::open()?,
            empty: sys::empty_program(Kind::Tc, sys::TC_NEXT)?,
        })
    }

    fn client(&self) -> &TestNetns {
        &self.node.pods[0]
    }

    fn server(&self) -> &TestNetns {
        &self.node.pods[1]
    }

    /// Takes samples of every load in turn, each round in another order.
    fn compare(&self, rounds: usize, mut take: impl FnMut() -> Result<f64>) -> Result<Samples> {
        let mut sample = || {
            thread::sleep(SETTLE);
            take()
        };
        // The first finds caches and neighbour tables cold.
        sample()?;
        let mut samples = Samples::default();
        for round in 0..rounds {
            for step in 0..LOADS.len() {
                interrupt::check()?;
                let index = (round + step) % LOADS.len();
                let value = match LOADS[index] {
                    Load::Bare | Load::BareAgain => sample(),
                    Load::Empty => self.with_empty(&mut sample),
                    Load::Attached => self.with_agent(&mut sample),
                };
                samples[index].push(value?);
            }
        }
        Ok(samples)
    }

    fn with_empty(&self, sample: impl FnOnce() -> Result<f64>) -> Result<f64> {
        let mut links = Vec::new();
        for pod in &self.node.pods {
            let ifindex = pod
                .open()?
                .run(|| nix::net::if_::if_nametoindex(POD_INTERFACE))??;
            links.push(pod.enter(|| sys::attach_both(&self.empty, ifindex))??);
        }
        sample()
    }

    /// Fails where the programs have not counted what was measured.
    fn with_agent(&self, sample: impl FnOnce() -> Result<f64>) -> Result<f64> {
        let agent = &self.agent.agent;
        for pod in &self.node.pods {
            agent.attach(&request(pod, POD_INTERFACE))?;
        }
        let value = sample();
        for endpoint in agent.stats()?.endpoints {
            ensure!(
                endpoint.ingress.packets > 0 && endpoint.egress.packets > 0,
                "endpoint {} saw no traffic",
                endpoint.id
            );
        }
        for pod in &self.node.pods {
            agent.detach(&selector(pod, POD_INTERFACE))?;
        }
        value
    }
}

fn rows(name: &str, unit: &'static str, [bare, again, empty, attached]: &Samples) -> Vec<Row> {
    let row =
        |suffix, samples, bar| Row::paired(format!("{name}{suffix}"), unit, samples, bare, bar);
    vec![
        row("", attached, BAR),
        row("-empty-programs", empty, Bar::None),
        row("-bare-again", again, Bar::None),
    ]
}

/// UDP requests and responses, one at a time.
pub(crate) fn request_response() -> Result<Vec<Row>> {
    let pods = Pods::new()?;
    let [address, _] = addresses(1);
    let server = bind(pods.server(), &format!("{address}:{PORT}"))?;
    let client = bind(pods.client(), "0.0.0.0:0")?;
    client.connect((address.as_str(), PORT))?;

    let stop = AtomicBool::new(false);
    let samples = thread::scope(|scope| {
        let echo = scope.spawn(|| echo(&server, &stop));
        let measured = thread::Builder::new()
            .spawn_scoped(scope, || {
                sys::pin_to_cpu(CPU)?;
                pods.compare(ROUNDS, || exchange(&client))
            })
            .map_err(|error| anyhow!(error))
            .and_then(|thread| thread.join().map_err(|_| anyhow!("the client panicked"))?);
        stop.store(true, Ordering::Relaxed);
        echo.join().map_err(|_| anyhow!("the server panicked"))??;
        measured
    })?;
    Ok(rows("request-response/udp", "1/s", &samples))
}

fn bind(netns: &TestNetns, address: &str) -> Result<UdpSocket> {
    let socket = netns
        .enter(|| UdpSocket::bind(address))?
        .with_context(|| format!("cannot bind {address}"))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    Ok(socket)
}

fn echo(socket: &UdpSocket, stop: &AtomicBool) -> Result<()> {
    sys::pin_to_cpu(CPU)?;
    let mut message = [0; MESSAGE];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv_from(&mut message) {
            Ok((length, from)) => {
                socket.send_to(&message[..length], from)?;
            }
            Err(error) if timed_out(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Exchanges a second, over one sample.
fn exchange(socket: &UdpSocket) -> Result<f64> {
    let mut message = [0; MESSAGE];
    let (mut exchanges, mut lost) = (0_u32, 0_u32);
    let start = Instant::now();
    while start.elapsed() < SAMPLE {
        socket.send(&message)?;
        match socket.recv(&mut message) {
            Ok(_) => exchanges += 1,
            Err(error) if timed_out(&error) => lost += 1,
            Err(error) => return Err(error.into()),
        }
        ensure!(lost < 3, "the responses do not come");
    }
    Ok(f64::from(exchanges) / start.elapsed().as_secs_f64())
}

fn timed_out(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// One TCP stream of iperf3.
pub(crate) fn iperf3() -> Result<Vec<Row>> {
    // What this thread starts is pinned with it.
    sys::pin_to_cpu(CPU)?;
    let pods = Pods::new()?;
    let [address, _] = addresses(1);
    let _server = pods
        .server()
        .spawn("iperf3", &["--server", "--bind", &address])?;
    wait_until("iperf3 to listen", || {
        let listening = pods
            .server()
            .run("ss", &["--listening", "--tcp", "--numeric"])?;
        Ok(listening.contains(":5201"))
    })?;
    let client = || {
        let mut command = pods.client().command("iperf3");
        command
            .args(["--client", &address, "--time", "1", "--omit", "0", "--json"])
            .stdin(Stdio::null());
        let report: serde_json::Value = serde_json::from_str(&output(&mut command)?)?;
        let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
        Ok(bits.context("iperf3 tells no throughput")? / 1e9)
    };
    let samples = pods.compare(ROUNDS_IPERF, client)?;
    Ok(rows("iperf3/tcp", "Gbit/s", &samples))
}
