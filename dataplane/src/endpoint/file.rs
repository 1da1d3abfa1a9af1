//! One record in one file, so that a crash at any moment leaves it either as it
//! was or as it should be.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Version of the files' format.
const VERSION: u32 = 1;
/// Extension of a file that is being written.
const TEMPORARY: &str = "new";

/// A file of the store could not be used. The text is one line.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {cause}", path = .path.display())]
pub struct StoreError {
    path: PathBuf,
    cause: String,
    conflict: bool,
}

impl StoreError {
    pub(super) fn new(path: &Path, cause: impl ToString) -> Self {
        Self {
            path: path.to_owned(),
            cause: cause.to_string(),
            conflict: false,
        }
    }

    pub(super) fn conflict(path: &Path, cause: impl ToString) -> Self {
        Self {
            conflict: true,
            ..Self::new(path, cause)
        }
    }

    /// Whether another agent is in the way.
    pub fn is_conflict(&self) -> bool {
        self.conflict
    }
}

/// What every file holds.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    /// The kernel's boot id when it was written: what it says of the kernel is
    /// void after a reboot.
    boot_id: String,
    record: T,
}

/// Writes a record. Until this returns the old one is there; then the new one
/// is on disk, whatever becomes of the power: it is written to a temporary file,
/// which is synced and renamed, and the folder is synced.
///
/// # Errors
/// The disk is full or read-only; the old record is as it was.
pub(super) fn write<T: Serialize>(
    path: &Path,
    boot_id: &str,
    record: &T,
) -> Result<(), StoreError> {
    let envelope = Envelope {
        version: VERSION,
        boot_id: boot_id.to_owned(),
        record,
    };
    let fail = |error: io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::StorageFull => "; free some space",
            io::ErrorKind::ReadOnlyFilesystem => "; the agent needs a writable state_dir",
            _ => "",
        };
        StoreError::new(path, format!("cannot be written: {error}{remedy}"))
    };
    let text = serde_json::to_vec_pretty(&envelope).map_err(|error| fail(error.into()))?;
    let temporary = path.with_extension(TEMPORARY);
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_folder(path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(fail)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Reads a record, and the boot id of when it was written.
///
/// # Errors
/// It is not there, cannot be read, or is none of this version's.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<(String, T), StoreError> {
    let text = fs::read(path).map_err(|error| StoreError::new(path, error))?;
    let envelope: Envelope<T> = serde_json::from_slice(&text)
        .map_err(|error| StoreError::new(path, format!("not a record of Sluice: {error}")))?;
    if envelope.version != VERSION {
        return Err(StoreError::new(
            path,
            format!("format {}, not {VERSION}", envelope.version),
        ));
    }
    Ok((envelope.boot_id, envelope.record))
}

/// Forgets a record; one that is not there is as good.
///
/// # Errors
/// The disk does not let it go.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::new(path, error)),
        _ => Ok(()),
    }
}

/// A folder's records, in the order of their names.
pub(super) fn json_files(folder: &Path) -> Vec<PathBuf> {
    files_with(folder, "json")
}

/// What writers that were killed have left in a folder.
pub(super) fn temporary_files(folder: &Path) -> Vec<PathBuf> {
    files_with(folder, TEMPORARY)
}

fn files_with(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    paths.sort();
    paths
}
