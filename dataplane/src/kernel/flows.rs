//! The tables of connections.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, PerCpuArray},
};
use dataplane_ebpf::abi::{Flow, FlowCounter, FlowKey};

use super::{
    error::KernelError,
    maps::{done, view},
    value::Raw,
};

type Table = HashMap<MapData, Raw<FlowKey>, Raw<Flow>>;

/// The tables of connections. Programs write them, the agent only looks.
pub struct FlowMaps {
    flows: Table,
    flows_new: Table,
    flow_stats: PerCpuArray<MapData, u64>,
    counted: Mutex<Option<(Instant, FlowCount)>>,
}

/// How old [`FlowMaps::recent_count`] may be: walking through full tables at
/// every look would cost more than it tells.
const COUNT_AGE: Duration = Duration::from_secs(10);

/// How full the tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCount {
    /// Connections of which both sides have spoken, and a few of each endpoint of which that is
    /// expected.
    pub answered: u64,
    /// The other connections that nobody has answered.
    pub unanswered: u64,
}

impl FlowMaps {
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            flows: view(object, "flows")?,
            flows_new: view(object, "flows_new")?,
            flow_stats: view(object, "flow_stats")?,
            counted: Mutex::new(None),
        })
    }

    /// Every flow, in no order, some of them perhaps expired. While traffic
    /// changes the tables, a few may be missed or come twice.
    ///
    /// # Errors
    /// The kernel refuses; so for every function here.
    pub fn list(&self) -> Result<Vec<(FlowKey, Flow)>, KernelError> {
        let answered = self.flows.iter().map(|entry| done("flows", entry));
        let unanswered = self.flows_new.iter().map(|entry| done("flows_new", entry));
        answered
            .chain(unanswered)
            .map(|entry| entry.map(|(Raw(key), Raw(flow))| (key, flow)))
            .collect()
    }

    /// Entries of each table. Walks through them: some 20 ms for a full one.
    pub fn count(&self) -> Result<FlowCount, KernelError> {
        let count = |name, table: &Table| {
            table
                .keys()
                .try_fold(0, |count, key| done(name, key).map(|_| count + 1))
        };
        Ok(FlowCount {
            answered: count("flows", &self.flows)?,
            unanswered: count("flows_new", &self.flows_new)?,
        })
    }

    /// What [`FlowMaps::count`] said at most ten seconds ago.
    pub fn recent_count(&self) -> Result<FlowCount, KernelError> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, count)) = *counted
            && when.elapsed() < COUNT_AGE
        {
            return Ok(count);
        }
        let count = self.count()?;
        *counted = Some((Instant::now(), count));
        Ok(count)
    }

    /// How often something happened to a flow.
    pub fn counter(&self, counter: FlowCounter) -> Result<u64, KernelError> {
        let values = self.flow_stats.get(&(counter as u32), 0);
        done("flow_stats", values).map(|values| values.iter().sum())
    }
}
