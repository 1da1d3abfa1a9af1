//! What programs in hand have counted.

use std::{collections::BTreeMap, ops::AddAssign};

use anyhow::{Result, anyhow};
use aya::{
    Pod,
    maps::{HashMap, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues},
    util::nr_cpus,
};
use dataplane_ebpf::{
    abi::{
        Counter, Direction, DropKey, DropReason, Fault, Plain, RoceFlow, RoceFlowKey, RoceKey,
        UplinkCounter, ep_stats_index, uplink_stats_index,
    },
    roce::{Kind, Transport},
};

use crate::harness::{ENDPOINT, Programs, UPLINK};

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Count {
    /// One packet of so many bytes.
    pub const fn one(bytes: u64) -> Self {
        Self { packets: 1, bytes }
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// Every counter that is not zero.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// What passed to and from the endpoint.
    pub passed: BTreeMap<Direction, Count>,
    /// What was dropped, by port id and reason.
    pub drops: BTreeMap<(u32, Direction, DropReason), Count>,
    /// RoCE by port id, transport and kind, marks being kinds.
    pub roce: BTreeMap<(u32, Direction, Transport, Kind), Count>,
    /// What the uplink counted.
    pub uplink: BTreeMap<UplinkCounter, Count>,
    /// Faults that make the numbers above incomplete.
    pub faults: BTreeMap<Fault, u64>,
}

impl Counters {
    /// Reads the maps.
    ///
    /// # Errors
    /// A map is missing, or holds a key that cannot be.
    pub fn read(programs: &mut Programs) -> Result<Self> {
        let mut counters = Self::default();
        let stats = array::<Raw<Counter>>(programs, "ep_stats")?;
        for direction in DIRECTIONS {
            let count = sum(&stats.get(&ep_stats_index(ENDPOINT, direction), 0)?);
            if count != Count::default() {
                counters.passed.insert(direction, count);
            }
        }
        for (key, count) in sparse::<DropKey>(programs, "drops")? {
            let key = (key.port, known(key.direction)?, known(key.reason)?);
            *counters.drops.entry(key).or_default() += count;
        }
        for (key, count) in sparse::<RoceKey>(programs, "roce_stats")? {
            for key in key.kinds() {
                let (direction, transport) = (known(key.direction)?, known(key.transport)?);
                let key = (key.port, direction, transport, known(key.kind)?);
                *counters.roce.entry(key).or_default() += count;
            }
        }
        let stats = array::<Raw<Counter>>(programs, "uplink_stats")?;
        for counter in UplinkCounter::ALL {
            let count = sum(&stats.get(&uplink_stats_index(UPLINK, *counter), 0)?);
            if count != Count::default() {
                counters.uplink.insert(*counter, count);
            }
        }
        let faults = array::<u64>(programs, "faults")?;
        for fault in Fault::ALL {
            let times = faults.get(&(*fault as u32), 0)?.iter().sum();
            // Events are no counters: a token bucket decides on them.
            if times > 0 && *fault != Fault::EventsThrottled {
                counters.faults.insert(*fault, times);
            }
        }
        Ok(counters)
    }

    /// Sets all that programs count or remember to zero.
    ///
    /// # Errors
    /// A map is missing.
    pub fn clear(programs: &mut Programs) -> Result<()> {
        let cpus = nr_cpus()
            .map_err(|(path, error)| anyhow!("cannot count processors: {path}: {error}"))?;
        let zeros = || PerCpuValues::try_from(vec![Raw(Counter::default()); cpus]);

        let mut stats = array(programs, "ep_stats")?;
        for direction in DIRECTIONS {
            stats.set(ep_stats_index(ENDPOINT, direction), zeros()?, 0)?;
        }
        let mut stats = array(programs, "uplink_stats")?;
        for counter in UplinkCounter::ALL {
            stats.set(uplink_stats_index(UPLINK, *counter), zeros()?, 0)?;
        }
        let mut faults = array::<u64>(programs, "faults")?;
        for fault in Fault::ALL {
            faults.set(*fault as u32, PerCpuValues::try_from(vec![0; cpus])?, 0)?;
        }
        empty::<DropKey>(programs, "drops")?;
        empty::<RoceKey>(programs, "roce_stats")?;
        let map = programs.map("roce_flows")?;
        let mut flows = HashMap::<_, Raw<RoceFlowKey>, Raw<RoceFlow>>::try_from(map)?;
        for key in flows.keys().collect::<Result<Vec<_>, _>>()? {
            flows.remove(&key)?;
        }
        Ok(())
    }
}

/// The RoCE flows that are followed.
///
/// # Errors
/// The map is missing.
pub fn roce_flows(programs: &mut Programs) -> Result<Vec<(RoceFlowKey, RoceFlow)>> {
    let map = programs.map("roce_flows")?;
    let flows = HashMap::<_, Raw<RoceFlowKey>, Raw<RoceFlow>>::try_from(map)?;
    flows
        .iter()
        .map(|entry| {
            let (Raw(key), Raw(flow)) = entry?;
            Ok((key, flow))
        })
        .collect()
}

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// A shared type in the hands of aya.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Raw<T>(T);

// SAFETY: `Plain` promises what `Pod` asks for.
unsafe impl<T: Plain> Pod for Raw<T> {}

fn array<'a, V: Pod>(
    programs: &'a mut Programs,
    name: &str,
) -> Result<PerCpuArray<&'a mut MapData, V>> {
    Ok(PerCpuArray::try_from(programs.map(name)?)?)
}

fn counts<'a, K: Plain>(
    programs: &'a mut Programs,
    name: &str,
) -> Result<PerCpuHashMap<&'a mut MapData, Raw<K>, Raw<Counter>>> {
    Ok(PerCpuHashMap::try_from(programs.map(name)?)?)
}

/// The entries of a sparse map of counters.
fn sparse<K: Plain>(programs: &mut Programs, name: &str) -> Result<Vec<(K, Count)>> {
    let map = counts::<K>(programs, name)?;
    map.iter()
        .map(|entry| {
            let (key, values) = entry?;
            Ok((key.0, sum(&values)))
        })
        .collect()
}

fn empty<K: Plain>(programs: &mut Programs, name: &str) -> Result<()> {
    let mut map = counts::<K>(programs, name)?;
    for key in map.keys().collect::<Result<Vec<_>, _>>()? {
        map.remove(&key)?;
    }
    Ok(())
}

/// The sum over the processors.
fn sum(values: &PerCpuValues<Raw<Counter>>) -> Count {
    let mut total = Count::default();
    for Raw(Counter { packets, bytes }) in values.iter().copied() {
        total += Count { packets, bytes };
    }
    total
}

fn known<T: TryFrom<u8, Error = u8>>(number: u8) -> Result<T> {
    T::try_from(number).map_err(|number| anyhow!("a key holds {number}, which has no name"))
}
