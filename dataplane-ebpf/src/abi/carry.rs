//! What older maps had counted, on its way into new ones.

use super::coded_enum;

coded_enum! {
    /// Where a [`Carry`] is added.
    pub enum CarryTo {
        /// `ep_stats`, by index.
        EndpointStats = 0 => "ep_stats",
        /// `drops`.
        Drops = 1 => "drops",
        /// `roce_stats`.
        RoceStats = 2 => "roce_stats",
        /// `faults`, by index; bytes are nothing.
        Faults = 3 => "faults",
        /// `uplink_stats`, by index.
        UplinkStats = 4 => "uplink_stats",
        /// `flow_stats`, by index; bytes are nothing.
        FlowStats = 5 => "flow_stats",
        /// `would_drop`.
        WouldDrop = 6 => "would_drop",
    }
}

/// What an older map had counted under one key: the packet that the agent runs
/// the program `carry` on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carry {
    /// Its place among all that is carried over, from 0. Each is added once,
    /// however often it is offered.
    pub number: u64,
    /// [`CarryTo`].
    pub to: u32,
    /// Always zero: where a frame has its ethertype, by which the kernel would
    /// look for more in it.
    pub pad: u32,
    /// Packets, or whatever the map counts.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// The key, as bytes; of an index, the first word.
    pub key: [u32; 2],
}

impl Carry {
    /// What `carry` returns when it has added the record.
    pub const ADDED: i32 = 0;
    /// The record's turn is over already, or has not come.
    pub const OUT_OF_TURN: i32 = 1;
    /// The map has no room for it, or it is no record.
    pub const LOST: i32 = 2;

    /// The record as a packet.
    #[cfg(not(feature = "kernel"))]
    pub fn octets(&self) -> [u8; 40] {
        let [first, second] = self.key;
        let fields = [
            &self.number.to_ne_bytes()[..],
            &self.to.to_ne_bytes(),
            &self.pad.to_ne_bytes(),
            &self.packets.to_ne_bytes(),
            &self.bytes.to_ne_bytes(),
            &first.to_ne_bytes(),
            &second.to_ne_bytes(),
        ];
        let mut octets = [0; 40];
        let bytes = fields.into_iter().flatten();
        for (octet, byte) in octets.iter_mut().zip(bytes) {
            *octet = *byte;
        }
        octets
    }
}

// SAFETY: repr(C) integers without padding.
unsafe impl crate::parse::Wire for Carry {}
