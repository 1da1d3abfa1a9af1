//! The eBPF object: how cargo builds it, where it ends up, and whether the kernel takes it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{exec, setup, setup::BuildTools, toolchain, workspace};

/// The BPF target with the byte order of this machine.
const TARGET: &str = if cfg!(target_endian = "big") {
    "bpfeb-unknown-none"
} else {
    "bpfel-unknown-none"
};

/// The two flavours of the object.
#[derive(Clone, Copy)]
pub(crate) enum Flavour {
    /// What is shipped.
    Plain,
    /// With aya-log's statements compiled in, for looking at a problem.
    Log,
}

impl Flavour {
    /// The feature of the `dataplane-ebpf` package that selects it.
    pub(crate) fn feature(self) -> &'static str {
        match self {
            Self::Plain => "kernel",
            Self::Log => "log",
        }
    }

    /// Where the finished object is kept.
    pub(crate) fn object(self) -> PathBuf {
        workspace::target().join(match self {
            Self::Plain => "sluice.bpf.o",
            Self::Log => "sluice-log.bpf.o",
        })
    }
}

/// `cargo <subcommand>` for the eBPF programs, with the compiler flags, profile and linker that
/// the BPF target needs.
pub(crate) fn cargo(tools: &BuildTools, subcommand: &str, flavour: Flavour) -> Command {
    let mut command = toolchain::cargo();
    command
        .arg(subcommand)
        .args(["--package", "dataplane-ebpf", "--bin", "sluice-ebpf"])
        .args(["--release", "--features", flavour.feature()])
        .args(["--target", TARGET, "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(workspace::target().join("ebpf"))
        .current_dir(workspace::root())
        .env("PATH", exec::path_with(Some(&tools.linker)))
        // Lets the stable compiler take -Z.
        .env("RUSTC_BOOTSTRAP", "1")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            [
                "-Cdebuginfo=2",
                "-Clink-arg=--btf",
                // The linker's default leaves even 16-byte fills to calls.
                "-Clink-arg=--disable-expand-memcpy-in-order",
            ]
            .join("\x1f"),
        )
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_LTO", "true")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        // The BTF is made of the debug information.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
        .env("CARGO_PROFILE_RELEASE_STRIP", "none");
    command
}

/// Compiles the programs and puts the object in its place.
///
/// # Errors
/// The programs do not compile, or the object cannot be written.
pub(crate) fn build(tools: &BuildTools, flavour: Flavour) -> Result<PathBuf> {
    exec::run(&mut cargo(tools, "build", flavour))?;
    let built = workspace::target()
        .join("ebpf")
        .join(TARGET)
        .join("release/sluice-ebpf");
    let object = flavour.object();
    replace_if_changed(&built, &object)?;
    Ok(object)
}

/// Copies a file so that a reader sees the old or the new one whole, and leaves an equal one alone
/// so that nothing that depends on it is built again.
fn replace_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let partial = to.with_extension(format!("{}.partial", std::process::id()));
    fs::write(&partial, &new).with_context(|| format!("cannot write {}", partial.display()))?;
    fs::rename(&partial, to).with_context(|| format!("cannot write {}", to.display()))
}

/// Loads every program of an object with bpftool, so with libbpf and the running kernel's
/// verifier, and takes them out again.
///
/// # Errors
/// Not root, no bpffs, or libbpf or the verifier refuses the object.
pub(crate) fn verify(object: &Path) -> Result<()> {
    setup::root_for("loading eBPF programs")?;
    let pins = Path::new(setup::BPFFS).join(format!("sluice-verify-{}", std::process::id()));
    let loaded = exec::capture(
        Command::new("bpftool")
            .env("PATH", exec::path_with(None))
            .args(["prog", "loadall"])
            .args([object, &pins]),
    );
    if pins.exists() {
        fs::remove_dir_all(&pins)
            .with_context(|| format!("cannot remove the pins in {}", pins.display()))?;
    }
    loaded.with_context(|| format!("the kernel does not accept {}", object.display()))?;
    exec::step(&format!("The kernel accepts {}", object.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_object_is_left_alone() {
        let folder = std::env::temp_dir().join(format!("xtask-object-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (from, to) = (folder.join("from"), folder.join("to.o"));
        let modified = |path: &Path| path.metadata().unwrap().modified().unwrap();

        fs::write(&from, "one").unwrap();
        replace_if_changed(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"one");

        let before = std::time::SystemTime::UNIX_EPOCH;
        fs::File::open(&to).unwrap().set_modified(before).unwrap();
        replace_if_changed(&from, &to).unwrap();
        assert_eq!(modified(&to), before);

        fs::write(&from, "two").unwrap();
        replace_if_changed(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"two");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        fs::remove_dir_all(&folder).unwrap();
    }
}
