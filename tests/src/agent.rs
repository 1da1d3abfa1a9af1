//! A real agent, run from the binary under test in a namespace that plays the
//! node, with pins, records and socket of its own.

use std::{
    env, fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    netns::{TestNetns, output},
    poll::wait_until,
};

/// The binary under test, from the environment variable `SLUICE_BIN`.
///
/// # Errors
/// The variable is not set: `cargo xtask test` sets it.
pub fn binary() -> Result<PathBuf> {
    env::var_os("SLUICE_BIN")
        .map(PathBuf::from)
        .context("SLUICE_BIN is not set; run the tests with `cargo xtask test`")
}

/// Copies a binary to where it will be run from. By a process of its own: what
/// this one has open for writing, a child that another thread is just forking
/// has too for a moment, and then the file cannot be run.
///
/// # Errors
/// There is no such file, or no room.
pub fn install(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("install");
    output(command.arg("--mode=755").args([from, to])).map(drop)
}

/// How this kernel can hold programs, as `--tc` takes it: by filters on clsact everywhere, and from
/// Linux 6.6 on by TCX links.
pub fn mechanisms() -> &'static [&'static str] {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split('.')
        .map_while(|part| part.parse::<u32>().ok());
    let version = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    if version >= (6, 6) {
        &["tcx", "clsact"]
    } else {
        &["clsact"]
    }
}

/// An agent of a test, killed and cleaned up when dropped.
#[derive(Debug)]
pub struct TestAgent {
    folder: TempDir,
    state: PathBuf,
    config: PathBuf,
    pins: PathBuf,
    node: String,
    options: Vec<String>,
    /// Another binary than the one under test.
    binary: Option<PathBuf>,
    environment: Vec<(String, String)>,
    mounts: Option<String>,
    process: Option<Child>,
    /// Its end says nothing.
    dismissed: bool,
}

impl TestAgent {
    /// Starts an agent in `node` and waits until it answers.
    ///
    /// # Errors
    /// It ends, or does not answer; the text has its log.
    pub fn start(node: &TestNetns, options: &[&str]) -> Result<Self> {
        let mut agent = Self::prepare(node, options)?;
        agent.restart()?;
        Ok(agent)
    }

    /// An agent that is not started yet.
    ///
    /// # Errors
    /// No temporary folder can be made.
    pub fn prepare(node: &TestNetns, options: &[&str]) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sluice-test-{}-{number}", std::process::id());
        let folder = TempDir::new()?;
        Ok(Self {
            state: folder.path().join("state"),
            config: "/dev/null".into(),
            folder,
            pins: Path::new("/sys/fs/bpf").join(name),
            node: node.name().to_owned(),
            options: options.iter().map(ToString::to_string).collect(),
            binary: None,
            environment: Vec::new(),
            mounts: None,
            process: None,
            dismissed: false,
        })
    }

    /// Other options from the next start on.
    pub fn set_options(&mut self, options: &[&str]) {
        self.options = options.iter().map(ToString::to_string).collect();
    }

    /// Keeps its records elsewhere, from the next start on, where they outlive the test.
    pub fn set_state(&mut self, folder: &Path) {
        folder.clone_into(&mut self.state);
    }

    /// A configuration file from the next start on.
    pub fn set_config(&mut self, file: &Path) {
        file.clone_into(&mut self.config);
    }

    /// Another binary from the next start on.
    pub fn set_binary(&mut self, binary: PathBuf) {
        self.binary = Some(binary);
    }

    /// Sets a variable of the environment from the next start on; an empty value takes it away.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        if !value.is_empty() {
            self.environment.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Runs a shell script before each start from the next on, in a mount namespace of the agent's
    /// own, with the folder of its records as `$1`.
    pub fn set_mounts(&mut self, script: &str) {
        self.mounts = Some(script.to_owned());
    }

    /// What it is run from.
    ///
    /// # Errors
    /// The binary is not known.
    fn program(&self) -> Result<PathBuf> {
        self.binary.clone().map_or_else(binary, Ok)
    }

    /// The pins' folder.
    pub fn pins(&self) -> PathBuf {
        self.pins.join(format!("v{}", dataplane_ebpf::abi::LAYOUT))
    }

    /// The folder of its records.
    pub fn state(&self) -> PathBuf {
        self.state.clone()
    }

    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The command that runs the agent, with all its flags.
    ///
    /// # Errors
    /// The binary is not known.
    pub fn command(&self) -> Result<Command> {
        let binary = self.program()?;
        let mut command = match &self.mounts {
            None => self.nsenter(&binary),
            Some(script) => {
                let mut command = self.nsenter(Path::new("unshare"));
                let script = format!("set -e; {script}\nshift; exec \"$@\"");
                command
                    .args(["--mount", "--propagation", "slave", "sh", "-c", &script])
                    .arg("sh")
                    .arg(self.state())
                    .arg(binary);
                command
            }
        };
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
            .arg("agent")
            // Nor in /etc.
            .arg("--config")
            .arg(&self.config)
            .arg("--socket")
            .arg(self.socket())
            .arg("--state-dir")
            .arg(self.state())
            .arg("--bpffs")
            .arg(&self.pins)
            .args(&self.options);
        Ok(command)
    }

    fn nsenter(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.node))
            .arg(program)
            // Not what the machine has in its environment.
            .env_remove("SLUICE_CONFIG")
            .env_remove("SLUICE_SOCKET")
            .stdin(Stdio::null());
        command
    }

    /// Starts the agent, again after [`TestAgent::kill`].
    ///
    /// # Errors
    /// It ends, or does not answer; the text has its log.
    pub fn restart(&mut self) -> Result<()> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log())?;
        let child = self
            .command()?
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.process = Some(child);
        let answered = wait_until("the agent to answer", || {
            if let Some(child) = &mut self.process
                && let Some(status) = child.try_wait()?
            {
                bail!("the agent ended: {status}");
            }
            // Before the agent listens, a process that asks only takes the processor from it: in
            // emulation, most of it.
            let listens = UnixStream::connect(self.socket()).is_ok();
            Ok(listens && self.output(&["status"])?.status.success())
        });
        answered.with_context(|| fs::read_to_string(self.log()).unwrap_or_default())
    }

    /// Kills the agent with SIGKILL; its pins and records stay.
    ///
    /// # Errors
    /// It is not running.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.process.take().context("the agent is not running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Waits until it has died on its own, as at a failpoint.
    ///
    /// # Errors
    /// It lives on.
    pub fn wait_dead(&mut self) -> Result<()> {
        let mut child = self.process.take().context("the agent is not running")?;
        let dead = wait_until("the agent to die", || Ok(child.try_wait()?.is_some()));
        if dead.is_err() {
            self.process = Some(child);
        }
        dead
    }

    /// Its process id.
    ///
    /// # Errors
    /// It is not running.
    pub fn id(&self) -> Result<u32> {
        let child = self.process.as_ref();
        child.map(Child::id).context("the agent is not running")
    }

    /// Runs a subcommand of the CLI against this agent.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn output(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.nsenter(&binary()?);
        command.arg("--socket").arg(self.socket()).args(arguments);
        Ok(command.output()?)
    }

    /// Runs a subcommand that must succeed; returns what it printed.
    ///
    /// # Errors
    /// It fails; the text has its standard error.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        ensure!(
            output.status.success(),
            "sluice {}: {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a subcommand with `-o json`.
    ///
    /// # Errors
    /// It fails, or prints no JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        Ok(serde_json::from_str(&self.run(&all)?)?)
    }

    /// Attaches an interface; returns its endpoint id.
    ///
    /// # Errors
    /// It is refused.
    pub fn attach(&self, netns: &TestNetns, interface: &str) -> Result<u64> {
        let endpoint = self.json(&["attach", "--netns", netns.name(), interface])?;
        endpoint["id"].as_u64().context("endpoint without id")
    }

    /// One endpoint's counters.
    ///
    /// # Errors
    /// There is no such endpoint.
    pub fn stats(&self, endpoint: u64) -> Result<Value> {
        let stats = self.json(&["stats"])?;
        let endpoints = stats["endpoints"].as_array().context("no endpoints")?;
        let found = endpoints.iter().find(|stats| stats["id"] == endpoint);
        found.cloned().context("no such endpoint")
    }

    /// Ends it without showing its log, where no harness keeps that from a run that went well.
    pub fn dismiss(mut self) {
        self.dismissed = true;
    }

    /// What the agent has logged.
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        if !self.dismissed {
            // The harness shows it only if the test fails.
            eprintln!("--- log of the agent\n{}", self.log_text());
        }
        if std::thread::panicking()
            && let Ok(stats) = self.run(&["stats", "-o", "json"])
        {
            eprintln!("--- its counters\n{stats}");
        }
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.pins);
    }
}
