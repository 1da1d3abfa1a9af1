//! The verbs.

mod add;
mod check;
mod del;
mod gc;
mod status;

use crate::{
    agent::Agent,
    call::{Call, Command},
    config::Config,
    error::Error,
    log::{self, Level},
    version::Version,
};

/// Carries a command out; returns what is to be printed.
///
/// # Errors
/// As the command has it.
pub fn run(call: &Call, input: &[u8]) -> Result<String, Error> {
    let config = Config::read(input)?;
    log::begin(call, &config.name, &config.fields);
    log::write(Level::Debug, &String::from_utf8_lossy(input));
    let done = carry_out(call, &config, input);
    match &done {
        Ok(_) => log::write(Level::Info, "done"),
        Err(error) => log::write(Level::Error, &error.to_line()),
    }
    done
}

fn carry_out(call: &Call, config: &Config, input: &[u8]) -> Result<String, Error> {
    since(call.command, config.version)?;
    let agent = Agent::at(&config.fields.socket);
    match call.command {
        Command::Add => add::run(call, config, &agent).map(|result| result.to_string()),
        Command::Del => nothing(del::run(call, config, &agent)),
        Command::Check => nothing(check::run(call, config, &agent)),
        Command::Gc => nothing(gc::run(call, config, &agent)),
        Command::Status => nothing(status::run(call, config, &agent)),
        Command::Version => Ok(crate::version::answer(input)),
    }
}

/// These commands print nothing when all is well.
fn nothing(done: Result<(), Error>) -> Result<String, Error> {
    done.map(|()| String::new())
}

/// Commands came with versions of the specification.
fn since(command: Command, version: Version) -> Result<(), Error> {
    let first = match command {
        Command::Add | Command::Del | Command::Version => Version::V0_3_1,
        Command::Check => Version::V0_4_0,
        Command::Gc | Command::Status => Version::V1_1_0,
    };
    if version >= first {
        return Ok(());
    }
    Err(Error::incompatible(format!(
        "{} came with CNI {}; the configuration is of {}",
        command.name(),
        first.name(),
        version.name()
    )))
}
