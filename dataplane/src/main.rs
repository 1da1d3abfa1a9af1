//! `sluice`: the agent and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    dataplane::cli::main()
}
