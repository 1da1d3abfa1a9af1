//! Values that a setting may have, as they are written.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::policy::compile::Unknown;

/// Where `/metrics` is by default: for this node only.
const DEFAULT_METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9655);

/// How much the agent logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what is not as it should be.
    Warn,
    /// And what the agent does.
    #[default]
    Info,
    /// And how.
    Debug,
    /// And everything else.
    Trace,
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// An address to serve `/metrics` at, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct MetricsAddress(pub Option<SocketAddr>);

impl Default for MetricsAddress {
    fn default() -> Self {
        Self(Some(DEFAULT_METRICS))
    }
}

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        text.parse().map(|address| Self(Some(address))).map_err(|_| {
            format!(
                "{text:?} is neither an address with a port, such as {DEFAULT_METRICS}, nor \"off\""
            )
        })
    }
}

impl TryFrom<String> for MetricsAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("off"),
        }
    }
}

impl From<MetricsAddress> for String {
    fn from(address: MetricsAddress) -> Self {
        address.to_string()
    }
}

/// Networks that a NetworkPolicy without `policy-for` is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NetworkPolicyScope {
    /// The cluster's own network.
    #[default]
    Cluster,
    /// Every network that a pod is attached to by Sluice.
    All,
}

/// `isolate`, `open`, or `open-after=SECONDS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct UnknownPods(pub Unknown);

impl FromStr for UnknownPods {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = match text {
            "isolate" => Unknown::Isolate,
            "open" => Unknown::Open,
            _ => {
                let seconds = text.strip_prefix("open-after=");
                let seconds = seconds.and_then(|seconds| seconds.parse().ok());
                let seconds = seconds.ok_or_else(|| {
                    format!("{text:?} is neither \"isolate\", \"open\" nor \"open-after=SECONDS\"")
                })?;
                Unknown::OpenAfter(Duration::from_secs(seconds))
            }
        };
        Ok(Self(unknown))
    }
}

impl TryFrom<String> for UnknownPods {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
