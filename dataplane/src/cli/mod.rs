//! The command line. Every command but `agent` and `completions` is a client
//! of the agent's API.

mod agent;
mod attach;
mod block;
mod bpf;
mod detach;
mod endpoints;
mod events;
mod exit;
mod policy;
mod rdma;
mod roce;
mod sriov;
mod stats;
mod status;
mod table;
mod top;
mod uplink;

use std::{io::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::api::client::{Client, DEFAULT_SOCKET};

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  failed
  2  the command line or the configuration is wrong
  3  no agent answers
  4  what the request names does not exist
  5  it contradicts the present state, or another agent runs
  6  root, or a feature of the kernel or the machine, is missing

Start the agent with `sluice agent`, then register the node's NIC and attach
pods' interfaces:
  sluice uplink add eth0
  sluice attach --netns /run/netns/web net1 --pod default/web-0
  sluice stats";

/// eBPF dataplane for pods on macvlan, ipvlan and SR-IOV VF interfaces
#[derive(Debug, Parser)]
#[command(name = "sluice", version, after_help = AFTER_HELP)]
struct Cli {
    /// The agent's socket [default: /run/sluice/agent.sock]
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "SLUICE_SOCKET",
        // Behind a command's own options.
        display_order = 900
    )]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent of this node
    Agent(agent::Agent),
    /// Attach a pod's interface to the dataplane
    Attach(attach::Attach),
    /// Detach an endpoint and forget its counters
    Detach(detach::Detach),
    /// Show the state of the agent, its maps and uplinks
    Status(Output),
    /// List the endpoints
    Endpoints(Output),
    /// Show the counters
    Stats(Output),
    /// Follow drops and RoCE trouble as they happen
    Events(events::Events),
    /// Watch rates, drops and RoCE live
    Top(top::Top),
    /// Print the bpftool commands that show this node's maps and programs
    Bpf,
    /// Register the node's NICs
    #[command(subcommand)]
    Uplink(uplink::Uplink),
    /// Drop packets by their source, at the uplinks
    #[command(subcommand)]
    Block(block::Block),
    /// Show, explain and test network policies
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Show who talks RoCE to whom, and what goes wrong
    #[command(subcommand)]
    Roce(roce::Roce),
    /// Show RDMA devices, who sees them, and who uses them
    #[command(subcommand)]
    Rdma(rdma::Rdma),
    /// Show and make virtual functions
    #[command(subcommand)]
    Sriov(sriov::Sriov),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Table,
    /// For programs: the API's own types
    Json,
}

/// The choice of format.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Output {
    /// How to print
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

impl Output {
    /// Prints `value` as JSON, or what `table` makes of it.
    fn print<T: Serialize>(
        self,
        value: &T,
        table: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let text = match self.output {
            Format::Json => serde_json::to_string_pretty(value)? + "\n",
            Format::Table => table(value),
        };
        print(&text)
    }
}

/// How long a command that follows something goes on.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Lasting {
    /// Stop after so many seconds
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u64>,
}

impl Lasting {
    /// Follows until `following` ends or the time is over.
    async fn limit(
        self,
        following: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let Some(seconds) = self.duration else {
            return following.await;
        };
        tokio::time::timeout(Duration::from_secs(seconds), following)
            .await
            .unwrap_or(Ok(()))
    }
}

/// Whoever read what is printed, such as `head`, has enough. A reason to end,
/// and no failure.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the standard output any more")]
struct ReaderLeft;

/// Writes to standard output.
///
/// # Errors
/// [`ReaderLeft`], or what went wrong.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(ReaderLeft.into()),
        written => written.context("cannot write to standard output"),
    }
}

/// The error and the chain of its causes. A cause that the error's own text
/// holds already is not told again.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text.replace('\n', " ")
}

/// The time of day, UTC; `time` in seconds since 1970.
fn clock(time: f64) -> String {
    let seconds_of_day = time.rem_euclid(86_400.0);
    let (hours, minutes, seconds) = (
        (seconds_of_day / 3600.0) as u32,
        (seconds_of_day / 60.0) as u32 % 60,
        seconds_of_day % 60.0,
    );
    format!("{hours:02}:{minutes:02}:{seconds:06.3}Z")
}

/// Parses the command line and carries it out.
pub fn main() -> ExitCode {
    let Cli { socket, command } = Cli::parse();
    match run(socket, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<ReaderLeft>() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice: {}", one_line(&error));
            exit::code(&error)
        }
    }
}

fn run(socket: Option<PathBuf>, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Agent(agent) => return agent.run(socket),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sluice", &mut script);
            return print(&String::from_utf8(script)?);
        }
        _ => {}
    }
    let client = Client::new(socket.unwrap_or_else(|| DEFAULT_SOCKET.into()));
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(ask(&client, command))
}

async fn ask(client: &Client, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Attach(attach) => attach.run(client).await,
        Command::Detach(detach) => detach.run(client).await,
        Command::Status(output) => output.print(&client.status().await?, status::table),
        Command::Endpoints(output) => {
            output.print(&client.endpoints().await?, |list| endpoints::table(list))
        }
        Command::Stats(output) => output.print(&client.stats().await?, stats::table),
        Command::Events(events) => events.run(client).await,
        Command::Top(top) => top.run(client).await,
        Command::Bpf => print(&bpf::commands(&client.status().await?)),
        Command::Uplink(uplink) => uplink.run(client).await,
        Command::Block(block) => block.run(client).await,
        Command::Policy(policy) => policy.run(client).await,
        Command::Roce(roce) => roce.run(client).await,
        Command::Rdma(rdma) => rdma.run(client).await,
        Command::Sriov(sriov) => sriov.run(client).await,
        Command::Agent(_) | Command::Completions { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
