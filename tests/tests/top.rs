//! `sluice top` in a real terminal, as a person sees it.

use std::{
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, ensure};
use sluice_tests::{
    agent::{TestAgent, binary},
    netns::output,
    node::{POD_INTERFACE, TestNode, addresses},
    poll::wait_until,
    traffic::Stream,
};
use tempfile::TempDir;

/// A terminal with `sluice top` in it, in a tmux server of its own.
struct Screen {
    folder: TempDir,
}

impl Screen {
    fn open(agent: &TestAgent, [width, height]: [u32; 2], environment: &str) -> Result<Self> {
        let this = Self {
            folder: TempDir::new()?,
        };
        let command = format!(
            "{environment} {} --socket {} top --interval 0.2",
            binary()?.display(),
            agent.socket().display()
        );
        let (width, height) = (width.to_string(), height.to_string());
        this.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &width,
            "-y",
            &height,
            &command,
        ])?;
        Ok(this)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command
            .arg("-S")
            .arg(self.folder.path().join("socket"))
            .env_remove("TMUX")
            .env("LANG", "C.UTF-8");
        command
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String> {
        output(self.command().args(arguments))
    }

    fn keys(&self, keys: &[&str]) -> Result<()> {
        self.tmux(&[&["send-keys"][..], keys].concat()).map(drop)
    }

    fn resize(&self, [width, height]: [u32; 2]) -> Result<()> {
        let (width, height) = (width.to_string(), height.to_string());
        self.tmux(&["resize-window", "-x", &width, "-y", &height])
            .map(drop)
    }

    /// What is on it, with escape sequences for colours.
    fn colours(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    /// Waits until what is on it is as wanted.
    fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let mut text = String::new();
        let shown = wait_until(what, || {
            text = self.tmux(&["capture-pane", "-p"])?;
            Ok(wanted(&text))
        });
        shown.with_context(|| text.clone())?;
        Ok(text)
    }

    fn is_open(&self) -> bool {
        let mut command = self.command();
        command.arg("has-session").stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the screen\n{}", self.colours().unwrap_or_default());
        }
        let mut command = self.command();
        let _ = command.arg("kill-server").stderr(Stdio::null()).status();
    }
}

/// The line of an endpoint, by the end of its pod's name.
fn line<'a>(text: &'a str, pod: &str) -> Option<&'a str> {
    text.lines()
        .find(|line| line.split_whitespace().any(|word| word.ends_with(pod)))
}

#[test]
fn endpoints_rates_and_keys() -> Result<()> {
    let setup = TestNode::quiet_pair()?;
    let agent = TestAgent::start(&setup.node, &["--metrics-address", "off"])?;
    let screen = Screen::open(&agent, [80, 24], "")?;
    screen.until("the empty view", |text| {
        text.contains("0 of 512 endpoints") && text.contains("no endpoint is attached")
    })?;

    for (pod, name) in setup.pods.iter().zip(["sender", "receiver"]) {
        let name = format!("training/job-7f9c5d4b8-workers-{name}");
        let netns = pod.name();
        agent.run(&["attach", "--netns", netns, POD_INTERFACE, "--pod", &name])?;
    }
    let [address, _] = addresses(1);
    let stream = Stream::start(&setup.pods[0], &setup.pods[1], &address)?;
    // Long names keep their ends, by which pods of one owner differ; the busiest
    // receiver comes first.
    let text = screen.until("the receiver's rate", |text| {
        let receiver = line(text, "receiver");
        receiver.is_some_and(|line| line.split_whitespace().any(|word| word.ends_with('M')))
            && line(text, "sender").is_some()
            && !text.contains("no endpoint is attached")
    })?;
    ensure!(text.contains("IN bit/s▼"), "{text}");
    ensure!(text.find("receiver") < text.find("sender"), "{text}");
    // The columns that matter, whole.
    for heading in [
        "POD",
        "OUT bit/s",
        "DROP/s",
        "ROCE/s",
        "faults: none",
        "q quit",
    ] {
        ensure!(text.contains(heading), "no {heading}: {text}");
    }

    screen.keys(&["r"])?;
    screen.until("the other order", |text| {
        text.contains("IN bit/s▲") && text.find("sender") < text.find("receiver")
    })?;
    screen.keys(&["r", "Right"])?;
    screen.until("the order by what is sent", |text| {
        text.contains("OUT bit/s▼") && text.find("sender") < text.find("receiver")
    })?;
    screen.keys(&["?"])?;
    screen.until("the help", |text| text.contains("Keys and columns"))?;
    screen.keys(&["?"])?;
    screen.keys(&["/", "receiver", "Enter"])?;
    screen.until("the filter", |text| {
        text.contains("(1 shown)") && line(text, "sender").is_none()
    })?;
    screen.keys(&["x"])?;
    screen.keys(&["Escape"])?;
    screen.until("the filter to go", |text| line(text, "sender").is_some())?;

    screen.resize([160, 30])?;
    screen.until("all columns", |text| {
        [
            "INTERFACE",
            "UPLINK",
            "OUT pkt/s",
            "CE/s",
            "GAP/s",
            "job-7f9c5d4b8-workers-sender",
        ]
        .iter()
        .all(|heading| text.contains(heading))
    })?;
    screen.resize([40, 10])?;
    screen.until("whole columns on a narrow screen", |text| {
        let heading = text.lines().nth(1).unwrap_or_default();
        let words: Vec<_> = heading.split_whitespace().collect();
        words.starts_with(&["POD", "IN", "bit/s"]) && line(text, "sender").is_some()
    })?;
    drop(stream);

    screen.keys(&["q"])?;
    wait_until("top to end", || Ok(!screen.is_open()))
}

#[test]
fn an_agent_that_goes_away_and_comes_back() -> Result<()> {
    let setup = TestNode::quiet_pair()?;
    let mut agent = TestAgent::start(&setup.node, &["--metrics-address", "off"])?;
    agent.attach(&setup.pods[0], POD_INTERFACE)?;
    let screens = [
        Screen::open(&agent, [100, 20], "")?,
        Screen::open(&agent, [100, 20], "NO_COLOR=1")?,
    ];
    for screen in &screens {
        screen.until("the endpoint", |text| text.contains("1 of 512 endpoints"))?;
    }
    agent.kill()?;
    for screen in &screens {
        let text = screen.until("the error", |text| text.contains("trying again"))?;
        // What was last known stays in view.
        ensure!(text.contains("POD") && text.contains("faults"), "{text}");
    }
    // Red: SGR 38 (ECMA-48), colour 1; unless no colour is wanted
    // (no-color.org).
    let red = "[38;5;1m";
    let [colours, none] = [screens[0].colours()?, screens[1].colours()?];
    ensure!(colours.contains(red), "{colours:?}");
    ensure!(!none.contains("[38;"), "{none:?}");
    agent.restart()?;
    for screen in &screens {
        screen.until("the agent again", |text| {
            text.contains("1 of 512 endpoints")
        })?;
    }
    Ok(())
}
