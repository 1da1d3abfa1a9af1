//! Reading the ring buffer of events.

use std::io;

use aya::maps::{MapData, RingBuf};
use dataplane_ebpf::abi::Event;
use tokio::io::{Interest, unix::AsyncFd};

/// The programs' events, in order.
pub struct EventReader {
    ring: RingBuf<MapData>,
}

impl EventReader {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// Hands every event to `deliver`, for as long as the process lives.
    ///
    /// # Errors
    /// The ring buffer cannot be waited for.
    pub async fn run(self, mut deliver: impl FnMut(Event)) -> io::Result<()> {
        // SAFETY: the descriptor is the map's, which the ring owns and nobody
        // else closes.
        let mut ring = unsafe { AsyncFd::register_with_interest(self.ring, Interest::READABLE)? };
        loop {
            let mut ready = ring.readable_mut().await?;
            let ring = ready.get_inner_mut();
            while let Some(record) = ring.next() {
                // A record of another size is another version's.
                if record.len() == size_of::<Event>() {
                    // SAFETY: the record has the size of an Event, whose every
                    // bit pattern is valid (`Plain`).
                    deliver(unsafe { record.as_ptr().cast::<Event>().read_unaligned() });
                }
            }
            ready.clear_ready();
        }
    }
}
