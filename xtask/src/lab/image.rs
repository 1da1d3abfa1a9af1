//! From a compressed kernel image to the ELF file inside of it, which an emulated machine starts
//! without spending seconds on decompressing it.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Offsets in the setup header (Documentation/arch/x86/boot.rst).
const SETUP_SECTORS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SECTOR: usize = 512;
/// The payload ends with its uncompressed size, which is no part of the compressed stream.
const SIZE_FIELD: usize = 4;

/// Decompressors by the first bytes of what they read.
const DECOMPRESSORS: [(&[u8], &str); 3] = [
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x1f\x8b", "gzip"),
];

/// Writes the ELF image inside of the bzImage `from` to `to`.
///
/// # Errors
/// It is no bzImage, or is compressed in a way unknown here.
pub(super) fn decompress(from: &Path, to: &Path) -> Result<()> {
    let image = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    let payload =
        payload(&image).with_context(|| format!("{} is no kernel image", from.display()))?;
    let program = decompressor(payload)
        .with_context(|| format!("{} is compressed in an unknown way", from.display()))?;
    let output = File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(output)
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(payload)
            .with_context(|| format!("{program} does not read on"))?;
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for {program}"))?;
    if !status.success() {
        bail!("{program} cannot decompress {}: {status}", from.display());
    }
    Ok(())
}

/// The program that reads this.
pub(super) fn decompressor(compressed: &[u8]) -> Option<&'static str> {
    DECOMPRESSORS
        .iter()
        .find_map(|(magic, program)| compressed.starts_with(magic).then_some(*program))
}

/// The compressed kernel inside of a bzImage.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let setup = match *image.get(SETUP_SECTORS)? {
        // For compatibility with very old loaders.
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (setup + 1) * SECTOR + word(PAYLOAD_OFFSET)?;
    let length = word(PAYLOAD_LENGTH)?.checked_sub(SIZE_FIELD)?;
    image.get(start..start.checked_add(length)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_payload() {
        let mut image = vec![0; 0x800];
        image[SETUP_SECTORS] = 1;
        image[PAYLOAD_OFFSET] = 0x10;
        image[PAYLOAD_LENGTH] = 10;
        image[0x410..0x416].copy_from_slice(b"\xfd7zXZ\0");
        let found = payload(&image).unwrap();
        assert_eq!(found, b"\xfd7zXZ\0");
        assert_eq!(decompressor(found), Some("xz"));
        assert_eq!(payload(&image[..0x412]), None);
        assert_eq!(payload(b"short"), None);
        assert_eq!(decompressor(b"plain"), None);
    }
}
