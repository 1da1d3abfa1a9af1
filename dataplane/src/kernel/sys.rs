//! System calls that aya does not offer.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// `BPF_MAP_DELETE_ELEM` and `BPF_BTF_GET_FD_BY_ID` (`enum bpf_cmd`, uapi
/// `linux/bpf.h`).
const MAP_DELETE: i32 = 3;
const BTF_BY_ID: i32 = 19;

/// What `BPF_MAP_DELETE_ELEM` reads of `union bpf_attr`.
#[repr(C)]
struct MapElement {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// What `BPF_BTF_GET_FD_BY_ID` reads of `union bpf_attr`.
#[repr(C)]
struct ObjectId {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Empties a slot of an array of maps.
pub(super) fn clear_slot(map: impl AsFd, index: u32) -> io::Result<()> {
    let element = MapElement {
        map_fd: map.as_fd().as_raw_fd() as u32,
        pad: 0,
        key: (&raw const index).addr() as u64,
        value: 0,
        flags: 0,
    };
    bpf(MAP_DELETE, &element).map(drop)
}

/// Opens a type description that the kernel holds.
pub(super) fn btf(id: u32) -> io::Result<OwnedFd> {
    let object = ObjectId {
        id,
        next_id: 0,
        open_flags: 0,
    };
    let fd = bpf(BTF_BY_ID, &object)?;
    // SAFETY: the kernel has just made the descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: i32, attributes: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a value that lives
    // through the call, and through its one pointer a key that does too.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}
