//! Real traffic between the namespaces.
//!
//! Both ends of a conversation are sockets of this one process, each opened in its own namespace.
//! One thread drives both, message by message: nothing is lost unless the network loses it.

mod frames;
mod icmp;
mod roce;
mod tcp;
mod udp;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, anyhow};

pub(super) use self::{
    frames::{Frame, Wire},
    icmp::{Ping, ping},
    roce::{Conversation, Ledger},
};
pub(super) use self::{tcp::tcp, udp::udp};

/// Tells a flow to end.
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A conversation on a thread of its own; ends when dropped.
pub(super) struct Flow<T> {
    label: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<T>>>,
}

impl<T: Send + 'static> Flow<T> {
    /// Runs `talk` until it ends, which it does soon after it is told to.
    fn start(label: String, talk: impl FnOnce(&Stop) -> Result<T> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Stop(Arc::clone(&stop));
        let thread = thread::spawn(move || talk(&told));
        Self {
            label,
            stop,
            thread: Some(thread),
        }
    }
}

impl<T> Flow<T> {
    /// What it is.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// Ends it and returns what came of it.
    ///
    /// # Errors
    /// Something did not arrive, or not as it was sent.
    pub(super) fn finish(mut self) -> Result<T> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else {
            return Err(anyhow!("{} ended before", self.label));
        };
        thread
            .join()
            .map_err(|_panic| anyhow!("the thread panicked"))
            .flatten()
            .with_context(|| self.label.clone())
    }
}

impl<T> Drop for Flow<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it says is of interest only to `finish`.
            let _ = thread.join();
        }
    }
}

/// What a conversation came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Messages that went there.
    pub(super) messages: u64,
    /// Messages that came back.
    pub(super) answers: u64,
    /// Payload there, in bytes; as much came back.
    pub(super) bytes: u64,
}
