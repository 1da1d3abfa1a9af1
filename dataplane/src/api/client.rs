//! The client's side of the API.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header::HOST};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use serde::{Serialize, de::DeserializeOwned};
pub use sluice_api::DEFAULT_SOCKET;
use tokio::net::UnixStream;

use super::hardware::{
    CountersRequest, NodeRdma, Pf, PortOptions, RdmaModeRequest, RdmaResources, VfsRequest,
};
use super::roce::RoceFlows;
use super::types::{
    ApiError, AttachRequest, Block, BlockRequest, Endpoint, EndpointSelector, EventLine, Stats,
    Status, Uplink, UplinkName, UplinkRequest,
    policy::{
        AuditRequest, EndpointPolicy, EndpointRules, ExplainRequest, ExplainedFlow, PolicyStatus,
        VerifyRequest,
    },
};

/// How long an answer may take: far more than any operation of a sound agent.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer taken, in bytes; the statistics of 4096 endpoints are below.
const ANSWER_LIMIT: usize = 256 << 20;
/// Longest line of events taken, in bytes.
const LINE_LIMIT: usize = 64 * 1024;

/// Why a request has no answer, or not the wished one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no agent at {}: {reason}; start it with `sluice agent` or `systemctl start sluice`",
        path.display()
    )]
    NoAgent {
        /// The socket.
        path: PathBuf,
        /// How one can tell.
        reason: &'static str,
    },
    /// The caller may not use the socket.
    #[error("permission denied on {}; the agent answers root only, try again with sudo", path.display())]
    Permission {
        /// The socket.
        path: PathBuf,
    },
    /// The conversation broke off.
    #[error("lost the agent at {}: {reason}; see its log and try again", path.display())]
    Lost {
        /// The socket.
        path: PathBuf,
        /// How.
        reason: String,
    },
    /// The answer makes no sense to this client.
    #[error(
        "cannot read the agent's answer to {request}: {reason}; sluice and the agent may be of \
         different versions, compare `sluice --version` with the agent's"
    )]
    Answer {
        /// Method and path.
        request: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The agent refused or failed.
    #[error("{error}")]
    Refused {
        /// What kind of refusal.
        status: StatusCode,
        /// The agent's explanation.
        error: String,
    },
}

type Result<T> = std::result::Result<T, ClientError>;

/// Talks to the agent behind one socket. Each request is a connection of its
/// own, so a client outlives restarts of the agent.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// For the agent at `path`; nothing is sent yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The agent's socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The state of the agent and its dataplane.
    ///
    /// # Errors
    /// [`ClientError`], as of every method here.
    pub async fn status(&self) -> Result<Status> {
        self.get("/v1/status").await
    }

    /// The endpoints, by id.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn endpoints(&self) -> Result<Vec<Endpoint>> {
        self.get("/v1/endpoints").await
    }

    /// Attaches an interface.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn attach(&self, request: &AttachRequest) -> Result<Endpoint> {
        self.send(Method::POST, "/v1/endpoints", request).await
    }

    /// Detaches an endpoint; returns what it was.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn detach(&self, selector: &EndpointSelector) -> Result<Endpoint> {
        self.send(Method::DELETE, "/v1/endpoints", selector).await
    }

    /// Every counter.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stats(&self) -> Result<Stats> {
        self.get("/v1/stats").await
    }

    /// The uplinks, by name.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn uplinks(&self) -> Result<Vec<Uplink>> {
        self.get("/v1/uplinks").await
    }

    /// Registers an uplink, or changes its settings.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn add_uplink(&self, request: &UplinkRequest) -> Result<Uplink> {
        self.send(Method::POST, "/v1/uplinks", request).await
    }

    /// Forgets an uplink; returns what it was.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove_uplink(&self, interface: &str) -> Result<Uplink> {
        let name = UplinkName {
            interface: interface.to_owned(),
        };
        self.send(Method::DELETE, "/v1/uplinks", &name).await
    }

    /// The block list.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn blocks(&self) -> Result<Vec<Block>> {
        self.get("/v1/blocks").await
    }

    /// Blocks a source prefix.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn block(&self, cidr: IpNet) -> Result<Block> {
        self.send(Method::POST, "/v1/blocks", &BlockRequest { cidr })
            .await
    }

    /// Lifts a block; returns what it had stopped.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn unblock(&self, cidr: IpNet) -> Result<Block> {
        self.send(Method::DELETE, "/v1/blocks", &BlockRequest { cidr })
            .await
    }

    /// The policies and how endpoints are judged.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn policy_status(&self) -> Result<PolicyStatus> {
        self.get("/v1/policy").await
    }

    /// The rules that an endpoint goes by.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn endpoint_rules(&self, id: u32) -> Result<EndpointRules> {
        self.get(&format!("/v1/policy/endpoint?id={id}")).await
    }

    /// Why connections pass, or do not.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn explain(&self, request: &ExplainRequest) -> Result<Vec<ExplainedFlow>> {
        self.send(Method::POST, "/v1/policy/explain", request).await
    }

    /// Holds expectations against what is in force: an objection, or none, for
    /// each.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn verify(&self, request: &VerifyRequest) -> Result<Vec<Option<String>>> {
        self.send(Method::POST, "/v1/policy/verify", request).await
    }

    /// Turns audit mode of an endpoint on or off.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set_audit(&self, request: &AuditRequest) -> Result<EndpointPolicy> {
        self.send(Method::POST, "/v1/policy/audit", request).await
    }

    /// Who talks to whom over RoCE.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn roce_flows(&self) -> Result<RoceFlows> {
        self.get("/v1/roce/flows").await
    }

    /// The RDMA devices of the node.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn rdma(&self) -> Result<NodeRdma> {
        self.get("/v1/rdma").await
    }

    /// Sets who sees RDMA devices.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set_rdma_mode(&self, request: &RdmaModeRequest) -> Result<NodeRdma> {
        self.send(Method::POST, "/v1/rdma/mode", request).await
    }

    /// RDMA objects and whose they are.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn rdma_resources(&self) -> Result<RdmaResources> {
        self.get("/v1/rdma/resources").await
    }

    /// What RDMA ports can count besides.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn rdma_counters(&self) -> Result<Vec<PortOptions>> {
        self.get("/v1/rdma/counters").await
    }

    /// Switches optional counters of RDMA ports.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set_rdma_counters(&self, request: &CountersRequest) -> Result<Vec<PortOptions>> {
        self.send(Method::POST, "/v1/rdma/counters", request).await
    }

    /// The NICs with SR-IOV.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn sriov(&self) -> Result<Vec<Pf>> {
        self.get("/v1/sriov").await
    }

    /// Has a NIC make VFs.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set_vfs(&self, request: &VfsRequest) -> Result<Pf> {
        self.send(Method::POST, "/v1/sriov", request).await
    }

    /// Events from now on.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn events(&self) -> Result<EventStream> {
        let response = self
            .request(Method::GET, "/v1/events", Bytes::new())
            .await?;
        Ok(EventStream {
            path: self.path.clone(),
            body: response.into_body(),
            buffer: BytesMut::new(),
        })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Answer {
            request: format!("{method} {path}"),
            reason: format!("the request does not fit into JSON: {error}"),
        })?;
        self.call(method, path, body.into()).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T> {
        let request = format!("{method} {path}");
        let answer = async {
            let response = self.request(method, path, body).await?;
            self.collect(response).await
        };
        let bytes = tokio::time::timeout(TIMEOUT, answer)
            .await
            .map_err(|_| self.lost(format!("no answer in {} seconds", TIMEOUT.as_secs())))??;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Answer {
            request,
            reason: error.to_string(),
        })
    }

    /// Sends a request; the response is a success.
    async fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.lost(error))?;
        // Drives the exchange; ends when sender and body are dropped.
        tokio::spawn(connection);
        let name = format!("{method} {path}");
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "sluice")
            .body(Full::new(body))
            .map_err(|error| ClientError::Answer {
                request: name.clone(),
                reason: error.to_string(),
            })?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| self.lost(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = self.collect(response).await?;
        match serde_json::from_slice::<ApiError>(&bytes) {
            Ok(ApiError { error }) => Err(ClientError::Refused { status, error }),
            Err(_) => Err(ClientError::Answer {
                request: name,
                reason: format!("{status}, without an explanation"),
            }),
        }
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Bytes> {
        Limited::new(response.into_body(), ANSWER_LIMIT)
            .collect()
            .await
            .map(|body| body.to_bytes())
            .map_err(|error| self.lost(error))
    }

    fn unreachable(&self, error: &io::Error) -> ClientError {
        let path = self.path.clone();
        let reason = match error.kind() {
            io::ErrorKind::NotFound => "not running",
            io::ErrorKind::ConnectionRefused => "not running, only its old socket is there",
            io::ErrorKind::PermissionDenied => return ClientError::Permission { path },
            _ => return self.lost(error),
        };
        ClientError::NoAgent { path, reason }
    }

    fn lost(&self, reason: impl ToString) -> ClientError {
        ClientError::Lost {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }
}

/// The lines of `GET /v1/events`.
#[derive(Debug)]
pub struct EventStream {
    path: PathBuf,
    body: Incoming,
    buffer: BytesMut,
}

impl EventStream {
    /// The next line; `None` when the agent has stopped.
    ///
    /// # Errors
    /// [`ClientError`]. The call may be abandoned and made again.
    pub async fn next(&mut self) -> Result<Option<EventLine>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|error| self.unreadable(error));
            }
            if self.buffer.len() > LINE_LIMIT {
                return Err(self.unreadable("a line without end"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => {
                    return Err(ClientError::Lost {
                        path: self.path.clone(),
                        reason: error.to_string(),
                    });
                }
                None => return Ok(None),
            }
        }
    }

    fn unreadable(&self, reason: impl ToString) -> ClientError {
        ClientError::Answer {
            request: "GET /v1/events".into(),
            reason: reason.to_string(),
        }
    }
}
