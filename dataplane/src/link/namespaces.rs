//! Which network namespaces a node has.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::Path};

use super::{Netns, NetnsId};

/// The node's network namespaces besides `own`, each by the name that `ip netns` gave it, or else by
/// a process in it. One that only a file descriptor or a mount elsewhere keeps is not found.
pub fn other_namespaces(own: &Netns) -> Vec<String> {
    let mut found = BTreeMap::new();
    for (name, path) in entries("/run/netns") {
        if let Some(id) = identity(&path) {
            found.entry(key(id)).or_insert(name);
        }
    }
    let processes = entries("/proc").filter(|(name, _)| name.parse::<u32>().is_ok());
    for (pid, path) in processes {
        if let Some(id) = identity(&path.join("ns/net")) {
            let process = || {
                let command = fs::read_to_string(path.join("comm")).unwrap_or_default();
                format!("that of process {pid} ({})", command.trim_end())
            };
            found.entry(key(id)).or_insert_with(process);
        }
    }
    found.remove(&key(own.id()));
    found.into_values().collect()
}

fn entries(folder: &str) -> impl Iterator<Item = (String, std::path::PathBuf)> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| {
        (
            entry.file_name().to_string_lossy().into_owned(),
            entry.path(),
        )
    })
}

/// What is there may go at any moment.
fn identity(path: &Path) -> Option<NetnsId> {
    let metadata = fs::metadata(path).ok()?;
    Some(NetnsId {
        dev: metadata.dev(),
        ino: metadata.ino(),
    })
}

fn key(id: NetnsId) -> (u64, u64) {
    (id.dev, id.ino)
}
