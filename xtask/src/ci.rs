//! `cargo xtask ci`: all that must be good before a change goes in.

use anyhow::Result;
use clap::Args;

use crate::{check, test::Test};

/// Options of `cargo xtask ci`.
#[derive(Args)]
pub(crate) struct Ci {
    /// Also run the lab's tests, where virtual machines can be had
    #[arg(long)]
    lab: bool,
}

impl Ci {
    /// The checks, then every test.
    ///
    /// # Errors
    /// A check or a test fails.
    pub(crate) fn run(&self) -> Result<()> {
        check::run()?;
        Test::run_all(self.lab)
    }
}
