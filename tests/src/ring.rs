//! Frames put on an interface out of a transmit ring (`PACKET_TX_RING`, packet(7)): the kernel makes
//! packets of them whose linear part is the link header alone, with all else in the ring's pages.

use std::{os::fd::AsRawFd as _, ptr::NonNull};

use anyhow::{Context as _, Result, ensure};
use nix::{errno::Errno, sys::socket::bind};

use crate::{netns::TestNetns, wire::Wire};

/// One slot of the ring: header and frame; a page.
const SLOT: usize = 4096;
/// Where a frame starts behind the header of version 1 (`tpacket_hdr`, aligned to 16 bytes; uapi
/// `linux/if_packet.h`).
const DATA: usize = 32;
/// `TP_STATUS_AVAILABLE`, `TP_STATUS_SEND_REQUEST`.
const AVAILABLE: usize = 0;
const SEND_REQUEST: usize = 1;

/// A ring with one slot on one interface.
#[derive(Debug)]
pub struct Ring {
    wire: Wire,
    slot: NonNull<libc::c_void>,
}

impl Ring {
    /// Opens an interface of a namespace.
    ///
    /// # Errors
    /// It is not there, or this process is not root.
    pub fn open(netns: &TestNetns, interface: &str) -> Result<Self> {
        let wire = Wire::open(netns, interface)?;
        let socket = wire.socket.as_raw_fd();
        bind(socket, &wire.link)?;
        let request = libc::tpacket_req {
            tp_block_size: SLOT as u32,
            tp_block_nr: 1,
            tp_frame_size: SLOT as u32,
            tp_frame_nr: 1,
        };
        // SAFETY: the option's value is a `tpacket_req`, valid through the call.
        let set = unsafe {
            libc::setsockopt(
                socket,
                libc::SOL_PACKET,
                libc::PACKET_TX_RING,
                (&raw const request).cast(),
                size_of_val(&request) as libc::socklen_t,
            )
        };
        Errno::result(set).context("cannot make a transmit ring")?;
        // SAFETY: a new mapping, of the ring's length.
        let slot = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                SLOT,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket,
                0,
            )
        };
        let slot = NonNull::new(slot).filter(|slot| slot.as_ptr() != libc::MAP_FAILED);
        let slot = slot.context("cannot map the transmit ring")?;
        Ok(Self { wire, slot })
    }

    /// The interface's MAC address.
    pub fn mac(&self) -> [u8; 6] {
        self.wire.mac()
    }

    /// Sends a frame. False when a program on the interface dropped it, as the kernel tells the
    /// sender.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn send(&self, frame: &[u8]) -> Result<bool> {
        ensure!(
            frame.len() <= SLOT - DATA,
            "{} bytes are too many",
            frame.len()
        );
        let header = self.slot.cast::<libc::tpacket_hdr>();
        let status = header.cast::<usize>();
        // SAFETY: header and frame lie inside the slot, which is the program's while its status is
        // "available"; the status is the header's first field.
        unsafe {
            let data = self.slot.as_ptr().cast::<u8>().add(DATA);
            data.copy_from_nonoverlapping(frame.as_ptr(), frame.len());
            (*header.as_ptr()).tp_len = frame.len() as u32;
            status.write_volatile(SEND_REQUEST);
        }
        // SAFETY: nothing is passed but the descriptor; returns when the slot is done with.
        let sent = unsafe { libc::send(self.wire.socket.as_raw_fd(), std::ptr::null(), 0, 0) };
        match Errno::result(sent) {
            Ok(_) => {}
            // The slot stays as it is, to be sent again; the next frame overwrites it.
            Err(Errno::ENOBUFS) => return Ok(false),
            Err(error) => return Err(error).context("cannot send a frame"),
        }
        // SAFETY: as above.
        let status = unsafe { status.read_volatile() };
        ensure!(status == AVAILABLE, "the frame is refused: status {status}");
        Ok(true)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is this ring's, and nothing points into it any more.
        unsafe { libc::munmap(self.slot.as_ptr(), SLOT) };
    }
}
