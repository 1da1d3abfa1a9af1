//! The metrics, read by Prometheus itself.

use std::{fs, io::Write, process::Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluice_tests::{
    agent::TestAgent,
    netns::output,
    node::{POD_INTERFACE, TestNode, UPLINK, pings},
    poll::{wait_for, wait_until},
};

/// Where the agent serves its metrics, inside the node's namespace.
const METRICS: &str = "127.0.0.1:9655";
/// Where Prometheus answers, in the same namespace.
const PROMETHEUS: &str = "127.0.0.1:9090";

fn get(setup: &TestNode, url: &str) -> Result<String> {
    let mut command = setup.node.command("python3");
    command.args([
        "-c",
        "import sys,urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1],timeout=5).read().decode())",
        url,
    ]);
    output(&mut command)
}

fn agent_with_traffic(setup: &TestNode) -> Result<TestAgent> {
    let agent = TestAgent::start(&setup.node, &["--metrics-address", METRICS])?;
    agent.run(&["uplink", "add", UPLINK])?;
    for (number, pod) in setup.pods.iter().enumerate() {
        agent.run(&[
            "attach",
            "--netns",
            pod.name(),
            POD_INTERFACE,
            "--pod",
            &format!("shop/web-{number}"),
        ])?;
    }
    ensure!(pings(&setup.pods[0], "10.78.0.12")?);
    agent.run(&["block", "add", "192.0.2.0/24"])?;
    Ok(agent)
}

#[test]
fn promtool_finds_nothing_to_say() -> Result<()> {
    let setup = TestNode::new(2)?;
    let _agent = agent_with_traffic(&setup)?;
    let text = get(&setup, &format!("http://{METRICS}/metrics"))?;
    ensure!(text.contains("sluice_endpoint_packets_total"), "{text}");
    let mut promtool = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    promtool
        .stdin
        .take()
        .context("no stdin")?
        .write_all(text.as_bytes())?;
    let checked = promtool.wait_with_output()?;
    ensure!(
        checked.status.success() && checked.stderr.is_empty(),
        "{}{}",
        String::from_utf8_lossy(&checked.stdout),
        String::from_utf8_lossy(&checked.stderr)
    );
    Ok(())
}

#[test]
fn prometheus_scrapes_and_answers_by_pod() -> Result<()> {
    let setup = TestNode::new(2)?;
    let agent = agent_with_traffic(&setup)?;
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("prometheus.yml");
    fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s}}\n\
             scrape_configs: [{{job_name: sluice, static_configs: [{{targets: ['{METRICS}']}}]}}]\n"
        ),
    )?;
    let mut prometheus = setup.node.command("prometheus");
    prometheus
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            folder.path().join("data").display()
        ))
        .arg(format!("--web.listen-address={PROMETHEUS}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut process = prometheus.spawn()?;
    let queried = (|| -> Result<()> {
        let query = "sum(sluice_endpoint_packets_total{namespace=\"shop\",pod=\"web-0\",direction=\"egress\"})"
            .replace('{', "%7B")
            .replace('}', "%7D")
            .replace('"', "%22");
        let url = format!("http://{PROMETHEUS}/api/v1/query?query={query}");
        let value = wait_for("Prometheus to have scraped", || {
            let Ok(text) = get(&setup, &url) else {
                return Ok(None);
            };
            let answer: Value = serde_json::from_str(&text)?;
            let value = answer["data"]["result"][0]["value"][1].as_str();
            Ok(value.and_then(|value| value.parse::<f64>().ok()))
        })?;
        let stats = agent.json(&["stats"])?;
        let counted = stats["endpoints"][0]["egress"]["packets"]
            .as_f64()
            .context("no count")?;
        ensure!(
            value > 0.0 && value <= counted,
            "scraped {value}, counted {counted}"
        );
        let up = format!("http://{PROMETHEUS}/api/v1/query?query=up");
        wait_until("the target to be up", || {
            let answer: Value = serde_json::from_str(&get(&setup, &up)?)?;
            Ok(answer["data"]["result"][0]["value"][1] == "1")
        })
    })();
    process.kill()?;
    process.wait()?;
    queried
}
