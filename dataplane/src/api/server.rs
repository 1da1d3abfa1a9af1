//! The server's side of the API.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{Method, StatusCode, Uri},
    response::IntoResponse,
    routing::get,
};
use tokio::sync::watch;

use super::{
    Dataplane, Socket, cni, events, hardware, policy,
    request::{Failure, Parameters, QueryOrBody, SelectorFields},
    roce::RoceFlows,
    types::{
        AttachRequest, Block, BlockRequest, Endpoint, EndpointSelector, Stats, Status, Uplink,
        UplinkName, UplinkRequest,
    },
};
use crate::http::{self, Limits};

/// Only root can connect, so this bounds mistakes rather than attacks.
const LIMITS: Limits = Limits {
    connections: 256,
    single_request: None,
};

/// Serves the API on `socket` until `stop` becomes true or its sender is
/// dropped. Returns when the requests in flight are answered, and removes the
/// socket.
pub async fn serve(socket: Socket, dataplane: Arc<dyn Dataplane>, stop: watch::Receiver<bool>) {
    let (listener, file) = socket.into_parts();
    http::serve(listener, router(dataplane, stop.clone()), LIMITS, stop).await;
    drop(file);
}

#[derive(Clone)]
pub(super) struct Server {
    dataplane: Arc<dyn Dataplane>,
    stop: watch::Receiver<bool>,
}

pub(super) type Answer<T> = Result<Json<T>, Failure>;

impl Server {
    /// Runs an operation where it may block.
    pub(super) async fn run<T: Send + 'static>(
        self,
        operation: impl FnOnce(&dyn Dataplane) -> crate::agent::Result<T> + Send + 'static,
    ) -> Answer<T> {
        let done = tokio::task::spawn_blocking(move || operation(self.dataplane.as_ref())).await;
        match done {
            Ok(result) => Ok(Json(result?)),
            Err(error) => Err(Failure {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                error: format!("the agent failed on this request: {error}; its log tells more"),
            }),
        }
    }
}

fn router(dataplane: Arc<dyn Dataplane>, stop: watch::Receiver<bool>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/endpoints", get(endpoints).post(attach).delete(detach))
        .route("/v1/stats", get(stats))
        .route("/v1/events", get(follow))
        .route(
            "/v1/uplinks",
            get(uplinks).post(add_uplink).delete(remove_uplink),
        )
        .route("/v1/blocks", get(blocks).post(block).delete(unblock))
        .route("/v1/roce/flows", get(roce_flows))
        .nest("/v1/cni", cni::router())
        .nest("/v1/policy", policy::router())
        .nest("/v1", hardware::router())
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .with_state(Server { dataplane, stop })
}

async fn unknown_path(uri: Uri) -> Failure {
    Failure {
        status: StatusCode::NOT_FOUND,
        error: format!(
            "no such resource: {}; this agent's API is /v1/status, endpoints, stats, events, \
             uplinks, blocks, roce, rdma, sriov, cni, policy",
            uri.path()
        ),
    }
}

async fn unknown_method(method: Method, uri: Uri) -> Failure {
    Failure {
        status: StatusCode::METHOD_NOT_ALLOWED,
        error: format!("{method} is not possible on {}", uri.path()),
    }
}

async fn status(State(server): State<Server>) -> Answer<Status> {
    server.run(|dataplane| dataplane.status()).await
}

async fn endpoints(State(server): State<Server>) -> Answer<Vec<Endpoint>> {
    server.run(|dataplane| Ok(dataplane.endpoints())).await
}

async fn attach(
    State(server): State<Server>,
    Parameters(request): Parameters<AttachRequest>,
) -> Answer<Endpoint> {
    server
        .run(move |dataplane| dataplane.attach(&request))
        .await
}

async fn detach(
    State(server): State<Server>,
    QueryOrBody(fields): QueryOrBody<SelectorFields>,
) -> Answer<Endpoint> {
    let selector = EndpointSelector::try_from(fields)?;
    server
        .run(move |dataplane| dataplane.detach(&selector))
        .await
}

async fn stats(State(server): State<Server>) -> Answer<Stats> {
    server.run(|dataplane| dataplane.stats()).await
}

async fn follow(State(server): State<Server>) -> impl IntoResponse {
    events::follow(server.dataplane.events(), server.stop)
}

async fn roce_flows(State(server): State<Server>) -> Answer<RoceFlows> {
    server.run(|dataplane| dataplane.roce_flows()).await
}

async fn uplinks(State(server): State<Server>) -> Answer<Vec<Uplink>> {
    server.run(|dataplane| Ok(dataplane.uplinks())).await
}

async fn add_uplink(
    State(server): State<Server>,
    Parameters(request): Parameters<UplinkRequest>,
) -> Answer<Uplink> {
    server
        .run(move |dataplane| dataplane.add_uplink(&request))
        .await
}

async fn remove_uplink(
    State(server): State<Server>,
    QueryOrBody(name): QueryOrBody<UplinkName>,
) -> Answer<Uplink> {
    server
        .run(move |dataplane| dataplane.remove_uplink(&name.interface))
        .await
}

async fn blocks(State(server): State<Server>) -> Answer<Vec<Block>> {
    server.run(|dataplane| dataplane.blocks()).await
}

async fn block(
    State(server): State<Server>,
    Parameters(request): Parameters<BlockRequest>,
) -> Answer<Block> {
    server
        .run(move |dataplane| dataplane.block(request.cidr))
        .await
}

async fn unblock(
    State(server): State<Server>,
    QueryOrBody(request): QueryOrBody<BlockRequest>,
) -> Answer<Block> {
    server
        .run(move |dataplane| dataplane.unblock(request.cidr))
        .await
}
