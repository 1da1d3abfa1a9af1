//! Requests that no library writes.

use netlink_packet_core::{Emitable, NetlinkSerializable};

/// A message's type and body. Numbers are in host byte order.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    kind: u16,
    body: Vec<u8>,
}

impl Request {
    /// A request with the body of a library's message under another type.
    pub(crate) fn with_body(kind: u16, message: &impl Emitable) -> Self {
        let mut body = vec![0; message.buffer_len()];
        message.emit(&mut body);
        Self { kind, body }
    }
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}
