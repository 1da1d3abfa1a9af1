//! Steps at which a test can kill, hold or fail the agent.

use super::Result;

/// Passes a step. What a test has set for it with `return(...)` is done first: `kill` kills the
/// agent at once, `wait:PATH` makes that file and waits until it is gone, any other text fails the
/// operation with it.
#[cfg(feature = "failpoints")]
pub(super) fn step(name: &str) -> Result<()> {
    fail::fail_point!(name, act);
    Ok(())
}

/// Passes a step: nothing can be set in a build without failpoints.
#[cfg(not(feature = "failpoints"))]
#[expect(clippy::unnecessary_wraps, reason = "with failpoints it can fail")]
pub(super) fn step(_name: &str) -> Result<()> {
    Ok(())
}

#[cfg(feature = "failpoints")]
fn act(what: Option<String>) -> Result<()> {
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    let what = what.unwrap_or_default();
    if what == "kill" {
        let _ = kill(Pid::this(), Signal::SIGKILL);
    }
    if let Some(path) = what.strip_prefix("wait:") {
        let failed = |error| super::Error::Internal(format!("failpoint: {path}: {error}"));
        std::fs::write(path, "").map_err(failed)?;
        while std::path::Path::new(path).exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        return Ok(());
    }
    Err(super::Error::Internal(format!("failpoint: {what}")))
}
