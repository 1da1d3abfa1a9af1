//! `cargo xtask bench`: the benchmarks, and the page of the documentation that they write.

use std::{os::unix::process::CommandExt as _, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    build::{self, Profile},
    exec,
    setup::{self, Group},
    toolchain, workspace,
};

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct Bench {
    /// Run only this benchmark; may be given more than once
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,

    /// Also write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write the page from the rows of earlier runs, their JSON, and measure nothing; may be given
    /// more than once
    #[arg(long, value_name = "FILE", conflicts_with = "only")]
    rows: Vec<PathBuf>,

    /// Name the benchmarks and do nothing
    #[arg(long)]
    list: bool,

    /// Fail where a bar does not hold
    #[arg(long)]
    strict: bool,
}

impl Bench {
    /// Builds what is measured and becomes the benchmark, so that Ctrl-C reaches that alone and it
    /// cleans up before the shell returns.
    ///
    /// # Errors
    /// Not root, or the build fails.
    pub(crate) fn run(&self) -> Result<()> {
        let mut command = if self.list {
            // The benchmark carries the object, so it has to be there to build.
            build::object(false)?;
            let mut command = Command::new(binary()?);
            command.arg("--list");
            command
        } else {
            self.measure()?
        };
        Err(command.exec()).with_context(|| format!("cannot start {command:?}"))
    }

    /// The command that measures, with all that it needs in place.
    fn measure(&self) -> Result<Command> {
        setup::root_for("measuring with network namespaces and eBPF programs")?;
        setup::system(&[Group::Bench])?;
        build::object(false)?;
        let sluice = build::sluice(Profile::Release, false)?;
        let plugin = sluice.with_file_name(build::PLUGIN);
        let mut command = Command::new(binary()?);
        command
            .args(self.only.iter().map(|name| format!("--only={name}")))
            .env("PATH", exec::path_with(None))
            .env("SLUICE_BIN", sluice)
            .env("SLUICE_CNI", plugin);
        if let Some(plugins) = setup::cni_plugins() {
            command.env("SLUICE_CNI_REFERENCE", plugins);
        }
        for file in &self.rows {
            command.arg("--rows").arg(file);
        }
        if let Some(file) = &self.json {
            command.arg("--json").arg(file);
        }
        if self.strict {
            command.arg("--strict");
        }
        if self.only.is_empty() {
            let page = workspace::root().join("docs/benchmarks.md");
            command.arg("--markdown").arg(page);
        }
        exec::step("Measuring (some minutes; best on a machine that does nothing else)");
        Ok(command)
    }
}

/// Builds the program that measures.
fn binary() -> Result<PathBuf> {
    exec::step("Building the benchmarks (a minute the first time)");
    exec::run(
        toolchain::cargo()
            .args(["build", "--quiet", "--release"])
            .args(["--package", "sluice-tests", "--bin", "sluice-bench"])
            .arg("--target-dir")
            .arg(workspace::target())
            .current_dir(workspace::root()),
    )?;
    Ok(workspace::target().join("release/sluice-bench"))
}
