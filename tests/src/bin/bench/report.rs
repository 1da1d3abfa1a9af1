//! The rows as tables.

use std::{fmt::Write as _, fs, process::Command};

use anyhow::{Context as _, Result};
use sluice_tests::netns::output;

use crate::row::Row;

const HEAD: [&str; 10] = [
    "name", "unit", "p50", "p90", "p99", "baseline", "ratio", "±", "bar", "holds",
];

fn cells(row: &Row) -> [String; 10] {
    let optional = |value: Option<f64>| value.map(number).unwrap_or_default();
    let thousandths = |value: Option<f64>| value.map(|v| format!("{v:.3}")).unwrap_or_default();
    [
        row.name.clone(),
        row.unit.clone(),
        number(row.p50),
        number(row.p90),
        number(row.p99),
        optional(row.baseline),
        // Bars have two figures: the third says on which side of one a ratio is.
        thousandths(row.ratio),
        thousandths(row.spread),
        row.bar.clone().unwrap_or_default(),
        match row.holds {
            Some(true) => "yes".to_owned(),
            Some(false) => "NO".to_owned(),
            None => String::new(),
        },
    ]
}

/// Three figures where there are so many, and none of a fraction behind four.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 100.0 || v.fract() == 0.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

/// For a terminal.
pub(crate) fn text(rows: &[Row]) -> String {
    let lines: Vec<_> = std::iter::once(HEAD.map(str::to_owned))
        .chain(rows.iter().map(cells))
        .collect();
    let width = |column: usize| {
        let widths = lines
            .iter()
            .map(|line: &[String; 10]| line[column].chars().count());
        widths.max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let mut padded = String::new();
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            // Writing to a String cannot fail.
            let _ = match column {
                2..=7 => write!(padded, "{cell:>width$}  "),
                _ => write!(padded, "{cell:<width$}  "),
            };
        }
        text.push_str(padded.trim_end());
        text.push('\n');
    }
    text
}

/// For the documentation, with the machine and the day named; a section for each benchmark, of which
/// `about` tells what it measures.
pub(crate) fn markdown(rows: &[Row], about: impl Fn(&str) -> &'static str) -> Result<String> {
    let mut text = String::from(
        "# Benchmarks\n\n\
         Written by `cargo xtask bench` (as root), by one run of every benchmark or from the rows \
         of several (`--rows`); not by hand.\n\n",
    );
    text.push_str(&machine()?);
    text.push_str(
        "\nEach case ran in turn with its baseline, in the same run: a program that does nothing, \
         the bare interface, the bare system calls. The columns p50, p90 and p99 are over the \
         samples, the baseline is the median of its own samples, and a bar is held against the \
         median. Each sample of traffic lies between two of bare interfaces: its ratio, which the \
         bar is held against, is the median of the ratios to their mean, ± half of the interval in \
         which that median lies with 95 % confidence. `bare-again` shows what noise alone makes of \
         it.\n\n",
    );
    text.push_str(&bars(rows));
    for group in rows.chunk_by(|one, next| benchmark(one) == benchmark(next)) {
        let name = group.first().map_or("", benchmark);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n## {name}\n");
        let _ = writeln!(
            text,
            "`cargo xtask bench --only {name}`: {}.\n",
            about(name)
        );
        let _ = writeln!(text, "| {} |", HEAD.join(" | "));
        text.push_str("|---|---|--:|--:|--:|--:|--:|--:|---|---|\n");
        for row in group {
            let mut cells = cells(row);
            cells[0] = case(row).to_owned();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
    }
    Ok(text)
}

/// The benchmark that a row is of.
fn benchmark(row: &Row) -> &str {
    row.name.split_once('/').map_or("", |(name, _)| name)
}

/// The row's name within its benchmark.
fn case(row: &Row) -> &str {
    row.name.split_once('/').map_or(&row.name, |(_, case)| case)
}

/// How many bars hold, and which do not.
fn bars(rows: &[Row]) -> String {
    let set = rows.iter().filter(|row| row.holds.is_some()).count();
    let missed: Vec<_> = rows
        .iter()
        .filter(|row| row.holds == Some(false))
        .map(|row| format!("`{}`", row.name))
        .collect();
    let mut text = format!("{} of {set} bars hold", set - missed.len());
    if !missed.is_empty() {
        text.push_str("; not: ");
        text.push_str(&missed.join(", "));
    }
    text.push_str(".\n");
    text
}

fn machine() -> Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let virtual_machine = cpuinfo
        .lines()
        .any(|line| line.starts_with("flags") && line.contains(" hypervisor"));
    let cores = std::thread::available_parallelism()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")
        .context("cannot read the kernel's release")?;
    let date = output(Command::new("date").args(["--utc", "+%Y-%m-%d"]))?;
    Ok(format!(
        "| machine | |\n|---|---|\n| processor | {model}, {cores} cores{} |\n| kernel | {} |\n\
         | written | {} |\n",
        if virtual_machine {
            ", a virtual machine"
        } else {
            ""
        },
        kernel.trim(),
        date.trim()
    ))
}
