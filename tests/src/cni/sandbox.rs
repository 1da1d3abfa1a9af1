//! A node's file system as CNI knows it, private to one test.
//!
//! `/etc`, `/opt`, `/run` and `/var/lib` are empty but for what is bound there, in a mount
//! namespace that a process of its own keeps. So plugins and clients run with their default paths,
//! and all that they leave lies in one folder.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{fs::symlink, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use super::{PLUGIN, clients, plugin, reference_plugins};
use crate::{agent::TestAgent, netns::TestNetns};

/// Makes the mounts, says so, and keeps them. `$1` is the sandbox's folder, `$2` and `$3` the
/// folders to show as `/run/sluice` and `/var/lib/sluice`.
const HOLD: &str = r#"set -e
cd "$1"
mount -t tmpfs tmpfs mnt
mkdir -p mnt/run/netns mnt/run/sluice mnt/etc/cni/net.d mnt/opt/cni/bin mnt/lib/cni mnt/lib/sluice
for file in passwd group hosts ld.so.cache ld.so.conf nsswitch.conf; do
    [ ! -e /etc/$file ] || cp /etc/$file mnt/etc/
done
mount --rbind /run/netns mnt/run/netns
mount --bind net.d mnt/etc/cni/net.d
mount --bind bin mnt/opt/cni/bin
mount --bind cni mnt/lib/cni
[ -z "$2" ] || mount --bind "$2" mnt/run/sluice
[ -z "$3" ] || mount --bind "$3" mnt/lib/sluice
mount --rbind mnt/run /run
mount --rbind mnt/etc /etc
mount --rbind mnt/opt /opt
mount --rbind mnt/lib /var/lib
cd /
echo ready
exec sleep infinity
"#;

/// The mount namespace and its folder; both gone when dropped.
#[derive(Debug)]
pub struct Sandbox {
    folder: TempDir,
    holder: Child,
}

impl Sandbox {
    /// A sandbox on a node without an agent of ours: `/opt/cni/bin` has the reference plugins and
    /// Multus.
    ///
    /// # Errors
    /// The tools are not there, or the mounts cannot be made.
    pub fn bare(node: &TestNetns) -> Result<Self> {
        Self::hold(node, None)
    }

    /// A sandbox that also has the plugin under test, and sees `agent` at the default paths.
    ///
    /// # Errors
    /// As [`Sandbox::bare`].
    pub fn new(node: &TestNetns, agent: &TestAgent) -> Result<Self> {
        Self::with_plugin(node, agent, &plugin()?)
    }

    /// As [`Sandbox::new`], with another build of the plugin.
    ///
    /// # Errors
    /// As [`Sandbox::bare`].
    pub fn with_plugin(node: &TestNetns, agent: &TestAgent, plugin: &Path) -> Result<Self> {
        let sandbox = Self::hold(node, Some(agent))?;
        symlink(plugin, sandbox.bin().join(PLUGIN))?;
        Ok(sandbox)
    }

    fn hold(node: &TestNetns, agent: Option<&TestAgent>) -> Result<Self> {
        let folder = TempDir::new()?;
        for name in ["mnt", "net.d", "bin", "cni"] {
            fs::create_dir(folder.path().join(name))?;
        }
        for entry in fs::read_dir(reference_plugins()?)? {
            let entry = entry?;
            symlink(
                entry.path(),
                folder.path().join("bin").join(entry.file_name()),
            )?;
        }
        let multus = clients()?.join("multus");
        symlink(multus, folder.path().join("bin/multus"))?;

        let (run, state) = match agent {
            Some(agent) => {
                fs::create_dir_all(agent.state())?;
                let socket = agent.socket();
                let run = socket.parent().context("a socket without a folder")?;
                (run.to_owned(), agent.state())
            }
            None => (PathBuf::new(), PathBuf::new()),
        };
        let mut holder = node
            .command("unshare")
            .args(["--mount", "--propagation", "slave", "sh", "-c", HOLD, "sh"])
            .arg(folder.path())
            .arg(run)
            .arg(state)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot start unshare")?;
        let stdout = holder.stdout.take().context("a child without output")?;
        let sandbox = Self { folder, holder };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "the sandbox's mounts cannot be made");
        Ok(sandbox)
    }

    /// What is seen as `/opt/cni/bin`.
    pub fn bin(&self) -> PathBuf {
        self.folder.path().join("bin")
    }

    /// What is seen as `/etc/cni/net.d`.
    pub fn net_d(&self) -> PathBuf {
        self.folder.path().join("net.d")
    }

    /// What is seen as `/var/lib/cni`: results cached by clients, addresses given by host-local.
    pub fn lib_cni(&self) -> PathBuf {
        self.folder.path().join("cni")
    }

    /// Somewhere for a test's own files; seen in the sandbox under the same path.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts a network configuration in place, `NAME.conflist` or `NAME.conf`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn configure(&self, file: &str, config: &Value) -> Result<()> {
        let path = self.net_d().join(file);
        fs::write(&path, serde_json::to_vec_pretty(config)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Puts an executable script into `/opt/cni/bin`, for a plugin that misbehaves.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn script(&self, name: &str, text: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.bin().join(name);
        fs::write(&path, text)?;
        Ok(fs::set_permissions(
            path,
            fs::Permissions::from_mode(0o755),
        )?)
    }

    /// A command that will run on the node and see the sandbox's files.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.holder.id()))
            .args(["--mount", "--net", "--"])
            .arg(program);
        command
    }

    /// Cnitool, the reference client, with a verb in lower case, a network by its name in
    /// `/etc/cni/net.d`, and the pod. It makes the container id from the namespace's path.
    ///
    /// # Errors
    /// Cnitool is not built.
    pub fn cnitool(&self, verb: &str, network: &str, pod: &TestNetns) -> Result<Command> {
        let mut command = self.command(clients()?.join("cnitool"));
        command
            .args([verb, network])
            .arg(pod.path())
            .env("CNI_PATH", "/opt/cni/bin");
        Ok(command)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = killpg(
            Pid::from_raw(self.holder.id().cast_signed()),
            Signal::SIGKILL,
        );
        let _ = self.holder.wait();
    }
}
