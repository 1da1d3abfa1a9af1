//! What time it is. The precise clock would cost a plain packet's whole way.

use aya_ebpf::{
    Global,
    helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns},
};

/// Length of the kernel's timer tick, ns (1/`CONFIG_HZ` of a second), written by
/// the agent before it loads a program.
#[unsafe(no_mangle)]
static TICK_NS: Global<u64> = Global::new(4_000_000);

/// The kernel counts its ticks from where their number's lower half is five
/// minutes from its end (`INITIAL_JIFFIES`, Linux's include/linux/jiffies.h).
const FIRST_WRAP: u64 = 1 << 32;
const BEFORE_WRAP_NS: u64 = 300_000_000_000;

/// Time since boot, ns, by the kernel's ticks: to tell how long ago something
/// was. A load rather than a call, since the verifier puts it in its place.
/// The monotonic clock says the same to within a second.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    let ticks = unsafe { bpf_jiffies64() };
    ticks
        .wrapping_sub(FIRST_WRAP)
        .wrapping_mul(TICK_NS.load())
        .wrapping_add(BEFORE_WRAP_NS)
}

/// The coarse monotonic clock, for times that user space reads.
#[inline(always)]
pub fn monotonic_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}
