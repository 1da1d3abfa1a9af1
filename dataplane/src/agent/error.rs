//! What can go wrong with a request, by what the caller can do about it.

use crate::{endpoint::StoreError, kernel::KernelError, link::LinkError};

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
        let text = error.to_string();
        match error {
            LinkError::NotFound { .. } | LinkError::NamespaceGone { .. } => Self::NotFound(text),
            LinkError::InvalidNetnsRef { .. } | LinkError::NotANamespace { .. } => {
                Self::Invalid(text)
            }
            LinkError::Unsupported { .. } => Self::Unsupported(text),
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

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Internal(error.to_string())
    }
}
