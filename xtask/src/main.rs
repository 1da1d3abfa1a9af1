//! Sluice's own build tool: `cargo xtask <command>`.

mod bench;
mod build;
mod check;
mod demo;
mod exec;
mod fuzz;
mod lab;
mod object;
mod setup;
mod test;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, try and test Sluice.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Get everything that the other commands need
    Setup(setup::Setup),
    /// Build the eBPF object and the sluice binary
    Build(build::Build),
    /// See Sluice at work: real pods and traffic in network namespaces (needs root)
    Demo(demo::Demo),
    /// Run every test (needs root)
    Test(test::Test),
    /// Measure Sluice on this machine (needs root); all benchmarks write docs/benchmarks.md
    Bench(bench::Bench),
    /// Boot other kernels, SR-IOV, soft-RoCE and a second node in virtual machines (needs root)
    Lab(lab::Lab),
    /// Fuzz the parsers, for a minute each
    Fuzz(fuzz::Fuzz),
    /// Check formatting and lints
    Check,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(command) => command.run(),
        Command::Build(command) => command.run(),
        Command::Demo(command) => command.run(),
        Command::Test(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Lab(command) => command.run(),
        Command::Fuzz(command) => command.run(),
        Command::Check => check::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
