//! Policies for people.

use std::fmt::Write as _;

use crate::{
    api::types::policy::{
        EndpointPolicy, EndpointRules, ExplainedEnd, ExplainedFlow, Isolation, PolicyStatus,
        PolicySummary,
    },
    cli::table::Table,
};

/// Everything that `list` shows.
pub(super) fn status(status: &PolicyStatus) -> String {
    let Some(source) = &status.source else {
        return "no policy source: every endpoint is open; start the agent with --policy-dir\n"
            .into();
    };
    let mut text = format!(
        "source {}, generation {}: {} policies, {} pods, {} namespaces\n\
         compiled in {:.1} ms, applied in {:.1} ms: {} tables with {} entries; \
         {} addresses and {} prefixes of {} each\n\n",
        source.display(),
        status.generation,
        status.policies.len(),
        status.pods,
        status.namespaces,
        status.compile_seconds * 1e3,
        status.apply_seconds * 1e3,
        status.tables,
        status.entries,
        status.addresses,
        status.prefixes,
        status.identities_limit,
    );
    text.push_str(&policies(&status.policies));
    text.push('\n');
    text.push_str(&endpoints(&status.endpoints));
    if !status.problems.is_empty() {
        text.push('\n');
    }
    for problem in &status.problems {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "PROBLEM: {problem}");
    }
    text
}

fn policies(policies: &[PolicySummary]) -> String {
    let mut table = Table::new(&[
        "KIND",
        "POLICY",
        "NETWORKS",
        "#INGRESS",
        "#EGRESS",
        "ENDPOINTS",
    ]);
    let rules = |count: Option<usize>| count.map(|count| count.to_string()).unwrap_or_default();
    for policy in policies {
        let endpoints: Vec<_> = policy.endpoints.iter().map(ToString::to_string).collect();
        table.row(vec![
            policy.kind.clone(),
            format!("{}/{}", policy.namespace, policy.name),
            policy.networks.clone(),
            rules(policy.ingress),
            rules(policy.egress),
            endpoints.join(","),
        ]);
    }
    table.text()
}

/// How endpoints are judged.
pub(super) fn endpoints(endpoints: &[EndpointPolicy]) -> String {
    let mut table = Table::new(&["#ENDPOINT", "POD", "INTERFACE", "INGRESS", "EGRESS", "BY"]);
    for endpoint in endpoints {
        let mode = |isolation| {
            let name = match isolation {
                Isolation::Open => "open",
                Isolation::Isolated => "isolated",
                Isolation::Closed => "CLOSED",
            };
            match endpoint.audit && isolation != Isolation::Open {
                true => format!("{name} (audit)"),
                false => name.to_owned(),
            }
        };
        let pod = endpoint.pod.as_ref();
        table.row(vec![
            endpoint.id.to_string(),
            pod.map(ToString::to_string).unwrap_or_default(),
            endpoint.interface.clone(),
            mode(endpoint.ingress),
            mode(endpoint.egress),
            match &endpoint.reason {
                Some(reason) => reason.clone(),
                None => endpoint.policies.join(", "),
            },
        ]);
    }
    table.text()
}

/// An endpoint's rules.
pub(super) fn rules(rules: &EndpointRules) -> String {
    let mut text = endpoints(std::slice::from_ref(&rules.policy));
    text.push('\n');
    for (direction, isolation) in [
        ("ingress", rules.policy.ingress),
        ("egress", rules.policy.egress),
    ] {
        if let Some(why) = without_rules(rules, direction, isolation) {
            let _ = writeln!(text, "{direction}: {why}");
        }
    }
    if rules.rules.is_empty() {
        return text;
    }
    let mut table = Table::new(&["RULE", "#PEERS", "PORTS", "#HITS"]);
    for rule in &rules.rules {
        let peers = match rule.identities {
            0 => "any".to_owned(),
            1 => "1 identity".to_owned(),
            count => format!("{count} identities"),
        };
        table.row(vec![
            rule.rule.clone(),
            peers,
            rule.ports.join(","),
            rule.hits.to_string(),
        ]);
    }
    text.push_str(&table.text());
    text
}

/// What becomes of packets in a direction that has no rules, and why.
fn without_rules(rules: &EndpointRules, direction: &str, isolation: Isolation) -> Option<String> {
    let reason = rules.policy.reason.as_deref();
    match isolation {
        Isolation::Open => {
            let reason = reason.unwrap_or("no policy isolates this direction of the pod");
            Some(format!("everything passes: {reason}"))
        }
        Isolation::Closed => {
            let reason = reason.unwrap_or("its policy is not in place yet");
            Some(format!("nothing passes: {reason}"))
        }
        Isolation::Isolated => {
            let mut all = rules.rules.iter();
            let has_rules = all.any(|rule| rule.direction == direction);
            (!has_rules).then(|| "nothing passes: no rule lets any peer pass at present".into())
        }
    }
}

/// Why connections pass, or do not.
pub(super) fn flows(flows: &[ExplainedFlow]) -> String {
    let mut text = String::new();
    for flow in flows {
        let verdict = if flow.passes { "passes" } else { "DROPPED" };
        let network = flow.network.as_ref();
        let network = network.map_or(String::new(), |network| format!(" on {network}"));
        let _ = writeln!(text, "{} -> {}{network}: {verdict}", flow.from, flow.to);
        for end in &flow.ends {
            let _ = writeln!(text, "  {}", end_text(end));
        }
    }
    text
}

fn end_text(end: &ExplainedEnd) -> String {
    let pod = end.pod.as_ref();
    let pod = pod.map_or(String::new(), |pod| format!(" ({pod})"));
    let audit = match end.audit && !end.allowed {
        true => "; audit mode lets it pass",
        false => "",
    };
    format!(
        "{} at endpoint {}{pod}, peer's identity {}: {}{audit}",
        end.direction, end.endpoint, end.identity, end.why
    )
}
