//! Requests about policies.

use axum::{
    Router,
    extract::State,
    routing::{get, post},
};

use super::{
    Dataplane, Policies,
    request::{Parameters, QueryOrBody},
    server::{Answer, Server},
    types::policy::{
        AuditRequest, EndpointId, EndpointPolicy, EndpointRules, ExplainRequest, ExplainedFlow,
        PolicyStatus, VerifyRequest,
    },
};
use crate::agent::{Error, Result};

/// The routes below `/v1/policy`.
pub(super) fn router() -> Router<Server> {
    Router::new()
        .route("/", get(status))
        .route("/endpoint", get(endpoint))
        .route("/explain", post(explain))
        .route("/verify", post(verify))
        .route("/audit", post(audit))
}

fn policies(dataplane: &dyn Dataplane) -> Result<&dyn Policies> {
    dataplane
        .policies()
        .ok_or_else(|| Error::NotFound("this agent knows no policies".into()))
}

pub(super) async fn status(State(server): State<Server>) -> Answer<PolicyStatus> {
    server.run(|node| policies(node)?.policy_status()).await
}

async fn endpoint(
    State(server): State<Server>,
    QueryOrBody(EndpointId { id }): QueryOrBody<EndpointId>,
) -> Answer<EndpointRules> {
    server
        .run(move |node| policies(node)?.endpoint_rules(id))
        .await
}

async fn explain(
    State(server): State<Server>,
    Parameters(request): Parameters<ExplainRequest>,
) -> Answer<Vec<ExplainedFlow>> {
    server
        .run(move |node| policies(node)?.explain(&request))
        .await
}

/// Answers with an objection, or none, for each expectation.
async fn verify(
    State(server): State<Server>,
    Parameters(request): Parameters<VerifyRequest>,
) -> Answer<Vec<Option<String>>> {
    server
        .run(move |node| policies(node)?.verify(&request))
        .await
}

async fn audit(
    State(server): State<Server>,
    Parameters(request): Parameters<AuditRequest>,
) -> Answer<EndpointPolicy> {
    let AuditRequest { id, audit } = request;
    server
        .run(move |node| policies(node)?.set_audit(id, audit))
        .await
}
