//! Prometheus metrics, over HTTP.
//!
//! `docs/metrics.md` says what each one means. The counters are read from the
//! kernel's maps at each scrape, so nothing here counts anything by itself.

mod collector;
mod endpoints;
mod family;
mod hw;
mod policy;
mod rdma;
mod roce;
pub mod spiderpool;
mod uplinks;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{
        HeaderMap, StatusCode,
        header::{ACCEPT, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use clap::ValueEnum;
use collector::encode_with;
pub use collector::{Snapshot, encode};
pub use family::Format;
use serde::Deserialize;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};

use crate::{
    api::Dataplane,
    http::{self, Limits},
};

/// Another exporter, under whose names RDMA counters are served too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Compat {
    /// Spiderpool's `rdma_..._total`.
    Spiderpool,
}

/// Anyone who reaches the address may connect, so each connection is brief.
const LIMITS: Limits = Limits {
    connections: 32,
    single_request: Some(Duration::from_secs(30)),
};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// The address could not be taken.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot serve metrics at {address}: {source}; choose another --metrics-address, or \"off\""
)]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

/// Listens at `address`.
///
/// # Errors
/// [`BindError`].
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| BindError { address, source })
}

/// Serves `/metrics` and `/healthz` until `stop` becomes true or its sender is
/// dropped.
pub async fn serve(
    listener: TcpListener,
    dataplane: Arc<dyn Dataplane>,
    compat: Vec<Compat>,
    stop: watch::Receiver<bool>,
) {
    let server = Server {
        dataplane,
        compat: compat.into(),
        scrapes: Arc::new(Semaphore::new(1)),
    };
    let app = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .with_state(server);
    http::serve(listener, app, LIMITS, stop).await;
}

#[derive(Clone)]
struct Server {
    dataplane: Arc<dyn Dataplane>,
    compat: Arc<[Compat]>,
    /// One scrape after another, so that many scrapers at a time cost no more
    /// than a processor.
    scrapes: Arc<Semaphore>,
}

impl Server {
    /// Runs where it may block.
    async fn run<T: Send + 'static>(
        self,
        operation: impl FnOnce(&dyn Dataplane) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let turn = self.scrapes.acquire_owned().await;
        tokio::task::spawn_blocking(move || {
            let result = operation(self.dataplane.as_ref());
            drop(turn);
            result
        })
        .await
        .map_err(|error| error.to_string())?
    }
}

async fn metrics(State(server): State<Server>, headers: HeaderMap) -> Response {
    let openmetrics = headers.get_all(ACCEPT).iter().any(|accept| {
        accept
            .to_str()
            .is_ok_and(|accept| accept.contains("openmetrics-text"))
    });
    let (format, content_type) = if openmetrics {
        (Format::OpenMetrics, OPENMETRICS)
    } else {
        (Format::Classic, CLASSIC)
    };
    let compat = Arc::clone(&server.compat);
    let encoded = server
        .run(move |dataplane| {
            let snapshot = Snapshot::read(dataplane).map_err(|error| error.to_string())?;
            Ok(encode_with(format, &compat, &snapshot))
        })
        .await;
    match encoded {
        Ok(text) => ([(CONTENT_TYPE, content_type)], text).into_response(),
        Err(error) => failed(StatusCode::INTERNAL_SERVER_ERROR, &error),
    }
}

async fn health(State(server): State<Server>) -> Response {
    let alive = server
        .run(|dataplane| dataplane.status().map_err(|error| error.to_string()))
        .await;
    match alive {
        Ok(_) => ([(CONTENT_TYPE, PLAIN)], "ok\n").into_response(),
        Err(error) => failed(StatusCode::SERVICE_UNAVAILABLE, &error),
    }
}

fn failed(status: StatusCode, error: &str) -> Response {
    (status, [(CONTENT_TYPE, PLAIN)], format!("{error}\n")).into_response()
}
