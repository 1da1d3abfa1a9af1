//! What the kernel says when it refuses.

use std::{fmt, io};

/// Why a netlink request failed.
#[derive(Debug)]
pub struct NetlinkError {
    source: io::Error,
    /// What the kernel added in words (`NLMSGERR_ATTR_MSG`).
    explanation: Option<String>,
}

impl NetlinkError {
    /// The kernel's refusal: an error number, and its words where it has any.
    pub(super) fn refused(errno: i32, explanation: Option<String>) -> Self {
        Self {
            source: io::Error::from_raw_os_error(errno),
            explanation,
        }
    }

    /// The error number (`errno(3)`), where the kernel answered with one.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// Whether the kernel answered with this error number.
    pub fn is(&self, errno: i32) -> bool {
        self.errno() == Some(errno)
    }
}

impl From<io::Error> for NetlinkError {
    fn from(source: io::Error) -> Self {
        Self {
            source,
            explanation: None,
        }
    }
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)?;
        match &self.explanation {
            Some(words) => write!(f, ": {}", words.trim_end_matches('.')),
            None => Ok(()),
        }
    }
}

impl std::error::Error for NetlinkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
