//! The bpf system call by itself, for what has to be measured without a loader in between: programs
//! that do nothing, runs of a program, bare attachments.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use dataplane_ebpf::abi::Direction;

/// Commands, program types and attach types of uapi `linux/bpf.h`.
const BPF_MAP_CREATE: u32 = 0;
const BPF_MAP_UPDATE_ELEM: u32 = 2;
const BPF_PROG_LOAD: u32 = 5;
const BPF_PROG_TEST_RUN: u32 = 10;
const BPF_LINK_CREATE: u32 = 28;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// `BPF_MAP_TYPE_PROG_ARRAY` (uapi `linux/bpf.h`).
const PROG_ARRAY: u32 = 3;

/// A kind of program.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Tc = 3,
    Xdp = 6,
}

/// `TC_ACT_UNSPEC` (uapi `linux/pkt_cls.h`): on to the next program.
pub(crate) const TC_NEXT: i32 = -1;

/// The part of `union bpf_attr` that makes a map.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// The part of `union bpf_attr` that writes a map's entry.
#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part of `union bpf_attr` that loads a program.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The part of `union bpf_attr` that runs a program.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// The part of `union bpf_attr` that makes a TCX link.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    pad: u32,
    expected_revision: u64,
}

/// # Safety
/// `T` is the layout that the kernel reads and writes for `command`, and what its fields point to
/// stays valid through the call.
unsafe fn bpf<T>(command: u32, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the caller's contract.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just given this descriptor to us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Loads `return verdict` and nothing else.
pub(crate) fn empty_program(kind: Kind, verdict: i32) -> Result<OwnedFd> {
    // r0 = verdict (BPF_ALU64 | BPF_MOV | BPF_K); exit (BPF_JMP | BPF_EXIT).
    let mut move_verdict = [0xb7, 0, 0, 0, 0, 0, 0, 0];
    move_verdict[4..].copy_from_slice(&verdict.to_ne_bytes());
    load(kind, &[move_verdict, [0x95, 0, 0, 0, 0, 0, 0, 0]])
}

fn load(kind: Kind, instructions: &[[u8; 8]]) -> Result<OwnedFd> {
    let license = c"GPL";
    let mut attributes = Load {
        prog_type: kind as u32,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: the layout of this command; instructions and license outlive the call.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut attributes) };
    Ok(owned(fd.context("cannot load a program; this needs root")?))
}

/// One instruction (uapi `linux/bpf.h`, `struct bpf_insn`).
const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> [u8; 8] {
    let (o, v) = (offset.to_le_bytes(), value.to_le_bytes());
    [code, from << 4 | to, o[0], o[1], v[0], v[1], v[2], v[3]]
}

/// A TC program that makes every packet another one: of an IPv4 packet without options, the second
/// and third byte of the source address together become a number below `sources` (little endian),
/// the source port any number. Then on to the program in `next`, if any.
pub(crate) fn varying_program(sources: u16, next: Option<&OwnedFd>) -> Result<OwnedFd> {
    const ACCEPT: i32 = -1;
    let mut program = vec![
        // r6 = context; r0 = random
        instruction(0xbf, 6, 1, 0, 0),
        instruction(0x85, 0, 0, 0, 7),
        // r2 = data, r3 = data end; r4 = r2 + 36; if r4 > r3 leave
        instruction(0x61, 2, 6, 76, 0),
        instruction(0x61, 3, 6, 80, 0),
        instruction(0xbf, 4, 2, 0, 0),
        instruction(0x07, 4, 0, 0, 36),
        instruction(0x2d, 4, 3, if next.is_some() { 11 } else { 6 }, 0),
        // source port = r0; r0 >>= 16; r0 %= sources; address = r0
        instruction(0x6b, 2, 0, 34, 0),
        instruction(0x77, 0, 0, 0, 16),
        instruction(0x57, 0, 0, 0, 0xffff),
        instruction(0x97, 0, 0, 0, sources.into()),
        instruction(0x6b, 2, 0, 27, 0),
        instruction(0xb7, 0, 0, 0, ACCEPT),
    ];
    if let Some(slot) = next {
        program.extend([
            // tail_call(r6, slot, 0)
            instruction(0xbf, 1, 6, 0, 0),
            instruction(0x18, 2, 1, 0, slot.as_raw_fd()),
            instruction(0, 0, 0, 0, 0),
            instruction(0xb7, 3, 0, 0, 0),
            instruction(0x85, 0, 0, 0, 12),
        ]);
    }
    program.extend([
        instruction(0xb7, 0, 0, 0, ACCEPT),
        instruction(0x95, 0, 0, 0, 0),
    ]);
    load(Kind::Tc, &program)
}

/// A program array whose first slot holds the program. The kernel empties it when it is closed.
pub(crate) fn program_array(program: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mut create = MapCreate {
        map_type: PROG_ARRAY,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
    };
    // SAFETY: the layout of this command.
    let map = owned(unsafe { bpf(BPF_MAP_CREATE, &mut create) }.context("cannot make a map")?);
    let (key, value) = (0_u32, program.as_raw_fd());
    let mut update = MapUpdate {
        map_fd: map.as_raw_fd() as u32,
        pad: 0,
        key: (&raw const key).addr() as u64,
        value: (&raw const value).addr() as u64,
        flags: 0,
    };
    // SAFETY: the layout of this command; key and value outlive the call.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut update) }.context("cannot fill a slot")?;
    Ok(map)
}

/// Runs a program on a frame so many times; its verdict, and the mean ns of a run.
pub(crate) fn run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> Result<(i32, u32)> {
    let mut attributes = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat,
        ..TestRun::default()
    };
    // SAFETY: the layout of this command; the frame outlives the call.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attributes) }.context("BPF_PROG_TEST_RUN")?;
    Ok((attributes.retval as i32, attributes.duration))
}

/// Attaches a program to both TC hooks of an interface of the calling thread's namespace, until the
/// links are closed.
pub(crate) fn attach_both(program: &OwnedFd, ifindex: u32) -> Result<[OwnedFd; 2]> {
    Ok([
        attach(program, ifindex, Direction::Ingress)?,
        attach(program, ifindex, Direction::Egress)?,
    ])
}

fn attach(program: &OwnedFd, ifindex: u32, direction: Direction) -> Result<OwnedFd> {
    let mut attributes = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: ifindex,
        attach_type: match direction {
            Direction::Ingress => BPF_TCX_INGRESS,
            Direction::Egress => BPF_TCX_EGRESS,
        },
        ..LinkCreate::default()
    };
    // SAFETY: the layout of this command.
    let fd = unsafe { bpf(BPF_LINK_CREATE, &mut attributes) };
    Ok(owned(fd.context("cannot make a TCX link")?))
}

/// Keeps the calling thread on one processor.
pub(crate) fn pin_to_cpu(cpu: usize) -> Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu)?;
    let this_thread = nix::unistd::Pid::from_raw(0);
    nix::sched::sched_setaffinity(this_thread, &set)
        .with_context(|| format!("cannot pin to processor {cpu}"))
}

/// Sends frames out of an interface of the calling thread's namespace. One that is dropped on its
/// way out is no error.
pub(crate) fn send(ifindex: u32, frames: &[Vec<u8>]) -> Result<()> {
    // SAFETY: no pointer is passed.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("cannot open a packet socket");
    }
    let socket = owned(fd);
    // SAFETY: all zeros are a valid address structure.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = ifindex as i32;
    for frame in frames {
        // SAFETY: frame and address are valid for their lengths through the call.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::ENOBUFS) {
                return Err(error).context("cannot send a frame");
            }
        }
    }
    Ok(())
}
