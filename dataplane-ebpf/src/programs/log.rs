//! Words for whoever debugs the programs. Compiled in by `cargo xtask build
//! --log` only: the map they travel in is of a kind that bpftool refuses.

use aya_ebpf::programs::TcContext;

use super::event::Subject;

/// Tells of a packet that was dropped.
#[cfg(feature = "log")]
#[inline(always)]
pub fn dropped(context: &TcContext, subject: &Subject<'_>, reason: u8) {
    aya_log_ebpf::debug!(
        context,
        "endpoint {} direction {}: {} bytes of ethertype {:x} dropped, reason {}",
        subject.port,
        subject.direction as u8,
        subject.bytes,
        subject.headers.ether_type,
        reason
    );
}

/// Nothing is told.
#[cfg(not(feature = "log"))]
#[inline(always)]
pub fn dropped(_context: &TcContext, _subject: &Subject<'_>, _reason: u8) {}
