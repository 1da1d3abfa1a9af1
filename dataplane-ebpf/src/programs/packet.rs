//! Reading packets from the kernel's contexts.

use aya_ebpf::programs::{TcContext, XdpContext};
use dataplane_ebpf::{
    abi::DropReason,
    parse::{Headers, Packet, Wire, join, parse_into},
    roce::{self, RocePacket},
};

use super::maps::SCRATCH;

/// No header that the parser follows lies further in: two tags, an IPv6
/// header and six extension headers of 2 KiB each, and RoCE's headers. The
/// verifier needs a bound to accept a variable offset.
const MAX_OFFSET: usize = 0x3fff;

/// A packet read in place. At TC only its linear part can be: what lies behind
/// must be pulled in first (see `pipeline`).
pub struct InPlace {
    data: usize,
    data_end: usize,
    length: u32,
}

impl InPlace {
    /// The linear part of a packet at TC.
    #[inline(always)]
    pub fn skb(context: &TcContext) -> Self {
        Self {
            data: context.data(),
            data_end: context.data_end(),
            length: context.len(),
        }
    }

    /// A frame at XDP; of one in several buffers, the first.
    #[inline(always)]
    pub fn frame(context: &XdpContext) -> Self {
        let (data, data_end) = (context.data(), context.data_end());
        Self {
            data,
            data_end,
            length: (data_end - data) as u32,
        }
    }
}

impl Packet for InPlace {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.length
    }

    #[inline(always)]
    fn read<T: Wire>(&self, offset: usize) -> Option<T> {
        // For a single byte LLVM compares with `>=`, from which the verifier
        // concludes nothing.
        const { assert!(size_of::<T>() > 1) };
        if offset > MAX_OFFSET {
            return None;
        }
        let start = self.data + offset;
        if start + size_of::<T>() > self.data_end {
            return None;
        }
        // SAFETY: the verifier proves that the bytes are the packet's; any
        // bytes are a valid `T`, and packet memory may be read unaligned.
        Some(unsafe { *(start as *const T) })
    }
}

/// What is known of the packet in hand.
pub struct Parsed {
    pub headers: Headers,
    /// Why the packet must not pass, if so.
    pub refusal: Option<DropReason>,
    /// The RoCE packet in it, if it has one.
    pub roce: RocePacket,
}

/// Parses into this processor's `scratch`, so that what follows starts from
/// memory and not from one of the parser's many states.
///
/// What the caller holds in registers across the call multiplies those states:
/// fetch it afterwards.
#[inline(always)]
pub fn parse_to_scratch(packet: &InPlace) -> Option<&'static Parsed> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: from a map lookup; nothing else runs on this processor's entry
    // until the program ends.
    let parsed = unsafe { &mut *scratch };
    parsed.headers = Headers::default();
    parsed.roce = RocePacket::default();
    parsed.refusal = parse_into(packet, &mut parsed.headers).err();
    join();
    if parsed.refusal.is_none() {
        roce::read(packet, &parsed.headers, &mut parsed.roce);
        join();
    }
    Some(parsed)
}
