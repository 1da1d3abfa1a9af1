//! TCP: blocks there and back over one connection.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{Flow, Tally};
use crate::demo::netns::Namespace;

/// Bytes of a block: many segments, yet less than the kernel keeps for a socket that is not read.
const BLOCK: usize = 32 * 1024;
/// A connection that stands still for so long is broken.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens a connection and sends blocks, `pause` apart, each of which is sent back.
///
/// # Errors
/// The connection cannot be made.
pub(in crate::demo) fn tcp(
    label: &str,
    from: &Namespace,
    to: (&Namespace, SocketAddr),
    pause: Duration,
) -> Result<Flow<Tally>> {
    let (to, address) = to;
    let listener = to.enter(|| {
        TcpListener::bind(address)
            .with_context(|| format!("cannot listen on {address} in {}", to.name()))
    })?;
    let mut client = from.enter(|| {
        TcpStream::connect_timeout(&address, PATIENCE)
            .with_context(|| format!("{label}: cannot connect to {address}"))
    })?;
    let (mut server, _) = listener.accept()?;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
    }
    Ok(Flow::start(label.to_owned(), move |stop| {
        let mut tally = Tally::default();
        let mut received = vec![0; BLOCK];
        while !stop.requested() {
            let block = vec![tally.messages as u8; BLOCK];
            pass_on(&mut client, &mut server, &block, &mut received)?;
            tally.messages += 1;
            pass_on(&mut server, &mut client, &block, &mut received)?;
            tally.answers += 1;
            tally.bytes += BLOCK as u64;
            thread::sleep(pause);
        }
        Ok(tally)
    }))
}

fn pass_on(
    from: &mut TcpStream,
    to: &mut TcpStream,
    block: &[u8],
    received: &mut [u8],
) -> Result<()> {
    from.write_all(block).context("cannot send")?;
    to.read_exact(received)
        .context("a block did not arrive whole")?;
    if received != block {
        bail!("another block arrived than was sent");
    }
    Ok(())
}
