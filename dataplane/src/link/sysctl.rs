//! The network's sysctls of one namespace.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{LinkError, Netns};

/// Where the kernel shows each thread the sysctls of its own namespace.
const ROOT: &str = "/proc/sys/net";

/// A sysctl and a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sysctl {
    /// The path below `/proc/sys/net`, such as `ipv4/conf/net1/arp_ignore`.
    pub path: String,
    /// The value, as text.
    pub value: String,
}

impl Sysctl {
    /// A sysctl of one interface: `family` is `ipv4` or `ipv6`.
    pub fn interface(family: &str, interface: &str, key: &str, value: &str) -> Self {
        Self {
            path: format!("{family}/conf/{interface}/{key}"),
            value: value.to_owned(),
        }
    }

    /// What makes several interfaces in one subnet behave: each answers ARP for its own addresses
    /// only and names only those as its own (`arp_ignore` 1, `arp_announce` 2), and takes packets
    /// whose answer would leave by another one (`rp_filter` 2, loose). Address changes are told
    /// to the neighbours (`arp_notify`, `ndisc_notify`).
    ///
    /// Source: `Documentation/networking/ip-sysctl.rst`. The kernel takes the larger of an
    /// interface's value and that of `all` for the first three.
    pub fn several_interfaces(interface: &str) -> Vec<Self> {
        [
            ("ipv4", "arp_ignore", "1"),
            ("ipv4", "arp_announce", "2"),
            ("ipv4", "rp_filter", "2"),
            ("ipv4", "arp_notify", "1"),
            ("ipv6", "ndisc_notify", "1"),
        ]
        .map(|(family, key, value)| Self::interface(family, interface, key, value))
        .into()
    }
}

/// Sets sysctls in a namespace and returns their old values, which restore them when given to this
/// function. IPv6 sysctls are passed over where the kernel, or the namespace, has no IPv6.
///
/// # Errors
/// [`LinkError::Sysctl`]; what was set before it is restored. [`LinkError::Invalid`].
pub fn set_sysctls(netns: &Netns, sysctls: &[Sysctl]) -> Result<Vec<Sysctl>, LinkError> {
    for sysctl in sysctls {
        check(sysctl)?;
    }
    netns.run(|| set_here(netns, sysctls))?
}

fn set_here(netns: &Netns, sysctls: &[Sysctl]) -> Result<Vec<Sysctl>, LinkError> {
    let mut old: Vec<Sysctl> = Vec::new();
    for sysctl in sysctls {
        match exchange(sysctl) {
            Ok(Some(value)) => old.push(Sysctl {
                path: sysctl.path.clone(),
                value,
            }),
            Ok(None) => {}
            Err(source) => {
                for Sysctl { path, value } in old.iter().rev() {
                    if let Err(error) = fs::write(file(path), value) {
                        tracing::warn!("cannot restore sysctl {path} in {netns}: {error}");
                    }
                }
                return Err(LinkError::Sysctl {
                    path: sysctl.path.clone(),
                    value: sysctl.value.clone(),
                    netns: netns.to_string(),
                    source,
                });
            }
        }
    }
    // Restoring must undo the last change first.
    old.reverse();
    Ok(old)
}

/// Writes a value and returns the old one; `None` when there is no IPv6 to set.
fn exchange(sysctl: &Sysctl) -> io::Result<Option<String>> {
    let file = file(&sysctl.path);
    let old = match fs::read_to_string(&file) {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound && no_ipv6(&sysctl.path) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    fs::write(&file, &sysctl.value)?;
    Ok(Some(old.trim_end().to_owned()))
}

fn no_ipv6(path: &str) -> bool {
    path.starts_with("ipv6/") && !Path::new(ROOT).join("ipv6/conf").exists()
}

fn file(path: &str) -> PathBuf {
    Path::new(ROOT).join(path)
}

/// The path may come from a configuration: it must stay below the root.
fn check(sysctl: &Sysctl) -> Result<(), LinkError> {
    let inside = Path::new(&sysctl.path)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if inside && !sysctl.path.is_empty() {
        return Ok(());
    }
    Err(LinkError::Invalid {
        thing: "sysctl",
        value: sysctl.path.clone(),
        reason: "write a path below /proc/sys/net such as ipv4/conf/net1/arp_ignore".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_below_its_root() {
        for path in [
            "",
            "/etc/passwd",
            "../kernel/hostname",
            "ipv4/../../kernel/x",
        ] {
            let sysctl = Sysctl {
                path: path.to_owned(),
                value: "1".to_owned(),
            };
            assert!(check(&sysctl).is_err(), "{path:?}");
        }
        for sysctl in Sysctl::several_interfaces("vf0.100") {
            assert!(check(&sysctl).is_ok(), "{sysctl:?}");
        }
    }
}
