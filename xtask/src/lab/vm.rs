//! One virtual machine: started, watched, and ended.

use std::{
    error::Error,
    ffi::OsString,
    fmt,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{job::Job, kernel::Kernel, qemu::Qemu};
use crate::exec;

/// Above 2.7 GiB the firmware places the virtual functions' registers beyond 4 GiB, where their
/// mailbox never answers.
const MEMORY_MIB: u32 = 2048;
/// A boot takes 10 s on an idle machine. One in some dozens hangs in emulation.
pub(super) const BOOT_LIMIT: Duration = Duration::from_secs(90);
const ATTEMPTS: u32 = 3;
/// What of a share outlives a boot.
const KEPT: &str = "keep";
/// For powering off, and for a guest that does not keep its own time limit.
const GRACE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// Emulated, not virtualised: no firmware tables nor devices that nobody uses.
const HARDWARE: &[&str] = &[
    "-nodefaults",
    "-no-user-config",
    "-no-reboot",
    "-display",
    "none",
    "-machine",
    "q35,usb=off,vmport=off,smbus=off,sata=off,graphics=off",
    "-accel",
    "tcg,thread=multi",
    "-cpu",
    "Nehalem",
];

/// What makes an emulated boot short and its random numbers ready.
const KERNEL_OPTIONS: &str = "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr \
    tsc=reliable no_timer_check random.trust_cpu=on net.ifnames=0 apparmor=0 selinux=0 audit=0 \
    rcupdate.rcu_expedited=1 8250.nr_uarts=1 i8042.noaux i8042.nokbd i8042.noprobe \
    cryptomgr.notests numa=off init_on_alloc=0";

/// How the machine's network card is wired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    /// To nothing; it has a carrier all the same.
    Alone,
    /// To the card of the other of two nodes.
    Peer,
}

/// A guest went away before its job's end; says when, with the end of its console.
#[derive(Debug)]
pub(super) struct Died(String);

impl fmt::Display for Died {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

impl Error for Died {}

/// A machine to run.
pub(super) struct Vm<'a> {
    /// QEMU.
    pub(super) qemu: &'a Qemu,
    /// What it boots.
    pub(super) kernel: &'a Kernel,
    /// The archive made for that kernel.
    pub(super) initramfs: &'a Path,
    /// The folder of this run; every machine has one of its own in it.
    pub(super) folder: &'a Path,
    /// 1 or 2.
    pub(super) node: u32,
    /// Where its card leads.
    pub(super) wire: Wire,
    /// A file for what passes the wire, in pcap format.
    pub(super) capture: Option<&'a Path>,
    /// Virtual processors.
    pub(super) cpus: u32,
    /// When a boot counts as hanging.
    pub(super) boot_limit: Duration,
}

impl Vm<'_> {
    /// Runs a job inside, handing over each line that it prints; its exit code.
    ///
    /// A boot that hangs is ended and tried again; so is nothing else here.
    ///
    /// # Errors
    /// QEMU cannot be run, the guest never boots, dies, or runs out of time. The text has the end of
    /// its console.
    pub(super) fn run(&self, job: &Job, boot: u32, output: &mut Output<'_>) -> Result<i32> {
        for attempt in 1..=ATTEMPTS {
            let share = self.new_share(job, boot)?;
            let machine = Running {
                qemu: self.start(&share, None)?,
                share,
            };
            let start = Instant::now();
            if machine.boots(self.boot_limit)? {
                let took = start.elapsed().as_secs_f32();
                exec::step(&format!("Booted {} in {took:.1} s", self.kernel.release));
                return machine.finish(job, output);
            }
            exec::step(&format!(
                "The guest hangs while it boots (attempt {attempt} of {ATTEMPTS})"
            ));
            if attempt == ATTEMPTS {
                bail!("the guest does not boot{}", machine.console());
            }
        }
        bail!("the guest was never started")
    }

    /// Gives the terminal to a job inside; its exit code, 0 if it did not come to its end.
    ///
    /// # Errors
    /// QEMU cannot be run.
    pub(super) fn interact(&self, job: &Job) -> Result<i32> {
        let share = self.new_share(job, 1)?;
        fs::write(share.join("interactive"), "").context("cannot write to the shared folder")?;
        let mut qemu = self.start(&share, Some("mon:stdio"))?;
        qemu.wait().context("cannot wait for QEMU")?;
        let status = fs::read_to_string(share.join("status")).unwrap_or_default();
        Ok(status.trim().parse().unwrap_or_default())
    }

    /// The folder that the guest sees as /results, with nothing in it but the job and what earlier
    /// boots left to be kept.
    fn new_share(&self, job: &Job, boot: u32) -> Result<PathBuf> {
        let share = self.folder.join(format!("node{}", self.node));
        let kept = share.join(KEPT);
        fs::create_dir_all(&kept).with_context(|| format!("cannot make {}", kept.display()))?;
        let entries =
            fs::read_dir(&share).with_context(|| format!("cannot read {}", share.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path != kept {
                fs::remove_file(&path)
                    .with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        let file = share.join("job");
        fs::write(&file, job.script(self.node, boot))
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(share)
    }

    fn start(&self, share: &Path, serial: Option<&str>) -> Result<Child> {
        let mut command = self.qemu.command();
        command
            .args(HARDWARE)
            .args(["-m", &format!("{MEMORY_MIB}M"), "-smp"])
            .arg(self.cpus.to_string())
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", KERNEL_OPTIONS])
            .args(folder_device("host", Path::new("/"), true))
            .args(folder_device("results", share, false))
            .args(self.card())
            // The wires' sockets have relative names, because a socket's path must be short.
            .current_dir(self.folder);
        if let Some(serial) = serial {
            command.args(["-serial", serial]);
        } else {
            let log = File::create(share.join("qemu.log")).context("cannot write QEMU's log")?;
            command
                .arg("-serial")
                .arg(prefixed("file:", &share.join("console")))
                .stdin(Stdio::null())
                .stdout(log.try_clone().context("cannot share QEMU's log")?)
                .stderr(log);
        }
        command
            .spawn()
            .context("cannot start QEMU (by setpriv, of util-linux)")
    }

    /// An igb with virtual functions, behind a port that can hold them.
    fn card(&self) -> Vec<OsString> {
        let node = self.node;
        let netdev = match self.wire {
            Wire::Alone => "hubport,id=wire,hubid=0".to_owned(),
            Wire::Peer => format!(
                "dgram,id=wire,local.type=unix,local.path=wire{node},\
                 remote.type=unix,remote.path=wire{}",
                3 - node
            ),
        };
        let mut arguments: Vec<OsString> = [
            "-netdev",
            &netdev,
            "-device",
            "pcie-root-port,id=port0,chassis=1,slot=1,bus=pcie.0",
            "-device",
            &format!("igb,bus=port0,netdev=wire,mac=52:54:00:00:00:0{node},romfile="),
        ]
        .into_iter()
        .map(OsString::from)
        .collect();
        if let Some(file) = self.capture {
            arguments.push("-object".into());
            arguments.push(prefixed("filter-dump,id=dump,netdev=wire,file=", file));
        }
        arguments
    }
}

/// A folder of the host as a file system of the guest.
fn folder_device(tag: &str, path: &Path, read_only: bool) -> [OsString; 4] {
    let mut source = prefixed(
        &format!("local,id={tag},security_model=none,multidevs=remap,path="),
        path,
    );
    if read_only {
        source.push(",readonly=on");
    }
    [
        "-fsdev".into(),
        source,
        "-device".into(),
        format!("virtio-9p-pci,fsdev={tag},mount_tag={tag},disable-legacy=on").into(),
    ]
}

/// QEMU's option and a path; a comma in the path is doubled.
fn prefixed(option: &str, path: &Path) -> OsString {
    format!("{option}{}", path.display().to_string().replace(',', ",,")).into()
}

/// What takes the lines that a guest prints.
type Output<'a> = dyn FnMut(&str) -> Result<()> + 'a;

/// What a guest has printed into a file and nobody has seen yet.
#[derive(Default)]
struct Printed {
    file: Option<File>,
    bytes: Vec<u8>,
}

impl Printed {
    fn read(&mut self, path: &Path) -> Result<()> {
        if self.file.is_none() {
            self.file = File::open(path).ok();
        }
        if let Some(file) = &mut self.file {
            file.read_to_end(&mut self.bytes)
                .context("cannot read what the guest prints")?;
        }
        Ok(())
    }

    /// Hands over whole lines, at the end also one that is not.
    fn pass_on(&mut self, ended: bool, output: &mut Output<'_>) -> Result<()> {
        let end = self.bytes.iter().rposition(|&byte| byte == b'\n');
        let whole = match end {
            _ if ended => self.bytes.len(),
            Some(end) => end + 1,
            None => 0,
        };
        let text: Vec<u8> = self.bytes.drain(..whole).collect();
        String::from_utf8_lossy(&text).lines().try_for_each(output)
    }
}

/// A machine that was started; ended when dropped.
struct Running {
    qemu: Child,
    share: PathBuf,
}

impl Running {
    /// Waits until the guest runs the job; false when it hangs.
    ///
    /// # Errors
    /// [`Died`] where QEMU ended.
    fn boots(&self, limit: Duration) -> Result<bool> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if self.share.join("booted").exists() {
                return Ok(true);
            }
            thread::sleep(PAUSE);
            if self.is_gone()? {
                return Err(self.died("the guest ends while it boots"));
            }
        }
        Ok(false)
    }

    /// Waits for the job's end, handing over what it prints.
    fn finish(mut self, job: &Job, output: &mut Output<'_>) -> Result<i32> {
        let start = Instant::now();
        let mut printed = Printed::default();
        loop {
            let gone = self.is_gone()?;
            let status = fs::read_to_string(self.share.join("status")).ok();
            // After the looks above, so that nothing is printed behind the last read.
            printed.read(&self.share.join("output"))?;
            printed.pass_on(false, output)?;
            if let Some(status) = status.and_then(|status| status.trim().parse().ok()) {
                printed.pass_on(true, output)?;
                self.power_off()?;
                return Ok(status);
            }
            if gone {
                return Err(self.died("the guest died"));
            }
            if start.elapsed() > job.limit + GRACE {
                bail!("the guest hangs{}", self.console());
            }
            thread::sleep(PAUSE);
        }
    }

    /// Gives the guest time to write its logs.
    fn power_off(&mut self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < GRACE && !self.is_gone()? {
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn is_gone(&self) -> Result<bool> {
        // Without reaping, so that its id stays its own until it is dropped.
        use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
        let id = nix::unistd::Pid::from_raw(self.qemu.id().cast_signed());
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let status = waitid(Id::Pid(id), flags).context("cannot watch QEMU")?;
        Ok(status != WaitStatus::StillAlive)
    }

    fn died(&self, when: &str) -> anyhow::Error {
        Died(format!("{when}{}", self.console())).into()
    }

    /// The last words of the guest and of QEMU, for a message.
    fn console(&self) -> String {
        const LINES: usize = 30;
        let mut text = String::new();
        for file in ["qemu.log", "console"] {
            let all = fs::read(self.share.join(file)).unwrap_or_default();
            let all = String::from_utf8_lossy(&all);
            let lines: Vec<_> = all.lines().collect();
            for line in lines.iter().skip(lines.len().saturating_sub(LINES)) {
                text.push_str("\n  ");
                text.push_str(line);
            }
        }
        if text.is_empty() {
            text.push_str(" (its console is empty)");
        }
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended or shall end.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Plays QEMU: counts its starts, and from the one that `$1` names on is a guest that boots and
    /// does its job; before it hangs.
    const STAND_IN: &str = r#"#!/bin/sh
echo $$ >>started
[ "$(wc -l <started)" -ge GOOD ] || exec sleep 300
cd node1
echo 4.2 >booted
sleep 1
echo hello >output
echo 7 >status
exec sleep 1
"#;

    /// Runs a job in a machine whose boots hang until the `good`th.
    fn run(good: u32) -> (Result<i32>, Vec<String>, Vec<String>) {
        run_with(&STAND_IN.replace("GOOD", &good.to_string()))
    }

    /// Runs a job in a machine that the script plays; the outcome, what was printed, and the process
    /// ids of all that was started.
    fn run_with(script: &str) -> (Result<i32>, Vec<String>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("qemu");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let qemu = Qemu {
            program,
            tree: None,
        };
        let kernel = Kernel {
            release: "7.0".into(),
            image: "vmlinux".into(),
            tree: "tree".into(),
        };
        let vm = Vm {
            qemu: &qemu,
            kernel: &kernel,
            initramfs: Path::new("initramfs"),
            folder: folder.path(),
            node: 1,
            wire: Wire::Alone,
            capture: None,
            cpus: 1,
            boot_limit: Duration::from_secs(2),
        };
        let job = Job {
            command: vec!["true".into()],
            folder: "/".into(),
            environment: Vec::new(),
            limit: Duration::from_secs(1),
            interactive: false,
        };
        let mut lines = Vec::new();
        let status = vm.run(&job, 1, &mut |line| {
            lines.push(line.to_owned());
            Ok(())
        });
        let started = fs::read_to_string(folder.path().join("started")).unwrap();
        (status, lines, started.lines().map(str::to_owned).collect())
    }

    #[test]
    fn a_boot_that_hangs_is_ended_and_tried_again_with_a_stand_in_for_qemu() {
        let (status, lines, started) = run(2);
        assert_eq!(status.unwrap(), 7);
        assert_eq!(lines, ["hello"]);
        // A busy machine may be too slow for the second one.
        assert!((2..=3).contains(&started.len()), "{started:?}");
        for pid in started {
            assert!(!Path::new("/proc").join(&pid).exists(), "{pid} runs on");
        }
    }

    #[test]
    fn boots_that_all_hang_are_an_error_with_a_stand_in_for_qemu() {
        let (status, _, started) = run(u32::MAX);
        let error = format!("{:#}", status.unwrap_err());
        assert!(error.contains("does not boot"), "{error}");
        assert_eq!(started.len(), 3);
        for pid in started {
            assert!(!Path::new("/proc").join(&pid).exists(), "{pid} runs on");
        }
    }

    #[test]
    fn a_guest_that_dies_is_told_apart_with_its_last_words_with_a_stand_in_for_qemu() {
        let amid_its_job = "#!/bin/sh\necho $$ >>started\ncd node1\necho 4.2 >booted\n\
                            echo 'Kernel panic' >console\n";
        let in_its_boot = "#!/bin/sh\necho $$ >>started\necho 'Kernel panic' >node1/console\n";
        for script in [amid_its_job, in_its_boot] {
            let (status, _, started) = run_with(script);
            let error = status.unwrap_err();
            assert!(error.is::<Died>(), "{error:#}");
            assert!(error.to_string().ends_with("Kernel panic"), "{error:#}");
            assert_eq!(started.len(), 1);
        }
    }
}
