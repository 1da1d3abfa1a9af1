//! Ctrl-C and termination: noted here, obeyed at the next look, so that everything made so far is
//! removed on the way out.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// The longest that a request goes unnoticed in a wait.
const SLICE: Duration = Duration::from_millis(20);

/// From now on SIGINT, SIGTERM and SIGHUP are requests to stop.
///
/// # Errors
/// The handlers cannot be set.
pub(super) fn install() -> Result<()> {
    ctrlc::set_handler(request).context("cannot catch Ctrl-C")
}

/// Asks the demo to stop.
pub(super) fn request() {
    REQUESTED.store(true, Ordering::Relaxed);
}

/// Forgets that somebody asked.
pub(super) fn clear() {
    REQUESTED.store(false, Ordering::Relaxed);
}

/// Whether somebody asked.
pub(super) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Fails if somebody asked to stop.
///
/// # Errors
/// Somebody did.
pub(super) fn check() -> Result<()> {
    if requested() {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps.
///
/// # Errors
/// Somebody asked to stop.
pub(super) fn sleep(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(SLICE));
    }
}

/// Looks again and again until `probe` yields something.
///
/// # Errors
/// The first error of `probe`; or `what`, when nothing came within half a minute; or somebody asked
/// to stop.
pub(super) fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    const LIMIT: Duration = Duration::from_secs(30);
    let start = Instant::now();
    loop {
        if let Some(found) = probe()? {
            return Ok(found);
        }
        if start.elapsed() > LIMIT {
            bail!("waited {} seconds for {what}, in vain", LIMIT.as_secs());
        }
        sleep(SLICE)?;
    }
}
