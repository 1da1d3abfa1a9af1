//! Connections, as policy sees them: which one a packet belongs to, whether it
//! may open one, and how far the connection has got.

mod icmp;

pub use icmp::quoted;

use crate::{
    abi::{Direction, FlowKey, FlowState, Standing, has_ports},
    parse::{Fragment, Headers, ether_type, protocol, tcp},
    roce,
};

/// What policy has to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Passes always: without it an isolated pod would lose its link (ARP,
    /// neighbour discovery, multicast listener discovery).
    Always,
    /// Has no address that policy could judge.
    NonIp,
    /// A later piece of a packet: goes the way of the first.
    LaterPiece,
    /// Tells of a packet that was sent the other way: passes if that one's
    /// connection is known.
    IcmpError,
    /// Belongs to no connection and is judged by itself.
    Alone,
    /// Belongs to a connection.
    Connection(Role),
}

/// What a packet can be in its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The first of a connection, or a later one.
    Any,
    /// The first: a TCP SYN, an ICMP request.
    Opens,
    /// Never the first: a TCP SYN that acknowledges, a reset, an ICMP reply.
    /// Without a connection it is judged, and not remembered.
    Answers,
}

/// Types of ICMP (RFC 792, RFC 950).
mod icmp4 {
    pub const ECHO_REPLY: u16 = 0;
    pub const UNREACHABLE: u16 = 3;
    pub const SOURCE_QUENCH: u16 = 4;
    pub const ECHO: u16 = 8;
    pub const TIME_EXCEEDED: u16 = 11;
    pub const PARAMETER_PROBLEM: u16 = 12;
    pub const TIMESTAMP: u16 = 13;
    pub const TIMESTAMP_REPLY: u16 = 14;
}

/// Types of ICMPv6 (RFC 4443, RFC 2710, RFC 3810, RFC 4861).
mod icmp6 {
    pub const UNREACHABLE: u16 = 1;
    pub const PARAMETER_PROBLEM: u16 = 4;
    pub const ECHO: u16 = 128;
    pub const ECHO_REPLY: u16 = 129;
    pub const LISTENER_QUERY: u16 = 130;
    pub const LISTENER_DONE: u16 = 132;
    pub const ROUTER_SOLICITATION: u16 = 133;
    pub const REDIRECT: u16 = 137;
    pub const LISTENER_REPORT_2: u16 = 143;
}

/// Says what policy has to do with a packet.
#[inline(always)]
pub fn classify(headers: &Headers) -> Class {
    match headers.ether_type {
        ether_type::ARP => return Class::Always,
        ether_type::IPV4 | ether_type::IPV6 => {}
        // A broken GRH leaves the protocol unset, and has no addresses.
        roce::ETHER_TYPE if headers.protocol == protocol::IB_BTH => {
            return Class::Connection(Role::Any);
        }
        _ => return Class::NonIp,
    }
    if let Fragment::Later = headers.fragment {
        return Class::LaterPiece;
    }
    match (headers.protocol, headers.ether_type) {
        (protocol::TCP, _) => Class::Connection(tcp_role(headers.tcp_flags)),
        (protocol::ICMP, ether_type::IPV4) => icmp4_class(headers.source_port),
        (protocol::ICMPV6, ether_type::IPV6) => icmp6_class(headers),
        (protocol::ICMP | protocol::ICMPV6, _) => Class::Alone,
        _ => Class::Connection(Role::Any),
    }
}

#[inline(always)]
const fn tcp_role(flags: u8) -> Role {
    if flags & tcp::RST != 0 {
        return Role::Answers;
    }
    const SYN_ACK: u8 = tcp::SYN | tcp::ACK;
    match flags & SYN_ACK {
        tcp::SYN => Role::Opens,
        SYN_ACK => Role::Answers,
        _ => Role::Any,
    }
}

#[inline(always)]
const fn icmp4_class(kind: u16) -> Class {
    match kind {
        icmp4::ECHO | icmp4::TIMESTAMP => Class::Connection(Role::Opens),
        icmp4::ECHO_REPLY | icmp4::TIMESTAMP_REPLY => Class::Connection(Role::Answers),
        icmp4::UNREACHABLE
        | icmp4::SOURCE_QUENCH
        | icmp4::TIME_EXCEEDED
        | icmp4::PARAMETER_PROBLEM => Class::IcmpError,
        _ => Class::Alone,
    }
}

#[inline(always)]
const fn icmp6_class(headers: &Headers) -> Class {
    match headers.source_port {
        icmp6::ECHO => Class::Connection(Role::Opens),
        icmp6::ECHO_REPLY => Class::Connection(Role::Answers),
        icmp6::UNREACHABLE..=icmp6::PARAMETER_PROBLEM => Class::IcmpError,
        // None of them is ever sent in pieces (RFC 6980).
        icmp6::LISTENER_QUERY..=icmp6::LISTENER_DONE
        | icmp6::ROUTER_SOLICITATION..=icmp6::REDIRECT
        | icmp6::LISTENER_REPORT_2
            if matches!(headers.fragment, Fragment::No) =>
        {
            Class::Always
        }
        _ => Class::Alone,
    }
}

/// The connection that a packet of an endpoint belongs to. `identifier` is that
/// of an ICMP request or reply, in network byte order; `is_roce` says that the
/// packet is a RoCE packet.
#[inline(always)]
pub fn key(
    headers: &Headers,
    direction: Direction,
    endpoint: u32,
    identifier: u16,
    is_roce: bool,
) -> FlowKey {
    let (local, remote, mut local_port, mut remote_port) = match direction {
        Direction::Ingress => (
            headers.destination,
            headers.source,
            headers.destination_port.to_be(),
            headers.source_port.to_be(),
        ),
        Direction::Egress => (
            headers.source,
            headers.destination,
            headers.source_port.to_be(),
            headers.destination_port.to_be(),
        ),
    };
    if is_roce && headers.protocol == protocol::UDP {
        // Both sides send to RoCE's port, from ports that mean nothing: all
        // between two addresses is one connection.
        local_port = roce::UDP_PORT.to_be();
        remote_port = local_port;
    } else if matches!(headers.protocol, protocol::ICMP | protocol::ICMPV6) {
        // Who asked is part of the key: both sides may use one identifier.
        let asks = matches!(
            headers.source_port,
            icmp4::ECHO | icmp4::TIMESTAMP | icmp6::ECHO
        );
        local_port = identifier;
        remote_port = (asks == matches!(direction, Direction::Egress)) as u16;
    } else if !has_ports(headers.protocol) {
        local_port = 0;
        remote_port = 0;
    }
    FlowKey::from_words(
        local,
        remote,
        endpoint,
        [local_port, remote_port],
        headers.protocol,
    )
}

impl FlowKey {
    /// The port that policy judges the connection by, when `initiator` is the
    /// direction of its first packet: that packet's destination port, in host
    /// byte order. Means nothing where the protocol has no ports.
    #[inline(always)]
    pub fn judged_port(&self, initiator: Direction) -> u16 {
        match initiator {
            Direction::Ingress => u16::from_be(self.local_port),
            Direction::Egress => u16::from_be(self.remote_port),
        }
    }
}

const SECOND: u64 = 1_000_000_000;

/// No connection is remembered for less: spares the packets of a busy one the
/// question how long it is.
const SHORTEST_LIFETIME_NS: u64 = 10 * SECOND;

/// How long a connection is remembered after its last packet, ns.
#[inline(always)]
pub const fn lifetime_ns(protocol: u8, state: FlowState) -> u64 {
    let seconds = match (protocol, state) {
        // Answers to a late retransmission may still come.
        (_, FlowState::Closed) => 10,
        // RFC 5382, requirement 5: at least 2 h 4 min, and 4 min in between.
        (protocol::TCP, FlowState::Established) => 7440,
        (protocol::TCP, FlowState::New | FlowState::Closing) => 240,
        // SCTP's heartbeats come every half a minute or so (RFC 9260, 8.3).
        (protocol::SCTP, FlowState::Established) => 7440,
        // RFC 5508, requirement 1: at least 60 s.
        (protocol::ICMP | protocol::ICMPV6, _) => 60,
        // RFC 4787, requirement 5: at least 2 min.
        (protocol::UDP, _) => 120,
        // Tunnels and RoCE, which have no end of their own.
        _ => 600,
    };
    seconds * SECOND
}

impl Standing {
    /// Of a connection after its first packet, which went in `direction`.
    #[inline(always)]
    pub fn open(check: u16, direction: Direction, policy_epoch: u32) -> Self {
        Self {
            policy_epoch,
            check,
            state: FlowState::New.code(),
            flags: match direction {
                Direction::Ingress => 0,
                Direction::Egress => Self::OPENED_BY_POD,
            },
        }
    }

    /// Whether the entry still stands for a connection: it is not of the
    /// endpoint id's previous owner, and has not been silent for too long.
    #[inline(always)]
    pub fn is_live(
        &self,
        state: FlowState,
        protocol: u8,
        first_epoch: u32,
        last_seen_ns: u64,
        now_ns: u64,
    ) -> bool {
        // Epochs wrap around; half of their range is before, half after.
        let age = self.policy_epoch.wrapping_sub(first_epoch);
        // Another processor's last tick may have been a later one.
        let silent = now_ns.saturating_sub(last_seen_ns);
        let fresh = silent <= SHORTEST_LIFETIME_NS || silent <= lifetime_ns(protocol, state);
        age < 1 << 31 && fresh
    }

    /// The state after one more packet, and the connection's flags.
    #[inline(always)]
    pub fn after(
        &self,
        state: FlowState,
        protocol: u8,
        tcp_flags: u8,
        from_initiator: bool,
    ) -> (FlowState, u8) {
        let answered = match state {
            FlowState::New if !from_initiator => FlowState::Established,
            state => state,
        };
        if protocol != protocol::TCP {
            return (answered, self.flags);
        }
        if tcp_flags & tcp::RST != 0 {
            return (FlowState::Closed, self.flags);
        }
        const FINS: u8 = Standing::FIN_INITIATOR | Standing::FIN_RESPONDER;
        // The same ports again, for a new connection.
        if from_initiator
            && matches!(state, FlowState::Closing | FlowState::Closed)
            && matches!(tcp_role(tcp_flags), Role::Opens)
        {
            return (FlowState::New, self.flags & !FINS);
        }
        if tcp_flags & tcp::FIN == 0 {
            return (answered, self.flags);
        }
        let flags = self.flags
            | if from_initiator {
                Self::FIN_INITIATOR
            } else {
                Self::FIN_RESPONDER
            };
        let state = if flags & FINS == FINS {
            FlowState::Closed
        } else {
            FlowState::Closing
        };
        (state, flags)
    }
}

impl Direction {
    /// The other one.
    #[inline(always)]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }
}

#[cfg(test)]
mod tests;
