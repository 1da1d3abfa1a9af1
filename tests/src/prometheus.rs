//! A real Prometheus, beside the agent that it scrapes.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    netns::{Background, TestNetns},
    poll::wait_until,
};

/// Where it answers, inside of its namespace.
const ADDRESS: &str = "127.0.0.1:9090";

/// A Prometheus that scrapes one target each second, until it is dropped.
pub struct Prometheus<'a> {
    netns: &'a TestNetns,
    _process: Background,
    _folder: TempDir,
}

impl<'a> Prometheus<'a> {
    /// Starts it in a namespace and waits until it has scraped `target`, an address with a port.
    ///
    /// # Errors
    /// There is no Prometheus here, or it does not find its target up.
    pub fn start(netns: &'a TestNetns, target: &str) -> Result<Self> {
        let folder = TempDir::new()?;
        let config = folder.path().join("prometheus.yml");
        fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 1s}}\n\
                 scrape_configs: [{{job_name: sluice, static_configs: [{{targets: ['{target}']}}]}}]\n"
            ),
        )?;
        let config = format!("--config.file={}", config.display());
        let data = format!(
            "--storage.tsdb.path={}",
            folder.path().join("data").display()
        );
        let address = format!("--web.listen-address={ADDRESS}");
        let prometheus = Self {
            netns,
            _process: netns.spawn("prometheus", &[&config, &data, &address])?,
            _folder: folder,
        };
        wait_until("Prometheus to find its target up", || {
            let found = prometheus.query("up").unwrap_or_default();
            Ok(found.iter().any(|series| series["value"][1] == "1"))
        })?;
        Ok(prometheus)
    }

    /// The series that an expression has now.
    ///
    /// # Errors
    /// Prometheus does not answer, or refuses the expression.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let mut path = String::from("/api/v1/query?query=");
        for byte in expression.bytes() {
            write!(path, "%{byte:02x}")?;
        }
        let answer: Value = serde_json::from_str(&http_get(self.netns, ADDRESS, &path)?)?;
        ensure!(
            answer["status"] == "success",
            "{expression}: {}",
            answer["error"]
        );
        let series = answer["data"]["result"].as_array();
        series.cloned().context("an answer without series")
    }

    /// The value of an expression that has one series.
    ///
    /// # Errors
    /// As [`Prometheus::query`], or there is no such series.
    pub fn value(&self, expression: &str) -> Result<f64> {
        let series = self.query(expression)?;
        let text = series
            .first()
            .and_then(|series| series["value"][1].as_str());
        Ok(text
            .with_context(|| format!("no series: {expression}"))?
            .parse()?)
    }
}

/// The body of an answer to GET, asked from inside a namespace.
///
/// # Errors
/// Nobody answers, or not with text.
pub fn http_get(netns: &TestNetns, address: &str, path: &str) -> Result<String> {
    let mut stream = netns.enter(|| TcpStream::connect(address))??;
    // Of 1.0, so that the answer comes in one piece and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer
        .split_once("\r\n\r\n")
        .context("an answer without a head")?;
    Ok(body.to_owned())
}
