//! Waiting until something in a folder has changed.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, sleep, timeout, timeout_at},
};

/// Changes that come closer together than this are one.
const SETTLE: Duration = Duration::from_millis(10);
/// The same for files that are new, whose text is yet to be written. When it
/// is, that is a change of its own.
const SETTLE_NEW: Duration = Duration::from_millis(100);
/// However busy the folder is, its changes wait no longer than this.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a folder that cannot be watched is looked at.
const POLL: Duration = Duration::from_secs(2);
/// How often a watched one is, in case that it lies behind a link whose own
/// folder changes, which inotify does not tell.
const REVIEW: Duration = Duration::from_secs(30);

/// Watches one folder.
#[derive(Debug)]
pub struct Watcher {
    path: PathBuf,
    events: Option<AsyncFd<OwnedFd>>,
}

/// How long to wait for more, where something was seen.
#[derive(Debug)]
pub struct Stirred(Option<Duration>);

impl Watcher {
    /// For the folder at `path`, which need not exist yet.
    pub fn new(path: &Path) -> Self {
        let mut this = Self {
            path: path.to_owned(),
            events: None,
        };
        this.watch();
        this
    }

    /// Waits until the folder may have changed. Needs a tokio runtime.
    pub async fn stirred(&mut self) -> Stirred {
        self.watch();
        let Some(events) = &self.events else {
            sleep(POLL).await;
            return Stirred(None);
        };
        match timeout(REVIEW, drain(events)).await {
            Ok(settle) => Stirred(Some(settle)),
            Err(_) => {
                // Watched anew, should the path lead elsewhere by now.
                self.events = None;
                Stirred(None)
            }
        }
    }

    /// Waits until the folder has come to rest. Needs a tokio runtime.
    pub async fn at_rest(&mut self, stirred: Stirred) {
        let (Some(events), Stirred(Some(mut settle))) = (&self.events, stirred) else {
            return;
        };
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let quiet = Instant::now() + settle;
            match timeout_at(quiet.min(end), drain(events)).await {
                Ok(next) => settle = next,
                Err(_) => break,
            }
        }
        self.events = None;
        self.watch();
    }

    fn watch(&mut self) {
        if self.events.is_some() {
            return;
        }
        match watch(&self.path) {
            Ok(events) => self.events = Some(events),
            Err(error) => tracing::debug!("{}: cannot watch: {error}", self.path.display()),
        }
    }
}

fn watch(path: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let changes = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF;
    inotify.add_watch(path, changes | AddWatchFlags::IN_ONLYDIR)?;
    // SAFETY: the descriptor is owned, always the same, and lives in the
    // `AsyncFd`, which alone can close it.
    let events = unsafe { AsyncFd::register(OwnedFd::from(inotify)) };
    events.map_err(|error| error.into_parts().1)
}

/// Waits for events and throws them away, since what changed is seen by
/// looking; tells how long to wait for more.
async fn drain(events: &AsyncFd<OwnedFd>) -> Duration {
    let mut buffer = [0; 4096];
    while let Ok(mut ready) = events.readable().await {
        let read = ready.try_io(|events| Ok(nix::unistd::read(events.get_ref(), &mut buffer)?));
        if let Ok(Ok(length)) = read {
            return settle(buffer.get(..length).unwrap_or_default());
        }
    }
    SETTLE
}

/// By the last event: `struct inotify_event`, uapi `linux/inotify.h`, is four
/// words, the second of which tells what happened, the fourth how long the
/// name is that follows.
fn settle(mut events: &[u8]) -> Duration {
    let mut last = AddWatchFlags::empty();
    while let Some(([_, happened, _, length], rest)) = words(events) {
        last = AddWatchFlags::from_bits_retain(happened);
        events = rest.get(length as usize..).unwrap_or_default();
    }
    if last.contains(AddWatchFlags::IN_CREATE) {
        SETTLE_NEW
    } else {
        SETTLE
    }
}

fn words(bytes: &[u8]) -> Option<([u32; 4], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<16>()?;
    let (words, _) = head.as_chunks::<4>();
    let [a, b, c, d] = words else { return None };
    Some(([*a, *b, *c, *d].map(u32::from_ne_bytes), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(happened: AddWatchFlags, name: &[u8; 16]) -> Vec<u8> {
        let words = [1, happened.bits(), 0, 16].map(u32::to_ne_bytes);
        [words.as_flattened(), name].concat()
    }

    #[test]
    fn a_new_file_is_waited_for_until_it_is_written() {
        let new = event(AddWatchFlags::IN_CREATE, b"a.yaml\0\0\0\0\0\0\0\0\0\0");
        let written = event(AddWatchFlags::IN_CLOSE_WRITE, b"a.yaml\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(settle(&new), SETTLE_NEW);
        assert_eq!(settle(&written), SETTLE);
        assert_eq!(settle(&[&new[..], &written].concat()), SETTLE);
        assert_eq!(settle(&[&written[..], &new].concat()), SETTLE_NEW);
        assert_eq!(settle(&[]), SETTLE);
    }
}
