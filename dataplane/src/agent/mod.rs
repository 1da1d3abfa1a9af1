//! The agent: one a node. It owns the dataplane in the kernel, remembers what
//! is attached to it, and keeps both in step with the node's interfaces.

mod attach;
mod blocks;
mod cni;
mod error;
mod failpoint;
mod hand_over;
mod hardware;
mod policy;
mod reach;
mod recover;
mod repairs;
mod roce;
mod siblings;
mod stats;
mod status;
mod turns;
mod unknown;
mod uplinks;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError, RwLock, atomic::AtomicU64},
    time::Instant,
};

pub use error::{Error, Result};
use hand_over::HandOvers;
pub use hardware::Nic;
use hardware::{HwView, RdmaView};
pub use policy::PolicyOptions;
use policy::{ACCEPTED, PodNames, Policing};
use reach::Reach;
use siblings::Families;
use tokio::sync::broadcast;
use turns::Turns;

use crate::{
    api::types::{Endpoint, Event, Health, Uplink, XdpMode, cni::Attachment},
    endpoint::{AttachmentRecord, EndpointRecord, Store, UplinkRecord},
    kernel::{Features, Kernel, Pins, Sizes, TcMode, XdpPreference},
    link::{Interface, Netlink, Netns, NetnsId, NetnsRef},
};

/// How the agent is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where records are kept.
    pub state_dir: PathBuf,
    /// Where pins are kept, on a BPF file system.
    pub bpffs: PathBuf,
    /// Endpoints that fit.
    pub max_endpoints: u32,
    /// Connections of isolated endpoints that are remembered.
    pub max_flows: u32,
    /// New connections a second of one isolated endpoint that are remembered.
    pub flow_rate: u32,
    /// Events a second that one endpoint may cause.
    pub event_rate: u32,
    /// TC mechanism.
    pub tc: TcMode,
    /// XDP mode.
    pub xdp: XdpPreference,
    /// Addresses with an identity that fit, and as many prefixes.
    pub identities: u32,
    /// Policies.
    pub policy: PolicyOptions,
    /// Whether RDMA ports are to count by process, where they can.
    pub rdma_pod_counters: bool,
}

/// Owns the dataplane of the node. Its methods block for as long as the kernel
/// takes (a TCX attachment: some 10 ms), so asynchronous callers run them on a
/// thread of their own.
pub struct Agent {
    options: Options,
    kernel: Kernel,
    store: Store,
    home: Netns,
    /// Tags of this version's entry programs.
    entry_tags: [u64; 2],
    started: Instant,
    /// Whoever changes an interface's endpoint has its turn; different
    /// interfaces are changed side by side.
    interfaces: Turns<InterfaceKey>,
    /// As `interfaces`, for the attachments that CNI makes.
    attachments: Turns<Attachment>,
    /// Held while VLAN interfaces that attachments share come or go.
    vlans: Mutex<()>,
    /// Held through changes to what endpoints share, and never across waiting
    /// for a turn or for the kernel to attach something to an endpoint.
    changes: Mutex<Changes>,
    /// What is, for readers; never held across a system call that waits.
    state: RwLock<State>,
    /// Never taken while `state` is held.
    policing: Mutex<Policing>,
    /// Held for moments only, unlike `policing`.
    pod_names: RwLock<PodNames>,
    rdma: RdmaView,
    hw: HwView,
    /// Filters put back after somebody had removed them, and interfaces put
    /// back in front of the programs' hooks.
    repairs: AtomicU64,
    events: broadcast::Sender<Event>,
    hand_overs: HandOvers,
}

/// An interface: its namespace, its index there.
type InterfaceKey = (NetnsId, u32);

/// What only changes use.
struct Changes {
    /// Requests in the agent's own namespace.
    netlink: Netlink,
    reach: Reach,
}

#[derive(Default)]
struct State {
    endpoints: BTreeMap<u32, Attached>,
    /// Endpoint ids that are given out and not in `endpoints` yet, or not out
    /// of the kernel's maps.
    reserved: BTreeSet<u32>,
    /// Endpoint ids whose programs are at work and whose record cannot be read.
    unknown: BTreeSet<u32>,
    /// Namespaces in which further interfaces may come to be beside endpoints.
    families: Families,
    /// Interfaces that were detached on demand, until the agent starts anew.
    let_go: BTreeSet<InterfaceKey>,
    uplinks: BTreeMap<u32, Registered>,
    /// What CNI made.
    attachments: BTreeMap<Attachment, AttachmentRecord>,
    /// Addresses of the node's own interfaces.
    node_addresses: Vec<IpAddr>,
    /// Trouble found at start, one line each.
    problems: Vec<String>,
}

/// An endpoint with what is known of its interface.
struct Attached {
    record: EndpointRecord,
    interface: Interface,
    /// The id under which link events name its namespace; `None` for the
    /// agent's own.
    nsid: Option<i32>,
    /// The uplink's number that it hangs off.
    uplink: Option<u32>,
    health: Health,
    /// How often it was found in a mode whose packets pass no program, since
    /// the agent started.
    mode_repairs: u64,
}

/// An uplink with what is known of its interface.
struct Registered {
    record: UplinkRecord,
    /// Absent while there is no interface of that name.
    interface: Option<Interface>,
    health: Health,
}

/// Events kept for a reader that does not keep up; older ones are lost to it.
const EVENT_BACKLOG: usize = 4096;

impl Agent {
    /// Opens the dataplane, adopts what is attached, and repairs what is not as
    /// it was left.
    ///
    /// # Errors
    /// This machine lacks something, another agent runs, or the pins are of
    /// another make.
    pub fn open(options: Options) -> anyhow::Result<Self> {
        let features = Features::detect()?;
        let store = Store::open(&options.state_dir)?;
        check_room(&store, options.max_endpoints)?;
        check_source(&options)?;
        let sizes = Sizes {
            max_endpoints: options.max_endpoints,
            flows: options.max_flows,
            identities: options.identities,
        };
        let kernel = Kernel::open(features, Pins::new(&options.bpffs), sizes)?;
        kernel.mechanism(options.tc)?;
        let home = Netns::open(&NetnsRef::Host)?;
        let changes = Changes {
            netlink: Netlink::open(&home)?,
            reach: Reach::adopt(kernel.maps())?,
        };
        let rules = store.rules().unwrap_or_else(|error| {
            tracing::warn!("policies: rule counters start anew: {error}");
            BTreeMap::new()
        });
        let hw = HwView::open(&store);
        let policing = Policing::new(&options, kernel.maps(), rules);
        let agent = Self {
            entry_tags: kernel.entry_tags()?,
            options,
            kernel,
            store,
            home,
            started: Instant::now(),
            interfaces: Turns::default(),
            attachments: Turns::default(),
            vlans: Mutex::default(),
            changes: Mutex::new(changes),
            state: RwLock::default(),
            policing: Mutex::new(policing),
            pod_names: RwLock::default(),
            rdma: RdmaView::default(),
            hw,
            repairs: AtomicU64::new(0),
            events: broadcast::Sender::new(EVENT_BACKLOG),
            hand_overs: HandOvers::new(),
        };
        agent.recover()?;
        Ok(agent)
    }

    /// What the programs log; the second call gets `None`.
    #[cfg(feature = "log")]
    pub fn take_logger(&self) -> Option<crate::kernel::Logger> {
        self.kernel.take_logger()
    }

    /// Events from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// The endpoints, by id.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let mut endpoints: Vec<_> = {
            let state = self.state();
            let endpoints = state.endpoints.values();
            endpoints
                .map(|endpoint| endpoint.describe(&state))
                .collect()
        };
        for endpoint in &mut endpoints {
            self.add_rdma(endpoint);
        }
        endpoints
    }

    /// The uplinks, by number.
    pub fn uplinks(&self) -> Vec<Uplink> {
        let state = self.state();
        state.uplinks.values().map(Registered::describe).collect()
    }

    fn state(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An endpoint's id is its place in the maps: all that are attached must fit.
fn check_room(store: &Store, max_endpoints: u32) -> Result<()> {
    let (endpoints, _) = store.endpoints();
    let last = endpoints.iter().max_by_key(|record| record.id);
    match last.filter(|record| record.id > max_endpoints) {
        None => Ok(()),
        Some(EndpointRecord { id, interface, .. }) => Err(Error::Exhausted(format!(
            "max_endpoints {max_endpoints} is less than the id of endpoint {id} ({interface}), \
             which is attached; set it to {id} at least, or detach that endpoint first"
        ))),
    }
}

/// Policies in force do not vanish because a setting did.
fn check_source(options: &Options) -> Result<()> {
    let accepted = options.state_dir.join(ACCEPTED);
    if options.policy.folder.is_some() || !accepted.exists() {
        return Ok(());
    }
    Err(Error::Conflict(format!(
        "policies from a folder are in force on this node, and no policy_dir is set: set it again, \
         or, to open every endpoint, remove {}",
        accepted.display()
    )))
}

impl Attached {
    fn describe(&self, state: &State) -> Endpoint {
        let uplink = self.uplink.and_then(|id| state.uplinks.get(&id));
        Endpoint {
            id: self.record.id,
            netns: self.record.netns.clone(),
            netns_inode: self.record.netns_id.ino,
            interface: self.interface.name.clone(),
            ifindex: self.interface.ifindex,
            kind: self.interface.kind.to_string(),
            mac: self.interface.mac,
            addresses: self.interface.addresses.clone(),
            pod: self.record.pod.clone(),
            beside: self.record.beside.clone(),
            uplink: uplink.map(|uplink| uplink.record.interface.clone()),
            rdma: None,
            roce: None,
            mechanism: self.record.mechanism,
            health: self.health.clone(),
        }
    }
}

impl Registered {
    fn describe(&self) -> Uplink {
        let interface = self.interface.as_ref();
        Uplink {
            id: self.record.id,
            interface: self.record.interface.clone(),
            ifindex: interface.map_or(0, |interface| interface.ifindex),
            mac: interface.and_then(|interface| interface.mac),
            addresses: interface.map_or(Vec::new(), |interface| interface.addresses.clone()),
            host_reach: self.record.host_reach,
            xdp: self.record.xdp.unwrap_or(XdpMode::Generic),
            mechanism: self.record.mechanism,
            health: self.health.clone(),
        }
    }
}
