//! What `sluice policy list` and `show` tell.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_ebpf::abi::{Direction, EndpointConfig};

use super::{Agent, Policing, Result};
use crate::{
    agent::Error,
    api::types::policy::{
        EndpointPolicy, EndpointRules, Isolation, PolicyFile, PolicyStatus, PolicySummary,
        RuleHits, RuleState,
    },
    policy::{
        apply::compiler_key,
        compile::{Endpoint, Ports, State},
        explain::describe_ports,
    },
};

impl Agent {
    /// The source, the policies, and how each endpoint is judged.
    pub fn policy_status(&self) -> Result<PolicyStatus> {
        let policing = self.policing();
        let endpoints = policing.endpoints();
        let endpoints = endpoints
            .iter()
            .map(|endpoint| self.judged(&policing, endpoint));
        let (tables, entries) = policing.applied.sizes();
        let model = policing.model.clone().unwrap_or_default();
        let files = policing.files.iter().map(|file| PolicyFile {
            path: file.path.clone(),
            objects: file.objects,
            refused: file.refused.as_ref().map(ToString::to_string),
        });
        Ok(PolicyStatus {
            source: policing
                .source
                .as_ref()
                .map(|source| source.path().to_owned()),
            generation: policing.generation,
            compile_seconds: policing.compile_time.as_secs_f64(),
            apply_seconds: policing.apply_time.as_secs_f64(),
            files: files.collect(),
            namespaces: model.namespaces.len(),
            pods: model.pods.len(),
            addresses: policing.compiled.addresses.len(),
            prefixes: policing.compiled.prefixes.len(),
            identities_limit: self.options.identities,
            tables,
            entries,
            policies: policing.summaries(),
            rules: self.rule_hits(&policing)?,
            endpoints: endpoints.collect::<Result<_>>()?,
            problems: policing.problems(),
        })
    }

    /// What about policies is not as it should be, one line each.
    pub(in crate::agent) fn policy_problems(&self) -> Vec<String> {
        self.policing().problems()
    }

    /// The rules that an endpoint goes by, read from the kernel.
    pub fn endpoint_rules(&self, id: u32) -> Result<EndpointRules> {
        let policing = self.policing();
        let endpoint = policing.endpoint(id)?;
        let mut rules = Vec::new();
        for direction in [Direction::Ingress, Direction::Egress] {
            rules.extend(self.rule_states(&policing, id, direction)?);
        }
        Ok(EndpointRules {
            policy: self.judged(&policing, endpoint)?,
            rules,
        })
    }

    fn rule_hits(&self, policing: &Policing) -> Result<Vec<RuleHits>> {
        let maps = self.kernel.maps().policy();
        let rules = policing.compiled.rules.iter();
        let hits = rules.map(|(number, rule)| {
            Ok(RuleHits {
                kind: rule.policy.kind.name().to_owned(),
                namespace: rule.policy.namespace.clone(),
                policy: rule.policy.name.clone(),
                direction: rule.direction.name().to_owned(),
                rule: rule.index,
                hits: maps.rule_hit(*number)?,
            })
        });
        hits.collect()
    }

    /// Turns audit mode of an endpoint on or off.
    pub fn set_audit(&self, id: u32, audit: bool) -> Result<EndpointPolicy> {
        {
            let (_turn, mut record) = self.turn(id)?;
            record.audit = audit;
            self.store.put_endpoint(&record)?;
            if let Some(endpoint) = self.state_mut().endpoints.get_mut(&id) {
                endpoint.record.audit = audit;
            }
        }
        self.sync_policy();
        let policing = self.policing();
        self.judged(&policing, policing.endpoint(id)?)
    }

    fn rule_states(
        &self,
        policing: &Policing,
        id: u32,
        direction: Direction,
    ) -> Result<Vec<RuleState>> {
        let maps = self.kernel.maps().policy();
        let Some(map) = maps.open_policy_slot(id, direction)? else {
            return Ok(Vec::new());
        };
        let mut rules = BTreeMap::<u32, (BTreeSet<u32>, BTreeSet<Ports>)>::new();
        for (key, rule) in maps.read_policy(&map)? {
            if let Some(key) = compiler_key(key) {
                let (identities, ports) = rules.entry(rule.rule).or_default();
                identities.insert(key.identity);
                ports.insert(key.ports);
            }
        }
        let states = rules.into_iter().map(|(number, (identities, ports))| {
            Ok(RuleState {
                rule: policing.rule_name(number),
                direction: direction.name().to_owned(),
                identities: identities.iter().filter(|identity| **identity != 0).count(),
                ports: ports.iter().map(describe_ports).collect(),
                hits: maps.rule_hit(number)?,
            })
        });
        states.collect()
    }

    /// How an endpoint is judged, by the flags and slots in the kernel.
    fn judged(&self, policing: &Policing, endpoint: &Endpoint) -> Result<EndpointPolicy> {
        let id = endpoint.id;
        let maps = self.kernel.maps();
        let flags = maps.endpoint(id)?.flags;
        let isolation = |direction| {
            if flags & EndpointConfig::enforce(direction) == 0 {
                return Ok(Isolation::Open);
            }
            let slot = maps.policy().open_policy_slot(id, direction)?;
            Ok::<_, Error>(match slot {
                Some(_) => Isolation::Isolated,
                None => Isolation::Closed,
            })
        };
        let policy = policing.compiled.endpoints.get(&id);
        let state = policy.map(|policy| &policy.state);
        let closed = policing.outcome.closed.iter();
        let mut closed = closed.filter(|((closed, _), _)| *closed == id);
        let reason = match state {
            Some(State::Isolated(reason) | State::Open(reason)) => Some(reason.clone()),
            _ if policing.source.is_none() => {
                Some("no policy source; start the agent with --policy-dir".into())
            }
            _ => closed.next().map(|(_, reason)| reason.clone()),
        };
        let policies = policy.into_iter().flat_map(|policy| &policy.policies);
        Ok(EndpointPolicy {
            id,
            pod: endpoint.pod.clone(),
            interface: endpoint.interface.clone(),
            ingress: isolation(Direction::Ingress)?,
            egress: isolation(Direction::Egress)?,
            audit: flags & EndpointConfig::AUDIT != 0,
            reason,
            policies: policies.map(ToString::to_string).collect(),
        })
    }
}

impl Policing {
    /// The endpoints as they were judged last.
    pub(super) fn endpoints(&self) -> &[Endpoint] {
        let inputs = self.inputs.as_ref();
        inputs.map_or(&[], |inputs| inputs.endpoints.as_slice())
    }

    fn endpoint(&self, id: u32) -> Result<&Endpoint> {
        let mut endpoints = self.endpoints().iter();
        endpoints.find(|endpoint| endpoint.id == id).ok_or_else(|| {
            Error::NotFound(format!(
                "no endpoint has id {id}; `sluice endpoints` lists them"
            ))
        })
    }

    /// A rule as people know it.
    pub(super) fn rule_name(&self, number: u32) -> String {
        let rule = self.compiled.rules.get(&number);
        rule.map_or_else(|| format!("rule {number}"), ToString::to_string)
    }

    fn summaries(&self) -> Vec<PolicySummary> {
        let policies = self.model.iter().flat_map(|model| &model.policies);
        policies
            .map(|(name, policy)| {
                let endpoints = self.compiled.endpoints.iter();
                let isolated = endpoints.filter(|(_, endpoint)| endpoint.policies.contains(name));
                PolicySummary {
                    kind: name.kind.name().to_owned(),
                    namespace: name.namespace.clone(),
                    name: name.name.clone(),
                    networks: policy.scope.to_string(),
                    ingress: policy.ingress.as_ref().map(Vec::len),
                    egress: policy.egress.as_ref().map(Vec::len),
                    endpoints: isolated.map(|(id, _)| *id).collect(),
                }
            })
            .collect()
    }

    fn problems(&self) -> Vec<String> {
        let mut problems: Vec<_> = self.unreadable.iter().cloned().collect();
        for file in &self.files {
            if let Some(refused) = &file.refused {
                let path = file.path.display();
                problems.push(format!(
                    "{path}: {refused}; what it said before stays in force"
                ));
            }
        }
        let about_nothing = self.model.iter().flat_map(|model| &model.policies);
        for (name, policy) in about_nothing {
            if policy.scope.is_nothing() {
                problems.push(format!(
                    "{name}: it does nothing without the annotation \
                     k8s.v1.cni.cncf.io/policy-for; name the networks that it is about"
                ));
            }
        }
        problems.extend(self.outcome.problems.iter().cloned());
        for ((id, direction), reason) in &self.outcome.closed {
            let direction = direction.name();
            problems.push(format!("endpoint {id}: {direction} closed: {reason}"));
        }
        for (id, policy) in &self.compiled.endpoints {
            match &policy.state {
                State::Known => {}
                State::Isolated(reason) => {
                    problems.push(format!("endpoint {id}: isolated: {reason}"));
                }
                State::Open(reason) => problems.push(format!(
                    "endpoint {id}: open, as configured for unknown pods: {reason}"
                )),
            }
        }
        problems
    }
}
