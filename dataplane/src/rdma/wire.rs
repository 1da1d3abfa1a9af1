//! The numbers of RDMA netlink, and its values read to the letter: a value whose length is not that
//! of its type is malformed. Attributes that are not asked for are passed over, whatever they hold:
//! newer kernels have more of them.
//!
//! Source: uapi `rdma/rdma_netlink.h`.

use crate::netlink::{
    Request,
    decode::{Malformed, attributes},
};

/// The device client of RDMA netlink, in the upper bits of a message's type.
const RDMA_NL_NLDEV: u16 = 5;

pub(super) const CMD_GET: u16 = 1;
pub(super) const CMD_SET: u16 = 2;
pub(super) const CMD_PORT_GET: u16 = 5;
pub(super) const CMD_SYS_GET: u16 = 6;
pub(super) const CMD_SYS_SET: u16 = 7;
pub(super) const CMD_RES_GET: u16 = 9;
pub(super) const CMD_RES_QP_GET: u16 = 10;
pub(super) const CMD_RES_CM_ID_GET: u16 = 11;
pub(super) const CMD_RES_CQ_GET: u16 = 12;
pub(super) const CMD_RES_MR_GET: u16 = 13;
pub(super) const CMD_RES_PD_GET: u16 = 14;
pub(super) const CMD_GET_CHARDEV: u16 = 15;
pub(super) const CMD_STAT_SET: u16 = 16;
pub(super) const CMD_STAT_GET: u16 = 17;
pub(super) const CMD_STAT_GET_STATUS: u16 = 24;

pub(super) const DEV_INDEX: u16 = 1;
pub(super) const DEV_NAME: u16 = 2;
pub(super) const PORT_INDEX: u16 = 3;
pub(super) const FW_VERSION: u16 = 5;
pub(super) const NODE_GUID: u16 = 6;
pub(super) const SYS_IMAGE_GUID: u16 = 7;
pub(super) const LID: u16 = 9;
pub(super) const PORT_STATE: u16 = 12;
pub(super) const PORT_PHYS_STATE: u16 = 13;
pub(super) const RES_SUMMARY: u16 = 15;
pub(super) const RES_SUMMARY_ENTRY: u16 = 16;
pub(super) const RES_SUMMARY_ENTRY_NAME: u16 = 17;
pub(super) const RES_SUMMARY_ENTRY_CURR: u16 = 18;
pub(super) const RES_QP: u16 = 19;
pub(super) const RES_QP_ENTRY: u16 = 20;
pub(super) const RES_LQPN: u16 = 21;
pub(super) const RES_RQPN: u16 = 22;
pub(super) const RES_RQ_PSN: u16 = 23;
pub(super) const RES_SQ_PSN: u16 = 24;
pub(super) const RES_TYPE: u16 = 26;
pub(super) const RES_STATE: u16 = 27;
pub(super) const RES_PID: u16 = 28;
pub(super) const RES_KERN_NAME: u16 = 29;
pub(super) const RES_CM_ID: u16 = 30;
pub(super) const RES_CM_ID_ENTRY: u16 = 31;
pub(super) const RES_PS: u16 = 32;
pub(super) const RES_SRC_ADDR: u16 = 33;
pub(super) const RES_DST_ADDR: u16 = 34;
pub(super) const RES_CQ: u16 = 35;
pub(super) const RES_CQ_ENTRY: u16 = 36;
pub(super) const RES_CQE: u16 = 37;
pub(super) const RES_USECNT: u16 = 38;
pub(super) const RES_MR: u16 = 40;
pub(super) const RES_MR_ENTRY: u16 = 41;
pub(super) const RES_MRLEN: u16 = 45;
pub(super) const RES_PD: u16 = 46;
pub(super) const RES_PD_ENTRY: u16 = 47;
pub(super) const NDEV_INDEX: u16 = 50;
pub(super) const NDEV_NAME: u16 = 51;
pub(super) const RES_PDN: u16 = 60;
pub(super) const RES_CQN: u16 = 61;
pub(super) const RES_MRN: u16 = 62;
pub(super) const RES_CM_IDN: u16 = 63;
pub(super) const SYS_NETNS_MODE: u16 = 66;
pub(super) const DEV_PROTOCOL: u16 = 67;
pub(super) const NET_NS_FD: u16 = 68;
pub(super) const CHARDEV_TYPE: u16 = 69;
pub(super) const CHARDEV_NAME: u16 = 70;
pub(super) const CHARDEV_ABI: u16 = 71;
pub(super) const CHARDEV: u16 = 72;
pub(super) const UVERBS_DRIVER_ID: u16 = 73;
pub(super) const STAT_MODE: u16 = 74;
pub(super) const STAT_RES: u16 = 75;
pub(super) const STAT_AUTO_MODE_MASK: u16 = 76;
pub(super) const STAT_COUNTER: u16 = 77;
pub(super) const STAT_COUNTER_ENTRY: u16 = 78;
pub(super) const STAT_COUNTER_ID: u16 = 79;
pub(super) const STAT_HWCOUNTERS: u16 = 80;
pub(super) const STAT_HWCOUNTER_ENTRY: u16 = 81;
pub(super) const STAT_HWCOUNTER_ENTRY_NAME: u16 = 82;
pub(super) const STAT_HWCOUNTER_ENTRY_VALUE: u16 = 83;
pub(super) const STAT_HWCOUNTER_INDEX: u16 = 94;
pub(super) const STAT_HWCOUNTER_DYNAMIC: u16 = 95;
pub(super) const STAT_OPCOUNTER_ENABLED: u16 = 104;
pub(super) const RES_SUMMARY_ENTRY_MAX: u16 = 118;

/// A request with this command (`RDMA_NL_GET_TYPE`).
pub(super) fn request(command: u16) -> Request {
    Request::new(kind(command))
}

/// The type of a message with this command.
pub(super) fn kind(command: u16) -> u16 {
    RDMA_NL_NLDEV << 10 | command
}

/// The values of these attributes, in their order; of one that is there twice, the last.
///
/// This is how an object is read: a table of its attributes, then what each has to be.
pub(super) fn fields<const N: usize>(
    bytes: &[u8],
    table: [u16; N],
) -> Result<[Option<&[u8]>; N], Malformed> {
    let mut values = [None; N];
    for attribute in attributes(bytes) {
        let (kind, value) = attribute?;
        if let Some(place) = table.iter().position(|&wanted| wanted == kind) {
            values[place] = Some(value);
        }
    }
    Ok(values)
}

/// An attribute that an object cannot be without.
pub(super) fn required<T>(
    value: Option<&[u8]>,
    read: impl FnOnce(&[u8]) -> Result<T, Malformed>,
) -> Result<T, Malformed> {
    read(value.ok_or(Malformed)?)
}

/// An attribute that an object may have.
pub(super) fn optional<T>(
    value: Option<&[u8]>,
    read: impl FnOnce(&[u8]) -> Result<T, Malformed>,
) -> Result<Option<T>, Malformed> {
    value.map(read).transpose()
}

/// Calls `take` with the value of each attribute of this kind.
pub(super) fn each_of<'a>(
    bytes: &'a [u8],
    kind: u16,
    mut take: impl FnMut(&'a [u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    for attribute in attributes(bytes) {
        let (found, value) = attribute?;
        if found == kind {
            take(value)?;
        }
    }
    Ok(())
}

/// Decodes each `entry` in the `list`s of a message.
pub(super) fn list<'a, T>(
    body: &'a [u8],
    list: u16,
    entry: u16,
    decode: impl Fn(&'a [u8]) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let mut decoded = Vec::new();
    each_of(body, list, |entries| {
        each_of(entries, entry, |bytes| {
            decoded.push(decode(bytes)?);
            Ok(())
        })
    })?;
    Ok(decoded)
}

pub(super) fn byte(value: &[u8]) -> Result<u8, Malformed> {
    let [number] = exactly(value)?;
    Ok(number)
}

pub(super) fn u32(value: &[u8]) -> Result<u32, Malformed> {
    exactly(value).map(u32::from_ne_bytes)
}

pub(super) fn u64(value: &[u8]) -> Result<u64, Malformed> {
    exactly(value).map(u64::from_ne_bytes)
}

/// Text with its terminating zero. Whoever made a thing may have given it bytes that are no UTF-8.
pub(super) fn text(value: &[u8]) -> Result<String, Malformed> {
    match value.split_last() {
        Some((0, text)) if !text.contains(&0) => Ok(String::from_utf8_lossy(text).into_owned()),
        _ => Err(Malformed),
    }
}

fn exactly<const N: usize>(value: &[u8]) -> Result<[u8; N], Malformed> {
    value.try_into().map_err(|_| Malformed)
}
