//! The agent under demonstration, and the `sluice` command as its client.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

use super::{
    interrupt,
    model::Status,
    netns::{self, Namespace},
    screen,
};
use crate::{exec, setup};

/// Where the agent serves metrics, inside the node.
pub(super) const METRICS: &str = "127.0.0.1:9655";

/// The agent's files and pins, and its process while it runs. Dropping it leaves nothing of them.
pub(super) struct Agent {
    sluice: PathBuf,
    /// Socket, records and log.
    folder: PathBuf,
    bpffs: PathBuf,
    child: Option<Child>,
}

impl Agent {
    /// Prepares its folder; starts nothing yet. `name` must be this run's own.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub(super) fn new(sluice: PathBuf, name: &str) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let folder = std::env::temp_dir().join(name);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(Self {
            sluice,
            folder,
            bpffs: pins(name),
            child: None,
        })
    }

    /// Its socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }

    /// The folder that holds `sluice`.
    pub(super) fn program_folder(&self) -> &Path {
        self.sluice.parent().unwrap_or(&self.sluice)
    }

    fn log(&self) -> PathBuf {
        self.folder.join("agent.log")
    }

    /// The options of `sluice agent`.
    fn options(&self) -> [String; 6] {
        let path = |path: &Path| path.display().to_string();
        [
            "--state-dir".into(),
            path(&self.folder.join("state")),
            "--bpffs".into(),
            path(&self.bpffs),
            "--metrics-address".into(),
            METRICS.into(),
        ]
    }

    /// Starts it in the node's namespace and waits until it answers.
    ///
    /// # Errors
    /// It ends, or does not answer; its last words are in the message.
    pub(super) fn start(&mut self, node: &Namespace) -> Result<Status> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .with_context(|| format!("cannot write {}", self.log().display()))?;
        let child = node
            .command(&self.sluice)
            .arg("agent")
            .args(self.options())
            .env("SLUICE_SOCKET", self.socket())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.sluice.display()))?;
        let pid = child.id();
        self.child = Some(child);
        interrupt::wait_for("the agent to answer", || {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                bail!(
                    "the agent ended: {status}; its last words:\n{}",
                    self.last_words()
                );
            }
            // An agent killed before may have left its socket, on which nobody answers.
            Ok(self
                .json::<Status>("status")
                .ok()
                .filter(|status| status.pid == pid))
        })
        .with_context(|| format!("the agent's log ends:\n{}", self.last_words()))
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// Kills it as the kernel's out-of-memory killer would.
    ///
    /// # Errors
    /// It had ended by itself, with its last words.
    pub(super) fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        if let Some(status) = child.try_wait()? {
            bail!(
                "the agent ended: {status}; its last words:\n{}",
                self.last_words()
            );
        }
        child.kill().context("cannot kill the agent")?;
        child.wait().context("cannot wait for the agent")?;
        Ok(())
    }

    /// `sluice` as the agent's client; words are separated by blanks.
    pub(super) fn client(&self, words: &str) -> Command {
        let mut command = netns::tool(&self.sluice);
        command
            .args(words.split_whitespace())
            .env("SLUICE_SOCKET", self.socket());
        command
    }

    /// Runs `sluice` with these words, shows the command, and returns what it printed.
    ///
    /// # Errors
    /// It fails.
    pub(super) fn show(&self, words: &str) -> Result<String> {
        interrupt::check()?;
        screen::command(&format!("sluice {words}"), None);
        exec::capture(&mut self.client(words))
    }

    /// Starts `sluice events` in the background.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn follow_events(&self) -> Result<Follower> {
        let path = self.folder.join("events");
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let child = self
            .client("events")
            .stdin(Stdio::null())
            .stdout(file)
            .spawn()
            .context("cannot start `sluice events`")?;
        Ok(Follower { child, path })
    }

    /// What `sluice` answers as JSON.
    ///
    /// # Errors
    /// It fails, or answers something else.
    pub(super) fn json<T: DeserializeOwned>(&self, words: &str) -> Result<T> {
        interrupt::check()?;
        let text = exec::capture(&mut self.client(&format!("{words} -o json")))?;
        serde_json::from_str(&text)
            .with_context(|| format!("`sluice {words} -o json` gave something else:\n{text}"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        remove(&self.bpffs);
        remove(&self.folder);
    }
}

/// A `sluice events` in the background; ends when dropped.
pub(super) struct Follower {
    child: Child,
    path: PathBuf,
}

impl Follower {
    /// What it has printed so far.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn text(&mut self) -> Result<String> {
        if let Some(status) = self.child.try_wait()? {
            bail!("`sluice events` ended: {status}");
        }
        fs::read_to_string(&self.path)
            .with_context(|| format!("cannot read {}", self.path.display()))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The pins' folder of a run.
pub(super) fn pins(name: &str) -> PathBuf {
    Path::new(setup::BPFFS).join(name)
}

/// Removes a folder that may not be there, and says if that fails.
pub(super) fn remove(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            eprintln!("error: cannot remove {}: {error}", folder.display());
        }
        _ => {}
    }
}
