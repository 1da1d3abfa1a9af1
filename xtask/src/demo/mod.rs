//! `cargo xtask demo`: all that Sluice does, on real interfaces and with real traffic, in network
//! namespaces that are gone afterwards.

mod agent;
mod interrupt;
mod live;
mod model;
mod netns;
mod screen;
mod steps;
mod topology;
mod traffic;
mod witness;

use std::{
    fs,
    io::{IsTerminal as _, Read as _, stdin},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::{agent::Agent, topology::Topology};
use crate::{
    build::{self, Profile},
    setup::{self, Group},
};

/// Options of `cargo xtask demo`.
#[derive(Args)]
pub(crate) struct Demo {
    /// Leave everything running at the end, until Enter or Ctrl-C
    #[arg(long)]
    keep: bool,

    /// Show the live table for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 6,
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    /// Play with this binary, instead of building one
    #[arg(long, value_name = "PATH")]
    sluice: Option<PathBuf>,
}

/// What the steps work on. Fields are dropped in their order: the agent and its pins go first.
struct Stage {
    agent: Agent,
    topology: Topology,
}

impl Demo {
    /// Plays the demo and removes all that it made, also when it fails or is interrupted.
    ///
    /// # Errors
    /// Something is missing, or something that was verified is not as it should be.
    pub(crate) fn run(&self) -> Result<()> {
        setup::root_for("the demo, with network namespaces and eBPF programs,")?;
        let sluice = steps::ready(self.sluice.clone())?;
        interrupt::install()?;
        let played = self.play(sluice);
        if interrupt::requested() {
            bail!("interrupted; everything that the demo made is removed");
        }
        played.context("the demo failed, and what it made is removed")
    }

    fn play(&self, sluice: PathBuf) -> Result<()> {
        let start = Instant::now();
        sweep();
        let id = std::process::id();
        let mut stage = Stage {
            topology: steps::network(&format!("{NETNS_PREFIX}{id}"))?,
            agent: Agent::new(sluice, &format!("{FOLDER_PREFIX}{id}"))?,
        };
        steps::start(&mut stage)?;
        steps::attach(&stage)?;
        steps::host_reach(&stage)?;
        let ledger = steps::traffic(&stage, Duration::from_secs(self.seconds))?;
        steps::trouble(&stage, ledger)?;
        steps::look(&stage)?;
        steps::crash(&mut stage)?;
        if self.keep {
            steps::keep(&stage, wait_for_user)?;
        }
        drop(stage);
        steps::end(start.elapsed());
        Ok(())
    }
}

/// Gets what the demo runs, and builds `sluice` where none is given.
fn prepare(sluice: Option<PathBuf>) -> Result<PathBuf> {
    setup::system(&[Group::Demo])?;
    match sluice {
        Some(given) => {
            fs::canonicalize(&given).with_context(|| format!("cannot find {}", given.display()))
        }
        None => {
            build::object(false)?;
            build::sluice(Profile::Release, false)
        }
    }
}

/// Waits for Enter, or for Ctrl-C where nobody can press Enter.
fn wait_for_user() -> Result<()> {
    let enter = stdin().is_terminal().then(|| {
        thread::spawn(|| {
            // An unreadable terminal is like a pressed key.
            let _ = stdin().read(&mut [0]);
        })
    });
    while !enter.as_ref().is_some_and(thread::JoinHandle::is_finished) && !interrupt::requested() {
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// What namespaces, folders and pins are called: this, and the process id of the run.
const NETNS_PREFIX: &str = "sluice-";
const FOLDER_PREFIX: &str = "sluice-demo-";

/// Removes what runs left behind that were killed before they could.
fn sweep() {
    let dead = |pid: &str| {
        pid.parse::<u32>().is_ok() && !fs::exists(format!("/proc/{pid}")).unwrap_or(true)
    };
    for name in netns::names() {
        let owner = name
            .strip_prefix(NETNS_PREFIX)
            .and_then(|rest| rest.split_once('-'))
            .filter(|(_, role)| topology::ROLES.contains(role));
        if owner.is_some_and(|(pid, _)| dead(pid)) {
            // Another run may be sweeping too.
            let _ = netns::remove(&name);
        }
    }
    for parent in [PathBuf::from(setup::BPFFS), std::env::temp_dir()] {
        let Ok(entries) = fs::read_dir(parent) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let pid = name
                .to_str()
                .and_then(|name| name.strip_prefix(FOLDER_PREFIX));
            if pid.is_some_and(dead) {
                agent::remove(&entry.path());
            }
        }
    }
}
