//! Sluice's benchmarks; `cargo xtask bench` builds and runs them.

mod attach;
mod cni;
mod frames;
mod hardware;
mod interrupt;
mod local;
mod packet;
mod policy;
mod report;
mod row;
mod scale;
mod sys;
mod traffic;

use std::{fs, path::PathBuf, process::ExitCode, thread};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Parser;

use crate::row::Row;

/// Measure Sluice on this machine.
#[derive(Parser)]
struct Arguments {
    /// Run only this benchmark; may be given more than once
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,

    /// Also write the rows as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Also write the table as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,

    /// Take the rows of an earlier run, from its JSON, and measure nothing; may be given more than
    /// once
    #[arg(long, value_name = "FILE", conflicts_with = "only")]
    rows: Vec<PathBuf>,

    /// Name the benchmarks and do nothing
    #[arg(long)]
    list: bool,

    /// Fail where a bar does not hold
    #[arg(long)]
    strict: bool,
}

/// A benchmark and what it measures. Another one is a module with a function that returns its rows
/// (its name first, `name/case`, each held against a [`row::Bar`] or none) and an entry in
/// [`BENCHMARKS`]; table, JSON, documentation and `--only` follow.
struct Benchmark {
    name: &'static str,
    about: &'static str,
    measure: fn() -> Result<Vec<Row>>,
}

const BENCHMARKS: &[Benchmark] = &[
    Benchmark {
        name: "packet",
        about: "ns per packet by BPF_PROG_TEST_RUN, beside an empty program",
        measure: packet::measure,
    },
    Benchmark {
        name: "policy-packet",
        about: "ns per packet of an isolated endpoint, of known and of new connections",
        measure: policy::packet::measure,
    },
    Benchmark {
        name: "policy-change",
        about: "a change of policy, until packets go by it",
        measure: policy::change::measure,
    },
    Benchmark {
        name: "policy-scale",
        about: "an agent with 500 endpoints, 1,000 policies, 5,000 pods, 10,000 prefixes",
        measure: policy::scale::measure,
    },
    Benchmark {
        name: "policy-traffic",
        about: "traffic into an isolated pod: ours, the kernel's firewalls, bare",
        measure: policy::traffic::measure,
    },
    Benchmark {
        name: "request-response",
        about: "UDP between two pods on one processor, attached beside bare",
        measure: traffic::request_response,
    },
    Benchmark {
        name: "iperf3",
        about: "a TCP stream between two pods on one processor, attached beside bare",
        measure: traffic::iperf3,
    },
    Benchmark {
        name: "attach",
        about: "attaching an endpoint, beside two TCX attachments by system call",
        measure: attach::measure,
    },
    Benchmark {
        name: "cni",
        about: "ADD and DEL by plugin binaries, beside the reference macvlan plugin",
        measure: cni::measure,
    },
    Benchmark {
        name: "scale",
        about: "restart, memory and scrape of an agent with 500 endpoints",
        measure: scale::measure,
    },
    Benchmark {
        name: "rdma-scrape",
        about: "a scrape with 500 endpoints, 16 HCAs, 10,000 queue pairs, all simulated",
        measure: hardware::measure,
    },
];

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.list {
        for benchmark in BENCHMARKS {
            println!("{:<18} {}", benchmark.name, benchmark.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rows = match &arguments.rows[..] {
        [] => measure(&arguments.only)?,
        files => read(files)?,
    };
    print!("{}", report::text(&rows));
    if let Some(path) = &arguments.json {
        write(path, &format!("{}\n", serde_json::to_string_pretty(&rows)?))?;
    }
    if let Some(path) = &arguments.markdown {
        write(path, &report::markdown(&rows, about)?)?;
    }
    let missed = rows.iter().any(|row| row.holds == Some(false));
    Ok(if arguments.strict && missed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// What the benchmark of that name measures.
fn about(name: &str) -> &'static str {
    let known = BENCHMARKS.iter().find(|one| one.name == name);
    known.map_or("no longer measured", |one| one.about)
}

fn measure(only: &[String]) -> Result<Vec<Row>> {
    interrupt::listen()?;
    let mut rows = Vec::new();
    for benchmark in chosen(only)? {
        eprintln!("==> {}: {}", benchmark.name, benchmark.about);
        // On a thread of its own, since some pin the thread that they run on.
        let measured = thread::spawn(benchmark.measure).join();
        let measured = measured.map_err(|_| anyhow!("panicked")).flatten();
        rows.extend(measured.with_context(|| format!("the benchmark {}", benchmark.name))?);
    }
    Ok(rows)
}

fn read(files: &[PathBuf]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for file in files {
        let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let read: Vec<Row> = serde_json::from_slice(&text)
            .with_context(|| format!("{} holds no rows", file.display()))?;
        rows.extend(read);
    }
    Ok(rows)
}

fn chosen(only: &[String]) -> Result<Vec<&'static Benchmark>> {
    if only.is_empty() {
        return Ok(BENCHMARKS.iter().collect());
    }
    only.iter()
        .map(
            |name| match BENCHMARKS.iter().find(|one| one.name == name) {
                Some(benchmark) => Ok(benchmark),
                None => bail!("no benchmark is called {name}; --list names them"),
            },
        )
        .collect()
}

fn write(path: &PathBuf, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
