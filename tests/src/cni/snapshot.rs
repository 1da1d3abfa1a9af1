//! All that an ADD may leave behind, in lines that can be compared: links, addresses, routes,
//! rules, neighbours and sysctls of namespaces; an agent's pins and what its maps hold; files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    agent::TestAgent,
    netns::{TestNetns, output},
};

/// Maps that no ADD leaves anything in: a ring without entries to read, the wire's counters, and
/// counters by endpoint id and by rule, arrays that are cleared when a number is given anew.
const TRAFFIC_MAPS: [&str; 4] = ["events", "uplink_stats", "ep_stats", "rule_hits"];
/// The map whose values are programs, which a restart may replace.
const PROGRAMS: &str = "pipeline";

/// Facts by what they are about, one a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    facts: BTreeMap<String, BTreeSet<String>>,
}

impl Snapshot {
    /// Looks at namespaces (by the names that differences will call them), folders, and an agent.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn take(
        namespaces: &[(&str, &TestNetns)],
        folders: &[&Path],
        agent: Option<&TestAgent>,
    ) -> Result<Self> {
        let mut snapshot = Self::default();
        for (name, netns) in namespaces {
            snapshot
                .network(name, netns)
                .with_context(|| format!("looking at {name}"))?;
        }
        for folder in folders {
            snapshot
                .files(folder)
                .with_context(|| format!("looking at {}", folder.display()))?;
        }
        if let Some(agent) = agent {
            snapshot.kernel(agent)?;
        }
        Ok(snapshot)
    }

    /// What is not as it was, one line each: `+` is new, `-` is gone.
    pub fn differences(&self, after: &Self) -> Vec<String> {
        let subjects: BTreeSet<_> = self.facts.keys().chain(after.facts.keys()).collect();
        let none = BTreeSet::new();
        let mut lines = Vec::new();
        for subject in subjects {
            let [before, now] = [self, after].map(|one| one.facts.get(subject).unwrap_or(&none));
            lines.extend(before.difference(now).map(|l| format!("- {subject}: {l}")));
            lines.extend(now.difference(before).map(|l| format!("+ {subject}: {l}")));
        }
        lines
    }

    /// Fails with the differences, if there are any.
    ///
    /// # Errors
    /// Something is not as it was.
    pub fn ensure_same(&self, after: &Self) -> Result<()> {
        let differences = self.differences(after);
        ensure!(
            differences.is_empty(),
            "not as before:\n{}",
            differences.join("\n")
        );
        Ok(())
    }

    /// The same without the lines that have one of these texts in them.
    #[must_use]
    pub fn without(mut self, texts: &[&str]) -> Self {
        for lines in self.facts.values_mut() {
            lines.retain(|line| !texts.iter().any(|text| line.contains(text)));
        }
        self
    }

    /// How many facts there are: a look that sees nothing proves nothing.
    pub fn len(&self) -> usize {
        self.facts.values().map(BTreeSet::len).sum()
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn add(&mut self, subject: impl Into<String>, line: impl Into<String>) {
        self.facts
            .entry(subject.into())
            .or_default()
            .insert(line.into());
    }

    fn network(&mut self, name: &str, netns: &TestNetns) -> Result<()> {
        let links: Vec<Value> = json(&netns.ip("-json -details link show")?)?;
        for link in &links {
            let interface = link["ifname"].as_str().context("a link without a name")?;
            self.flatten(&format!("{name} link {interface}"), "", link);
        }
        for (what, arguments) in [
            ("address", "-oneline address show"),
            ("route", "-oneline route show table all"),
            ("route6", "-oneline -6 route show table all"),
            ("rule", "rule show"),
            ("rule6", "-6 rule show"),
            ("neighbour", "neighbour show nud permanent"),
            ("proxy", "neighbour show proxy"),
        ] {
            for line in netns.ip(arguments)?.lines() {
                // The kernel counts an address's lifetime down; none of these has one.
                let words: Vec<_> = line.split_whitespace().collect();
                self.add(format!("{name} {what}"), words.join(" "));
            }
        }
        let sysctls = netns.enter(|| {
            let mut lines = Vec::new();
            for family in ["ipv4", "ipv6"] {
                sysctls(
                    &Path::new("/proc/sys/net").join(family).join("conf"),
                    &mut lines,
                );
            }
            sysctl(Path::new("/proc/sys/net/ipv4/ip_forward"), &mut lines);
            lines
        })?;
        ensure!(!sysctls.is_empty(), "no sysctls");
        for line in sysctls {
            self.add(format!("{name} sysctl"), line);
        }
        Ok(())
    }

    /// A line for every value in a JSON text, so that a difference names just that.
    fn flatten(&mut self, subject: &str, path: &str, value: &Value) {
        match value {
            Value::Object(fields) => {
                for (field, value) in fields {
                    self.flatten(subject, &format!("{path}.{field}"), value);
                }
            }
            Value::Array(items) => {
                for item in items {
                    self.flatten(subject, path, item);
                }
            }
            leaf => self.add(subject, format!("{}={leaf}", path.trim_start_matches('.'))),
        }
    }

    fn files(&mut self, folder: &Path) -> Result<()> {
        for file in walk(folder)? {
            let content = fs::read(&file).unwrap_or_default();
            let shown = match std::str::from_utf8(&content) {
                Ok(text) if text.len() <= 300 => format!("{text:?}"),
                _ => {
                    let mut hasher = DefaultHasher::new();
                    content.hash(&mut hasher);
                    format!("{} bytes, hash {:x}", content.len(), hasher.finish())
                }
            };
            let path = file.strip_prefix(folder).unwrap_or(&file).display();
            self.add(
                format!("files of {}", folder.display()),
                format!("{path} {shown}"),
            );
        }
        Ok(())
    }

    fn kernel(&mut self, agent: &TestAgent) -> Result<()> {
        let pins = agent.pins();
        for file in walk(&pins)? {
            let path = file.strip_prefix(&pins).unwrap_or(&file);
            self.add("pins", path.display().to_string());
        }
        let mut maps = 0;
        for entry in fs::read_dir(&pins).context("no pins")? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() || TRAFFIC_MAPS.contains(&name.as_str()) {
                continue;
            }
            let mut dump = Command::new("bpftool");
            dump.args(["--json", "map", "dump", "pinned"])
                .arg(entry.path());
            let Ok(text) = output(&mut dump) else {
                // A program or a link, which its pin stands for.
                continue;
            };
            maps += 1;
            let entries: Vec<Value> = json(&text)?;
            for mut entry in entries {
                forget_epochs(&mut entry["formatted"]["value"]);
                // Both raw bytes and typed by BTF; the bytes are enough to tell.
                let value = if name == PROGRAMS {
                    "a program".to_owned()
                } else {
                    values(&entry)
                };
                let line = format!("{} = {value}", entry["key"]);
                self.add(format!("map {name}"), line);
            }
        }
        if maps == 0 {
            bail!("no maps are pinned in {}", pins.display());
        }
        Ok(())
    }
}

/// Epochs only ever grow, so that no flow of an earlier endpoint passes for one of a later.
fn forget_epochs(value: &mut Value) {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|field, _| !field.ends_with("epoch"));
    }
}

/// An entry's value, or its values of all processors.
fn values(entry: &Value) -> String {
    let typed = &entry["formatted"];
    let found = [
        &typed["value"],
        &typed["values"],
        &entry["value"],
        &entry["values"],
    ];
    found
        .into_iter()
        .find(|value| !value.is_null())
        .unwrap_or(entry)
        .to_string()
}

/// JSON of `ip` and bpftool, which print nothing at all where there is nothing.
fn json(text: &str) -> Result<Vec<Value>> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let value: Value = serde_json::from_str(text)?;
    match value {
        Value::Array(items) => Ok(items),
        other => Ok(vec![other]),
    }
}

/// All files under a folder, folders themselves too where they are empty.
fn walk(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(folder) = left.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| folder.display().to_string()),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// Reads a folder of sysctls of the calling thread's namespace.
fn sysctls(folder: &Path, lines: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sysctls(&entry.path(), lines);
        } else {
            sysctl(&entry.path(), lines);
        }
    }
}

/// Reads one; some cannot be read, such as a secret that is not set.
fn sysctl(file: &Path, lines: &mut Vec<String>) {
    if let Ok(value) = fs::read_to_string(file) {
        let name = file.strip_prefix("/proc/sys/net").unwrap_or(file);
        lines.push(format!("{}={}", name.display(), value.trim()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_what_was_left_and_what_is_gone() -> Result<()> {
        let (node, pod) = (TestNetns::new()?, TestNetns::new()?);
        node.add_veth("up0", &pod, "eth0")?;
        let folder = tempfile::tempdir()?;
        let look = || Snapshot::take(&[("pod", &pod)], &[folder.path()], None);
        let before = look()?;
        assert!(before.len() > 100, "{} facts", before.len());
        before.ensure_same(&look()?)?;

        node.add_macvlan("up0", &pod, "net1", "bridge")?;
        pod.add_address("net1", "10.1.2.3/24")?;
        pod.ip("rule add from 10.1.2.3 table 9")?;
        pod.set_sysctl("ipv4/conf/all/arp_ignore", "1")?;
        fs::create_dir(folder.path().join("sub"))?;
        fs::write(folder.path().join("sub/left"), "behind")?;
        let differences = before.differences(&look()?).join("\n");
        for expected in [
            "+ pod link net1: linkinfo.info_kind=\"macvlan\"",
            "10.1.2.3/24",
            "+ pod rule: 32765: from 10.1.2.3 lookup 9",
            "- pod sysctl: ipv4/conf/all/arp_ignore=0",
            "+ pod sysctl: ipv4/conf/all/arp_ignore=1",
            "sub/left \"behind\"",
        ] {
            assert!(differences.contains(expected), "{expected}:\n{differences}");
        }
        Ok(())
    }
}
