//! What is read of RoCE packets, and how sequences are followed.

mod exchanges;
mod opcodes;
mod reading;
mod tracking;

use super::*;
use crate::parse::parse;

/// Reads an accepted frame.
fn read_frame(frame: &[u8]) -> RocePacket {
    let headers = parse(frame).unwrap();
    let mut roce = RocePacket::default();
    read(frame, &headers, &mut roce);
    roce
}
