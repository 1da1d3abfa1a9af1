//! What a DEL leaves for an agent that is down.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use sluice_api::cni::{DelRequest, TOMBSTONE_VERSION, TOMBSTONES, Tombstone};

use crate::error::Error;

/// Leaves a tombstone: whole and on disk when this returns, so that the agent
/// finds it at its next start, whatever happens to the machine until then.
///
/// # Errors
/// Code 5: the disk does not take it; the runtime must try again.
pub fn leave(state_dir: &Path, del: &DelRequest) -> Result<(), Error> {
    let folder = state_dir.join(TOMBSTONES);
    let path = folder.join(del.attachment.file_name());
    write(&folder, &path, del).map_err(|error| {
        Error::io(format!(
            "{}: cannot be written ({error}), and the agent is down; start it, or make room",
            path.display()
        ))
    })
}

fn write(folder: &Path, path: &Path, del: &DelRequest) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let tombstone = Tombstone {
        version: TOMBSTONE_VERSION,
        del: del.clone(),
    };
    // Two DELs of one attachment must not write to one file.
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(&tombstone)?)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}
