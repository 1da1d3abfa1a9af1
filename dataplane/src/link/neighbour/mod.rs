//! What an interface says to its neighbours about addresses, and asks them: announcements, and
//! detection of conflicts before an address is used.

mod announce;
mod conflict;
mod frame;
mod socket;

pub use announce::announce;
pub use conflict::{Conflict, ProbeTiming, find_conflicts};
