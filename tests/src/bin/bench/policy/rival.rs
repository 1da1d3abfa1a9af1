//! The firewalls of the kernel, in the pod's own namespace, each with the same task: packets of known
//! connections, of so many prefixes and of the client may enter, nothing else.

use std::{fmt::Write as _, io::Write as _, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::netns::TestNetns;

use super::prefix;

/// A firewall. All accept known connections first, as those that enforce policies do.
#[derive(Clone, Copy)]
pub(super) enum Rival {
    /// One rule with a set of prefixes.
    NftSet,
    /// A rule a prefix.
    NftLinear,
    IptablesLegacy,
    IptablesNft,
}

pub(super) const RIVALS: [Rival; 4] = [
    Rival::NftSet,
    Rival::NftLinear,
    Rival::IptablesLegacy,
    Rival::IptablesNft,
];

impl Rival {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::NftSet => "nft-set",
            Self::NftLinear => "nft-linear",
            Self::IptablesLegacy => "iptables-legacy",
            Self::IptablesNft => "iptables-nft",
        }
    }

    /// Puts the rules in place, the client's last.
    pub(super) fn load(self, pod: &TestNetns, prefixes: u32, client: &str) -> Result<()> {
        let mut sources = Vec::new();
        for number in 0..prefixes.saturating_sub(1) {
            sources.push(prefix(number)?.to_string());
        }
        sources.push(client.to_owned());
        match self {
            Self::NftSet => {
                let set = format!(
                    "set allowed {{ type ipv4_addr; flags interval; elements = {{ {} }} }}",
                    sources.join(", ")
                );
                feed(
                    pod,
                    "nft",
                    &["-f", "-"],
                    &nft(&set, "ip saddr @allowed accept"),
                )
            }
            Self::NftLinear => {
                let mut rules = String::new();
                for source in &sources {
                    writeln!(rules, "ip saddr {source} accept")?;
                }
                feed(pod, "nft", &["-f", "-"], &nft("", &rules))
            }
            Self::IptablesLegacy => feed(pod, "iptables-legacy-restore", &[], &iptables(&sources)?),
            Self::IptablesNft => feed(pod, "iptables-nft-restore", &[], &iptables(&sources)?),
        }
    }

    /// Takes them away.
    pub(super) fn unload(self, pod: &TestNetns) -> Result<()> {
        let empty = "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n";
        match self {
            Self::NftSet | Self::NftLinear => feed(pod, "nft", &["-f", "-"], "flush ruleset\n"),
            Self::IptablesLegacy => feed(pod, "iptables-legacy-restore", &[], empty),
            Self::IptablesNft => {
                feed(pod, "iptables-nft-restore", &[], empty)?;
                feed(pod, "nft", &["-f", "-"], "flush ruleset\n")
            }
        }
    }
}

fn nft(set: &str, rules: &str) -> String {
    format!(
        "table inet guard {{\n{set}\nchain input {{\n\
         type filter hook input priority 0; policy drop;\n\
         ct state established,related accept\n{rules}\n}}\n}}\n"
    )
}

fn iptables(sources: &[String]) -> Result<String> {
    let mut text = String::from(
        "*filter\n:INPUT DROP\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n\
         -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n",
    );
    for source in sources {
        writeln!(text, "-A INPUT -s {source} -j ACCEPT")?;
    }
    text.push_str("COMMIT\n");
    Ok(text)
}

/// Runs a command in the pod with this text as its standard input.
fn feed(pod: &TestNetns, program: &str, arguments: &[&str], text: &str) -> Result<()> {
    let mut child = pod
        .command(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let mut input = child.stdin.take().context("no standard input")?;
    input.write_all(text.as_bytes())?;
    drop(input);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}", said.trim());
    Ok(())
}
