//! `sluice`: the agent and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    dataplane::cli::main()
}
