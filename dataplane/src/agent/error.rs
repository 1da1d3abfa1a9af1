//! What can go wrong with a request, by what the caller can do about it.

use crate::{endpoint::StoreError, kernel::KernelError, link::LinkError, rdma::RdmaError};

/// A request that was not carried out. The text is one line: the thing, the
/// cause, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request itself is wrong.
    #[error("{0}")]
    Invalid(String),
    /// What it names does not exist.
    #[error("{0}")]
    NotFound(String),
    /// It contradicts the present state.
    #[error("{0}")]
    Conflict(String),
    /// No room is left.
    #[error("{0}")]
    Exhausted(String),
    /// The kernel or the machine cannot do it.
    #[error("{0}")]
    Unsupported(String),
    /// The node, not the request, is at fault.
    #[error("{0}")]
    Internal(String),
}

/// With [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl From<LinkError> for Error {
    fn from(error: LinkError) -> Self {
        Self::from(&error)
    }
}

impl From<&LinkError> for Error {
    fn from(error: &LinkError) -> Self {
        let text = error.to_string();
        match error {
            LinkError::NotFound { .. }
            | LinkError::NamespaceGone { .. }
            | LinkError::NoDevice { .. }
            | LinkError::NoVf { .. } => Self::NotFound(text),
            LinkError::InvalidNetnsRef { .. }
            | LinkError::NotANamespace { .. }
            | LinkError::Invalid { .. } => Self::Invalid(text),
            LinkError::Unsupported { .. } => Self::Unsupported(text),
            LinkError::Exists { .. } => Self::Conflict(text),
            _ => Self::Internal(text),
        }
    }
}

impl From<KernelError> for Error {
    fn from(error: KernelError) -> Self {
        let text = error.to_string();
        match error {
            KernelError::InterfaceGone(_) => Self::NotFound(text),
            KernelError::Full { .. } => Self::Exhausted(text),
            _ => Self::Internal(text),
        }
    }
}

impl From<RdmaError> for Error {
    fn from(error: RdmaError) -> Self {
        Self::from(&error)
    }
}

impl From<&RdmaError> for Error {
    fn from(error: &RdmaError) -> Self {
        let text = error.to_string();
        match error {
            RdmaError::Unsupported => Self::Unsupported(text),
            RdmaError::NotFound { .. } => Self::NotFound(text),
            RdmaError::WrongMode { .. } => Self::Conflict(text),
            RdmaError::Request { .. } if error.errno() == Some(libc::EBUSY) => Self::Conflict(text),
            RdmaError::Link(error) => error.into(),
            _ => Self::Internal(text),
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Internal(error.to_string())
    }
}
