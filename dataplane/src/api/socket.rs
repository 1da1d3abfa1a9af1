//! The agent's listening socket: one owner, one mode, no leftovers.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use nix::sys::{
    socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockopt, listen, socket,
        sockopt::PeerCredentials,
    },
    stat::{Mode, fchmod},
};

/// Why the socket could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error(
        "another agent (pid {pid}) serves {}; stop it first, or choose another --socket",
        path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
        /// Who listens, or `unknown`.
        pid: String,
    },
    /// Something that is not a socket has the name.
    #[error("{} exists and is not a socket; remove it, or choose another --socket", path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("cannot {action} {}: {source}{}", path.display(), remedy(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run the agent as root, or choose another --socket",
        io::ErrorKind::StorageFull => "; free some space",
        io::ErrorKind::ReadOnlyFilesystem => "; choose a --socket on a writable file system",
        _ => "",
    }
}

/// A listening socket, mode 0600. Dropping it removes the file.
#[derive(Debug)]
pub struct Socket {
    listener: tokio::net::UnixListener,
    file: SocketFile,
}

/// The socket's name in the file system, and the right to it.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Locked for as long as the agent lives, however it ends: that is what
    /// tells a leftover socket from one in use, without a race between two
    /// agents that start together.
    _lock: File,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // The next agent replaces what cannot be removed.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Socket {
    /// Takes `path`, and its folder if it is missing. The socket that a dead
    /// agent left is replaced. Call it within a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`]; nothing is changed then.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| BindError::Io {
                action,
                path,
                source,
            }
        };
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(failed("create the folder", folder))?;
        }
        let lock = take_lock(path)?;
        clear_leftover(path)?;
        let listener = listen_at(path).map_err(failed("listen on", path))?;
        let file = SocketFile {
            path: path.to_owned(),
            _lock: lock,
        };
        let listener = tokio::net::UnixListener::from_std(listener)
            .map_err(failed("listen on", &file.path))?;
        Ok(Self { listener, file })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    pub(super) fn into_parts(self) -> (tokio::net::UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

/// Locks `PATH.lock` and writes our process id there for whoever comes second.
fn take_lock(path: &Path) -> Result<File, BindError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let failed = |action| {
        let path = name.clone();
        move |source: io::Error| BindError::Io {
            action,
            path,
            source,
        }
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&name)
        .map_err(failed("open"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let pid = match pid.trim() {
                "" => "unknown".to_owned(),
                pid => pid.to_owned(),
            };
            return Err(BindError::InUse {
                path: path.to_owned(),
                pid,
            });
        }
        Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed("write"))?;
    Ok(file)
}

/// Removes a socket that nobody listens on.
fn clear_leftover(path: &Path) -> Result<(), BindError> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(BindError::Io {
                action: "look at",
                path: path.to_owned(),
                source,
            });
        }
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    // Another program's socket, or one whose lock file somebody removed.
    if let Ok(stream) = UnixStream::connect(path) {
        let pid = getsockopt(&stream, PeerCredentials)
            .map_or_else(|_| "unknown".to_owned(), |peer| peer.pid().to_string());
        return Err(BindError::InUse {
            path: path.to_owned(),
            pid,
        });
    }
    std::fs::remove_file(path).map_err(|source| BindError::Io {
        action: "replace",
        path: path.to_owned(),
        source,
    })
}

/// Binds with mode 0600 from the first moment. Linux gives the file the mode
/// of the socket's own inode less the umask (`unix_bind` in
/// net/unix/af_unix.c), so it is set before there is a file; a `chmod`
/// afterwards would leave a gap, and the umask belongs to all threads.
fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::MAXCONN)?;
    Ok(UnixListener::from(fd))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_bound_socket_is_private_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/agent.sock");
        let socket = Socket::bind(&path).unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = Socket::bind(&path).unwrap_err().to_string();
        let pid = std::process::id();
        assert!(
            error.starts_with(&format!("another agent (pid {pid})")),
            "{error}"
        );
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_leftover_is_replaced_but_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Socket::bind(&path).unwrap());

        // A listener without our lock: some other program's.
        let foreign = UnixListener::bind(&path).unwrap();
        assert!(matches!(Socket::bind(&path), Err(BindError::InUse { .. })));
        drop(foreign);
        std::fs::remove_file(&path).unwrap();

        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(
            Socket::bind(&path),
            Err(BindError::NotASocket { .. })
        ));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn errors_name_the_path() {
        let error = Socket::bind(Path::new("/proc/sluice/agent.sock"))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("cannot create the folder /proc/sluice"),
            "{error}"
        );
    }
}
