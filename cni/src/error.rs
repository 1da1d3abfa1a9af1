//! Errors as the CNI specification wants them.

use serde_json::json;

use crate::version::Version;

/// The specification's codes, and from 100 on this plugin's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// The `cniVersion` is not supported, or lacks the command.
    IncompatibleVersion = 1,
    /// A capability that cannot be honoured; the text has its key and value.
    UnsupportedField = 2,
    /// An environment variable is missing or wrong.
    InvalidEnvironment = 4,
    /// Reading or writing failed.
    Io = 5,
    /// What should be JSON is not.
    Decode = 6,
    /// The configuration is wrong.
    InvalidConfig = 7,
    /// The agent is down or not ready; nothing was changed that the runtime's
    /// DEL would not undo.
    TryAgainLater = 11,
    /// STATUS: no pod can be added.
    NotAvailable = 50,
    /// STATUS: and attached pods suffer.
    LimitedConnectivity = 51,
    /// The agent or the node failed; the agent's log tells more.
    Failed = 100,
    /// What is named does not exist: a namespace, an interface, a device.
    NotFound = 101,
    /// It contradicts the present state: a device in use, an address in use.
    Conflict = 102,
    /// No room is left.
    Exhausted = 103,
    /// The IPAM plugin gave no usable answer.
    Ipam = 104,
    /// CHECK: something is not as the result said.
    CheckFailed = 105,
}

/// A failed command. The text is one line: the thing, the cause, the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    code: u32,
    text: String,
    details: String,
}

impl Error {
    /// With a code of this plugin.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self::foreign(code as u32, text, String::new())
    }

    /// With the code of another plugin.
    pub fn foreign(code: u32, text: impl Into<String>, details: String) -> Self {
        Self {
            code,
            text: text.into(),
            details,
        }
    }

    /// Code 1.
    pub fn incompatible(text: impl Into<String>) -> Self {
        Self::new(Code::IncompatibleVersion, text)
    }

    /// Code 4.
    pub fn environment(text: impl Into<String>) -> Self {
        Self::new(Code::InvalidEnvironment, text)
    }

    /// Code 5.
    pub fn io(text: impl Into<String>) -> Self {
        Self::new(Code::Io, text)
    }

    /// Code 6.
    pub fn decode(text: impl Into<String>) -> Self {
        Self::new(Code::Decode, text)
    }

    /// Code 7.
    pub fn config(text: impl Into<String>) -> Self {
        Self::new(Code::InvalidConfig, text)
    }

    /// Its code.
    pub fn code(&self) -> u32 {
        self.code
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Adds what went wrong besides.
    #[must_use]
    pub fn with_detail(mut self, detail: &str) -> Self {
        if !self.details.is_empty() {
            self.details.push_str("; ");
        }
        self.details.push_str(detail);
        self
    }

    /// For the log.
    pub fn to_line(&self) -> String {
        let details = match self.details.as_str() {
            "" => String::new(),
            details => format!(" ({details})"),
        };
        format!("{} [code {}]{details}", self.text, self.code)
    }

    /// As the specification prints it, in the version of the caller.
    pub fn to_json(&self, version: Option<&str>) -> String {
        let mut json = json!({
            "cniVersion": version.unwrap_or(Version::LATEST.name()),
            "code": self.code,
            "msg": self.text,
        });
        if !self.details.is_empty() {
            json["details"] = self.details.as_str().into();
        }
        json.to_string()
    }
}
