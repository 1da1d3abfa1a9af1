//! The attachments' records, and the DELs that came while no agent ran.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    AttachmentRecord, Store, StoreError,
    file::{json_files, remove},
};
use crate::api::types::cni::{Attachment, DelRequest, TOMBSTONE_VERSION, TOMBSTONES, Tombstone};

/// Folder of the attachments' records; that of tombstones is in it.
pub(super) const ATTACHMENTS: &str = "cni";

/// The attachments that are on record.
#[derive(Debug)]
pub struct Recorded {
    /// Those of this boot.
    pub current: Vec<AttachmentRecord>,
    /// Those of earlier boots: they are gone with their namespaces.
    pub earlier: Vec<AttachmentRecord>,
    /// What could not be read.
    pub errors: Vec<StoreError>,
}

impl Store {
    /// Every attachment that CNI made and that is recorded.
    pub fn attachments(&self) -> Recorded {
        let (records, errors) = self.read_folder::<AttachmentRecord>(ATTACHMENTS);
        let (current, earlier): (Vec<_>, Vec<_>) = records
            .into_iter()
            .partition(|(boot_id, _)| *boot_id == self.boot_id);
        let strip = |records: Vec<(String, _)>| records.into_iter().map(|(_, it)| it).collect();
        Recorded {
            current: strip(current),
            earlier: strip(earlier),
            errors,
        }
    }

    /// Writes how far an attachment has come.
    ///
    /// # Errors
    /// As [`Store::put_endpoint`].
    pub fn put_attachment(&self, record: &AttachmentRecord) -> Result<(), StoreError> {
        self.write(&self.attachment_path(&record.attachment), record)
    }

    /// Forgets an attachment, be its file readable or not.
    ///
    /// # Errors
    /// As [`Store::remove_endpoint`].
    pub fn remove_attachment(&self, attachment: &Attachment) -> Result<(), StoreError> {
        remove(&self.attachment_path(attachment))
    }

    /// Whether a DEL of this attachment came while no agent ran.
    pub fn has_tombstone(&self, attachment: &Attachment) -> bool {
        self.tombstone_path(attachment).exists()
    }

    /// The DELs that came while no agent ran, and what could not be read.
    pub fn tombstones(&self) -> (Vec<DelRequest>, Vec<StoreError>) {
        let mut dels = Vec::new();
        let mut errors = Vec::new();
        for path in json_files(&self.root.join(TOMBSTONES)) {
            match read_tombstone(&path) {
                Ok(del) => dels.push(del),
                Err(error) => errors.push(error),
            }
        }
        (dels, errors)
    }

    /// Takes note that a DEL has been made up for.
    ///
    /// # Errors
    /// As [`Store::remove_endpoint`].
    pub fn remove_tombstone(&self, attachment: &Attachment) -> Result<(), StoreError> {
        remove(&self.tombstone_path(attachment))
    }

    fn attachment_path(&self, attachment: &Attachment) -> PathBuf {
        self.root.join(ATTACHMENTS).join(attachment.file_name())
    }

    fn tombstone_path(&self, attachment: &Attachment) -> PathBuf {
        self.root.join(TOMBSTONES).join(attachment.file_name())
    }
}

fn read_tombstone(path: &Path) -> Result<DelRequest, StoreError> {
    let text = fs::read(path).map_err(|error| StoreError::new(path, error))?;
    let tombstone: Tombstone = serde_json::from_slice(&text)
        .map_err(|error| StoreError::new(path, format!("not a tombstone of Sluice: {error}")))?;
    if tombstone.version != TOMBSTONE_VERSION {
        return Err(StoreError::new(
            path,
            format!("format {}, not {TOMBSTONE_VERSION}", tombstone.version),
        ));
    }
    Ok(tombstone.del)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        endpoint::Stage,
        link::{NetnsId, NetnsRef},
    };

    fn attachment(container: &str) -> Attachment {
        Attachment::new(container, "net1").unwrap()
    }

    fn record(container: &str) -> AttachmentRecord {
        AttachmentRecord {
            attachment: attachment(container),
            network: "net".into(),
            stage: Stage::Intent,
            netns: NetnsRef::Path("/run/netns/pod".into()),
            netns_id: NetnsId { dev: 4, ino: 77 },
            pod: None,
            interfaces: vec!["net1".into()],
            made: None,
            ifindex: None,
            rules: Vec::new(),
            rdma: None,
            vlan: None,
            result: None,
        }
    }

    fn open(folder: &Path) -> Store {
        Store::open(folder).unwrap()
    }

    #[test]
    fn what_was_intended_or_done_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        store.put_attachment(&record("a")).unwrap();
        let mut done = record("b");
        store.put_attachment(&done).unwrap();
        done.stage = Stage::Done;
        done.result = Some(json!({"ips": []}));
        store.put_attachment(&done).unwrap();
        store.put_attachment(&record("gone")).unwrap();
        done.attachment = attachment("gone");
        store.put_attachment(&done).unwrap();
        store.remove_attachment(&done.attachment).unwrap();
        done.attachment = attachment("b");
        drop(store);
        let found = open(folder.path()).attachments();
        assert_eq!(found.current, [record("a"), done]);
        assert!(found.earlier.is_empty() && found.errors.is_empty());
    }

    #[test]
    fn a_crash_within_a_write_leaves_the_old_record() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        store.put_attachment(&record("a")).unwrap();
        // What a write leaves that was cut off before its rename.
        let path = store.attachment_path(&attachment("a"));
        fs::write(path.with_extension("new"), "{\"version\":1,\"boot_id\":").unwrap();
        drop(store);
        let store = open(folder.path());
        let found = store.attachments();
        assert_eq!(found.current, [record("a")]);
        assert!(found.errors.is_empty());
        store.sweep_temporary();
        assert!(!path.with_extension("new").exists());
    }

    #[test]
    fn a_damaged_record_is_told_of_and_can_be_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        store.put_attachment(&record("good")).unwrap();
        let whole = fs::read(store.attachment_path(&attachment("good"))).unwrap();
        for length in 0..whole.len() {
            let path = store.attachment_path(&attachment("cut"));
            fs::write(&path, whole.get(..length).unwrap()).unwrap();
            let found = store.attachments();
            assert_eq!(found.current, [record("good")], "{length} bytes");
            assert_eq!(found.errors.len(), 1, "{length} bytes");
        }
        store.remove_attachment(&attachment("cut")).unwrap();
        assert!(store.attachments().errors.is_empty());
    }

    #[test]
    fn a_record_of_another_format_is_not_guessed_at() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        store.put_attachment(&record("a")).unwrap();
        let path = store.attachment_path(&attachment("a"));
        let text = fs::read_to_string(&path).unwrap();
        let newer = text.replacen("\"version\": 1", "\"version\": 2", 1);
        assert_ne!(newer, text);
        fs::write(&path, newer).unwrap();
        let Recorded {
            current,
            earlier,
            errors,
        } = store.attachments();
        assert!(current.is_empty() && earlier.is_empty());
        assert!(errors[0].to_string().contains("format 2"), "{}", errors[0]);
        assert!(path.exists(), "what is not understood is not removed");
    }

    #[test]
    fn attachments_of_an_earlier_boot_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        store.put_attachment(&record("a")).unwrap();
        let path = store.attachment_path(&attachment("a"));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace(&store.boot_id, "earlier")).unwrap();
        let found = store.attachments();
        assert!(found.current.is_empty() && found.errors.is_empty());
        assert_eq!(found.earlier, [record("a")]);
    }

    #[test]
    fn tombstones_are_read_and_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let del = DelRequest {
            attachment: attachment("a"),
            network: "net".into(),
        };
        let tombstone = Tombstone {
            version: TOMBSTONE_VERSION,
            del: del.clone(),
        };
        let path = store.tombstone_path(&attachment("a"));
        fs::write(&path, serde_json::to_vec(&tombstone).unwrap()).unwrap();
        for (name, text) in [
            ("cut.json", "{\"version\":1,"),
            ("newer.json", &json!({"version": 9, "del": del}).to_string()),
            (
                "escape.json",
                &json!({"version": 1, "del": {
                    "attachment": {"containerID": "../..", "ifname": "x"}, "network": "n",
                }})
                .to_string(),
            ),
        ] {
            fs::write(path.with_file_name(name), text).unwrap();
        }
        let alive = format!("b:net1.{}.new", std::process::id());
        // Above the largest process id that Linux gives out, 2^22.
        for name in ["c:net1.8388608.new", &alive] {
            fs::write(path.with_file_name(name), "").unwrap();
        }
        store.sweep_temporary();
        let (dels, errors) = store.tombstones();
        assert!(!path.with_file_name("c:net1.8388608.new").exists());
        assert!(path.with_file_name(&alive).exists());
        assert_eq!(dels, [del]);
        assert_eq!(errors.len(), 3);
        assert!(store.has_tombstone(&attachment("a")));
        store.remove_tombstone(&attachment("a")).unwrap();
        assert!(!store.has_tombstone(&attachment("a")));
    }

    #[test]
    fn a_store_that_cannot_be_written_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        store.probe().unwrap();
        assert!(!folder.path().join("probe").exists());
        // A folder in the temporary file's place makes every write fail.
        fs::create_dir(folder.path().join("probe.new")).unwrap();
        assert!(store.probe().is_err());
    }
}
