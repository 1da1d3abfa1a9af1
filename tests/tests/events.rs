//! Events under a flood.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use dataplane::api::types::EventLine;
use sluice_tests::{
    agent::{TestAgent, binary},
    node::{POD_INTERFACE, TestNode},
    packets::refused,
    poll::wait_until,
    wire::Wire,
};
use tempfile::TempDir;

/// `sluice events` in the background.
struct Follower {
    child: Child,
    folder: TempDir,
}

impl Follower {
    fn start(agent: &TestAgent) -> Result<Self> {
        let folder = TempDir::new()?;
        let into = File::create(folder.path().join("events"))?;
        let child = follow(agent, into.into())?;
        Ok(Self { child, folder })
    }

    /// Events of an endpoint for that reason.
    fn told(&self, endpoint: u64, reason: &str) -> Result<u64> {
        let text = fs::read_to_string(self.folder.path().join("events"))?;
        let mut count = 0;
        // The last line may be half written.
        for line in text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
        {
            match serde_json::from_str(line)? {
                EventLine::Event(event) => {
                    count +=
                        u64::from(u64::from(event.endpoint) == endpoint && event.reason == reason);
                }
                EventLine::Missed { missed } => anyhow::bail!("{missed} events missed"),
            }
        }
        Ok(count)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended on its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(agent: &TestAgent, into: Stdio) -> Result<Child> {
    Ok(Command::new(binary()?)
        .arg("--socket")
        .arg(agent.socket())
        .args(["events", "-o", "json"])
        .stdin(Stdio::null())
        .stdout(into)
        .spawn()?)
}

fn frame_refused_for(reason: &str) -> Result<Vec<u8>> {
    let case = refused().into_iter().find(|(_, _, found)| *found == reason);
    let (_, frame, _) = case.with_context(|| format!("nothing is refused for {reason}"))?;
    Ok(frame)
}

fn throttled(agent: &TestAgent) -> Result<u64> {
    let faults = agent.json(&["stats"])?["faults"].clone();
    Ok(faults["events_throttled"].as_u64().unwrap_or_default())
}

/// A pod that floods is told of at its rate, what is not told is counted, and another pod's events
/// come all along.
#[test]
fn a_flood_is_told_of_at_its_rate_and_drowns_nobody() -> Result<()> {
    const RATE: u64 = 10;
    const FLOOD: &str = "ipv4_malformed";
    const GREETING: &str = "ipv6_truncated";
    let setup = TestNode::quiet_pair()?;
    let rate = RATE.to_string();
    let agent = TestAgent::start(
        &setup.node,
        &["--metrics-address", "off", "--event-rate", &rate],
    )?;
    let [flooding, other] = [&setup.pods[0], &setup.pods[1]];
    let ids = [
        agent.attach(flooding, POD_INTERFACE)?,
        agent.attach(other, POD_INTERFACE)?,
    ];
    let wire = Wire::open(flooding, POD_INTERFACE)?;
    let other = Wire::open(other, POD_INTERFACE)?;
    let frame = frame_refused_for(FLOOD)?;

    let greeting = frame_refused_for(GREETING)?;
    let events = Follower::start(&agent)?;
    wait_until("the first event", || {
        ensure!(!other.send(&greeting)?, "it passed");
        Ok(events.told(ids[1], GREETING)? > 0)
    })?;

    let before = throttled(&agent)?;
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut sent_by_other = 0;
    let start = Instant::now();
    thread::scope(|scope| {
        let flood = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                ensure!(!wire.send(&frame)?, "it passed");
                sent.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let heard = wait_until("the other pod's events amid the flood", || {
            ensure!(!other.send(&frame)?, "it passed");
            sent_by_other += 1;
            Ok(events.told(ids[1], FLOOD)? >= RATE && sent.load(Ordering::Relaxed) > 100 * RATE)
        });
        stop.store(true, Ordering::Relaxed);
        flood.join().expect("the flood panicked")?;
        heard
    })?;
    let took = start.elapsed();
    let sent = sent.into_inner();

    let told = || -> Result<_> { Ok([events.told(ids[0], FLOOD)?, events.told(ids[1], FLOOD)?]) };
    let held_back = throttled(&agent)? - before;
    wait_until("each drop to be told of or counted as held back", || {
        Ok(told()?.iter().sum::<u64>() + held_back >= sent + sent_by_other)
    })?;
    let [told, told_of_other] = told()?;
    ensure!(
        told + told_of_other + held_back == sent + sent_by_other,
        "{told} and {told_of_other} told of, {held_back} held back, {sent} and {sent_by_other} sent"
    );
    // A full bucket, what was added meanwhile, and a tick of the coarse clock.
    let most = RATE + (took.as_secs_f64() * RATE as f64).ceil() as u64 + 1;
    ensure!(
        (RATE..=most).contains(&told),
        "{told} of {sent} told of in {took:?}, at most {most} should be"
    );
    let drops = agent.stats(ids[0])?["drops"].clone();
    ensure!(
        drops[0]["reason"] == FLOOD && drops[0]["packets"] == sent,
        "{drops}, {sent} sent"
    );
    Ok(())
}

/// `sluice events | head -n 1` ends, and well.
#[test]
fn who_follows_events_ends_with_its_reader() -> Result<()> {
    let setup = TestNode::quiet_pair()?;
    let agent = TestAgent::start(&setup.node, &["--metrics-address", "off"])?;
    agent.attach(&setup.pods[0], POD_INTERFACE)?;
    let wire = Wire::open(&setup.pods[0], POD_INTERFACE)?;
    let frame = frame_refused_for("ipv4_malformed")?;

    let mut following = follow(&agent, Stdio::piped())?;
    let reader = following.stdout.take().context("no pipe")?;
    let ended = thread::scope(|scope| {
        let heard = scope.spawn(move || {
            let mut line = String::new();
            BufReader::new(reader).read_line(&mut line).map(|_| line)
        });
        wait_until("the first event to be read", || {
            ensure!(!wire.send(&frame)?, "it passed");
            Ok(heard.is_finished())
        })?;
        let line = heard.join().expect("the reader panicked")?;
        serde_json::from_str::<EventLine>(&line)?;
        let mut ended = None;
        wait_until("the command to end", || {
            ensure!(!wire.send(&frame)?, "it passed");
            ended = following.try_wait()?;
            Ok(ended.is_some())
        })?;
        anyhow::Ok(ended)
    });
    // It may have ended on its own.
    let _ = following.kill();
    let _ = following.wait();
    let code = ended?.and_then(|status| status.code());
    ensure!(code == Some(0), "{code:?}");
    Ok(())
}
