//! What this kernel and this process can do.

use std::{fs, path::Path, sync::LazyLock};

use aya::{
    programs::{SchedClassifier, tc::TcAttachType},
    util::nr_cpus,
};
use nix::{
    sys::resource::{Resource, setrlimit},
    time::{ClockId, clock_getres, clock_gettime},
    unistd::Uid,
};

use super::error::KernelError;

/// What was found.
#[derive(Clone, Debug)]
pub struct Features {
    /// Release, as `uname -r` says.
    pub release: String,
    /// Has TCX links (Linux 6.6 and newer).
    pub tcx: bool,
    /// Possible processors: what per-CPU maps are multiplied by.
    pub cpus: u32,
}

impl Features {
    /// Looks at the running kernel.
    ///
    /// # Errors
    /// Something is missing without which nothing works; each is named.
    pub fn detect() -> Result<Self, KernelError> {
        if !Uid::effective().is_root() {
            return Err(KernelError::Unsupported(
                "the agent loads eBPF programs, which needs root; run it with sudo".into(),
            ));
        }
        if !Path::new("/sys/kernel/btf/vmlinux").exists() {
            return Err(KernelError::Unsupported(
                "/sys/kernel/btf/vmlinux is missing: the kernel was built without BTF; \
                 use one with CONFIG_DEBUG_INFO_BTF=y (every current distribution's)"
                    .into(),
            ));
        }
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim()
            .to_owned();
        // Kernels before 5.11 count maps against this limit, later ones do not.
        let unlimited = nix::libc::RLIM_INFINITY;
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, unlimited, unlimited);
        let cpus = nr_cpus().map_err(|(path, error)| {
            KernelError::Unsupported(format!("cannot count processors: {path}: {error}"))
        })?;
        Ok(Self {
            release,
            // Asked rather than concluded from the version: distributions
            // carry features back to older kernels.
            tcx: SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok(),
            cpus: cpus as u32,
        })
    }
}

/// Length of the kernel's timer tick, ns: what the resolution of its coarse
/// clocks is (clock_getres(2)), and what the programs tell time by.
pub static TICK_NS: LazyLock<u64> = LazyLock::new(|| {
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE);
    // That clock exists on every Linux; 250 ticks a second is the default.
    tick.map_or(4_000_000, |tick| tick.tv_nsec() as u64)
});

/// Now, ns of the clock that the programs stamp events with.
pub fn monotonic_ns() -> u64 {
    // The monotonic clock exists on every Linux.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
    })
}
