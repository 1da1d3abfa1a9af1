//! The programs in the kernel count and judge each frame as the library that they are made of reads
//! it on this machine. Run by BPF_PROG_TEST_RUN.

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, HashMap, LpmTrie, lpm_trie::Key};
use dataplane_ebpf::{
    abi::{Address, Direction, UPLINK_BIT, UplinkConfig, UplinkCounter},
    roce::{Kind, timing},
};
use proptest::{
    collection::vec,
    test_runner::{Config, TestCaseError, TestRunner},
};
use sluice_tests::{
    counters::{Counters, roce_flows},
    harness::{ENDPOINT, Programs, UPLINK, runs_at_tc},
    model::{Model, TC_NEXT, TC_REDIRECT},
    netns::TestNetns,
    packets::{
        Frame, QINQ, Roce, VLAN, aeth, icmp, neighbor_message, random, refused, sctp, tcp, udp,
    },
};

/// Prefixes that the uplink stops here; the frames come from 10.0.0.1 and fd00::1, their answers
/// from the next address.
const BLOCKED: [&str; 2] = ["10.0.0.2/32", "fd00::2/127"];

/// The programs, with an uplink whose block list is in use.
fn load() -> Result<Programs> {
    let mut programs = Programs::load()?;
    let config = [1, UplinkConfig::BLOCK_LIST, 0, 0];
    Array::<_, [u32; 4]>::try_from(programs.map("uplinks")?)?.set(UPLINK, config, 0)?;
    let mut list = LpmTrie::<_, [u8; 16], [u64; 2]>::try_from(programs.map("block_list")?)?;
    for prefix in BLOCKED {
        let prefix: ipnet::IpNet = prefix.parse()?;
        let mapped = if prefix.addr().is_ipv4() { 96 } else { 0 };
        let address = Address::from(prefix.network()).octets();
        let length = mapped + u32::from(prefix.prefix_len());
        list.insert(&Key::new(length, address), [0, 0], 0)?;
    }
    Ok(programs)
}

fn model() -> Result<Model> {
    let mut model = Model::default();
    for prefix in BLOCKED {
        model.blocked.push(prefix.parse()?);
    }
    Ok(model)
}

/// Runs the frames through all programs and holds verdicts and counters against the model's.
fn agree(programs: &mut Programs, frames: &[Vec<u8>]) -> Result<()> {
    Counters::clear(programs)?;
    let mut model = model()?;
    let run = |program: &str, frame: &[u8], expected: i32| -> Result<()> {
        let verdict = programs.run(program, frame)?;
        ensure!(
            verdict == expected,
            "{program}: verdict {verdict}, not {expected}, on {frame:02x?}"
        );
        Ok(())
    };
    for frame in frames.iter().filter(|frame| frame.len() >= 14) {
        run("uplink_xdp", frame, model.uplink(frame))?;
        if runs_at_tc(frame) {
            for (program, direction) in [
                ("entry_ingress", Direction::Ingress),
                ("entry_egress", Direction::Egress),
            ] {
                run(program, frame, model.endpoint(direction, frame))?;
            }
        }
    }
    let counted = Counters::read(programs)?;
    ensure!(
        counted == model.counters,
        "counted {counted:#?}\nexpected {:#?}\nof {frames:02x?}",
        model.counters
    );
    for (key, mut flow) in roce_flows(programs)? {
        let expected = model.flows.remove(&key);
        flow.last_seen_ns = 0;
        // Of times only that they are there, since they are what they are.
        flow.answers_timed = 0;
        flow.answer_time_ns = 0;
        flow.answer_time_longest_ns = 0;
        flow.answering_qp = 0;
        ensure!(
            expected == Some(flow),
            "{key:?}: {flow:?}, not {expected:?}, of {frames:02x?}"
        );
    }
    ensure!(model.flows.is_empty(), "not followed: {:?}", model.flows);
    Ok(())
}

/// Agreement on each frame by itself, so that a failure names one, and on all as a sequence.
fn agree_on_each(frames: &[Vec<u8>]) -> Result<()> {
    let mut programs = load()?;
    for frame in frames {
        agree(&mut programs, std::slice::from_ref(frame))?;
    }
    agree(&mut programs, frames)
}

#[test]
fn on_everything_that_is_refused() -> Result<()> {
    let mut programs = load()?;
    let mut ran = 0;
    for (what, frame, reason) in refused() {
        if !runs_at_tc(&frame) {
            continue;
        }
        agree(&mut programs, &[frame])?;
        // Not only do both agree: the reason is the one that was meant.
        let counted = Counters::read(&mut programs)?;
        for ((_, direction, found), count) in &counted.drops {
            ensure!(
                found.name() == reason && count.packets == 1,
                "{what}, {direction:?}: {found:?}"
            );
            ran += 1;
        }
    }
    ensure!(ran > 100, "only {ran} drops");
    Ok(())
}

/// Every frame in which a RoCE packet can come.
fn envelopes() -> Vec<Frame> {
    let tagged =
        |frame: Frame| [&[][..], &[VLAN], &[QINQ, VLAN]].map(|tags| frame.clone().tags(tags));
    [
        Frame::v4(),
        Frame::v4().options(10),
        Frame::v4().tos(3),
        Frame::v4().reversed(),
        Frame::v6(),
        Frame::v6().tos(3).extension(0, 0).extension(60, 3),
        Frame::v6().reversed(),
    ]
    .into_iter()
    .flat_map(tagged)
    .collect()
}

#[test]
fn on_every_roce_opcode() -> Result<()> {
    let mut frames = Vec::new();
    for opcode in 0..=255 {
        // One length fits some opcodes' headers and cuts others'.
        for packet in [
            Roce::new(opcode).psn(u32::from(opcode)).payload(300),
            Roce::new(opcode).payload(9),
        ] {
            frames.push(packet.v1());
            frames.extend(envelopes().iter().map(|frame| packet.v2(frame)));
        }
    }
    agree(&mut load()?, &frames)
}

#[test]
fn on_every_acknowledgement() -> Result<()> {
    let mut frames = Vec::new();
    for syndrome in 0..=255 {
        for opcode in [0x0d, 0x0f, 0x10, 0x11, 0x12, 0xb1] {
            let packet = Roce::new(opcode).with(&aeth(syndrome)).payload(16);
            frames.extend([
                packet.v1(),
                packet.v2(&Frame::v4()),
                packet.v2(&Frame::v6()),
            ]);
        }
    }
    agree(&mut load()?, &frames)
}

/// A pod's request and its answer, one PSN after another, in both directions.
#[test]
fn requests_of_one_psn_in_some_are_timed_until_their_answer() -> Result<()> {
    const PSNS: u32 = 2000;
    let timed = (0..PSNS).filter(|psn| timing::is_timed(*psn)).count() as u64;
    ensure!(timed > 30, "{timed}");
    for (requests, answers) in [
        ("entry_egress", "entry_ingress"),
        ("entry_ingress", "entry_egress"),
    ] {
        let mut programs = load()?;
        for psn in 0..PSNS {
            let request = Roce::write(psn, 64).qp(17).v2(&Frame::v4());
            let answer = Roce::new(0x11).psn(psn).qp(18).with(&aeth(0x1f));
            let answer = answer.v2(&Frame::v4().reversed());
            for (program, frame) in [(requests, &request), (answers, &answer), (answers, &answer)] {
                ensure!(programs.run(program, frame)? == TC_NEXT);
            }
        }
        let flows = roce_flows(&mut programs)?;
        let to = |qp| {
            let found = flows.iter().find(|(key, _)| key.destination_qp == qp);
            found.map(|(_, flow)| flow).context("no flow")
        };
        let (request, answer) = (to(17)?, to(18)?);
        ensure!(request.answers_timed == 0 && answer.answers_timed == timed);
        ensure!(answer.answering_qp == 17, "{answer:?}");
        let mean = answer.answer_time_ns / timed;
        ensure!(
            mean > 0 && mean <= answer.answer_time_longest_ns,
            "{answer:?}"
        );
        ensure!(answer.operations[Kind::Ack as usize] == u64::from(2 * PSNS));
    }
    Ok(())
}

#[test]
fn on_packets_cut_at_every_length() -> Result<()> {
    let target = "fd00::2".parse()?;
    let whole = [
        Frame::v4().options(3).carry(6, &tcp(1, 2, &[1; 9])),
        Frame::v6()
            .extension(0, 2)
            .fragment(0, false)
            .carry(17, &udp(1, 2, &[1; 9])),
        Frame::v4().tags(&[QINQ, VLAN]).carry(132, &sctp(1, 2)),
        Frame::v6()
            .tags(&[VLAN])
            .carry(58, &neighbor_message(135, target)),
        Frame::v4().fragment(16, true).carry(1, &icmp(8, 0, &[])),
        Frame::ethernet(0x0806).carry(0, &[1; 28]),
        Roce::write(5, 32).v1(),
        Roce::write(5, 32).v2(&Frame::v4()),
        Roce::read(5, 4096).v2(&Frame::v6().tags(&[VLAN])),
        Roce::cnp().v2(&Frame::v4()),
    ];
    let frames: Vec<_> = whole
        .iter()
        .flat_map(|frame| (0..=frame.len()).map(|length| frame[..length].to_vec()))
        .collect();
    agree_on_each(&frames)
}

#[test]
fn on_random_packets() -> Result<()> {
    let programs = RefCell::new(load()?);
    // No file of regressions: the frames are random, their number is what makes the test.
    let config = Config {
        cases: 400,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config).run(&vec(random::frame(), 1..40), |frames| {
        agree(&mut programs.borrow_mut(), &frames)
            .map_err(|error| TestCaseError::fail(format!("{error:#}")))
    })?;
    Ok(())
}

/// The node's address on its uplink, a macvlan pod's, an ipvlan pod's (which has the node's MAC
/// address), and one of another machine.
const NODE: ([u8; 6], &str) = ([2, 0, 0, 0, 1, 0], "10.0.0.10");
const MACVLAN: ([u8; 6], &str) = ([2, 0, 0, 0, 1, 1], "10.0.0.11");
const IPVLAN: ([u8; 6], &str) = (NODE.0, "10.0.0.12");
const ELSEWHERE: ([u8; 6], &str) = ([2, 0, 0, 0, 1, 9], "10.0.0.99");

/// The uplink's programs, which know node and pods.
fn load_host_reach(ifindex: u32) -> Result<Programs> {
    let mut programs = Programs::load()?;
    let [a, b, c, d, e, f] = NODE.0;
    let config = [
        ifindex,
        UplinkConfig::HOST_REACH,
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, 0, 0]),
    ];
    Array::<_, [u32; 4]>::try_from(programs.map("uplinks")?)?.set(UPLINK, config, 0)?;
    let mut key = [0; 12];
    key[..4].copy_from_slice(&UPLINK.to_ne_bytes());
    key[4..10].copy_from_slice(&MACVLAN.0);
    HashMap::<_, [u8; 12], u32>::try_from(programs.map("local_macs")?)?.insert(key, ENDPOINT, 0)?;
    let mut owners = HashMap::<_, [u8; 20], u32>::try_from(programs.map("local_addrs")?)?;
    for ((_, address), owner) in [
        (NODE, UPLINK_BIT | UPLINK),
        (MACVLAN, ENDPOINT),
        (IPVLAN, ENDPOINT + 1),
    ] {
        let mut key = [0; 20];
        key[..16].copy_from_slice(&Address::from(address.parse::<IpAddr>()?).octets());
        key[16..].copy_from_slice(&UPLINK.to_ne_bytes());
        owners.insert(key, owner, 0)?;
    }
    Ok(programs)
}

#[test]
fn only_frames_between_the_node_and_its_pods_turn_around() -> Result<()> {
    use UplinkCounter::{NodeToPod, PodToNode};
    // A namespace of its own, whose loopback interface gets what is turned around.
    let netns = TestNetns::new()?;
    let mut programs = load_host_reach(1)?;
    for (from, to, expected) in [
        (NODE, MACVLAN, Some(NodeToPod)),
        (MACVLAN, NODE, Some(PodToNode)),
        (NODE, IPVLAN, Some(NodeToPod)),
        (IPVLAN, NODE, Some(PodToNode)),
        (NODE, ELSEWHERE, None),
        (MACVLAN, ELSEWHERE, None),
        (IPVLAN, ELSEWHERE, None),
        (ELSEWHERE, NODE, None),
        (ELSEWHERE, MACVLAN, None),
        (MACVLAN, MACVLAN, None),
    ] {
        Counters::clear(&mut programs)?;
        let frame = Frame::between(from.1.parse()?, to.1.parse()?).macs(from.0, to.0);
        let frame = frame.carry(17, &udp(1, 2, &[]));
        let verdict = netns.enter(|| programs.run("uplink_egress", &frame))??;
        let counted = Counters::read(&mut programs)?;
        let what = format!("{} to {}: verdict {verdict}, {counted:?}", from.1, to.1);
        match expected {
            Some(counter) => {
                ensure!(verdict == TC_REDIRECT, "{what}");
                ensure!(counted.uplink.keys().eq([&counter]), "{what}");
            }
            None => ensure!(verdict == TC_NEXT && counted.uplink.is_empty(), "{what}"),
        }
    }
    Ok(())
}

#[test]
fn neighbour_frames_are_copied_where_the_other_side_is_asked_for() -> Result<()> {
    let netns = TestNetns::new()?;
    let mut programs = load_host_reach(1)?;
    let nobody = ([0; 6], "0.0.0.0");
    for (from, asked, copied) in [
        (NODE, MACVLAN, true),
        (NODE, IPVLAN, true),
        (MACVLAN, NODE, true),
        (IPVLAN, NODE, true),
        // Announcements are for the other side to hear.
        (NODE, NODE, true),
        (MACVLAN, MACVLAN, true),
        // What is elsewhere is asked for on the wire.
        (NODE, ELSEWHERE, false),
        (MACVLAN, ELSEWHERE, false),
        (ELSEWHERE, NODE, false),
    ] {
        Counters::clear(&mut programs)?;
        let frame = arp(from, asked.1)?;
        let verdict = netns.enter(|| programs.run("uplink_egress", &frame))??;
        let counted = Counters::read(&mut programs)?;
        let what = format!("{} asks for {}: {counted:?}", from.1, asked.1);
        // The original goes out in any case.
        ensure!(verdict == TC_NEXT, "{what}: verdict {verdict}");
        let copies = counted.uplink.get(&UplinkCounter::NeighborCopied);
        ensure!(
            copies.is_some() == copied && counted.faults.is_empty(),
            "{what}"
        );
    }
    // Probes for duplicates (RFC 5227), by whose MAC they come from: one for the node's address
    // must reach the node.
    for (mac, asked, copied) in [
        (MACVLAN.0, NODE.1, true),
        (MACVLAN.0, MACVLAN.1, false),
        (NODE.0, MACVLAN.1, true),
        (NODE.0, NODE.1, false),
    ] {
        Counters::clear(&mut programs)?;
        let frame = arp((mac, nobody.1), asked)?;
        netns.enter(|| programs.run("uplink_egress", &frame))??;
        let counted = Counters::read(&mut programs)?;
        let copies = counted.uplink.contains_key(&UplinkCounter::NeighborCopied);
        ensure!(
            copies == copied,
            "{mac:02x?} probes for {asked}: {counted:?}"
        );
    }
    Ok(())
}

/// A request for an address (RFC 826), to all.
fn arp(from: ([u8; 6], &str), asked: &str) -> Result<Vec<u8>> {
    let mut request = vec![0, 1, 8, 0, 6, 4, 0, 1];
    request.extend(from.0);
    request.extend(from.1.parse::<Ipv4Addr>()?.octets());
    request.extend([0; 6]);
    request.extend(asked.parse::<Ipv4Addr>()?.octets());
    let frame = Frame::ethernet(0x0806).macs(from.0, [0xff; 6]);
    Ok(frame.carry(0, &request))
}
