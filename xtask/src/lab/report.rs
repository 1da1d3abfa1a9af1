//! `cargo xtask lab report`: docs/kernels.md, measured on every kernel of the lab.

use std::{collections::BTreeMap, fmt::Write as _, fs, sync::Mutex, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum as _;

use super::{Machines, Parts, Series, binaries, inherited, job::Job};
use crate::{build, exec, workspace};

const PAGE: &str = "docs/kernels.md";

/// What one program costs one kernel.
struct Effort {
    verified: u32,
    instructions: u32,
    stack: u32,
}

/// Loads every program on every kernel and writes the page.
///
/// # Errors
/// A guest does not do its work, or a kernel refuses a program.
pub(super) fn run() -> Result<()> {
    build::object(false)?;
    let files = binaries::build()?;
    let lab = files.get("lab").context("there is no test binary lab")?;
    let mut releases = Vec::new();
    let mut programs: BTreeMap<String, Vec<Effort>> = BTreeMap::new();
    for &series in Series::value_variants() {
        let parts = Parts::ensure(series)?;
        exec::step(&format!("Loading the programs on {}", parts.kernel.release));
        let job = Job {
            command: vec![
                lab.into(),
                "--ignored".into(),
                "--nocapture".into(),
                "effort::".into(),
            ],
            folder: workspace::root().join("tests"),
            environment: inherited(),
            limit: Duration::from_secs(300),
            interactive: false,
        };
        let lines = Mutex::new(Vec::new());
        let status = parts.run(&Machines::ALONE, &job, &|_, line| {
            if let Ok(mut lines) = lines.lock() {
                lines.push(line.to_owned());
            }
            Ok(())
        })?;
        let lines = lines.into_inner().unwrap_or_default();
        if status != 0 {
            bail!("{}: {}", parts.kernel.release, lines.join("\n"));
        }
        for (name, effort) in lines.iter().filter_map(|line| read(line)) {
            programs.entry(name).or_default().push(effort);
        }
        releases.push(parts.kernel.release);
    }
    let path = workspace::root().join(PAGE);
    fs::write(&path, page(&releases, &programs))
        .with_context(|| format!("cannot write {}", path.display()))?;
    exec::step(&format!("Wrote {PAGE}"));
    Ok(())
}

/// One line of the test's, which the harness may have begun with a test's name.
fn read(line: &str) -> Option<(String, Effort)> {
    let (_, fields) = line.split_once("EFFORT ")?;
    let mut fields = fields.split_whitespace();
    let name = fields.next()?.to_owned();
    let mut number = || fields.next()?.parse().ok();
    Some((
        name,
        Effort {
            verified: number()?,
            instructions: number()?,
            stack: number()?,
        },
    ))
}

fn page(releases: &[String], programs: &BTreeMap<String, Vec<Effort>>) -> String {
    let mut text = String::from(
        "# The programs and the kernels' verifiers\n\n\
         Written by `cargo xtask lab report`, which loads every program on every kernel of the lab. \
         For each: instructions that the verifier processed (its limit is 1,000,000), instructions \
         of the program as the kernel runs it, and bytes of stack that its largest frame addresses \
         (limit 512).\n\n| program |",
    );
    // Writing to a String cannot fail.
    for release in releases {
        let _ = write!(text, " {release} |");
    }
    let _ = write!(text, "\n|---|{}\n", "---|".repeat(releases.len()));
    for (name, efforts) in programs {
        let _ = write!(text, "| `{name}` |");
        for effort in efforts {
            let Effort {
                verified,
                instructions,
                stack,
            } = effort;
            let _ = write!(text, " {verified} / {instructions} / {stack} |");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_a_row() {
        let (name, effort) = read("test effort::x ... EFFORT entry_egress 57 60 16").unwrap();
        let programs = BTreeMap::from([(name, vec![effort])]);
        let page = page(&["6.1.0".to_owned()], &programs);
        assert!(
            page.ends_with("| program | 6.1.0 |\n|---|---|\n| `entry_egress` | 57 / 60 / 16 |\n")
        );
        assert!(read("test result: ok").is_none());
        assert!(read("EFFORT entry_egress 57").is_none());
    }
}
