//! The BPF file system, where programs, links and maps are pinned.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};

use crate::exec;

/// Where every distribution mounts it.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// Mounts bpffs where it is not mounted; only root can, and only root needs it.
pub(super) fn ensure() -> Result<()> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    if is_mounted(&mounts) || !exec::is_root() {
        return Ok(());
    }
    exec::step(&format!("Mounting bpffs at {BPFFS}"));
    exec::capture(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]))?;
    Ok(())
}

/// Whether the mount table, in the format of proc_pid_mounts(5), has bpffs at its place.
fn is_mounted(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_mount_table() {
        assert!(is_mounted(
            "sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw,mode=700 0 0\n"
        ));
        assert!(!is_mounted("sysfs /sys sysfs rw 0 0\n"));
        assert!(!is_mounted("tmpfs /sys/fs/bpf tmpfs rw 0 0\n"));
        assert!(!is_mounted("bpf /mnt/bpf bpf rw 0 0\n"));
    }
}
