//! Records on disk, one file each.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    EndpointRecord, StoreError, UplinkRecord,
    attachments::ATTACHMENTS,
    file::{self, json_files, read, remove, temporary_files},
};
use crate::{
    api::types::cni::{IPAM_LOCKS, TOMBSTONES},
    hw::Saved,
    policy::compile::RuleName,
};

/// The agent's folder, usually `/var/lib/sluice`.
#[derive(Debug)]
pub struct Store {
    pub(super) root: PathBuf,
    pub(super) boot_id: String,
    // Held for the agent's life.
    _lock: Flock<File>,
}

impl Store {
    /// Opens the folder, making it if need be, for this agent alone.
    ///
    /// # Errors
    /// It cannot be made, or another agent has it.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        for folder in ["endpoints", "uplinks", ATTACHMENTS, TOMBSTONES, IPAM_LOCKS]
            .map(|name| root.join(name))
        {
            fs::create_dir_all(&folder).map_err(|error| StoreError::new(&folder, error))?;
        }
        let lock = lock(&root.join("agent.lock"))?;
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let boot_id = fs::read_to_string(path).map_err(|error| StoreError::new(path, error))?;
        Ok(Self {
            root: root.to_owned(),
            boot_id: boot_id.trim().to_owned(),
            _lock: lock,
        })
    }

    /// Every endpoint of this boot, and what could not be read.
    pub fn endpoints(&self) -> (Vec<EndpointRecord>, Vec<StoreError>) {
        let (records, errors) = self.read_folder::<EndpointRecord>("endpoints");
        let current = |(boot_id, _): &(String, _)| *boot_id == self.boot_id;
        let records = records.into_iter().filter(current);
        (records.map(|(_, record)| record).collect(), errors)
    }

    /// Whether records can be written.
    ///
    /// # Errors
    /// As [`Store::put_endpoint`].
    pub fn probe(&self) -> Result<(), StoreError> {
        let path = self.root.join("probe");
        self.write(&path, &())?;
        remove(&path)
    }

    /// Every uplink, and what could not be read. Uplinks outlive a reboot.
    pub fn uplinks(&self) -> (Vec<UplinkRecord>, Vec<StoreError>) {
        let (records, errors) = self.read_folder::<UplinkRecord>("uplinks");
        let records = records.into_iter().map(|(boot_id, mut record)| {
            if boot_id != self.boot_id {
                record.xdp = None;
            }
            record
        });
        (records.collect(), errors)
    }

    /// Writes an endpoint's record.
    ///
    /// # Errors
    /// The disk is full or read-only; the record on it is as it was.
    pub fn put_endpoint(&self, record: &EndpointRecord) -> Result<(), StoreError> {
        self.write(&self.endpoint_path(record.id), record)
    }

    /// Forgets an endpoint; one that is not there is as good.
    ///
    /// # Errors
    /// The disk does not let it go.
    pub fn remove_endpoint(&self, id: u32) -> Result<(), StoreError> {
        remove(&self.endpoint_path(id))
    }

    /// The endpoints that have a file, be it readable or not.
    pub fn endpoint_files(&self) -> Vec<u32> {
        let files = json_files(&self.root.join("endpoints"));
        files.iter().filter_map(|path| endpoint_of(path)).collect()
    }

    /// Removes the endpoints' files that no present endpoint has: of an earlier
    /// boot, or unreadable.
    pub fn sweep_endpoints(&self, present: impl Fn(u32) -> bool) {
        for path in json_files(&self.root.join("endpoints")) {
            if !endpoint_of(&path).is_some_and(&present) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Removes the temporary files of writers that were killed: an agent before
    /// this one, and plugins, whose process id is in the name; and the locks
    /// of plugins that were killed.
    pub fn sweep_temporary(&self) {
        let folder = |name: &str| temporary_files(&self.root.join(name));
        let own = ["", "endpoints", "uplinks", ATTACHMENTS].map(folder);
        let plugins = folder(TOMBSTONES).into_iter().filter(|path| {
            let process = path.file_stem().map(Path::new).and_then(Path::extension);
            let process = process.and_then(|id| id.to_str()?.parse::<u32>().ok());
            process.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists())
        });
        for path in own.into_iter().flatten().chain(plugins) {
            let _ = fs::remove_file(path);
        }
        for path in json_files(&self.root.join(IPAM_LOCKS)) {
            let lock = File::open(&path)
                .map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).ok());
            // Nobody holds it: neither a plugin nor an IPAM plugin that outlived one.
            if let Ok(Some(_lock)) = lock {
                let _ = fs::remove_file(&path);
            }
        }
    }

    /// Writes an uplink's record.
    ///
    /// # Errors
    /// As [`Store::put_endpoint`].
    pub fn put_uplink(&self, record: &UplinkRecord) -> Result<(), StoreError> {
        self.write(&self.uplink_path(record.id), record)
    }

    /// Forgets an uplink.
    ///
    /// # Errors
    /// As [`Store::remove_endpoint`].
    pub fn remove_uplink(&self, id: u32) -> Result<(), StoreError> {
        remove(&self.uplink_path(id))
    }

    /// The block list; empty when there is none.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn blocks(&self) -> Result<Vec<IpNet>, StoreError> {
        let path = self.blocks_path();
        if !path.exists() {
            return Ok(Vec::new());
        }
        read::<Vec<IpNet>>(&path).map(|(_, blocks)| blocks)
    }

    /// Writes the block list.
    ///
    /// # Errors
    /// As [`Store::put_endpoint`].
    pub fn put_blocks(&self, blocks: &[IpNet]) -> Result<(), StoreError> {
        self.write(&self.blocks_path(), &blocks)
    }

    /// The numbers of policies' rules; none where there is no record.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn rules(&self) -> Result<BTreeMap<u32, RuleName>, StoreError> {
        let path = self.rules_path();
        if !path.exists() {
            return Ok(BTreeMap::new());
        }
        read::<Vec<(u32, RuleName)>>(&path).map(|(_, rules)| rules.into_iter().collect())
    }

    /// Writes the numbers of policies' rules.
    ///
    /// # Errors
    /// As [`Store::put_endpoint`].
    pub fn put_rules(&self, rules: &BTreeMap<u32, RuleName>) -> Result<(), StoreError> {
        let rules: Vec<_> = rules.iter().collect();
        self.write(&self.rules_path(), &rules)
    }

    /// The hardware counters that an earlier agent of this boot saved.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn hw_counters(&self) -> Result<Option<Saved>, StoreError> {
        let path = self.hw_counters_path();
        if !path.exists() {
            return Ok(None);
        }
        let (boot_id, saved) = read(&path)?;
        Ok((boot_id == self.boot_id).then_some(saved))
    }

    /// Saves the hardware counters.
    ///
    /// # Errors
    /// As [`Store::put_endpoint`].
    pub fn put_hw_counters(&self, saved: &Saved) -> Result<(), StoreError> {
        self.write(&self.hw_counters_path(), saved)
    }

    fn hw_counters_path(&self) -> PathBuf {
        self.root.join("hw-counters.json")
    }

    fn rules_path(&self) -> PathBuf {
        self.root.join("policy-rules.json")
    }

    fn endpoint_path(&self, id: u32) -> PathBuf {
        self.root.join("endpoints").join(format!("{id}.json"))
    }

    fn uplink_path(&self, id: u32) -> PathBuf {
        self.root.join("uplinks").join(format!("{id}.json"))
    }

    fn blocks_path(&self) -> PathBuf {
        self.root.join("blocks.json")
    }

    pub(super) fn read_folder<T: DeserializeOwned>(
        &self,
        folder: &str,
    ) -> (Vec<(String, T)>, Vec<StoreError>) {
        let mut records = Vec::new();
        let mut errors = Vec::new();
        for path in json_files(&self.root.join(folder)) {
            match read(&path) {
                Ok(record) => records.push(record),
                Err(error) => errors.push(error),
            }
        }
        (records, errors)
    }

    /// As [`file::write`], of this boot.
    pub(super) fn write<T: Serialize>(&self, path: &Path, record: &T) -> Result<(), StoreError> {
        file::write(path, &self.boot_id, record)
    }
}

/// Takes the lock that one agent holds, and leaves its process id in it.
fn lock(path: &Path) -> Result<Flock<File>, StoreError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| StoreError::new(path, error))?;
    let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
        let holder = fs::read_to_string(path).unwrap_or_default();
        match error {
            nix::errno::Errno::EWOULDBLOCK => StoreError::conflict(
                path,
                format!(
                    "another agent (pid {}) is running on this folder; stop it first, or give \
                     this one another --state-dir, --bpffs and --socket",
                    holder.trim()
                ),
            ),
            other => StoreError::new(path, other),
        }
    })?;
    let fail = |error| StoreError::new(path, error);
    lock.set_len(0).map_err(fail)?;
    writeln!(lock, "{}", std::process::id()).map_err(fail)?;
    Ok(lock)
}

/// The endpoint whose file this is.
fn endpoint_of(path: &Path) -> Option<u32> {
    path.file_stem()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::types::TcMechanism,
        endpoint::Phase,
        link::{IpvlanMode, NetnsId, NetnsRef},
    };

    fn record(id: u32) -> EndpointRecord {
        EndpointRecord {
            id,
            phase: Phase::Intent,
            netns: NetnsRef::Name("pod".into()),
            netns_id: NetnsId { dev: 4, ino: 77 },
            interface: "net1".into(),
            ifindex: 2,
            pod: None,
            mechanism: TcMechanism::Tcx,
            made_clsact: false,
            entry_tags: [1, u64::MAX],
            audit: false,
            stand_in: false,
            ipvlan_mode: Some(IpvlanMode::L3),
            beside: None,
        }
    }

    #[test]
    fn records_come_back_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.put_endpoint(&record(3)).unwrap();
        store.put_endpoint(&record(4)).unwrap();
        let (records, errors) = store.endpoints();
        assert_eq!(records, [record(3), record(4)]);
        assert!(errors.is_empty());
        store.remove_endpoint(3).unwrap();
        store.remove_endpoint(3).unwrap();
        assert_eq!(store.endpoints().0, [record(4)]);
    }

    #[test]
    fn a_damaged_file_costs_its_own_record_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.put_endpoint(&record(3)).unwrap();
        for (name, text) in [
            ("5.json", "{\"version\":1,"),
            ("6.json", "[]"),
            ("7.json", ""),
        ] {
            fs::write(folder.path().join("endpoints").join(name), text).unwrap();
        }
        let (records, errors) = store.endpoints();
        assert_eq!(records, [record(3)]);
        assert_eq!(errors.len(), 3);
        assert!(errors[0].to_string().contains("5.json"), "{}", errors[0]);
    }

    #[test]
    fn endpoints_of_an_earlier_boot_are_void() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.put_endpoint(&record(3)).unwrap();
        let path = folder.path().join("endpoints/3.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace(&store.boot_id, "earlier")).unwrap();
        assert!(store.endpoints().0.is_empty());
        store.sweep_endpoints(|_| false);
        assert!(!path.exists());
    }

    #[test]
    fn a_second_agent_is_told_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Store::open(folder.path()).unwrap();
        let error = Store::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
    }

    #[test]
    fn a_failed_write_leaves_the_old_record() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.put_endpoint(&record(3)).unwrap();
        // A folder in the temporary file's place makes every write fail.
        fs::create_dir(folder.path().join("endpoints/3.new")).unwrap();
        let mut changed = record(3);
        changed.phase = Phase::Attached;
        assert!(store.put_endpoint(&changed).is_err());
        assert_eq!(store.endpoints().0, [record(3)]);
    }
}
