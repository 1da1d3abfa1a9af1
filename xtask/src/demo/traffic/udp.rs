//! UDP: numbered datagrams there and back.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{Flow, Tally};
use crate::demo::{netns::Namespace, topology};

/// Sends datagrams of `size` bytes, `pause` apart, each of which is sent back.
///
/// # Errors
/// A socket cannot be had.
pub(in crate::demo) fn udp(
    label: &str,
    from: &Namespace,
    to: (&Namespace, SocketAddr),
    size: usize,
    pause: Duration,
) -> Result<Flow<Tally>> {
    let (to, address) = to;
    let server = to.udp(address)?;
    let client = from.udp(topology::any(address.ip()))?;
    client.connect(address)?;
    Ok(Flow::start(label.to_owned(), move |stop| {
        let mut tally = Tally::default();
        let mut datagram = vec![0x5a; size];
        while !stop.requested() {
            datagram[..8].copy_from_slice(&tally.messages.to_be_bytes());
            client.send(&datagram).context("cannot send")?;
            tally.messages += 1;
            let sender = receive(&server, &datagram)?;
            server.send_to(&datagram, sender).context("cannot answer")?;
            receive(&client, &datagram)?;
            tally.answers += 1;
            tally.bytes += size as u64;
            thread::sleep(pause);
        }
        Ok(tally)
    }))
}

/// Takes the next datagram, which must be the expected one; its sender.
pub(super) fn receive(socket: &UdpSocket, expected: &[u8]) -> Result<SocketAddr> {
    let mut buffer = [0; 2048];
    let (length, sender) = match socket.recv_from(&mut buffer) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            bail!("a datagram of {} bytes was lost", expected.len())
        }
        received => received.context("cannot receive")?,
    };
    if buffer[..length] != *expected {
        bail!("another datagram arrived than was sent");
    }
    Ok(sender)
}
