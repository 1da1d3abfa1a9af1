//! Soft-RoCE devices in pods, and perftest between them.

use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use sluice_tests::{
    netns::{TestNetns, output},
    poll::wait_until,
};

/// perftest's port for exchanging addresses, over TCP.
const EXCHANGE_PORT: u16 = 18515;

/// Packets by the direction and the operation that Sluice has for them.
pub(crate) type Operations = BTreeMap<(String, String), u64>;

/// A soft-RoCE device on a pod's interface, gone with the interface.
pub(crate) struct Rxe<'a> {
    /// The pod.
    pub(crate) pod: &'a TestNetns,
    /// The device's name.
    pub(crate) name: String,
    address: String,
}

impl<'a> Rxe<'a> {
    /// Makes one; in exclusive mode it is then moved from the node to the pod.
    ///
    /// # Errors
    /// `rdma` fails.
    pub(crate) fn new(
        node: &TestNetns,
        pod: &'a TestNetns,
        interface: &str,
        address: &str,
    ) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("rxe{}", NEXT.fetch_add(1, Ordering::Relaxed));
        pod.run(
            "rdma",
            &["link", "add", &name, "type", "rxe", "netdev", interface],
        )?;
        if exclusive(node)? {
            node.run("rdma", &["dev", "set", &name, "netns", pod.name()])?;
        }
        Ok(Self {
            pod,
            name,
            address: address.to_owned(),
        })
    }

    /// Removes the device, and its counters with it.
    ///
    /// # Errors
    /// `rdma` fails.
    pub(crate) fn remove(self, node: &TestNetns) -> Result<()> {
        let netns = if exclusive(node)? { self.pod } else { node };
        netns.run("rdma", &["link", "delete", &self.name])?;
        Ok(())
    }

    /// A command in the pod, which sees the pod's devices in /sys.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.pod.name(), program]);
        command
    }

    /// The device's own counters.
    ///
    /// # Errors
    /// The device is gone.
    pub(crate) fn counters(&self) -> Result<Value> {
        let link = format!("{}/1", self.name);
        let text = output(
            self.command("rdma")
                .args(["-j", "statistic", "show", "link", &link]),
        )?;
        let mut all: Vec<Value> = serde_json::from_str(&text)?;
        all.pop().context("no counters")
    }

    /// Packets that the device received and sent.
    ///
    /// # Errors
    /// As [`Rxe::counters`].
    pub(crate) fn packets(&self) -> Result<(u64, u64)> {
        let counters = self.counters()?;
        let count = |name: &str| counters[name].as_u64().context("no such counter");
        Ok((count("rcvd_pkts")?, count("sent_pkts")?))
    }

    /// The index of the RoCE v2 GID of the pod's IPv4 address.
    fn gid_index(&self) -> Result<String> {
        let octets: std::net::Ipv4Addr = self.address.parse()?;
        let [a, b, c, d] = octets.octets();
        let gid = format!("ffff:{a:02x}{b:02x}:{c:02x}{d:02x}");
        let folder = format!("/sys/class/infiniband/{}/ports/1", self.name);
        let mut index = None;
        wait_until(
            &format!("the GID of {} on {}", self.address, self.name),
            || {
                let script = format!(
                    "cd {folder}; for n in gids/*; do read gid <$n; \
                 case $gid in *{gid}) basename $n;; esac; done"
                );
                let found = output(self.command("sh").args(["-c", &script]))?;
                // The later of two entries with the same address is RoCE v2.
                index = found.split_whitespace().last().map(str::to_owned);
                Ok(index.is_some())
            },
        )?;
        index.context("no GID")
    }

    /// 50 messages of 2048 bytes by a tool, which may have options of its own behind its name.
    fn perftest(&self, tool: &str) -> Result<Command> {
        let mut command = self.command("timeout");
        command
            .arg("60")
            .args(tool.split_whitespace())
            .args(["-F", "-s", "2048", "-n", "50", "-d"])
            .args([&self.name, "-x", &self.gid_index()?])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }

    /// Starts the passive side and waits until it can be called.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn serve(&self, tool: &str) -> Result<Serving> {
        let mut child = self.perftest(tool)?.spawn()?;
        let port = format!(":{EXCHANGE_PORT:04X}");
        wait_until(&format!("{tool} to listen"), || {
            if let Some(status) = child.try_wait()? {
                bail!("{tool} ended: {status}");
            }
            let listening = |file: &str| -> Result<bool> {
                let table = self
                    .pod
                    .enter(|| fs::read_to_string(format!("/proc/thread-self/net/{file}")))??;
                Ok(table
                    .lines()
                    .any(|line| line.contains(&port) && line.contains(" 0A ")))
            };
            Ok(listening("tcp")? || listening("tcp6")?)
        })?;
        Ok(Serving { child })
    }

    /// Runs the active side against a server.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn call(&self, tool: &str, server: &str) -> Result<Output> {
        Ok(self.perftest(tool)?.arg(server).output()?)
    }
}

/// A passive side.
pub(crate) struct Serving {
    child: Child,
}

impl Serving {
    /// Waits for its end.
    ///
    /// # Errors
    /// It failed.
    pub(crate) fn finish(self) -> Result<()> {
        let result = self.child.wait_with_output()?;
        succeeded(&result)
    }
}

/// Fails with what a command printed.
///
/// # Errors
/// It failed.
pub(crate) fn succeeded(result: &Output) -> Result<()> {
    ensure!(
        result.status.success(),
        "{}\n{}{}",
        result.status,
        String::from_utf8_lossy(&result.stdout),
        String::from_utf8_lossy(&result.stderr)
    );
    Ok(())
}

/// Whether RDMA devices are in one namespace each.
///
/// # Errors
/// `rdma` fails.
pub(crate) fn exclusive(node: &TestNetns) -> Result<bool> {
    Ok(node.run("rdma", &["system"])?.contains("netns exclusive"))
}

/// A capture of a pod's RoCE packets by tshark.
pub(crate) struct Capture {
    dumpcap: Child,
    file: tempfile::NamedTempFile,
}

impl Capture {
    /// Starts one and waits until it sees packets.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start(pod: &TestNetns, interface: &str) -> Result<Self> {
        let file = tempfile::Builder::new().suffix(".pcapng").tempfile()?;
        let mut dumpcap = pod
            .command("dumpcap")
            .args(["-q", "-i", interface, "-f", "udp port 4791", "-w"])
            .arg(file.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        wait_until("the capture to begin", || {
            if let Some(status) = dumpcap.try_wait()? {
                bail!("dumpcap ended: {status}");
            }
            // It writes the file's header once it listens.
            Ok(file.path().metadata()?.len() > 0)
        })?;
        Ok(Self { dumpcap, file })
    }

    /// Ends it; RoCE packets to and from an address, by operation, as tshark reads their opcodes.
    ///
    /// # Errors
    /// tshark does not read the file.
    pub(crate) fn stop(self, address: &str) -> Result<Operations> {
        let mut operations = Operations::new();
        for row in self.rows(&["ip.src", "infiniband.bth.opcode"])? {
            let [source, opcode] = &row[..] else {
                bail!("not two columns: {row:?}");
            };
            let direction = if source == address {
                "egress"
            } else {
                "ingress"
            };
            let operation = operation(opcode.parse()?)?;
            *operations
                .entry((direction.to_owned(), operation.to_owned()))
                .or_default() += 1;
        }
        Ok(operations)
    }

    /// Ends it; these fields of each RoCE packet, as tshark reads them.
    ///
    /// # Errors
    /// tshark does not read the file.
    pub(crate) fn rows(mut self, fields: &[&str]) -> Result<Vec<Vec<String>>> {
        let pid = nix::unistd::Pid::from_raw(self.dumpcap.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
        self.dumpcap.wait()?;
        let mut tshark = Command::new("tshark");
        tshark.arg("-r").arg(self.file.path());
        tshark.args(["-Y", "infiniband.bth", "-T", "fields"]);
        for field in fields {
            tshark.args(["-e", field]);
        }
        let text = output(&mut tshark)?;
        let row = |line: &str| line.split('\t').map(str::to_owned).collect();
        Ok(text.lines().map(row).collect())
    }
}

/// The operation of a reliable connection's opcode (InfiniBand Architecture, volume 1, table 38).
fn operation(opcode: u8) -> Result<&'static str> {
    Ok(match opcode {
        0..=5 => "send",
        6..=11 => "write",
        12 => "read_request",
        13..=16 => "read_response",
        17 => "ack",
        other => bail!("opcode {other}"),
    })
}
