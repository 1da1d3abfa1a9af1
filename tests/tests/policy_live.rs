//! Policy on real interfaces: macvlan pods, real sockets, and somebody who tries to get around it.

use std::{
    net::UdpSocket,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use dataplane::{
    api::types::TcMechanism,
    kernel::{Features, Kernel, Pins, PolicyMap, Sizes},
};
use dataplane_ebpf::abi::{Direction, EndpointConfig, PolicyKey, PolicyRule, identity};
use sluice_tests::{
    agent::TestAgent,
    judge::Judge,
    netns::TestNetns,
    node::{POD_INTERFACE, TestNode, addresses},
    poll::wait_until,
};

const UDP: u8 = 17;
/// Allowed by every policy of these tests, and by none.
const OPEN: u16 = 3000;
const SHUT: u16 = 4000;
const ENDPOINT: u32 = 1;

fn policy(kernel: &Kernel, ports: &[u16]) -> Result<PolicyMap> {
    let entries: Vec<_> = ports
        .iter()
        .map(|port| {
            let key = PolicyKey::port(identity::ANY, UDP, *port);
            (key, PolicyRule::default())
        })
        .collect();
    Ok(kernel.maps().policy().create_policy(&entries, 0)?)
}

/// Makes the endpoint go by another policy, as an agent does.
fn enforce(kernel: &Kernel, policy: &PolicyMap) -> Result<()> {
    let maps = kernel.maps();
    maps.policy()
        .set_policy_slot(ENDPOINT, Direction::Ingress, Some(policy))?;
    maps.change_endpoint(ENDPOINT, |config| {
        config.flags |= EndpointConfig::ENFORCE_INGRESS;
        config.policy_epoch = config.policy_epoch.wrapping_add(1);
    })?;
    Ok(())
}

/// A pod that answers on both ports, until it is dropped with its threads.
struct Service {
    stop: AtomicBool,
    /// Datagrams that came to the shut port.
    shut: AtomicU64,
    sockets: [UdpSocket; 2],
}

impl Service {
    fn new(pod: &TestNetns) -> Result<Self> {
        let bind = |port| -> Result<UdpSocket> {
            let socket = pod.enter(|| UdpSocket::bind(("0.0.0.0", port)))??;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            Ok(socket)
        };
        Ok(Self {
            stop: AtomicBool::new(false),
            shut: AtomicU64::new(0),
            sockets: [bind(OPEN)?, bind(SHUT)?],
        })
    }

    /// Answers for as long as `work` takes.
    fn during<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        thread::scope(|scope| {
            for (socket, counter) in self.sockets.iter().zip([None, Some(&self.shut)]) {
                scope.spawn(move || {
                    let mut message = [0; 64];
                    while !self.stop.load(Ordering::Relaxed) {
                        let Ok((length, from)) = socket.recv_from(&mut message) else {
                            continue;
                        };
                        if let Some(counter) = counter {
                            counter.fetch_add(1, Ordering::Relaxed);
                        }
                        let _ = socket.send_to(&message[..length], from);
                    }
                });
            }
            let result = work();
            self.stop.store(true, Ordering::Relaxed);
            result
        })
    }
}

/// Where a pod's peer asks from.
struct Client<'a> {
    pod: &'a TestNetns,
    server: String,
}

impl Client<'_> {
    /// A new socket, so a new connection.
    fn socket(&self) -> Result<UdpSocket> {
        let socket = self.pod.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(socket)
    }

    fn ask(&self, socket: &UdpSocket) -> Result<()> {
        socket.send_to(b"?", (self.server.as_str(), OPEN))?;
        let answered = socket.recv_from(&mut [0; 8]);
        answered.map(drop).context("the open port did not answer")
    }

    fn knock(&self, socket: &UdpSocket) -> Result<()> {
        socket.send_to(b"!", (self.server.as_str(), SHUT))?;
        Ok(())
    }
}

/// Packets that the endpoint's policy has dropped.
fn denied(kernel: &Kernel) -> Result<u64> {
    let drops = kernel.maps().drops()?;
    let of_endpoint = drops.get(&ENDPOINT).into_iter().flatten();
    Ok(of_endpoint.map(|(_, counter)| counter.packets).sum())
}

#[test]
fn a_thousand_swaps_lose_no_allowed_packet_and_let_no_other_in() -> Result<()> {
    const SWAPS: u32 = 1000;
    let node = TestNode::new(2)?;
    let judge = Judge::new(ENDPOINT)?;
    let kernel = judge.kernel();
    let [server, _] = addresses(1);
    let client = Client {
        pod: &node.pods[0],
        server,
    };
    let service = Service::new(&node.pods[1])?;
    kernel.attach(
        &node.pods[1].open()?,
        POD_INTERFACE,
        ENDPOINT,
        kernel.mechanism(dataplane::kernel::TcMode::Auto)?,
    )?;
    // They agree on two ports only, one open and one shut.
    let policies = [
        policy(kernel, &[1000, OPEN])?,
        policy(kernel, &[OPEN, 2000])?,
    ];
    enforce(kernel, &policies[0])?;

    let done = AtomicBool::new(false);
    let knocks = service.during(|| {
        let old = client.socket()?;
        client.ask(&old)?;
        thread::scope(|scope| {
            let swapping = scope.spawn(|| -> Result<()> {
                for swap in 0..SWAPS {
                    enforce(kernel, &policies[swap as usize % 2])?;
                    // So that traffic flows under each.
                    thread::yield_now();
                }
                done.store(true, Ordering::Relaxed);
                Ok(())
            });
            let mut knocks = 0;
            while !done.load(Ordering::Relaxed) && !swapping.is_finished() {
                client.ask(&old)?;
                let new = client.socket()?;
                client.ask(&new)?;
                client.knock(&old)?;
                client.knock(&new)?;
                knocks += 2;
            }
            swapping.join().map_err(|_| anyhow::anyhow!("panicked"))??;
            Ok(knocks)
        })
    })?;
    ensure!(knocks > 0, "no traffic during the swaps");
    ensure!(
        service.shut.load(Ordering::Relaxed) == 0,
        "the shut port was reached"
    );
    wait_until("every knock to be counted as dropped", || {
        Ok(denied(kernel)? >= knocks)
    })?;
    Ok(())
}

const ATTACKS: &[&str] = &[
    "tc qdisc del dev net1 clsact",
    "tc filter del dev net1 ingress",
    "tc filter del dev net1 egress",
    "tc qdisc replace dev net1 clsact",
    "ip link set dev net1 xdp off",
    "ip link set dev net1 xdpgeneric off",
    "nft flush ruleset",
    "bpftool link detach id 1",
    "bpftool net detach xdp dev net1",
    "ip link set dev net1 down",
    "ip link set dev net1 up",
];

/// The open port answers, the shut one is not reached.
fn is_enforced(kernel: &Kernel, client: &Client<'_>, service: &Service) -> Result<bool> {
    let before = (denied(kernel)?, service.shut.load(Ordering::Relaxed));
    let socket = client.socket()?;
    client.knock(&socket)?;
    // Behind the knock, by the same way.
    client.ask(&socket)?;
    let after = (denied(kernel)?, service.shut.load(Ordering::Relaxed));
    Ok(after.0 > before.0 && after.1 == before.1)
}

#[test]
fn a_pod_with_net_admin_cannot_take_tcx_policy_away() -> Result<()> {
    let node = TestNode::new(2)?;
    let judge = Judge::new(ENDPOINT)?;
    let kernel = judge.kernel();
    if !kernel.features().tcx {
        return Ok(());
    }
    let [server, _] = addresses(1);
    let client = Client {
        pod: &node.pods[0],
        server,
    };
    let service = Service::new(&node.pods[1])?;
    let pod = node.pods[1].open()?;
    kernel.attach(&pod, POD_INTERFACE, ENDPOINT, TcMechanism::Tcx)?;
    enforce(kernel, &policy(kernel, &[OPEN])?)?;
    service.during(|| {
        for attack in ATTACKS {
            node.pods[1].run_as_net_admin(attack)?;
            if !attack.ends_with("down") {
                ensure!(
                    is_enforced(kernel, &client, &service)?,
                    "gone after: {attack}"
                );
            }
        }
        Ok(())
    })
}

/// Opens an agent's maps beside it.
fn beside(agent: &TestAgent) -> Result<Kernel> {
    let pins = agent.pins();
    let root = pins.parent().unwrap_or(Path::new("/"));
    Ok(Kernel::open(
        Features::detect()?,
        Pins::new(root),
        Sizes::DEFAULT,
    )?)
}

/// How many filters the agent has put back.
fn repairs(agent: &TestAgent) -> Result<u64> {
    let stats = agent.json(&["stats"])?;
    stats["repairs"].as_u64().context("no count of repairs")
}

#[test]
fn what_a_pod_takes_from_clsact_is_put_back() -> Result<()> {
    let node = TestNode::new(2)?;
    let agent = TestAgent::start(&node.node, &["--metrics-address", "off", "--tc", "clsact"])?;
    let kernel = beside(&agent)?;
    let [server, _] = addresses(1);
    let client = Client {
        pod: &node.pods[0],
        server,
    };
    let service = Service::new(&node.pods[1])?;
    let endpoint = agent.attach(&node.pods[1], POD_INTERFACE)?;
    ensure!(endpoint == u64::from(ENDPOINT), "endpoint {endpoint}");
    enforce(&kernel, &policy(&kernel, &[OPEN])?)?;
    service.during(|| {
        ensure!(is_enforced(&kernel, &client, &service)?, "not enforced");
        let attacks = [
            "tc qdisc del dev net1 clsact",
            "tc filter del dev net1 ingress",
        ];
        for attack in attacks.iter().cycle().take(6) {
            let before = repairs(&agent)?;
            ensure!(node.pods[1].run_as_net_admin(attack)?, "{attack} failed");
            wait_until("the filters to come back", || {
                Ok(repairs(&agent)? > before && is_enforced(&kernel, &client, &service)?)
            })
            .context(*attack)?;
        }
        // Six repairs, one after the other, and not once has the agent looked
        // at everything, which it does a minute after the last event: so it was
        // the kernel's word of each removal that brought the filters back. It
        // waits for more such words for a twentieth of a second.
        let status = agent.json(&["status"])?;
        ensure!(
            status["uptime_seconds"].as_u64() < Some(60),
            "too slow a machine to tell events from the minute's review"
        );
        Ok(())
    })
}

#[test]
fn verdicts_stay_when_the_agent_is_killed() -> Result<()> {
    let node = TestNode::new(2)?;
    let mut agent = TestAgent::start(&node.node, &["--metrics-address", "off"])?;
    let kernel = beside(&agent)?;
    let [server, _] = addresses(1);
    let client = Client {
        pod: &node.pods[0],
        server,
    };
    let service = Service::new(&node.pods[1])?;
    agent.attach(&node.pods[1], POD_INTERFACE)?;
    enforce(&kernel, &policy(&kernel, &[OPEN])?)?;
    service.during(|| {
        let old = client.socket()?;
        client.ask(&old)?;
        agent.kill()?;
        client.ask(&old)?;
        ensure!(is_enforced(&kernel, &client, &service)?, "not enforced");
        Ok(())
    })
}
