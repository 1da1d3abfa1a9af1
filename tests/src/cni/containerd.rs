//! A containerd of a test's own, with its shims and runc, on a test's node.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, fs::symlink, process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use super::sandbox::Sandbox;
use crate::{netns::output, poll::wait_for};

/// What a pod's shell may need.
const APPLETS: [&str; 5] = ["sh", "ip", "ping", "sleep", "cat"];

/// The daemon; its containers and itself gone when dropped.
#[derive(Debug)]
pub struct Containerd<'a> {
    sandbox: &'a Sandbox,
    daemon: Child,
}

impl<'a> Containerd<'a> {
    /// Starts containerd in a sandbox and waits until it answers.
    ///
    /// # Errors
    /// It ends, or never answers.
    pub fn start(sandbox: &'a Sandbox) -> Result<Self> {
        let folder = sandbox.folder().join("containerd");
        let rootfs = folder.join("rootfs/bin");
        fs::create_dir_all(&rootfs)?;
        let busybox = output(Command::new("sh").args(["-c", "command -v busybox"]))?;
        fs::copy(busybox.trim(), rootfs.join("busybox"))?;
        fs::set_permissions(rootfs.join("busybox"), fs::Permissions::from_mode(0o755))?;
        for applet in APPLETS {
            symlink("busybox", rootfs.join(applet))?;
        }
        for mountpoint in ["proc", "sys", "dev", "run", "tmp", "etc"] {
            fs::create_dir_all(folder.join("rootfs").join(mountpoint))?;
        }
        let config = folder.join("config.toml");
        fs::write(
            &config,
            "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n",
        )?;

        let log = fs::File::create(folder.join("log"))?;
        let daemon = sandbox
            .command("containerd")
            .arg("--config")
            .arg(&config)
            .arg("--root")
            .arg(folder.join("root"))
            // Both are private to the sandbox, whose /run is.
            .args(["--state", "/run/containerd"])
            .args(["--address", "/run/containerd/containerd.sock"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("cannot start containerd")?;
        let mut this = Self { sandbox, daemon };
        wait_for("containerd to answer", || {
            if let Some(status) = this.daemon.try_wait()? {
                let log = fs::read_to_string(folder.join("log"))?;
                bail!("containerd ended: {status}\n{log}");
            }
            let answered = this.ctr().arg("version").output()?.status.success();
            Ok(answered.then_some(()))
        })?;
        Ok(this)
    }

    /// Containerd's own client, to be given a subcommand.
    pub fn ctr(&self) -> Command {
        let mut command = self.sandbox.command("ctr");
        command.args(["--address", "/run/containerd/containerd.sock"]);
        command
    }

    /// Runs a pod that sleeps, its network made by the first list in `/etc/cni/net.d`, as
    /// interface `eth0`.
    ///
    /// # Errors
    /// It does not start; the text has what `ctr` said.
    pub fn pod(&self, name: &str) -> Result<Pod<'_>> {
        let mut client = self
            .ctr()
            .args(["run", "--rm", "--cni", "--rootfs"])
            .arg(self.sandbox.folder().join("containerd/rootfs"))
            .args([name, "/bin/sleep", "1000000"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start ctr")?;
        let process = wait_for("the pod to have a network", || {
            if let Some(status) = client.try_wait()? {
                let mut said = String::new();
                if let Some(stderr) = &mut client.stderr {
                    std::io::Read::read_to_string(stderr, &mut said)?;
                }
                bail!("ctr run ended: {status}: {said}");
            }
            // The network is made between the task's creation and its start.
            let tasks = output(self.ctr().args(["tasks", "list"]))?;
            Ok(tasks.lines().find_map(|line| {
                let mut words = line.split_whitespace();
                let running = words.next() == Some(name) && line.trim_end().ends_with("RUNNING");
                running.then(|| words.next()?.parse().ok()).flatten()
            }))
        });
        let mut pod = Pod {
            containerd: self,
            name: name.to_owned(),
            process: 0,
            client,
        };
        pod.process = process?;
        Ok(pod)
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        let _ = killpg(
            Pid::from_raw(self.daemon.id().cast_signed()),
            Signal::SIGTERM,
        );
        let _ = self.daemon.wait();
    }
}

/// A running pod, killed when dropped.
#[derive(Debug)]
pub struct Pod<'a> {
    containerd: &'a Containerd<'a>,
    name: String,
    process: u32,
    client: Child,
}

impl Pod<'_> {
    /// The process id of its first process.
    pub fn process(&self) -> u32 {
        self.process
    }

    /// Its network namespace, as containerd tells it to CNI.
    pub fn netns(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.process))
    }

    /// Runs a command in it and returns what it printed.
    ///
    /// # Errors
    /// It fails; the text has its standard error.
    pub fn run(&self, command: &[&str]) -> Result<String> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        output(
            self.containerd
                .ctr()
                .args(["tasks", "exec", "--exec-id", &format!("exec-{number}")])
                .arg(&self.name)
                .args(command),
        )
    }

    /// Kills the pod and waits until containerd has taken its network away.
    ///
    /// # Errors
    /// Containerd does not.
    pub fn stop(mut self) -> Result<()> {
        self.kill();
        let status = self.client.wait()?;
        let mut said = String::new();
        if let Some(stderr) = &mut self.client.stderr {
            std::io::Read::read_to_string(stderr, &mut said)?;
        }
        // The status is the killed process's; only words tell of the network.
        ensure!(!said.contains("network"), "ctr run ended: {status}: {said}");
        Ok(())
    }

    fn kill(&self) {
        let _ = self
            .containerd
            .ctr()
            .args(["tasks", "kill", "--signal", "SIGKILL", &self.name])
            .output();
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        if matches!(self.client.try_wait(), Ok(None)) {
            self.kill();
            let _ = self.client.wait();
        }
    }
}
