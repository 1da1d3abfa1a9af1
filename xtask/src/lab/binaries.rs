//! The test binaries, and the tests that are in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{exec, toolchain, workspace};

/// A test binary.
pub(super) struct Binary {
    /// The file.
    pub(super) path: PathBuf,
    /// Its tests that run on every machine.
    pub(super) ordinary: Vec<String>,
    /// Those that run only when asked for: in `lab`, those that need a machine of the lab.
    pub(super) ignored: Vec<String>,
}

/// Builds the integration tests; their files by name.
///
/// # Errors
/// They do not compile.
pub(super) fn build() -> Result<BTreeMap<String, PathBuf>> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
        target: Option<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
        kind: Vec<String>,
    }

    exec::step("Building the tests (a few minutes the first time)");
    let mut cargo: Command = toolchain::cargo();
    // With the whole workspace's features, as `cargo xtask test` builds them: nothing is built twice.
    cargo
        .args(["test", "--workspace", "--test", "*", "--no-run"])
        .args([
            "--message-format",
            "json-render-diagnostics",
            "--target-dir",
        ])
        .arg(workspace::target())
        .current_dir(workspace::root());
    let text = exec::capture(&mut cargo)?;
    let binaries = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter_map(|message| {
            let target = message.target?;
            let is_test = target.kind.iter().any(|kind| kind == "test");
            is_test.then_some((target.name, message.executable?))
        })
        .collect();
    Ok(binaries)
}

impl Binary {
    /// Asks one of `files` for its tests.
    ///
    /// # Errors
    /// There is no such binary, or it does not answer.
    pub(super) fn of(files: &BTreeMap<String, PathBuf>, name: &str) -> Result<Self> {
        let path = files
            .get(name)
            .with_context(|| format!("there is no test binary {name}"))?;
        let ignored: BTreeSet<String> = list(path, &["--ignored"])?.collect();
        Ok(Self {
            path: path.clone(),
            ordinary: list(path, &[])?
                .filter(|test| !ignored.contains(test))
                .collect(),
            ignored: ignored.into_iter().collect(),
        })
    }
}

fn list(binary: &Path, which: &[&str]) -> Result<impl Iterator<Item = String> + use<>> {
    let mut command = Command::new(binary);
    command.args(["--list", "--format", "terse"]).args(which);
    let text = exec::capture(&mut command)?;
    let tests: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect();
    Ok(tests.into_iter())
}
