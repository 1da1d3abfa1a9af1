//! Requests and their answers.

use super::{
    timing::{ONE_IN, Role, answer, exchange, is_timed, request, role, slot},
    *,
};
use crate::abi::{Address, ROCE_REQUESTS, RoceRequest};

const SPACE: u32 = 1 << 24;

fn address(last: u8) -> Address {
    std::net::IpAddr::from([10, 0, 0, last]).into()
}

#[test]
fn one_psn_in_so_many_is_timed() {
    let timed = (0..SPACE).filter(|psn| is_timed(*psn)).count() as u32;
    let expected = SPACE / ONE_IN;
    assert!(timed.abs_diff(expected) < expected / 100, "{timed}");
}

/// Messages of any length end with PSNs that are equally far apart.
#[test]
fn no_distance_between_psns_escapes() {
    for distance in 1..=4096 {
        let psns = (0..2000).map(|number| (77 + number * distance) % SPACE);
        let timed = psns.filter(|psn| is_timed(*psn)).count();
        assert!(timed > 10, "{timed} of 2000 at a distance of {distance}");
    }
}

#[test]
fn requests_and_answers_are_told_apart() {
    let packet = |transport, kind, sequenced, mark| RocePacket {
        transport,
        kind,
        sequenced,
        mark,
        ..RocePacket::default()
    };
    use Transport::{Cnp, Rc, Rd, Uc, Ud, Xrc};
    for (transport, kind, sequenced, mark, expected) in [
        (Rc, Kind::Write, true, None, Role::Request),
        (Xrc, Kind::ReadRequest, true, None, Role::Request),
        (Rc, Kind::Ack, false, None, Role::Answer),
        (Rc, Kind::ReadResponse, false, None, Role::Answer),
        (Xrc, Kind::AtomicAck, false, None, Role::Answer),
        (Rc, Kind::Ack, false, Some(Kind::RnrNak), Role::None),
        (Uc, Kind::Send, true, None, Role::None),
        (Ud, Kind::Send, false, None, Role::None),
        (Rd, Kind::Ack, false, None, Role::None),
        (Cnp, Kind::Cnp, false, None, Role::None),
    ] {
        let packet = packet(transport, kind, sequenced, mark);
        assert_eq!(role(&packet), expected, "{packet:?}");
    }
}

#[test]
fn exchanges_spread_over_the_slots() {
    let mut used = std::collections::HashSet::new();
    let mut numbers = std::collections::HashSet::new();
    let timed = (0..SPACE).filter(|psn| is_timed(*psn));
    for psn in timed.take(ROCE_REQUESTS as usize) {
        let number = exchange(1, &address(1), &address(2), psn);
        numbers.insert(number);
        used.insert(slot(number));
    }
    // By chance alone, 63 of a hundred slots would be used.
    assert!(used.len() as u32 > ROCE_REQUESTS / 2, "{}", used.len());
    assert!(
        numbers.len() as u32 > ROCE_REQUESTS - 8,
        "{}",
        numbers.len()
    );
    // Each part matters.
    let this = exchange(1, &address(1), &address(2), 5);
    for other in [
        exchange(2, &address(1), &address(2), 5),
        exchange(1, &address(2), &address(1), 5),
        exchange(1, &address(1), &address(3), 5),
        exchange(1, &address(1), &address(2), 6),
    ] {
        assert_ne!(this, other);
    }
}

#[test]
fn answers_are_timed_once_and_remember_whom_was_asked() {
    let (mut slot, mut flow) = (RoceRequest::default(), RoceFlow::default());
    request(&mut slot, 9, 17, Order::Expected, 1000);
    answer(&mut slot, 8, &mut flow, 1100);
    assert_eq!(flow.answers_timed, 0, "another exchange's");
    answer(&mut slot, 9, &mut flow, 1500);
    answer(&mut slot, 9, &mut flow, 1900);
    request(&mut slot, 10, 17, Order::Gap(3), 2000);
    answer(&mut slot, 10, &mut flow, 2200);
    assert_eq!((flow.answers_timed, flow.answer_time_ns), (2, 700));
    assert_eq!((flow.answer_time_longest_ns, flow.answering_qp), (500, 17));
}

#[test]
fn what_was_sent_again_or_long_ago_is_not_timed() {
    let (mut slot, mut flow) = (RoceRequest::default(), RoceFlow::default());
    answer(&mut slot, 0, &mut flow, 50);
    request(&mut slot, 9, 17, Order::Expected, 1000);
    request(&mut slot, 9, 17, Order::Duplicate, 1200);
    answer(&mut slot, 9, &mut flow, 1300);
    request(&mut slot, 9, 17, Order::Expected, 1000);
    answer(&mut slot, 9, &mut flow, 30_000_000_000);
    // From another processor, whose clock is behind.
    request(&mut slot, 9, 17, Order::Expected, 1000);
    answer(&mut slot, 9, &mut flow, 900);
    assert_eq!(flow, RoceFlow::default());
    // A retransmission of one disturbs no other's time.
    request(&mut slot, 9, 17, Order::Expected, 1000);
    request(&mut slot, 10, 18, Order::Duplicate, 1100);
    answer(&mut slot, 9, &mut flow, 1200);
    assert_eq!(flow.answers_timed, 1);
}
