//! The programs of the node's NIC: counters and block list for what arrives
//! (XDP), and the way between the node and its own pods (TC egress).

use aya_ebpf::{
    Global,
    bindings::{TC_ACT_UNSPEC, xdp_action},
    helpers::{bpf_map_lookup_elem, bpf_redirect, bpf_xdp_get_buff_len},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use dataplane_ebpf::{
    abi::{
        Address, Counter, Direction, DropReason, Fault, LocalAddrKey, LocalMacKey, PrefixKey,
        UPLINK_BIT, UplinkConfig, UplinkCounter, uplink_stats_index,
    },
    parse::{Headers, Packet, ether_type, neighbor},
};

use super::{
    count,
    event::Subject,
    maps::{BLOCK_LIST, LOCAL_ADDRS, LOCAL_MACS, UPLINK_STATS, UPLINKS},
    packet::{InPlace, parse_to_scratch},
    roce,
};

/// The uplink's number, written by the agent before it loads the program.
#[unsafe(no_mangle)]
static UPLINK: Global<u32> = Global::new(0);

/// What arrives at the uplink, in one buffer or several.
#[xdp(frags)]
pub fn uplink_xdp(context: XdpContext) -> u32 {
    // SAFETY: the context is the kernel's.
    let length = unsafe { bpf_xdp_get_buff_len(context.ctx) };
    receive(&context, length as u32)
}

/// The same for kernels before 5.18, where a frame has one buffer.
#[xdp]
pub fn uplink_xdp_one(context: XdpContext) -> u32 {
    let length = context.data_end() - context.data();
    receive(&context, length as u32)
}

#[inline(always)]
fn receive(context: &XdpContext, length: u32) -> u32 {
    let Some(parsed) = parse_to_scratch(&InPlace::frame(context, length)) else {
        return xdp_action::XDP_PASS;
    };
    let uplink = UPLINK.load();
    add(uplink, UplinkCounter::Received, length);
    if parsed.refusal.is_some() {
        // Not a pod's, perhaps; whoever it is for will judge it.
        add(uplink, UplinkCounter::Malformed, length);
        return xdp_action::XDP_PASS;
    }
    let subject = Subject {
        port: UPLINK_BIT | uplink,
        direction: Direction::Ingress,
        headers: &parsed.headers,
        packets: 1,
        bytes: length.into(),
    };
    if is_blocked(uplink, &subject) {
        count::drop(&subject, DropReason::BlockList);
        return xdp_action::XDP_DROP;
    }
    roce::count(&subject, &parsed.roce);
    xdp_action::XDP_PASS
}

/// What leaves by the uplink: from the node's own stack or from a macvlan or
/// ipvlan child of it. Neither can reach the other through the wire, so frames
/// for the other side are turned around to the uplink's ingress, where they
/// are handled as if they had come from the wire.
#[classifier]
pub fn uplink_egress(context: TcContext) -> i32 {
    pull_headers(&context);
    let Some(parsed) = parse_to_scratch(&InPlace::skb(&context)) else {
        return TC_ACT_UNSPEC;
    };
    let uplink = UPLINK.load();
    let Some(config) = UPLINKS.get(uplink) else {
        return TC_ACT_UNSPEC;
    };
    if config.flags & UplinkConfig::HOST_REACH == 0 {
        return TC_ACT_UNSPEC;
    }
    let packet = InPlace::skb(&context);
    // Destination and source MAC address, the frame's first twelve bytes.
    let Some([d0, d1, d2, s0, s1, s2]) = packet.read::<[u16; 6]>(0) else {
        return TC_ACT_UNSPEC;
    };
    let reach = Reach {
        context: &context,
        headers: &parsed.headers,
        uplink,
        config,
        from_node: [s0, s1, s2] == mac_words(&config.mac),
        source: [s0, s1, s2],
        destination: [d0, d1, d2],
    };
    // The group bit is the lowest of the first byte (IEEE 802).
    if d0.to_ne_bytes()[0] & 1 != 0 {
        reach.copy_neighbor(&packet)
    } else {
        reach.turn_around(&packet)
    }
}

/// Brings what is looked at here into the packet's linear part where that has
/// less than addresses: senders out of a ring leave the link header there alone.
#[inline(always)]
fn pull_headers(context: &TcContext) {
    /// Ethernet and IPv6 header, more than ARP's.
    const LEAST: u32 = 14 + 40;
    /// With tags and a neighbour solicitation.
    const ALL: u32 = 14 + 8 + 40 + 24;
    let linear = (context.data_end() - context.data()) as u32;
    let length = context.len();
    if linear < LEAST && linear < length {
        // What cannot be had is not turned around.
        let _ = context.skb.pull_data(length.min(ALL));
    }
}

struct Reach<'a> {
    context: &'a TcContext,
    headers: &'a Headers,
    uplink: u32,
    config: &'a UplinkConfig,
    /// The frame carries the uplink's own source address. So do the frames of
    /// ipvlan children, which share it.
    from_node: bool,
    source: [u16; 3],
    destination: [u16; 3],
}

impl Reach<'_> {
    /// A unicast frame between the node and one of its pods.
    #[inline(always)]
    fn turn_around(&self, packet: &InPlace) -> i32 {
        let to_node = self.destination == mac_words(&self.config.mac);
        let counter = match (self.from_node, to_node) {
            (true, false) if self.is_local_mac(self.destination) => UplinkCounter::NodeToPod,
            (false, true) if self.is_local_mac(self.source) => UplinkCounter::PodToNode,
            // An ipvlan child shares the uplink's address: the IP address
            // tells for whom it is.
            (true, true) => match self.owner_of_destination(packet) {
                Some(owner) if owner & UPLINK_BIT != 0 => UplinkCounter::PodToNode,
                Some(_) => UplinkCounter::NodeToPod,
                None => return TC_ACT_UNSPEC,
            },
            _ => return TC_ACT_UNSPEC,
        };
        add(self.uplink, counter, self.context.len());
        // SAFETY: the helper has no preconditions.
        (unsafe { bpf_redirect(self.config.ifindex, INGRESS) }) as i32
    }

    /// An ARP or neighbour discovery frame to all: copied to the other side
    /// where it asks for, or announces, an address there; and sent on.
    #[inline(always)]
    fn copy_neighbor(&self, packet: &InPlace) -> i32 {
        let Some(subject) = neighbor::read(packet, self.headers) else {
            return TC_ACT_UNSPEC;
        };
        let Some(owner) = self.owner(subject.target) else {
            return TC_ACT_UNSPEC;
        };
        let of_node = owner & UPLINK_BIT != 0;
        // An ipvlan child has the node's MAC address, so the IP address tells
        // the sender, where it has one yet.
        let from_node = match self.owner(subject.sender) {
            Some(sender) => sender & UPLINK_BIT != 0,
            None => self.from_node,
        };
        // Who announces its own address does so for the other side to hear.
        let wanted = (of_node == from_node) == subject.announcement;
        if !wanted || !(self.from_node || self.is_local_mac(self.source)) {
            return TC_ACT_UNSPEC;
        }
        match self
            .context
            .skb
            .clone_redirect(self.config.ifindex, INGRESS)
        {
            Ok(()) => add(
                self.uplink,
                UplinkCounter::NeighborCopied,
                self.context.len(),
            ),
            Err(_) => count::fault(Fault::RedirectFailed),
        }
        TC_ACT_UNSPEC
    }

    #[inline(always)]
    fn is_local_mac(&self, mac: [u16; 3]) -> bool {
        let key = LocalMacKey {
            uplink: self.uplink,
            mac: mac_octets(mac),
            pad: [0; 2],
        };
        LOCAL_MACS.get_ptr(key).is_some()
    }

    /// The port id that the address belongs to, if it is known here.
    #[inline(always)]
    fn owner(&self, address: Address) -> Option<u32> {
        let key = LocalAddrKey {
            address,
            uplink: self.uplink,
        };
        // SAFETY: the value is an integer that nobody writes in place.
        unsafe { LOCAL_ADDRS.get(key) }.copied()
    }

    #[inline(always)]
    fn owner_of_destination(&self, packet: &InPlace) -> Option<u32> {
        match self.headers.ether_type {
            ether_type::IPV4 | ether_type::IPV6 => self.owner(self.headers.destination),
            ether_type::ARP => self.owner(neighbor::read(packet, self.headers)?.target),
            _ => None,
        }
    }
}

/// `BPF_F_INGRESS` (uapi `linux/bpf.h`): deliver as if received.
const INGRESS: u64 = aya_ebpf::bindings::BPF_F_INGRESS as u64;

/// Whether the source address is on the block list; counts it there if so.
#[inline(always)]
fn is_blocked(uplink: u32, subject: &Subject<'_>) -> bool {
    let headers = subject.headers;
    let in_use = UPLINKS
        .get(uplink)
        .is_some_and(|config| config.flags & UplinkConfig::BLOCK_LIST != 0);
    if !in_use || !matches!(headers.ether_type, ether_type::IPV4 | ether_type::IPV6) {
        return false;
    }
    let key = PrefixKey {
        prefix_len: 128,
        address: headers.source,
    };
    // SAFETY: map and key are of the types that the helper expects; the typed
    // lookup gives no pointer to write through.
    let found = unsafe {
        bpf_map_lookup_elem(
            (&raw const BLOCK_LIST).cast_mut().cast(),
            (&raw const key).cast(),
        )
    };
    let counter = found.cast::<Counter>();
    if counter.is_null() {
        return false;
    }
    // SAFETY: the lookup gave an aligned counter (the key's address takes a
    // multiple of eight bytes, after which the kernel puts the value).
    unsafe {
        count::add_shared(&raw mut (*counter).packets, 1);
        count::add_shared(&raw mut (*counter).bytes, subject.bytes);
    }
    true
}

#[inline(always)]
fn add(uplink: u32, counter: UplinkCounter, length: u32) {
    if let Some(value) = UPLINK_STATS.get_ptr_mut(uplink_stats_index(uplink, counter)) {
        count::add(value, 1, length.into());
    }
}

#[inline(always)]
fn mac_words(mac: &[u8; 6]) -> [u16; 3] {
    let [a, b, c, d, e, f] = *mac;
    [
        u16::from_ne_bytes([a, b]),
        u16::from_ne_bytes([c, d]),
        u16::from_ne_bytes([e, f]),
    ]
}

#[inline(always)]
fn mac_octets(words: [u16; 3]) -> [u8; 6] {
    let [a, b, c] = words.map(u16::to_ne_bytes);
    [a[0], a[1], b[0], b[1], c[0], c[1]]
}
