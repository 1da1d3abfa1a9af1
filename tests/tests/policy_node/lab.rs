//! A node with pods, a folder of policies and a real agent; servers in the pods, and who asks them.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use sluice_tests::{
    agent::TestAgent,
    netns::TestNetns,
    node::{POD_INTERFACE, TestNode},
    policy::PolicyFolder,
    poll::wait_until,
};

/// How long a connection may take that should not come about. An allowed one
/// that takes longer on a busy machine fails the test; it never passes wrongly.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ports that servers answer on.
pub(crate) const PORTS: [u16; 2] = [80, 81];

/// Answers on the ports of a pod, over TCP and UDP, until dropped.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start(pod: &TestNetns) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for port in PORTS {
            let any = (Ipv6Addr::UNSPECIFIED, port);
            let (tcp, udp) = pod.enter(|| (TcpListener::bind(any), UdpSocket::bind(any)))?;
            let (tcp, udp) = (tcp?, udp?);
            tcp.set_nonblocking(true)?;
            udp.set_read_timeout(Some(Duration::from_millis(50)))?;
            let stopped = Arc::clone(&stop);
            thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    match tcp.accept() {
                        Ok((mut stream, _)) => drop(stream.write_all(b"tcp")),
                        Err(_) => thread::sleep(Duration::from_millis(5)),
                    }
                }
            });
            let stopped = Arc::clone(&stop);
            thread::spawn(move || {
                let mut buffer = [0; 16];
                while !stopped.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = udp.recv_from(&mut buffer) {
                        let _ = udp.send_to(&buffer[..length], from);
                    }
                }
            });
        }
        Ok(Self { stop })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

pub(crate) fn tcp_connects(from: &TestNetns, to: SocketAddr) -> Result<bool> {
    let connected = from.enter(|| {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    })?;
    Ok(connected.is_ok_and(|text| text == "tcp"))
}

pub(crate) fn udp_answers(from: &TestNetns, to: SocketAddr) -> Result<bool> {
    let socket = from.enter(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)))??;
    // IPv4 goes through a socket of both families as a mapped address.
    let to = match to.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), to.port()),
        IpAddr::V6(_) => to,
    };
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let tries = PATIENCE.as_millis() / 500;
    for _ in 0..tries {
        socket.send_to(b"udp", to)?;
        let mut buffer = [0; 16];
        if socket.recv(&mut buffer).is_ok_and(|length| length == 3) {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(crate) struct Lab {
    pub(crate) node: TestNode,
    pub(crate) folder: PolicyFolder,
    pub(crate) agent: TestAgent,
}

impl Lab {
    /// So many pods, none attached yet, and a folder that says this.
    pub(crate) fn new(pods: usize, objects: &[Value]) -> Result<Self> {
        Self::with(&[], pods, objects)
    }

    /// The same, the agent with these options too.
    pub(crate) fn with(options: &[&str], pods: usize, objects: &[Value]) -> Result<Self> {
        let node = TestNode::new(pods)?;
        let folder = PolicyFolder::new()?;
        folder.write("cluster.yaml", objects)?;
        let path = folder.path();
        let options = [&["--policy-dir", &path], options].concat();
        let agent = TestAgent::start(&node.node, &options)?;
        Ok(Self {
            node,
            folder,
            agent,
        })
    }

    pub(crate) fn attach(&self, at: usize, pod: &str) -> Result<u64> {
        let netns = self.node.pods[at].name();
        let arguments = ["attach", "--netns", netns, POD_INTERFACE, "--pod", pod];
        let endpoint = self.agent.json(&arguments)?;
        endpoint["id"].as_u64().context("endpoint without id")
    }

    /// Waits until the agent has made the folder's last version its own.
    pub(crate) fn wait_for(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<()> {
        wait_until(what, || Ok(is(&self.agent.json(&["policy", "list"])?)))
    }
}
