//! Traffic with known numbers of packets.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use crate::netns::TestNetns;

/// Bytes of the receiver's buffer: several seconds of the stream.
const RECEIVE_BUFFER: usize = 64 << 20;

/// A stream of UDP datagrams from one namespace to another, counted at both
/// ends.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    sender: Option<JoinHandle<()>>,
    receiver: Option<JoinHandle<()>>,
}

impl Stream {
    /// Starts sending from `from` to `address` in `to`, some thousand a second.
    ///
    /// # Errors
    /// A socket cannot be made.
    pub fn start(from: &TestNetns, to: &TestNetns, address: &str) -> Result<Self> {
        let bind = |netns: &TestNetns, address: String| -> Result<UdpSocket> {
            let socket = netns.enter(|| UdpSocket::bind(&address))?;
            socket.with_context(|| format!("binding {address}"))
        };
        let any = if address.contains(':') {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        let bracketed = if address.contains(':') {
            format!("[{address}]:0")
        } else {
            format!("{address}:0")
        };
        let target = bind(to, bracketed)?;
        target.set_read_timeout(Some(Duration::from_millis(100)))?;
        // A reader that gets no processor for long loses nothing meanwhile.
        setsockopt(&target, RcvBufForce, &RECEIVE_BUFFER)?;
        let destination: SocketAddr = target.local_addr()?;
        let source = bind(from, any.to_owned())?;

        let (stop, sent, received) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicU64::new(0)),
        );
        let sender = {
            let (stop, sent) = (stop.clone(), sent.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if source.send_to(&[0; 64], destination).is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                    // Slow enough for the receiver's buffer never to overflow.
                    thread::sleep(Duration::from_micros(100));
                }
            })
        };
        let receiver = {
            let (stop, received) = (stop.clone(), received.clone());
            thread::spawn(move || {
                let mut buffer = [0; 128];
                // After the stop, until nothing has come for the time-out.
                loop {
                    match target.recv(&mut buffer) {
                        Ok(_) => {
                            received.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(_) if stop.load(Ordering::Relaxed) => break,
                        Err(_) => {}
                    }
                }
            })
        };
        Ok(Self {
            stop,
            sent,
            received,
            sender: Some(sender),
            receiver: Some(receiver),
        })
    }

    /// Datagrams sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops; returns how many were sent and how many received.
    pub fn stop(mut self) -> (u64, u64) {
        self.join();
        (self.sent(), self.received.load(Ordering::Relaxed))
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in [self.sender.take(), self.receiver.take()]
            .into_iter()
            .flatten()
        {
            let _ = thread.join();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.join();
    }
}

/// Sends a megabyte over TCP from one namespace to an address in another.
///
/// # Errors
/// No connection comes about, or not all arrives.
pub fn transfer(from: &TestNetns, to: &TestNetns, address: &str) -> Result<()> {
    const LENGTH: usize = 1 << 20;
    let host = if address.contains(':') {
        format!("[{address}]:0")
    } else {
        format!("{address}:0")
    };
    let listener = to.enter(|| TcpListener::bind(&host))??;
    let target = listener.local_addr()?;
    let server = thread::spawn(move || -> std::io::Result<usize> {
        let (mut stream, _) = listener.accept()?;
        let mut received = Vec::new();
        stream.read_to_end(&mut received)
    });
    from.enter(|| -> std::io::Result<()> {
        let mut stream = TcpStream::connect(target)?;
        stream.write_all(&vec![7; LENGTH])
    })??;
    let received = server.join().ok().context("server panicked")??;
    ensure!(received == LENGTH, "{received} of {LENGTH} bytes arrived");
    Ok(())
}
