//! Netlink itself, whatever the protocol: a socket bound to one namespace, requests, and answers
//! that are read without trusting them.
//!
//! `link` speaks `NETLINK_ROUTE` over it, `rdma` speaks `NETLINK_RDMA`.

pub(crate) mod decode;
mod error;
mod request;
mod socket;

pub use error::NetlinkError;
pub(crate) use request::Request;
pub(crate) use socket::Socket;
pub use socket::Transport;
