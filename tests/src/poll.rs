//! Waiting for a condition without guessing how long it takes.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How long a condition may take before a test fails. Generous: it is reached only when something
/// is broken. An emulated machine of the lab may be ten times slower than a real one.
fn deadline() -> Duration {
    let in_the_lab = std::env::var_os("SLUICE_LAB_NODE").is_some();
    Duration::from_secs(if in_the_lab { 120 } else { 20 })
}

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks again and again until `probe` yields something.
///
/// # Errors
/// The first error of `probe`, or `what` with the time waited when nothing came.
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = deadline();
    let start = Instant::now();
    loop {
        if let Some(found) = probe()? {
            return Ok(found);
        }
        if start.elapsed() > deadline {
            bail!("waited {} s for {what}, in vain", deadline.as_secs());
        }
        thread::sleep(PAUSE);
    }
}

/// Looks again and again until `probe` answers true.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_until(what: &str, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_for(what, || Ok(probe()?.then_some(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_until_it_is_there() {
        let mut looks = 0;
        let found = wait_for("the third look", || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.unwrap(), 3);
    }

    #[test]
    fn an_error_ends_the_wait() {
        let error = wait_until("nothing", || bail!("broken")).unwrap_err();
        assert_eq!(error.to_string(), "broken");
    }
}
