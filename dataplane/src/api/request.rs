//! How requests are read and errors are answered.

use std::time::Duration;

use axum::{
    Json,
    body::{Body, to_bytes},
    extract::{FromRequest, Query, Request},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::types::{ApiError, EndpointSelector};
use crate::{agent::Error, link::NetnsRef};

/// Largest request body, in bytes; the largest sensible one is some hundred.
const BODY_LIMIT: usize = 64 * 1024;
/// How long a client may take to send it.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// An answer that is not a success.
#[derive(Debug)]
pub(super) struct Failure {
    pub status: StatusCode,
    pub error: String,
}

impl Failure {
    fn bad_request(error: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            error: error.into(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error {
            Error::Invalid(_) => StatusCode::BAD_REQUEST,
            Error::NotFound(_) => StatusCode::NOT_FOUND,
            Error::Conflict(_) => StatusCode::CONFLICT,
            Error::Exhausted(_) => StatusCode::INSUFFICIENT_STORAGE,
            Error::Unsupported(_) => StatusCode::NOT_IMPLEMENTED,
            Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self {
            status,
            error: error.to_string(),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self { status, error } = self;
        (status, Json(ApiError { error })).into_response()
    }
}

/// A request's parameters: its JSON body.
pub(super) struct Parameters<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Parameters<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        from_body(request.into_body()).await.map(Self)
    }
}

/// A request's parameters: its query, or without one its JSON body.
pub(super) struct QueryOrBody<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for QueryOrBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        if request.uri().query().is_none() {
            return from_body(request.into_body()).await.map(Self);
        }
        match Query::try_from_uri(request.uri()) {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Failure::bad_request(format!(
                "query: {}",
                root_cause(&rejection)
            ))),
        }
    }
}

/// The innermost error: what serde has to say, without axum's frame.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

async fn from_body<T: DeserializeOwned>(body: Body) -> Result<T, Failure> {
    let bytes = match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, BODY_LIMIT)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => {
            return Err(Failure {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                error: format!(
                    "request body: {} (limit {BODY_LIMIT} bytes)",
                    root_cause(&error)
                ),
            });
        }
        Err(_) => {
            return Err(Failure {
                status: StatusCode::REQUEST_TIMEOUT,
                error: format!(
                    "request body: not complete after {} seconds",
                    BODY_TIMEOUT.as_secs()
                ),
            });
        }
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::bad_request(format!("request body: {error}")))
}

/// [`EndpointSelector`], read field by field so that a wrong one is named
/// (and so that a query, all text, can hold the id).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SelectorFields {
    id: Option<u32>,
    netns: Option<NetnsRef>,
    interface: Option<String>,
}

impl TryFrom<SelectorFields> for EndpointSelector {
    type Error = Failure;

    fn try_from(fields: SelectorFields) -> Result<Self, Failure> {
        match fields {
            SelectorFields {
                id: Some(id),
                netns: None,
                interface: None,
            } => Ok(Self::Id { id }),
            SelectorFields {
                id: None,
                netns: Some(netns),
                interface: Some(interface),
            } => Ok(Self::Interface { netns, interface }),
            _ => Err(Failure::bad_request(
                "name the endpoint either by id or by netns and interface",
            )),
        }
    }
}
