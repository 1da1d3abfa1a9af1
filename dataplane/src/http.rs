//! The loop that serves HTTP connections, for the API's socket and for the
//! metrics' address.

use std::{sync::Arc, time::Duration};

use axum::{Router, serve::Listener};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};

/// A client that has not sent its whole header by then is cut off; so is one
/// that keeps a connection open for longer without a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests in flight may go on after the stop.
const GRACE: Duration = Duration::from_secs(3);

/// What one server grants its clients together.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; more wait in the listen queue.
    pub connections: usize,
    /// One request a connection, over after this time, so that a client that
    /// does not read its answer cannot keep its place. `None` where answers
    /// may go on for as long as the client likes.
    pub single_request: Option<Duration>,
}

/// Serves until `stop` becomes true or its sender is dropped, then lets the
/// requests in flight finish for a few seconds.
pub async fn serve(
    mut listener: impl Listener,
    app: Router,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let ((io, _), place) = tokio::select! {
            accepted = accept => accepted,
            _ = stopped(&mut stop) => break,
        };
        while connections.try_join_next().is_some() {}
        let (app, stop) = (app.clone(), stop.clone());
        connections.spawn(async move {
            connection(io, app, limits, stop).await;
            drop(place);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Resolves at the stop.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn connection<Io>(io: Io, app: Router, limits: Limits, mut stop: watch::Receiver<bool>)
where
    Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(limits.single_request.is_none())
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(app));
    tokio::pin!(connection);
    let served = async {
        tokio::select! {
            result = connection.as_mut() => result,
            _ = stopped(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                timeout(GRACE, connection.as_mut()).await.unwrap_or(Ok(()))
            }
        }
    };
    let result = match limits.single_request {
        Some(limit) => timeout(limit, served).await.unwrap_or(Ok(())),
        None => served.await,
    };
    // Clients come and go as they like: nothing that the node's owner need know.
    if let Err(error) = result {
        tracing::debug!("connection ended: {error}");
    }
}
