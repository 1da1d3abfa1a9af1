//! What happens at a failpoint that a test has set with `return(...)`.

use crate::error::{Code, Error};

/// `return(kill)` kills this process as SIGKILL would; any other text fails
/// the command with it.
pub fn act<T>(what: Option<String>) -> Result<T, Error> {
    let what = what.unwrap_or_default();
    if what == "kill" {
        // `abort` is as sudden: nothing is flushed and nothing unwinds.
        std::process::abort();
    }
    Err(Error::new(Code::Failed, format!("failpoint: {what}")))
}
