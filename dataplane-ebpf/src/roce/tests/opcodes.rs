//! Every opcode, against the specification's table.

use super::*;
use crate::packets::{Frame, Roce};

use Kind::*;

/// One opcode: its number, what it is counted as, and the extended headers that
/// table 38 gives it.
type Row = (u8, Kind, &'static str);

/// Reliable connection.
const RC: &[Row] = &[
    (0x00, Send, ""),
    (0x01, Send, ""),
    (0x02, Send, ""),
    (0x03, Send, "ImmDt"),
    (0x04, Send, ""),
    (0x05, Send, "ImmDt"),
    (0x06, Write, "RETH"),
    (0x07, Write, ""),
    (0x08, Write, ""),
    (0x09, Write, "ImmDt"),
    (0x0a, Write, "RETH"),
    (0x0b, Write, "RETH ImmDt"),
    (0x0c, ReadRequest, "RETH"),
    (0x0d, ReadResponse, "AETH"),
    (0x0e, ReadResponse, ""),
    (0x0f, ReadResponse, "AETH"),
    (0x10, ReadResponse, "AETH"),
    (0x11, Ack, "AETH"),
    (0x12, AtomicAck, "AETH AtomicAckETH"),
    (0x13, Atomic, "AtomicETH"),
    (0x14, Atomic, "AtomicETH"),
    (0x16, Send, "IETH"),
    (0x17, Send, "IETH"),
    // Memory placement extensions (annex A19).
    (0x1c, Flush, "FETH RETH"),
    (0x1d, AtomicWrite, "RETH"),
];

/// Unreliable connection.
const UC: &[Row] = &[
    (0x20, Send, ""),
    (0x21, Send, ""),
    (0x22, Send, ""),
    (0x23, Send, "ImmDt"),
    (0x24, Send, ""),
    (0x25, Send, "ImmDt"),
    (0x26, Write, "RETH"),
    (0x27, Write, ""),
    (0x28, Write, ""),
    (0x29, Write, "ImmDt"),
    (0x2a, Write, "RETH"),
    (0x2b, Write, "RETH ImmDt"),
];

/// Reliable datagram. (0x55, RESYNC, belongs to no work request: no operation
/// of ours.)
const RD: &[Row] = &[
    (0x40, Send, "RDETH DETH"),
    (0x41, Send, "RDETH DETH"),
    (0x42, Send, "RDETH DETH"),
    (0x43, Send, "RDETH DETH ImmDt"),
    (0x44, Send, "RDETH DETH"),
    (0x45, Send, "RDETH DETH ImmDt"),
    (0x46, Write, "RDETH DETH RETH"),
    (0x47, Write, "RDETH DETH"),
    (0x48, Write, "RDETH DETH"),
    (0x49, Write, "RDETH DETH ImmDt"),
    (0x4a, Write, "RDETH DETH RETH"),
    (0x4b, Write, "RDETH DETH RETH ImmDt"),
    (0x4c, ReadRequest, "RDETH DETH RETH"),
    (0x4d, ReadResponse, "RDETH AETH"),
    (0x4e, ReadResponse, "RDETH"),
    (0x4f, ReadResponse, "RDETH AETH"),
    (0x50, ReadResponse, "RDETH AETH"),
    (0x51, Ack, "RDETH AETH"),
    (0x52, AtomicAck, "RDETH AETH AtomicAckETH"),
    (0x53, Atomic, "RDETH DETH AtomicETH"),
    (0x54, Atomic, "RDETH DETH AtomicETH"),
];

/// Unreliable datagram.
const UD: &[Row] = &[(0x64, Send, "DETH"), (0x65, Send, "DETH ImmDt")];

/// Congestion notification (annex A17): 16 reserved bytes.
const CNP: &[Row] = &[(0x81, Cnp, "reserved")];

/// Extended reliable connection (annex A14).
const XRC: &[Row] = &[
    (0xa0, Send, "XRCETH"),
    (0xa1, Send, "XRCETH"),
    (0xa2, Send, "XRCETH"),
    (0xa3, Send, "XRCETH ImmDt"),
    (0xa4, Send, "XRCETH"),
    (0xa5, Send, "XRCETH ImmDt"),
    (0xa6, Write, "XRCETH RETH"),
    (0xa7, Write, "XRCETH"),
    (0xa8, Write, "XRCETH"),
    (0xa9, Write, "XRCETH ImmDt"),
    (0xaa, Write, "XRCETH RETH"),
    (0xab, Write, "XRCETH RETH ImmDt"),
    (0xac, ReadRequest, "XRCETH RETH"),
    (0xad, ReadResponse, "AETH"),
    (0xae, ReadResponse, ""),
    (0xaf, ReadResponse, "AETH"),
    (0xb0, ReadResponse, "AETH"),
    (0xb1, Ack, "AETH"),
    (0xb2, AtomicAck, "AETH AtomicAckETH"),
    (0xb3, Atomic, "XRCETH AtomicETH"),
    (0xb4, Atomic, "XRCETH AtomicETH"),
    (0xb6, Send, "XRCETH IETH"),
    (0xb7, Send, "XRCETH IETH"),
];

/// Bytes of an extended header (sections 9.3 and 9.4, annexes A14, A17, A19).
fn length_of(header: &str) -> usize {
    match header {
        "ImmDt" | "AETH" | "IETH" | "RDETH" | "XRCETH" | "FETH" => 4,
        "DETH" | "AtomicAckETH" => 8,
        "RETH" | "reserved" => 16,
        "AtomicETH" => 28,
        other => panic!("no such header: {other}"),
    }
}

/// The opcode's row, or what is said of one that has none.
fn expected(opcode: u8) -> (Kind, usize) {
    let rows = [RC, UC, RD, UD, CNP, XRC].concat();
    rows.iter()
        .find(|(number, ..)| *number == opcode)
        .map_or((Other, 0), |(_, kind, headers)| {
            (*kind, headers.split_whitespace().map(length_of).sum())
        })
}

fn transport_of(opcode: u8) -> Transport {
    match opcode {
        0x00..=0x1f => Transport::Rc,
        0x20..=0x3f => Transport::Uc,
        0x40..=0x5f => Transport::Rd,
        0x60..=0x7f => Transport::Ud,
        0x80..=0x9f => Transport::Cnp,
        0xa0..=0xbf => Transport::Xrc,
        0xc0..=0xff => Transport::Manufacturer,
    }
}

#[test]
fn each_opcode_is_what_the_table_says() {
    for opcode in 0..=255 {
        let (kind, headers) = expected(opcode);
        let packet = Roce::new(opcode)
            .qp(0xabcdef)
            .psn(0x123456)
            .payload(headers);
        for frame in [
            packet.v2(&Frame::v4()),
            packet.v2(&Frame::v6()),
            packet.v1(),
        ] {
            let roce = read_frame(&frame);
            assert_eq!(roce.found, Found::Yes, "{opcode:#x}");
            assert_eq!(roce.kind, kind, "{opcode:#x}");
            assert_eq!(roce.transport, transport_of(opcode), "{opcode:#x}");
            assert_eq!(roce.destination_qp, 0xabcdef);
            assert_eq!(roce.psn, 0x123456);
            // Requests of connections are numbered; datagrams, responses and
            // what is no operation are not.
            let connection = matches!(opcode >> 5, 0 | 1 | 5);
            let request = !matches!(kind, ReadResponse | Ack | AtomicAck | Other);
            assert_eq!(roce.sequenced, connection && request, "{opcode:#x}");
        }
    }
}

#[test]
fn a_packet_that_ends_inside_its_headers_is_malformed() {
    for opcode in 0..=255 {
        let (_, headers) = expected(opcode);
        for missing in 1..=headers {
            let packet = Roce::new(opcode).payload(headers - missing);
            for frame in [
                packet.v2(&Frame::v4()),
                packet.v2(&Frame::v6()),
                packet.v1(),
            ] {
                let roce = read_frame(&frame);
                assert_eq!(roce.found, Found::Malformed, "{opcode:#x} less {missing}");
            }
        }
    }
}

#[test]
fn each_syndrome_is_what_the_table_says() {
    for syndrome in 0..=255_u8 {
        // Table 45: an acknowledgement with credits, receiver not ready with a
        // timer, reserved, and five negative acknowledgements.
        let mark = match syndrome {
            0x00..=0x1f => None,
            0x20..=0x3f => Some(RnrNak),
            0x60 => Some(NakSequence),
            0x61 => Some(NakInvalidRequest),
            0x62 => Some(NakRemoteAccess),
            0x63 => Some(NakRemoteOperational),
            0x64 => Some(NakInvalidRd),
            _ => Some(NakReserved),
        };
        // Each packet that has an AETH, behind what comes before it.
        for (opcode, before, behind) in [
            (0x0d, 0, 0),
            (0x0f, 0, 0),
            (0x10, 0, 0),
            (0x11, 0, 0),
            (0x12, 0, 8),
            (0x4d, 4, 0),
            (0x4f, 4, 0),
            (0x50, 4, 0),
            (0x51, 4, 0),
            (0x52, 4, 8),
            (0xad, 0, 0),
            (0xaf, 0, 0),
            (0xb0, 0, 0),
            (0xb1, 0, 0),
            (0xb2, 0, 8),
        ] {
            let packet = Roce::new(opcode)
                .with(&vec![0x60; before])
                .with(&crate::packets::aeth(syndrome))
                .payload(behind);
            assert_eq!(
                read_frame(&packet.v1()).mark,
                mark,
                "{opcode:#x} {syndrome:#x}"
            );
        }
        // One that has none, with the same bytes in its place.
        for opcode in [0x04, 0x0e, 0xae] {
            let packet = Roce::new(opcode).with(&[syndrome; 16]);
            assert_eq!(read_frame(&packet.v1()).mark, None);
        }
    }
}

#[test]
fn operations_and_marks_are_told_apart_by_number() {
    for kind in Kind::ALL {
        assert_eq!(kind.is_operation(), (*kind as u8) < 32, "{}", kind.name());
    }
    assert!(Kind::Malformed.is_operation() && !Kind::CeMarked.is_operation());
}
