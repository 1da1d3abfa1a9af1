//! Address conflict detection, before an address is used.

use std::{
    io,
    net::IpAddr,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use serde::{Deserialize, Serialize};

use super::{
    frame::{self, Claim},
    socket::PacketSocket,
};
use crate::link::{LinkError, Mac, Netns};

/// An address that someone else has, or is about to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The address.
    pub address: IpAddr,
    /// Who has it.
    pub mac: Mac,
}

/// How often and how long is asked.
///
/// RFC 5227 asks for four to seven seconds: three probes one to two seconds apart, after a random
/// wait of up to a second that keeps many machines from speaking at once after a power cut. A pod's
/// start has not so long. The default keeps the number and shortens the time to what an answer
/// takes on a local network; who sleeps longer than that is not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeTiming {
    /// Probes for each address.
    pub probes: u32,
    /// From one probe to the next.
    pub interval: Duration,
    /// From the last probe to the end.
    pub wait: Duration,
}

impl Default for ProbeTiming {
    /// 80 ms in all.
    fn default() -> Self {
        Self {
            probes: 3,
            interval: Duration::from_millis(20),
            wait: Duration::from_millis(40),
        }
    }
}

impl ProbeTiming {
    /// What a search that finds nothing takes, however many addresses there are.
    pub fn cost(&self) -> Duration {
        self.interval * self.probes.saturating_sub(1) + self.wait
    }
}

/// Asks the neighbours of an interface whether they have any of the addresses. All are asked for
/// side by side. The interface must be up and have a carrier; it needs no address of its own.
///
/// Of two that ask for the same address at the same time, the first hears the second ask and finds
/// a conflict; the second may not hear the first.
///
/// Takes [`ProbeTiming::cost`], less when all addresses turn out to be taken. Ipvlan siblings have
/// the interface's own Ethernet address and are not found; the kernel refuses such an address when
/// it is added.
///
/// # Errors
/// [`LinkError::PacketSocket`].
pub fn find_conflicts(
    netns: &Netns,
    ifindex: u32,
    own: Mac,
    addresses: &[IpAddr],
    timing: ProbeTiming,
) -> Result<Vec<Conflict>, LinkError> {
    let failed = |source| LinkError::PacketSocket {
        ifindex,
        netns: netns.to_string(),
        step: "look for address conflicts; is the interface up?",
        source,
    };
    let mut search = Search {
        own,
        wanted: addresses.to_vec(),
        found: Vec::new(),
    };
    search.wanted.sort_unstable();
    search.wanted.dedup();
    let sockets = sockets(netns, ifindex, &search.wanted)?;
    let begin = Instant::now();
    for number in 0..timing.probes {
        for address in &search.wanted {
            let socket = sockets
                .iter()
                .find(|(v6, _)| *v6 == address.is_ipv6())
                .map(|(_, socket)| socket);
            if let Some(socket) = socket {
                socket.send(&frame::probe(own, *address)).map_err(failed)?;
            }
        }
        let pause = if number + 1 < timing.probes {
            timing.interval * (number + 1)
        } else {
            timing.cost()
        };
        search.listen(&sockets, begin + pause).map_err(failed)?;
        if search.wanted.is_empty() {
            break;
        }
    }
    Ok(search.found)
}

/// A socket for each family that is needed, and whether it is IPv6's.
fn sockets(
    netns: &Netns,
    ifindex: u32,
    addresses: &[IpAddr],
) -> Result<Vec<(bool, PacketSocket)>, LinkError> {
    let mut sockets = Vec::new();
    if addresses.iter().any(IpAddr::is_ipv4) {
        let socket = PacketSocket::open(netns, ifindex, libc::ETH_P_ARP, &[])?;
        sockets.push((false, socket));
    }
    let groups: Vec<_> = addresses
        .iter()
        .filter_map(|address| match address {
            IpAddr::V6(address) => Some(frame::groups(*address)),
            IpAddr::V4(_) => None,
        })
        .flatten()
        .collect();
    if !groups.is_empty() {
        let socket = PacketSocket::open(netns, ifindex, libc::ETH_P_IPV6, &groups)?;
        sockets.push((true, socket));
    }
    Ok(sockets)
}

struct Search {
    own: Mac,
    /// Addresses without an answer so far.
    wanted: Vec<IpAddr>,
    found: Vec<Conflict>,
}

impl Search {
    /// Listens until a moment, or until nothing is left to be answered.
    fn listen(&mut self, sockets: &[(bool, PacketSocket)], until: Instant) -> io::Result<()> {
        while !self.wanted.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let mut waiting: Vec<_> = sockets
                .iter()
                .map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
                .collect();
            // Rounded up: it must not spin through the last millisecond.
            let milliseconds = left.as_micros().div_ceil(1000);
            let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
            match poll(&mut waiting, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            for (_, socket) in sockets {
                socket.receive(|frame| self.hear(frame))?;
            }
        }
        Ok(())
    }

    fn hear(&mut self, frame: &[u8]) {
        let Some(Claim { address, mac }) = frame::claim(frame) else {
            return;
        };
        // A switch may send our own question back to us.
        if mac == self.own {
            return;
        }
        if let Some(at) = self.wanted.iter().position(|wanted| *wanted == address) {
            self.wanted.swap_remove(at);
            self.found.push(Conflict { address, mac });
        }
    }
}
