//! Network namespaces that go away with their guard.

use std::{
    ffi::OsStr,
    fs::{self, File},
    net::{SocketAddr, UdpSocket},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::exec;

/// Where `ip netns` keeps its names.
const DIRECTORY: &str = "/run/netns";

/// A network namespace; removed, with all that runs in it, when dropped.
pub(super) struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// Makes one with `lo` up.
    ///
    /// # Errors
    /// `ip` fails.
    pub(super) fn new(name: String) -> Result<Self> {
        exec::capture(ip().args(["netns", "add", &name]))?;
        let opened = File::open(Path::new(DIRECTORY).join(&name))
            .with_context(|| format!("cannot open the network namespace {name}"));
        let namespace = match opened {
            Ok(file) => Self { name, file },
            Err(error) => {
                remove(&name)?;
                return Err(error);
            }
        };
        // A machine may have IPv6 off by default; the namespaces inherit that.
        namespace.sysctl("ipv6/conf/all/disable_ipv6", "0")?;
        namespace.sysctl("ipv6/conf/default/disable_ipv6", "0")?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name under `/run/netns`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `f` inside, on a thread of its own. A socket that it opens stays in the namespace and
    /// can be used from everywhere.
    ///
    /// # Errors
    /// As `f`, or the namespace cannot be entered.
    pub(super) fn enter<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("cannot enter the network namespace {}", self.name))?;
                f()
            });
            inside
                .join()
                .map_err(|_panic| anyhow!("a thread in {} panicked", self.name))?
        })
    }

    /// A UDP socket inside, that gives up receiving after a second.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub(super) fn udp(&self, address: SocketAddr) -> Result<UdpSocket> {
        let socket = self.enter(|| {
            UdpSocket::bind(address)
                .with_context(|| format!("cannot bind {address} in {}", self.name))
        })?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(socket)
    }

    /// A command that will run inside, with the mounts of this process: bpffs stays where it is.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = tool("nsenter");
        command
            .arg(format!("--net={DIRECTORY}/{}", self.name))
            .arg(program);
        command
    }

    /// Runs `ip` inside; words are separated by blanks.
    ///
    /// # Errors
    /// It fails.
    pub(super) fn ip(&self, words: &str) -> Result<String> {
        exec::capture(ip().args(["-n", &self.name]).args(words.split_whitespace()))
    }

    /// Sets a sysctl by its path below `/proc/sys/net`.
    ///
    /// # Errors
    /// The kernel does not have it, or refuses the value.
    pub(super) fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        let file = format!("/proc/sys/net/{path}");
        // The kernel shows each thread the sysctls of its own namespace.
        self.enter(|| fs::write(&file, value).with_context(|| format!("cannot write to {file}")))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("error: cannot clean up: {error:#}");
        }
    }
}

/// A program of the system, in a process group of its own: Ctrl-C is for the demo to deal with.
pub(super) fn tool(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", exec::path_with(None)).process_group(0);
    command
}

fn ip() -> Command {
    tool("ip")
}

/// Kills what runs in a namespace and removes it.
pub(super) fn remove(name: &str) -> Result<()> {
    for pid in exec::capture(ip().args(["netns", "pids", name]))?.split_whitespace() {
        if let Ok(pid) = pid.parse() {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    exec::capture(ip().args(["netns", "delete", name])).map(drop)
}

/// The named namespaces that there are.
pub(super) fn names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(PathBuf::from(DIRECTORY)) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
