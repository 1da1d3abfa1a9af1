//! What happens at a failpoint that a test has set with `return(...)`.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Error, Result};

/// `return(kill)` kills the agent at once; any other text fails the operation
/// with it.
pub(super) fn act<T>(what: Option<String>) -> Result<T> {
    let what = what.unwrap_or_default();
    if what == "kill" {
        let _ = kill(Pid::this(), Signal::SIGKILL);
    }
    Err(Error::Internal(format!("failpoint: {what}")))
}
