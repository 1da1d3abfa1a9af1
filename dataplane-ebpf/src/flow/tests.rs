use super::*;
use crate::{
    abi::Address,
    packets::{Frame, Roce, echo, icmp, neighbor_message, tcp_flags, udp},
    parse::parse,
};

const ENDPOINT: u32 = 3;

fn headers(frame: &[u8]) -> Headers {
    parse(frame).unwrap()
}

fn class(frame: &[u8]) -> Class {
    classify(&headers(frame))
}

fn word(last: u8) -> Address {
    Address::from(std::net::IpAddr::from([10, 0, 0, last]))
}

#[test]
fn a_segment_opens_or_answers_by_its_flags() {
    let role = |flags| class(&Frame::v4().carry(6, &tcp_flags(1, 2, flags)));
    assert_eq!(role(tcp::SYN), Class::Connection(Role::Opens));
    // Explicit congestion notification asks for itself in the SYN (RFC 3168).
    assert_eq!(role(tcp::SYN | 0xc0), Class::Connection(Role::Opens));
    assert_eq!(role(tcp::SYN | tcp::ACK), Class::Connection(Role::Answers));
    assert_eq!(role(tcp::RST), Class::Connection(Role::Answers));
    assert_eq!(role(tcp::RST | tcp::SYN), Class::Connection(Role::Answers));
    assert_eq!(role(tcp::ACK), Class::Connection(Role::Any));
    assert_eq!(role(tcp::FIN | tcp::ACK), Class::Connection(Role::Any));
    assert_eq!(role(0), Class::Connection(Role::Any));
}

#[test]
fn icmp_is_told_apart_by_family_and_type() {
    let v4 = |kind| class(&Frame::v4().carry(1, &icmp(kind, 0, &[0; 8])));
    let v6 = |kind| class(&Frame::v6().carry(58, &icmp(kind, 0, &[0; 8])));
    assert_eq!(v4(8), Class::Connection(Role::Opens));
    assert_eq!(v4(0), Class::Connection(Role::Answers));
    assert_eq!(v4(3), Class::IcmpError);
    assert_eq!(v4(5), Class::Alone);
    // A neighbour solicitation's number means nothing in ICMP for IPv4.
    assert_eq!(v4(135), Class::Alone);
    assert_eq!(v6(128), Class::Connection(Role::Opens));
    assert_eq!(v6(2), Class::IcmpError);
    assert_eq!(v6(138), Class::Alone);
    for kind in [130, 131, 132, 133, 134, 135, 136, 137, 143] {
        assert_eq!(v6(kind), Class::Always, "{kind}");
    }
    let pieces = Frame::v6().fragment(0, true);
    let message = neighbor_message(135, "fe80::1".parse().unwrap());
    assert_eq!(class(&pieces.carry(58, &message)), Class::Alone);
    // ICMPv6 in an IPv4 packet is neither.
    assert_eq!(
        class(&Frame::v4().carry(58, &icmp(135, 0, &[0; 16]))),
        Class::Alone
    );
}

#[test]
fn frames_without_addresses_are_not_judged() {
    let ethernet = |kind| class(&Frame::ethernet(kind).carry(0, &[0; 60]));
    assert_eq!(ethernet(0x0806), Class::Always);
    assert_eq!(ethernet(0x88cc), Class::NonIp);
    assert_eq!(ethernet(100), Class::NonIp);
    // RoCEv1 without a GRH that could be one.
    assert_eq!(ethernet(0x8915), Class::NonIp);
    let v1 = Roce::write(1, 64).v1();
    assert_eq!(class(&v1), Class::Connection(Role::Any));
    let later = Frame::v4().fragment(64, false).carry(17, &[0; 32]);
    assert_eq!(class(&later), Class::LaterPiece);
}

#[test]
fn both_directions_have_one_key() {
    let forth = Frame::v4().carry(17, &udp(1000, 53, &[]));
    let back = Frame::v4().reversed().carry(17, &udp(53, 1000, &[]));
    let out = key(&headers(&forth), Direction::Egress, ENDPOINT, 0, false);
    let home = key(&headers(&back), Direction::Ingress, ENDPOINT, 0, false);
    assert_eq!(out, home);
    assert_eq!((out.local, out.remote), (word(1), word(2)));
    assert_eq!(out.judged_port(Direction::Egress), 53);
    assert_eq!(out.judged_port(Direction::Ingress), 1000);
    // The same packet, at the interface of its receiver.
    let received = key(&headers(&forth), Direction::Ingress, ENDPOINT, 0, false);
    assert_ne!(out, received);
    assert_eq!(received.judged_port(Direction::Ingress), 53);
}

#[test]
fn a_ping_each_way_with_one_number_is_two_connections() {
    let key_of =
        |frame: &[u8], direction| key(&headers(frame), direction, ENDPOINT, 7_u16.to_be(), false);
    let ours = key_of(&Frame::v4().carry(1, &echo(8, 7)), Direction::Egress);
    let reply = key_of(
        &Frame::v4().reversed().carry(1, &echo(0, 7)),
        Direction::Ingress,
    );
    let theirs = key_of(
        &Frame::v4().reversed().carry(1, &echo(8, 7)),
        Direction::Ingress,
    );
    assert_eq!(ours, reply);
    assert_ne!(ours, theirs);
}

#[test]
fn an_error_quotes_the_connection_of_the_packet_that_caused_it() {
    let sent = Frame::v4().carry(6, &tcp_flags(1000, 443, tcp::SYN));
    let expected = key(&headers(&sent), Direction::Egress, ENDPOINT, 0, false);
    let error = |quotation: &[u8]| {
        let frame = Frame::v4().reversed().carry(1, &icmp(3, 4, quotation));
        let headers = headers(&frame);
        quoted(&frame[..], &headers, Direction::Ingress, ENDPOINT)
    };
    assert_eq!(error(&sent[14..]), Some(expected));
    // IP header and eight bytes are all that RFC 792 promises.
    assert_eq!(error(&sent[14..14 + 28]), Some(expected));
    assert_eq!(error(&sent[14..14 + 27]), None);
    assert_eq!(error(&[]), None);
    let options = Frame::v4()
        .options(3)
        .carry(6, &tcp_flags(1000, 443, tcp::SYN));
    assert_eq!(error(&options[14..]), Some(expected));
    let later = Frame::v4().fragment(64, false).carry(6, &[0; 32]);
    assert_eq!(error(&later[14..]), None);
    let mut broken = sent[14..].to_vec();
    broken[0] = 0x44;
    assert_eq!(error(&broken), None);

    let sent = Frame::v6().carry(58, &echo(128, 7));
    let expected = key(
        &headers(&sent),
        Direction::Egress,
        ENDPOINT,
        7_u16.to_be(),
        false,
    );
    let frame = Frame::v6().reversed().carry(58, &icmp(2, 0, &sent[14..]));
    let found = quoted(&frame[..], &headers(&frame), Direction::Ingress, ENDPOINT);
    assert_eq!(found, Some(expected));
}

/// Takes a TCP connection through packets: (from its initiator, flags).
fn run(packets: &[(bool, u8)]) -> FlowState {
    let mut flow = Standing::open(0, Direction::Egress, 0);
    let mut state = FlowState::New;
    for (from_initiator, flags) in packets {
        (state, flow.flags) = flow.after(state, protocol::TCP, *flags, *from_initiator);
    }
    state
}

#[test]
fn a_connection_is_followed_to_its_end() {
    const SYN_ACK: u8 = tcp::SYN | tcp::ACK;
    const FIN_ACK: u8 = tcp::FIN | tcp::ACK;
    let opened = [(true, tcp::SYN), (false, SYN_ACK)];
    let with = |more: &[(bool, u8)]| run(&[&opened[..], more].concat());
    assert_eq!(run(&[(true, tcp::SYN), (true, tcp::SYN)]), FlowState::New);
    assert_eq!(with(&[]), FlowState::Established);
    assert_eq!(with(&[(false, FIN_ACK)]), FlowState::Closing);
    assert_eq!(
        with(&[(false, FIN_ACK), (false, FIN_ACK)]),
        FlowState::Closing
    );
    let closed = [(false, FIN_ACK), (true, FIN_ACK)];
    assert_eq!(with(&closed), FlowState::Closed);
    assert_eq!(with(&[(true, tcp::RST)]), FlowState::Closed);
    assert_eq!(
        with(&[&closed[..], &[(true, tcp::ACK)]].concat()),
        FlowState::Closed
    );
    let again = [&closed[..], &[(true, tcp::SYN)]].concat();
    assert_eq!(with(&again), FlowState::New);
    assert_eq!(
        with(&[&again[..], &[(false, SYN_ACK)]].concat()),
        FlowState::Established
    );
    // What the first life left does not end the second.
    let ended = [&again[..], &[(false, SYN_ACK), (true, FIN_ACK)]].concat();
    assert_eq!(with(&ended), FlowState::Closing);
    // A refused call is no answered one.
    assert_eq!(
        run(&[(true, tcp::SYN), (false, tcp::RST)]),
        FlowState::Closed
    );
}

#[test]
fn an_entry_lives_as_long_as_its_protocol_says_and_for_its_owner_only() {
    const SECOND: u64 = 1_000_000_000;
    let flow = Standing::open(0, Direction::Egress, 5);
    let live = |state, protocol, first, seconds: u64| {
        flow.is_live(
            state,
            protocol,
            first,
            100 * SECOND,
            (100 + seconds) * SECOND,
        )
    };
    assert!(live(FlowState::New, protocol::UDP, 5, 120));
    assert!(!live(FlowState::New, protocol::UDP, 5, 121));
    assert!(live(FlowState::Established, protocol::TCP, 5, 7440));
    assert!(!live(FlowState::Closed, protocol::TCP, 5, 11));
    assert!(live(FlowState::New, protocol::UDP, 4, 0));
    assert!(!live(FlowState::New, protocol::UDP, 6, 0));
    // Across the wrap of epochs, and with a clock a tick behind.
    assert!(live(FlowState::New, protocol::UDP, u32::MAX - 3, 0));
    assert!(flow.is_live(FlowState::New, protocol::UDP, 5, 100 * SECOND, 99 * SECOND));
    let old = Standing::open(0, Direction::Egress, u32::MAX);
    assert!(!old.is_live(FlowState::New, protocol::UDP, 2, 0, 0));
}

/// What tells an entry's connection from the one that it went to.
#[test]
fn each_part_of_a_key_changes_its_check() {
    let frame = Frame::v6().carry(6, &tcp_flags(1000, 80, tcp::SYN));
    let key = key(&headers(&frame), Direction::Egress, ENDPOINT, 0, false);
    let mut others = vec![];
    for word in 0..4 {
        let (mut local, mut remote) = (key, key);
        local.local.words[word] ^= 1;
        remote.remote.words[word] ^= 1;
        others.extend([local, remote]);
    }
    let (local, remote) = (key.local, key.remote);
    others.extend([
        FlowKey {
            local: remote,
            remote: local,
            ..key
        },
        FlowKey {
            endpoint: key.endpoint + 1,
            ..key
        },
        FlowKey {
            local_port: key.local_port + 1,
            ..key
        },
        FlowKey {
            remote_port: key.remote_port + 1,
            ..key
        },
        FlowKey {
            protocol: protocol::UDP,
            ..key
        },
    ]);
    for other in &others {
        assert_ne!(other.check(), key.check(), "{other:?}");
    }
    // Ports in a row, as one pod's connections have them.
    let checks: std::collections::BTreeSet<_> = (0..1000)
        .map(|port: u16| {
            FlowKey {
                local_port: port.to_be(),
                ..key
            }
            .check()
        })
        .collect();
    assert!(checks.len() > 980, "{} of a thousand", checks.len());
}
