//! The families of network policy.

use super::family::{Families, Labels, Unit};
use crate::api::types::policy::{EndpointPolicy, Isolation, PolicyStatus};

/// `policy_...`
pub(super) fn encode_policy(families: &mut Families, policy: &PolicyStatus) {
    let count = |families: &mut Families, name: &str, help: &str, value: u64| {
        families.gauge(name, help, None, &|family| family.value(&[], value));
    };
    let help = "Changes of what is in force since the agent started";
    families.counter("policy_generations", help, &|family| {
        family.value(&[], policy.generation);
    });
    for (name, help, seconds) in [
        (
            "policy_compile",
            "Time that the last compilation took",
            policy.compile_seconds,
        ),
        (
            "policy_apply",
            "Time that the last change of the kernel's maps took",
            policy.apply_seconds,
        ),
    ] {
        families.gauge(name, help, Some(Unit::Seconds), &|family| {
            family.fraction(&Labels::default(), &[], seconds);
        });
    }
    let refused = policy.files.iter().filter(|file| file.refused.is_some());
    let help = "Files of the source whose present text is not in force";
    count(
        families,
        "policy_refused_files",
        help,
        refused.count() as u64,
    );
    let help = "Policies known";
    count(families, "policies", help, policy.policies.len() as u64);

    families.gauge(
        "policy_endpoints",
        "Endpoints by how their traffic is judged",
        None,
        &|family| {
            for (direction, isolation) in DIRECTIONS {
                for (state, wanted) in STATES {
                    let endpoints = policy.endpoints.iter();
                    let number = endpoints.filter(|endpoint| isolation(endpoint) == wanted);
                    let labels = [("direction", direction), ("state", state)];
                    family.value(&labels, number.count() as u64);
                }
            }
        },
    );
    let help = "Connections that a rule has allowed";
    families.counter("policy_rule_hits", help, &|family| {
        for rule in &policy.rules {
            let index = rule.rule.to_string();
            let labels = [
                ("kind", rule.kind.as_str()),
                ("policy_namespace", &rule.namespace),
                ("policy", &rule.policy),
                ("direction", &rule.direction),
                ("rule", &index),
            ];
            family.value(&labels, rule.hits);
        }
    });
    let help = "Addresses and prefixes that have an identity";
    families.gauge("policy_identities", help, None, &|family| {
        family.value(&[("kind", "address")], policy.addresses as u64);
        family.value(&[("kind", "prefix")], policy.prefixes as u64);
    });
    let help = "Addresses, and as many prefixes, that there is room for";
    let limit = policy.identities_limit.into();
    count(families, "policy_identities_limit", help, limit);
    let help = "Tables in the kernel; endpoints of equal policies share one";
    count(families, "policy_tables", help, policy.tables as u64);
    let help = "Entries of those tables";
    count(
        families,
        "policy_table_entries",
        help,
        policy.entries as u64,
    );
}

type Judged = fn(&EndpointPolicy) -> Isolation;
const DIRECTIONS: [(&str, Judged); 2] = [
    ("ingress", |endpoint| endpoint.ingress),
    ("egress", |endpoint| endpoint.egress),
];
const STATES: [(&str, Isolation); 3] = [
    ("open", Isolation::Open),
    ("isolated", Isolation::Isolated),
    ("closed", Isolation::Closed),
];
