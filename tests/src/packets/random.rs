//! Packets that nobody meant: noise, and valid ones with something broken.

use proptest::{collection::vec, prelude::*, sample::Index};

use super::{
    Frame, QINQ, Roce, VLAN, aeth, cm, deth, icmp, reth, sctp, tcp, tcp_with_offset, udp,
    udp_claiming,
};

/// Any frame of at least an Ethernet header: noise, valid, or damaged.
pub fn frame() -> BoxedStrategy<Vec<u8>> {
    prop_oneof![
        1 => vec(any::<u8>(), 14..200),
        2 => valid(),
        5 => (valid(), vec(damage(), 1..4)).prop_map(|(frame, damages)| {
            damages.iter().fold(frame, |frame, damage| damage.apply(frame))
        }),
    ]
    .boxed()
}

/// A well-formed frame of any kind that the parsers know.
pub fn valid() -> BoxedStrategy<Vec<u8>> {
    let plain = (envelope(), transport())
        .prop_map(|(frame, (protocol, bytes))| frame.carry(protocol, &bytes));
    let roce = (envelope(), roce()).prop_map(|(frame, packet)| packet.v2(&frame));
    let v1 = roce_v1();
    prop_oneof![4 => plain, 4 => roce, 1 => v1].boxed()
}

/// What most machines send: TCP, UDP and SCTP in IPv4 or IPv6 with at most two
/// tags, without fragments and extension headers.
pub fn plain() -> BoxedStrategy<Vec<u8>> {
    let transport = (0_usize..3, any::<[u16; 2]>(), vec(any::<u8>(), 0..64)).prop_map(
        |(kind, [source, destination], payload)| match kind {
            0 => (6, tcp(source, destination, &payload)),
            1 => (17, udp(source, destination, &payload)),
            _ => (132, sctp(source, destination)),
        },
    );
    let tags = prop_oneof![Just(vec![]), Just(vec![VLAN]), Just(vec![QINQ, VLAN])];
    (
        any::<bool>(),
        tags,
        any::<u8>(),
        vec(any::<u8>(), 0..20),
        transport,
    )
        .prop_map(|(v6, tags, tos, padding, (protocol, bytes))| {
            if v6 { Frame::v6() } else { Frame::v4() }
                .tags(&tags)
                .tos(tos)
                .padding(&padding)
                .carry(protocol, &bytes)
        })
        .boxed()
}

fn roce_v1() -> impl Strategy<Value = Vec<u8>> {
    roce().prop_map(|packet| packet.v1())
}

/// Ethernet, tags and an IP header with options, fragments and extensions.
fn envelope() -> impl Strategy<Value = Frame> {
    let tags = vec(prop_oneof![Just(VLAN), Just(QINQ)], 0..4);
    let fragment = proptest::option::weighted(0.2, (0_u16..4, any::<bool>()));
    let extension = (
        prop_oneof![
            Just(0),
            Just(43),
            Just(51),
            Just(60),
            Just(135),
            Just(139),
            Just(140)
        ],
        0_u8..5,
    );
    (
        any::<bool>(),
        proptest::option::weighted(0.3, tags),
        any::<u8>(),
        0_u8..11,
        fragment,
        proptest::option::weighted(0.5, vec(extension, 0..8)),
        proptest::option::weighted(0.2, vec(any::<u8>(), 0..80)),
    )
        .prop_map(|(v6, tags, tos, options, fragment, extensions, padding)| {
            let mut frame = if v6 {
                Frame::v6()
            } else {
                Frame::v4().options(options)
            }
            .tags(&tags.unwrap_or_default())
            .tos(tos)
            .padding(&padding.unwrap_or_default());
            if let Some((units, more)) = fragment {
                frame = frame.fragment(units * 8, more);
            }
            for (number, length) in extensions.unwrap_or_default() {
                frame = frame.extension(number, length);
            }
            frame
        })
}

/// A protocol number with a header that fits it.
fn transport() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let payload = || vec(any::<u8>(), 0..64);
    prop_oneof![
        (any::<[u16; 2]>(), payload()).prop_map(|([s, d], p)| (6, tcp(s, d, &p))),
        (0_u8..16, payload()).prop_map(|(words, p)| (6, tcp_with_offset(80, 8080, words, &p))),
        (any::<[u16; 2]>(), payload()).prop_map(|([s, d], p)| (17, udp(s, d, &p))),
        (0_u16..80, payload()).prop_map(|(length, p)| (17, udp_claiming(1, 4791, length, &p))),
        any::<[u16; 2]>().prop_map(|[s, d]| (132, sctp(s, d))),
        (any::<[u8; 2]>(), payload()).prop_map(|([kind, code], p)| (1, icmp(kind, code, &p))),
        (any::<[u8; 2]>(), payload()).prop_map(|([kind, code], p)| (58, icmp(kind, code, &p))),
        (any::<u8>(), payload()),
    ]
}

/// A RoCE packet of any opcode, few queue pairs and PSNs, so that sequences
/// come about by chance.
pub fn roce() -> BoxedStrategy<Roce> {
    let anything = (any::<u8>(), vec(any::<u8>(), 0..64), 0_u8..4)
        .prop_map(|(opcode, rest, pad)| Roce::new(opcode).with(&rest).pad(pad));
    let requests = prop_oneof![
        prop_oneof![Just(0x00_u8), Just(0x01), Just(0x20), Just(0x21)].prop_flat_map(|opcode| {
            prop_oneof![Just(256), Just(512), Just(1024), Just(300)]
                .prop_map(move |size| Roce::new(opcode).payload(size))
        }),
        (0_usize..64).prop_map(|size| Roce::write(0, size)),
        prop_oneof![0_u32..600, any::<u32>()].prop_map(|length| Roce::read(0, length)),
        any::<u8>().prop_map(|syndrome| Roce::new(0x11).with(&aeth(syndrome))),
        Just(Roce::new(0xaa).with(&[0; 4]).with(&reth(0))),
        Just(Roce::new(0x64).with(&deth(9)).payload(32)),
        Just(Roce::cnp()),
    ];
    let management = (0x0f_u16..0x15, 0x10_u32..0x13)
        .prop_map(|(attribute, qp)| Roce::management(&cm(attribute, qp)));
    let sequence =
        prop_oneof![4 => 0_u32..12, 2 => 0xff_fff8_u32..=0xff_ffff, 1 => 0_u32..=0xff_ffff];
    prop_oneof![
        1 => (anything, 0x10_u32..0x13, sequence.clone()).prop_map(|(p, qp, psn)| p.qp(qp).psn(psn)),
        3 => (requests, 0x10_u32..0x13, sequence).prop_map(|(p, qp, psn)| p.qp(qp).psn(psn)),
        1 => management,
    ]
    .boxed()
}

/// One thing that goes wrong with a packet.
#[derive(Clone, Debug)]
enum Damage {
    Overwrite(Index, u8),
    Flip(Index, u8),
    Cut(Index),
    Append(Vec<u8>),
    Insert(Index, u8),
    Remove(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        3 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Overwrite(at, byte)),
        3 => (any::<Index>(), 0_u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        2 => any::<Index>().prop_map(Damage::Cut),
        1 => vec(any::<u8>(), 1..40).prop_map(Damage::Append),
        1 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        1 => any::<Index>().prop_map(Damage::Remove),
    ]
}

impl Damage {
    /// Headers are where it hurts: only the first bytes are touched.
    const REACH: usize = 120;

    fn apply(&self, mut frame: Vec<u8>) -> Vec<u8> {
        let reach = frame.len().min(Self::REACH);
        match self {
            _ if reach == 0 => {}
            Self::Overwrite(at, byte) => frame[at.index(reach)] = *byte,
            Self::Flip(at, bit) => frame[at.index(reach)] ^= 1 << bit,
            Self::Cut(at) => frame.truncate(at.index(reach)),
            Self::Append(bytes) => frame.extend(bytes),
            Self::Insert(at, byte) => frame.insert(at.index(reach), *byte),
            Self::Remove(at) => drop(frame.remove(at.index(reach))),
        }
        frame
    }
}
