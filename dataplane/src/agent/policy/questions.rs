//! What `sluice policy explain` and `test` tell, from the kernel's maps.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_ebpf::abi::Direction;

use super::{Agent, Policing, Result};
use crate::{
    agent::Error,
    api::types::policy::{ExplainRequest, ExplainedEnd, ExplainedFlow, VerifyRequest},
    policy::{
        compile::Ports,
        explain::{Answer, Finding, Service, describe_ports},
        inquiry::{Flow, flows, sites},
        model::NetworkName,
        verify::Expectation,
    },
};

impl Agent {
    /// Why connections between two parties pass, or do not.
    pub fn explain(&self, request: &ExplainRequest) -> Result<Vec<ExplainedFlow>> {
        let ExplainRequest { from, to, port } = request;
        let what: Service = port.parse().map_err(Error::Invalid)?;
        let policing = self.policing();
        let flows = self.flows(&policing, from, to, &what, None)?;
        if flows.is_empty() {
            return Err(Error::NotFound(format!(
                "{from} and {to} share no network and no family of addresses"
            )));
        }
        let judged = |flow: &&Flow| flow.egress.is_some() || flow.ingress.is_some();
        if !flows.iter().any(|flow| judged(&flow)) {
            return Err(Error::NotFound(format!(
                "neither {from} nor {to} is an endpoint of this node; ask the agent of theirs"
            )));
        }
        let flows = flows.iter().filter(judged);
        Ok(flows.map(|flow| policing.describe(flow, &what)).collect())
    }

    /// Holds expectations against what is in force: an objection, or none, for
    /// each.
    pub fn verify(&self, request: &VerifyRequest) -> Result<Vec<Option<String>>> {
        let policing = self.policing();
        let expectations = request.expectations.iter();
        let objections = expectations.map(|one| {
            let Expectation { from, to, .. } = one;
            let what = one.service().map_err(Error::Invalid)?;
            let network = one.network().map_err(Error::Invalid)?;
            match self.flows(&policing, from, to, &what, network.as_ref()) {
                Ok(flows) => Ok(one.objection(&flows)),
                Err(Error::NotFound(reason)) => Ok(Some(reason)),
                Err(error) => Err(error),
            }
        });
        objections.collect()
    }

    fn flows(
        &self,
        policing: &Policing,
        from: &str,
        to: &str,
        what: &Service,
        network: Option<&NetworkName>,
    ) -> Result<Vec<Flow>> {
        let model = policing.model.clone().unwrap_or_default();
        let party = |text| sites(text, &model, policing.endpoints()).map_err(Error::NotFound);
        Ok(flows(
            self.kernel.maps(),
            &party(from)?,
            &party(to)?,
            what,
            network,
        )?)
    }
}

impl Policing {
    fn describe(&self, flow: &Flow, what: &Service) -> ExplainedFlow {
        let end = |end: &Option<(u32, Finding)>, direction: Direction| {
            let (id, finding) = end.as_ref()?;
            Some(self.describe_end(*id, finding, direction, what))
        };
        let ends = [
            end(&flow.egress, Direction::Egress),
            end(&flow.ingress, Direction::Ingress),
        ];
        let ends: Vec<_> = ends.into_iter().flatten().collect();
        ExplainedFlow {
            from: flow.from,
            to: flow.to,
            network: flow.network.as_ref().map(ToString::to_string),
            passes: ends.iter().all(|end| end.allowed || end.audit),
            ends,
        }
    }

    fn describe_end(
        &self,
        id: u32,
        finding: &Finding,
        direction: Direction,
        what: &Service,
    ) -> ExplainedEnd {
        let mut endpoints = self.endpoints().iter();
        let endpoint = endpoints.find(|endpoint| endpoint.id == id);
        let rule = match finding.answer {
            Answer::Allowed(rule) => Some(self.rule_name(rule)),
            _ => None,
        };
        ExplainedEnd {
            endpoint: id,
            pod: endpoint.and_then(|endpoint| endpoint.pod.clone()),
            direction: direction.name().to_owned(),
            identity: finding.identity,
            allowed: finding.is_allowed(),
            audit: finding.audit,
            rule,
            why: self.why(id, finding, direction, what),
        }
    }

    fn why(&self, id: u32, finding: &Finding, direction: Direction, what: &Service) -> String {
        let name = direction.name();
        match &finding.answer {
            Answer::Open => format!("no policy isolates its {name}"),
            Answer::Node => "the node may always reach its pods".into(),
            Answer::Allowed(rule) => format!("{} allows it", self.rule_name(*rule)),
            Answer::Missing => {
                let policy = self.compiled.endpoints.get(&id);
                let reason = policy.and_then(|policy| policy.state.reason());
                let closed = self.outcome.closed.get(&(id, direction));
                let reason = reason.or(closed.map(String::as_str));
                format!(
                    "its {name} is closed: {}",
                    reason.unwrap_or("its policy is not in place")
                )
            }
            Answer::Denied {
                for_peer,
                for_service,
            } => {
                let mut why = format!("no rule allows it; {}", self.isolating(id, direction));
                why.push_str(&self.near_misses(for_peer, for_service, what));
                why
            }
        }
    }

    /// The policies that isolate an endpoint in a direction.
    fn isolating(&self, id: u32, direction: Direction) -> String {
        let policy = self.compiled.endpoints.get(&id);
        let names = policy.into_iter().flat_map(|policy| &policy.policies);
        let isolates = |name: &&crate::policy::model::PolicyName| {
            let policy = self
                .model
                .as_ref()
                .and_then(|model| model.policies.get(*name));
            policy.is_some_and(|policy| match direction {
                Direction::Ingress => policy.ingress.is_some(),
                Direction::Egress => policy.egress.is_some(),
            })
        };
        let names: Vec<_> = names.filter(isolates).map(ToString::to_string).collect();
        format!("isolated by {}", names.join(", "))
    }

    /// Rules that allow something alike.
    fn near_misses(
        &self,
        for_peer: &BTreeMap<u32, BTreeSet<Ports>>,
        for_service: &BTreeSet<u32>,
        what: &Service,
    ) -> String {
        let mut text = String::new();
        for (rule, ports) in for_peer {
            let ports: Vec<_> = ports.iter().map(describe_ports).collect();
            let rule = self.rule_name(*rule);
            text.push_str(&format!(
                "; {rule} is for this peer, but allows only {}",
                ports.join(", ")
            ));
        }
        for rule in for_service {
            let rule = self.rule_name(*rule);
            text.push_str(&format!("; {rule} allows {what}, but not for this peer"));
        }
        text
    }
}
