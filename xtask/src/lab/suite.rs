//! The tests that run in virtual machines: which, on which kernel.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::{Machines, Parts, Series, inherited, job::Job};
use crate::{exec, setup, toolchain, workspace};

/// One boot and the tests that it is for.
struct Boot {
    /// What its lines of output begin with.
    name: &'static str,
    series: Series,
    nodes: u32,
    /// Shell commands before the tests.
    prepare: &'static str,
    /// Test binaries with their arguments.
    tests: &'static [(&'static str, &'static str)],
}

/// The ordinary tests of the dataplane as a whole.
const WHOLE: &[(&str, &str)] = &[("agent", ""), ("host_reach", ""), ("generic_xdp", "")];

/// The ordinary tests of single parts that lean on the kernel.
const PARTS: &[(&str, &str)] = &[
    ("programs", ""),
    // A guest is too slow to take an interface away before it is attached.
    ("bad_input", "--skip what_goes_while_it_is_being_attached"),
    ("link", ""),
    ("link_change", ""),
    ("link_events", ""),
];

/// The tests made for the lab; they are ignored elsewhere.
const LAB: &[(&str, &str)] = &[("lab", "--ignored --skip rdma:: --skip two_nodes::")];
const RDMA: &[(&str, &str)] = &[("lab", "--ignored rdma::")];
const TWO_NODES: &[(&str, &str)] = &[("lab", "--ignored two_nodes::")];

/// The mode must be chosen before the first network namespace is made.
const EXCLUSIVE: &str = "modprobe ib_core netns_mode=0; modprobe ib_uverbs";
const SHARED: &str = "modprobe ib_core netns_mode=1; modprobe ib_uverbs";

const fn boot(
    name: &'static str,
    series: Series,
    tests: &'static [(&'static str, &'static str)],
) -> Boot {
    Boot {
        name,
        series,
        nodes: 1,
        prepare: "",
        tests,
    }
}

/// All of it; what takes long first.
const BOOTS: &[Boot] = &[
    boot("7", Series::Newest, WHOLE),
    boot("6.12", Series::Linux6_12, WHOLE),
    boot("6.1", Series::Linux6_1, WHOLE),
    boot("7 parts", Series::Newest, PARTS),
    boot("6.1 parts", Series::Linux6_1, PARTS),
    boot("7 lab", Series::Newest, LAB),
    boot("6.12 lab", Series::Linux6_12, LAB),
    boot("6.1 lab", Series::Linux6_1, LAB),
    Boot {
        nodes: 2,
        prepare: EXCLUSIVE,
        ..boot("7 two nodes", Series::Newest, TWO_NODES)
    },
    Boot {
        prepare: EXCLUSIVE,
        ..boot("7 exclusive", Series::Newest, RDMA)
    },
    Boot {
        prepare: SHARED,
        ..boot("7 shared", Series::Newest, RDMA)
    },
];

/// How long one boot's tests may take.
const LIMIT: Duration = Duration::from_secs(900);

/// Whether everything that the suite needs is at hand or can be had.
///
/// # Errors
/// What cannot be had, and why.
pub(crate) fn prepare() -> Result<()> {
    BOOTS
        .iter()
        .try_for_each(|boot| Parts::ensure(boot.series).map(drop))
}

/// Runs the suite with that `sluice`, and the binaries with failpoints in that folder, handing each
/// line of output to `line` too.
///
/// # Errors
/// The tests do not compile, or a guest does not do its work. A test that fails is no error here:
/// its binary says so in a line.
pub(crate) fn run(
    sluice: &Path,
    failpoints: &Path,
    filters: &[String],
    line: &mut (dyn FnMut(&str) + Send),
) -> Result<()> {
    let binaries = binaries()?;
    let mut environment = inherited();
    for (variable, path) in [("SLUICE_BIN", sluice), ("SLUICE_FAILPOINTS", failpoints)] {
        environment.retain(|(name, _)| name != variable);
        environment.push((variable.into(), path.into()));
    }
    if let Some(python) = setup::python_with_scapy() {
        environment.push(("SLUICE_PYTHON".into(), python.into()));
    }

    // Every machine fills a processor.
    let workers = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(4);
    exec::step(&format!(
        "Running the lab's tests in {} virtual machines, {workers} at a time",
        BOOTS.len()
    ));
    let next = Mutex::new(BOOTS.iter());
    let line = Mutex::new(line);
    let work = || {
        let mut problems = Vec::new();
        while let Some(boot) = next.lock().map_or(None, |mut next| next.next()) {
            let done = script(boot, &binaries, filters).and_then(|script| {
                let job = Job {
                    command: vec!["/bin/bash".into(), "-c".into(), script.into()],
                    folder: workspace::root().join("tests"),
                    environment: environment.clone(),
                    limit: LIMIT,
                    interactive: false,
                };
                boot.run(&job, &line)
            });
            if let Err(error) = done {
                problems.push(format!("machine \"{}\": {error:#}", boot.name));
            }
        }
        problems
    };
    let problems: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or(vec!["the lab panicked".into()]))
            .collect()
    });
    if problems.is_empty() {
        Ok(())
    } else {
        bail!("{}", problems.join("\n"))
    }
}

impl Boot {
    fn run(&self, job: &Job, line: &Mutex<&mut (dyn FnMut(&str) + Send)>) -> Result<()> {
        let machines = Machines {
            nodes: self.nodes,
            ..Machines::ALONE
        };
        let status = Parts::ensure(self.series)?.run(&machines, job, &|node, text| {
            let mut stdout = io::stdout().lock();
            let shown = match self.nodes {
                1 => writeln!(stdout, "{}| {text}", self.name),
                _ => writeln!(stdout, "{} {node}| {text}", self.name),
            };
            shown.context("cannot write to the standard output")?;
            if let Ok(mut line) = line.lock() {
                line(text);
            }
            Ok(())
        })?;
        match status {
            // 101 is how a test binary says that tests failed.
            0 | 101 => Ok(()),
            124 => bail!("took more than {} s", LIMIT.as_secs()),
            _ => bail!("ended with {status}"),
        }
    }
}

/// Runs all test binaries of a boot, to the end even when some fail.
fn script(boot: &Boot, binaries: &BTreeMap<String, PathBuf>, filters: &[String]) -> Result<String> {
    let mut script = format!("set -e\n{}\nset +e\nstatus=0\n", boot.prepare);
    for (name, arguments) in boot.tests {
        let binary = binaries
            .get(*name)
            .with_context(|| format!("there is no test binary {name}"))?;
        let filters: Vec<_> = filters.iter().map(|filter| format!("'{filter}'")).collect();
        script.push_str(&format!(
            "echo 'Running {name}'\n'{}' --test-threads=1 {arguments} {} || status=$?\n",
            binary.display(),
            filters.join(" "),
        ));
    }
    script.push_str("exit $status\n");
    Ok(script)
}

/// Builds the integration tests; their binaries by name.
pub(super) fn binaries() -> Result<BTreeMap<String, PathBuf>> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
        target: Option<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
        kind: Vec<String>,
    }

    exec::step("Building the tests (a few minutes the first time)");
    let mut cargo: Command = toolchain::cargo();
    cargo
        .args(["test", "--package", "sluice-tests", "--no-run"])
        .args([
            "--message-format",
            "json-render-diagnostics",
            "--target-dir",
        ])
        .arg(workspace::target())
        .current_dir(workspace::root());
    let text = exec::capture(&mut cargo)?;
    let binaries = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter_map(|message| {
            let target = message.target?;
            let is_test = target.kind.iter().any(|kind| kind == "test");
            is_test.then_some((target.name, message.executable?))
        })
        .collect();
    Ok(binaries)
}
