//! Sequences of PSNs: what is in order, repeated or missing.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// A PSN space's size.
const SPACE: u32 = 1 << 24;
/// The time of every packet where time does not matter.
const NOW: u64 = 1_000;

/// A request of one PSN.
fn request(psn: u32) -> RocePacket {
    read_request(psn, 0)
}

/// A READ of so many bytes.
fn read_request(psn: u32, length: u32) -> RocePacket {
    RocePacket {
        psn,
        read_length: length,
        sequenced: true,
        ..RocePacket::default()
    }
}

/// Follows a request as the programs do: afterwards the flow was last seen now.
fn follow_at(flow: &mut RoceFlow, request: &RocePacket, now: u64) -> Order {
    let order = track(flow, request, now);
    flow.last_seen_ns = now;
    order
}

fn follow(flow: &mut RoceFlow, psn: u32) -> Order {
    follow_at(flow, &request(psn), NOW)
}

/// Follows each PSN and returns where each stands.
fn follow_all(psns: &[u32]) -> (RoceFlow, Vec<Order>) {
    let mut flow = RoceFlow::default();
    let orders = psns.iter().map(|psn| follow(&mut flow, *psn)).collect();
    (flow, orders)
}

use Order::{Duplicate, Expected, Gap};

#[test]
fn each_stands_where_it_should() {
    for (what, psns, expected) in [
        (
            "the first is expected whatever it is",
            &[77][..],
            &[Expected][..],
        ),
        ("in order", &[5, 6, 7], &[Expected, Expected, Expected]),
        (
            "sent again",
            &[5, 6, 6, 7],
            &[Expected, Expected, Duplicate, Expected],
        ),
        ("one lost", &[5, 7, 8], &[Expected, Gap(1), Expected]),
        ("many lost", &[5, 105], &[Expected, Gap(99)]),
        (
            "go back and send all again",
            &[5, 7, 8, 6, 7, 8, 9],
            &[
                Expected,
                Gap(1),
                Expected,
                Duplicate,
                Duplicate,
                Duplicate,
                Expected,
            ],
        ),
        (
            "swapped on the way",
            &[5, 7, 6, 8],
            &[Expected, Gap(1), Duplicate, Expected],
        ),
        (
            "over the wrap",
            &[0xff_fffe, 0xff_ffff, 0, 1],
            &[Expected, Expected, Expected, Expected],
        ),
        ("lost over the wrap", &[0xff_fffe, 1], &[Expected, Gap(2)]),
        (
            "sent again over the wrap",
            &[0xff_ffff, 0, 0xff_ffff, 1],
            &[Expected, Expected, Duplicate, Expected],
        ),
    ] {
        let (flow, orders) = follow_all(psns);
        assert_eq!(orders, expected, "{what}");
        let missing = |order: &Order| match order {
            Gap(missing) => u64::from(*missing),
            _ => 0,
        };
        let count = |test: fn(&Order) -> bool| orders.iter().filter(|order| test(order)).count();
        assert_eq!(
            flow.missing,
            orders.iter().map(missing).sum::<u64>(),
            "{what}"
        );
        assert_eq!(
            flow.gaps,
            count(|order| matches!(order, Gap(_))) as u64,
            "{what}"
        );
        assert_eq!(
            flow.duplicates,
            count(|order| *order == Duplicate) as u64,
            "{what}"
        );
    }
}

#[test]
fn a_psn_far_off_is_another_connection() {
    for (psn, expected) in [
        (10 + PSN_WINDOW - 1, Gap(PSN_WINDOW - 1)),
        (10 + PSN_WINDOW, Expected),
        ((10 + SPACE - PSN_WINDOW + 1) % SPACE, Duplicate),
        ((10 + SPACE - PSN_WINDOW) % SPACE, Expected),
        // The farthest there is: neither ahead nor behind.
        (10 + SPACE / 2, Expected),
    ] {
        let (mut flow, _) = follow_all(&[9]);
        assert_eq!(flow.expected_psn, 10);
        assert_eq!(follow(&mut flow, psn), expected, "{psn:#x}");
        if expected == Expected {
            // Whose sequence is followed from there.
            assert_eq!((flow.gaps, flow.duplicates, flow.missing), (0, 0, 0));
            assert_eq!(follow(&mut flow, psn + 2), Gap(1));
        }
    }
}

#[test]
fn a_silent_flow_starts_anew() {
    for (silence, expected) in [(IDLE_NS, Gap(5)), (IDLE_NS + 1, Expected)] {
        let mut flow = RoceFlow::default();
        assert_eq!(follow_at(&mut flow, &request(1), NOW), Expected);
        assert_eq!(follow_at(&mut flow, &request(7), NOW + silence), expected);
        // In either case it is followed from there.
        assert_eq!(follow_at(&mut flow, &request(8), NOW + silence), Expected);
        assert_eq!(follow_at(&mut flow, &request(8), NOW + silence), Duplicate);
    }
    // A clock that another processor is a little ahead of is no silence.
    let mut flow = RoceFlow::default();
    follow_at(&mut flow, &request(1), NOW);
    assert_eq!(follow_at(&mut flow, &request(3), NOW - 1), Gap(1));
}

#[test]
fn a_read_takes_the_psns_of_its_responses() {
    for (mtu, length, taken) in [
        (1024, 0, 1),
        (1024, 1, 1),
        (1024, 1024, 1),
        (1024, 1025, 2),
        (1024, 65536, 64),
        (4096, 65536, 16),
        (256, 257, 2),
        // Fits every path MTU there is.
        (0, 0, 1),
        (0, 256, 1),
    ] {
        for start in [100, SPACE - 1] {
            let mut flow = RoceFlow {
                path_mtu: mtu,
                ..RoceFlow::default()
            };
            let read = read_request(start, length);
            assert_eq!(follow_at(&mut flow, &read, NOW), Expected);
            assert_eq!(
                flow.expected_psn,
                (start + taken) % SPACE,
                "{length} in {mtu}"
            );
            assert_eq!(flow.flags, RoceFlow::SYNCED);
            // Asked again, whole or from its middle.
            assert_eq!(follow_at(&mut flow, &read, NOW), Duplicate);
            let last = (start + taken - 1) % SPACE;
            assert_eq!(follow_at(&mut flow, &read_request(last, 1), NOW), Duplicate);
            assert_eq!(follow(&mut flow, (start + taken) % SPACE), Expected);
        }
    }
}

#[test]
fn a_long_read_of_unknown_span_guesses_nothing() {
    let mut flow = RoceFlow::default();
    assert_eq!(follow_at(&mut flow, &read_request(100, 257), NOW), Expected);
    // Wherever the next request is, it is neither repeated nor after a loss.
    for next in [101, 102, 50] {
        let mut flow = flow;
        assert_eq!(follow(&mut flow, next), Expected);
        assert_eq!(follow(&mut flow, next + 1), Expected);
        assert_eq!((flow.gaps, flow.duplicates, flow.missing), (0, 0, 0));
    }
    // A gap before the read is one all the same.
    let (mut flow, _) = follow_all(&[100]);
    assert_eq!(follow_at(&mut flow, &read_request(103, 257), NOW), Gap(2));
    assert_eq!(follow(&mut flow, 200), Expected);
}

/// One step of a sender, in a number space without wrap.
#[derive(Clone, Debug)]
enum Step {
    /// The next request, a READ of so many path MTUs if more than one.
    Next(u8),
    /// So many requests are lost on the way.
    Lose(u16),
    /// A request from so many numbers back comes again.
    Again(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1_u8..5).prop_map(Step::Next),
        1 => (1_u16..2000).prop_map(Step::Lose),
        2 => (1_u16..3000).prop_map(Step::Again),
    ];
    proptest::collection::vec(step, 1..200)
}

/// What an observer knows who writes down every number that passed or was
/// skipped.
struct Naive {
    known: BTreeSet<u64>,
    gaps: u64,
    duplicates: u64,
    missing: u64,
}

impl Naive {
    fn see(&mut self, first: u64, count: u64) -> Order {
        if self.known.contains(&first) {
            self.duplicates += 1;
            return Duplicate;
        }
        let skipped: Vec<u64> = match self.known.last() {
            Some(last) => (last + 1..first).collect(),
            None => vec![],
        };
        self.known.extend(&skipped);
        self.known.extend(first..first + count);
        if skipped.is_empty() {
            return Expected;
        }
        self.gaps += 1;
        self.missing += skipped.len() as u64;
        Gap(skipped.len() as u32)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn agrees_with_an_observer_who_remembers_everything(
        start in prop_oneof![0..SPACE, SPACE - 100..SPACE],
        steps in steps(),
    ) {
        const MTU: u32 = 1024;
        let mut flow = RoceFlow { path_mtu: MTU as u16, ..RoceFlow::default() };
        let mut naive = Naive { known: BTreeSet::new(), gaps: 0, duplicates: 0, missing: 0 };
        let mut next = u64::from(start);
        for step in &steps {
            let (number, count) = match step {
                Step::Next(count) => {
                    let number = next;
                    next += u64::from(*count);
                    (number, u64::from(*count))
                }
                Step::Lose(count) => {
                    next += u64::from(*count);
                    continue;
                }
                // Only what was there can come again.
                Step::Again(back) => match next.checked_sub((*back).into()) {
                    Some(number) if naive.known.contains(&number) => (number, 1),
                    _ => continue,
                },
            };
            let psn = (number % u64::from(SPACE)) as u32;
            let length = if count == 1 { 0 } else { count as u32 * MTU - 7 };
            let order = follow_at(&mut flow, &read_request(psn, length), NOW);
            prop_assert_eq!(order, naive.see(number, count));
        }
        prop_assert_eq!(
            (flow.gaps, flow.duplicates, flow.missing),
            (naive.gaps, naive.duplicates, naive.missing)
        );
    }

    #[test]
    fn any_state_and_any_request_keep_numbers_in_their_space(
        expected_psn: u32,
        path_mtu: u16,
        flags: u8,
        last_seen_ns: u64,
        psn in 0..SPACE,
        length: u32,
        now: u64,
    ) {
        let mut flow = RoceFlow { expected_psn, path_mtu, flags, last_seen_ns, ..RoceFlow::default() };
        let order = track(&mut flow, &read_request(psn, length), now);
        match order {
            Duplicate => prop_assert_eq!(flow.expected_psn, expected_psn),
            Expected | Gap(_) => prop_assert!(flow.expected_psn < SPACE),
        }
        prop_assert_eq!(flow.gaps, u64::from(matches!(order, Gap(_))));
        prop_assert_eq!(flow.duplicates, u64::from(order == Duplicate));
    }
}
