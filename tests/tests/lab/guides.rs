//! The walk-throughs in docs/guides: each script still prints what its page shows.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::netns::output;

/// The lines of a page's last block of console output, which is its script's.
fn shown(page: &str) -> Result<Vec<String>> {
    let (_, block) = page
        .rsplit_once("```console\n")
        .context("no console block")?;
    let (block, _) = block.split_once("```").context("a block without end")?;
    Ok(block.lines().map(normal).collect())
}

/// A line without what differs from one run to the next: addresses that interfaces get at random,
/// times, rates, bytes of neighbour discovery, and the widths of columns.
fn normal(line: &str) -> String {
    let word = |word: &str| {
        let is_mac = word.len() == 17 && word.bytes().filter(|&byte| byte == b':').count() == 5;
        if is_mac {
            return "MAC".to_owned();
        }
        let mut text = String::new();
        for letter in word.chars() {
            let number = letter.is_ascii_digit() || letter == '.';
            match (number, text.ends_with('#')) {
                (false, _) => text.push(letter),
                (true, false) => text.push('#'),
                (true, true) => {}
            }
        }
        text
    };
    // A number of bytes may come with a larger unit.
    let units = ["B", "KiB"];
    let words: Vec<_> = line.split_whitespace().map(word).collect();
    let words = words.iter().filter(|word| !units.contains(&word.as_str()));
    words.map(String::as_str).collect::<Vec<_>>().join(" ")
}

fn as_on_its_page(name: &str) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guides");
    let page = fs::read_to_string(folder.join(format!("{name}.md")))?;
    let printed = output(Command::new("bash").arg(folder.join(format!("{name}.sh"))))?;
    let now: Vec<_> = printed.lines().map(normal).collect();
    let shown = shown(&page)?;
    ensure!(
        now == shown,
        "the page shows\n{shown:#?}\nand the script prints\n{printed}"
    );
    Ok(())
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn macvlan_shared() -> Result<()> {
    as_on_its_page("macvlan-shared")
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn sriov_exclusive() -> Result<()> {
    as_on_its_page("sriov-exclusive")
}

#[test]
fn only_what_varies_is_left_out() {
    assert_eq!(
        normal("UPLINK  MAC                ADDRESSES"),
        normal("UPLINK MAC ADDRESSES")
    );
    assert_eq!(
        normal(" 1  ce:2d:b2:e2:4b:3b  10.1.0.11  40 B"),
        "# MAC # #"
    );
    assert_ne!(
        normal("pod1 ingress write 100"),
        normal("pod1 egress write 100")
    );
}
