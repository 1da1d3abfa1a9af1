//! What each program costs this kernel's verifier, for `cargo xtask lab report`.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{harness::Programs, netns::output};

/// Instructions that the verifier is willing to follow (`BPF_COMPLEXITY_LIMIT_INSNS`, kernel
/// `include/linux/bpf.h`).
const LIMIT: u32 = 1_000_000;
/// A program's stack in bytes (`MAX_BPF_STACK`, kernel `include/linux/filter.h`).
const STACK: u32 = 512;

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn every_program_loads_far_from_the_verifiers_limits() -> Result<()> {
    let programs = Programs::load()?;
    let mut names = programs.names();
    names.sort();
    for name in names {
        let info = programs.info(&name)?;
        let verified = info
            .verified_instruction_count()
            .context("the kernel tells no number of verified instructions")?;
        let translated = info.size_translated().context("no translated size")? / 8;
        let stack = stack(info.id())?;
        println!("EFFORT {name} {verified} {translated} {stack}");
        // A new kernel may need some more.
        ensure!(verified < LIMIT / 4, "{name}: {verified} instructions");
        ensure!(stack <= STACK, "{name}: {stack} bytes of stack");
    }
    Ok(())
}

/// The largest stack frame of a program's functions in bytes: how far below the frame pointer its
/// instructions (uapi `linux/bpf.h`, `struct bpf_insn`) reach. The kernel has no word for it but the
/// verifier's log.
fn stack(program: u32) -> Result<u32> {
    let file = tempfile::NamedTempFile::new()?;
    let mut bpftool = Command::new("bpftool");
    bpftool.args(["prog", "dump", "xlated", "id", &program.to_string(), "file"]);
    output(bpftool.arg(file.path()))?;
    Ok(deepest(&fs::read(file.path())?).unsigned_abs())
}

/// The lowest offset from the frame pointer that instructions address.
fn deepest(code: &[u8]) -> i32 {
    const FRAME_POINTER: u8 = 10;
    const CLASS: u8 = 0x07;
    /// Classes `BPF_LDX`, `BPF_ST`, `BPF_STX`.
    const LOAD: u8 = 1;
    const STORE: u8 = 2;
    const STORE_REGISTER: u8 = 3;
    /// `BPF_ALU64 | BPF_MOV | BPF_X`.
    const COPY: u8 = 0xbf;
    /// `BPF_ALU64 | BPF_ADD | BPF_K`.
    const ADD: u8 = 0x07;

    let mut lowest = 0;
    let mut is_frame = [false; 16];
    is_frame[usize::from(FRAME_POINTER)] = true;
    for instruction in code.as_chunks::<8>().0 {
        let [operation, registers, o0, o1, i0, i1, i2, i3] = *instruction;
        let (to, from) = (registers & 15, registers >> 4);
        let offset = i32::from(i16::from_le_bytes([o0, o1]));
        let number = i32::from_le_bytes([i0, i1, i2, i3]);
        match operation {
            COPY => is_frame[usize::from(to)] = is_frame[usize::from(from)],
            ADD if is_frame[usize::from(to)] && to != FRAME_POINTER => {
                lowest = lowest.min(number);
                is_frame[usize::from(to)] = false;
            }
            _ => match operation & CLASS {
                LOAD if from == FRAME_POINTER => lowest = lowest.min(offset),
                STORE | STORE_REGISTER if to == FRAME_POINTER => lowest = lowest.min(offset),
                _ => {}
            },
        }
    }
    lowest
}

#[test]
fn the_deepest_stack_byte_is_found() {
    let code = [
        // *(u64 *)(r10 - 16) = r1
        [0x7b, 0x1a, 0xf0, 0xff, 0, 0, 0, 0],
        // r2 = r10; r2 += -40
        [0xbf, 0xa2, 0, 0, 0, 0, 0, 0],
        [0x07, 0x02, 0, 0, 0xd8, 0xff, 0xff, 0xff],
        // r3 += -100, which is no address in the frame
        [0x07, 0x03, 0, 0, 0x9c, 0xff, 0xff, 0xff],
    ];
    assert_eq!(deepest(code.as_flattened()), -40);
}
