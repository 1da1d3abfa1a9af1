//! One run of an IPAM plugin at a time for each attachment, whoever dies meanwhile.
//!
//! A plugin that is killed leaves its IPAM plugin running. To kill that one too could leave half an
//! address, and what it is about to give can be released only when it has ended. So ADD holds a lock
//! that its IPAM plugin inherits: it is free once both have ended, in whatever way. DEL and GC wait
//! for that before they release.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl},
};
use sluice_api::cni::{Attachment, IPAM_LOCKS};

use crate::{
    config::Config,
    error::{Code, Error},
    log::{self, Level},
};

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(5);

/// The lock of one attachment; its file goes with it.
#[derive(Debug)]
pub struct IpamLock {
    path: PathBuf,
    file: Flock<File>,
}

impl IpamLock {
    /// For an ADD, whose IPAM plugin inherits it.
    ///
    /// # Errors
    /// Code 5: the file cannot be made. Code 11: the IPAM plugin of an earlier ADD still runs.
    pub fn take(config: &Config, attachment: &Attachment) -> Result<Self, Error> {
        let path = path(config, attachment);
        let failed = |error: io::Error| {
            Error::io(format!(
                "{}: cannot be written: {error}; the plugin needs a writable stateDir",
                path.display()
            ))
        };
        let open = || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false);
            options.open(&path)
        };
        fs::create_dir_all(config.fields.state_dir.join(IPAM_LOCKS)).map_err(failed)?;
        let lock = Self::wait(&path, config.ipam_timeout(), open)
            .map_err(failed)?
            .ok_or_else(|| {
                Error::new(
                    Code::TryAgainLater,
                    format!("{attachment}: the IPAM plugin of an earlier ADD still runs"),
                )
            })?;
        // For GC, which is one network's.
        lock.file
            .set_len(0)
            .and_then(|()| (&*lock.file).write_all(config.name.as_bytes()))
            .map_err(failed)?;
        fcntl(&*lock.file, FcntlArg::F_SETFD(FdFlag::empty()))
            .map_err(|errno| failed(errno.into()))?;
        Ok(lock)
    }

    /// For a DEL: waits until the IPAM plugin of an ADD has ended. That there was none, or that it
    /// hangs, keeps no address from being released.
    pub fn follow(config: &Config, attachment: &Attachment) -> Option<Self> {
        Self::follow_at(config, &path(config, attachment))
    }

    /// For a GC: as [`IpamLock::follow`] for every attachment of the network that is not `valid`.
    pub fn follow_others(config: &Config, valid: &[Attachment]) -> Vec<Self> {
        let valid: Vec<_> = valid.iter().map(|one| path(config, one)).collect();
        let entries = fs::read_dir(config.fields.state_dir.join(IPAM_LOCKS));
        let paths = entries.into_iter().flatten().flatten();
        paths
            .map(|entry| entry.path())
            .filter(|path| !valid.contains(path))
            .filter(|path| fs::read(path).is_ok_and(|name| name == config.name.as_bytes()))
            .filter_map(|path| Self::follow_at(config, &path))
            .collect()
    }

    fn follow_at(config: &Config, path: &Path) -> Option<Self> {
        let timeout = config.ipam_timeout();
        match Self::wait(path, timeout, || File::open(path)) {
            Ok(Some(lock)) => return Some(lock),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(None) => log::write(
                Level::Warning,
                &format!(
                    "{}: an IPAM plugin has held it for {} seconds (ipamTimeout); going on",
                    path.display(),
                    timeout.as_secs()
                ),
            ),
            Err(error) => log::write(Level::Warning, &format!("{}: {error}", path.display())),
        }
        None
    }

    /// `None` if it stays taken.
    fn wait(
        path: &Path,
        timeout: Duration,
        open: impl Fn() -> io::Result<File>,
    ) -> io::Result<Option<Self>> {
        let since = Instant::now();
        let mut file = open()?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) if is_at(&locked, path)? => {
                    let path = path.to_owned();
                    return Ok(Some(Self { path, file: locked }));
                }
                // Its last owner has removed it.
                Ok(_) => file = open()?,
                Err((same, Errno::EWOULDBLOCK)) => {
                    if since.elapsed() >= timeout {
                        return Ok(None);
                    }
                    thread::sleep(PAUSE);
                    file = same;
                }
                Err((_, errno)) => return Err(errno.into()),
            }
        }
    }
}

impl Drop for IpamLock {
    fn drop(&mut self) {
        // What stays is removed by the next owner, or the agent's next start.
        let _ = fs::remove_file(&self.path);
    }
}

fn path(config: &Config, attachment: &Attachment) -> PathBuf {
    let folder = config.fields.state_dir.join(IPAM_LOCKS);
    folder.join(attachment.file_name())
}

/// Whether a path still leads to this file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(there) => Ok(there.ino() == file.metadata()?.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
