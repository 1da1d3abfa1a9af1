//! Traffic between two macvlan pods on one processor: bare, and with both attached.
//!
//! Each sample lies between two of bare interfaces, so that what the machine does faster or slower
//! meanwhile is no part of the ratio.

use std::{
    fs, io,
    net::UdpSocket,
    os::fd::OwnedFd,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use sluice_tests::{
    netns::TestNetns,
    node::{POD_INTERFACE, TestNode, addresses},
    poll::wait_until,
};

use crate::{
    interrupt,
    local::{LocalAgent, request, selector},
    row::{Bar, Pair, Row},
    sys::{self, Kind},
};

/// The processor that all of the traffic runs on, and another for who measures it.
const CPU: usize = 1;
const OTHER_CPU: usize = 0;
/// Samples of each load.
const ROUNDS: usize = 100;
/// Streams, each of a new pair of processes: two of them may differ by more than what is measured.
const STREAMS: usize = 6;
const ROUNDS_A_STREAM: usize = 20;
/// What a stream is given to reach its speed.
const RAMP: Duration = Duration::from_secs(1);
/// How long a sample takes.
const SAMPLE: Duration = Duration::from_millis(100);
/// What the kernel is given to be done with attachments, detachments and the memory of programs
/// that are gone, before a sample.
const SETTLE: Duration = Duration::from_millis(60);
/// Bytes of a request, and of a response.
const MESSAGE: usize = 64;
const PORT: u16 = 7777;
const BAR: Bar = Bar::PartOfBaseline(0.97);

/// What is on the pods' interfaces during a sample, beside nothing.
#[derive(Clone, Copy)]
enum Load {
    Attached,
    /// Programs that do nothing, to tell the price of the hooks from that of our programs.
    Empty,
    /// Nothing either: how far apart two measurements of one thing lie here.
    BareAgain,
}

const LOADS: [Load; 3] = [Load::Attached, Load::Empty, Load::BareAgain];

/// Samples by [`Load`].
type Samples = [Vec<Pair>; LOADS.len()];

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
    fn compare(
        &self,
        rounds: usize,
        samples: &mut Samples,
        mut take: impl FnMut() -> Result<f64>,
    ) -> Result<()> {
        let mut sample = || {
            thread::sleep(SETTLE);
            take()
        };
        // The first finds caches and neighbour tables cold.
        sample()?;
        let mut before = sample()?;
        for round in 0..rounds {
            for step in 0..LOADS.len() {
                interrupt::check()?;
                let index = (round + step) % LOADS.len();
                let value = match LOADS[index] {
                    Load::Attached => self.with_agent(&mut sample),
                    Load::Empty => {
                        let _links = attach_empty(&self.node, &self.empty)?;
                        sample()
                    }
                    Load::BareAgain => sample(),
                }?;
                let after = sample()?;
                samples[index].push(Pair::between(before, value, after));
                before = after;
            }
        }
        Ok(())
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

/// Attaches a program to the pods' interfaces, until the links are closed.
pub(crate) fn attach_empty(node: &TestNode, program: &OwnedFd) -> Result<Vec<[OwnedFd; 2]>> {
    let attach = |pod: &TestNetns| {
        pod.enter(|| {
            let ifindex = nix::net::if_::if_nametoindex(POD_INTERFACE)?;
            sys::attach_both(program, ifindex)
        })?
    };
    node.pods.iter().map(attach).collect()
}

fn rows(name: &str, unit: &'static str, [attached, empty, again]: &Samples) -> Vec<Row> {
    let row = |suffix, pairs, bar| Row::paired(format!("{name}{suffix}"), unit, pairs, bar);
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
                let mut samples = Samples::default();
                pods.compare(ROUNDS, &mut samples, || exchange(&client))?;
                Ok(samples)
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

/// TCP streams of iperf3, one at a time; programs come and go under them.
pub(crate) fn iperf3() -> Result<Vec<Row>> {
    let pods = Pods::new()?;
    let [address, _] = addresses(1);
    let mut samples = Samples::default();
    for _ in 0..STREAMS {
        // What this thread starts is pinned with it.
        sys::pin_to_cpu(CPU)?;
        let _server = pods
            .server()
            .spawn("iperf3", &["--server", "--bind", &address])?;
        wait_until("iperf3 to listen", || {
            let listening = pods
                .server()
                .run("ss", &["--listening", "--tcp", "--numeric"])?;
            Ok(listening.contains(":5201"))
        })?;
        let _client = pods
            .client()
            .spawn("iperf3", &["--client", &address, "--time", "600"])?;
        sys::pin_to_cpu(OTHER_CPU)?;
        thread::sleep(RAMP);
        pods.compare(ROUNDS_A_STREAM, &mut samples, || throughput(pods.server()))?;
    }
    Ok(rows("iperf3/tcp", "Gbit/s", &samples))
}

/// What arrives at a pod over one sample; over more, where a busy machine keeps the stream waiting.
fn throughput(pod: &TestNetns) -> Result<f64> {
    let (start, before) = received(pod)?;
    loop {
        thread::sleep(SAMPLE);
        let (end, after) = received(pod)?;
        let seconds = (end - start).as_secs_f64();
        if after > before {
            return Ok((after - before) as f64 * 8.0 / seconds / 1e9);
        }
        ensure!(seconds < 5.0, "the stream has ended");
    }
}

/// Bytes that the pod's interface has received, and when that was read.
fn received(pod: &TestNetns) -> Result<(Instant, u64)> {
    let (time, counters) = pod.enter(|| {
        // A thread's own namespace counts, which is not always its process's.
        let counters = fs::read_to_string("/proc/thread-self/net/dev");
        (Instant::now(), counters)
    })?;
    let counters = counters.context("cannot read /proc/thread-self/net/dev")?;
    let bytes = counters.lines().find_map(|line| {
        let (name, counters) = line.split_once(':')?;
        let received = counters.split_whitespace().next()?;
        (name.trim() == POD_INTERFACE).then(|| received.parse().ok())?
    });
    Ok((time, bytes.context("the pod's interface is not counted")?))
}
