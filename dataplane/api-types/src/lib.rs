//! What travels between the agent and its small clients, as JSON over HTTP on
//! the agent's Unix socket. Only types: the CNI plugin starts anew for every
//! pod and carries nothing that it does not need.

pub mod cni;
mod mac;
mod pod;

pub use mac::{InvalidMac, Mac};
pub use pod::PodName;
use serde::{Deserialize, Serialize};

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/sluice/agent.sock";
/// Where the agent keeps its records unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/sluice";

/// Body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// One line: the thing, the cause, the remedy.
    pub error: String,
}
