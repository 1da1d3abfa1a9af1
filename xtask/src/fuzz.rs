//! `cargo xtask fuzz`: the fuzz targets, each for a bounded time.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use crate::{
    build, exec,
    setup::{self, Group},
    workspace,
};

/// Options of `cargo xtask fuzz`.
#[derive(Args)]
pub(crate) struct Fuzz {
    /// What to fuzz [default: all, one after the other]
    targets: Vec<Target>,

    /// How long, each
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,

    /// Keep of the corpus afterwards only what is needed to reach all that it reaches
    #[arg(long)]
    minimise: bool,
}

/// A fuzz target.
#[derive(Clone, Copy, ValueEnum)]
enum Target {
    /// The packet parsers
    Frame,
    /// The decoders of RDMA netlink
    Rdma,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Frame => "frame",
            Self::Rdma => "rdma",
        }
    }

    /// The package that it is for.
    fn package(self) -> PathBuf {
        workspace::root().join(match self {
            Self::Frame => "dataplane-ebpf",
            Self::Rdma => "dataplane",
        })
    }

    /// What to begin with besides the corpus.
    fn seeds(self) -> Option<&'static str> {
        match self {
            Self::Frame => None,
            Self::Rdma => Some("src/rdma/recorded"),
        }
    }
}

impl Fuzz {
    /// Runs the targets; what one finds is kept in its `fuzz/artifacts`.
    ///
    /// # Errors
    /// A target finds something, or cannot be built.
    pub(crate) fn run(&self) -> Result<()> {
        setup::system(&[Group::Fuzz])?;
        let cargo_fuzz = setup::fuzzer()?;
        let targets = match &self.targets[..] {
            [] => Target::value_variants(),
            some => some,
        };
        if targets.iter().any(|target| matches!(target, Target::Rdma)) {
            // The crate carries the object, so it has to be there to build.
            build::object(false)?;
        }
        for &target in targets {
            self.fuzz(target, &cargo_fuzz)?;
        }
        Ok(())
    }

    fn fuzz(&self, target: Target, cargo_fuzz: &Path) -> Result<()> {
        let (name, package) = (target.name(), target.package());
        let corpus = package.join("fuzz/corpus").join(name);
        fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
        exec::step(&format!(
            "Fuzzing {name} for {} s (building it takes minutes the first time)",
            self.seconds
        ));
        exec::run(
            command(cargo_fuzz, "run", target)
                .arg(&corpus)
                .args(target.seeds())
                .args(["--", "-print_final_stats=1"])
                .arg(format!("-max_total_time={}", self.seconds)),
        )
        .with_context(|| {
            format!(
                "the target {name} found something, which is in {}; mend it, and put the file into \
                 {} so that it is tried for ever",
                package.join("fuzz/artifacts").join(name).display(),
                corpus.display()
            )
        })?;
        if self.minimise {
            exec::step(&format!("Minimising {}", corpus.display()));
            // What counts is which code is reached: how often would keep three times as many files.
            exec::run(
                command(cargo_fuzz, "cmin", target)
                    .arg(&corpus)
                    .args(["--", "-use_counters=0"]),
            )?;
        }
        Ok(())
    }
}

/// cargo-fuzz on a target. It asks for nightly's options, which `RUSTC_BOOTSTRAP` makes the stable
/// Rust take.
fn command(cargo_fuzz: &Path, verb: &str, target: Target) -> Command {
    let mut command = Command::new(cargo_fuzz);
    command
        .args(["fuzz", verb, target.name(), "--target-dir"])
        .arg(workspace::target().join("fuzz"))
        .env("RUSTC_BOOTSTRAP", "1")
        .current_dir(target.package());
    command
}
