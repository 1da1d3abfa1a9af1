//! The guest's first root folder: busybox, the kernel's modules and a script, in the one format that
//! the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context as _, Result};

use super::kernel::Kernel;
use crate::exec;

/// What the script calls; all of it is busybox.
const COMMANDS: [&str; 13] = [
    "sh", "mount", "modprobe", "mkdir", "ln", "ip", "cut", "setsid", "chroot", "echo", "dmesg",
    "poweroff", "insmod",
];
/// The folders that the script mounts on.
const FOLDERS: [&str; 9] = [
    "bin", "sbin", "proc", "sys", "dev", "host", "results", "writes", "root",
];

/// Kinds of file, and their rights.
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const PLAIN: u32 = 0o100_644;
const LINK: u32 = 0o120_777;

/// Writes the archive for a kernel.
///
/// # Errors
/// busybox is absent, or a file cannot be read or written.
pub(super) fn write(kernel: &Kernel, to: &Path) -> Result<()> {
    let busybox = exec::find("busybox").context("busybox is not installed")?;
    let context = || format!("cannot write {}", to.display());
    let file = File::create(to).with_context(context)?;
    let mut archive = Archive {
        output: BufWriter::new(file),
        entries: 0,
    };
    for folder in FOLDERS {
        archive.add(folder, FOLDER, &[]).with_context(context)?;
    }
    archive
        .add("bin/busybox", PROGRAM, &read(&busybox)?)
        .with_context(context)?;
    for command in COMMANDS {
        archive
            .add(&format!("bin/{command}"), LINK, b"/bin/busybox")
            .with_context(context)?;
    }
    // Where the kernel looks for it when it wants a module.
    archive
        .add("sbin/modprobe", LINK, b"/bin/busybox")
        .with_context(context)?;
    archive
        .add("init", PROGRAM, include_bytes!("init.sh"))
        .with_context(context)?;
    archive
        .add_tree(&kernel.tree, Path::new("lib"))
        .with_context(context)?;
    archive.add("TRAILER!!!", 0, &[]).with_context(context)?;
    archive.output.flush().with_context(context)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// A cpio archive in the `newc` format.
struct Archive<W> {
    output: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    /// Adds a folder with all that is in it; `path` is relative to `base`.
    fn add_tree(&mut self, base: &Path, path: &Path) -> Result<()> {
        let name = path.to_string_lossy();
        self.add(&name, FOLDER, &[])?;
        let folder = base.join(path);
        let mut entries: Vec<_> = fs::read_dir(&folder)
            .with_context(|| format!("cannot read {}", folder.display()))?
            .collect::<std::io::Result<_>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let inside = path.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.add_tree(base, &inside)?;
            } else {
                self.add(&inside.to_string_lossy(), PLAIN, &read(&entry.path())?)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len())?;
        let name_size = u32::try_from(name.len() + 1)?;
        // Inode, mode, owner, group, links, time, size, device (two numbers), node's device (two),
        // the name's size, no checksum.
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            name_size,
            0,
        ];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        header.push_str(name);
        header.push('\0');
        self.padded(header.as_bytes())?;
        self.padded(content)
    }

    /// Writes bytes, and zeros up to a multiple of four.
    fn padded(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes)?;
        let missing = bytes.len().next_multiple_of(4) - bytes.len();
        self.output.write_all(&[0; 3][..missing])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_laid_out_as_the_kernel_reads_it() {
        let mut archive = Archive {
            output: Vec::new(),
            entries: 0,
        };
        archive.add("ab", PLAIN, b"12345").unwrap();
        let text = archive.output;
        assert_eq!(&text[..6], b"070701");
        assert_eq!(&text[14..22], b"000081a4");
        assert_eq!(&text[54..62], b"00000005");
        assert_eq!(&text[94..102], b"00000003");
        // 110 bytes of header, the name with its end, padded to 116; the content padded to 8.
        assert_eq!(&text[110..116], b"ab\0\0\0\0");
        assert_eq!(&text[116..], b"12345\0\0\0");
    }
}
