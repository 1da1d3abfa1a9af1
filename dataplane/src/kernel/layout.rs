//! What each map is: held against pins that are there already, and used to
//! compute memory.

use std::path::Path;

use aya::maps::{MapInfo, MapType};
use dataplane_ebpf::abi::{
    Address, CarryTo, Counter, DropKey, EndpointConfig, Fault, Flow, FlowCounter, FlowKey,
    FragmentKey, FragmentPass, LocalAddrKey, LocalMacKey, MAX_RULES, MAX_UPLINKS, PrefixKey,
    ROCE_REQUESTS, RoceFlow, RoceFlowKey, RoceKey, RoceRequest, TokenBucket, UPLINK_COUNTERS,
    UplinkConfig, stage,
};

use super::error::KernelError;
use crate::api::types::MapStatus;

/// How large the maps are made.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Endpoints on this node.
    pub max_endpoints: u32,
    /// Connections followed at once; the least recently used give way.
    pub flows: u32,
    /// Addresses with an identity; as many prefixes.
    pub identities: u32,
}

impl Sizes {
    /// What a node gets that does not say otherwise.
    pub const DEFAULT: Self = Self {
        max_endpoints: 512,
        flows: 65536,
        identities: 65536,
    };

    /// Unanswered connections followed at once. An eighth of the answered ones:
    /// they live for a round trip, and a table that fits a processor's cache
    /// takes a third of the time.
    pub const fn flows_new(&self) -> u32 {
        self.flows.div_ceil(8)
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Bytes that the kernel adds to each entry of a hash or trie: links, hash or
/// prefix, pointers (`struct htab_elem`, `struct lpm_trie_node`), rounded up.
const ENTRY_OVERHEAD: u64 = 64;
/// Bytes of the ring buffer of events; a power of two pages.
const EVENT_BYTES: u32 = 1 << 20;
/// RoCE flows followed at once; the least recently used give way.
pub const ROCE_FLOWS: u32 = 16384;
/// Prefixes on the block list.
const PREFIXES: u32 = 65536;
/// IP packets in pieces followed at once.
const FRAGMENTS: u32 = 4096;

/// What becomes of what a map holds when it has to be made anew, because its
/// size or its types changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// It is made up again, or missed by nobody.
    Nothing,
    /// The entries, by the same keys.
    Entries,
    /// The entries, and again those that were added meanwhile: programs fill it.
    Growing,
    /// What was counted, added to what is being counted.
    Counts(CarryTo),
}

/// One map of the object.
pub(super) struct MapSpec {
    pub(super) name: &'static str,
    kind: MapType,
    key: u32,
    value: u32,
    pub(super) max_entries: u32,
    pub(super) keep: Keep,
}

/// How a pinned map differs from what is expected.
pub(super) enum Difference {
    /// In its size alone.
    Size(String),
    /// In its kind or types.
    Make(String),
}

impl MapSpec {
    const fn new<K, V>(name: &'static str, kind: MapType, max_entries: u32) -> Self {
        Self {
            name,
            kind,
            key: size_of::<K>() as u32,
            value: size_of::<V>() as u32,
            max_entries,
            keep: Keep::Nothing,
        }
    }

    const fn keep(self, keep: Keep) -> Self {
        Self { keep, ..self }
    }

    /// Bytes of one processor's value.
    pub(super) const fn value_size(&self) -> usize {
        self.value as usize
    }

    /// What `status` says of it.
    pub(super) fn status(&self, cpus: u32) -> MapStatus {
        MapStatus {
            name: self.name.to_owned(),
            kind: kind_name(self.kind).to_owned(),
            max_entries: self.max_entries,
            memory_bytes: self.memory_bytes(cpus),
        }
    }

    /// Memory when every entry is in use.
    fn memory_bytes(&self, cpus: u32) -> u64 {
        let (key, value) = (round_up(self.key), round_up(self.value));
        let per_cpu = value * u64::from(cpus);
        let entry = match self.kind {
            MapType::RingBuf => return self.max_entries.into(),
            MapType::Array | MapType::ProgramArray | MapType::ArrayOfMaps => value,
            MapType::PerCpuArray => per_cpu,
            MapType::PerCpuHash => key + per_cpu + ENTRY_OVERHEAD,
            _ => key + value + ENTRY_OVERHEAD,
        };
        entry * u64::from(self.max_entries)
    }

    /// Compares a pinned map with what this version expects; `None` also where
    /// there is no pin.
    pub(super) fn difference(&self, pin: &Path) -> Result<Option<Difference>, KernelError> {
        if !pin.exists() {
            return Ok(None);
        }
        let fail = |cause: String| KernelError::Pin {
            path: pin.to_owned(),
            cause,
        };
        let info = MapInfo::from_pin(pin)
            .map_err(|error| fail(format!("not a pinned map ({error}); remove it")))?;
        let kind = info.map_type().map_err(|error| fail(error.to_string()))?;
        let mut make = Vec::new();
        if kind != self.kind {
            make.push(format!("kind {kind:?}, not {:?}", self.kind));
        }
        for (what, found, expected) in [
            ("key size", info.key_size(), self.key),
            ("value size", info.value_size(), self.value),
        ] {
            if found != expected {
                make.push(format!("{what} {found}, not {expected}"));
            }
        }
        if !make.is_empty() {
            return Ok(Some(Difference::Make(make.join(", "))));
        }
        let entries = info.max_entries();
        Ok((entries != self.max_entries)
            .then(|| Difference::Size(format!("{entries} entries, not {}", self.max_entries))))
    }
}

fn round_up(bytes: u32) -> u64 {
    u64::from(bytes).next_multiple_of(8)
}

/// bpftool's word for a kind of map.
fn kind_name(kind: MapType) -> &'static str {
    match kind {
        MapType::Array => "array",
        MapType::PerCpuArray => "percpu_array",
        MapType::ProgramArray => "prog_array",
        MapType::ArrayOfMaps => "array_of_maps",
        MapType::Hash => "hash",
        MapType::LruHash => "lru_hash",
        MapType::PerCpuHash => "percpu_hash",
        MapType::LpmTrie => "lpm_trie",
        MapType::RingBuf => "ringbuf",
        _ => "other",
    }
}

/// Every pinned map, at the configured sizes. The object's own sizes are those
/// of a default node.
pub(super) fn maps(sizes: Sizes) -> Vec<MapSpec> {
    use Keep::{Counts, Entries, Growing};
    // Id 0 is nobody's.
    let endpoints = sizes.max_endpoints + 1;
    vec![
        MapSpec::new::<u32, u32>("pipeline", MapType::ProgramArray, stage::SLOTS),
        MapSpec::new::<u32, EndpointConfig>("endpoints", MapType::Array, endpoints).keep(Entries),
        MapSpec::new::<u32, Counter>("ep_stats", MapType::PerCpuArray, endpoints * 2)
            .keep(Counts(CarryTo::EndpointStats)),
        MapSpec::new::<DropKey, Counter>("drops", MapType::PerCpuHash, endpoints * 8)
            .keep(Counts(CarryTo::Drops)),
        MapSpec::new::<RoceKey, Counter>("roce_stats", MapType::PerCpuHash, endpoints * 32)
            .keep(Counts(CarryTo::RoceStats)),
        MapSpec::new::<RoceFlowKey, RoceFlow>("roce_flows", MapType::LruHash, ROCE_FLOWS),
        MapSpec::new::<u32, RoceRequest>("roce_requests", MapType::Array, ROCE_REQUESTS),
        MapSpec::new::<(), ()>("events", MapType::RingBuf, EVENT_BYTES),
        MapSpec::new::<u32, TokenBucket>("event_tokens", MapType::Array, endpoints),
        MapSpec::new::<u32, u64>("faults", MapType::PerCpuArray, Fault::ALL.len() as u32)
            .keep(Counts(CarryTo::Faults)),
        MapSpec::new::<u32, UplinkConfig>("uplinks", MapType::Array, MAX_UPLINKS).keep(Entries),
        MapSpec::new::<u32, Counter>(
            "uplink_stats",
            MapType::PerCpuArray,
            MAX_UPLINKS * UPLINK_COUNTERS,
        )
        .keep(Counts(CarryTo::UplinkStats)),
        MapSpec::new::<LocalMacKey, u32>("local_macs", MapType::Hash, endpoints * 2).keep(Entries),
        MapSpec::new::<LocalAddrKey, u32>("local_addrs", MapType::Hash, endpoints * 8)
            .keep(Entries),
        MapSpec::new::<PrefixKey, Counter>("block_list", MapType::LpmTrie, PREFIXES).keep(Entries),
        MapSpec::new::<Address, u32>("identity", MapType::Hash, sizes.identities).keep(Entries),
        MapSpec::new::<PrefixKey, u32>("identity_cidr", MapType::LpmTrie, sizes.identities)
            .keep(Entries),
        MapSpec::new::<u32, u32>("policy", MapType::ArrayOfMaps, endpoints * 2).keep(Entries),
        MapSpec::new::<u32, u64>("rule_hits", MapType::Array, MAX_RULES).keep(Entries),
        MapSpec::new::<FlowKey, Flow>("flows", MapType::LruHash, sizes.flows).keep(Growing),
        MapSpec::new::<FlowKey, Flow>("flows_new", MapType::LruHash, sizes.flows_new())
            .keep(Growing),
        MapSpec::new::<u32, TokenBucket>("flow_tokens", MapType::Array, endpoints),
        MapSpec::new::<u32, TokenBucket>("flow_credit", MapType::Array, endpoints),
        MapSpec::new::<u32, u64>(
            "flow_stats",
            MapType::PerCpuArray,
            FlowCounter::ALL.len() as u32,
        )
        .keep(Counts(CarryTo::FlowStats)),
        MapSpec::new::<FragmentKey, FragmentPass>("fragments", MapType::LruHash, FRAGMENTS)
            .keep(Growing),
        MapSpec::new::<DropKey, Counter>("would_drop", MapType::Hash, endpoints * 8)
            .keep(Counts(CarryTo::WouldDrop)),
        MapSpec::new::<u32, u64>(CARRIED, MapType::Array, 1),
    ]
}

/// The map that tells how much has been carried over; of each folder its own.
pub(super) const CARRIED: &str = "carried";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_maps_stay_below_128_mib_on_256_cpus() {
        let total: u64 = maps(Sizes::DEFAULT)
            .iter()
            .map(|map| map.memory_bytes(256))
            .sum();
        assert!(total < 128 << 20, "{total} bytes");
    }

    #[test]
    fn names_are_shown_whole_by_bpftool() {
        // BPF_OBJ_NAME_LEN (uapi linux/bpf.h) is 16 with the final zero.
        for map in maps(Sizes::DEFAULT) {
            assert!(map.name.len() <= 15, "{}", map.name);
        }
    }
}
