//! What `/proc` says of the processes that hold RDMA objects.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::cgroup::Container;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its name (`comm`), as far as it is UTF-8.
    pub name: String,
    /// The inode of its network namespace, where it may be looked at.
    pub netns: Option<u64>,
    /// Its container.
    pub container: Container,
}

/// The processes of a node, remembered from one look to the next.
#[derive(Debug)]
pub struct Processes {
    root: PathBuf,
    known: HashMap<u32, Known>,
    look: u64,
}

#[derive(Debug)]
struct Known {
    /// Ticks after boot at which it started: with its id, this tells it from any other.
    started: u64,
    process: Process,
    /// The last look that asked for it.
    asked: u64,
}

impl Processes {
    /// The processes that a proc file system shows, usually `/proc`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            known: HashMap::new(),
            look: 0,
        }
    }

    /// Ends a look: forgets the processes that it did not ask for.
    pub fn end_look(&mut self) {
        let look = self.look;
        self.known.retain(|_, known| known.asked == look);
        self.look += 1;
    }

    /// A process by its id; `None` when it has ended.
    ///
    /// What is remembered of it is asked for again only once it could be another one; a process
    /// whose container moves it to another cgroup stays what it was.
    pub fn get(&mut self, pid: u32) -> Option<&Process> {
        let asked = self.look;
        // Once in a look is enough.
        if self
            .known
            .get(&pid)
            .is_some_and(|known| known.asked == asked)
        {
            return self.known.get(&pid).map(|known| &known.process);
        }
        let folder = self.root.join(pid.to_string());
        let (name, started) = read_stat(&folder).ok()?;
        match self.known.get_mut(&pid) {
            Some(known) if known.started == started => known.asked = asked,
            _ => {
                let known = Known {
                    started,
                    process: Process {
                        name,
                        netns: netns_of(&folder),
                        container: fs::read_to_string(folder.join("cgroup"))
                            .map(|text| Container::parse(&text))
                            .unwrap_or_default(),
                    },
                    asked,
                };
                self.known.insert(pid, known);
            }
        }
        self.known.get(&pid).map(|known| &known.process)
    }
}

/// Name and start of a process: fields 2 and 22 of `/proc/PID/stat` (proc_pid_stat(5)). The name is
/// in parentheses and may have some itself.
fn read_stat(folder: &Path) -> io::Result<(String, u64)> {
    // The first 22 fields take less, and a thousand processes are asked at each look: one read.
    let mut bytes = [0; 1024];
    let length = fs::File::open(folder.join("stat"))?.read(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes[..length]);
    parse_stat(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse_stat(text: &str) -> Option<(String, u64)> {
    let (before, after) = text.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let started = after.split_ascii_whitespace().nth(19)?.parse().ok()?;
    Some((name.to_owned(), started))
}

/// The number in `net:[4026531840]`.
fn netns_of(folder: &Path) -> Option<u64> {
    let link = fs::read_link(folder.join("ns/net")).ok()?;
    let text = link.to_str()?.strip_prefix("net:[")?;
    text.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Netns;

    #[test]
    fn a_name_may_look_like_the_rest() {
        let rest: Vec<_> = (3..=52).map(|field| field.to_string()).collect();
        let text = format!("42 (a) R (b)) {}\n", rest.join(" "));
        assert_eq!(parse_stat(&text), Some(("a) R (b)".into(), 22)));
        assert_eq!(parse_stat("42 (a) R 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn this_process_is_found() {
        let mut processes = Processes::new("/proc");
        let own = processes.get(std::process::id()).unwrap().clone();
        assert_eq!(own.netns, Some(Netns::host().unwrap().id().ino));
        assert!(!own.name.is_empty());
        assert_eq!(processes.get(1 << 23), None);
    }

    #[test]
    fn another_process_under_the_same_id_is_asked_anew() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("7");
        fs::create_dir_all(folder.join("ns")).unwrap();
        let write = |name: &str, started: u64| {
            let zeroes = "0 ".repeat(18);
            let text = format!("7 ({name}) S {zeroes}{started} 0 0\n");
            fs::write(folder.join("stat"), text).unwrap();
        };
        fs::write(folder.join("cgroup"), "0::/\n").unwrap();
        std::os::unix::fs::symlink("net:[99]", folder.join("ns/net")).unwrap();
        let mut processes = Processes::new(root.path());
        write("first", 5);
        assert_eq!(processes.get(7).unwrap().netns, Some(99));
        processes.end_look();
        write("renamed", 5);
        assert_eq!(processes.get(7).unwrap().name, "first");
        processes.end_look();
        write("second", 6);
        assert_eq!(processes.get(7).unwrap().name, "second");
        processes.end_look();
        processes.end_look();
        assert!(processes.known.is_empty());
    }
}
