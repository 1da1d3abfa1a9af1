//! Programs that come with the system's package manager.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};
use clap::ValueEnum;

use super::apt;
use crate::exec;

/// What a machine is made ready for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// Compiling; needs no system package beyond what Rust itself needs
    Build,
    /// Trying Sluice in namespaces
    Demo,
    /// The tests
    Test,
    /// The benchmarks
    Bench,
    /// The lab of virtual machines
    Lab,
    /// The fuzz targets
    Fuzz,
}

/// The distributions whose package names are known, and how each installs; Debian's is the one that
/// is also done for the user.
const DISTRIBUTIONS: [(&str, &str); 3] = [
    ("Debian, Ubuntu", "apt-get install"),
    ("Fedora", "dnf install"),
    ("Arch", "pacman -S"),
];

/// A system program and the package that brings it on each of [`DISTRIBUTIONS`].
struct Tool {
    name: &'static str,
    groups: &'static [Group],
    packages: [&'static str; DISTRIBUTIONS.len()],
}

impl Tool {
    fn is_there(&self) -> bool {
        match self.name {
            SCAPY => python_with_scapy().is_some(),
            CNI_PLUGINS => cni_plugins().is_some(),
            BUSYBOX => static_busybox(),
            name => on_path(name),
        }
    }

    fn debian(&self) -> &'static str {
        self.packages[0]
    }
}

/// A Python module, so not found on `PATH`.
const SCAPY: &str = "scapy";
/// The reference CNI plugins, which no distribution has on `PATH`.
const CNI_PLUGINS: &str = "the CNI plugins macvlan, host-local and static";
/// All that a test's container holds, so it must need no library.
const BUSYBOX: &str = "busybox, statically linked";

/// All that tests, demo and benchmarks run besides Sluice.
const TOOLS: [Tool; 27] = {
    use Group::{Bench, Demo, Fuzz, Lab, Test};
    const fn tool(
        name: &'static str,
        groups: &'static [Group],
        packages: [&'static str; DISTRIBUTIONS.len()],
    ) -> Tool {
        Tool {
            name,
            groups,
            packages,
        }
    }
    let every = &[Demo, Test, Bench];
    [
        tool("ip", every, ["iproute2", "iproute", "iproute2"]),
        tool("tc", every, ["iproute2", "iproute-tc", "iproute2"]),
        tool("bpftool", every, ["bpftool", "bpftool", "bpf"]),
        tool("nsenter", every, ["util-linux"; 3]),
        tool("ping", every, ["iputils-ping", "iputils", "iputils"]),
        tool("python3", every, ["python3", "python3", "python"]),
        tool("iperf3", &[Test, Bench], ["iperf3"; 3]),
        tool("tmux", &[Test], ["tmux"; 3]),
        // Judges the unit; systemd need not run.
        tool("systemd-analyze", &[Test], ["systemd"; 3]),
        tool(
            "tshark",
            &[Test],
            ["tshark", "wireshark-cli", "wireshark-cli"],
        ),
        // The package of the server is also the one that brings promtool.
        tool(
            "promtool",
            &[Test],
            ["prometheus", "golang-github-prometheus", "prometheus"],
        ),
        tool(
            SCAPY,
            &[Test],
            ["python3-scapy", "python3-scapy", "python-scapy"],
        ),
        tool(
            CNI_PLUGINS,
            &[Test, Bench],
            [
                "containernetworking-plugins",
                "containernetworking-plugins",
                "cni-plugins",
            ],
        ),
        tool("ctr", &[Test], ["containerd"; 3]),
        tool("runc", &[Test], ["runc"; 3]),
        tool(
            BUSYBOX,
            &[Test, Lab],
            ["busybox-static", "busybox", "busybox"],
        ),
        tool("depmod", &[Lab], ["kmod"; 3]),
        tool("xz", &[Lab], ["xz-utils", "xz", "xz"]),
        tool("zstd", &[Lab], ["zstd"; 3]),
        tool("setpriv", &[Test, Lab], ["util-linux"; 3]),
        tool("nft", &[Test, Bench], ["nftables"; 3]),
        tool(
            "iptables-legacy",
            &[Bench],
            ["iptables", "iptables-legacy", "iptables"],
        ),
        tool(
            "iptables-nft",
            &[Bench],
            ["iptables", "iptables-nft", "iptables"],
        ),
        tool("rdma", &[Lab], ["iproute2", "iproute", "iproute2"]),
        tool("ib_send_bw", &[Lab], ["perftest"; 3]),
        tool(
            "ibv_rc_pingpong",
            &[Lab],
            ["ibverbs-utils", "libibverbs-utils", "rdma-core"],
        ),
        // libFuzzer is C++.
        tool("c++", &[Fuzz], ["g++", "gcc-c++", "gcc"]),
    ]
};

fn on_path(program: &str) -> bool {
    exec::find(program).is_some()
}

/// The Python that has scapy: the system's own, whose packages the package manager brings, or the
/// first on `PATH`.
pub(crate) fn python_with_scapy() -> Option<PathBuf> {
    const LOOK: &str =
        "import importlib.util, sys; sys.exit(importlib.util.find_spec('scapy') is None)";
    [Path::new("/usr/bin/python3"), Path::new("python3")]
        .into_iter()
        .find(|python| exec::capture(Command::new(python).args(["-c", LOOK])).is_ok())
        .map(Path::to_path_buf)
}

/// The folder of the reference CNI plugins: where Debian and Arch, Fedora, and their own archive put
/// them.
pub(crate) fn cni_plugins() -> Option<PathBuf> {
    ["/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin"]
        .into_iter()
        .map(PathBuf::from)
        .find(|folder| {
            let has = |plugin| folder.join(plugin).exists();
            ["macvlan", "host-local", "static"].into_iter().all(has)
        })
}

/// Whether the busybox on `PATH` runs in a folder that holds nothing else.
fn static_busybox() -> bool {
    exec::find("busybox").is_some_and(|busybox| {
        // ldd fails on what is not dynamic, or calls it static.
        exec::capture(Command::new("ldd").arg(busybox))
            .map_or(true, |libraries| libraries.contains("statically linked"))
    })
}

/// Installs what the groups need and the machine lacks.
///
/// # Errors
/// Something is missing and apt or root's rights are, or the package manager fails.
pub(super) fn ensure(groups: &[Group]) -> Result<()> {
    let missing = missing(groups);
    if missing.is_empty() {
        return Ok(());
    }
    if !(exec::is_root() && on_path("apt-get")) {
        bail!("{}", advice(&missing));
    }
    let packages = unique(missing.iter().map(|tool| tool.debian()));
    exec::step(&format!(
        "Installing {} with apt-get (up to a few minutes)",
        packages.join(" ")
    ));
    apt::install(&packages)?;
    let still = self::missing(groups);
    if !still.is_empty() {
        bail!("apt-get ran, and yet: {}", advice(&still));
    }
    Ok(())
}

fn missing(groups: &[Group]) -> Vec<&'static Tool> {
    TOOLS
        .iter()
        .filter(|tool| tool.groups.iter().any(|group| groups.contains(group)))
        .filter(|tool| !tool.is_there())
        .collect()
}

/// What is missing, and the line to type on each of the well-known distributions.
fn advice(missing: &[&Tool]) -> String {
    let names = unique(missing.iter().map(|tool| tool.name));
    let mut text = format!("missing: {}. Install them as root:", names.join(", "));
    for (index, (distribution, install)) in DISTRIBUTIONS.iter().enumerate() {
        let packages = unique(missing.iter().map(|tool| tool.packages[index]));
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  {distribution}: {install} {}", packages.join(" "));
    }
    text
}

/// The names in their order, each once.
fn unique<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_commands_and_packages_once() {
        let missing: Vec<_> = TOOLS
            .iter()
            .filter(|tool| ["ip", "tc", "tshark"].contains(&tool.name))
            .collect();
        assert_eq!(
            advice(&missing),
            "missing: ip, tc, tshark. Install them as root:\n  \
             Debian, Ubuntu: apt-get install iproute2 tshark\n  \
             Fedora: dnf install iproute iproute-tc wireshark-cli\n  \
             Arch: pacman -S iproute2 wireshark-cli"
        );
    }
}
