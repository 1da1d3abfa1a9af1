//! A simulated kernel with RDMA hardware, for what no machine here has: HCAs whose queue pairs have
//! counters of their own.
//!
//! It answers RDMA netlink requests with bytes, as the real one would over its socket, and has a
//! folder in place of `/proc`. Nothing else is simulated. Layouts and numbers: uapi
//! `rdma/rdma_netlink.h`, `linux/netlink.h`.

use std::{
    collections::{HashMap, VecDeque},
    fs, io,
    os::unix::fs::symlink,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use dataplane::{
    hw::Sources,
    link::{LinkError, Netns, NetnsRef, NicStatistics},
    netlink::Transport,
    rdma::{
        Driver, GidTable, Guid, NetnsMode, NodeRdma, PhysicalState, PlacedDevice, PlacedPort,
        PortState, Rdma, RdmaDevice, RdmaError, RdmaPort,
    },
};
use tempfile::TempDir;

const NLDEV: u16 = 5 << 10;
const STAT_SET: u16 = 16;
const STAT_GET: u16 = 17;
const RES_GET: u16 = 9;
/// Command, list and entry of each kind of object: QP, CM_ID, CQ, MR, PD.
const OBJECTS: [(u16, u16, u16); 5] = [
    (10, 19, 20),
    (11, 30, 31),
    (12, 35, 36),
    (13, 40, 41),
    (14, 46, 47),
];
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_MULTI: u16 = 2;
const NLM_F_DUMP: u16 = 0x300;
/// What the kernel puts into one message of a dump at most.
const MESSAGE_BYTES: usize = 16 * 1024;

/// A device with one port.
#[derive(Debug, Clone, Default)]
pub struct Hca {
    /// Its index; its name is `mlx5_INDEX`.
    pub index: u32,
    /// Its port's counters.
    pub counters: Vec<(String, u64)>,
    /// Its queue pairs: number and process.
    pub queue_pairs: Vec<(u32, u32)>,
    /// The processes of its other objects: CM_IDs, CQs, MRs, PDs.
    pub others: [Vec<u32>; 4],
    /// Its counter sets, once auto mode is set.
    pub sets: Vec<Set>,
    /// Whether its driver can make counter sets.
    pub has_sets: bool,
    /// Whether it does already.
    pub auto: bool,
    /// Whether the kernel is older than 6.15, and knows of no optional counters in sets.
    pub old: bool,
}

impl Hca {
    /// What RDMA netlink and sysfs say of it besides.
    pub fn placed(&self) -> PlacedDevice {
        PlacedDevice {
            device: RdmaDevice {
                index: self.index,
                name: format!("mlx5_{}", self.index),
                protocol: Some("roce".into()),
                firmware: None,
                node_guid: Guid(u64::from(self.index) + 1),
                system_guid: Guid(1),
                ports: 1,
            },
            netns: NetnsRef::Host,
            driver: Some(Driver::Mlx5),
            pci: None,
            ports: vec![PlacedPort {
                port: RdmaPort {
                    device: self.index,
                    port: 1,
                    state: PortState::Active,
                    physical: PhysicalState::LinkUp,
                    lid: None,
                    netdev: None,
                },
                netdev_netns: None,
                gids: GidTable::default(),
            }],
            char_devices: Vec::new(),
        }
    }
}

/// A node with these devices, which pods share.
pub fn node(hcas: &[Hca]) -> NodeRdma {
    NodeRdma {
        mode: NetnsMode::Shared,
        devices: hcas.iter().map(Hca::placed).collect(),
        cm_device: None,
    }
}

/// A counter set.
#[derive(Debug, Clone, Default)]
pub struct Set {
    /// Its id.
    pub id: u32,
    /// Its process.
    pub process: u32,
    /// Its queue pairs.
    pub queue_pairs: Vec<u32>,
    /// Its counters.
    pub counters: Vec<(String, u64)>,
}

/// The simulated kernel. Clones are the same one.
#[derive(Debug, Clone)]
pub struct SimulatedKernel {
    state: Arc<Mutex<State>>,
    processes: Arc<TempDir>,
}

/// The bodies of the messages of an answer.
type Bodies = Arc<Vec<Vec<u8>>>;

#[derive(Debug, Default)]
struct State {
    /// The bodies of the messages that answer a command about a device.
    answers: HashMap<(u16, u32), Bodies>,
    /// Devices with their counter sets, and whether auto mode is set.
    sets: HashMap<u32, (bool, Bodies)>,
    /// Whether a device can make sets, and whether the kernel is an older one.
    can: HashMap<u32, (bool, bool)>,
}

impl SimulatedKernel {
    /// One without devices and processes.
    ///
    /// # Errors
    /// No temporary folder can be made.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            state: Arc::default(),
            processes: Arc::new(tempfile::tempdir()?),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a device, or has it be so from now on.
    pub fn set(&self, hca: &Hca) {
        let mut state = self.state();
        let index = hca.index;
        let port = attribute(80, &counters(&hca.counters));
        state
            .answers
            .insert((STAT_GET, index), Arc::new(vec![port]));
        let pairs = hca.queue_pairs.iter().map(|&(number, process)| {
            [
                word(21, number),
                word(3, 1),
                byte(26, 2),
                byte(27, 3),
                word(22, number + 1),
                word(24, 7),
                word(23, 9),
                word(28, process),
                word(60, 1),
            ]
            .concat()
        });
        let mut entries = vec![pairs.collect::<Vec<_>>()];
        for (place, processes) in hca.others.iter().enumerate() {
            let objects = processes.iter().zip(1..).map(|(&process, number)| {
                let of_kind = match place {
                    0 => [word(63, number), word(32, 0x106), byte(27, 2)].concat(),
                    1 => [word(61, number), word(37, 1023), long(38, 2)].concat(),
                    2 => [word(62, number), long(45, 131_072)].concat(),
                    _ => [word(60, number), long(38, 2)].concat(),
                };
                [of_kind, word(28, process)].concat()
            });
            entries.push(objects.collect());
        }
        for ((command, list, entry), entries) in OBJECTS.into_iter().zip(entries) {
            let bodies = listed(list, entry, &entries);
            state.answers.insert((command, index), Arc::new(bodies));
        }
        let summary = [
            attribute(17, b"qp\0"),
            long(18, hca.queue_pairs.len() as u64),
            long(118, 131_072),
        ];
        let summary = attribute(15, &attribute(16, &summary.concat()));
        state
            .answers
            .insert((RES_GET, index), Arc::new(vec![summary]));
        let sets = hca.sets.iter().map(|set| {
            let pairs: Vec<u8> = set
                .queue_pairs
                .iter()
                .flat_map(|&number| attribute(20, &word(21, number)))
                .collect();
            [
                word(3, 1),
                word(79, set.id),
                byte(26, 2),
                word(28, set.process),
                attribute(19, &pairs),
                attribute(80, &counters(&set.counters)),
            ]
            .concat()
        });
        let bodies = Arc::new(listed(77, 78, &sets.collect::<Vec<_>>()));
        let auto = hca.auto || state.sets.get(&index).is_some_and(|(auto, _)| *auto);
        state.sets.insert(index, (auto, bodies));
        state.can.insert(index, (hca.has_sets, hca.old));
    }

    /// Adds a process: its network namespace's inode, and its cgroup.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn add_process(&self, pid: u32, netns: u64, cgroup: &str) -> io::Result<()> {
        let folder = self.processes.path().join(pid.to_string());
        fs::create_dir_all(folder.join("ns"))?;
        let fields = "0 ".repeat(18);
        fs::write(
            folder.join("stat"),
            format!("{pid} (work) S {fields}{pid} 0\n"),
        )?;
        fs::write(folder.join("cgroup"), format!("0::{cgroup}\n"))?;
        symlink(format!("net:[{netns}]"), folder.join("ns/net"))
    }

    /// Ends a process.
    ///
    /// # Errors
    /// It was not there.
    pub fn end_process(&self, pid: u32) -> io::Result<()> {
        fs::remove_dir_all(self.processes.path().join(pid.to_string()))
    }

    fn answer(&self, request: &[u8]) -> VecDeque<Vec<u8>> {
        let number = |at: usize, length: usize| {
            let mut bytes = [0; 4];
            bytes[..length].copy_from_slice(&request[at..at + length]);
            u32::from_ne_bytes(bytes)
        };
        let (kind, flags, sequence) = (number(4, 2) as u16, number(6, 2) as u16, number(8, 4));
        let attributes = read(&request[16..]);
        let device = attributes.get(&1).copied().unwrap_or_default();
        let command = kind - NLDEV;
        let mut state = self.state();
        let mut datagrams = VecDeque::new();
        let mut tell = |kind, flags, body: &[u8]| {
            datagrams.push_back(message(kind, flags, sequence, body));
        };
        let mut code = 0;
        if flags & NLM_F_DUMP == NLM_F_DUMP {
            let bodies = match command {
                STAT_GET => state.sets.get(&device).map(|(_, bodies)| bodies.clone()),
                _ => state.answers.get(&(command, device)).cloned(),
            };
            for body in bodies.iter().flat_map(|bodies| bodies.iter()) {
                tell(kind, NLM_F_MULTI, body);
            }
            tell(NLMSG_DONE, NLM_F_MULTI, &0_i32.to_ne_bytes());
            return datagrams;
        }
        match command {
            STAT_SET => {
                let (can, old) = state.can.get(&device).copied().unwrap_or_default();
                match state.sets.get_mut(&device) {
                    _ if old && attributes.contains_key(&104) => code = -libc::EINVAL,
                    Some((auto, _)) if can => *auto = true,
                    _ => code = -libc::EOPNOTSUPP,
                }
            }
            STAT_GET if attributes.contains_key(&74) => {
                let auto = state.sets.get(&device).is_some_and(|(auto, _)| *auto);
                let mode = if auto { 1 } else { 0 };
                tell(kind, 0, &[word(74, mode), word(76, 3 * mode)].concat());
            }
            _ => match state.answers.get(&(command, device)) {
                Some(bodies) => bodies.iter().for_each(|body| tell(kind, 0, body)),
                None => code = -libc::ENODEV,
            },
        }
        let ack = [&code.to_ne_bytes(), &request[..16]].concat();
        tell(NLMSG_ERROR, 0, &ack);
        datagrams
    }
}

impl Sources for SimulatedKernel {
    fn rdma(&self, _: &NetnsRef) -> Result<Rdma, RdmaError> {
        let socket = SimulatedSocket {
            kernel: self.clone(),
            datagrams: VecDeque::new(),
        };
        Ok(Rdma::simulated(socket, Netns::host()?))
    }

    fn nic(&self, _: &NetnsRef, _: &str) -> Result<Option<NicStatistics>, LinkError> {
        Ok(None)
    }

    fn processes(&self) -> &Path {
        self.processes.path()
    }
}

#[derive(Debug)]
struct SimulatedSocket {
    kernel: SimulatedKernel,
    datagrams: VecDeque<Vec<u8>>,
}

impl Transport for SimulatedSocket {
    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.datagrams = self.kernel.answer(request);
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let datagram = self.datagrams.pop_front();
        let datagram = datagram.ok_or(io::ErrorKind::TimedOut)?;
        buffer[..datagram.len()].copy_from_slice(&datagram);
        Ok(datagram.len())
    }
}

/// The 32-bit attributes of a request, and the first four bytes of the others.
fn read(mut bytes: &[u8]) -> HashMap<u16, u32> {
    let mut found = HashMap::new();
    while let [a, b, c, d, rest @ ..] = bytes {
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        let value = rest
            .first_chunk()
            .map_or(0, |chunk| u32::from_ne_bytes(*chunk));
        found.insert(u16::from_ne_bytes([*c, *d]), value);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = 16 + body.len() as u32;
    let mut bytes = Vec::with_capacity(length as usize);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend_from_slice(body);
    bytes
}

/// The bodies of messages that list these entries, as many in each as fit.
fn listed(list: u16, entry: u16, entries: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    let mut current = Vec::new();
    for bytes in entries {
        let next = attribute(entry, bytes);
        if current.len() + next.len() > MESSAGE_BYTES {
            bodies.push(attribute(list, &current));
            current.clear();
        }
        current.extend(next);
    }
    if !current.is_empty() {
        bodies.push(attribute(list, &current));
    }
    bodies
}

fn counters(counters: &[(String, u64)]) -> Vec<u8> {
    let entries = counters.iter().flat_map(|(name, value)| {
        let name = [name.as_bytes(), &[0]].concat();
        attribute(81, &[attribute(82, &name), long(83, *value)].concat())
    });
    entries.collect()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len() as u16;
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn byte(kind: u16, value: u8) -> Vec<u8> {
    attribute(kind, &[value])
}

fn word(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_ne_bytes())
}

fn long(kind: u16, value: u64) -> Vec<u8> {
    attribute(kind, &value.to_ne_bytes())
}
