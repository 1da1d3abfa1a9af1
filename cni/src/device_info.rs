//! The file in which a pod's status says which device it got, where the
//! runtime asks for one (capability `CNIDeviceInfoFile`; "Device Information
//! Specification" 1.1.0 of the Network Plumbing Working Group).

use std::{fs, io::Write as _, path::Path};

use serde_json::json;

use crate::error::Error;

/// Describes a PCI device in `file`. One that is there is the device plugin's,
/// who knows better.
///
/// # Errors
/// Code 5: it cannot be written.
pub fn write(file: &Path, pci: &str, rdma_device: Option<&str>) -> Result<(), Error> {
    if file.exists() {
        return Ok(());
    }
    let mut info = json!({
        "type": "pci",
        "version": "1.1.0",
        "pci": { "pci-address": pci },
    });
    if let Some(rdma_device) = rdma_device {
        info["pci"]["rdma-device"] = rdma_device.into();
    }
    let written = file
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::File::create(file)?.write_all(info.to_string().as_bytes()));
    written.map_err(|error| {
        Error::io(format!(
            "CNIDeviceInfoFile {}: cannot be written: {error}",
            file.display()
        ))
    })
}
