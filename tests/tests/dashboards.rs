//! The dashboards and alerts that are delivered: every query run by a real Prometheus that scrapes
//! a real agent with real traffic, every alert by promtool.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::{
    agent::TestAgent,
    netns::output,
    node::{MACHINE, POD_INTERFACE, TestNode, UPLINK, addresses, pings},
    packets::{Frame, Roce, aeth, udp},
    policy::{PolicyFolder, namespace, pod, policy},
    poll::wait_until,
    prometheus::Prometheus,
    wire::Wire,
};

/// Where the agent serves its metrics, inside the node's namespace.
const METRICS: &str = "127.0.0.1:9655";

/// Beginnings of what a query may name that has no series on the machines that run these tests, and why. Their
/// names are held against the documentation all the same, as every name is.
const UNSEEN: [(&str, &str); 2] = [
    ("sluice_rdma_", "the kernel here has no RDMA"),
    ("sluice_nic_", "no driver here keeps such counters"),
];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn dashboards() -> Result<Vec<(PathBuf, Value)>> {
    let mut found = Vec::new();
    for file in fs::read_dir(root().join("deploy/grafana"))? {
        let path = file?.path();
        let text = fs::read_to_string(&path)?;
        found.push((path, serde_json::from_str(&text)?));
    }
    ensure!(found.len() == 4, "{} dashboards", found.len());
    Ok(found)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The panels that show something.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    let panels = list(&dashboard["panels"]);
    panels.iter().filter(|panel| panel["type"] != "row")
}

/// The queries of a dashboard, with the title of their panel.
fn queries(dashboard: &Value) -> impl Iterator<Item = (&str, &str)> {
    panels(dashboard).flat_map(|panel| {
        let targets = list(&panel["targets"]);
        targets
            .iter()
            .map(|target| (text(&panel["title"]), text(&target["expr"])))
    })
}

/// The names of our metrics in a text.
fn metrics(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("sluice_")).collect()
}

#[test]
fn every_metric_that_dashboards_and_alerts_name_is_documented() -> Result<()> {
    let docs = fs::read_to_string(root().join("docs/metrics.md"))?;
    let documented: BTreeSet<_> = docs
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next())
        .collect();
    let mut texts = vec![];
    for (_, dashboard) in dashboards()? {
        texts.extend(queries(&dashboard).map(|(_, query)| query.to_owned()));
        let variables = list(&dashboard["templating"]["list"]);
        texts.extend(variables.iter().map(|one| text(&one["definition"]).into()));
    }
    for file in ["alerts.yaml", "alerts.test.yaml"] {
        texts.push(fs::read_to_string(
            root().join("deploy/prometheus").join(file),
        )?);
    }
    let mut named = 0;
    for text in &texts {
        for metric in metrics(text) {
            // Those of pods are documented as those of ports.
            let port = metric.replace("sluice_rdma_pod_", "sluice_rdma_port_");
            ensure!(
                documented.contains(metric) || documented.contains(port.as_str()),
                "{metric} is not in docs/metrics.md: {text}"
            );
            named += 1;
        }
    }
    ensure!(named > 100, "only {named} names found");
    Ok(())
}

#[test]
fn dashboards_are_fit_to_be_imported() -> Result<()> {
    let mut uids = BTreeSet::new();
    for (path, dashboard) in dashboards()? {
        let at = path.display();
        let uid = text(&dashboard["uid"]).to_owned();
        ensure!(
            path.file_stem().is_some_and(|stem| stem == uid.as_str()) && uids.insert(uid),
            "{at}: its uid is not its name"
        );
        ensure!(dashboard["id"].is_null(), "{at}: an id of one Grafana");
        let variables = list(&dashboard["templating"]["list"]);
        let known: BTreeSet<_> = variables.iter().map(|one| text(&one["name"])).collect();
        ensure!(variables[0]["type"] == "datasource", "{at}");
        ensure!(
            list(&dashboard["links"])
                .iter()
                .any(|link| link["tags"] == json!(["sluice"]))
                && dashboard["tags"] == json!(["sluice"]),
            "{at}: not linked with the others"
        );
        let mut ids = BTreeSet::new();
        let mut places: Vec<[u64; 4]> = Vec::new();
        for panel in list(&dashboard["panels"]) {
            let title = text(&panel["title"]);
            ensure!(ids.insert(panel["id"].as_u64()), "{at}: {title}: its id");
            let place = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap_or(0));
            let [x, y, w, h] = place;
            ensure!(w > 0 && h > 0 && x + w <= 24, "{at}: {title}: its place");
            let overlaps = |[ox, oy, ow, oh]: &[u64; 4]| {
                x < ox + ow && *ox < x + w && y < oy + oh && *oy < y + h
            };
            ensure!(
                !places.iter().any(overlaps),
                "{at}: {title}: lies on another"
            );
            places.push(place);
        }
        for panel in panels(&dashboard) {
            let title = text(&panel["title"]);
            ensure!(
                !title.is_empty() && !text(&panel["description"]).is_empty(),
                "{at}: {title}: no description"
            );
            ensure!(
                panel["fieldConfig"]["defaults"]["unit"].is_string(),
                "{at}: {title}: no unit"
            );
            let sources = list(&panel["targets"]).iter().chain([panel]);
            for source in sources.map(|one| &one["datasource"]["uid"]) {
                ensure!(source == "${datasource}", "{at}: {title}: source {source}");
            }
        }
        for (title, query) in queries(&dashboard) {
            for variable in query.split('$').skip(1) {
                let end = variable.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                let name = &variable[..end.unwrap_or(variable.len())];
                ensure!(
                    name == "__rate_interval" || known.contains(name),
                    "{at}: {title}: ${name}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn alerts_are_raised_when_they_must_and_not_otherwise() -> Result<()> {
    let folder = root().join("deploy/prometheus");
    let promtool = |arguments: &[&str]| {
        let mut command = Command::new("promtool");
        output(command.args(arguments).current_dir(&folder))
    };
    promtool(&["check", "rules", "--lint-fatal", "alerts.yaml"])?;
    promtool(&["test", "rules", "alerts.test.yaml"])?;
    let named = |file: &str, key: &str| -> Result<Vec<String>> {
        let text = fs::read_to_string(folder.join(file))?;
        let names = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix(key));
        Ok(names.map(str::to_owned).collect())
    };
    let tested = named("alerts.test.yaml", "alertname: ")?;
    let alerts = named("alerts.yaml", "- alert: ")?;
    ensure!(!alerts.is_empty());
    for alert in alerts {
        let times = tested.iter().filter(|name| **name == alert).count();
        ensure!(
            times >= 2,
            "{alert}: tested {times} times, not once each way"
        );
    }
    Ok(())
}

/// A node whose agent has something to tell of everything.
struct Busy {
    node: TestNode,
    agent: TestAgent,
    _folder: PolicyFolder,
}

/// Places of pods.
const SENDER: usize = 0;
const RECEIVER: usize = 1;
const ISOLATED: usize = 2;
const AUDITED: usize = 3;
const NAMES: [&str; 4] = ["sender", "receiver", "isolated", "audited"];

impl Busy {
    fn new() -> Result<Self> {
        let node = TestNode::new(NAMES.len())?;
        let folder = PolicyFolder::new()?;
        let mut objects = vec![namespace("shop")];
        objects.extend((0..NAMES.len()).map(|place| pod(place, "shop", NAMES[place])));
        for name in [NAMES[ISOLATED], NAMES[AUDITED]] {
            let spec = json!({"podSelector": {"matchLabels": {"pod": name}}, "ingress": []});
            objects.push(policy("shop", name, spec));
        }
        folder.write("cluster.yaml", &objects)?;
        let agent = TestAgent::start(
            &node.node,
            &["--metrics-address", METRICS, "--policy-dir", &folder.path()],
        )?;
        agent.run(&["uplink", "add", UPLINK])?;
        for (pod, name) in node.pods.iter().zip(NAMES) {
            let endpoint = agent.json(&[
                "attach",
                "--netns",
                pod.name(),
                POD_INTERFACE,
                "--pod",
                &format!("shop/{name}"),
            ])?;
            if name == NAMES[AUDITED] {
                let id = endpoint["id"].to_string();
                agent.run(&["policy", "audit", &id, "on"])?;
            }
        }
        agent.run(&["block", "add", "192.0.2.0/24"])?;
        Ok(Self {
            node,
            agent,
            _folder: folder,
        })
    }

    /// Some of everything.
    fn traffic(&self, round: u32) -> Result<()> {
        let pods = &self.node.pods;
        let address = |place: usize| addresses(place)[0].clone();
        pings(&pods[SENDER], &address(RECEIVER))?;
        pings(&pods[ISOLATED], &address(RECEIVER))?;
        pings(&self.node.node, &address(SENDER))?;
        for closed in [ISOLATED, AUDITED] {
            let to: IpAddr = address(closed).parse()?;
            let from: IpAddr = address(SENDER).parse()?;
            let wire = Wire::open(&pods[SENDER], POD_INTERFACE)?;
            let frame = Frame::between(from, to)
                .macs(wire.mac(), Wire::open(&pods[closed], POD_INTERFACE)?.mac());
            wire.send(&frame.carry(17, &udp(4000, 4001, &[0; 32])))?;
        }
        let target = Wire::open(&pods[RECEIVER], POD_INTERFACE)?.mac();
        let outside = (&self.node.machine, "eth0", MACHINE[0].to_owned());
        let inside = (&pods[SENDER], POD_INTERFACE, address(SENDER));
        for (netns, interface, source) in [inside, outside] {
            let wire = Wire::open(netns, interface)?;
            let frame = Frame::between(source.parse()?, address(RECEIVER).parse()?)
                .macs(wire.mac(), target);
            for bytes in roce(&frame, round) {
                wire.send(&bytes)?;
            }
            // Longer than it is: refused at the pod's interface, counted at the uplink.
            wire.send(&frame.clone().claim(2000).carry(17, &udp(1, 2, &[0; 32])))?;
            let blocked = Frame::between("192.0.2.1".parse()?, address(RECEIVER).parse()?)
                .macs(wire.mac(), target);
            wire.send(&blocked.carry(17, &udp(4000, 4001, &[0; 32])))?;
        }
        Ok(())
    }
}

/// RoCE packets of every kind that the dashboards show.
fn roce(frame: &Frame, round: u32) -> Vec<Vec<u8>> {
    let psn = round * 100;
    let mut packets = vec![
        Roce::write(psn, 512),
        Roce::write(psn + 1, 512),
        // Again, and one too early.
        Roce::write(psn + 1, 512),
        Roce::write(psn + 5, 512),
        Roce::read(psn + 6, 256),
        Roce::new(0x11).psn(psn).with(&aeth(0x1f)),
        Roce::new(0x11).psn(psn).with(&aeth(0x20)),
        Roce::cnp(),
        Roce::write(psn, 64).version(1),
    ];
    for code in 0x60..0x65 {
        packets.push(Roce::new(0x11).psn(psn).with(&aeth(code)));
    }
    let mut bytes: Vec<_> = packets.iter().map(|packet| packet.v2(frame)).collect();
    bytes.push(Roce::write(psn + 7, 512).v2(&frame.clone().tos(3)));
    bytes
}

#[test]
fn every_panel_has_data() -> Result<()> {
    let busy = Busy::new()?;
    let prometheus = Prometheus::start(&busy.node.node, METRICS)?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let traffic = scope.spawn(|| -> Result<()> {
            let mut round = 0;
            while !done.load(Ordering::Relaxed) {
                busy.traffic(round)?;
                round += 1;
                // Some rounds between two scrapes; more would only cost.
                thread::sleep(Duration::from_millis(300));
            }
            Ok(())
        });
        let asked = ask_all(&prometheus);
        done.store(true, Ordering::Relaxed);
        let sent = traffic.join().ok().context("the traffic panicked")?;
        asked.and(sent)
    })?;
    ensure!(busy.agent.id()? > 0, "the agent is gone");
    Ok(())
}

fn ask_all(prometheus: &Prometheus<'_>) -> Result<()> {
    for (path, dashboard) in dashboards()? {
        let at = path.display();
        for (title, query) in queries(&dashboard) {
            let mut expression = query.replace("$__rate_interval", "10s");
            for variable in ["instance", "namespace", "pod", "endpoint"] {
                expression = expression.replace(&format!("${variable}"), ".*");
            }
            // That it is one at all.
            prometheus
                .query(&expression)
                .with_context(|| format!("{at}: {title}"))?;
            let named = metrics(query);
            if UNSEEN
                .iter()
                .any(|(name, _)| named.iter().any(|metric| metric.starts_with(name)))
            {
                continue;
            }
            wait_until(&format!("data for {at}: {title}: {expression}"), || {
                Ok(!prometheus.query(&expression)?.is_empty())
            })?;
        }
        for variable in list(&dashboard["templating"]["list"]).iter().skip(1) {
            let definition = text(&variable["definition"]);
            let (metric, label) = definition
                .strip_prefix("label_values(")
                .and_then(|rest| rest.strip_suffix(')')?.rsplit_once(", "))
                .with_context(|| format!("{at}: {definition}"))?;
            let mut expression = format!("count by ({label}) ({metric})");
            for known in ["instance", "namespace", "pod"] {
                expression = expression.replace(&format!("${known}"), ".*");
            }
            let found = prometheus.query(&expression)?;
            ensure!(
                found
                    .iter()
                    .any(|series| series["metric"][label].is_string()),
                "{at}: {definition} has no values"
            );
        }
    }
    Ok(())
}
