//! System calls that aya does not offer.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// `enum bpf_cmd`, uapi `linux/bpf.h`.
const MAP_LOOKUP: i32 = 1;
const MAP_UPDATE: i32 = 2;
const MAP_DELETE: i32 = 3;
const MAP_NEXT_KEY: i32 = 4;
const OPEN_PIN: i32 = 7;
const MAP_BY_ID: i32 = 14;
const INFO_OF: i32 = 15;
const BTF_BY_ID: i32 = 19;
const MAP_UPDATE_BATCH: i32 = 26;
const MAP_DELETE_BATCH: i32 = 27;

/// `MEMBARRIER_CMD_GLOBAL` (uapi `linux/membarrier.h`).
const MEMBARRIER_GLOBAL: i32 = 1;

/// What the commands on a map's elements read of `union bpf_attr`.
#[repr(C)]
#[derive(Clone, Copy)]
struct MapElement {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// What the commands on many elements read of `union bpf_attr`.
#[repr(C)]
struct BatchAttributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

/// A command on many elements of a map.
pub(super) struct Batch<'a> {
    command: i32,
    map: BorrowedFd<'a>,
    keys: &'a [u8],
    values: &'a [u8],
    count: u32,
}

impl<'a> Batch<'a> {
    /// Writes `count` elements: their keys and their values, one behind the
    /// other.
    pub(super) fn update(map: &'a impl AsFd, keys: &'a [u8], values: &'a [u8], count: u32) -> Self {
        Self {
            command: MAP_UPDATE_BATCH,
            map: map.as_fd(),
            keys,
            values,
            count,
        }
    }

    /// Takes `count` elements out.
    pub(super) fn delete(map: &'a impl AsFd, keys: &'a [u8], count: u32) -> Self {
        Self {
            command: MAP_DELETE_BATCH,
            values: &[],
            ..Self::update(map, keys, &[], count)
        }
    }

    /// How many elements were done before the first that failed, and why it
    /// did.
    pub(super) fn run(&self) -> (u32, io::Result<()>) {
        let mut attributes = BatchAttributes {
            in_batch: 0,
            out_batch: 0,
            keys: self.keys.as_ptr().addr() as u64,
            values: self.values.as_ptr().addr() as u64,
            count: self.count,
            map_fd: self.map.as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        };
        let result = bpf_mut(self.command, &mut attributes);
        (attributes.count, result.map(drop))
    }
}

/// What the commands that open by number read of `union bpf_attr`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ObjectId {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Takes an element out; of an array of maps, empties the slot.
pub(super) fn delete(map: impl AsFd, key: &[u8]) -> io::Result<()> {
    bpf(MAP_DELETE, &element(&map, Some(key), 0, 0)).map(drop)
}

/// Reads the value under `key` into `value`, which has the size that the map's
/// values have for user space.
pub(super) fn lookup(map: impl AsFd, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    let value = value.as_mut_ptr().addr() as u64;
    bpf(MAP_LOOKUP, &element(&map, Some(key), value, 0)).map(drop)
}

/// Writes the value under `key`; `flags` as `BPF_NOEXIST` and its like.
pub(super) fn update(map: impl AsFd, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
    let value = value.as_ptr().addr() as u64;
    bpf(MAP_UPDATE, &element(&map, Some(key), value, flags)).map(drop)
}

/// Writes the key that follows `key` (or the first) into `next`; false at the
/// end.
pub(super) fn next_key(map: impl AsFd, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    let next = next.as_mut_ptr().addr() as u64;
    match bpf(MAP_NEXT_KEY, &element(&map, key, next, 0)) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens a map that the kernel holds.
pub(super) fn map(id: u32) -> io::Result<OwnedFd> {
    open(MAP_BY_ID, &object(id))
}

/// Opens a type description that the kernel holds.
pub(super) fn btf(id: u32) -> io::Result<OwnedFd> {
    open(BTF_BY_ID, &object(id))
}

/// What `BPF_OBJ_GET` reads of `union bpf_attr`.
#[repr(C)]
#[derive(Clone, Copy)]
struct PinAttributes {
    path: u64,
    fd: u32,
    flags: u32,
}

/// What `BPF_OBJ_GET_INFO_BY_FD` reads of `union bpf_attr`.
#[repr(C)]
#[derive(Clone, Copy)]
struct InfoAttributes {
    fd: u32,
    length: u32,
    info: u64,
}

/// The start of `struct bpf_link_info`, of a TCX link.
#[repr(C)]
#[derive(Default)]
struct TcxLinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    ifindex: u32,
    attach_type: u32,
}

/// The index of the interface that a pinned TCX link is on; 0 when that one is
/// gone.
pub(super) fn link_interface(pin: &Path) -> io::Result<u32> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let attributes = PinAttributes {
        path: path.as_ptr().addr() as u64,
        fd: 0,
        flags: 0,
    };
    let link = open(OPEN_PIN, &attributes)?;
    let mut info = TcxLinkInfo::default();
    let attributes = InfoAttributes {
        fd: link.as_raw_fd() as u32,
        length: size_of::<TcxLinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info).addr() as u64,
    };
    bpf(INFO_OF, &attributes)?;
    Ok(info.ifindex)
}

/// Returns when every packet that was in a program has left it: the command
/// waits for an RCU grace period. False where the kernel does not offer it (on
/// processors without a tick).
pub(super) fn wait_for_programs() -> bool {
    // SAFETY: no pointer is passed.
    unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0, 0) == 0 }
}

fn element(map: &impl AsFd, key: Option<&[u8]>, value: u64, flags: u64) -> MapElement {
    MapElement {
        map_fd: map.as_fd().as_raw_fd() as u32,
        pad: 0,
        key: key.map_or(0, |key| key.as_ptr().addr() as u64),
        value,
        flags,
    }
}

fn object(id: u32) -> ObjectId {
    ObjectId {
        id,
        next_id: 0,
        open_flags: 0,
    }
}

/// A command that makes a descriptor.
fn open<T: Copy>(command: i32, attributes: &T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the kernel has just made the descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T: Copy>(command: i32, attributes: &T) -> io::Result<i32> {
    bpf_mut(command, &mut { *attributes })
}

fn bpf_mut<T>(command: i32, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the kernel reads, and of some commands writes, `size_of::<T>()`
    // bytes of a value that lives through the call, and through its pointers keys and values of the map's
    // sizes, a path, or as much of an info as its length says, that do too.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}
