//! The shared types as aya wants them.

use dataplane_ebpf::abi::Plain;

/// A shared type in the hands of aya.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Raw<T>(pub(super) T);

// SAFETY: `Plain` promises what `Pod` asks for: every bit pattern is valid and
// nothing but integers is inside.
unsafe impl<T: Plain> aya::Pod for Raw<T> {}
