//! ICMP and ICMPv6, with the system's ping.

use std::{
    io::Read as _,
    net::IpAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::demo::netns::Namespace;

/// How many pings were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::demo) struct Answered {
    pub(in crate::demo) sent: u64,
    pub(in crate::demo) received: u64,
}

/// A ping that runs in the background; ends when dropped.
pub(in crate::demo) struct Ping(Child);

impl Ping {
    /// Starts sending `count` requests, `interval` apart.
    ///
    /// # Errors
    /// ping cannot be started.
    pub(in crate::demo) fn start(
        from: &Namespace,
        to: IpAddr,
        count: u64,
        interval: Duration,
    ) -> Result<Self> {
        let mut command = command(from, to, count, interval);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Ok(Self(child.context("cannot start ping")?))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It says something that is no summary.
    pub(in crate::demo) fn finish(mut self) -> Result<Answered> {
        let mut text = String::new();
        if let Some(mut stdout) = self.0.stdout.take() {
            stdout.read_to_string(&mut text)?;
        }
        self.0.wait()?;
        summary(&text)
    }
}

impl Drop for Ping {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends `count` requests, one each tenth of a second, optionally from a certain address, and waits
/// a second for the last answer.
///
/// # Errors
/// ping cannot be run, or says something that is no summary. No answer is no error.
pub(in crate::demo) fn ping(
    from: &Namespace,
    source: Option<IpAddr>,
    to: IpAddr,
    count: u64,
) -> Result<Answered> {
    let mut command = command(from, to, count, Duration::from_millis(100));
    if let Some(source) = source {
        command.arg("-I").arg(source.to_string());
    }
    let output = command
        .stdin(Stdio::null())
        .output()
        .context("cannot start ping")?;
    summary(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

fn command(from: &Namespace, to: IpAddr, count: u64, interval: Duration) -> Command {
    let mut command = from.command("ping");
    command
        .args(["-n", "-q", "-W", "1", "-c", &count.to_string()])
        .args(["-i", &interval.as_secs_f64().to_string(), &to.to_string()])
        .env("LC_ALL", "C");
    command
}

fn summary(text: &str) -> Result<Answered> {
    let read = || {
        let line = text.lines().find(|line| line.contains("transmitted"))?;
        let mut fields = line.split(", ");
        let mut next = || fields.next()?.split(' ').next()?.parse().ok();
        Some(Answered {
            sent: next()?,
            received: next()?,
        })
    };
    read().with_context(|| format!("ping said something that is no summary: {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_summary_with_and_without_errors() {
        let text = "--- 10.0.0.1 ping statistics ---\n\
             3 packets transmitted, 0 received, +3 errors, 100% packet loss, time 2033ms\n";
        let answered = summary(text).unwrap();
        assert_eq!((answered.sent, answered.received), (3, 0));
        let text = "5 packets transmitted, 4 received, 20% packet loss, time 4080ms\n";
        assert_eq!(summary(text).unwrap().received, 4);
        assert!(summary("ping: unknown host").is_err());
    }
}
