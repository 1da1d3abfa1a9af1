//! Going on counting where maps of another size or layout left off.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    cty::c_void,
    helpers::{bpf_map_lookup_elem, bpf_map_update_elem},
    macros::classifier,
    programs::TcContext,
};
use dataplane_ebpf::{
    abi::{Carry, CarryTo, Counter},
    parse::Packet as _,
};

use super::{
    count::add_shared,
    maps::{CARRIED, DROPS, EP_STATS, FAULTS, FLOW_STATS, ROCE_STATS, UPLINK_STATS, WOULD_DROP},
    packet::InPlace,
};

/// Adds one record to the counters of this processor. Attached nowhere: the
/// agent runs it by BPF_PROG_TEST_RUN, since user space cannot add to a counter
/// that the other programs are adding to meanwhile.
///
/// Adding and ticking off happen in one run, which nothing cuts in two: an agent
/// that dies between two records goes on with the right one.
#[classifier]
pub fn carry(context: TcContext) -> i32 {
    let Some(record) = InPlace::skb(&context).read::<Carry>(0) else {
        return Carry::LOST;
    };
    let Some(next) = CARRIED.get_ptr_mut(0) else {
        return Carry::LOST;
    };
    // SAFETY: from a map lookup; only one agent runs this program.
    if unsafe { *next } != record.number {
        return Carry::OUT_OF_TURN;
    }
    let result = add(&record);
    // SAFETY: as above.
    unsafe { *next += 1 };
    result
}

#[inline(always)]
fn add(record: &Carry) -> i32 {
    let [index, _] = record.key;
    let to = record.to;
    let number = if to == CarryTo::Faults as u32 {
        FAULTS.get_ptr_mut(index)
    } else if to == CarryTo::FlowStats as u32 {
        FLOW_STATS.get_ptr_mut(index)
    } else {
        let counter = if to == CarryTo::EndpointStats as u32 {
            EP_STATS.get_ptr_mut(index)
        } else if to == CarryTo::UplinkStats as u32 {
            UPLINK_STATS.get_ptr_mut(index)
        } else if to == CarryTo::Drops as u32 {
            sparse((&raw const DROPS).cast(), &record.key)
        } else if to == CarryTo::RoceStats as u32 {
            sparse((&raw const ROCE_STATS).cast(), &record.key)
        } else if to == CarryTo::WouldDrop as u32 {
            sparse((&raw const WOULD_DROP).cast(), &record.key)
        } else {
            None
        };
        let Some(counter) = counter else {
            return Carry::LOST;
        };
        // SAFETY: from a map lookup. A packet's program may interrupt this one
        // on its processor, so the addition is a single instruction.
        unsafe {
            add_shared(&raw mut (*counter).bytes, record.bytes);
            Some(&raw mut (*counter).packets)
        }
    };
    let Some(number) = number else {
        return Carry::LOST;
    };
    // SAFETY: as above.
    unsafe { add_shared(number, record.packets) };
    Carry::ADDED
}

/// The counter under a key of eight bytes, made if it is new.
#[inline(always)]
fn sparse(map: *const c_void, key: &[u32; 2]) -> Option<*mut Counter> {
    let (map, key) = (map.cast_mut(), (&raw const *key).cast::<c_void>());
    let zero = Counter::default();
    // SAFETY: the maps given have keys of eight bytes and counters as values.
    let found = unsafe {
        let found = bpf_map_lookup_elem(map, key);
        if found.is_null() {
            bpf_map_update_elem(map, key, (&raw const zero).cast(), BPF_NOEXIST.into());
            bpf_map_lookup_elem(map, key)
        } else {
            found
        }
    };
    (!found.is_null()).then_some(found.cast())
}
