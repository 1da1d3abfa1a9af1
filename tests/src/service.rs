//! Servers in pods, and who asks them.

use std::{
    env,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Result;

use crate::netns::TestNetns;

/// How long to wait for an answer: for one that should come, as long as anything may take on a busy
/// machine; for one that should not, several times what the others need.
fn patience(expected: bool) -> Duration {
    let in_the_lab = env::var_os("SLUICE_LAB_NODE").is_some();
    Duration::from_secs(match (expected, in_the_lab) {
        (true, true) => 100,
        (true, false) => 20,
        (false, true) => 10,
        (false, false) => 5,
    })
}

/// Ports that servers answer on.
pub const PORTS: [u16; 2] = [80, 81];

/// Answers on the ports of a pod, over TCP and UDP, until dropped.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
}

impl Server {
    /// Begins to answer.
    ///
    /// # Errors
    /// A socket cannot be made.
    pub fn start(pod: &TestNetns) -> Result<Self> {
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

/// Whether a TCP connection comes about and brings the server's word; waited for the longer if that
/// is `expected`.
///
/// # Errors
/// The namespace cannot be entered.
pub fn tcp_connects(from: &TestNetns, to: SocketAddr, expected: bool) -> Result<bool> {
    let patience = patience(expected);
    let connected = from.enter(|| {
        let mut stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(patience))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    })?;
    Ok(connected.is_ok_and(|text| text == "tcp"))
}

/// A conversation over UDP: one socket, one server.
#[derive(Debug)]
pub struct Conversation {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Conversation {
    /// A new one; nothing is sent yet.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn new(from: &TestNetns, to: SocketAddr) -> Result<Self> {
        let socket = from.enter(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)))??;
        // IPv4 goes through a socket of both families as a mapped address.
        let to = match to.ip() {
            IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), to.port()),
            IpAddr::V6(_) => to,
        };
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(Self { socket, to })
    }

    /// Whether the server answers; tried the longer if that is `expected`.
    ///
    /// # Errors
    /// Nothing can be sent.
    pub fn goes_on(&self, expected: bool) -> Result<bool> {
        let tries = patience(expected).as_millis() / 500;
        for _ in 0..tries {
            self.socket.send_to(b"udp", self.to)?;
            let mut buffer = [0; 16];
            if self
                .socket
                .recv(&mut buffer)
                .is_ok_and(|length| length == 3)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether a server answers over UDP; tried the longer if that is `expected`.
///
/// # Errors
/// As of [`Conversation`].
pub fn udp_answers(from: &TestNetns, to: SocketAddr, expected: bool) -> Result<bool> {
    Conversation::new(from, to)?.goes_on(expected)
}
