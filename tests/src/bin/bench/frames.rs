//! Frames to run the programs on, small as packets that are all header.

use dataplane_ebpf::roce::{UDP_PORT, timing};

/// The destination MAC address of every frame, unless a case says otherwise.
pub(crate) const TO: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The source MAC address of every frame.
pub(crate) const FROM: [u8; 6] = [2, 0, 0, 0, 0, 2];

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const VLAN: u16 = 0x8100;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DESTINATION_OPTIONS: u8 = 60;

/// Opcodes of the base transport header (IBTA, table 38).
pub(crate) mod opcode {
    pub(crate) const SEND_ONLY: u8 = 0x04;
    pub(crate) const READ_REQUEST: u8 = 0x0c;
    pub(crate) const READ_RESPONSE_MIDDLE: u8 = 0x0e;
    pub(crate) const ACKNOWLEDGE: u8 = 0x11;
    pub(crate) const UD_SEND_ONLY: u8 = 0x64;
}

fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&TO[..], &FROM, &ether_type.to_be_bytes(), payload].concat()
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend(payload);
    packet
}

fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let address = |last| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend(address(1));
    packet.extend(address(2));
    packet.extend(payload);
    packet
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let mut segment = vec![0xc0, 0];
    segment.extend(port.to_be_bytes());
    segment.extend(length.to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(payload);
    segment
}

fn tcp() -> Vec<u8> {
    let mut segment = vec![
        0xc0, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0,
    ];
    segment.extend([0; 32]);
    segment
}

pub(crate) fn tcp_ipv4() -> Vec<u8> {
    ethernet(IPV4, &ipv4(TCP, &tcp()))
}

pub(crate) fn udp_ipv4() -> Vec<u8> {
    ethernet(IPV4, &ipv4(UDP, &udp(9, &[0; 32])))
}

pub(crate) fn udp_ipv6() -> Vec<u8> {
    ethernet(IPV6, &ipv6(UDP, &udp(9, &[0; 32])))
}

/// UDP behind one extension header of eight bytes.
pub(crate) fn udp_ipv6_extension() -> Vec<u8> {
    let options = [UDP, 0, 1, 4, 0, 0, 0, 0];
    let payload = [&options[..], &udp(9, &[0; 32])].concat();
    ethernet(IPV6, &ipv6(DESTINATION_OPTIONS, &payload))
}

/// An IPv4 packet that claims to be longer than its frame.
pub(crate) fn broken_ipv4() -> Vec<u8> {
    let mut frame = udp_ipv4();
    frame.truncate(40);
    frame
}

/// TCP behind one tag that no NIC has taken out of the frame.
pub(crate) fn tcp_vlan() -> Vec<u8> {
    let tag = [&[0, 7][..], &IPV4.to_be_bytes(), &ipv4(TCP, &tcp())].concat();
    ethernet(VLAN, &tag)
}

/// An ARP request.
pub(crate) fn arp() -> Vec<u8> {
    let mut payload = vec![0, 1, 8, 0, 6, 4, 0, 1];
    payload.extend(FROM);
    payload.extend([10, 0, 0, 1]);
    payload.extend([0; 6]);
    payload.extend([10, 0, 0, 2]);
    // Up to Ethernet's smallest frame.
    payload.resize(46, 0);
    ethernet(ARP, &payload)
}

/// RoCEv2 with room for each extended header and 32 bytes of payload, so that every opcode fits.
fn roce(opcode: u8, psn: u32) -> Vec<u8> {
    let mut packet = vec![opcode, 0, 0xff, 0xff];
    // A queue pair for each opcode, or they would be one flow.
    packet.extend((0x100 + u32::from(opcode)).to_be_bytes());
    packet.extend(psn.to_be_bytes());
    let mut extended = [0; 16];
    // As an RETH, a READ of 64 KiB; as an AETH, a plain acknowledgement.
    extended[13] = 1;
    packet.extend(extended);
    packet.extend([0; 32]);
    // The invariant CRC, which nobody here checks.
    packet.extend([0; 4]);
    udp(UDP_PORT, &packet)
}

/// A PSN whose request and answer are not timed, and one whose are, as one in 32 is.
const USUAL_PSN: u32 = 100;
const TIMED_PSN: u32 = 104;
const _: () = assert!(!timing::is_timed(USUAL_PSN) && timing::is_timed(TIMED_PSN));

pub(crate) fn roce_ipv4(opcode: u8) -> Vec<u8> {
    ethernet(IPV4, &ipv4(UDP, &roce(opcode, USUAL_PSN)))
}

pub(crate) fn roce_ipv4_timed(opcode: u8) -> Vec<u8> {
    ethernet(IPV4, &ipv4(UDP, &roce(opcode, TIMED_PSN)))
}

pub(crate) fn roce_ipv6(opcode: u8) -> Vec<u8> {
    ethernet(IPV6, &ipv6(UDP, &roce(opcode, USUAL_PSN)))
}
