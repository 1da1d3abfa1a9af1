//! The network configuration on standard input.

mod interface;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use sluice_api::{
    DEFAULT_SOCKET, DEFAULT_STATE_DIR,
    cni::{Attachment, Rdma, Settings, is_word},
};

use crate::{call::Call, error::Error, log::Level, version::Version};

pub use interface::{create, refuse_without_mode};

/// What is in the configuration. Fields that are not known here belong to the
/// runtime or to the IPAM plugin.
#[derive(Debug)]
pub struct Config {
    /// The version that the caller speaks.
    pub version: Version,
    /// The network's name.
    pub name: String,
    /// As it came, for the IPAM plugin.
    pub raw: Vec<u8>,
    /// Our own options, and the runtime's.
    pub fields: Fields,
    /// The result of the plugins before this one.
    pub prev_result: Option<Map<String, Value>>,
}

/// Options, by their names in the configuration.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fields {
    /// The agent's socket.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    /// The agent's state folder.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// Where the log goes; standard error if absent.
    pub log_file: Option<PathBuf>,
    /// How much of it.
    pub log_level: Option<Level>,
    /// Set: this is the main plugin, and the interface is of this kind.
    pub mode: Option<Mode>,
    /// Parent of macvlan and ipvlan interfaces.
    pub master: Option<String>,
    /// Mode of macvlan interfaces.
    #[serde(default)]
    pub macvlan_mode: MacvlanMode,
    /// Mode of ipvlan interfaces.
    #[serde(default)]
    pub ipvlan_mode: IpvlanMode,
    /// Bytes.
    pub mtu: Option<u32>,
    /// MAC address.
    pub mac: Option<String>,
    /// As `mac`, as sriov-cni has it.
    #[serde(rename = "MAC")]
    pub mac_upper: Option<String>,
    /// VF or other device that was assigned.
    #[serde(rename = "deviceID")]
    pub device_id: Option<String>,
    /// What Multus sets besides `deviceID`.
    #[serde(rename = "pciBusID")]
    pub pci_bus_id: Option<String>,
    /// VLAN id.
    pub vlan: Option<u16>,
    /// VF: VLAN priority.
    #[serde(rename = "vlanQoS")]
    pub vlan_qos: Option<u8>,
    /// VF: 802.1q or 802.1ad.
    pub vlan_proto: Option<String>,
    /// VF: on or off.
    pub spoofchk: Option<OnOff>,
    /// VF: on or off.
    pub trust: Option<OnOff>,
    /// VF: auto, enable or disable.
    #[serde(rename = "link_state")]
    pub link_state: Option<LinkState>,
    /// VF: Mbit/s.
    #[serde(rename = "min_tx_rate")]
    pub min_tx_rate: Option<u32>,
    /// VF: Mbit/s.
    #[serde(rename = "max_tx_rate")]
    pub max_tx_rate: Option<u32>,
    /// What is to become of the RDMA device.
    #[serde(default)]
    pub rdma: Rdma,
    /// Turn frames between node and pod around at the master.
    pub host_reach: Option<bool>,
    /// Prefixes to reach through the node.
    #[serde(default)]
    pub routes: Vec<IpNet>,
    /// As `routes`: those of the cluster's services.
    #[serde(default, rename = "serviceCIDRs")]
    pub service_cidrs: Vec<IpNet>,
    /// Ask for other users of an address before using it.
    #[serde(default = "yes")]
    pub detect_conflicts: bool,
    /// Tell the neighbours of new addresses.
    #[serde(default = "yes")]
    pub announce: bool,
    /// Settings for several NICs in one subnet.
    #[serde(default = "yes")]
    pub arp: bool,
    /// Delegation of addresses.
    pub ipam: Option<Ipam>,
    /// Seconds that the IPAM plugin may take.
    #[serde(default = "default_ipam_timeout")]
    pub ipam_timeout: u64,
    /// Name servers, for results.
    pub dns: Option<Value>,
    /// What the runtime passes for declared capabilities.
    #[serde(default)]
    pub runtime_config: RuntimeConfig,
    /// Attachments in use, on GC.
    #[serde(rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<Attachment>>,
    /// The name of these until 1.1.0 was final.
    #[serde(rename = "cni.dev/attachments")]
    pub attachments: Option<Vec<Attachment>>,
}

fn default_socket() -> PathBuf {
    DEFAULT_SOCKET.into()
}

fn default_state_dir() -> PathBuf {
    DEFAULT_STATE_DIR.into()
}

fn default_ipam_timeout() -> u64 {
    30
}

fn yes() -> bool {
    true
}

/// Kinds of interface that this plugin can be the main plugin of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Macvlan,
    Ipvlan,
    Sriov,
}

/// How macvlan siblings see each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    #[default]
    Bridge,
    Private,
    Vepa,
    Passthru,
}

/// The layer at which ipvlan children are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanMode {
    #[default]
    L2,
    L3,
    L3s,
}

/// As sriov-cni spells a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnOff {
    On,
    Off,
}

/// A VF's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    Auto,
    Enable,
    Disable,
}

/// `ipam`; the rest of it is the IPAM plugin's own.
#[derive(Debug, Default, Deserialize)]
pub struct Ipam {
    /// The IPAM plugin's name.
    #[serde(rename = "type", default)]
    pub kind: String,
}

/// One of the ranges of a set; the rest of it is the IPAM plugin's own.
#[derive(Debug, Deserialize)]
pub struct IpRange {
    /// The subnet that it is in.
    pub subnet: IpNet,
}

/// `runtimeConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeConfig {
    /// MAC address.
    pub mac: Option<String>,
    /// Addresses; the IPAM plugin reads them.
    #[serde(default)]
    pub ips: Vec<String>,
    /// Where addresses are to be from, one of each set; the IPAM plugin reads
    /// them.
    #[serde(default)]
    pub ip_ranges: Vec<Vec<IpRange>>,
    /// Device that was assigned.
    #[serde(rename = "deviceID")]
    pub device_id: Option<String>,
    /// File that describes the device.
    #[serde(rename = "CNIDeviceInfoFile")]
    pub device_info_file: Option<PathBuf>,
    /// Traffic shaping.
    pub bandwidth: Option<Value>,
    /// Ports of the node.
    pub port_mappings: Option<Value>,
    /// Name servers; not supported.
    pub dns: Option<Value>,
    /// Names; not supported.
    pub aliases: Option<Value>,
    /// For InfiniBand; not supported.
    #[serde(rename = "infinibandGUID")]
    pub infiniband_guid: Option<Value>,
}

impl Config {
    /// Reads the configuration.
    ///
    /// # Errors
    /// Code 6 for what is no JSON, 1 for an unknown version, 7 for a wrong
    /// field.
    pub fn read(input: &[u8]) -> Result<Self, Error> {
        let mut json: Map<String, Value> = serde_json::from_slice(input)
            .map_err(|error| Error::decode(format!("the network configuration: {error}")))?;
        let text = |key: &str| match json.get(key) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(Error::config(format!("{key} is not a string"))),
            None => Err(Error::config(format!("{key} is missing"))),
        };
        let version = Version::parse(&text("cniVersion")?)?;
        let name = text("name")?;
        if !is_word(&name) {
            return Err(Error::config(format!(
                "name {name:?} is not valid: a letter or digit, then letters, digits, '_', '.' \
                 and '-'"
            )));
        }
        let prev_result = match json.remove("prevResult") {
            None | Some(Value::Null) => None,
            Some(Value::Object(result)) => Some(result),
            Some(_) => return Err(Error::config("prevResult is not an object")),
        };
        Ok(Self {
            version,
            name,
            raw: input.to_vec(),
            fields: fields(Value::Object(json))?,
            prev_result,
        })
    }

    /// The prevResult.
    ///
    /// # Errors
    /// Code 7: there is none.
    pub fn prev_result(&self) -> Result<&Map<String, Value>, Error> {
        self.prev_result.as_ref().ok_or_else(|| {
            Error::config(
                "prevResult is missing: without \"mode\" this plugin only takes over what the \
                 plugins before it made; put it behind one, or set \"mode\"",
            )
        })
    }

    /// The IPAM plugin's name, where one is configured.
    pub fn ipam(&self) -> Option<&str> {
        let kind = self.fields.ipam.as_ref().map(|ipam| ipam.kind.as_str());
        kind.filter(|kind| !kind.is_empty())
    }

    /// How long the IPAM plugin may take.
    pub fn ipam_timeout(&self) -> Duration {
        Duration::from_secs(self.fields.ipam_timeout)
    }

    /// How the interface is to behave.
    pub fn settings(&self) -> Settings {
        Settings {
            detect_conflicts: self.fields.detect_conflicts,
            announce: self.fields.announce,
            arp: self.fields.arp,
        }
    }

    /// Prefixes to reach through the node.
    pub fn through_node(&self) -> Vec<IpNet> {
        let fields = &self.fields;
        let all = fields.routes.iter().chain(&fields.service_cidrs);
        all.copied().collect()
    }

    /// The device that was assigned. What is neither a PCI address nor an
    /// auxiliary device, such as the token of a shared device, counts as
    /// absent.
    pub fn device(&self) -> Option<&str> {
        let fields = &self.fields;
        [
            &fields.runtime_config.device_id,
            &fields.device_id,
            &fields.pci_bus_id,
        ]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .find(|text| is_pci_address(text) || is_auxiliary(text))
    }

    /// Refuses capabilities that cannot be honoured: a pod must not believe
    /// that it is limited when it is not.
    ///
    /// # Errors
    /// Code 2, with key and value.
    pub fn refuse_unsupported(&self) -> Result<(), Error> {
        let runtime = &self.fields.runtime_config;
        for (key, value) in [
            ("bandwidth", &runtime.bandwidth),
            ("portMappings", &runtime.port_mappings),
            ("dns", &runtime.dns),
            ("aliases", &runtime.aliases),
            ("infinibandGUID", &runtime.infiniband_guid),
        ] {
            if let Some(value) = value.as_ref().filter(|value| !is_empty(value)) {
                return Err(Error::new(
                    crate::error::Code::UnsupportedField,
                    format!(
                        "runtimeConfig.{key} {value} is not supported; chain a plugin that does \
                         it, and declare the capability there only"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The attachments in use.
    ///
    /// # Errors
    /// Code 7: the configuration has none, and nothing may be removed.
    pub fn valid_attachments(&self) -> Result<Vec<Attachment>, Error> {
        let fields = &self.fields;
        let listed = fields
            .valid_attachments
            .as_ref()
            .or(fields.attachments.as_ref());
        listed
            .cloned()
            .ok_or_else(|| Error::config("GC needs cni.dev/valid-attachments, which is missing"))
    }

    /// Whether the call asks for addresses by itself.
    pub fn requested_addresses<'a>(&'a self, call: &'a Call) -> Vec<&'a str> {
        let from_args = call.arg("IP").into_iter().flat_map(|ips| ips.split(','));
        let from_runtime = self.fields.runtime_config.ips.iter().map(String::as_str);
        from_runtime
            .chain(from_args)
            .filter(|text| !text.is_empty())
            .collect()
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// Reads our fields; what is wrong with one is said with its name.
fn fields<T: DeserializeOwned>(json: Value) -> Result<T, Error> {
    serde_path_to_error::deserialize(json)
        .map_err(|error| Error::config(format!("{}: {}", error.path(), error.inner())))
}

/// `DDDD:BB:SS.F`, hexadecimal; domains may have more digits.
pub fn is_pci_address(text: &str) -> bool {
    let hex = |part: &str, digits: std::ops::RangeInclusive<usize>| {
        digits.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let Some((place, function)) = text.split_once('.') else {
        return false;
    };
    let parts: Vec<_> = place.split(':').collect();
    let [domain, bus, slot] = parts[..] else {
        return false;
    };
    hex(domain, 4..=8)
        && hex(bus, 2..=2)
        && hex(slot, 2..=2)
        && matches!(function.as_bytes(), [b'0'..=b'7'])
}

/// `driver.kind.number`, such as `mlx5_core.sf.4`.
fn is_auxiliary(text: &str) -> bool {
    let parts: Vec<_> = text.split('.').collect();
    let word = |part: &str| {
        part.bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphabetic())
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    let [driver, kind, number] = parts[..] else {
        return false;
    };
    word(driver) && word(kind) && number.parse::<u32>().is_ok()
}

/// The address of a text that may have a prefix length.
pub fn address_of(text: &str) -> Option<IpAddr> {
    match text.parse::<IpNet>() {
        Ok(network) => Some(network.addr()),
        Err(_) => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_from_tokens() {
        for (text, device) in [
            ("0000:3b:00.2", true),
            ("10000:3b:00.7", true),
            ("mlx5_core.sf.4", true),
            ("17", false),
            ("0000:3b:00.8", false),
            ("0000:3b:00", false),
            ("3b:00.2", false),
            ("", false),
            ("a.b.c", false),
            ("../../x.1", false),
        ] {
            let config = format!(
                r#"{{"cniVersion":"1.0.0","name":"n","type":"sluice","deviceID":{text:?}}}"#
            );
            let config = Config::read(config.as_bytes()).unwrap();
            assert_eq!(config.device().is_some(), device, "{text}");
        }
    }
}
