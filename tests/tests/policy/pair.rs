//! What these tests share: a pod and a peer, and the packets between them.

use std::net::IpAddr;

use anyhow::Result;
use dataplane::kernel::IdentityPrefix;
use dataplane_ebpf::abi::{
    Direction::{self, Egress, Ingress},
    PolicyRule, identity,
};
use sluice_tests::{
    judge::{Judge, Verdict},
    packets::{Frame, tcp_flags},
};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMP6: u8 = 58;

pub(crate) const SYN: u8 = 2;
pub(crate) const SYN_ACK: u8 = 0x12;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const FIN_ACK: u8 = 0x11;
pub(crate) const RST: u8 = 4;

/// The identity of the peers that a case names.
pub(crate) const PEER: u32 = identity::FIRST;

pub(crate) fn rule(rule: u32) -> PolicyRule {
    PolicyRule { rule, flags: 0 }
}

/// Addresses of pod and peer.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) pod: IpAddr,
    pub(crate) peer: IpAddr,
}

impl Pair {
    pub(crate) fn v4() -> Self {
        Self {
            pod: [10, 0, 0, 1].into(),
            peer: [10, 0, 0, 9].into(),
        }
    }

    pub(crate) fn v6() -> Self {
        Self {
            pod: [0xfd00, 0, 0, 0, 0, 0, 0, 1].into(),
            peer: [0xfd00, 0, 0, 0, 0, 0, 0, 9].into(),
        }
    }

    pub(crate) fn both() -> [Self; 2] {
        [Self::v4(), Self::v6()]
    }

    pub(crate) fn frame(self, direction: Direction) -> Frame {
        match direction {
            Ingress => Frame::between(self.peer, self.pod),
            Egress => Frame::between(self.pod, self.peer),
        }
    }

    pub(crate) fn icmp(self) -> u8 {
        if self.pod.is_ipv4() { ICMP } else { ICMP6 }
    }

    /// A TCP packet of the connection from the peer's 40000 to the pod's 80,
    /// or from the pod's 80 to it.
    pub(crate) fn served(self, direction: Direction, flags: u8) -> Vec<u8> {
        let (source, destination) = match direction {
            Ingress => (40_000, 80),
            Egress => (80, 40_000),
        };
        self.frame(direction)
            .carry(TCP, &tcp_flags(source, destination, flags))
    }

    /// A TCP packet of the connection from the pod's 40000 to the peer's 443,
    /// or back.
    pub(crate) fn called(self, direction: Direction, flags: u8) -> Vec<u8> {
        let (source, destination) = match direction {
            Egress => (40_000, 443),
            Ingress => (443, 40_000),
        };
        self.frame(direction)
            .carry(TCP, &tcp_flags(source, destination, flags))
    }

    pub(crate) fn is_peer(self, judge: &Judge) -> Result<()> {
        let change = [(IdentityPrefix::Address(self.peer), Some(PEER))];
        let maps = judge.kernel().maps();
        Ok(maps.policy().set_identities(&change)?)
    }
}

/// Runs packets in turn and holds each verdict against what is expected.
pub(crate) fn expect(judge: &Judge, steps: &[(&str, Direction, Vec<u8>, Verdict)]) -> Result<()> {
    for (what, direction, frame, expected) in steps {
        let verdict = judge.run(1, *direction, frame)?;
        assert_eq!(verdict, *expected, "{what}");
    }
    Ok(())
}
