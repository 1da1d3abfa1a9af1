//! Policy in hand: the agent's own view of the maps, the programs behind it, and packets run
//! through both by BPF_PROG_TEST_RUN, for as many endpoints as wanted.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData},
    programs::{Program, ProgramFd, TestRun as _, TestRunOptions},
};
use dataplane::kernel::{Features, Kernel, Pins, PolicyMap, Sizes};
use dataplane_ebpf::abi::{Counter, Direction, DropReason, EndpointConfig, PolicyKey, PolicyRule};

use crate::harness::object_path;

/// `TC_ACT_UNSPEC` and `TC_ACT_SHOT` (uapi `linux/pkt_cls.h`).
const TC_NEXT: i32 = -1;
const TC_SHOT: i32 = 2;

const FLOW_TABLES: [&str; 2] = ["flows", "flows_new"];
type LruTable<const K: usize, const V: usize> = HashMap<MapData, [u8; K], [u8; V]>;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It went on.
    Pass,
    /// It was dropped, for this reason.
    Drop(DropReason),
}

/// Endpoints 1 to n with their entry programs, attached to nothing. Pins are its own and gone when
/// it is dropped.
pub struct Judge {
    kernel: Kernel,
    entries: BTreeMap<u32, Ebpf>,
    // Last, so that the pins go when all else is closed.
    _folder: Folder,
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Judge {
    /// Endpoints 1 to `endpoints`, open in both directions.
    ///
    /// # Errors
    /// There is no object, this process is not root, or the kernel refuses something.
    pub fn new(endpoints: u32) -> Result<Self> {
        Self::sized(Sizes {
            max_endpoints: endpoints,
            ..Sizes::DEFAULT
        })
    }

    /// As many endpoints as `sizes` says, with its other sizes too.
    ///
    /// # Errors
    /// As for [`Judge::new`].
    pub fn sized(sizes: Sizes) -> Result<Self> {
        let mut judge = Self::without_entries(sizes)?;
        let bytes = fs::read(object_path()).context("cannot read the eBPF object")?;
        for endpoint in 1..=sizes.max_endpoints {
            let entry = judge.load_entry(&bytes, endpoint)?;
            judge.entries.insert(endpoint, entry);
            judge.kernel.maps().change_endpoint(endpoint, |config| {
                config.flags = EndpointConfig::IN_USE;
                config.flow_rate = 1_000_000;
            })?;
        }
        Ok(judge)
    }

    /// The maps alone: no packet can be run.
    ///
    /// # Errors
    /// As for [`Judge::new`].
    pub fn without_entries(sizes: Sizes) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sluice-judge-{}-{number}", process::id());
        let folder = Folder(PathBuf::from("/sys/fs/bpf").join(name));
        let kernel = Kernel::open(Features::detect()?, Pins::new(&folder.0), sizes)?;
        Ok(Self {
            kernel,
            entries: BTreeMap::new(),
            _folder: folder,
        })
    }

    fn load_entry(&self, bytes: &[u8], endpoint: u32) -> Result<Ebpf> {
        let maps = self.kernel.map_status();
        let mut loader = EbpfLoader::new();
        loader.override_global("ENDPOINT_ID", &endpoint, true);
        for map in &maps {
            loader.map_pin_path(&map.name, self.kernel.pins().map(&map.name));
        }
        let mut entry = loader.load(bytes)?;
        for direction in [Direction::Ingress, Direction::Egress] {
            let name = entry_name(direction);
            match entry.program_mut(&name) {
                Some(Program::SchedClassifier(program)) => program.load()?,
                _ => bail!("the object has no program {name}"),
            }
        }
        Ok(entry)
    }

    /// The agent's view of the maps.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// An entry program's descriptor.
    ///
    /// # Errors
    /// There is no such endpoint.
    pub fn entry(&self, endpoint: u32, direction: Direction) -> Result<&ProgramFd> {
        let program = self
            .entries
            .get(&endpoint)
            .and_then(|entry| entry.program(&entry_name(direction)));
        Ok(program
            .with_context(|| format!("no endpoint {endpoint}"))?
            .fd()?)
    }

    /// Isolates an endpoint in one direction but for these entries; as an agent changes a policy.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn isolate(
        &self,
        endpoint: u32,
        direction: Direction,
        entries: &[(PolicyKey, PolicyRule)],
    ) -> Result<PolicyMap> {
        let maps = self.kernel.maps();
        let policy = maps.policy().create_policy(entries, 0)?;
        maps.policy()
            .set_policy_slot(endpoint, direction, Some(&policy))?;
        self.flag(endpoint, EndpointConfig::enforce(direction), true)?;
        Ok(policy)
    }

    /// Sets or clears flags of an endpoint and raises its policy's epoch.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn flag(&self, endpoint: u32, flags: u32, set: bool) -> Result<()> {
        self.kernel.maps().change_endpoint(endpoint, |config| {
            config.flags = if set {
                config.flags | flags
            } else {
                config.flags & !flags
            };
            config.policy_epoch += 1;
        })?;
        Ok(())
    }

    /// Makes an endpoint forget its connections, as if its id had gone to another pod.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forget_flows(&self, endpoint: u32) -> Result<()> {
        self.kernel.maps().change_endpoint(endpoint, |config| {
            config.policy_epoch += 1;
            config.first_epoch = config.policy_epoch;
        })?;
        Ok(())
    }

    /// Makes every connection look as if so much time had passed since its last packet.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn age_flows(&self, by: Duration) -> Result<()> {
        // `Flow::last_seen_ns`.
        FLOW_TABLES
            .iter()
            .try_for_each(|name| age(self.flow_table(name)?, 16, by))
    }

    /// The same for packets that come in pieces.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn age_fragments(&self, by: Duration) -> Result<()> {
        // `FragmentPass::time_ns`.
        age(self.lru_table::<44, 16>("fragments")?, 0, by)
    }

    /// Gives each of the two connections that are known what is remembered of the other: so it
    /// looks to a program whose entry goes to another connection under its eyes.
    ///
    /// # Errors
    /// There are not two, or the kernel refuses.
    pub fn swap_flows(&self) -> Result<()> {
        let mut all = Vec::new();
        for name in FLOW_TABLES {
            let table = self.flow_table(name)?;
            all.extend(entries(&table)?.into_iter().map(|entry| (name, entry)));
        }
        let [(table, (key, flow)), (other_table, (other_key, other_flow))] = all[..] else {
            bail!("{} connections", all.len());
        };
        self.flow_table(table)?.insert(key, other_flow, 0)?;
        Ok(self.flow_table(other_table)?.insert(other_key, flow, 0)?)
    }

    fn flow_table(&self, name: &str) -> Result<LruTable<44, 32>> {
        self.lru_table(name)
    }

    /// A table as bytes: its keys and values have so many.
    fn lru_table<const K: usize, const V: usize>(&self, name: &str) -> Result<LruTable<K, V>> {
        let map = MapData::from_pin(self.kernel.pins().map(name))?;
        Ok(LruTable::try_from(Map::LruHashMap(map))?)
    }

    /// Runs a packet through the endpoint's programs.
    ///
    /// # Errors
    /// There is no such endpoint, or the programs contradict themselves: a drop without a reason,
    /// or several.
    pub fn run(&self, endpoint: u32, direction: Direction, frame: &[u8]) -> Result<Verdict> {
        let before = self.drops(endpoint, direction)?;
        let code = self.act(endpoint, direction, frame)?;
        let after = self.drops(endpoint, direction)?;
        let mut reasons = DropReason::ALL.iter().filter(|reason| {
            let packets = |drops: &BTreeMap<u8, Counter>| {
                drops
                    .get(&(**reason as u8))
                    .map_or(0, |counter| counter.packets)
            };
            packets(&after) != packets(&before)
        });
        match (code, reasons.next(), reasons.next()) {
            (TC_NEXT, None, None) => Ok(Verdict::Pass),
            (TC_SHOT, Some(reason), None) => Ok(Verdict::Drop(*reason)),
            (code, first, second) => bail!("verdict {code}, counted as {first:?} and {second:?}"),
        }
    }

    /// Runs a packet and gives the bare verdict of TC.
    fn act(&self, endpoint: u32, direction: Direction, frame: &[u8]) -> Result<i32> {
        let entry = self
            .entries
            .get(&endpoint)
            .and_then(|entry| entry.program(&entry_name(direction)));
        let Some(Program::SchedClassifier(program)) = entry else {
            bail!("no endpoint {endpoint}");
        };
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::default()
        };
        Ok(program.test_run(options)?.return_value.cast_signed())
    }

    fn drops(&self, endpoint: u32, direction: Direction) -> Result<BTreeMap<u8, Counter>> {
        let mut drops = self.kernel.maps().drops()?;
        let of_endpoint = drops.remove(&endpoint).unwrap_or_default();
        Ok(of_endpoint
            .into_iter()
            .filter(|(key, _)| key.direction == direction as u8)
            .map(|(key, counter)| (key.reason, counter))
            .collect())
    }
}

/// What a table holds, to be changed while it is gone through.
fn entries<const K: usize, const V: usize>(
    table: &LruTable<K, V>,
) -> Result<Vec<([u8; K], [u8; V])>> {
    Ok(table.iter().collect::<Result<_, _>>()?)
}

/// Moves the time at byte `at` of each value back.
fn age<const K: usize, const V: usize>(
    mut table: LruTable<K, V>,
    at: usize,
    by: Duration,
) -> Result<()> {
    let by = u64::try_from(by.as_nanos())?;
    for (key, mut value) in entries(&table)? {
        let time = &mut value[at..at + 8];
        let then = u64::from_ne_bytes(<[u8; 8]>::try_from(&*time)?);
        time.copy_from_slice(&then.saturating_sub(by).to_ne_bytes());
        table.insert(key, value, 0)?;
    }
    Ok(())
}

fn entry_name(direction: Direction) -> String {
    format!("entry_{}", direction.name())
}
