//! The lab's suite: tests in virtual machines, several machines at a time.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io::{self, Write as _},
    path::Path,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    Machines, Parts,
    binaries::{self, Binary},
    boots::{self, Binaries, Boot, SHORT_SUITE, WHOLE_SUITE},
    inherited,
    job::Job,
    vm::Died,
};
use crate::{exec, setup, workspace};

/// How much of the suite runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// What fits beside all other tests into twenty minutes.
    Short,
    /// Everything.
    Whole,
}

impl Form {
    fn boots(self) -> &'static [Boot] {
        match self {
            Self::Short => SHORT_SUITE,
            Self::Whole => WHOLE_SUITE,
        }
    }
}

/// How long one boot's tests may take.
const LIMIT: Duration = Duration::from_secs(900);

/// Whether everything that the suite needs is at hand or can be had.
///
/// # Errors
/// What cannot be had, and why.
pub(crate) fn prepare(form: Form) -> Result<()> {
    form.boots()
        .iter()
        .try_for_each(|boot| Parts::ensure(boot.series).map(drop))
}

/// What is tested.
pub(crate) struct Subject<'a> {
    /// `sluice`, as it is shipped, with `sluice-cni` beside it.
    pub(crate) sluice: &'a Path,
    /// The folder of both with failpoints.
    pub(crate) failpoints: &'a Path,
}

/// Runs the tests of one form of the suite whose path contains one of `filters`, or whose machine's
/// name is one, or all, handing each line of output to `line` too. A machine without such tests is
/// not booted. Returns how many tests were left out for what cannot be had.
///
/// # Errors
/// The tests do not compile, or a guest does not do its work. A test that fails is no error here:
/// its binary says so in a line.
pub(crate) fn run(
    form: Form,
    subject: &Subject<'_>,
    filters: &[String],
    line: &mut (dyn FnMut(&str) + Send),
) -> Result<u64> {
    let binaries = gather()?;
    let mut environment = inherited();
    let own = [
        ("SLUICE_BIN", subject.sluice),
        ("SLUICE_FAILPOINTS", subject.failpoints),
    ];
    environment.retain(|(name, _)| own.iter().all(|(own, _)| name != own));
    environment.extend(own.map(|(name, path)| (name.into(), path.into())));
    if let Some(python) = setup::python_with_scapy() {
        environment.push(("SLUICE_PYTHON".into(), python.into()));
    }

    let mut plans = Vec::new();
    for boot in form.boots() {
        plans.push((boot, plan(boot, &binaries, filters)?));
    }
    let skipped = without_sriov_cni(&mut plans, &mut environment);
    let work: VecDeque<_> = plans
        .iter()
        .map(|(boot, plan)| (*boot, script(boot, plan), number(plan)))
        .filter(|(_, _, tests)| *tests > 0)
        .collect();
    let machines = work.len();
    // Every machine fills a processor.
    let workers = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(4);
    exec::step(&format!(
        "Running the lab's tests in {machines} virtual machines, {workers} at a time"
    ));
    let work = Mutex::new(work);
    let line = Mutex::new(line);
    let worker = || {
        let mut problems = Vec::new();
        while let Some((boot, script, tests)) =
            work.lock().map_or(None, |mut work| work.pop_front())
        {
            let job = Job {
                command: vec!["/bin/bash".into(), "-c".into(), script.into()],
                folder: workspace::root().join("tests"),
                environment: environment.clone(),
                limit: LIMIT,
                interactive: false,
            };
            let start = Instant::now();
            if let Err(error) = boot.run(&job, &line) {
                let problem = format!("machine \"{}\": {error:#}", boot.name);
                // Here too, beside what its tests have printed.
                exec::step(&problem);
                problems.push(problem);
            }
            exec::step(&format!(
                "{}: {tests} tests in {} s; {} machines to come",
                boot.name,
                start.elapsed().as_secs(),
                work.lock().map_or(0, |work| work.len())
            ));
        }
        problems
    };
    let problems: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or(vec!["the lab panicked".into()]))
            .collect()
    });
    if problems.is_empty() {
        Ok(skipped)
    } else {
        bail!("{}", problems.join("\n"))
    }
}

/// All binaries that the suite takes tests from.
fn gather() -> Result<Binaries> {
    let files = binaries::build()?;
    let mut binaries = Binaries::new();
    for tests in WHOLE_SUITE
        .iter()
        .chain(SHORT_SUITE)
        .flat_map(|boot| boot.tests)
    {
        let name = tests.binary();
        if !binaries.contains_key(name) {
            binaries.insert(name, Binary::of(&files, name)?);
        }
    }
    if let Some(lab) = binaries.get("lab") {
        boots::check(lab)?;
    }
    Ok(binaries)
}

impl Boot {
    /// Runs the job, once more where the guest dies: what is told to `line` is of the last try only.
    fn run(&self, job: &Job, line: &Mutex<&mut (dyn FnMut(&str) + Send)>) -> Result<()> {
        let mut result = self.attempt(job);
        if let Err(error) = &result.1
            && error.is::<Died>()
        {
            exec::step(&format!(
                "machine \"{}\" is started again: {error:#}",
                self.name
            ));
            result = self.attempt(job);
        }
        let (lines, outcome) = result;
        if let Ok(mut line) = line.lock() {
            lines.iter().for_each(|text| line(text));
        }
        match outcome? {
            // 101 is how a test binary says that tests failed.
            0 | 101 => Ok(()),
            124 => bail!("took more than {} s", LIMIT.as_secs()),
            status => bail!("ended with {status}"),
        }
    }

    /// Runs the job, showing what it prints; its lines, and its exit code.
    fn attempt(&self, job: &Job) -> (Vec<String>, Result<i32>) {
        let machines = Machines {
            nodes: self.nodes,
            boots: self.boots,
            ..Machines::ALONE
        };
        let lines = Mutex::new(Vec::new());
        let outcome = Parts::ensure(self.series).and_then(|parts| {
            parts.run(&machines, job, &|node, text| {
                let mut stdout = io::stdout().lock();
                let shown = match self.nodes {
                    1 => writeln!(stdout, "{}| {text}", self.name),
                    _ => writeln!(stdout, "{} {node}| {text}", self.name),
                };
                shown.context("cannot write to the standard output")?;
                if let Ok(mut lines) = lines.lock() {
                    lines.push(text.to_owned());
                }
                Ok(())
            })
        });
        (lines.into_inner().unwrap_or_default(), outcome)
    }
}

/// What is to run in one machine: the tests of each binary.
type Plan<'a> = Vec<(&'a Binary, Vec<&'a str>)>;

fn plan<'a>(boot: &Boot, binaries: &'a Binaries, filters: &[String]) -> Result<Plan<'a>> {
    let all_of_it = filters.iter().any(|filter| filter == boot.name);
    let filters = if all_of_it { &[] } else { filters };
    let tests_of = |tests: &boots::Tests| {
        let name = tests.binary();
        let binary = binaries
            .get(name)
            .with_context(|| format!("there is no test binary {name}"))?;
        Ok((binary, tests.names(binary, filters)?))
    };
    boot.tests.iter().map(tests_of).collect()
}

fn number(plan: &Plan<'_>) -> usize {
    plan.iter().map(|(_, tests)| tests.len()).sum()
}

/// Has the tests that need it find sriov-cni. Where it cannot be had, takes them out of the plans and
/// says why; how many.
fn without_sriov_cni(
    plans: &mut [(&Boot, Plan<'_>)],
    environment: &mut Vec<(OsString, OsString)>,
) -> u64 {
    let all = || plans.iter().flat_map(|(_, plan)| plan);
    let needs_it = |test: &&str| boots::is_in(test, boots::SRIOV_CNI);
    let tests = all()
        .flat_map(|(_, tests)| tests)
        .filter(|test| needs_it(test));
    let tests: Vec<String> = tests.map(ToString::to_string).collect();
    if tests.is_empty() {
        return 0;
    }
    match setup::sriov_cni() {
        Ok(program) => {
            environment.retain(|(name, _)| name != setup::SRIOV_CNI);
            environment.push((setup::SRIOV_CNI.into(), program.into()));
            0
        }
        Err(reason) => {
            exec::step(&format!("Skipping {}: {reason:#}", tests.join(", ")));
            for (_, plan) in plans {
                for (_, tests) in plan {
                    tests.retain(|test| !needs_it(test));
                }
            }
            tests.len() as u64
        }
    }
}

/// Runs all test binaries of a machine, to the end even when some fail.
fn script(boot: &Boot, plan: &Plan<'_>) -> String {
    let mut script = format!("set -e\n{}\nset +e\nstatus=0\n", boot.prepare);
    for (binary, tests) in plan.iter().filter(|(_, tests)| !tests.is_empty()) {
        let path = binary.path.display();
        script.push_str(&format!(
            "echo 'Running {path}'\n'{path}' --test-threads=1 --include-ignored --exact {} || status=$?\n",
            tests.join(" "),
        ));
    }
    script.push_str("exit $status\n");
    script
}
