//! CNI clients and plugins that only exist as Go modules: the reference `cnitool`, Multus, sriov-cni.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::apt;
use crate::{exec, toolchain};

/// A program, the module that holds it and the release that is built.
struct GoTool {
    program: &'static str,
    module: &'static str,
    package: &'static str,
    version: &'static str,
}

/// The first cnitool that knows STATUS and GC, and the newest Multus.
const TOOLS: [GoTool; 2] = [
    GoTool {
        program: "cnitool",
        module: "github.com/containernetworking/cni",
        package: "github.com/containernetworking/cni/cnitool",
        version: "v1.3.0",
    },
    GoTool {
        program: "multus",
        module: "gopkg.in/k8snetworkplumbingwg/multus-cni.v4",
        package: "gopkg.in/k8snetworkplumbingwg/multus-cni.v4/cmd/multus",
        version: "v4.3.0",
    },
];

/// v2.10.0. Its module's path lacks the `/v2` that Go wants of such a release, so the release is named
/// by its commit.
const SRIOV: GoTool = GoTool {
    program: "sriov",
    module: "github.com/k8snetworkplumbingwg/sriov-cni",
    package: "github.com/k8snetworkplumbingwg/sriov-cni/cmd/sriov",
    version: "v1.1.1-0.20250716060549-6e57b33abf15",
};

/// What the newest of the modules asks for in its `go.mod`.
const GO: [u32; 2] = [1, 25];

/// Where Go installs itself when nobody has put it on `PATH`: its own archive's place.
const GO_HOME: &str = "/usr/local/go/bin/go";

/// The Go that is fetched where the machine has none: a release that Debian's newer suites hold,
/// whose packages run on older ones too.
const FETCHED: &str = "1.26";

/// The folder with `cnitool` and `multus`, built on first use.
///
/// # Errors
/// Go is absent or too old, or a module cannot be had.
pub(crate) fn ensure() -> Result<PathBuf> {
    build(&TOOLS)
}

/// The environment variable that names a built sriov-cni, for where its module cannot be had.
pub(crate) const SRIOV_CNI: &str = "SLUICE_SRIOV_CNI";

/// The program sriov-cni, which only the lab has a use for: the one that [`SRIOV_CNI`] names, else
/// built on first use.
///
/// # Errors
/// As [`ensure`]; the one that is named is not there.
pub(crate) fn sriov() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os(SRIOV_CNI).map(PathBuf::from) {
        ensure!(
            given.is_file(),
            "{SRIOV_CNI} names {}, which is no file",
            given.display()
        );
        return Ok(given);
    }
    let home = build(&[SRIOV]).with_context(|| {
        format!("sriov-cni cannot be had; name one that is built with {SRIOV_CNI} (docs/lab.md)")
    })?;
    Ok(home.join(SRIOV.program))
}

fn build(tools: &[GoTool]) -> Result<PathBuf> {
    let cache = toolchain::cache()?;
    let home = cache.join("cni");
    let is_ready = || tools.iter().all(|tool| tool.is_ready(&home));
    if is_ready() {
        return Ok(home);
    }
    let _lock = toolchain::lock(&cache)?;
    if !is_ready() {
        let scratch = cache.join("go.partial");
        let go = match own_go() {
            Some(go) => go,
            None => fetch_go(&scratch)?,
        };
        fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
        for tool in tools.iter().filter(|tool| !tool.is_ready(&home)) {
            tool.build(&go, &home)?;
        }
        clear(&scratch)?;
    }
    Ok(home)
}

impl GoTool {
    /// Names the release beside the program, so that a newer pin is built anew.
    fn stamp(&self, home: &Path) -> PathBuf {
        home.join(format!("{}-{}", self.program, self.version))
    }

    fn is_ready(&self, home: &Path) -> bool {
        home.join(self.program).exists() && self.stamp(home).exists()
    }

    /// Builds in a module of our own that requires the pinned one. `go install PACKAGE@VERSION`
    /// would also ask for the list of all its releases, which not every module proxy has.
    fn build(&self, go: &Path, home: &Path) -> Result<()> {
        exec::step(&format!(
            "Building {} {} (once; up to three minutes)",
            self.program, self.version
        ));
        let scratch = home.join("build");
        fs::create_dir_all(&scratch)
            .with_context(|| format!("cannot make {}", scratch.display()))?;
        let [major, minor] = GO;
        let module = format!(
            "module sluice/tools\n\ngo {major}.{minor}\n\nrequire {} {}\n",
            self.module, self.version
        );
        fs::write(scratch.join("go.mod"), module).context("cannot write go.mod")?;
        exec::run(
            Command::new(go)
                .args(["build", "-trimpath", "-ldflags=-s -w", "-o"])
                .arg(home.join(self.program))
                .arg(self.package)
                .env("GOFLAGS", "-mod=mod")
                .env("GOWORK", "off")
                .current_dir(&scratch),
        )
        .with_context(|| format!("{} could not be built; see above", self.program))?;
        fs::remove_dir_all(&scratch)
            .with_context(|| format!("cannot remove {}", scratch.display()))?;
        fs::write(self.stamp(home), "").with_context(|| format!("cannot mark {}", self.program))
    }
}

/// The machine's Go, if it can build the tools.
fn own_go() -> Option<PathBuf> {
    let found = exec::find("go").into_iter().chain([GO_HOME.into()]);
    found.filter(|go| go.exists()).find(|go| can_build(go))
}

/// Whether that Go is new enough, or able to fetch one that is.
fn can_build(go: &Path) -> bool {
    let release = exec::capture(Command::new(go).arg("version"))
        .ok()
        .and_then(|text| release(&text));
    // Since 1.21, and unless GOTOOLCHAIN forbids it, Go fetches the release that a module wants.
    let fetches = || {
        exec::capture(Command::new(go).args(["env", "GOTOOLCHAIN"]))
            .is_ok_and(|value| value.trim().starts_with("auto"))
    };
    release.is_some_and(|release| release >= GO || (release >= [1, 21] && fetches()))
}

/// Unpacks Debian's Go below `scratch`, for these builds only.
fn fetch_go(scratch: &Path) -> Result<PathBuf> {
    exec::step(&format!("Fetching Go {FETCHED} (up to a minute)"));
    clear(scratch)?;
    let packages = ["go", "src"].map(|part| format!("golang-{FETCHED}-{part}"));
    let [major, minor] = GO;
    apt::unpack_named(&packages.each_ref().map(String::as_str), scratch).with_context(|| {
        format!(
            "missing: go, to build cnitool and Multus. Install Go {major}.{minor} or newer from \
             https://go.dev/dl into /usr/local/go, or your distribution's package where it is as new"
        )
    })?;
    Ok(scratch.join(format!("tree/usr/lib/go-{FETCHED}/bin/go")))
}

/// Removes a folder that may not be there.
fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

/// Major and minor number in what `go version` prints.
fn release(text: &str) -> Option<[u32; 2]> {
    let mut words = text.split_whitespace();
    let number = words.find_map(|word| word.strip_prefix("go").filter(|rest| !rest.is_empty()))?;
    let mut parts = number.split('.');
    let mut part = || {
        let digits: String = parts
            .next()?
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse().ok()
    };
    Some([part()?, part()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_says_of_itself() {
        for (text, expected) in [
            ("go version go1.26.8 linux/amd64", Some([1, 26])),
            ("go version go1.19 linux/arm64", Some([1, 19])),
            ("go version go1.25rc2 linux/amd64", Some([1, 25])),
            ("go version devel", None),
        ] {
            assert_eq!(release(text), expected, "{text}");
        }
    }
}
