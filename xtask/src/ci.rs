//! `cargo xtask ci`: all that must be good before a change goes in.

use anyhow::Result;

use crate::{check, test::Test};

/// The checks, then every test, the lab's included.
///
/// # Errors
/// A check or a test fails.
pub(crate) fn run() -> Result<()> {
    check::run()?;
    Test::run_all()
}
