//! `cargo xtask demo` leaves a machine as it found it, whatever ends it. Each run has a network and
//! mounts of its own, so that what is left is this run's.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// In the environment of the demo and all that it starts.
const MARK: &str = "SLUICE_DEMO_UNDER_TEST";

/// A machine of its own, as far as a demo changes one.
struct Machine {
    /// Keeps the namespaces.
    holder: Child,
    /// Where the demo has its files.
    folder: TempDir,
}

impl Machine {
    fn new() -> Result<Self> {
        const MOUNTS: &str = "mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && \
             mount -t bpf bpf /sys/fs/bpf && echo ready && exec sleep infinity";
        let mut holder = Command::new("unshare")
            .args(["--mount", "--net", "sh", "-c", MOUNTS])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start unshare")?;
        let stdout = holder.stdout.take().context("no output")?;
        let machine = Self {
            holder,
            folder: TempDir::new()?,
        };
        let mut word = String::new();
        BufReader::new(stdout).read_line(&mut word)?;
        ensure!(word == "ready\n", "no mounts of its own; this needs root");
        Ok(machine)
    }

    /// A command that will run there. It becomes the program: signals reach that.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        let namespaces = format!("/proc/{}/ns", self.holder.id());
        command
            .arg(format!("--mount={namespaces}/mnt"))
            .arg(format!("--net={namespaces}/net"))
            .arg(program.as_ref())
            .env("TMPDIR", self.folder.path())
            .env(MARK, self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// All that a demo could leave behind: namespaces, interfaces, pins, files and processes.
    fn contents(&self) -> Result<BTreeSet<String>> {
        let look = "ls /run/netns; ip -brief link; find /sys/fs/bpf; find \"$TMPDIR\"";
        let shown = self
            .command("sh")
            .args(["-c", look])
            .env_remove(MARK)
            .output()?;
        ensure!(shown.status.success(), "{shown:?}");
        let shown = String::from_utf8(shown.stdout)?;
        let mut contents: BTreeSet<_> = shown.lines().map(str::to_owned).collect();
        let mark = format!("{MARK}={}", self.folder.path().display());
        for process in fs::read_dir("/proc")? {
            let process = process?.path();
            // Not a process, or not any more.
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            if environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == mark.as_bytes())
            {
                let words = fs::read_to_string(process.join("cmdline")).unwrap_or_default();
                contents.insert(format!("{}: {words}", process.display()));
            }
        }
        Ok(contents)
    }

    /// Starts a demo with that binary, as a terminal would: a shell that runs
    /// these tests in the background has them, and their children, ignore SIGINT.
    fn demo(&self, sluice: &Path) -> Result<Demo> {
        let mut child = self
            .command("env")
            .args(["--default-signal=INT", env!("CARGO_BIN_EXE_xtask")])
            .args(["demo", "--seconds", "1", "--sluice"])
            .arg(sluice)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("no output")?;
        Ok(Demo {
            child,
            stdout: BufReader::new(stdout),
            said: String::new(),
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // What a failed test leaves goes with its namespaces, but for processes.
        for left in self.contents().unwrap_or_default() {
            let pid = left
                .strip_prefix("/proc/")
                .and_then(|rest| rest.split_once(':'));
            if let Some(pid) = pid.and_then(|(pid, _)| pid.parse().ok()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A demo under way.
struct Demo {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    said: String,
}

impl Demo {
    /// Reads on until it says something that contains `words`.
    fn until(&mut self, words: &str) -> Result<()> {
        loop {
            let start = self.said.len();
            let read = self.stdout.read_line(&mut self.said)?;
            ensure!(
                read > 0,
                "it ended without a word of {words:?}:\n{}",
                self.said
            );
            if self.said[start..].contains(words) {
                return Ok(());
            }
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().cast_signed()), signal)?)
    }

    /// Waits for its end; what it said is in the output.
    fn end(mut self) -> Result<Output> {
        let mut stderr = self.child.stderr.take().context("no output")?;
        let errors = thread::spawn(move || {
            let mut text = Vec::new();
            stderr.read_to_end(&mut text).map(|_| text)
        });
        self.stdout.read_to_string(&mut self.said)?;
        Ok(Output {
            status: self.child.wait()?,
            stdout: self.said.into_bytes(),
            stderr: errors
                .join()
                .map_err(|_| anyhow!("the reader panicked"))??,
        })
    }
}

/// The binary under test.
fn sluice() -> Result<std::path::PathBuf> {
    let path = std::env::var_os("SLUICE_BIN");
    Ok(path
        .context("SLUICE_BIN is not set; run the tests with `cargo xtask test`")?
        .into())
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Ends a demo with a signal once it has said these words; it must leave nothing.
fn interrupted(words: &str, signal: Signal) -> Result<()> {
    let machine = Machine::new()?;
    let before = machine.contents()?;
    let mut demo = machine.demo(&sluice()?)?;
    demo.until(words)?;
    demo.signal(signal)?;
    let output = demo.end()?;
    let told = told(&output);
    // Before it makes anything, it need not clean up either.
    let early = output.status.signal() == Some(signal as i32);
    ensure!(
        early || told.contains("interrupted; everything that the demo made is removed"),
        "{}: {told}",
        output.status
    );
    ensure!(!output.status.success(), "{told}");
    let after = machine.contents()?;
    ensure!(after == before, "{after:#?}, before {before:#?}:\n{told}");
    Ok(())
}

#[test]
fn ctrl_c_at_once_leaves_nothing() -> Result<()> {
    interrupted("1/9", Signal::SIGINT)
}

#[test]
fn ctrl_c_while_the_network_is_made_leaves_nothing() -> Result<()> {
    interrupted("2/9", Signal::SIGINT)
}

#[test]
fn ctrl_c_while_the_agent_starts_leaves_nothing() -> Result<()> {
    interrupted("3/9", Signal::SIGINT)
}

#[test]
fn ctrl_c_while_pods_are_attached_leaves_nothing() -> Result<()> {
    interrupted("4/9", Signal::SIGINT)
}

#[test]
fn ctrl_c_amid_traffic_leaves_nothing() -> Result<()> {
    interrupted("6/9", Signal::SIGINT)
}

#[test]
fn termination_while_the_agent_is_dead_leaves_nothing() -> Result<()> {
    interrupted("no agent; bpftool reads", Signal::SIGTERM)
}

#[test]
fn a_whole_demo_leaves_nothing() -> Result<()> {
    let machine = Machine::new()?;
    let before = machine.contents()?;
    let output = machine.demo(&sluice()?)?.end()?;
    ensure!(output.status.success(), "{}", told(&output));
    let after = machine.contents()?;
    ensure!(after == before, "{after:#?}, before {before:#?}");
    Ok(())
}

/// An agent that does not come up, and one that dies amid the demo.
#[test]
fn a_failure_leaves_nothing_and_says_why() -> Result<()> {
    let machine = Machine::new()?;
    let before = machine.contents()?;
    let output = machine.demo(Path::new("/bin/false"))?.end()?;
    let text = told(&output);
    ensure!(
        !output.status.success() && text.contains("the agent ended: exit status: 1"),
        "{text}"
    );
    let after = machine.contents()?;
    ensure!(after == before, "{after:#?}, before {before:#?}:\n{text}");

    let mut demo = machine.demo(&sluice()?)?;
    demo.until("6/9")?;
    let agent = machine.contents()?.into_iter().find_map(|found| {
        let (process, words) = found.split_once(": ")?;
        words
            .contains("\0agent\0")
            .then(|| process.strip_prefix("/proc/")?.parse().ok())?
    });
    kill(
        Pid::from_raw(agent.context("no agent runs")?),
        Signal::SIGKILL,
    )?;
    let output = demo.end()?;
    let text = told(&output);
    ensure!(
        !output.status.success() && text.contains("the demo failed, and what it made is removed"),
        "{text}"
    );
    let after = machine.contents()?;
    ensure!(after == before, "{after:#?}, before {before:#?}:\n{text}");
    Ok(())
}

/// What a demo could not remove, because it was killed, the next one does.
#[test]
fn a_killed_demo_is_cleaned_up_after_by_the_next() -> Result<()> {
    let machine = Machine::new()?;
    let before = machine.contents()?;
    let mut demo = machine.demo(&sluice()?)?;
    demo.until("5/9")?;
    demo.signal(Signal::SIGKILL)?;
    demo.end()?;
    let left = machine.contents()?;
    ensure!(left != before, "nothing was left to clean up");
    machine.demo(Path::new("/bin/false"))?.end()?;
    let after = machine.contents()?;
    ensure!(after == before, "{after:#?}, before {before:#?}");
    Ok(())
}
