//! Every reason for which the parser refuses a packet.

use std::collections::HashSet;

use super::*;
use crate::packets::{Frame, QINQ, VLAN, icmp, refused, sctp, tcp, tcp_with_offset, udp};

#[test]
fn each_is_refused_for_its_reason() {
    let mut seen = HashSet::new();
    for (what, frame, name) in refused() {
        let reason = parse(&frame[..]).unwrap_err();
        assert_eq!(reason.name(), name, "{what}: {frame:02x?}");
        seen.insert(reason);
    }
    // These are not the parser's to give.
    seen.extend([
        DropReason::PipelineMissing,
        DropReason::BlockList,
        DropReason::PolicyDenied,
        DropReason::PolicyMissing,
        DropReason::NonIp,
        DropReason::FragmentUntracked,
        DropReason::LinkHeaderLost,
    ]);
    let missing: Vec<_> = DropReason::ALL
        .iter()
        .filter(|reason| !seen.contains(reason))
        .collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
}

#[test]
fn what_was_read_before_the_fault_is_kept() {
    let frame = Frame::v4()
        .tos(3)
        .carry(6, &tcp_with_offset(80, 8080, 4, &[]));
    let mut headers = Headers::default();
    assert_eq!(
        parse_into(&frame[..], &mut headers),
        Err(DropReason::TransportMalformed)
    );
    assert_eq!(
        headers.source,
        Address::from(std::net::IpAddr::from([10, 0, 0, 1]))
    );
    assert_eq!(headers.protocol, protocol::TCP);
    assert_eq!((headers.source_port, headers.destination_port), (80, 8080));
}

#[test]
fn every_cut_of_a_packet_is_refused() {
    for frame in [
        Frame::v4().options(3).carry(6, &tcp(1, 2, &[1; 9])),
        Frame::v6()
            .extension(0, 2)
            .extension(44, 0)
            .carry(17, &udp(1, 2, &[1; 9])),
        Frame::v4().tags(&[QINQ, VLAN]).carry(132, &sctp(1, 2)),
        Frame::v6().tags(&[VLAN]).carry(58, &icmp(135, 0, &[7; 16])),
    ] {
        assert!(parse(&frame[..]).is_ok());
        // The IP length no longer fits, wherever the cut is.
        for length in 0..frame.len() {
            assert!(parse(&frame[..length]).is_err(), "{length} of {frame:02x?}");
        }
    }
}
