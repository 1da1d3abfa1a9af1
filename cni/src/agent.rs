//! Asking the agent.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use sluice_api::{
    ApiError,
    cni::{
        AddAnswer, AddRequest, CheckRequest, ConfigureAnswer, ConfigureRequest, DelRequest, Done,
        GcAnswer, GcRequest, Readiness,
    },
};

use crate::{
    error::{Code, Error},
    http::{self, Failure},
};

/// How long an answer may take; looking for address conflicts alone takes
/// seconds.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Why the agent did not do it.
#[derive(Debug)]
pub enum Refusal {
    /// Nobody heard, or nobody answered.
    Absent(Error),
    /// The agent says no.
    Refused(Error),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Absent(error) | Refusal::Refused(error) => error,
        }
    }
}

/// The agent behind one socket.
#[derive(Debug)]
pub struct Agent {
    socket: PathBuf,
}

type Result<T> = std::result::Result<T, Refusal>;

impl Agent {
    /// For the agent at `socket`.
    pub fn at(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Makes or takes over interfaces.
    ///
    /// # Errors
    /// [`Refusal`], as of every method here.
    pub fn add(&self, request: &AddRequest) -> Result<AddAnswer> {
        self.post("/v1/cni/add", request)
    }

    /// Gives a new interface its addresses and routes.
    pub fn configure(&self, request: &ConfigureRequest) -> Result<ConfigureAnswer> {
        self.post("/v1/cni/configure", request)
    }

    /// Undoes an attachment.
    pub fn del(&self, request: &DelRequest) -> Result<Done> {
        self.post("/v1/cni/del", request)
    }

    /// Holds an attachment against what it should be.
    pub fn check(&self, request: &CheckRequest) -> Result<Done> {
        self.post("/v1/cni/check", request)
    }

    /// Undoes what is not in use.
    pub fn gc(&self, request: &GcRequest) -> Result<GcAnswer> {
        self.post("/v1/cni/gc", request)
    }

    /// Whether pods can be added.
    pub fn readiness(&self) -> Result<Readiness> {
        self.ask("GET", "/v1/cni/status", &[])
    }

    fn post<T: DeserializeOwned>(&self, path: &str, request: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(request)
            .map_err(|error| Refusal::Refused(Error::decode(error.to_string())))?;
        self.ask("POST", path, &body)
    }

    fn ask<T: DeserializeOwned>(&self, method: &str, path: &str, body: &[u8]) -> Result<T> {
        let (status, body) = http::ask(&self.socket, method, path, body, TIMEOUT)
            .map_err(|failure| Refusal::Absent(self.absent(&failure)))?;
        let unreadable = |error: serde_json::Error| {
            Refusal::Refused(Error::decode(format!(
                "cannot read the agent's answer to {path} ({error}); plugin and agent may be of \
                 different versions"
            )))
        };
        if status == 200 {
            return serde_json::from_slice(&body).map_err(unreadable);
        }
        let ApiError { error } = serde_json::from_slice(&body).map_err(unreadable)?;
        Err(Refusal::Refused(Error::new(code_of(status), error)))
    }

    fn absent(&self, failure: &Failure) -> Error {
        let socket = self.socket.display();
        let text = match failure {
            Failure::Unreachable(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                format!("permission denied on {socket}; the agent answers root only")
            }
            Failure::Unreachable(error) => format!(
                "no agent at {socket} ({error}); start it with `sluice agent` or \
                 `systemctl start sluice`"
            ),
            Failure::Lost(error) if error.kind() == io::ErrorKind::WouldBlock => format!(
                "no answer from the agent at {socket} in {} seconds; see its log",
                TIMEOUT.as_secs()
            ),
            Failure::Lost(error) => format!("lost the agent at {socket} ({error}); see its log"),
        };
        Error::new(Code::TryAgainLater, text)
    }
}

/// What the agent's HTTP status means to a runtime.
fn code_of(status: u16) -> Code {
    match status {
        400 => Code::InvalidConfig,
        404 => Code::NotFound,
        409 => Code::Conflict,
        503 => Code::TryAgainLater,
        507 => Code::Exhausted,
        _ => Code::Failed,
    }
}
