//! `/metrics` and `/healthz` over TCP.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
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
use tokio::{net::TcpListener, sync::watch};

use super::collect::{encode, to_classic};
use crate::{
    api::Dataplane,
    http::{self, Limits},
};

/// OpenMetrics 1.0 (its specification, section "Overall Structure").
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text format 0.0.4 of Prometheus.
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Anybody who reaches the address may connect.
const LIMITS: Limits = Limits {
    connections: 16,
    single_request: Some(Duration::from_secs(30)),
};

/// Listens at `address`.
///
/// # Errors
/// It is taken, or not this machine's.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot serve metrics at {address}; choose another --metrics-address, or off")
    })
}

/// Serves until `stop` becomes true.
pub async fn serve(
    listener: TcpListener,
    dataplane: Arc<dyn Dataplane>,
    stop: watch::Receiver<bool>,
) {
    let app = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get("ok\n"))
        .with_state(dataplane);
    http::serve(listener, app, LIMITS, stop).await;
}

async fn metrics(State(dataplane): State<Arc<dyn Dataplane>>, request: HeaderMap) -> Response {
    let accepted = request.get(ACCEPT).and_then(|value| value.to_str().ok());
    let openmetrics = accepted.is_some_and(|kinds| kinds.contains("application/openmetrics-text"));
    // Reading the maps blocks.
    let text = tokio::task::spawn_blocking(move || encode(dataplane.as_ref())).await;
    match text {
        Ok(Ok(text)) if openmetrics => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Ok(Ok(text)) => ([(CONTENT_TYPE, CLASSIC)], to_classic(&text)).into_response(),
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error.into()),
    }
}

fn failed(error: &anyhow::Error) -> Response {
    tracing::warn!("metrics: {error:#}");
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response()
}
