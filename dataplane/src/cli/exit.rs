//! Exit codes, as `sluice --help` lists them.

use std::process::ExitCode;

use hyper::StatusCode;

use super::detach::NoId;
use crate::{
    api::{BindError, client::ClientError},
    config::ConfigError,
    endpoint::StoreError,
    kernel::KernelError,
};

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const NO_AGENT: u8 = 3;
const NOT_FOUND: u8 = 4;
const CONFLICT: u8 = 5;
const UNSUPPORTED: u8 = 6;

/// The code for an error, by its typed cause.
pub(super) fn code(error: &anyhow::Error) -> ExitCode {
    let codes = error.chain().filter_map(code_of);
    ExitCode::from(codes.into_iter().next().unwrap_or(FAILED))
}

fn code_of(error: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(error) = error.downcast_ref::<ClientError>() {
        return Some(match error {
            ClientError::NoAgent { .. } | ClientError::Lost { .. } => NO_AGENT,
            ClientError::Permission { .. } => UNSUPPORTED,
            ClientError::Refused { status, .. } if *status == StatusCode::NOT_FOUND => NOT_FOUND,
            ClientError::Refused { status, .. } if *status == StatusCode::CONFLICT => CONFLICT,
            ClientError::Refused { status, .. } if *status == StatusCode::NOT_IMPLEMENTED => {
                UNSUPPORTED
            }
            _ => FAILED,
        });
    }
    if error.is::<ConfigError>() || error.is::<NoId>() {
        return Some(USAGE);
    }
    if let Some(error) = error.downcast_ref::<KernelError>() {
        return Some(match error {
            KernelError::Unsupported(_) => UNSUPPORTED,
            _ => FAILED,
        });
    }
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return Some(if error.is_conflict() {
            CONFLICT
        } else {
            FAILED
        });
    }
    match error.downcast_ref::<BindError>() {
        Some(BindError::InUse { .. }) => Some(CONFLICT),
        Some(_) => Some(FAILED),
        None => None,
    }
}
