//! The agent's API: HTTP with JSON bodies over a Unix socket.
//!
//! | request | body or query | answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`types::Status`] |
//! | `GET /v1/endpoints` | | list of [`types::Endpoint`] |
//! | `POST /v1/endpoints` | [`types::AttachRequest`] | [`types::Endpoint`] |
//! | `DELETE /v1/endpoints` | `id`, or `netns` and `interface` | the [`types::Endpoint`] that was |
//! | `GET /v1/stats` | | [`types::Stats`] |
//! | `GET /v1/events` | | [`types::EventLine`]s, one a line, without end |
//! | `GET /v1/uplinks` | | list of [`types::Uplink`] |
//! | `POST /v1/uplinks` | [`types::UplinkRequest`] | [`types::Uplink`] |
//! | `DELETE /v1/uplinks` | `interface` | the [`types::Uplink`] that was |
//! | `GET /v1/blocks` | | list of [`types::Block`] |
//! | `POST /v1/blocks` | `cidr` | [`types::Block`] |
//! | `DELETE /v1/blocks` | `cidr` | the [`types::Block`] that was |
//! | `GET /v1/policy` | | [`types::policy::PolicyStatus`] |
//! | `GET /v1/policy/endpoint` | `id` | [`types::policy::EndpointRules`] |
//! | `POST /v1/policy/explain` | [`types::policy::ExplainRequest`] | list of [`types::policy::ExplainedFlow`] |
//! | `POST /v1/policy/verify` | [`types::policy::VerifyRequest`] | for each an objection or null |
//! | `POST /v1/policy/audit` | [`types::policy::AuditRequest`] | [`types::policy::EndpointPolicy`] |
//! | `GET /v1/rdma` | | [`hardware::NodeRdma`] |
//! | `POST /v1/rdma/mode` | [`hardware::RdmaModeRequest`] | [`hardware::NodeRdma`] |
//! | `GET /v1/sriov` | | list of [`hardware::Pf`] |
//! | `POST /v1/sriov` | [`hardware::VfsRequest`] | [`hardware::Pf`] |
//! | `GET /v1/roce/flows` | | [`roce::RoceFlows`] |
//! | `/v1/cni/...` | for the CNI plugin | see [`types::cni`] |
//!
//! `DELETE` takes its parameters from the query, or without one from a JSON
//! body. Whatever is not a success is answered with [`types::ApiError`] and
//! 400 (the request is wrong), 404 (what it names is not there), 409 (it
//! contradicts the present state), 501 (the kernel or the machine cannot), 507
//! (no room is left) or 500 (the node is at fault).

pub mod client;
mod cni;
mod dataplane;
mod events;
pub mod hardware;
mod policy;
mod request;
pub mod roce;
pub mod server;
pub mod socket;
pub mod types;

pub use dataplane::{Cni, Dataplane, Policies};
pub use hardware::Hardware;
pub use socket::{BindError, Socket};
