//! Reading netlink messages without trusting them: bounds are checked, text need not be UTF-8.
//! Numbers are in host byte order, as netlink has them.
//!
//! Layouts and numbers: uapi `linux/netlink.h`.

use std::io;

/// `struct nlmsghdr`.
const HEADER_LEN: usize = 16;
/// `struct nlattr`.
pub(crate) const ATTRIBUTE_HEADER_LEN: usize = 4;
/// The type bits of an attribute, without the nested and byte-order flags (`NLA_TYPE_MASK`).
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;
/// The kernel's words in an error message's attributes (`NLMSGERR_ATTR_MSG`).
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Bytes that are not what their message type promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl From<Malformed> for io::Error {
    fn from(Malformed: Malformed) -> Self {
        Self::new(
            io::ErrorKind::InvalidData,
            "the kernel's answer is malformed",
        )
    }
}

impl From<Malformed> for super::NetlinkError {
    fn from(malformed: Malformed) -> Self {
        io::Error::from(malformed).into()
    }
}

/// One message of a datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    /// `RTM_*`, `NLMSG_*`, ...
    pub(crate) kind: u16,
    /// `NLM_F_*`.
    pub(crate) flags: u16,
    /// The sequence number of the request it answers.
    pub(crate) sequence: u32,
    /// What follows the header.
    pub(crate) body: &'a [u8],
}

/// The messages of a datagram. A malformed header ends it: the next one cannot be found.
pub(crate) fn messages(
    mut datagram: &[u8],
) -> impl Iterator<Item = Result<Message<'_>, Malformed>> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let message = split_message(&mut datagram);
        if message.is_err() {
            datagram = &[];
        }
        Some(message)
    })
}

fn split_message<'a>(datagram: &mut &'a [u8]) -> Result<Message<'a>, Malformed> {
    let length = u32_at(datagram, 0)? as usize;
    let bytes = datagram.get(..length).ok_or(Malformed)?;
    let message = Message {
        kind: u16_at(bytes, 4)?,
        flags: u16_at(bytes, 6)?,
        sequence: u32_at(bytes, 8)?,
        body: bytes.get(HEADER_LEN..).ok_or(Malformed)?,
    };
    *datagram = datagram
        .get(length.next_multiple_of(4)..)
        .unwrap_or_default();
    Ok(message)
}

/// The attributes of a message or of a nested attribute, as type and value.
pub(crate) fn attributes(
    mut bytes: &[u8],
) -> impl Iterator<Item = Result<(u16, &[u8]), Malformed>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let attribute = split_attribute(&mut bytes);
        if attribute.is_err() {
            bytes = &[];
        }
        Some(attribute)
    })
}

fn split_attribute<'a>(bytes: &mut &'a [u8]) -> Result<(u16, &'a [u8]), Malformed> {
    let length = usize::from(u16_at(bytes, 0)?);
    let kind = u16_at(bytes, 2)? & ATTRIBUTE_TYPE_MASK;
    let value = bytes.get(ATTRIBUTE_HEADER_LEN..length).ok_or(Malformed)?;
    *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Ok((kind, value))
}

/// The error code in an `NLMSG_ERROR` or `NLMSG_DONE`: 0 or a negative errno.
pub(crate) fn decode_error(body: &[u8]) -> Result<i32, Malformed> {
    i32_at(body, 0)
}

/// The words that may come with an `NLMSG_ERROR` whose request is not repeated in it
/// (`NLM_F_CAPPED`): they follow the code and the request's header.
pub(crate) fn decode_explanation(body: &[u8]) -> Option<String> {
    attributes(body.get(4 + HEADER_LEN..)?)
        .map_while(Result::ok)
        .find(|&(kind, _)| kind == NLMSGERR_ATTR_MSG)
        .map(|(_, value)| text(value))
}

/// Text up to its terminating zero. A pod may give its interfaces any bytes for a name.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

pub(crate) fn bytes_at<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N], Malformed> {
    bytes
        .get(offset..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .ok_or(Malformed)
}

pub(crate) fn u8_at(bytes: &[u8], offset: usize) -> Result<u8, Malformed> {
    bytes_at(bytes, offset).map(u8::from_ne_bytes)
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Result<u16, Malformed> {
    bytes_at(bytes, offset).map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Result<u32, Malformed> {
    bytes_at(bytes, offset).map(u32::from_ne_bytes)
}

pub(crate) fn i32_at(bytes: &[u8], offset: usize) -> Result<i32, Malformed> {
    bytes_at(bytes, offset).map(i32::from_ne_bytes)
}
