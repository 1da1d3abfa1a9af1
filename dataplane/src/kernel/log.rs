//! What the programs log, in a build that has aya-log in them.

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

use super::error::{KernelError, refused};

/// Hands the programs' words to the agent's own log.
pub struct Logger {
    inner: EbpfLogger<&'static dyn log::Log>,
}

impl Logger {
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, KernelError> {
        let inner = EbpfLogger::init(object)
            .map_err(|error| refused("opening the programs' log", &error))?;
        Ok(Self { inner })
    }

    /// Passes everything on, for as long as the process lives.
    ///
    /// # Errors
    /// The log cannot be waited for.
    pub async fn run(self) -> io::Result<()> {
        // SAFETY: the descriptor is the map's, which the logger owns and nobody
        // else closes.
        let mut logger =
            unsafe { AsyncFd::register_with_interest(self.inner, Interest::READABLE)? };
        loop {
            let mut ready = logger.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}
