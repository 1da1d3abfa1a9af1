//! Delegation to the IPAM plugin, as the specification has it: the same
//! environment, the same configuration, another program.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command as Process, Stdio},
    sync::mpsc,
    thread,
};

use nix::{
    sys::{
        prctl,
        signal::{Signal, killpg},
    },
    unistd::Pid,
};
use serde::Deserialize;

use crate::{
    call::{Call, Command},
    config::Config,
    error::{Code, Error},
    result::Lease,
};

/// Stack of the thread that follows a run, in bytes: it reads and waits.
const FOLLOWER_STACK: usize = 64 * 1024;

/// The IPAM plugin of a network.
#[derive(Debug)]
pub struct Ipam<'a> {
    kind: &'a str,
    program: PathBuf,
    config: &'a Config,
}

/// A run that is under way.
#[derive(Debug)]
pub struct Running<'a> {
    ipam: &'a Ipam<'a>,
    group: Pid,
    ended: mpsc::Receiver<io::Result<Ended>>,
}

/// A run that is over.
#[derive(Debug)]
struct Ended {
    output: Vec<u8>,
    success: bool,
}

/// What a failed plugin prints.
#[derive(Deserialize)]
struct Printed {
    code: u32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

impl<'a> Ipam<'a> {
    /// The network's IPAM plugin; `None` where none is configured.
    ///
    /// # Errors
    /// Code 7: it is in no folder of `CNI_PATH`.
    pub fn of(call: &Call, config: &'a Config) -> Result<Option<Self>, Error> {
        let Some(kind) = config.ipam() else {
            return Ok(None);
        };
        let sound = !kind.contains('/') && kind != "." && kind != "..";
        let program = call
            .path
            .iter()
            .map(|folder| folder.join(kind))
            .find(|program| sound && program.is_file())
            .ok_or_else(|| {
                Error::config(format!(
                    "ipam.type {kind:?}: no such plugin in CNI_PATH ({})",
                    call.path
                        .iter()
                        .map(|folder| folder.display().to_string())
                        .collect::<Vec<_>>()
                        .join(":")
                ))
            })?;
        Ok(Some(Self {
            kind,
            program,
            config,
        }))
    }

    /// Whether it works over the interface that it is asked for.
    pub fn needs_interface(&self) -> bool {
        self.kind == "dhcp"
    }

    /// Starts it for the present command, or another.
    ///
    /// # Errors
    /// Code 104: it cannot be run.
    pub fn start(&'a self, command: Command) -> Result<Running<'a>, Error> {
        let failed = |error: io::Error| self.failed(&format!("cannot be run: {error}"));
        let mut process = Process::new(&self.program);
        process
            .env("CNI_COMMAND", command.name())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A group of its own, so that one that hangs goes with its children.
            .process_group(0);
        end_with_this_process(&mut process);
        let mut child = process.spawn().map_err(failed)?;
        let group = Pid::from_raw(child.id().cast_signed());
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let input = self.config.raw.clone();
        let (sender, ended) = mpsc::channel();
        let follow = move || {
            if let Some(mut stdin) = stdin {
                // One that does not read tells why in its own words.
                let _ = stdin.write_all(&input);
            }
            let mut output = Vec::new();
            let read = stdout.map_or(Ok(0), |mut stdout| stdout.read_to_end(&mut output));
            let status = child.wait();
            // Nobody listens any more after the time-out.
            let _ = sender.send(read.and(status).map(|status| Ended {
                output,
                success: status.success(),
            }));
        };
        thread::Builder::new()
            .stack_size(FOLLOWER_STACK)
            .spawn(follow)
            .map_err(failed)?;
        Ok(Running {
            ipam: self,
            group,
            ended,
        })
    }

    /// Runs it to the end.
    ///
    /// # Errors
    /// Its own error, or code 104.
    pub fn run(&'a self, command: Command) -> Result<Vec<u8>, Error> {
        self.start(command)?.finish()
    }

    /// Runs it for a command that plugins of earlier versions do not know;
    /// that it does not is no error.
    ///
    /// # Errors
    /// As [`Ipam::run`].
    pub fn run_if_known(&'a self, command: Command) -> Result<(), Error> {
        match self.run(command) {
            Err(error) if is_unknown_command(&error) => Ok(()),
            other => other.map(drop),
        }
    }

    fn failed(&self, what: &str) -> Error {
        Error::new(Code::Ipam, format!("IPAM plugin {} {what}", self.kind))
    }
}

/// Has the kernel kill a child when this process is killed: an IPAM plugin that
/// went on would take an address that the runtime's DEL has released before.
///
/// The signal comes with the end of the thread that starts the child. That is
/// the main thread, which ends with the process.
fn end_with_this_process(process: &mut Process) {
    let parent = Pid::this();
    let prepare = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if Pid::parent() == parent {
            Ok(())
        } else {
            // Killed before the kernel was asked.
            Err(io::ErrorKind::Interrupted.into())
        }
    };
    // SAFETY: between fork and exec it makes two system calls, allocates nothing and takes no lock.
    unsafe {
        process.pre_exec(prepare);
    }
}

/// How plugins refuse a command of a later version: as an unknown value of
/// `CNI_COMMAND`, or as not in the version of the configuration.
fn is_unknown_command(error: &Error) -> bool {
    [Code::InvalidEnvironment, Code::IncompatibleVersion]
        .into_iter()
        .any(|code| error.code() == code as u32)
}

impl Running<'_> {
    /// Waits for the answer to ADD.
    ///
    /// # Errors
    /// As [`Running::finish`].
    pub fn lease(self) -> Result<Lease, Error> {
        let kind = self.ipam.kind;
        let output = self.finish()?;
        Lease::read(&output).map_err(|error| {
            Error::new(Code::Ipam, format!("IPAM plugin {kind}: {}", error.text()))
        })
    }

    /// Waits for its output.
    ///
    /// # Errors
    /// Its own error; code 104 when it takes too long or speaks no CNI.
    pub fn finish(self) -> Result<Vec<u8>, Error> {
        let timeout = self.ipam.config.ipam_timeout();
        let ended = match self.ended.recv_timeout(timeout) {
            Ok(ended) => {
                ended.map_err(|error| self.ipam.failed(&format!("cannot be followed: {error}")))?
            }
            Err(_) => {
                // It may have ended at this very moment.
                let _ = killpg(self.group, Signal::SIGKILL);
                return Err(self.ipam.failed(&format!(
                    "gave no answer in {} seconds (ipamTimeout); it was killed",
                    timeout.as_secs()
                )));
            }
        };
        if ended.success {
            return Ok(ended.output);
        }
        Err(match serde_json::from_slice::<Printed>(&ended.output) {
            Ok(printed) => Error::foreign(
                printed.code,
                format!("IPAM plugin {}: {}", self.ipam.kind, printed.msg),
                printed.details,
            ),
            Err(_) => self.ipam.failed("failed without an explanation"),
        })
    }
}
