//! What can go wrong between the agent and the kernel.

use std::{io, path::PathBuf};

use aya::programs::{ProgramError, tc::TcError};

/// A failure of the kernel side. The text is one line: the thing, the cause,
/// the remedy.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A precondition of this machine.
    #[error("{0}")]
    Unsupported(String),
    /// A pin that is not what it should be.
    #[error("{path}: {cause}", path = .path.display())]
    Pin {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        cause: String,
    },
    /// The kernel refused an operation.
    #[error("{what}: {cause}")]
    Refused {
        /// What was tried, on what.
        what: String,
        /// What the kernel said.
        cause: String,
    },
    /// The interface vanished meanwhile.
    #[error("interface {0} is gone")]
    InterfaceGone(String),
    /// A map has no room left.
    #[error("map {map} is full; {}", room_for(map))]
    Full {
        /// Its name.
        map: &'static str,
    },
}

/// The operation and the whole chain of causes as one line.
pub(super) fn refused(what: impl Into<String>, error: &dyn std::error::Error) -> KernelError {
    let mut cause = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !cause.contains(&text) {
            cause.push_str(": ");
            cause.push_str(&text);
        }
        source = error.source();
    }
    // The verifier's log may follow on further lines.
    let cause = cause.lines().next().unwrap_or_default().to_owned();
    KernelError::Refused {
        what: what.into(),
        cause,
    }
}

/// The operating system's error number somewhere in the chain of causes.
pub(super) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = match error.downcast_ref::<ProgramError>() {
            // Transparent: they name their cause as themselves, not as their source.
            Some(ProgramError::IOError(io) | ProgramError::TcError(TcError::IoError(io))) => {
                Some(io)
            }
            _ => error.downcast_ref::<io::Error>(),
        };
        if let Some(number) = io.and_then(io::Error::raw_os_error) {
            return Some(number);
        }
        next = error.source();
    }
    None
}

/// How a map gets more room; what sizes each is in `layout`.
fn room_for(map: &str) -> &'static str {
    match map {
        "identity" | "identity_cidr" => "raise identities in the configuration, which sizes it",
        "block_list" => "it has a fixed size; remove prefixes from it, or merge some",
        super::policy::POLICY_NAME => "use fewer rules, ports or peers in a policy",
        _ => "raise max_endpoints in the configuration, which sizes it",
    }
}
