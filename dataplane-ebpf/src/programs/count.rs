//! Counting, in maps of each processor's own.

use core::intrinsics::AtomicOrdering;

use aya_ebpf::{bindings::BPF_NOEXIST, btf_maps::PerCpuHashMap};
use dataplane_ebpf::abi::{Counter, DropKey, DropReason, Fault};

use super::{
    event::Subject,
    maps::{DROPS, FAULTS},
};

/// Adds to a counter of this processor.
///
/// The programs that share a counter run with migration disabled, and a
/// hook's programs do not interrupt each other on one processor, so plain
/// additions lose nothing.
#[inline(always)]
pub fn add(counter: *mut Counter, packets: u64, bytes: u64) {
    // SAFETY: `counter` comes from a map lookup and stays valid until the
    // program ends.
    unsafe {
        (*counter).packets += packets;
        (*counter).bytes += bytes;
    }
}

/// Adds to a number that other processors add to as well.
///
/// # Safety
/// `number` points to an aligned 64-bit integer in a map's value.
#[inline(always)]
pub unsafe fn add_shared(number: *mut u64, amount: u64) {
    // SAFETY: the caller's contract.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(number, amount);
    }
}

/// Adds to the entry of a sparse map, making it first if it is new.
#[inline(always)]
pub fn add_sparse<K, const N: usize, const FLAGS: usize>(
    map: &PerCpuHashMap<K, Counter, N, FLAGS>,
    key: &K,
    packets: u64,
    bytes: u64,
    full: Fault,
) {
    if let Some(counter) = map.get_ptr_mut(key) {
        return add(counter, packets, bytes);
    }
    // Made empty, then added to: if two processors make it at once, one of
    // them fails and neither loses its packet.
    let _ = map.insert(key, Counter::default(), BPF_NOEXIST.into());
    match map.get_ptr_mut(key) {
        Some(counter) => add(counter, packets, bytes),
        None => fault(full),
    }
}

/// Counts a packet dropped.
#[inline(always)]
pub fn drop(subject: &Subject<'_>, reason: DropReason) {
    let key = DropKey {
        port: subject.port,
        direction: subject.direction.code(),
        reason: reason.code(),
        pad: 0,
    };
    let Subject { packets, bytes, .. } = *subject;
    add_sparse(&DROPS, &key, packets, bytes, Fault::DropsFull);
}

/// Counts a fault of the dataplane itself.
#[inline(always)]
pub fn fault(fault: Fault) {
    if let Some(count) = FAULTS.get_ptr_mut(fault as u32) {
        // SAFETY: as in `add`.
        unsafe { *count += 1 };
    }
}
