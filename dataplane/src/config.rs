//! The agent's configuration: flags, then `SLUICE_*` variables, then the
//! configuration file, then defaults.

use std::{
    collections::HashSet,
    fmt, fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::{Args, ValueEnum, builder::RangedU64ValueParser};
use dataplane_ebpf::abi::MAX_ENDPOINTS;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{
    agent::{Nic, PolicyOptions},
    api::{client::DEFAULT_SOCKET, types::UplinkRequest},
    kernel::{Sizes, TcMode, XdpPreference},
    metrics::Compat,
    policy::compile::{self, Unknown},
    rdma::NetnsMode,
};

/// Read when no other file is named; it need not exist.
pub const DEFAULT_FILE: &str = "/etc/sluice/config.toml";
/// Most connections that can be remembered: half a gigabyte of them.
pub const MAX_FLOWS: u32 = 1 << 22;
/// A fourth of the table of unanswered connections, so that those of an
/// endpoint's neighbours live for seconds whatever it does.
const DEFAULT_FLOW_RATE: u32 = 2048;
/// Most new connections a second of one endpoint that are remembered.
pub const MAX_FLOW_RATE: u32 = 1_000_000;
/// Most events a second that one endpoint may be granted.
pub const MAX_EVENT_RATE: u32 = 10_000;
/// Least and most room for the addresses that policies name.
const MIN_IDENTITIES: u32 = 1024;
const MAX_IDENTITIES: u32 = 1 << 20;
/// Where `/metrics` is by default: for this node only.
pub const DEFAULT_METRICS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9655);

/// What the agent goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the API listens.
    pub socket: PathBuf,
    /// Where the agent keeps what must outlive it, besides the pins.
    pub state_dir: PathBuf,
    /// The pins' folder, on a bpffs.
    pub bpffs: PathBuf,
    /// Where `/metrics` is served, if at all.
    pub metrics_address: Option<SocketAddr>,
    /// Other exporters whose names are served too.
    pub metrics_compat: Vec<Compat>,
    /// Endpoints that the maps have room for.
    pub max_endpoints: u32,
    /// Connections of isolated endpoints that are remembered.
    pub max_flows: u32,
    /// New connections a second of each isolated endpoint that are remembered.
    pub flow_rate: u32,
    /// Events a second that each endpoint may cause; 0 silences them.
    pub event_rate: u32,
    /// How endpoints are attached.
    pub tc: TcMode,
    /// How XDP runs on uplinks.
    pub xdp: XdpPreference,
    /// Uplinks to register at start.
    pub uplinks: Vec<UplinkRequest>,
    /// Addresses that policies may name on this node, and as many prefixes.
    pub identities: u32,
    /// Policies.
    pub policy: PolicyOptions,
    /// Who is to see RDMA devices; left as it is when absent.
    pub rdma_mode: Option<NetnsMode>,
    /// Whether RDMA ports are to count by process, where they can.
    pub rdma_pod_counters: bool,
    /// What NICs are to be.
    pub nics: Vec<Nic>,
    /// What the agent logs.
    pub log: LogLevel,
}

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

/// What one source of configuration says: the file's keys, and the flags and
/// variables of `sluice agent`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where the API listens; on the command line a flag of every command.
    #[arg(skip)]
    pub socket: Option<PathBuf>,

    /// Folder for what must outlive the agent, besides the pins
    /// [default: /var/lib/sluice]
    #[arg(long, value_name = "DIR", env = "SLUICE_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    /// Folder for the pinned maps, links and programs, on a mounted bpffs
    /// [default: /sys/fs/bpf/sluice]
    #[arg(long, value_name = "DIR", env = "SLUICE_BPFFS")]
    pub bpffs: Option<PathBuf>,

    /// Serve /metrics and /healthz at this address, or "off"
    /// [default: 127.0.0.1:9655]
    #[arg(long, value_name = "IP:PORT", env = "SLUICE_METRICS_ADDRESS")]
    pub metrics_address: Option<MetricsAddress>,

    /// Serve numbers under the names of another exporter too, so that its
    /// dashboards go on working; several separated by commas
    #[arg(
        long,
        value_enum,
        value_name = "EXPORTER",
        env = "SLUICE_METRICS_COMPAT",
        value_delimiter = ','
    )]
    pub metrics_compat: Option<Vec<Compat>>,

    /// Endpoints that the maps have room for, 1 to 4096 [default: 512]
    #[arg(long, value_name = "N", env = "SLUICE_MAX_ENDPOINTS",
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=u64::from(MAX_ENDPOINTS)))]
    #[serde(deserialize_with = "max_endpoints")]
    pub max_endpoints: Option<u32>,

    /// Connections of isolated endpoints that are remembered, 1024 to 4194304
    /// [default: 65536]
    #[arg(long, value_name = "N", env = "SLUICE_MAX_FLOWS",
          value_parser = RangedU64ValueParser::<u32>::new().range(1024..=u64::from(MAX_FLOWS)))]
    #[serde(deserialize_with = "max_flows")]
    pub max_flows: Option<u32>,

    /// New connections a second of each isolated endpoint that are remembered,
    /// 1 to 1000000 [default: 2048]
    #[arg(long, value_name = "N", env = "SLUICE_FLOW_RATE",
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=u64::from(MAX_FLOW_RATE)))]
    #[serde(deserialize_with = "flow_rate")]
    pub flow_rate: Option<u32>,

    /// Events a second that each endpoint may cause, 0 to 10000
    /// [default: 10]
    #[arg(long, value_name = "N", env = "SLUICE_EVENT_RATE",
          value_parser = RangedU64ValueParser::<u32>::new().range(0..=u64::from(MAX_EVENT_RATE)))]
    #[serde(deserialize_with = "event_rate")]
    pub event_rate: Option<u32>,

    /// How endpoints are attached [default: auto]
    #[arg(long, value_enum, env = "SLUICE_TC")]
    pub tc: Option<TcMode>,

    /// How XDP runs on uplinks [default: auto]
    #[arg(long, value_enum, env = "SLUICE_XDP")]
    pub xdp: Option<XdpPreference>,

    /// Uplink to register at start, with host reach; several separated by
    /// commas. Replaces the file's list.
    #[arg(long = "uplink", value_name = "INTERFACE", env = "SLUICE_UPLINKS",
          value_delimiter = ',', value_parser = uplink)]
    pub uplinks: Option<Vec<UplinkRequest>>,

    /// Folder of Kubernetes manifests: policies, pods, namespaces. Without it
    /// every endpoint is open
    #[arg(long, value_name = "DIR", env = "SLUICE_POLICY_DIR")]
    pub policy_dir: Option<PathBuf>,

    /// Networks that a NetworkPolicy without policy-for is about
    /// [default: cluster]
    #[arg(long, value_enum, env = "SLUICE_NETWORK_POLICY")]
    pub network_policy: Option<NetworkPolicyScope>,

    /// What a pod may do that the policy folder does not know: "isolate" (it
    /// may do nothing), "open", or "open-after=SECONDS" [default: isolate]
    #[arg(long, value_name = "WHAT", env = "SLUICE_UNKNOWN_PODS")]
    pub unknown_pods: Option<UnknownPods>,

    /// Whether what the node itself sends to its pods always passes
    /// [default: true]
    #[arg(long, value_name = "BOOL", env = "SLUICE_ALLOW_NODE")]
    pub allow_node: Option<bool>,

    /// Whether policies only count and tell what they would drop
    /// [default: false]
    #[arg(long, value_name = "BOOL", env = "SLUICE_POLICY_AUDIT")]
    pub policy_audit: Option<bool>,

    /// Addresses that policies may name on this node, and as many prefixes,
    /// 1024 to 1048576 [default: 65536]
    #[arg(long, value_name = "N", env = "SLUICE_IDENTITIES",
          value_parser = RangedU64ValueParser::<u32>::new()
              .range(u64::from(MIN_IDENTITIES)..=u64::from(MAX_IDENTITIES)))]
    #[serde(deserialize_with = "identities")]
    pub identities: Option<u32>,
    /// Who is to see RDMA devices; in the file only.
    #[arg(skip)]
    pub rdma_mode: Option<NetnsMode>,

    /// Whether RDMA ports are to count by process; in the file only.
    #[arg(skip)]
    pub rdma_pod_counters: Option<bool>,

    /// What NICs are to be; in the file only.
    #[arg(skip)]
    pub nics: Option<Vec<Nic>>,

    /// How much the agent logs [default: info]
    #[arg(long, value_enum, env = "SLUICE_LOG")]
    pub log: Option<LogLevel>,
}

fn uplink(interface: &str) -> Result<UplinkRequest, String> {
    if interface.is_empty() {
        return Err("an interface's name is missing".into());
    }
    Ok(UplinkRequest {
        interface: interface.into(),
        host_reach: true,
    })
}

fn max_endpoints<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    within(deserializer, 1, MAX_ENDPOINTS)
}

fn max_flows<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    within(deserializer, 1024, MAX_FLOWS)
}

fn flow_rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    within(deserializer, 1, MAX_FLOW_RATE)
}

fn event_rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    within(deserializer, 0, MAX_EVENT_RATE)
}

fn identities<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    within(deserializer, MIN_IDENTITIES, MAX_IDENTITIES)
}

fn within<'de, D: Deserializer<'de>>(
    deserializer: D,
    least: u32,
    most: u32,
) -> Result<Option<u32>, D::Error> {
    let number = i64::deserialize(deserializer)?;
    u32::try_from(number)
        .ok()
        .filter(|number| (least..=most).contains(number))
        .map(Some)
        .ok_or_else(|| D::Error::custom(format!("{number} is not from {least} to {most}")))
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
        Self::merge(flags, settings)
    }

    fn merge(flags: Settings, file: Settings) -> Result<Self, ConfigError> {
        let path = |flag: Option<PathBuf>, file: Option<PathBuf>, default: &str| {
            flag.or(file).unwrap_or_else(|| default.into())
        };
        let uplinks = flags.uplinks.or(file.uplinks).unwrap_or_default();
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
        let nics = flags.nics.or(file.nics).unwrap_or_default();
        for nic in &nics {
            nic.check().map_err(ConfigError::Contradiction)?;
        }
        Ok(Self {
            socket: path(flags.socket, file.socket, DEFAULT_SOCKET),
            state_dir: path(flags.state_dir, file.state_dir, "/var/lib/sluice"),
            bpffs: path(flags.bpffs, file.bpffs, "/sys/fs/bpf/sluice"),
            metrics_address: flags
                .metrics_address
                .or(file.metrics_address)
                .map_or(Some(DEFAULT_METRICS), |address| address.0),
            metrics_compat: flags
                .metrics_compat
                .or(file.metrics_compat)
                .unwrap_or_default(),
            max_endpoints: flags.max_endpoints.or(file.max_endpoints).unwrap_or(512),
            max_flows: flags
                .max_flows
                .or(file.max_flows)
                .unwrap_or(Sizes::DEFAULT.flows),
            flow_rate: flags
                .flow_rate
                .or(file.flow_rate)
                .unwrap_or(DEFAULT_FLOW_RATE),
            event_rate: flags.event_rate.or(file.event_rate).unwrap_or(10),
            tc: flags.tc.or(file.tc).unwrap_or_default(),
            xdp: flags.xdp.or(file.xdp).unwrap_or_default(),
            uplinks,
            identities: flags.identities.or(file.identities).unwrap_or(65536),
            policy: PolicyOptions {
                folder: flags.policy_dir.or(file.policy_dir),
                settings: compile::Settings {
                    every_network: flags
                        .network_policy
                        .or(file.network_policy)
                        .is_some_and(|scope| scope == NetworkPolicyScope::All),
                    unknown: flags
                        .unknown_pods
                        .or(file.unknown_pods)
                        .unwrap_or_default()
                        .0,
                    ..compile::Settings::default()
                },
                allow_node: flags.allow_node.or(file.allow_node).unwrap_or(true),
                audit: flags.policy_audit.or(file.policy_audit).unwrap_or(false),
            },
            rdma_mode: flags.rdma_mode.or(file.rdma_mode),
            rdma_pod_counters: flags
                .rdma_pod_counters
                .or(file.rdma_pod_counters)
                .unwrap_or(false),
            nics,
            log: flags.log.or(file.log).unwrap_or_default(),
        })
    }
}

fn parse(path: &Path, text: &str) -> Result<Settings, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        let before = text.get(..start).unwrap_or_default();
        let cause = error.message().trim().replace('\n', "; ");
        // serde names an unknown key itself, toml leaves the others to us.
        let explanation = match key_at(text, before.len()) {
            Some(key) if !cause.contains(&format!("`{key}`")) => format!("{key}: {cause}"),
            _ => cause,
        };
        ConfigError::File {
            path: path.into(),
            line: before.matches('\n').count() + 1,
            explanation,
        }
    })
}

/// The key, or the table, that the line at byte `position` sets.
fn key_at(text: &str, position: usize) -> Option<&str> {
    let start = text.get(..position)?.rfind('\n').map_or(0, |end| end + 1);
    let line = text.get(start..)?.lines().next()?;
    let key = match line.split_once('=') {
        Some((key, _)) => key,
        None => line.trim().strip_prefix('[')?,
    };
    let key = key.trim_matches(|c: char| c.is_whitespace() || "[]".contains(c));
    (!key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str, flags: Settings) -> Result<Config, String> {
        parse(Path::new("c.toml"), text)
            .and_then(|file| Config::merge(flags, file))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_example_sets_every_key_to_its_default_but_those_about_the_hardware() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config.toml");
        let text = fs::read_to_string(path).unwrap();
        let defaults = Config::merge(Settings::default(), Settings::default()).unwrap();
        assert_eq!(config(&text, Settings::default()), Ok(defaults.clone()));

        // With the comment signs before keys removed, it says the same.
        let all: String = text
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')))
            .map(|line| line.unwrap_or_default().to_owned() + "\n")
            .collect();
        let Settings {
            socket: Some(_),
            state_dir: Some(_),
            bpffs: Some(_),
            metrics_address: Some(_),
            metrics_compat: Some(_),
            max_endpoints: Some(_),
            max_flows: Some(_),
            flow_rate: Some(_),
            event_rate: Some(_),
            tc: Some(_),
            xdp: Some(_),
            uplinks: Some(uplinks),
            policy_dir: Some(policy_dir),
            network_policy: Some(_),
            unknown_pods: Some(_),
            allow_node: Some(_),
            policy_audit: Some(_),
            identities: Some(_),
            rdma_mode: Some(rdma_mode),
            rdma_pod_counters: Some(_),
            nics: Some(nics),
            log: Some(_),
        } = parse(Path::new("c.toml"), &all).unwrap()
        else {
            panic!("a key is missing from\n{all}");
        };
        assert!(!uplinks.is_empty() && !nics.is_empty());
        let expected = Config {
            uplinks,
            policy: PolicyOptions {
                folder: Some(policy_dir),
                ..defaults.policy.clone()
            },
            rdma_mode: Some(rdma_mode),
            nics,
            ..defaults
        };
        assert_eq!(config(&all, Settings::default()), Ok(expected));
    }

    #[test]
    fn flags_beat_the_file_and_the_file_beats_defaults() {
        let flags = Settings {
            max_endpoints: Some(7),
            metrics_address: Some(MetricsAddress(None)),
            ..Settings::default()
        };
        let file = "max_endpoints = 9\nevent_rate = 0\nmetrics_address = \"[::1]:1\"";
        let config = config(file, flags).unwrap();
        assert_eq!(config.max_endpoints, 7);
        assert_eq!(config.metrics_address, None);
        assert_eq!(config.event_rate, 0);
        assert_eq!(config.tc, TcMode::Auto);
    }

    #[test]
    fn errors_name_file_line_and_key() {
        for (text, expected) in [
            (
                "\nmax_endpoint = 1",
                "c.toml:2: unknown field `max_endpoint`, expected one of",
            ),
            (
                "max_endpoints = 0",
                "c.toml:1: max_endpoints: 0 is not from 1 to 4096",
            ),
            (
                "max_endpoints = 4097",
                "c.toml:1: max_endpoints: 4097 is not from 1 to 4096",
            ),
            (
                "flow_rate = 0",
                "c.toml:1: flow_rate: 0 is not from 1 to 1000000",
            ),
            (
                "event_rate = -1",
                "c.toml:1: event_rate: -1 is not from 0 to 10000",
            ),
            (
                "log = \"info\"\nmax_endpoints = \"many\"",
                "c.toml:2: max_endpoints: invalid type: string \"many\"",
            ),
            (
                "unknown_pods = \"open-after=soon\"",
                "c.toml:1: unknown_pods: \"open-after=soon\" is neither",
            ),
            (
                "tc = \"xdp\"",
                "c.toml:1: tc: unknown variant `xdp`, expected one of",
            ),
            (
                "metrics_compat = [\"nobody\"]",
                "c.toml:1: metrics_compat: unknown variant `nobody`, expected `spiderpool`",
            ),
            (
                "metrics_address = \"9655\"",
                "c.toml:1: metrics_address: \"9655\" is neither an address",
            ),
            (
                "[[uplinks]]\nhost_reach = true",
                "c.toml:1: uplinks: missing field `interface`",
            ),
            (
                "[[uplinks]]\ninterface = \"a\"\nhostreach = true",
                "c.toml:3: unknown field `hostreach`",
            ),
            ("tc = ", "c.toml:1: tc: "),
            ("nonsense", "c.toml:1: "),
            (
                "tc = \"auto\"\ntc = \"auto\"",
                "c.toml:2: tc: duplicate key",
            ),
            (
                "uplinks = [{interface = \"a\"}, {interface = \"a\"}]",
                "configuration: uplink a is listed twice",
            ),
            (
                "rdma_mode = \"exklusive\"",
                "c.toml:1: rdma_mode: unknown variant `exklusive`, expected `shared` or",
            ),
            (
                "[[nics]]\nvendor = \"15b3\"",
                "configuration: an entry of nics wants nothing",
            ),
            ("[[nics]]\nnum_vf = 4", "c.toml:2: unknown field `num_vf`"),
        ] {
            let error = config(text, Settings::default()).unwrap_err();
            assert!(error.starts_with(expected), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{error:?}");
        }
    }

    #[test]
    fn a_named_file_must_exist() {
        let path = Path::new("/nonexistent/sluice.toml");
        let error = Config::load(Some(path), Settings::default()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot read the configuration /nonexistent/sluice.toml: "),
        );
    }
}
