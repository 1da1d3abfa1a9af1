//! Traffic into an isolated macvlan pod: by our policy, by the kernel's firewalls, and bare. All in
//! turn, on one processor, each sample between two of bare interfaces.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use dataplane::{
    api::types::TcMechanism,
    kernel::{IdentityPrefix, Kernel, TcMode},
};
use dataplane_ebpf::abi::{Direction, EndpointConfig, PolicyKey, PolicyRule, identity};
use nix::sys::socket::{setsockopt, sockopt};
use sluice_tests::{
    judge::Judge,
    netns::{TestNetns, output},
    node::{POD_INTERFACE, TestNode, addresses},
    poll::wait_until,
};

use super::{
    prefix,
    rival::{RIVALS, Rival},
};
use crate::{
    interrupt,
    row::{Bar, Pair, Row},
    sys::{self, Kind, TC_NEXT},
    traffic::attach_empty,
};

/// The processor that all of the traffic runs on.
const CPU: usize = 1;
const ROUNDS: usize = 10;
/// How long a sample of exchanges takes.
const SAMPLE: Duration = Duration::from_millis(150);
/// What the kernel is given to be done with what was taken away, before a sample.
const SETTLE: Duration = Duration::from_millis(60);
const SIZES: [u32; 3] = [10, 1000, 10_000];
const PORT: u16 = 7777;
const MESSAGE: usize = 64;
const SERVER: u32 = 1;
const CLIENT: u32 = 2;

/// What stands before the pod.
#[derive(Clone, Copy)]
enum Guard {
    Ours,
    Other(Rival),
    /// Programs that do nothing, to tell the price of the hooks from that of our programs.
    Empty,
}

impl Guard {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "sluice",
            Self::Other(rival) => rival.name(),
            Self::Empty => "empty-programs",
        }
    }

    const fn bar(self) -> Bar {
        match self {
            Self::Ours => Bar::PartOfBaseline(0.95),
            _ => Bar::None,
        }
    }

    /// Samples a round: what has a bar is measured more closely.
    const fn samples(self) -> usize {
        match self {
            Self::Ours => 3,
            _ => 1,
        }
    }
}

/// A guard at a size, and what was measured behind it.
struct Case {
    guard: Guard,
    prefixes: u32,
    pairs: [Vec<Pair>; KINDS.len()],
}

const KINDS: [(&str, &str); 3] = [
    ("udp-request-response", "1/s"),
    ("tcp-connect-request-response", "1/s"),
    ("iperf3-tcp", "Gbit/s"),
];

struct Scene {
    node: TestNode,
    judge: Judge,
    empty: OwnedFd,
    mechanism: TcMechanism,
    client: String,
    server: String,
}

pub(crate) fn measure() -> Result<Vec<Row>> {
    let judge = Judge::new(2)?;
    let [client, _] = addresses(0);
    let [server, _] = addresses(1);
    let scene = Scene {
        node: TestNode::new(2)?,
        empty: sys::empty_program(Kind::Tc, TC_NEXT)?,
        mechanism: judge.kernel().mechanism(TcMode::Auto)?,
        judge,
        client,
        server,
    };
    let case = |guard, prefixes| Case {
        guard,
        prefixes,
        pairs: Default::default(),
    };
    let mut cases = vec![case(Guard::Empty, 0)];
    for prefixes in SIZES {
        cases.push(case(Guard::Ours, prefixes));
        cases.extend(RIVALS.map(|rival| case(Guard::Other(rival), prefixes)));
    }
    sys::pin_to_cpu(CPU)?;
    let service = Service::new(&scene)?;
    service.during(|| {
        // The first finds caches and neighbour tables cold.
        scene.samples()?;
        let mut before = scene.samples()?;
        for round in 0..ROUNDS {
            for step in 0..cases.len() {
                let place = (round + step) % cases.len();
                let case = &mut cases[place];
                for _ in 0..case.guard.samples() {
                    interrupt::check()?;
                    let taken = scene.behind(case.guard, case.prefixes).with_context(|| {
                        format!("{} with {} prefixes", case.guard.name(), case.prefixes)
                    })?;
                    let after = scene.samples()?;
                    for (kind, pairs) in case.pairs.iter_mut().enumerate() {
                        pairs.push(Pair::between(before[kind], taken[kind], after[kind]));
                    }
                    before = after;
                }
            }
        }
        Ok(())
    })?;
    Ok(rows(&cases))
}

fn rows(cases: &[Case]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (kind, (name, unit)) in KINDS.iter().enumerate() {
        for case in cases {
            let guard = case.guard.name();
            let name = match case.guard {
                Guard::Empty => format!("policy-traffic/{name}-{guard}"),
                _ => format!("policy-traffic/{name}-{}-{guard}", case.prefixes),
            };
            // The bar is on exchanges; a stream's packets are known ones.
            let bar = if kind < 2 {
                case.guard.bar()
            } else {
                Bar::None
            };
            rows.push(Row::paired(name, unit, &case.pairs[kind], bar));
        }
    }
    rows
}

impl Scene {
    fn kernel(&self) -> &Kernel {
        self.judge.kernel()
    }

    fn server_pod(&self) -> &TestNetns {
        &self.node.pods[1]
    }

    /// Takes a sample of each kind behind a guard.
    fn behind(&self, guard: Guard, prefixes: u32) -> Result<[f64; KINDS.len()]> {
        match guard {
            Guard::Ours => {
                self.isolate(prefixes)?;
                let samples = self.samples();
                self.release()?;
                samples
            }
            Guard::Other(rival) => {
                rival.load(self.server_pod(), prefixes, &self.client)?;
                let samples = self.samples();
                rival.unload(self.server_pod())?;
                samples
            }
            Guard::Empty => {
                let _links = attach_empty(&self.node, &self.empty)?;
                self.samples()
            }
        }
    }

    /// Both pods attached, the server isolated but for so many prefixes and the client.
    fn isolate(&self, prefixes: u32) -> Result<()> {
        let mut identities = Vec::new();
        for number in 0..prefixes.saturating_sub(1) {
            let cidr = IdentityPrefix::Cidr(prefix(number)?.into());
            identities.push((cidr, Some(identity::FIRST)));
        }
        let client = IdentityPrefix::Cidr(format!("{}/32", self.client).parse()?);
        identities.push((client, Some(identity::FIRST)));
        self.kernel().maps().policy().set_identities(&identities)?;
        let rule = (PolicyKey::all(identity::FIRST), PolicyRule::default());
        self.judge.isolate(SERVER, Direction::Ingress, &[rule])?;
        for (endpoint, pod) in [(SERVER, 1), (CLIENT, 0)] {
            let netns = self.node.pods[pod].open()?;
            self.kernel()
                .attach(&netns, POD_INTERFACE, endpoint, self.mechanism)?;
        }
        Ok(())
    }

    /// Takes policy and programs away; fails where they have not seen what was measured.
    fn release(&self) -> Result<()> {
        for (endpoint, pod) in [(SERVER, 1), (CLIENT, 0)] {
            let netns = self.node.pods[pod].open()?;
            self.kernel()
                .detach(Some(&netns), POD_INTERFACE, endpoint, self.mechanism)?;
        }
        let maps = self.kernel().maps();
        let passed = maps.endpoint_counter(SERVER, Direction::Ingress)?;
        ensure!(passed.packets > 0, "the server's endpoint saw no traffic");
        self.judge
            .flag(SERVER, EndpointConfig::ENFORCE_INGRESS, false)?;
        let identities = maps.policy().identities()?;
        let gone: Vec<_> = identities
            .iter()
            .map(|(prefix, _)| (*prefix, None))
            .collect();
        maps.policy().set_identities(&gone)?;
        Ok(())
    }

    /// A sample of each kind.
    fn samples(&self) -> Result<[f64; KINDS.len()]> {
        thread::sleep(SETTLE);
        Ok([self.requests()?, self.connections()?, self.stream()?])
    }

    /// UDP requests and responses of one connection, one at a time.
    fn requests(&self) -> Result<f64> {
        let socket = self.node.pods[0].enter(|| UdpSocket::bind("0.0.0.0:0"))??;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.connect((self.server.as_str(), PORT))?;
        let mut message = [0; MESSAGE];
        rate(|| {
            socket.send(&message)?;
            socket.recv(&mut message).context("no response").map(drop)
        })
    }

    /// A TCP connection, a request, a response, again and again.
    fn connections(&self) -> Result<f64> {
        self.node.pods[0].enter(|| {
            sys::pin_to_cpu(CPU)?;
            let mut message = [0; MESSAGE];
            rate(|| {
                let mut stream = TcpStream::connect((self.server.as_str(), PORT))?;
                // Reset at the end, or the ports in TIME_WAIT would run out.
                let linger = libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                setsockopt(&stream, sockopt::Linger, &linger)?;
                stream.set_nodelay(true)?;
                stream.write_all(&message)?;
                stream.read_exact(&mut message)?;
                Ok(())
            })
        })?
    }

    /// One TCP stream of iperf3.
    fn stream(&self) -> Result<f64> {
        let mut command = self.node.pods[0].command("iperf3");
        command
            .args(["--client", &self.server, "--bytes", "256M", "--json"])
            .stdin(Stdio::null());
        let report: serde_json::Value = serde_json::from_str(&output(&mut command)?)?;
        let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
        Ok(bits.context("iperf3 reports no rate")? / 1e9)
    }
}

/// Times a second that `exchange` is done, over one sample.
fn rate(mut exchange: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    let mut count = 0_u32;
    while start.elapsed() < SAMPLE {
        exchange()?;
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

/// The pod that answers.
struct Service {
    datagrams: UdpSocket,
    connections: TcpListener,
    stop: AtomicBool,
    _iperf3: sluice_tests::netns::Background,
}

impl Service {
    fn new(scene: &Scene) -> Result<Self> {
        let pod = scene.server_pod();
        let address = (scene.server.as_str(), PORT);
        let datagrams = pod.enter(|| UdpSocket::bind(address))??;
        datagrams.set_read_timeout(Some(Duration::from_millis(100)))?;
        let connections = pod.enter(|| TcpListener::bind(address))??;
        // Nobody reads what it prints, and a full pipe would stop it.
        let quiet = ["--logfile", "/dev/null"];
        let server = ["--server", "--bind", &scene.server];
        let iperf3 = pod.spawn("iperf3", &[&server[..], &quiet].concat())?;
        wait_until("iperf3 to listen", || {
            let listening = pod.run("ss", &["--listening", "--tcp", "--numeric"])?;
            Ok(listening.contains(":5201"))
        })?;
        Ok(Self {
            datagrams,
            connections,
            stop: AtomicBool::new(false),
            _iperf3: iperf3,
        })
    }

    /// Answers for as long as `work` takes.
    fn during<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        thread::scope(|scope| {
            let echo = scope.spawn(|| self.echo());
            let serve = scope.spawn(|| self.serve());
            let result = work();
            self.stop.store(true, Ordering::Relaxed);
            for thread in [echo, serve] {
                thread
                    .join()
                    .map_err(|_| anyhow!("the server panicked"))??;
            }
            result
        })
    }

    fn echo(&self) -> Result<()> {
        sys::pin_to_cpu(CPU)?;
        let mut message = [0; MESSAGE];
        while !self.stop.load(Ordering::Relaxed) {
            if let Ok((length, from)) = self.datagrams.recv_from(&mut message) {
                self.datagrams.send_to(&message[..length], from)?;
            }
        }
        Ok(())
    }

    fn serve(&self) -> Result<()> {
        sys::pin_to_cpu(CPU)?;
        let mut message = [0; MESSAGE];
        // So that a wait for a connection ends.
        setsockopt(
            &self.connections,
            sockopt::ReceiveTimeout,
            &nix::sys::time::TimeVal::new(0, 100_000),
        )?;
        while !self.stop.load(Ordering::Relaxed) {
            let Ok((mut stream, _)) = self.connections.accept() else {
                continue;
            };
            let answered: io::Result<()> = stream
                .read_exact(&mut message)
                .and_then(|()| stream.write_all(&message));
            // A client that gave up has told so itself.
            let _ = answered;
        }
        Ok(())
    }
}
