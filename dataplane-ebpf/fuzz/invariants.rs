//! What must hold for every frame whatsoever. Shared by the fuzz target and the
//! tests that replay its corpus.

use std::cell::Cell;

use dataplane_ebpf::{
    abi::{DropReason, RoceFlow},
    parse::{Headers, Packet, Wire, neighbor, parse_into, usual},
    roce::{self, Found, RocePacket, track},
};

/// A frame that notes how far it was read.
struct Watched<'a> {
    bytes: &'a [u8],
    /// The end of the furthest read that was granted.
    read_to: Cell<usize>,
}

impl Packet for Watched<'_> {
    fn length(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn read<T: Wire>(&self, offset: usize) -> Option<T> {
        let value = self.bytes.read(offset)?;
        let end = offset + size_of::<T>();
        assert!(
            end <= self.bytes.len(),
            "read to {end} of {}",
            self.bytes.len()
        );
        self.read_to.set(self.read_to.get().max(end));
        Some(value)
    }
}

/// All that the parsers make of a frame.
#[derive(Debug, PartialEq)]
struct Reading {
    verdict: Result<Headers, DropReason>,
    roce: RocePacket,
    neighbor: Option<neighbor::Subject>,
    read_to: usize,
}

fn read(frame: &[u8]) -> Reading {
    let packet = Watched {
        bytes: frame,
        read_to: Cell::new(0),
    };
    let mut headers = Headers::default();
    let verdict = parse_into(&packet, &mut headers).map(|()| headers);
    let mut roce = RocePacket::default();
    let mut neighbor = None;
    if let Ok(headers) = &verdict {
        roce::read(&packet, headers, &mut roce);
        neighbor = neighbor::read(&packet, headers);
    }
    Reading {
        verdict,
        roce,
        neighbor,
        read_to: packet.read_to.get(),
    }
}

/// Where the frame's IP packet, or GRH's packet, says that it ends. `None` for
/// other frames and for lengths that mean something else.
fn claimed_end(frame: &[u8]) -> Option<usize> {
    let number = |at: usize| {
        let bytes = frame.get(at..at + 2)?;
        Some(usize::from(bytes[0]) << 8 | usize::from(bytes[1]))
    };
    let mut at = 12;
    for _ in 0..2 {
        if matches!(number(at)?, 0x8100 | 0x88a8) {
            at += 4;
        }
    }
    let network = at + 2;
    let end = match number(at)? {
        0x0800 => network + number(network + 2)?,
        0x86dd | 0x8915 => network + 40 + number(network + 4)?,
        _ => return None,
    };
    // Less than a header is not believed, and of large buffers zero is not.
    let believable = end >= network + 20 && frame.len() < 0x1_0000;
    (believable && end <= frame.len()).then_some(end)
}

/// Checks a frame.
///
/// # Panics
/// Something does not hold.
pub fn check(frame: &[u8]) {
    let reading = read(frame);
    if let Ok(headers) = &reading.verdict {
        check_places(frame, headers);
    }
    check_roce(&reading.roce);
    // The short way sees what the long one does, and no RoCE.
    if let Some(headers) = usual(frame) {
        assert_eq!(reading.verdict, Ok(headers));
        assert_eq!(reading.roce.found, Found::No);
    }
    let Some(end) = claimed_end(frame) else {
        return;
    };
    if reading.verdict.is_ok() && reading.roce.found != Found::Malformed {
        assert!(
            reading.read_to <= end,
            "read to {} of {end}",
            reading.read_to
        );
    }
    // What lies behind the packet changes nothing, nor does its absence.
    let other: Vec<u8> = frame[end..].iter().map(|byte| !byte).collect();
    for same in [frame[..end].to_vec(), [&frame[..end], &other].concat()] {
        let again = read(&same);
        assert_eq!(again.verdict, reading.verdict);
        assert_eq!(again.roce, reading.roce);
        assert_eq!(again.neighbor, reading.neighbor);
    }
}

fn check_places(frame: &[u8], headers: &Headers) {
    let length = frame.len();
    assert!(usize::from(headers.network) <= length);
    if headers.transport != 0 {
        assert!(headers.transport > headers.network);
        let end = usize::from(headers.transport) + headers.transport_length as usize;
        assert!(end <= length, "ends at {end} of {length}");
    }
}

fn check_roce(roce: &RocePacket) {
    for number in [roce.psn, roce.destination_qp, roce.new_qp] {
        assert!(number < 1 << 24);
    }
    assert!(roce.kind.is_operation());
    if let Some(mark) = roce.mark {
        assert!(!mark.is_operation());
    }
    if roce.found == Found::Yes && roce.sequenced {
        let mut flow = RoceFlow {
            expected_psn: 0xff_fff0,
            path_mtu: 1024,
            flags: RoceFlow::SYNCED,
            ..RoceFlow::default()
        };
        track(&mut flow, roce, 0);
        assert!(flow.expected_psn < 1 << 24);
    }
}
