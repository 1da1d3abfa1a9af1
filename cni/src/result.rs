//! CNI results: read as JSON, so that what is not known here passes through.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde_json::{Map, Value, json};
use sluice_api::{
    Mac,
    cni::{AddedInterface, Address, RESULT_KEY, Route},
};

use crate::{
    error::{Code, Error},
    version::Version,
};

/// An interface of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Name.
    pub name: String,
    /// MAC address.
    pub mac: Option<Mac>,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
}

/// The interfaces of a result that are in the container.
///
/// # Errors
/// Code 7: the result makes no sense.
pub fn in_container(result: &Map<String, Value>, netns: &str) -> Result<Vec<Listed>, Error> {
    let interfaces = array(result, "interfaces")?;
    let ips = array(result, "ips")?;
    let mut found = Vec::new();
    for (index, interface) in interfaces.iter().enumerate() {
        let text = |key: &str| interface.get(key).and_then(Value::as_str);
        if text("sandbox").is_none_or(|sandbox| sandbox != netns) {
            continue;
        }
        let name = text("name")
            .ok_or_else(|| Error::config("prevResult has an interface without a name"))?;
        let addresses = ips
            .iter()
            .filter(|ip| ip.get("interface").and_then(Value::as_u64) == Some(index as u64))
            .map(|ip| {
                let address = ip.get("address").and_then(Value::as_str);
                address
                    .and_then(|address| address.parse().ok())
                    .ok_or_else(|| Error::config(format!("prevResult has no address in {ip}")))
            })
            .collect::<Result<_, _>>()?;
        found.push(Listed {
            name: name.to_owned(),
            mac: text("mac").and_then(|mac| mac.parse().ok()),
            addresses,
        });
    }
    Ok(found)
}

/// The routes of a result.
///
/// # Errors
/// Code 7: one makes no sense.
pub fn routes(result: &Map<String, Value>) -> Result<Vec<Route>, Error> {
    array(result, "routes")?
        .iter()
        .map(|route| {
            serde_json::from_value(route.clone())
                .map_err(|error| Error::config(format!("route {route}: {error}")))
        })
        .collect()
}

fn array<'a>(result: &'a Map<String, Value>, key: &str) -> Result<&'a [Value], Error> {
    match result.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(Error::config(format!("prevResult: {key} is not a list"))),
    }
}

/// What an IPAM plugin answered.
#[derive(Debug, Default)]
pub struct Lease {
    /// Addresses.
    pub addresses: Vec<Address>,
    /// Routes.
    pub routes: Vec<Route>,
    /// Name servers, as given.
    pub dns: Option<Value>,
}

impl Lease {
    /// Reads it from a result of any version.
    ///
    /// # Errors
    /// Code 104: it has no address, or makes no sense.
    pub fn read(output: &[u8]) -> Result<Self, Error> {
        let broken = |what: String| Error::new(Code::Ipam, format!("its result {what}"));
        let result: Map<String, Value> = serde_json::from_slice(output)
            .map_err(|error| broken(format!("is no JSON: {error}")))?;
        let list = |key: &str| match result.get(key) {
            Some(Value::Array(items)) => items.clone(),
            _ => Vec::new(),
        };
        let read = |error: serde_json::Error| broken(error.to_string());
        let addresses = list("ips")
            .into_iter()
            .map(serde_json::from_value)
            .collect::<Result<Vec<Address>, _>>()
            .map_err(read)?;
        if addresses.is_empty() {
            return Err(broken("has no address".into()));
        }
        let routes = list("routes")
            .into_iter()
            .map(serde_json::from_value)
            .collect::<Result<_, _>>()
            .map_err(read)?;
        Ok(Self {
            addresses,
            routes,
            dns: result.get("dns").filter(|dns| !is_blank(dns)).cloned(),
        })
    }
}

fn is_blank(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Map::is_empty)
}

/// The result of a main plugin, in the newest version.
pub fn compose(
    interfaces: &[AddedInterface],
    netns: &str,
    lease: &Lease,
    through_node: &[Route],
    dns: Option<&Value>,
) -> Value {
    let interfaces: Vec<_> = interfaces
        .iter()
        .map(|interface| {
            let mut json = json!({
                "name": interface.name,
                "mtu": interface.mtu,
                "sandbox": netns,
            });
            if let Some(mac) = interface.mac {
                json["mac"] = mac.to_string().into();
            }
            if let Some(pci) = &interface.pci {
                json["pciID"] = pci.as_str().into();
            }
            json
        })
        .collect();
    let ips: Vec<_> = lease
        .addresses
        .iter()
        .map(|address| {
            let mut json = json!(address);
            json["interface"] = 0.into();
            json
        })
        .collect();
    let routes: Vec<_> = lease.routes.iter().chain(through_node).collect();
    let mut result = json!({
        "cniVersion": Version::LATEST.name(),
        "interfaces": interfaces,
        "ips": ips,
        "routes": routes,
    });
    if let Some(dns) = lease.dns.as_ref().or(dns.filter(|dns| !is_blank(dns))) {
        result["dns"] = dns.clone();
    }
    result
}

/// Adds what applications have to know of the interfaces' RDMA devices. CNI has
/// no place for it, in any version: runtimes pass the field on or leave it out.
pub fn add_rdma(result: &mut Value, rdma: BTreeMap<String, Value>) {
    if !rdma.is_empty() {
        result[RESULT_KEY] = json!({ "rdma": rdma });
    }
}

/// A result of ours in an older version.
pub fn convert(mut result: Value, version: Version) -> Value {
    result["cniVersion"] = version.name().into();
    let each = |result: &mut Value, key: &str, change: &dyn Fn(&mut Map<String, Value>)| {
        if let Some(items) = result.get_mut(key).and_then(Value::as_array_mut) {
            items
                .iter_mut()
                .filter_map(Value::as_object_mut)
                .for_each(change);
        }
    };
    if version < Version::V1_1_0 {
        each(&mut result, "interfaces", &|interface| {
            interface.remove("mtu");
            interface.remove("pciID");
        });
        each(&mut result, "routes", &|route| {
            for key in ["mtu", "advmss", "priority", "table", "scope"] {
                route.remove(key);
            }
        });
    }
    if version < Version::V1_0_0 {
        each(&mut result, "ips", &|ip| {
            let address = ip
                .get("address")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let family = if address.contains(':') { "6" } else { "4" };
            ip.insert("version".into(), family.into());
        });
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Lease {
        Lease::read(
            br#"{"ips":[{"version":"4","address":"10.0.0.2/24","gateway":"10.0.0.1"},
                        {"address":"fd00::2/64","interface":7}],
                 "routes":[{"dst":"0.0.0.0/0"},{"dst":"fd01::/48","gw":"fd00::1","mtu":1400}],
                 "dns":{}}"#,
        )
        .unwrap()
    }

    fn result() -> Value {
        let interface = AddedInterface {
            name: "net1".into(),
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            mtu: 1500,
            pci: Some("0000:3b:00.2".into()),
        };
        compose(&[interface], "/run/netns/a", &lease(), &[], None)
    }

    #[test]
    fn a_result_has_the_fields_of_its_version() {
        let newest = convert(result(), Version::V1_1_0);
        assert_eq!(newest["interfaces"][0]["mtu"], 1500);
        assert_eq!(newest["interfaces"][0]["pciID"], "0000:3b:00.2");
        assert_eq!(newest["routes"][1]["mtu"], 1400);
        assert_eq!(newest["ips"][1]["interface"], 0);
        assert!(newest["ips"][0].get("version").is_none());
        assert!(newest.get("dns").is_none());

        for (version, family) in [
            (Version::V1_0_0, None),
            (Version::V0_4_0, Some("6")),
            (Version::V0_3_1, Some("6")),
        ] {
            let older = convert(result(), version);
            assert_eq!(older["cniVersion"], version.name());
            assert!(older["interfaces"][0].get("mtu").is_none());
            assert!(older["interfaces"][0].get("pciID").is_none());
            assert!(older["routes"][1].get("mtu").is_none());
            assert_eq!(older["interfaces"][0]["sandbox"], "/run/netns/a");
            let said = older["ips"][1].get("version").and_then(Value::as_str);
            assert_eq!(said, family);
        }
    }

    #[test]
    fn only_the_containers_interfaces_are_taken() {
        let result = json!({
            "interfaces": [
                {"name": "br0", "mac": "02:00:00:00:00:09"},
                {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/a"},
                {"name": "eth1", "sandbox": "/run/netns/b"},
            ],
            "ips": [{"address": "10.0.0.2/24", "interface": 1}, {"address": "10.0.0.3/24"}],
        });
        let found = in_container(result.as_object().unwrap(), "/run/netns/a").unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "eth0");
        assert_eq!(
            found[0].addresses,
            ["10.0.0.2/24".parse::<IpNet>().unwrap()]
        );
    }

    #[test]
    fn ipam_must_give_an_address() {
        for output in [
            "",
            "[]",
            "{}",
            r#"{"ips":[]}"#,
            r#"{"ips":[{"address":"x"}]}"#,
        ] {
            let error = Lease::read(output.as_bytes()).unwrap_err();
            assert_eq!(error.code(), 104, "{output}: {}", error.text());
        }
    }
}
