//! Where objects come from. A source hands over a whole [`Model`] whenever it
//! has changed, unchanged objects being the same allocation; nothing behind
//! this module knows where they came from.
//!
//! [`Model`]: super::model::Model

mod annotation;
mod directory;
mod manifest;
mod object;
mod syntax;
#[cfg(test)]
mod tests;
mod watch;
mod yaml;

pub use directory::{Directory, FileState, Scan, scan_once};
pub use object::read_objects;
pub use watch::{Stirred, Watcher};
pub use yaml::{Located, documents, read};

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct Refused {
    /// From 1.
    pub line: usize,
    /// The thing, the cause, the remedy, in one line.
    pub reason: String,
}
