//! `cargo xtask test`: every test of the workspace, and one line that sums them up.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    build::{self, Profile},
    exec,
    lab::{
        self,
        suite::{Form, Subject},
    },
    setup::{self, Group},
    toolchain, workspace,
};

/// Options of `cargo xtask test`.
#[derive(Args)]
pub(crate) struct Test {
    /// Run the lab's tests instead: other kernels, SR-IOV, ipvlan, soft-RoCE and a second node, in
    /// virtual machines
    #[arg(long)]
    lab: bool,

    /// Of the lab's tests only the most telling
    #[arg(long, requires = "lab")]
    short: bool,

    /// Run all of the lab's tests too
    #[arg(long, conflicts_with = "lab")]
    all: bool,

    /// Run only the tests whose path contains one of these; the lab's only if they are asked for
    filters: Vec<String>,
}

impl Test {
    /// Runs the tests, to the end even when some fail. Where nothing else is asked for, these are
    /// this machine's and the lab's in their short form, if virtual machines can be had.
    ///
    /// # Errors
    /// Not root, the build fails, a test fails, or no test ran.
    pub(crate) fn run(&self) -> Result<()> {
        let mut tally = Tally::default();
        if self.lab {
            let form = if self.short { Form::Short } else { Form::Whole };
            lab::suite::prepare(form)?;
            in_the_lab(form, &self.filters, &mut tally)?;
            tally.show();
            return tally.verdict(ExitStatus::default());
        }
        let status = here(&self.filters, &mut tally)?;
        if self.all {
            lab_if_there_is_one(Form::Whole, &self.filters, &mut tally)?;
        } else if self.filters.is_empty() {
            exec::step(
                "Running the most telling of the lab's tests; `cargo xtask test --lab` runs all",
            );
            lab_if_there_is_one(Form::Short, &[], &mut tally)?;
        }
        tally.show();
        tally.verdict(status)
    }
}

/// Runs the tests that this machine is good for, in parallel.
///
/// The binaries under test are the release build, handed over as `SLUICE_BIN` and `SLUICE_CNI`; those
/// with failpoints are in the folder `SLUICE_FAILPOINTS`. The tests themselves are in the dev
/// profile, where overflow and debug assertions are checked and linking many test binaries stays
/// quick.
fn here(filters: &[String], tally: &mut Tally) -> Result<ExitStatus> {
    setup::root_for("testing with network namespaces and eBPF programs")?;
    setup::system(&[Group::Test])?;
    let cni_clients = setup::cni_clients()?;
    build::object(true)?;
    let failpoints = build::with_failpoints()?;
    let sluice = build::sluice(Profile::Release, false)?;
    let plugin = sluice.with_file_name(build::PLUGIN);

    exec::step("Running the tests (building them takes a few minutes the first time)");
    let mut command = toolchain::cargo();
    command
        .args(["test", "--workspace", "--no-fail-fast", "--target-dir"])
        .arg(workspace::target())
        .arg("--")
        .args(filters)
        .current_dir(workspace::root())
        .env("PATH", exec::path_with(None))
        .env("SLUICE_BIN", sluice)
        .env("SLUICE_CNI", plugin)
        .env("SLUICE_FAILPOINTS", failpoints)
        .env("SLUICE_CNI_CLIENTS", cni_clients);
    if let Some(plugins) = setup::cni_plugins() {
        command.env("SLUICE_CNI_REFERENCE", plugins);
    }
    if let Some(python) = setup::python_with_scapy() {
        command.env("SLUICE_PYTHON", python);
    }
    watch(&mut command, tally)
}

/// Runs the tests that need virtual machines, or says why they cannot be run.
fn lab_if_there_is_one(form: Form, filters: &[String], tally: &mut Tally) -> Result<()> {
    match lab::suite::prepare(form) {
        Ok(()) => in_the_lab(form, filters, tally),
        Err(reason) => {
            tally.left_out = Some(format!(
                "the lab's tests (other kernels, SR-IOV, ipvlan, RDMA, a second node): {reason:#}"
            ));
            Ok(())
        }
    }
}

/// Runs the tests that need virtual machines.
fn in_the_lab(form: Form, filters: &[String], tally: &mut Tally) -> Result<()> {
    setup::system(&[Group::Test])?;
    setup::cni_clients()?;
    build::object(false)?;
    let failpoints = build::with_failpoints()?;
    let sluice = build::sluice(Profile::Release, false)?;
    let subject = Subject {
        sluice: &sluice,
        failpoints: &failpoints,
    };
    match lab::suite::run(form, &subject, filters, &mut |line| tally.count(line)) {
        Ok(skipped) => tally.skipped += skipped,
        Err(error) => {
            // The other machines' results count all the same.
            eprintln!("error: {error:#}");
            tally.failures += 1;
        }
    }
    Ok(())
}

/// Runs cargo, passing its lines on while counting.
fn watch(command: &mut Command, tally: &mut Tally) -> Result<ExitStatus> {
    let mut cargo = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo test")?;
    if let Some(stdout) = cargo.stdout.take() {
        let mut lines = BufReader::new(stdout);
        let mut line = Vec::new();
        // Bytes, because a test may print what is no UTF-8.
        while lines
            .read_until(b'\n', &mut line)
            .context("cannot read what cargo test prints")?
            > 0
        {
            io::stdout()
                .write_all(&line)
                .context("cannot write to the standard output")?;
            tally.count(&String::from_utf8_lossy(&line));
            line.clear();
        }
    }
    cargo.wait().context("cannot wait for cargo test")
}

/// What the test binaries of one run said in sum.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failures: u64,
    skipped: u64,
    /// Binaries that began to run tests and have not yet given a result.
    unfinished: u64,
    /// Tests that the machine is not good for, and why.
    left_out: Option<String>,
}

impl Tally {
    /// Takes in one line of the output of `cargo test`.
    fn count(&mut self, line: &str) {
        if is_start(line) {
            self.unfinished += 1;
        } else if let Some([passed, failed, ignored]) = result(line) {
            self.passed += passed;
            self.failures += failed;
            self.skipped += ignored;
            self.unfinished = self.unfinished.saturating_sub(1);
        }
    }

    /// Failed tests; a binary that died before its result counts as one.
    fn failed(&self) -> u64 {
        self.failures + self.unfinished
    }

    /// Says what came of all tests, in the last line, and before it what was not even tried.
    fn show(&self) {
        if let Some(what) = &self.left_out {
            exec::step(&format!("Left out: {what}"));
        }
        println!(
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed(),
            self.skipped
        );
    }

    fn verdict(&self, status: ExitStatus) -> Result<()> {
        if self.failed() > 0 {
            bail!("{} tests failed", self.failed());
        }
        if !status.success() {
            bail!("cargo test failed: {status}");
        }
        if self.passed == 0 {
            bail!("no test ran");
        }
        Ok(())
    }
}

/// Whether this line is the test harness saying how many tests it is about to run.
fn is_start(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("running")
        && words
            .next()
            .is_some_and(|count| count.parse::<u64>().is_ok())
        && matches!(words.next(), Some("test" | "tests"))
        && words.next().is_none()
}

/// Passed, failed and ignored tests in the harness's result line.
fn result(line: &str) -> Option<[u64; 3]> {
    let (_verdict, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |name: &str| {
        counts.split(';').find_map(|part| {
            let (number, what) = part.trim().split_once(' ')?;
            (what == name).then(|| number.parse().ok())?
        })
    };
    Some([count("passed")?, count("failed")?, count("ignored")?])
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn tally(output: &str) -> Tally {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.count(line));
        tally
    }

    #[test]
    fn sums_over_test_binaries() {
        let tally = tally(
            "running 3 tests\n\
             test a ... ok\n\
             test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             running 1 test\n\
             running late\n\
             test result: FAILED. 4 passed; 1 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.10s\n",
        );
        assert_eq!((tally.passed, tally.failed(), tally.skipped), (6, 1, 1));
        assert!(tally.verdict(ExitStatus::from_raw(0)).is_err());
    }

    #[test]
    fn a_binary_that_dies_is_a_failure() {
        let tally = tally("running 3 tests\ntest a ... ok\n");
        assert_eq!((tally.passed, tally.failed()), (0, 1));
    }

    #[test]
    fn success_needs_a_test_and_a_good_end() {
        let none = tally(
            "running 0 tests\n\
             test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.00s\n",
        );
        assert_eq!(none, Tally::default());
        assert!(none.verdict(ExitStatus::from_raw(0)).is_err());

        let one = tally(
            "running 1 test\n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );
        assert!(one.verdict(ExitStatus::from_raw(0)).is_ok());
        // Code 101 of cargo: some target did not compile.
        assert!(one.verdict(ExitStatus::from_raw(101 << 8)).is_err());
    }
}
