//! The stream of events.

use std::convert::Infallible;

use axum::{body::Body, http::header::CONTENT_TYPE, response::IntoResponse};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{broadcast, watch};

use super::types::{Event, EventLine};
use crate::http::stopped;

/// Content type of newline-delimited JSON.
const NDJSON: &str = "application/x-ndjson";

/// Answers with a line for each event, until the client leaves or the agent
/// stops. The agent never waits for a client: one that does not keep up finds
/// a line that tells how many events it missed.
pub(super) fn follow(
    events: broadcast::Receiver<Event>,
    stop: watch::Receiver<bool>,
) -> impl IntoResponse {
    let lines = stream::unfold((events, stop), |(mut events, mut stop)| async move {
        let received = tokio::select! {
            received = events.recv() => received,
            _ = stopped(&mut stop) => return None,
        };
        let line = match received {
            Ok(event) => EventLine::Event(Box::new(event)),
            Err(broadcast::error::RecvError::Lagged(missed)) => EventLine::Missed { missed },
            Err(broadcast::error::RecvError::Closed) => return None,
        };
        let mut text = serde_json::to_vec(&line).ok()?;
        text.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(text)), (events, stop)))
    });
    ([(CONTENT_TYPE, NDJSON)], Body::from_stream(lines))
}
