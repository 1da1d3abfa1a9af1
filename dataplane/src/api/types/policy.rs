//! Policies, as the agent shows them.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::PodName;

/// `GET /v1/policy`: the source and what is made of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Where policies come from; without a source every endpoint is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
    /// Raised with each change of what is in force, since the agent started.
    pub generation: u64,
    /// How long the last compilation took, in seconds.
    pub compile_seconds: f64,
    /// How long the last change of the kernel's maps took, in seconds.
    pub apply_seconds: f64,
    /// The source's files.
    pub files: Vec<PolicyFile>,
    /// Namespaces known.
    pub namespaces: usize,
    /// Pods known.
    pub pods: usize,
    /// Addresses with an identity of their own.
    pub addresses: usize,
    /// Prefixes with an identity.
    pub prefixes: usize,
    /// Addresses and prefixes that fit, each.
    pub identities_limit: u32,
    /// Tables in the kernel; endpoints of equal policies share one.
    pub tables: usize,
    /// Their entries.
    pub entries: usize,
    /// The policies.
    pub policies: Vec<PolicySummary>,
    /// The rules that endpoints go by, with their hits.
    #[serde(default)]
    pub rules: Vec<RuleHits>,
    /// The endpoints.
    pub endpoints: Vec<EndpointPolicy>,
    /// What is not as it should be, one line each.
    pub problems: Vec<String>,
}

/// A file of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFile {
    /// Where it is.
    pub path: PathBuf,
    /// Objects of it that are in force.
    pub objects: usize,
    /// Why its present text is not in force, with the line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySummary {
    /// `NetworkPolicy` or `MultiNetworkPolicy`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The networks that it is about.
    pub networks: String,
    /// Rules for what enters; absent where it does not isolate ingress.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<usize>,
    /// Rules for what leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<usize>,
    /// Endpoints of this node that it isolates.
    pub endpoints: Vec<u32>,
}

/// How often a rule let something pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleHits {
    /// Kind of its policy.
    pub kind: String,
    /// Namespace of its policy.
    pub namespace: String,
    /// Its policy.
    pub policy: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// Its place in the policy's list, from 0.
    pub rule: u32,
    /// Flows that it has allowed, on all endpoints of the node.
    pub hits: u64,
}

/// How an endpoint is judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPolicy {
    /// Endpoint id.
    pub id: u32,
    /// The pod, when known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// Interface name.
    pub interface: String,
    /// `open` or `isolated`, for what enters.
    pub ingress: Isolation,
    /// For what leaves.
    pub egress: Isolation,
    /// What would be dropped passes, and is only counted and told.
    pub audit: bool,
    /// Why it is not judged by policies, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The policies that isolate it.
    pub policies: Vec<String>,
}

/// Whether a direction of an endpoint is isolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Everything passes.
    Open,
    /// What some rule allows passes.
    Isolated,
    /// Nothing passes: the policy is not known, or could not be put in place.
    Closed,
}

/// `GET /v1/policy/endpoint?id=`: the rules that an endpoint goes by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRules {
    /// How it is judged.
    #[serde(flatten)]
    pub policy: EndpointPolicy,
    /// Its rules, as they are in the kernel.
    pub rules: Vec<RuleState>,
}

/// A rule as an endpoint's table has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleState {
    /// Policy, direction and place, such as
    /// `NetworkPolicy shop/web ingress[0]`.
    pub rule: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// Identities that it is for; 0 where it is for everybody.
    pub identities: usize,
    /// Ports that it allows.
    pub ports: Vec<String>,
    /// Flows that it has allowed, on all endpoints of the node.
    pub hits: u64,
}

/// `POST /v1/policy/explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// The initiator: a pod, an address, or an endpoint's number.
    pub from: String,
    /// The other side.
    pub to: String,
    /// `443/tcp`, `icmp`, or a protocol number.
    pub port: String,
}

/// A connection between two addresses, and why it passes or does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedFlow {
    /// The initiator.
    pub from: IpAddr,
    /// The other side.
    pub to: IpAddr,
    /// The network, when known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Whether it passes at both ends, as far as they are on this node.
    pub passes: bool,
    /// What each end says.
    pub ends: Vec<ExplainedEnd>,
}

/// What one end says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedEnd {
    /// Endpoint id.
    pub endpoint: u32,
    /// The pod, when known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// `ingress` or `egress`, seen from this pod.
    pub direction: String,
    /// The peer's identity.
    pub identity: u32,
    /// Whether policy allows it.
    pub allowed: bool,
    /// It passes all the same: the endpoint is in audit mode.
    pub audit: bool,
    /// The rule that allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Why, in words.
    pub why: String,
}

/// `POST /v1/policy/verify`: expectations to be held against what is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// The expectations.
    pub expectations: Vec<crate::policy::verify::Expectation>,
}

/// `POST /v1/policy/audit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditRequest {
    /// Endpoint id.
    pub id: u32,
    /// Whether audit mode is on.
    pub audit: bool,
}

/// `GET /v1/policy/endpoint`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointId {
    /// Endpoint id.
    pub id: u32,
}
