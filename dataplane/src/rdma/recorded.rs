//! The decoders held against answers of a real kernel: Linux 7.3.4 with a soft-RoCE device on a
//! veth, one `ib_read_bw` reading from another and an `rping` server, recorded by
//! `cargo run -p dataplane --example rdma_record FOLDER` in a lab machine. What is expected is what
//! iproute2's `rdma` printed beside it. What soft-RoCE does not have, counter sets and counters that
//! can be switched, is put together by hand from the uapi header, and named so.

use proptest::prelude::*;

use std::cell::RefCell;

use super::{counter, resource::decode_all, *};
use crate::netlink::decode::{Malformed, messages};

/// The names and bytes of all recordings.
macro_rules! recordings {
    ($($name:literal)*) => {
        &[$(($name, include_bytes!(concat!("recorded/", $name)))),*]
    };
}

const ALL: &[(&str, &[u8])] = recordings![
    "cm_ids" "completion_queues" "counter_mode" "counter_sets" "devices" "memory_regions" "mode"
    "optional_counters" "port_counters" "ports" "protection_domains" "queue_pairs" "rdma_cm"
    "resources" "umad" "uverbs"
];

/// The bodies of the messages of a recording, without its end.
fn bodies(name: &str) -> Vec<&'static [u8]> {
    let (_, datagram) = ALL.iter().find(|(other, _)| *other == name).unwrap();
    messages(datagram)
        .map(Result::unwrap)
        .filter(|message| message.kind >> 10 == 5)
        .map(|message| message.body)
        .collect()
}

fn one<T>(name: &str, decode: impl Fn(&[u8]) -> Result<T, Malformed>) -> T {
    let bodies = bodies(name);
    assert_eq!(bodies.len(), 1, "{name}");
    decode(bodies[0]).unwrap()
}

#[test]
fn devices_and_ports_recorded() {
    let device = one("devices", RdmaDevice::decode);
    assert_eq!(
        (device.index, device.name.as_str(), device.ports),
        (0, "rxe0", 1)
    );
    assert_eq!(device.protocol.as_deref(), Some("roce"));
    assert_ne!(device.node_guid, Guid(0));
    assert_eq!(device.node_guid, device.system_guid);
    let port = one("ports", RdmaPort::decode);
    assert_eq!((port.device, port.port, port.lid), (0, 1, None));
    assert_eq!(
        (port.state, port.physical),
        (PortState::Active, PhysicalState::LinkUp)
    );
    assert_eq!(port.netdev.map(|netdev| netdev.name).unwrap(), "veth0");
    assert_eq!(one("mode", NetnsMode::decode), NetnsMode::Shared);
}

#[test]
fn resources_recorded() {
    let counts = one("resources", resource::decode_summary);
    let count = |kind: &str| {
        let found = counts.iter().find(|count| count.kind == kind);
        found.map(|count| count.current)
    };
    for (kind, expected) in [("pd", 4), ("cq", 3), ("qp", 3), ("cm_id", 1), ("mr", 2)] {
        assert_eq!(count(kind), Some(expected), "{counts:?}");
    }

    let pairs = one("queue_pairs", decode_all::<QueuePair>);
    let seen: Vec<_> = pairs
        .iter()
        .map(|pair| (pair.number, pair.remote, pair.kind, pair.state))
        .collect();
    assert_eq!(
        seen,
        [
            (17, Some(18), QpType::Rc, QpState::ReadyToReceive),
            (18, Some(17), QpType::Rc, QpState::ReadyToSend),
            (1, None, QpType::Gsi, QpState::ReadyToSend),
        ]
    );
    // `rdma` was asked a moment earlier, under traffic.
    let received = pairs[0].receive_psn.unwrap() - 2_190_212;
    assert!(received < 20_000, "{received}");
    assert_eq!(pairs[0].send_psn, Some(0));
    assert_eq!((pairs[0].port, pairs[0].domain), (Some(1), Some(2)));
    assert_eq!(pairs[1].owner, Owner::Process(150));
    assert_eq!(pairs[2].owner, Owner::Kernel("ib_core".into()));

    let ids = one("cm_ids", decode_all::<CmId>);
    assert_eq!(ids.len(), 1);
    assert_eq!((ids[0].id, ids[0].port_space), (Some(0), 0x106));
    assert_eq!(ids[0].source, Some("10.78.0.1:7174".parse().unwrap()));
    assert_eq!(ids[0].destination, Some("0.0.0.0:0".parse().unwrap()));
    assert_eq!(ids[0].owner, Owner::Process(146));

    let regions = one("memory_regions", decode_all::<MemoryRegion>);
    let lengths: Vec<_> = regions.iter().map(|region| region.length).collect();
    assert_eq!(lengths, [131_072, 131_072]);
    assert_eq!(regions[0].owner, Owner::Process(148));

    let queues = one("completion_queues", decode_all::<CompletionQueue>);
    assert_eq!((queues.len(), queues[0].capacity), (3, 1023));
    assert_eq!(queues[0].users, 2);
    assert_eq!(
        one("protection_domains", decode_all::<ProtectionDomain>).len(),
        4
    );
}

#[test]
fn counters_recorded() {
    let shared = RefCell::default();
    let counters = one("port_counters", |body| {
        counter::decode_port_counters(&shared, body)
    });
    let names: Vec<_> = counters.iter().map(|counter| &*counter.name).collect();
    assert_eq!(names.len(), 17);
    assert_eq!(names[..3], ["sent_pkts", "rcvd_pkts", "duplicate_request"]);
    let value = |name: &str| {
        counters
            .iter()
            .find(|counter| &*counter.name == name)
            .unwrap()
            .value
    };
    // `rdma statistic` was asked a moment earlier, under traffic.
    assert!(value("sent_pkts") >= 25_037 && value("sent_bytes") >= 26_351_496);
    assert_eq!(value("link_downed"), 1);
    assert_eq!(one("counter_mode", CounterMode::decode), CounterMode::Off);
    assert!(bodies("counter_sets").is_empty());
    assert!(one("optional_counters", counter::decode_optional).is_empty());
}

#[test]
fn character_devices_recorded() {
    for (name, expected) in [
        ("uverbs", ("uverbs0", 231, 192)),
        ("umad", ("umad0", 231, 0)),
        ("rdma_cm", ("rdma_cm", 10, 260)),
    ] {
        let found = one(name, CharDevice::decode);
        assert_eq!((found.name.as_str(), found.major, found.minor), expected);
        let driver = (name == "uverbs").then_some(Driver::Rxe);
        assert_eq!(found.driver, driver, "{name}");
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn word(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_ne_bytes())
}

#[test]
fn counter_sets_in_handmade_bytes() {
    let counter = [
        attribute(82, b"rx_write_requests\0"),
        attribute(83, &7_u64.to_ne_bytes()),
    ]
    .concat();
    let pairs: Vec<u8> = [40, 41]
        .iter()
        .flat_map(|&number| attribute(20, &word(21, number)))
        .collect();
    let set = [
        word(3, 1),
        word(79, 5),
        word(28, 4711),
        attribute(19, &pairs),
        attribute(80, &attribute(81, &counter)),
        attribute(9999, b"of a newer kernel"),
    ]
    .concat();
    let body = [
        word(1, 0),
        attribute(2, b"mlx5_0\0"),
        attribute(77, &attribute(78, &set).repeat(2)),
    ]
    .concat();
    let expected = CounterSet {
        port: 1,
        id: 5,
        process: Some(4711),
        queue_pairs: vec![40, 41],
        counters: vec![HwCounter {
            name: "rx_write_requests".into(),
            value: 7,
        }],
    };
    let names = RefCell::default();
    let decode = |body: &[u8]| CounterSet::decode_all(&names, body).unwrap();
    assert_eq!(decode(&body), [expected.clone(), expected.clone()]);
    // Names are those of this answer, whatever the one before had there.
    let mut other = body;
    for place in 0..other.len() {
        if other[place..].starts_with(b"rx_write_requests") {
            other[place + 3..][..5].copy_from_slice(b"other");
        }
    }
    for (body, name) in [(&other, "rx_other_requests"), (&other, "rx_other_requests")] {
        let sets = decode(body);
        assert!(sets.iter().all(|set| &*set.counters[0].name == name));
    }
    let auto = [word(74, 1), word(76, 2)].concat();
    assert_eq!(
        CounterMode::decode(&auto).unwrap(),
        CounterMode::Auto {
            by_type: false,
            by_process: true
        }
    );
}

#[test]
fn optional_counters_in_handmade_bytes() {
    let entry = |name: &[u8], index, enabled: Option<u8>| {
        let mut entry = [attribute(82, name), word(94, index)].concat();
        entry.extend(enabled.into_iter().flat_map(|flag| attribute(95, &[flag])));
        attribute(81, &entry)
    };
    let list = [
        entry(b"out_of_sequence\0", 3, None),
        entry(b"cc_rx_ce_pkts\0", 20, Some(0)),
        entry(b"cc_tx_cnp_pkts\0", 22, Some(1)),
    ]
    .concat();
    let found = counter::decode_optional(&attribute(80, &list)).unwrap();
    let seen: Vec<_> = found
        .iter()
        .map(|counter| (counter.index, counter.name.as_str(), counter.enabled))
        .collect();
    assert_eq!(
        seen,
        [(20, "cc_rx_ce_pkts", false), (22, "cc_tx_cnp_pkts", true)]
    );
}

#[test]
fn what_is_missing_or_of_another_size_is_malformed() {
    let name = attribute(2, b"a\0");
    let complete = [word(1, 0), name.clone(), word(3, 1), word(12, 0)].concat();
    assert_eq!(
        RdmaPort::decode(&complete),
        Err(Malformed),
        "state in four bytes"
    );
    assert_eq!(NetnsMode::decode(&[]), Err(Malformed));
    assert_eq!(NetnsMode::decode(&attribute(66, &[2])), Err(Malformed));
    let path = [
        attribute(70, b"../sda\0"),
        attribute(72, &[0; 8]),
        attribute(71, &[0; 8]),
    ]
    .concat();
    assert_eq!(CharDevice::decode(&path), Err(Malformed));
    for text in [&b"no end"[..], b"", b"two\0ends\0"] {
        let device = [word(1, 0), attribute(2, text)].concat();
        assert_eq!(RdmaDevice::decode(&device), Err(Malformed), "{text:?}");
    }
}

#[test]
fn guids_as_text_and_back() {
    let guid = Guid(0x0c42_a103_0065_1234);
    let json = serde_json::to_string(&guid).unwrap();
    assert_eq!(json, "\"0c42:a103:0065:1234\"");
    assert_eq!(serde_json::from_str::<Guid>(&json).unwrap(), guid);
    assert!(serde_json::from_str::<Guid>("\"0c42\"").is_err());
    for state in [PortState::Active, PortState::Other(9)] {
        let json = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<PortState>(&json).unwrap(), state);
    }
}

proptest! {
    /// Any change to a real answer is read or refused.
    #[test]
    fn changed_recordings_do_not_panic(
        recording in prop::sample::select(ALL),
        cut in 0..700_usize,
        changes in prop::collection::vec((0..700_usize, any::<u8>()), 0..8),
    ) {
        let mut bytes = recording.1.to_vec();
        bytes.truncate(bytes.len().saturating_sub(cut));
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        exercise_decoders(&bytes);
    }

    #[test]
    fn no_bytes_can_make_them_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        exercise_decoders(&bytes);
    }

    /// Attributes that nobody knows change nothing.
    #[test]
    fn unknown_attributes_are_passed_over(
        kind in 119..0x3fff_u16,
        value in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        for (name, _) in ALL {
            for body in bodies(name) {
                let longer = [body, &attribute(kind, &value)].concat();
                prop_assert_eq!(RdmaDevice::decode(body), RdmaDevice::decode(&longer));
                prop_assert_eq!(RdmaPort::decode(body), RdmaPort::decode(&longer));
                prop_assert_eq!(
                    decode_all::<QueuePair>(body),
                    decode_all::<QueuePair>(&longer)
                );
            }
        }
    }
}

/// What the fuzzer found worth keeping.
#[test]
fn no_file_of_the_corpus_makes_them_panic() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/rdma");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        if std::panic::catch_unwind(|| exercise_decoders(&bytes)).is_err() {
            panic!("{} makes a decoder panic", path.display());
        }
        count += 1;
    }
    assert!(count > 0, "no corpus in {folder}");
}
