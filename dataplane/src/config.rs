//! The agent's configuration: flags, then `SLUICE_*` variables, then the
//! configuration file, then defaults.

mod file;
mod settings;
mod values;

use std::{
    collections::HashSet,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use self::file::parse;
pub use self::{
    settings::Settings,
    values::{LogLevel, MetricsAddress, NetworkPolicyScope, UnknownPods},
};
use crate::{
    agent::{Nic, Options, PolicyOptions},
    api::{client::DEFAULT_SOCKET, types::UplinkRequest},
    kernel::Sizes,
    metrics::Compat,
    policy::compile,
    rdma::NetnsMode,
};

/// Read when no other file is named; it need not exist.
pub const DEFAULT_FILE: &str = "/etc/sluice/config.toml";
/// A fourth of the table of unanswered connections, so that those of an
/// endpoint's neighbours live for seconds whatever it does.
const DEFAULT_FLOW_RATE: u32 = 2048;

/// What the agent goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the API listens.
    pub socket: PathBuf,
    /// Where `/metrics` is served, if at all.
    pub metrics_address: Option<SocketAddr>,
    /// Other exporters whose names are served too.
    pub metrics_compat: Vec<Compat>,
    /// Uplinks to register at start.
    pub uplinks: Vec<UplinkRequest>,
    /// Who is to see RDMA devices; left as it is when absent.
    pub rdma_mode: Option<NetnsMode>,
    /// What NICs are to be.
    pub nics: Vec<Nic>,
    /// What the agent logs.
    pub log: LogLevel,
    /// How the agent itself is to run.
    pub agent: Options,
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "cannot read the configuration {}: {source}; mend that, or name another file with --config",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file says something that cannot be.
    #[error("{}:{line}: {explanation}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// Key and cause.
        explanation: String,
    },
    /// Sound by itself, but not together.
    #[error("configuration: {0}")]
    Contradiction(String),
}

impl Config {
    /// Puts the configuration together: `flags` (which hold the variables'
    /// values where a flag is not given), then the file, then defaults.
    ///
    /// # Errors
    /// [`ConfigError`] when the named file cannot be read (the default one
    /// need not exist) or says something that cannot be.
    pub fn load(file: Option<&Path>, flags: Settings) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        let settings = match fs::read_to_string(path) {
            Ok(text) => parse(path, &text)?,
            Err(error) if file.is_none() && error.kind() == io::ErrorKind::NotFound => {
                Settings::default()
            }
            Err(source) => {
                return Err(ConfigError::Read {
                    path: path.into(),
                    source,
                });
            }
        };
        Self::new(flags.or(settings))
    }

    fn new(settings: Settings) -> Result<Self, ConfigError> {
        let path = |set: Option<PathBuf>, default: &str| set.unwrap_or_else(|| default.into());
        let uplinks = settings.uplinks.unwrap_or_default();
        let mut seen = HashSet::new();
        if let Some(twice) = uplinks
            .iter()
            .find(|uplink| !seen.insert(&uplink.interface))
        {
            return Err(ConfigError::Contradiction(format!(
                "uplink {} is listed twice; remove one of them",
                twice.interface
            )));
        }
        let nics = settings.nics.unwrap_or_default();
        for nic in &nics {
            nic.check().map_err(ConfigError::Contradiction)?;
        }
        Ok(Self {
            socket: path(settings.socket, DEFAULT_SOCKET),
            metrics_address: settings.metrics_address.unwrap_or_default().0,
            metrics_compat: settings.metrics_compat.unwrap_or_default(),
            uplinks,
            rdma_mode: settings.rdma_mode,
            nics,
            log: settings.log.unwrap_or_default(),
            agent: Options {
                state_dir: path(settings.state_dir, "/var/lib/sluice"),
                bpffs: path(settings.bpffs, "/sys/fs/bpf/sluice"),
                max_endpoints: settings.max_endpoints.unwrap_or(512),
                max_flows: settings.max_flows.unwrap_or(Sizes::DEFAULT.flows),
                flow_rate: settings.flow_rate.unwrap_or(DEFAULT_FLOW_RATE),
                event_rate: settings.event_rate.unwrap_or(10),
                tc: settings.tc.unwrap_or_default(),
                xdp: settings.xdp.unwrap_or_default(),
                identities: settings.identities.unwrap_or(65536),
                policy: PolicyOptions {
                    folder: settings.policy_dir,
                    settings: compile::Settings {
                        every_network: settings.network_policy.unwrap_or_default()
                            == NetworkPolicyScope::All,
                        unknown: settings.unknown_pods.unwrap_or_default().0,
                        ..compile::Settings::default()
                    },
                    allow_node: settings.allow_node.unwrap_or(true),
                    audit: settings.policy_audit.unwrap_or(false),
                },
                rdma_pod_counters: settings.rdma_pod_counters.unwrap_or(false),
            },
        })
    }
}

#[cfg(test)]
mod tests;
