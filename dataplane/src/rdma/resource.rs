//! What processes hold of an RDMA device: queue pairs, connections, memory.
//!
//! A process id is given as the reader's pid namespace has it: the agent must be in the node's.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use super::{
    Rdma, RdmaError,
    device::states,
    wire::{self, optional, required},
};
use crate::netlink::decode::{Malformed, bytes_at, u16_at};

/// How many objects of a kind there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceCount {
    /// `qp`, `cq`, `mr`, `pd`, `cm_id`, `ctx`, `srq`.
    pub kind: String,
    /// How many there are.
    pub current: u64,
    /// How many there can be, where the kernel tells.
    pub max: Option<u64>,
}

/// The kinds of objects whose owners the kernel tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceKind {
    /// Queue pairs.
    Qp,
    /// Completion queues.
    Cq,
    /// Memory regions.
    Mr,
    /// Protection domains.
    Pd,
    /// Connections and listeners of the connection manager.
    CmId,
}

impl ResourceKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Qp, Self::Cq, Self::Mr, Self::Pd, Self::CmId];

    /// The kernel's name for it, which is also its label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qp => "qp",
            Self::Cq => "cq",
            Self::Mr => "mr",
            Self::Pd => "pd",
            Self::CmId => "cm_id",
        }
    }
}

/// Who holds an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// A process.
    Process(u32),
    /// A part of the kernel, by its name.
    Kernel(String),
    /// A process of which the reader is not told.
    Unknown,
}

/// How many objects each owner has.
pub type Owned = HashMap<Owner, u64>;

states! {
    /// `enum ib_qp_type` (`rdma/ib_verbs.h`).
    QpType {
        0 => Smi "SMI",
        1 => Gsi "GSI",
        2 => Rc "RC",
        3 => Uc "UC",
        4 => Ud "UD",
        5 => RawIpv6 "RAW_IPV6",
        6 => RawEthertype "RAW_ETHERTYPE",
        8 => RawPacket "RAW_PACKET",
        9 => XrcInitiator "XRC_INI",
        10 => XrcTarget "XRC_TGT",
        0xff => Driver "DRIVER",
    }
}

states! {
    /// `enum ib_qp_state` (`rdma/ib_verbs.h`).
    QpState {
        0 => Reset "RESET",
        1 => Init "INIT",
        2 => ReadyToReceive "RTR",
        3 => ReadyToSend "RTS",
        4 => SendDrained "SQD",
        5 => SendError "SQE",
        6 => Error "ERR",
    }
}

/// A queue pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePair {
    /// Its number at this device.
    pub number: u32,
    /// The port that it is bound to, if yet.
    pub port: Option<u32>,
    /// Its kind.
    pub kind: QpType,
    /// How far it has come.
    pub state: QpState,
    /// The other side's queue pair, of a connected one.
    pub remote: Option<u32>,
    /// The packet sequence number next to be received, of a connected one.
    pub receive_psn: Option<u32>,
    /// The packet sequence number next to be sent.
    pub send_psn: Option<u32>,
    /// Its protection domain.
    pub domain: Option<u32>,
    /// Who holds it.
    pub owner: Owner,
}

/// A connection of the connection manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CmId {
    /// Its number, where the kernel gives one.
    pub id: Option<u32>,
    /// Its queue pair.
    pub queue_pair: Option<u32>,
    /// `RDMA_PS_*` (uapi `rdma/rdma_user_cm.h`): 0x0106 is TCP-like, 0x0111 UDP-like.
    pub port_space: u32,
    /// The number of its state (`enum rdma_cm_state`).
    pub state: u8,
    /// Its own address.
    pub source: Option<SocketAddr>,
    /// The other side's address.
    pub destination: Option<SocketAddr>,
    /// Who holds it.
    pub owner: Owner,
}

/// A memory region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRegion {
    /// Its number, where the kernel gives one.
    pub id: Option<u32>,
    /// Bytes.
    pub length: u64,
    /// Its protection domain.
    pub domain: Option<u32>,
    /// Who holds it.
    pub owner: Owner,
}

/// A completion queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletionQueue {
    /// Its number, where the kernel gives one.
    pub id: Option<u32>,
    /// Completions that fit.
    pub capacity: u32,
    /// How many use it.
    pub users: u64,
    /// Who holds it.
    pub owner: Owner,
}

/// A protection domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectionDomain {
    /// Its number, where the kernel gives one.
    pub id: Option<u32>,
    /// How many use it.
    pub users: u64,
    /// Who holds it.
    pub owner: Owner,
}

/// An object that the kernel lists.
pub(super) trait Object: Sized {
    /// The command that lists them.
    const COMMAND: u16;
    /// The attribute that holds them.
    const LIST: u16;
    /// The attribute that is one of them.
    const ENTRY: u16;
    /// What they are, for error messages.
    const NAME: &'static str;

    fn decode(entry: &[u8]) -> Result<Self, Malformed>;
}

/// Who holds an object, from the values of [`wire::RES_PID`] and [`wire::RES_KERN_NAME`].
fn owner(process: Option<&[u8]>, kernel: Option<&[u8]>) -> Result<Owner, Malformed> {
    let process = optional(process, wire::u32)?;
    Ok(match (optional(kernel, wire::text)?, process) {
        (Some(name), _) => Owner::Kernel(name),
        // 0: the process is in no pid namespace that the reader sees.
        (None, Some(0) | None) => Owner::Unknown,
        (None, Some(process)) => Owner::Process(process),
    })
}

impl Object for QueuePair {
    const COMMAND: u16 = wire::CMD_RES_QP_GET;
    const LIST: u16 = wire::RES_QP;
    const ENTRY: u16 = wire::RES_QP_ENTRY;
    const NAME: &'static str = "queue pairs";

    fn decode(entry: &[u8]) -> Result<Self, Malformed> {
        let [
            number,
            kind,
            state,
            port,
            remote,
            received,
            sent,
            domain,
            process,
            kernel,
        ] = wire::fields(
            entry,
            [
                wire::RES_LQPN,
                wire::RES_TYPE,
                wire::RES_STATE,
                wire::PORT_INDEX,
                wire::RES_RQPN,
                wire::RES_RQ_PSN,
                wire::RES_SQ_PSN,
                wire::RES_PDN,
                wire::RES_PID,
                wire::RES_KERN_NAME,
            ],
        )?;
        Ok(Self {
            number: required(number, wire::u32)?,
            kind: required(kind, wire::byte)?.into(),
            state: required(state, wire::byte)?.into(),
            port: optional(port, wire::u32)?.filter(|&port| port != 0),
            remote: optional(remote, wire::u32)?,
            receive_psn: optional(received, wire::u32)?,
            send_psn: optional(sent, wire::u32)?,
            domain: optional(domain, wire::u32)?,
            owner: owner(process, kernel)?,
        })
    }
}

impl Object for CmId {
    const COMMAND: u16 = wire::CMD_RES_CM_ID_GET;
    const LIST: u16 = wire::RES_CM_ID;
    const ENTRY: u16 = wire::RES_CM_ID_ENTRY;
    const NAME: &'static str = "connections";

    fn decode(entry: &[u8]) -> Result<Self, Malformed> {
        let [
            id,
            queue_pair,
            port_space,
            state,
            source,
            destination,
            process,
            kernel,
        ] = wire::fields(
            entry,
            [
                wire::RES_CM_IDN,
                wire::RES_LQPN,
                wire::RES_PS,
                wire::RES_STATE,
                wire::RES_SRC_ADDR,
                wire::RES_DST_ADDR,
                wire::RES_PID,
                wire::RES_KERN_NAME,
            ],
        )?;
        Ok(Self {
            id: optional(id, wire::u32)?,
            queue_pair: optional(queue_pair, wire::u32)?,
            port_space: required(port_space, wire::u32)?,
            state: required(state, wire::byte)?,
            source: optional(source, socket_address)?.flatten(),
            destination: optional(destination, socket_address)?.flatten(),
            owner: owner(process, kernel)?,
        })
    }
}

impl Object for MemoryRegion {
    const COMMAND: u16 = wire::CMD_RES_MR_GET;
    const LIST: u16 = wire::RES_MR;
    const ENTRY: u16 = wire::RES_MR_ENTRY;
    const NAME: &'static str = "memory regions";

    fn decode(entry: &[u8]) -> Result<Self, Malformed> {
        let [id, length, domain, process, kernel] = wire::fields(
            entry,
            [
                wire::RES_MRN,
                wire::RES_MRLEN,
                wire::RES_PDN,
                wire::RES_PID,
                wire::RES_KERN_NAME,
            ],
        )?;
        Ok(Self {
            id: optional(id, wire::u32)?,
            length: required(length, wire::u64)?,
            domain: optional(domain, wire::u32)?,
            owner: owner(process, kernel)?,
        })
    }
}

impl Object for CompletionQueue {
    const COMMAND: u16 = wire::CMD_RES_CQ_GET;
    const LIST: u16 = wire::RES_CQ;
    const ENTRY: u16 = wire::RES_CQ_ENTRY;
    const NAME: &'static str = "completion queues";

    fn decode(entry: &[u8]) -> Result<Self, Malformed> {
        let [id, capacity, users, process, kernel] = wire::fields(
            entry,
            [
                wire::RES_CQN,
                wire::RES_CQE,
                wire::RES_USECNT,
                wire::RES_PID,
                wire::RES_KERN_NAME,
            ],
        )?;
        Ok(Self {
            id: optional(id, wire::u32)?,
            capacity: required(capacity, wire::u32)?,
            users: required(users, wire::u64)?,
            owner: owner(process, kernel)?,
        })
    }
}

impl Object for ProtectionDomain {
    const COMMAND: u16 = wire::CMD_RES_PD_GET;
    const LIST: u16 = wire::RES_PD;
    const ENTRY: u16 = wire::RES_PD_ENTRY;
    const NAME: &'static str = "protection domains";

    fn decode(entry: &[u8]) -> Result<Self, Malformed> {
        let [id, users, process, kernel] = wire::fields(
            entry,
            [
                wire::RES_PDN,
                wire::RES_USECNT,
                wire::RES_PID,
                wire::RES_KERN_NAME,
            ],
        )?;
        Ok(Self {
            id: optional(id, wire::u32)?,
            users: required(users, wire::u64)?,
            owner: owner(process, kernel)?,
        })
    }
}

/// A `struct sockaddr_in` or `sockaddr_in6`, possibly with the rest of a `sockaddr_storage` behind
/// it; `None` for an address that is not set or of another family (`sockaddr_ib`).
fn socket_address(value: &[u8]) -> Result<Option<SocketAddr>, Malformed> {
    let port = || bytes_at(value, 2).map(u16::from_be_bytes);
    let address = match i32::from(u16_at(value, 0)?) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::from(bytes_at(value, 4)?)),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::from(bytes_at(value, 8)?)),
        _ => return Ok(None),
    };
    Ok(Some(SocketAddr::new(address, port()?)))
}

pub(super) fn decode_all<T: Object>(body: &[u8]) -> Result<Vec<T>, Malformed> {
    wire::list(body, T::LIST, T::ENTRY, T::decode)
}

/// Adds up how many objects of a message each owner has, and reads nothing else of them.
fn count_owners<T: Object>(body: &[u8], counts: &mut Owned) -> Result<(), Malformed> {
    wire::each_of(body, T::LIST, |entries| {
        wire::each_of(entries, T::ENTRY, |entry| {
            let [process, kernel] = wire::fields(entry, [wire::RES_PID, wire::RES_KERN_NAME])?;
            *counts.entry(owner(process, kernel)?).or_default() += 1;
            Ok(())
        })
    })
}

pub(super) fn decode_summary(body: &[u8]) -> Result<Vec<ResourceCount>, Malformed> {
    wire::list(body, wire::RES_SUMMARY, wire::RES_SUMMARY_ENTRY, |entry| {
        let [kind, current, max] = wire::fields(
            entry,
            [
                wire::RES_SUMMARY_ENTRY_NAME,
                wire::RES_SUMMARY_ENTRY_CURR,
                wire::RES_SUMMARY_ENTRY_MAX,
            ],
        )?;
        Ok(ResourceCount {
            kind: required(kind, wire::text)?,
            current: required(current, wire::u64)?,
            max: optional(max, wire::u64)?,
        })
    })
}

impl Rdma {
    /// How many objects of each kind a device has.
    ///
    /// # Errors
    /// [`RdmaError::Request`].
    pub fn resources(&mut self, device: u32) -> Result<Vec<ResourceCount>, RdmaError> {
        let request = wire::request(wire::CMD_RES_GET).u32(wire::DEV_INDEX, device);
        self.get(
            || format!("count the resources of RDMA device {device}"),
            request,
            decode_summary,
        )
    }

    /// The queue pairs of a device.
    ///
    /// # Errors
    /// [`RdmaError::Request`].
    pub fn queue_pairs(&mut self, device: u32) -> Result<Vec<QueuePair>, RdmaError> {
        self.objects(device)
    }

    /// The connections of a device.
    ///
    /// # Errors
    /// [`RdmaError::Request`].
    pub fn cm_ids(&mut self, device: u32) -> Result<Vec<CmId>, RdmaError> {
        self.objects(device)
    }

    /// The memory regions of a device.
    ///
    /// # Errors
    /// [`RdmaError::Request`].
    pub fn memory_regions(&mut self, device: u32) -> Result<Vec<MemoryRegion>, RdmaError> {
        self.objects(device)
    }

    /// The completion queues of a device.
    ///
    /// # Errors
    /// [`RdmaError::Request`].
    pub fn completion_queues(&mut self, device: u32) -> Result<Vec<CompletionQueue>, RdmaError> {
        self.objects(device)
    }

    /// The protection domains of a device.
    ///
    /// # Errors
    /// [`RdmaError::Request`].
    pub fn protection_domains(&mut self, device: u32) -> Result<Vec<ProtectionDomain>, RdmaError> {
        self.objects(device)
    }

    /// How many objects of a kind each owner has of a device.
    ///
    /// # Errors
    /// [`RdmaError::Request`].
    pub fn holdings(&mut self, device: u32, kind: ResourceKind) -> Result<Owned, RdmaError> {
        match kind {
            ResourceKind::Qp => self.tally::<QueuePair>(device),
            ResourceKind::Cq => self.tally::<CompletionQueue>(device),
            ResourceKind::Mr => self.tally::<MemoryRegion>(device),
            ResourceKind::Pd => self.tally::<ProtectionDomain>(device),
            ResourceKind::CmId => self.tally::<CmId>(device),
        }
    }

    fn tally<T: Object>(&mut self, device: u32) -> Result<Owned, RdmaError> {
        let request = wire::request(T::COMMAND).u32(wire::DEV_INDEX, device);
        let what = || format!("count the {} of RDMA device {device}", T::NAME);
        // By message: a dump that changed meanwhile is asked for again.
        let messages = self.dump(what, request, |body| {
            let mut counts = Owned::new();
            count_owners::<T>(body, &mut counts).map(|()| counts)
        })?;
        let mut counts = Owned::new();
        for (owner, count) in messages.into_iter().flatten() {
            *counts.entry(owner).or_default() += count;
        }
        Ok(counts)
    }

    fn objects<T: Object>(&mut self, device: u32) -> Result<Vec<T>, RdmaError> {
        let request = wire::request(T::COMMAND).u32(wire::DEV_INDEX, device);
        let what = || format!("list the {} of RDMA device {device}", T::NAME);
        let messages = self.dump(what, request, decode_all::<T>)?;
        Ok(messages.into_iter().flatten().collect())
    }
}

/// Feeds any bytes to every decoder of this file, for the fuzzer.
pub(super) fn exercise(body: &[u8]) {
    let _ = decode_summary(body);
    let _ = count_owners::<QueuePair>(body, &mut Owned::new());
    let _ = decode_all::<QueuePair>(body);
    let _ = decode_all::<CmId>(body);
    let _ = decode_all::<MemoryRegion>(body);
    let _ = decode_all::<CompletionQueue>(body);
    let _ = decode_all::<ProtectionDomain>(body);
}
