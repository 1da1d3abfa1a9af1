//! Network namespaces for tests: made on demand, removed with all that is in them.
//!
//! All interfaces are made inside such namespaces, never in the one the test runs in, so that
//! removing the namespace removes them.

use std::{
    fs,
    io::Read,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, bail, ensure};
use dataplane::link::{Netns, NetnsRef};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

use crate::poll::wait_until;

/// Names are `sl-<process id>-<counter>`: unique on the machine, and a later run knows from the
/// process id which ones an interrupted run left behind.
const PREFIX: &str = "sl-";
const DIRECTORY: &str = "/run/netns";

/// A network namespace with `lo` up, gone when dropped.
#[derive(Debug)]
pub struct TestNetns {
    name: String,
    /// Only named here, made by others: it outlives this handle.
    borrowed: bool,
}

impl TestNetns {
    /// Makes a namespace. Needs root.
    ///
    /// # Errors
    /// When `ip` cannot make it.
    pub fn new() -> Result<Self> {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        let name = Self::unique();
        output(Command::new("ip").args(["netns", "add", &name]))
            .context("cannot make a network namespace; these tests need root")?;
        let netns = Self {
            name,
            borrowed: false,
        };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The namespace that the machine booted with, under a name of its own. For the lab, whose
    /// machines live for one test run: nobody else may touch it.
    ///
    /// # Errors
    /// Not in the lab, or `ip` cannot name it.
    pub fn initial() -> Result<Self> {
        ensure!(
            std::env::var_os("SLUICE_LAB_NODE").is_some(),
            "this test changes the machine's own network, so it runs in the lab only: \
             cargo xtask test --lab"
        );
        let name = Self::unique();
        output(Command::new("ip").args(["netns", "attach", &name, "1"]))?;
        Ok(Self {
            name,
            borrowed: true,
        })
    }

    fn unique() -> String {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
        format!("{PREFIX}{}-{counter}", std::process::id())
    }

    /// The name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path that opens it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(DIRECTORY).join(&self.name)
    }

    /// The name as the agent takes it.
    pub fn reference(&self) -> NetnsRef {
        NetnsRef::Name(self.name.clone())
    }

    /// Opens it.
    ///
    /// # Errors
    /// When it is not there.
    pub fn open(&self) -> Result<Netns> {
        Ok(Netns::open(&self.reference())?)
    }

    /// Runs a closure in it, on a thread of its own. Sockets that it makes stay bound to it.
    ///
    /// # Errors
    /// When it cannot be entered, or `f` panics.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        Ok(self.open()?.run(f)?)
    }

    /// A command that will run in it. Its mounts are those of the test, bpffs included.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg(program);
        command
    }

    /// Runs a command in it and returns what it printed.
    ///
    /// # Errors
    /// When it fails; the text has its standard error.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        output(self.command(program).args(arguments))
    }

    /// Runs a command, given as words with blanks between, as a process in a pod does that has
    /// `CAP_NET_ADMIN` and nothing else; whether it succeeded.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn run_as_net_admin(&self, command: &str) -> Result<bool> {
        let output = self
            .command("setpriv")
            .arg("--bounding-set=-all,+net_admin")
            .args(command.split_whitespace())
            .output()
            .with_context(|| format!("cannot run {command}"))?;
        Ok(output.status.success())
    }

    /// Starts a command in it that ends when the guard is dropped, or with the namespace.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, program: &str, arguments: &[&str]) -> Result<Background> {
        let child = self
            .command(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        Ok(Background { child })
    }

    /// Runs `ip` in it, with arguments separated by blanks.
    ///
    /// # Errors
    /// When it fails; the text has its standard error.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        self.run("ip", &arguments.split_whitespace().collect::<Vec<_>>())
    }

    /// What `ip` says about one interface: an independent witness.
    ///
    /// # Errors
    /// When the interface is not there.
    pub fn describe(&self, interface: &str) -> Result<serde_json::Value> {
        let text = self.ip(&format!("-json -details address show dev {interface}"))?;
        let mut all: Vec<serde_json::Value> = serde_json::from_str(&text)?;
        all.pop()
            .with_context(|| format!("ip says nothing about {interface}"))
    }

    /// Makes a veth pair, one end here and one in `other`, both up.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn add_veth(&self, name: &str, other: &Self, other_name: &str) -> Result<()> {
        let other_netns = &other.name;
        self.ip(&format!(
            "link add {name} up type veth peer name {other_name} netns {other_netns}"
        ))?;
        other.set_up(other_name)
    }

    /// Makes a macvlan child in `child_netns` of an interface here, up.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn add_macvlan(
        &self,
        parent: &str,
        child_netns: &Self,
        name: &str,
        mode: &str,
    ) -> Result<()> {
        self.add_child(parent, child_netns, name, &format!("macvlan mode {mode}"))
    }

    /// Makes a child of any kind in `child_netns` of an interface here, up: `kind` is what follows
    /// `type`, such as `ipvlan mode l2`.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn add_child(
        &self,
        parent: &str,
        child_netns: &Self,
        name: &str,
        kind: &str,
    ) -> Result<()> {
        let netns = &child_netns.name;
        self.ip(&format!(
            "link add link {parent} name {name} netns {netns} type {kind}"
        ))?;
        child_netns.set_up(name)
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn set_up(&self, interface: &str) -> Result<()> {
        self.ip(&format!("link set {interface} up")).map(drop)
    }

    /// Adds an address like `10.0.0.1/24`; an IPv6 one is usable at once.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn add_address(&self, interface: &str, address: &str) -> Result<()> {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        self.ip(&format!("address add {address} dev {interface} {nodad}"))
            .map(drop)
    }

    /// Sets a sysctl of the network, by its path below `/proc/sys/net`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_sysctl(&self, path: &str, value: &str) -> Result<()> {
        let file = format!("/proc/sys/net/{path}");
        // The kernel shows each thread the sysctls of its own namespace.
        self.enter(|| fs::write(&file, value))?
            .with_context(|| format!("cannot write {value} to {file}"))
    }

    /// Deletes an interface.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn delete_link(&self, interface: &str) -> Result<()> {
        self.ip(&format!("link delete {interface}")).map(drop)
    }

    /// Waits until an interface can carry traffic.
    ///
    /// # Errors
    /// When it never does.
    pub fn wait_carrier(&self, interface: &str) -> Result<()> {
        wait_until(
            &format!("{interface} in {} to have a carrier", self.name),
            || {
                let flags = self.describe(interface)?["flags"].clone();
                Ok(flags
                    .as_array()
                    .is_some_and(|flags| flags.iter().any(|flag| flag == "LOWER_UP")))
            },
        )
    }

    /// Removes it now, for tests of what happens when a pod goes. The kernel deletes its interfaces
    /// once nothing else holds it, such as an open [`Netns`] or a socket.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn remove(self) -> Result<()> {
        remove(&self.name)
    }
}

impl Drop for TestNetns {
    fn drop(&mut self) {
        if !self.path().exists() {
            return;
        }
        let removed = if self.borrowed {
            output(Command::new("ip").args(["netns", "delete", &self.name])).map(drop)
        } else {
            remove(&self.name)
        };
        if let Err(error) = removed {
            eprintln!("cannot remove the namespace {}: {error:#}", self.name);
        }
    }
}

/// A command that runs in the background, killed with its children when dropped. It blocks when
/// nobody reads the 64 KiB that its pipe holds.
#[derive(Debug)]
pub struct Background {
    child: Child,
}

impl Background {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it and returns what it printed.
    ///
    /// # Errors
    /// When its output cannot be read.
    pub fn stop(mut self) -> Result<String> {
        self.kill();
        let mut text = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout.read_to_string(&mut text)?;
        }
        Ok(text)
    }

    fn kill(&self) {
        // It may have ended on its own; not being reaped yet, its id is still its own.
        let _ = killpg(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGKILL,
        );
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command and returns its standard output.
///
/// # Errors
/// When it cannot be run or fails; the text has the command and its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let result = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        result.status.success(),
        "{command:?} failed ({}): {}",
        result.status,
        String::from_utf8_lossy(&result.stderr).trim()
    );
    Ok(String::from_utf8(result.stdout)?)
}

/// Kills what runs in a namespace and removes it.
fn remove(name: &str) -> Result<()> {
    wait_until(&format!("the processes in {name} to end"), || {
        let listed = output(Command::new("ip").args(["netns", "pids", name]))?;
        let mut pids = listed.split_whitespace().peekable();
        if pids.peek().is_none() {
            return Ok(true);
        }
        for pid in pids {
            let pid: i32 = pid.parse()?;
            if pid == std::process::id().cast_signed() {
                bail!("the test itself is in {name}");
            }
            // It may be gone already.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        Ok(false)
    })?;
    output(Command::new("ip").args(["netns", "delete", name])).map(drop)
}

/// Removes what test processes that are gone have left behind.
fn sweep() {
    let Ok(entries) = fs::read_dir(DIRECTORY) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true)) {
            // Another test process may be sweeping too.
            let _ = remove(&name);
        }
    }
}

/// The process that made a namespace of this name.
fn owner(name: &str) -> Option<u32> {
    let (pid, counter) = name.strip_prefix(PREFIX)?.split_once('-')?;
    counter.parse::<u32>().ok()?;
    pid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_names_are_swept() {
        assert_eq!(owner("sl-12-3"), Some(12));
        for name in [
            "sl-12", "sl-x-1", "sl-1-x", "cni-12-3", "slow-1-2", "sl-1-2-3",
        ] {
            assert_eq!(owner(name), None, "{name}");
        }
    }

    #[test]
    fn what_a_dead_test_left_behind_is_swept() -> Result<()> {
        let mut dead = Command::new("sleep").arg("0").spawn()?;
        dead.wait()?;
        let left = TestNetns {
            name: format!("{PREFIX}{}-0", dead.id()),
            borrowed: false,
        };
        output(Command::new("ip").args(["netns", "add", left.name()]))?;
        let alive = TestNetns::new()?;
        sweep();
        // Another test process may be at it too, and not have finished.
        wait_until("the namespace to be swept", || Ok(!left.path().exists()))?;
        assert!(alive.path().exists());
        Ok(())
    }

    #[test]
    fn a_failure_has_the_command_and_its_words() -> Result<()> {
        let netns = TestNetns::new()?;
        let error = netns.ip("link set nothing up").unwrap_err().to_string();
        assert!(
            error.contains("nsenter") && error.contains("Cannot find device"),
            "{error}"
        );
        Ok(())
    }

    #[test]
    fn a_background_command_is_heard_and_ended() -> Result<()> {
        let netns = TestNetns::new()?;
        let ready = tempfile::tempdir()?;
        let file = ready.path().join("ready");
        let script = format!("echo hello; touch {}; sleep infinity", file.display());
        let command = netns.spawn("sh", &["-c", &script])?;
        let pid = command.id();
        wait_until("the command to speak", || Ok(file.exists()))?;
        assert_eq!(command.stop()?, "hello\n");
        assert!(!fs::exists(format!("/proc/{pid}"))?);
        Ok(())
    }
}
