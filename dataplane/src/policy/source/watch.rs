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
const SETTLE: Duration = Duration::from_millis(100);
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

    /// Waits until the folder may have changed and has come to rest. Needs a
    /// tokio runtime.
    pub async fn changed(&mut self) {
        self.watch();
        let Some(events) = &self.events else {
            return sleep(POLL).await;
        };
        if timeout(REVIEW, drain(events)).await.is_err() {
            // Watched anew, should the path lead elsewhere by now.
            self.events = None;
            return;
        }
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let quiet = Instant::now() + SETTLE;
            if timeout_at(quiet.min(end), drain(events)).await.is_err() {
                break;
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

/// Waits for events and throws them away: what changed is seen by looking.
async fn drain(events: &AsyncFd<OwnedFd>) {
    let mut buffer = [0; 4096];
    while let Ok(mut ready) = events.readable().await {
        let read = ready.try_io(|events| Ok(nix::unistd::read(events.get_ref(), &mut buffer)?));
        if matches!(read, Ok(Ok(_))) {
            return;
        }
    }
}
