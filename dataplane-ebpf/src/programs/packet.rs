//! Reading packets from the kernel's contexts.

use core::intrinsics::is_val_statically_known;

use aya_ebpf::{
    bindings::bpf_hdr_start_off::BPF_HDR_START_MAC,
    helpers::{bpf_skb_change_head, bpf_skb_load_bytes_relative, bpf_skb_store_bytes},
    programs::{TcContext, XdpContext},
};
use dataplane_ebpf::{
    abi::DropReason,
    parse::{ETHERNET_LEN, Headers, Packet, Wire, join, masked, parse_into},
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

    /// A frame of so many bytes at XDP; of one in several buffers the first can
    /// be read, which has the headers.
    #[inline(always)]
    pub fn frame(context: &XdpContext, length: u32) -> Self {
        Self {
            data: context.data(),
            data_end: context.data_end(),
            length,
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
        let start = self.data
            + if is_val_statically_known(offset) {
                offset
            } else {
                masked::<MAX_OFFSET>(offset)
            };
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

/// Puts what [`usual`](dataplane_ebpf::parse::usual) has read into this
/// processor's `scratch`.
#[inline(always)]
pub fn to_scratch(headers: Headers) -> Option<&'static Parsed> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: as in `parse_to_scratch`.
    let parsed = unsafe { &mut *scratch };
    *parsed = Parsed {
        headers,
        refusal: None,
        roce: RocePacket::default(),
    };
    Some(parsed)
}

/// Where a received packet's link header is.
pub enum LinkHeader {
    /// Where it belongs, at the packet's start.
    InPlace,
    /// It was lost and is back: what is known of the packet is void.
    Restored,
    /// It is lost and the kernel does not bring it back: there is no memory, or
    /// the packet is larger than 16 KiB and no segments.
    Lost,
}

/// Makes a packet at TC ingress begin with its link header, as programs there
/// expect.
///
/// The kernel moves a packet's start back by its `mac_len` before it runs them.
/// That number is lost when generic XDP on the device below has copied the
/// packet (seen on Linux 6.18): the packet then begins with its IP header.
/// Repaired in the packet itself, it is right for programs behind ours too.
#[inline(always)]
pub fn restore_link_header(context: &TcContext) -> LinkHeader {
    const LENGTH: u32 = ETHERNET_LEN as u32;
    let skb = context.skb.skb;
    // SAFETY: the context is the kernel's.
    let (length, received) = unsafe { ((*skb).len, (*skb).wire_len) };
    // `wire_len` was set before the start was moved. It is zero in test runs.
    if length == received + LENGTH || received == 0 {
        return LinkHeader::InPlace;
    }
    // Another program may have resized the packet. Only a lost header has so
    // many more bytes behind its start than behind the packet's, and no more.
    let linear = (context.data_end() - context.data()) as u32;
    if from_link_header::<1>(context, linear + LENGTH - 1).is_none()
        || from_link_header::<1>(context, linear + LENGTH).is_some()
    {
        return LinkHeader::InPlace;
    }
    let Some(header) = from_link_header::<ETHERNET_LEN>(context, 0) else {
        return LinkHeader::Lost;
    };
    // SAFETY: the helpers check their arguments. The first moves the start back
    // over the header, zeroes it, and sets `mac_len` right.
    let failed = unsafe {
        bpf_skb_change_head(skb, LENGTH, 0) != 0
            || bpf_skb_store_bytes(skb, 0, header.as_ptr().cast(), LENGTH, 0) != 0
    };
    if failed {
        LinkHeader::Lost
    } else {
        LinkHeader::Restored
    }
}

/// `N` bytes at an offset from the link header, where the linear part has them.
#[inline(always)]
fn from_link_header<const N: usize>(context: &TcContext, offset: u32) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: the helper writes at most `N` bytes.
    let result = unsafe {
        bpf_skb_load_bytes_relative(
            context.skb.skb.cast(),
            offset,
            bytes.as_mut_ptr().cast(),
            N as u32,
            BPF_HDR_START_MAC,
        )
    };
    (result == 0).then_some(bytes)
}
