//! `sluice-cni`: Sluice's CNI plugin.
//!
//! Chained behind another plugin it puts the interfaces that this one made
//! into the dataplane; with `mode` it is the main plugin, and has the agent
//! make the interface as well. The agent does the work: this program reads
//! what the runtime wants, asks the agent, delegates to the IPAM plugin, and
//! answers in the version of the CNI specification that it was called with.
//!
//! Standard output carries the result, or the error, and nothing else.

mod agent;
mod call;
mod commands;
mod config;
mod device_info;
mod error;
mod failpoint;
mod http;
mod ipam;
mod ipam_lock;
mod log;
mod result;
mod tombstone;
mod version;

use std::{
    io::{self, Read as _, Write as _},
    process::ExitCode,
};

use call::{Call, Command};
use error::Error;

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    if std::env::var_os("CNI_COMMAND").is_none() {
        eprintln!(
            "{} {}, a CNI plugin; CNI protocol versions supported: {}",
            env!("CARGO_PKG_NAME"),
            env!("CARGO_PKG_VERSION"),
            version::SUPPORTED.map(|version| version.name()).join(", ")
        );
        return ExitCode::SUCCESS;
    }
    let mut input = Vec::new();
    let answered = io::stdin()
        .read_to_end(&mut input)
        .map_err(|error| {
            (
                None,
                Error::io(format!("reading the configuration: {error}")),
            )
        })
        .and_then(|_| answer(&input));
    let (text, code) = match answered {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err((version, error)) => (error.to_json(version.as_deref()), ExitCode::FAILURE),
    };
    // Nobody is left to be told of a runtime that does not listen.
    let _ = io::stdout().write_all(text.as_bytes());
    code
}

/// The text to print; an error goes with the version that the caller spoke, as
/// far as it could be made out.
fn answer(input: &[u8]) -> Result<String, (Option<String>, Error)> {
    let call = Call::from_environment().map_err(|error| (version::spoken(input), error))?;
    if call.command == Command::Version {
        return Ok(version::answer(input));
    }
    commands::run(&call, input).map_err(|error| (version::spoken(input), error))
}
