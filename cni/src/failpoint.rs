//! Steps at which a test can kill or fail the plugin.

use crate::error::Error;

/// Passes a step. What a test has set for it with `return(...)` is done first: `kill` kills this
/// process at once, any other text fails the command with it.
///
/// # Errors
/// Code 100: a test wants it.
#[cfg(feature = "failpoints")]
pub fn step(name: &str) -> Result<(), Error> {
    fail::fail_point!(name, act);
    Ok(())
}

/// Passes a step: nothing can be set in a build without failpoints.
///
/// # Errors
/// None.
#[cfg(not(feature = "failpoints"))]
#[expect(clippy::unnecessary_wraps, reason = "with failpoints it can fail")]
pub fn step(_name: &str) -> Result<(), Error> {
    Ok(())
}

#[cfg(feature = "failpoints")]
fn act(what: Option<String>) -> Result<(), Error> {
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    let what = what.unwrap_or_default();
    if what == "kill" {
        let _ = kill(Pid::this(), Signal::SIGKILL);
    }
    Err(Error::new(
        crate::error::Code::Failed,
        format!("failpoint: {what}"),
    ))
}
