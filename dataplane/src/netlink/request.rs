//! Requests that no library writes.

use netlink_packet_core::{Emitable, NetlinkSerializable};

use super::decode::ATTRIBUTE_HEADER_LEN;

/// A message's type and body. Numbers are in host byte order.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    kind: u16,
    body: Vec<u8>,
}

impl Request {
    /// A request of this type without a body.
    pub(crate) fn new(kind: u16) -> Self {
        Self {
            kind,
            body: Vec::new(),
        }
    }

    /// Its type.
    pub(crate) fn kind(&self) -> u16 {
        self.kind
    }

    /// A request with the body of a library's message under another type.
    pub(crate) fn with_body(kind: u16, message: &impl Emitable) -> Self {
        let mut body = vec![0; message.buffer_len()];
        message.emit(&mut body);
        Self { kind, body }
    }

    /// Adds an attribute. Values are small: the length field has 16 bits.
    #[must_use]
    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(ATTRIBUTE_HEADER_LEN + value.len()).unwrap_or(u16::MAX);
        self.body.extend_from_slice(&length.to_ne_bytes());
        self.body.extend_from_slice(&kind.to_ne_bytes());
        self.body.extend_from_slice(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a 32-bit attribute.
    #[must_use]
    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Adds an attribute that holds others.
    #[must_use]
    pub(crate) fn nested(self, kind: u16, inner: impl FnOnce(Self) -> Self) -> Self {
        let inner = inner(Self::new(self.kind));
        self.attribute(kind | libc::NLA_F_NESTED as u16, &inner.body)
    }

    /// Adds text with its terminating zero.
    #[must_use]
    pub(crate) fn text(self, kind: u16, text: &str) -> Self {
        let bytes = [text.as_bytes(), &[0]].concat();
        self.attribute(kind, &bytes)
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
