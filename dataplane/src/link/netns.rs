//! Network namespaces: naming them, opening them, running code inside them.

use std::{
    fmt,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    str::FromStr,
    thread,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sched::{CloneFlags, setns},
    sys::{
        stat::{Mode, fstat},
        statfs::{NSFS_MAGIC, fstatfs},
    },
};
use serde::{Deserialize, Serialize};

use super::LinkError;

/// Where iproute2 and the container runtimes mount named namespaces.
const NETNS_DIR: &str = "/run/netns";

/// How a namespace is named, in a configuration, on the command line or by a CNI runtime.
///
/// Text and serde: an absolute path, a bare name under `/run/netns`, `pid:N` or `host`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum NetnsRef {
    /// The agent's own namespace.
    Host,
    /// The namespace of a process, by its id as the agent sees it.
    Pid(u32),
    /// A name under `/run/netns`.
    Name(String),
    /// An absolute path: a bind mount, or `/proc/N/ns/net`.
    Path(String),
}

impl NetnsRef {
    /// The path that opens this namespace.
    pub fn path(&self) -> PathBuf {
        match self {
            // The link of the process, not of the calling thread: that one may be elsewhere.
            Self::Host => PathBuf::from("/proc/self/ns/net"),
            Self::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
            Self::Name(name) => Path::new(NETNS_DIR).join(name),
            Self::Path(path) => PathBuf::from(path),
        }
    }
}

impl fmt::Display for NetnsRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Pid(pid) => write!(f, "pid:{pid}"),
            Self::Name(text) | Self::Path(text) => f.write_str(text),
        }
    }
}

impl FromStr for NetnsRef {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |reason| LinkError::InvalidNetnsRef {
            text: text.to_owned(),
            reason,
        };
        if text == "host" {
            return Ok(Self::Host);
        }
        if let Some(pid) = text.strip_prefix("pid:") {
            return match pid.parse() {
                Ok(pid) if pid > 0 => Ok(Self::Pid(pid)),
                _ => Err(invalid("the process id is not a positive number")),
            };
        }
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(invalid("it is empty or has control characters"));
        }
        if text.starts_with('/') {
            return Ok(Self::Path(text.to_owned()));
        }
        if text.contains('/') || text == "." || text == ".." {
            return Err(invalid("a path must be absolute"));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl From<NetnsRef> for String {
    fn from(netns: NetnsRef) -> Self {
        netns.to_string()
    }
}

impl TryFrom<String> for NetnsRef {
    type Error = LinkError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// A namespace's identity: the nsfs inode. Unique among the namespaces that exist; the kernel may
/// give the number of one that is gone to a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetnsId {
    /// The nsfs device.
    pub dev: u64,
    /// The inode, the number in `net:[4026531840]`.
    pub ino: u64,
}

impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ino)
    }
}

/// An open network namespace.
///
/// It keeps the namespace alive: hold it while working, keep a [`NetnsRef`] and a [`NetnsId`] for
/// longer, or a pod's interfaces outlive the pod.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    id: NetnsId,
    path: PathBuf,
    name: String,
}

impl Netns {
    /// Opens a namespace.
    ///
    /// # Errors
    /// [`LinkError::NamespaceGone`] when nothing is there, [`LinkError::NotANamespace`] when
    /// something else is, [`LinkError::Namespace`] when the kernel refuses.
    pub fn open(netns: &NetnsRef) -> Result<Self, LinkError> {
        let (path, name) = (netns.path(), netns.to_string());
        let failed = |errno: Errno| match errno {
            Errno::ENOENT | Errno::ESRCH => LinkError::NamespaceGone {
                netns: name.clone(),
                source: errno.into(),
            },
            _ => LinkError::Namespace {
                action: "open",
                netns: name.clone(),
                source: errno.into(),
            },
        };
        // Not to hang on a FIFO that someone else's configuration names.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let fd = nix::fcntl::open(&path, flags, Mode::empty()).map_err(failed)?;
        let found = if fstatfs(&fd).map_err(failed)?.filesystem_type() != NSFS_MAGIC {
            Some("an ordinary file (the namespace once mounted there may be gone)")
        } else if namespace_type(&fd).map_err(failed)? != libc::CLONE_NEWNET {
            Some("a namespace of another kind")
        } else {
            None
        };
        if let Some(found) = found {
            return Err(LinkError::NotANamespace {
                path,
                found: found.to_owned(),
            });
        }
        let stat = fstat(&fd).map_err(failed)?;
        Ok(Self {
            fd,
            id: NetnsId {
                dev: stat.st_dev,
                ino: stat.st_ino,
            },
            path,
            name,
        })
    }

    /// Opens the agent's own namespace.
    ///
    /// # Errors
    /// As [`Netns::open`].
    pub fn host() -> Result<Self, LinkError> {
        Self::open(&NetnsRef::Host)
    }

    /// Opens it once more.
    ///
    /// # Errors
    /// [`LinkError::Namespace`] when no file can be opened any more.
    pub fn try_clone(&self) -> Result<Self, LinkError> {
        let fd = self.fd.try_clone().map_err(|source| LinkError::Namespace {
            action: "open",
            netns: self.name.clone(),
            source,
        })?;
        Ok(Self {
            fd,
            id: self.id,
            path: self.path.clone(),
            name: self.name.clone(),
        })
    }

    /// The identity of the namespace.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// The path that opens the namespace again, while it is there.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `f` inside the namespace and waits for it.
    ///
    /// `f` runs on a thread of its own that ends afterwards, so no thread is ever left in a wrong
    /// namespace. That thread has no tokio context. A socket that `f` opens stays bound to this
    /// namespace.
    ///
    /// # Errors
    /// [`LinkError::Namespace`] when the namespace cannot be entered, [`LinkError::Panicked`] when
    /// `f` panics.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, LinkError> {
        let failed = |action, source| LinkError::Namespace {
            action,
            netns: self.name.clone(),
            source,
        };
        thread::scope(|scope| {
            let worker = thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, || {
                    setns(&self.fd, CloneFlags::CLONE_NEWNET)
                        .map_err(|errno| failed("enter", errno.into()))?;
                    Ok(f())
                })
                .map_err(|source| failed("start a thread for", source))?;
            worker.join().unwrap_or_else(|panic| {
                let message = panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_else(|| "no message".to_owned());
                Err(LinkError::Panicked {
                    netns: self.name.clone(),
                    message,
                })
            })
        })
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The kind of namespace behind an nsfs file: one of the `CLONE_NEW*` flags.
fn namespace_type(fd: &OwnedFd) -> Result<libc::c_int, Errno> {
    // SAFETY: `fd` is open for the whole call, and NS_GET_NSTYPE (uapi linux/nsfs.h) takes no
    // argument and writes no memory.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::NS_GET_NSTYPE) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_survive_text() {
        for (text, netns, path) in [
            ("host", NetnsRef::Host, "/proc/self/ns/net"),
            ("pid:42", NetnsRef::Pid(42), "/proc/42/ns/net"),
            ("blue", NetnsRef::Name("blue".into()), "/run/netns/blue"),
            (
                "/var/run/netns/a",
                NetnsRef::Path("/var/run/netns/a".into()),
                "/var/run/netns/a",
            ),
            (
                "/proc/7/ns/net",
                NetnsRef::Path("/proc/7/ns/net".into()),
                "/proc/7/ns/net",
            ),
        ] {
            assert_eq!(text.parse::<NetnsRef>().unwrap(), netns);
            assert_eq!(netns.to_string(), text);
            assert_eq!(netns.path(), Path::new(path));
            let json = serde_json::to_string(&netns).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<NetnsRef>(&json).unwrap(), netns);
        }
    }

    #[test]
    fn refuses_what_names_no_namespace() {
        for text in [
            "", "a/b", ".", "..", "pid:", "pid:0", "pid:-1", "pid:x", "a\nb",
        ] {
            let error = text.parse::<NetnsRef>().unwrap_err();
            assert!(
                matches!(error, LinkError::InvalidNetnsRef { .. }),
                "{text:?}: {error}"
            );
        }
    }

    #[test]
    fn own_namespace_is_the_same_by_each_name() {
        let host = Netns::host().unwrap();
        let own = Netns::open(&NetnsRef::Pid(std::process::id())).unwrap();
        assert_eq!(host.id(), own.id());
        assert_eq!(host.id().to_string(), host.id().ino.to_string());
        assert_eq!(
            Netns::open(&NetnsRef::Path(own.path().display().to_string()))
                .unwrap()
                .id(),
            host.id()
        );
    }

    #[test]
    fn an_ordinary_file_is_not_a_namespace() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let netns = NetnsRef::Path(file.path().display().to_string());
        let error = Netns::open(&netns).unwrap_err();
        assert!(matches!(error, LinkError::NotANamespace { .. }), "{error}");
    }

    #[test]
    fn another_kind_of_namespace_is_refused() {
        let error = Netns::open(&NetnsRef::Path("/proc/self/ns/mnt".into())).unwrap_err();
        assert!(error.to_string().contains("another kind"), "{error}");
    }

    #[test]
    fn a_missing_namespace_is_gone() {
        // Above the largest process id that Linux gives out, 2^22.
        for netns in [
            NetnsRef::Pid(1 << 23),
            NetnsRef::Name("no-such-namespace".into()),
        ] {
            let error = Netns::open(&netns).unwrap_err();
            assert!(matches!(error, LinkError::NamespaceGone { .. }), "{error}");
        }
    }
}
