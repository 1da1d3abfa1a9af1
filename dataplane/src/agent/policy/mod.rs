//! Policies in force: the source's model, compiled for the endpoints of this
//! node and brought into the kernel whenever either changes.

mod names;
mod questions;
mod show;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use dataplane_ebpf::abi::EndpointConfig;
pub(super) use names::PodNames;

use tokio::time::timeout;

use super::{Agent, Result, State};
use crate::{
    kernel::Maps,
    policy::{
        apply::{Applied, Outcome, Switches},
        compile::{
            Compiled, Compiler, Endpoint, EndpointPolicy, RuleName, RuleNumbers, Settings,
            State as PolicyState, Unknown,
        },
        model::{Model, PodName, Scope},
        source::{Directory, FileState, Stirred, Watcher},
    },
};

/// Folder for the texts that were accepted last, in the agent's.
pub(super) const ACCEPTED: &str = "policy-files";
/// How often endpoints that wait for their pod are looked at.
const WAITING: Duration = Duration::from_secs(1);

/// How policies are to be enforced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyOptions {
    /// The folder of manifests; without one every endpoint is open.
    pub folder: Option<PathBuf>,
    /// What the compiler has to know.
    pub settings: Settings,
    /// What a node sends to its own pods passes.
    pub allow_node: bool,
    /// Every endpoint is in audit mode.
    pub audit: bool,
}

/// The policies of this node.
pub(super) struct Policing {
    source: Option<Directory>,
    /// What the source said last; `None` before it could be read.
    model: Option<Model>,
    files: Vec<FileState>,
    /// Why the source cannot be read.
    unreadable: Option<String>,
    compiler: Compiler,
    compiled: Compiled,
    applied: Applied<Maps>,
    outcome: Outcome,
    kept_rules: BTreeMap<u32, RuleName>,
    /// Since when endpoints wait for their pod to become known.
    waiting: HashMap<u32, Instant>,
    /// What was applied last.
    inputs: Option<Inputs>,
    generation: u64,
    compile_time: Duration,
    apply_time: Duration,
}

/// What the compiler is given besides the model.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Inputs {
    endpoints: Vec<Endpoint>,
    audit: BTreeSet<u32>,
    node: Vec<IpAddr>,
}

impl Policing {
    pub(super) fn new(agent: &super::Options, maps: &Maps, rules: BTreeMap<u32, RuleName>) -> Self {
        let options = &agent.policy;
        let source = options.folder.as_deref();
        let source = source.map(|folder| Directory::new(folder, &agent.state_dir.join(ACCEPTED)));
        let held = maps.policy().identities().unwrap_or_default();
        let held: HashSet<u32> = held.into_iter().map(|(_, number)| number).collect();
        let numbers = RuleNumbers::restore(rules.clone());
        Self {
            source,
            model: None,
            files: Vec::new(),
            unreadable: None,
            compiler: Compiler::new(options.settings.clone(), numbers, held),
            compiled: Compiled::default(),
            applied: Applied::default(),
            outcome: Outcome::default(),
            kept_rules: rules,
            waiting: HashMap::new(),
            inputs: None,
            generation: 0,
            compile_time: Duration::ZERO,
            apply_time: Duration::ZERO,
        }
    }

    /// Reads the source; true where it says something else than before.
    fn scan(&mut self) -> bool {
        let Some(source) = &mut self.source else {
            return false;
        };
        match source.scan() {
            Ok(scan) => {
                for file in &scan.files {
                    if let Some(refused) = &file.refused
                        && !self.files.contains(file)
                    {
                        tracing::warn!(
                            "{}: {refused}; what it said before stays in force",
                            file.path.display()
                        );
                    }
                }
                self.files = scan.files;
                self.unreadable = None;
                let changed = self.model.as_ref() != Some(&scan.model);
                self.model = Some(scan.model);
                changed
            }
            Err(error) => {
                let text = format!(
                    "policies: {}: {error}; what was in force stays, new endpoints are isolated",
                    source.path().display()
                );
                if self.unreadable.as_ref() != Some(&text) {
                    tracing::error!("{text}");
                }
                self.unreadable = Some(text);
                false
            }
        }
    }

    /// Marks the endpoints that have waited long enough for their pod.
    fn judge_patience(&mut self, unknown: Unknown, endpoints: &mut [Endpoint]) {
        let Unknown::OpenAfter(patience) = unknown else {
            return;
        };
        let waits = |id: &u32| {
            let policy = self.compiled.endpoints.get(id);
            policy.is_some_and(|policy| !matches!(policy.state, PolicyState::Known))
        };
        self.waiting.retain(|id, _| waits(id));
        for endpoint in endpoints {
            let waits = waits(&endpoint.id);
            if waits {
                let since = self.waiting.entry(endpoint.id).or_insert_with(Instant::now);
                endpoint.patience_over = since.elapsed() >= patience;
            }
        }
    }

    fn is_settled(&self) -> bool {
        self.outcome.problems.is_empty() && self.outcome.closed.is_empty()
    }
}

impl Agent {
    /// The flags of an endpoint that nobody has judged yet: with a source of
    /// policies it is isolated from its first packet on.
    pub(super) fn first_flags(&self) -> u32 {
        match &self.options.policy.folder {
            Some(_) => EndpointConfig::ENFORCE_INGRESS | EndpointConfig::ENFORCE_EGRESS,
            None => 0,
        }
    }

    /// Brings the kernel in step with the source and the endpoints. What fails
    /// is logged, shown by `sluice status`, and tried again.
    pub(super) fn sync_policy(&self) {
        self.bring_in_step(&mut self.policing(), false);
    }

    /// As [`Agent::sync_policy`], after reading the source.
    pub(super) fn review_policy(&self) {
        let mut policing = self.policing();
        let changed = policing.scan();
        self.bring_in_step(&mut policing, changed);
        if changed && let Some(model) = &policing.model {
            let names = PodNames::new(model);
            *self
                .pod_names
                .write()
                .unwrap_or_else(PoisonError::into_inner) = names;
        }
    }

    /// Follows the source for as long as the process lives.
    ///
    /// # Errors
    /// None; it never ends by itself.
    pub async fn follow_policies(self: Arc<Self>) -> anyhow::Result<()> {
        let Some(folder) = self.options.policy.folder.clone() else {
            return std::future::pending().await;
        };
        let mut watcher = Watcher::new(&folder);
        loop {
            self.on_a_thread(Agent::review_policy).await;
            let stirred = self.wait_for_change(&mut watcher).await;
            // Reading takes longer than most folders take to come to rest.
            let ahead = self.on_a_thread(Agent::read_policies_ahead);
            tokio::join!(watcher.at_rest(stirred), ahead);
        }
    }

    /// Waits until the source may have changed; looks who waits meanwhile.
    async fn wait_for_change(self: &Arc<Self>, watcher: &mut Watcher) -> Stirred {
        let stirred = watcher.stirred();
        if !matches!(self.options.policy.settings.unknown, Unknown::OpenAfter(_)) {
            return stirred.await;
        }
        tokio::pin!(stirred);
        loop {
            match timeout(WAITING, &mut stirred).await {
                Ok(stirred) => return stirred,
                Err(_) => self.on_a_thread(Agent::look_who_waits).await,
            }
        }
    }

    async fn on_a_thread(self: &Arc<Self>, work: fn(&Self)) {
        let agent = Arc::clone(self);
        if let Err(error) = tokio::task::spawn_blocking(move || work(&agent)).await {
            tracing::error!("following the policies: {error}");
        }
    }

    /// Reads what has changed in the source, and does nothing about it yet.
    fn read_policies_ahead(&self) {
        if let Some(source) = &mut self.policing().source
            && let Err(error) = source.read_ahead()
        {
            tracing::debug!("policies: {}: {error}", source.path().display());
        }
    }

    /// Opens the endpoints that have waited long enough for their pods.
    fn look_who_waits(&self) {
        let waits = |policy: &EndpointPolicy| matches!(policy.state, PolicyState::Isolated(_));
        let someone = self.policing().compiled.endpoints.values().any(waits);
        if someone {
            self.sync_policy();
        }
    }

    fn bring_in_step(&self, policing: &mut Policing, model_changed: bool) {
        let mut inputs = self.policy_inputs();
        policing.judge_patience(self.options.policy.settings.unknown, &mut inputs.endpoints);
        let same = policing.inputs.as_ref() == Some(&inputs);
        if same && !model_changed && policing.is_settled() {
            return;
        }
        let compiled = match (&policing.source, &policing.model) {
            (None, _) => all_open(&inputs.endpoints),
            // Nothing is known of what the source says: what is in force stays.
            (Some(_), None) => return,
            (Some(_), Some(model)) => {
                let start = Instant::now();
                let compiled = policing
                    .compiler
                    .compile(model, &inputs.endpoints, &inputs.node);
                policing.compile_time = start.elapsed();
                compiled
            }
        };
        self.keep_rules(policing, &compiled);
        let switches = Switches {
            allow_node: self.options.policy.allow_node,
            audit: inputs.audit.clone(),
        };
        let start = Instant::now();
        let outcome = policing
            .applied
            .apply(self.kernel.maps(), &compiled, &switches);
        policing.apply_time = start.elapsed();
        if outcome.changed {
            policing.generation += 1;
            tracing::debug!(
                "policies: generation {}, compiled in {:?}, applied in {:?}",
                policing.generation,
                policing.compile_time,
                policing.apply_time
            );
        }
        self.tell_trouble(&policing.outcome, &outcome);
        policing.outcome = outcome;
        policing.compiled = compiled;
        policing.inputs = Some(inputs);
    }

    /// Writes down which number stands for which rule, and starts the counters
    /// of new ones at zero, before any table has them.
    fn keep_rules(&self, policing: &mut Policing, compiled: &Compiled) {
        if policing.kept_rules == compiled.rules {
            return;
        }
        let kept = &policing.kept_rules;
        let new = compiled.rules.iter();
        let new = new.filter(|(number, rule)| kept.get(number) != Some(rule));
        let new: Vec<_> = new.map(|(number, _)| *number).collect();
        if let Err(error) = self.kernel.maps().policy().clear_rule_hits(&new) {
            tracing::warn!("policies: {error}");
        }
        if let Err(error) = self.store.put_rules(&compiled.rules) {
            tracing::warn!("policies: rule counters may start anew: {error}");
        }
        policing.kept_rules.clone_from(&compiled.rules);
    }

    /// Tells what went wrong that had not before: in the log, and as events.
    fn tell_trouble(&self, before: &Outcome, now: &Outcome) {
        for problem in &now.problems {
            if !before.problems.contains(problem) {
                tracing::error!("{problem}");
            }
        }
        for (key @ (id, direction), reason) in &now.closed {
            if before.closed.get(key) == Some(reason) {
                continue;
            }
            let direction = direction.name();
            tracing::error!("endpoint {id}: {direction} closed: {reason}");
            self.announce(*id, "policy", direction, reason.clone());
        }
    }

    fn policy_inputs(&self) -> Inputs {
        let state = self.state();
        let attached = state.endpoints.values();
        let endpoints = attached.map(|attached| Endpoint {
            id: attached.record.id,
            pod: attached.record.pod.clone(),
            // Not its name of now, which a pod can change.
            interface: {
                let record = &attached.record;
                record.beside.as_ref().unwrap_or(&record.interface).clone()
            },
            addresses: attached
                .interface
                .addresses
                .iter()
                .map(|address| address.addr())
                .filter(|address| !is_link_local(address))
                .collect(),
            patience_over: false,
        });
        let audited = state
            .endpoints
            .values()
            .filter(|endpoint| self.options.policy.audit || endpoint.record.audit);
        Inputs {
            audit: audited.map(|endpoint| endpoint.record.id).collect(),
            endpoints: endpoints.collect(),
            node: node_addresses(&state),
        }
    }

    /// Reads the node's own addresses anew.
    pub(super) fn read_node_addresses(&self) {
        if self.options.policy.folder.is_none() {
            return;
        }
        match self.changes().netlink.interfaces() {
            Ok(interfaces) => {
                let addresses = interfaces.iter().flat_map(|link| &link.addresses);
                let addresses = addresses.map(|cidr| cidr.addr());
                let addresses = addresses.filter(|address| !address.is_loopback());
                self.state_mut().node_addresses = addresses.collect();
            }
            Err(error) => tracing::warn!("reading the node's addresses: {error}"),
        }
    }

    /// Who has which address, as the source of policies knows it.
    pub(super) fn policy_pods(&self) -> HashMap<IpAddr, PodName> {
        let policing = self.policing();
        let pods = policing.model.iter().flat_map(|model| &model.pods);
        let addresses = pods.flat_map(|(name, pod)| {
            let addresses = pod.addresses_in(&Scope::All).into_iter();
            addresses.map(move |address| (address, name.clone()))
        });
        addresses.collect()
    }

    /// The pods whose UID the source of policies knows.
    pub(super) fn policy_pod_uids(&self) -> Vec<(String, PodName)> {
        let policing = self.policing();
        let pods = policing.model.iter().flat_map(|model| &model.pods);
        let uids = pods.filter_map(|(name, pod)| Some((pod.uid.clone()?, name.clone())));
        uids.collect()
    }

    fn policing(&self) -> MutexGuard<'_, Policing> {
        self.policing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The node's own addresses, by which pods know it: those of its interfaces.
fn node_addresses(state: &State) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = state.node_addresses.clone();
    let uplinks = state.uplinks.values();
    let uplinks = uplinks.flat_map(|uplink| uplink.interface.iter());
    addresses.extend(uplinks.flat_map(|link| link.addresses.iter().map(|cidr| cidr.addr())));
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// What is in force without a source.
fn all_open(endpoints: &[Endpoint]) -> Compiled {
    let open = endpoints
        .iter()
        .map(|endpoint| (endpoint.id, EndpointPolicy::default()));
    Compiled {
        endpoints: open.collect(),
        ..Compiled::default()
    }
}
