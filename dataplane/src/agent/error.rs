//! What can go wrong with a request, by what the caller can do about it.

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
    /// The node, not the request, is at fault.
    #[error("{0}")]
    Internal(String),
}

/// With [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        Self::Internal(format!("{error:#}"))
    }
}
