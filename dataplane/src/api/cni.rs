//! The requests of the CNI plugin.

use axum::{
    Router,
    extract::State,
    routing::{get, post},
};

use super::{
    Cni, Dataplane,
    request::Parameters,
    server::{Answer, Server},
    types::cni::{
        AddAnswer, AddRequest, CheckRequest, ConfigureAnswer, ConfigureRequest, DelRequest, Done,
        GcAnswer, GcRequest, Readiness,
    },
};
use crate::agent::{Error, Result};

/// The routes below `/v1/cni`.
pub(super) fn router() -> Router<Server> {
    Router::new()
        .route("/add", post(add))
        .route("/configure", post(configure))
        .route("/del", post(del))
        .route("/check", post(check))
        .route("/gc", post(gc))
        .route("/status", get(status))
}

fn cni(dataplane: &dyn Dataplane) -> Result<&dyn Cni> {
    dataplane
        .cni()
        .ok_or_else(|| Error::NotFound("this agent does not serve the CNI plugin".into()))
}

async fn add(
    State(server): State<Server>,
    Parameters(request): Parameters<AddRequest>,
) -> Answer<AddAnswer> {
    server.run(move |node| cni(node)?.cni_add(&request)).await
}

async fn configure(
    State(server): State<Server>,
    Parameters(request): Parameters<ConfigureRequest>,
) -> Answer<ConfigureAnswer> {
    server
        .run(move |node| cni(node)?.cni_configure(&request))
        .await
}

async fn del(
    State(server): State<Server>,
    Parameters(request): Parameters<DelRequest>,
) -> Answer<Done> {
    server.run(move |node| cni(node)?.cni_del(&request)).await
}

async fn check(
    State(server): State<Server>,
    Parameters(request): Parameters<CheckRequest>,
) -> Answer<Done> {
    server.run(move |node| cni(node)?.cni_check(&request)).await
}

async fn gc(
    State(server): State<Server>,
    Parameters(request): Parameters<GcRequest>,
) -> Answer<GcAnswer> {
    server.run(move |node| cni(node)?.cni_gc(&request)).await
}

async fn status(State(server): State<Server>) -> Answer<Readiness> {
    server.run(|node| Ok(cni(node)?.cni_status())).await
}
