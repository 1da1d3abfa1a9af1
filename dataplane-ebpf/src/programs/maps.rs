//! Every map, under the name that bpftool shows. The sizes here are those of a
//! default node; the agent sets them by its configuration before it loads.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{
        Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray,
        RingBuf,
    },
    macros::btf_map,
};
use dataplane_ebpf::abi::{
    Address, Counter, DropKey, EndpointConfig, Fault, Flow, FlowCounter, FlowKey, FragmentKey,
    FragmentPass, LocalAddrKey, LocalMacKey, MAX_RULES, MAX_UPLINKS, PolicyData, PolicyRule,
    ROCE_REQUESTS as REQUESTS, RoceFlow, RoceFlowKey, RoceKey, RoceRequest, TokenBucket,
    UPLINK_COUNTERS, UplinkConfig, stage,
};

use super::packet::Parsed;

/// Entries are made as they appear: most endpoints never need most of them.
const SPARSE: usize = BPF_F_NO_PREALLOC as usize;
const ENDPOINTS: usize = 512;

/// Programs that the entries tail-call, by [`stage`].
#[btf_map(name = "pipeline")]
pub static PIPELINE: ProgramArray<{ stage::SLOTS as usize }> = ProgramArray::new();

/// Where the headers of the packet in hand are kept while its programs run.
/// Memory of a map rather than of the stack, since the verifier forgets what
/// was written to it: however many ways there are through the parser, what
/// follows it is verified once.
#[btf_map(name = "scratch")]
pub static SCRATCH: PerCpuArray<Parsed, 1> = PerCpuArray::new();

/// Endpoint id -> configuration.
#[btf_map(name = "endpoints")]
pub static ENDPOINT_CONFIGS: Array<EndpointConfig, ENDPOINTS> = Array::new();

/// Endpoint id x direction -> packets and bytes.
#[btf_map(name = "ep_stats")]
pub static EP_STATS: PerCpuArray<Counter, { ENDPOINTS * 2 }> = PerCpuArray::new();

/// Port, direction, reason -> packets and bytes dropped.
#[btf_map(name = "drops")]
pub static DROPS: PerCpuHashMap<DropKey, Counter, { ENDPOINTS * 8 }, SPARSE> = PerCpuHashMap::new();

/// Port, direction, transport, kind -> packets and bytes.
#[btf_map(name = "roce_stats")]
pub static ROCE_STATS: PerCpuHashMap<RoceKey, Counter, { ENDPOINTS * 32 }, SPARSE> =
    PerCpuHashMap::new();

/// Port, addresses, destination queue pair -> packets, sequence.
#[btf_map(name = "roce_flows")]
pub static ROCE_FLOWS: LruHashMap<RoceFlowKey, RoceFlow, 16384> = LruHashMap::new();

/// Requests that wait for their answer, by what they share with it.
#[btf_map(name = "roce_requests")]
pub static ROCE_REQUESTS: Array<RoceRequest, { REQUESTS as usize }> = Array::new();

/// Drops and RoCE trouble, for the agent.
#[btf_map(name = "events")]
pub static EVENTS: RingBuf<(), { 1 << 20 }> = RingBuf::new();

/// Endpoint id -> events it may still cause.
#[btf_map(name = "event_tokens")]
pub static EVENT_TOKENS: Array<TokenBucket, ENDPOINTS> = Array::new();

/// `Fault` -> how often.
#[btf_map(name = "faults")]
pub static FAULTS: PerCpuArray<u64, { Fault::ALL.len() }> = PerCpuArray::new();

/// Uplink number -> configuration.
#[btf_map(name = "uplinks")]
pub static UPLINKS: Array<UplinkConfig, { MAX_UPLINKS as usize }> = Array::new();

/// Uplink number x `UplinkCounter` -> packets and bytes.
#[btf_map(name = "uplink_stats")]
pub static UPLINK_STATS: PerCpuArray<Counter, { (MAX_UPLINKS * UPLINK_COUNTERS) as usize }> =
    PerCpuArray::new();

/// Uplink, MAC address -> endpoint id.
#[btf_map(name = "local_macs")]
pub static LOCAL_MACS: HashMap<LocalMacKey, u32, { ENDPOINTS * 2 }> = HashMap::new();

/// Uplink, address -> port id: an endpoint, or the uplink for the node's own.
#[btf_map(name = "local_addrs")]
pub static LOCAL_ADDRS: HashMap<LocalAddrKey, u32, { ENDPOINTS * 8 }> = HashMap::new();

/// Blocked source prefix -> packets and bytes stopped. IPv4 prefixes are
/// mapped into IPv6, 96 bits longer.
#[btf_map(name = "block_list")]
pub static BLOCK_LIST: LpmTrie<Address, Counter, 65536> = LpmTrie::new();

/// Peer address -> identity. Without a policy source this and the maps that
/// follow stay empty.
#[btf_map(name = "identity")]
pub static IDENTITY: HashMap<Address, u32, 65536, SPARSE> = HashMap::new();

/// Peer prefix -> identity, for addresses that `identity` does not have.
#[btf_map(name = "identity_cidr")]
pub static IDENTITY_CIDR: LpmTrie<Address, u32, 65536> = LpmTrie::new();

/// Endpoint id x direction -> the policy's own map; an empty slot is no policy.
#[btf_map(name = "policy")]
pub static POLICY: ArrayOfMaps<Policy, { ENDPOINTS * 2 }> = ArrayOfMaps::new();

/// Identity, protocol, port -> what allows them. The agent makes each as large
/// as its policy.
pub type Policy = LpmTrie<PolicyData, PolicyRule, 1>;

/// Rule number -> packets that opened a flow by it.
#[btf_map(name = "rule_hits")]
pub static RULE_HITS: Array<u64, { MAX_RULES as usize }> = Array::new();

/// Connections of which both sides have spoken, and a few of each endpoint of
/// which that is expected.
#[btf_map(name = "flows")]
pub static FLOWS: LruHashMap<FlowKey, Flow, 65536> = LruHashMap::new();

/// The other connections that nobody has answered yet: apart, so that a flood of
/// them pushes nothing but itself out.
#[btf_map(name = "flows_new")]
pub static FLOWS_NEW: LruHashMap<FlowKey, Flow, 8192> = LruHashMap::new();

/// Endpoint id -> flows it may still open.
#[btf_map(name = "flow_tokens")]
pub static FLOW_TOKENS: Array<TokenBucket, ENDPOINTS> = Array::new();

/// Endpoint id -> new connections that may still wait in `flows` for an answer.
#[btf_map(name = "flow_credit")]
pub static FLOW_CREDITS: Array<TokenBucket, ENDPOINTS> = Array::new();

/// `FlowCounter` -> how often.
#[btf_map(name = "flow_stats")]
pub static FLOW_STATS: PerCpuArray<u64, { FlowCounter::ALL.len() }> = PerCpuArray::new();

/// IP packets in pieces whose first piece passed.
#[btf_map(name = "fragments")]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentPass, 4096> = LruHashMap::new();

/// Endpoint, direction, reason -> packets and bytes that audit mode let pass.
#[btf_map(name = "would_drop")]
pub static WOULD_DROP: HashMap<DropKey, Counter, { ENDPOINTS * 8 }, SPARSE> = HashMap::new();

/// How many of the records that an agent carries over are added already.
#[btf_map(name = "carried")]
pub static CARRIED: Array<u64, 1> = Array::new();
