//! Sluice's eBPF programs; built by `cargo xtask build` for the BPF target.
//!
//! | program | hook | job |
//! |---|---|---|
//! | `entry_ingress`, `entry_egress` | TC of a pod's interface | note the endpoint id, tail-call the pipeline |
//! | `pipeline_ingress`, `pipeline_egress` | slots of `pipeline` | parse, count |
//! | `policy_ingress`, `policy_egress` | slots of `pipeline` | judge packets of isolated endpoints, count |
//! | `uplink_xdp`, `uplink_xdp_one` | XDP of an uplink | wire counters, block list |
//! | `uplink_egress` | TC egress of an uplink | turn frames between the node and its pods around |
//! | `carry` | none | add what older maps counted, when their sizes or layout change |

#![no_std]
#![no_main]
// The BPF target has no `fetch_add`, only the instruction behind it.
#![feature(core_intrinsics)]
// For what the verifier must find in one register.
#![feature(asm_experimental_arch)]
#![allow(internal_features)]

mod programs;

/// The kernel lets only GPL-compatible programs call some helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program from which this could be reached.
    loop {}
}
