//! `cargo xtask lab`: virtual machines with what the machine at hand may lack: other kernels, SR-IOV,
//! ipvlan, soft-RoCE, a second node.

mod binaries;
mod boots;
mod image;
mod initramfs;
mod job;
mod kernel;
mod modules;
mod qemu;
mod report;
pub(crate) mod suite;
mod vm;

use std::{
    ffi::OsString,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum as _};

pub(crate) use self::kernel::Series;
use self::{
    job::Job,
    kernel::Kernel,
    qemu::Qemu,
    vm::{Vm, Wire},
};
use crate::{
    exec,
    setup::{self, Group},
    toolchain, workspace,
};

/// Options of `cargo xtask lab`.
#[derive(Args)]
pub(crate) struct Lab {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Name the kernels, and whether they and QEMU are in the cache
    List,
    /// Get kernels and QEMU into the cache
    Fetch {
        /// Which kernels [default: all]
        kernels: Vec<Series>,
    },
    /// Run a program of this machine inside of a virtual machine
    ///
    /// The guest sees every file of this machine; what it writes is gone when it ends, except in
    /// /results. Its exit code is the program's. It has an SR-IOV card, eth0 at PCI address
    /// 0000:01:00.0, which can make 7 virtual functions once it is up.
    Run(Run),
    /// The same with a shell and the terminal
    Shell(Shell),
    /// Load every program on every kernel and write docs/kernels.md
    Report,
}

#[derive(Args)]
struct Run {
    /// The kernel to boot
    #[arg(long, value_enum, default_value = "7")]
    kernel: Series,

    /// How many machines run it, their cards wired to each other; each finds its number, 1 or 2, in
    /// SLUICE_LAB_NODE
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=2))]
    nodes: u32,

    /// How often they are booted, one boot after another; each finds its number in SLUICE_LAB_BOOT,
    /// and what was left in /results/keep
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    boots: u32,

    /// Virtual processors
    #[arg(long, default_value_t = 1)]
    cpus: u32,

    /// Seconds that the program may take
    #[arg(long, default_value_t = 600)]
    timeout: u64,

    /// Write what passes the first machine's card to a pcap file
    #[arg(long, value_name = "FILE")]
    capture: Option<PathBuf>,

    /// Set a variable inside; may be given more than once. Variables that begin with SLUICE_ or RUST_
    /// are handed on anyway
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,

    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

#[derive(Args)]
struct Shell {
    /// The kernel to boot
    #[arg(long, value_enum, default_value = "7")]
    kernel: Series,
}

impl Lab {
    /// Does what was asked for; ends with the program's exit code where that is not 0.
    ///
    /// # Errors
    /// Something is missing and cannot be had, or a guest does not do its work.
    pub(crate) fn run(self) -> Result<()> {
        match self.command {
            Command::List => list(),
            Command::Fetch { kernels } => fetch(&kernels),
            Command::Run(run) => run.run(),
            Command::Shell(shell) => shell.run(),
            Command::Report => report::run(),
        }
    }
}

fn list() -> Result<()> {
    let cache = cache()?;
    match Qemu::found(&cache) {
        Some(qemu) => println!("{}", qemu.version()?),
        None => println!("QEMU: not fetched"),
    }
    for &series in Series::value_variants() {
        let name = name(series);
        match Kernel::cached(series, &cache) {
            Some(kernel) => println!("{name:<5} Linux {}", kernel.release),
            None => println!("{name:<5} not fetched"),
        }
    }
    Ok(())
}

fn fetch(kernels: &[Series]) -> Result<()> {
    let kernels = if kernels.is_empty() {
        Series::value_variants()
    } else {
        kernels
    };
    for &series in kernels {
        Parts::ensure(series)?;
    }
    list()
}

impl Run {
    fn run(self) -> Result<()> {
        let parts = Parts::ensure(self.kernel)?;
        let mut environment = inherited();
        for setting in &self.env {
            let (name, value) = setting
                .split_once('=')
                .with_context(|| format!("--env {setting}: no `=`; write NAME=VALUE"))?;
            environment.push((name.into(), value.into()));
        }
        let job = Job {
            command: self.command,
            folder: std::env::current_dir().context("there is no current folder")?,
            environment,
            limit: Duration::from_secs(self.timeout),
            interactive: false,
        };
        let capture = self.capture.as_deref().map(std::path::absolute).transpose();
        let machines = Machines {
            nodes: self.nodes,
            boots: self.boots,
            cpus: self.cpus,
            capture: capture.context("there is no current folder")?,
        };
        let status = parts.run(&machines, &job, &|node, line| {
            let mut stdout = io::stdout().lock();
            let printed = match self.nodes {
                1 => writeln!(stdout, "{line}"),
                _ => writeln!(stdout, "{node}| {line}"),
            };
            printed.context("cannot write to the standard output")
        })?;
        if status != 0 {
            // The program has said why.
            std::process::exit(status);
        }
        Ok(())
    }
}

impl Shell {
    fn run(self) -> Result<()> {
        let parts = Parts::ensure(self.kernel)?;
        // The firmware clears the screen, and a serial line does not tell the terminal's size.
        let (columns, rows) = match terminal_size::terminal_size() {
            Some((columns, rows)) => (columns.0, rows.0),
            None => (80, 24),
        };
        let script = format!(
            "stty rows {rows} columns {columns}; \
             echo 'Linux '$(uname -r)': all files of this machine, changes are lost; \
             `exit` or Ctrl-A X ends it'; exec /bin/bash"
        );
        let job = Job {
            command: vec!["/bin/bash".into(), "-c".into(), script.into()],
            folder: std::env::current_dir().context("there is no current folder")?,
            environment: inherited(),
            limit: Duration::MAX,
            interactive: true,
        };
        exec::step("Booting");
        let folder = Folder::new()?;
        let initramfs = folder.path.join("initramfs");
        initramfs::write(&parts.kernel, &initramfs)?;
        let status = parts
            .vm(&Machines::ALONE, 1, &initramfs, &folder.path)
            .interact(&job)?;
        // Which ends without dropping anything.
        drop(folder);
        if status != 0 {
            std::process::exit(status);
        }
        Ok(())
    }
}

/// How many machines, and how they are made.
pub(crate) struct Machines {
    nodes: u32,
    boots: u32,
    cpus: u32,
    capture: Option<PathBuf>,
}

impl Machines {
    /// One machine.
    pub(crate) const ALONE: Self = Self {
        nodes: 1,
        boots: 1,
        cpus: 1,
        capture: None,
    };
}

/// All that a boot needs, at hand.
pub(crate) struct Parts {
    qemu: Qemu,
    kernel: Kernel,
}

impl Parts {
    /// Gets what is missing.
    ///
    /// # Errors
    /// It cannot be had; the text says what and why.
    pub(crate) fn ensure(series: Series) -> Result<Self> {
        if std::env::consts::ARCH != "x86_64" {
            bail!(
                "the lab emulates x86-64 machines that run this machine's programs; this one is {}",
                std::env::consts::ARCH
            );
        }
        setup::root_for("showing all of this machine's files to a virtual machine")?;
        setup::system(&[Group::Lab])?;
        let cache = cache()?;
        Ok(Self {
            qemu: Qemu::ensure(&cache)?,
            kernel: Kernel::ensure(series, &cache)?,
        })
    }

    /// Runs the job on every machine in each boot, handing each line that one prints to `line`, with
    /// the machine's number; the first exit code that is not 0, after which there is no further boot.
    ///
    /// # Errors
    /// A guest does not do its work.
    pub(crate) fn run(
        &self,
        machines: &Machines,
        job: &Job,
        line: &(dyn Fn(u32, &str) -> Result<()> + Sync),
    ) -> Result<i32> {
        let folder = Folder::new()?;
        let initramfs = folder.path.join("initramfs");
        initramfs::write(&self.kernel, &initramfs)?;
        for boot in 1..=machines.boots {
            let status = self.boot(machines, boot, &initramfs, &folder.path, job, line)?;
            if status != 0 {
                return Ok(status);
            }
        }
        Ok(0)
    }

    fn boot(
        &self,
        machines: &Machines,
        boot: u32,
        initramfs: &Path,
        folder: &Path,
        job: &Job,
        line: &(dyn Fn(u32, &str) -> Result<()> + Sync),
    ) -> Result<i32> {
        let results: Vec<Result<i32>> = thread::scope(|scope| {
            let running: Vec<_> = (1..=machines.nodes)
                .map(|node| {
                    let vm = self.vm(machines, node, initramfs, folder);
                    scope.spawn(move || vm.run(job, boot, &mut |text| line(node, text)))
                })
                .collect();
            running
                .into_iter()
                .map(|machine| machine.join().unwrap_or_else(|_| bail!("the lab panicked")))
                .collect()
        });
        let mut first = 0;
        for status in results {
            let status = status?;
            if first == 0 {
                first = status;
            }
        }
        Ok(first)
    }

    fn vm<'a>(
        &'a self,
        machines: &'a Machines,
        node: u32,
        initramfs: &'a Path,
        folder: &'a Path,
    ) -> Vm<'a> {
        Vm {
            qemu: &self.qemu,
            kernel: &self.kernel,
            initramfs,
            folder,
            node,
            wire: if machines.nodes > 1 {
                Wire::Peer
            } else {
                Wire::Alone
            },
            capture: machines.capture.as_deref().filter(|_| node == 1),
            cpus: machines.cpus,
            boot_limit: vm::BOOT_LIMIT,
        }
    }
}

/// What of this process's surroundings a job inside finds too.
fn inherited() -> Vec<(OsString, OsString)> {
    std::env::vars_os()
        .filter(|(name, _)| {
            let name = name.to_string_lossy();
            name.starts_with("SLUICE_") || name.starts_with("RUST_") || name == "TERM"
        })
        // A backtrace costs many seconds in emulation.
        .chain([("RUST_BACKTRACE".into(), "0".into())])
        .chain([("PATH".into(), exec::path_with(None))])
        .collect()
}

/// The name that the command line has for a series.
fn name(series: Series) -> String {
    series
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

fn cache() -> Result<PathBuf> {
    let folder = toolchain::cache()?.join("lab");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// A folder for one run, named after this process; gone when dropped.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new() -> Result<Self> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let all = workspace::target().join("lab");
        sweep(&all);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = all.join(format!("{}-{number}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the folders of processes that are gone.
fn sweep(all: &Path) {
    let entries = fs::read_dir(all).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let owner = name.to_string_lossy().split('-').next().map(str::to_owned);
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
