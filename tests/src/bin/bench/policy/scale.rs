//! A real agent on a node of the largest size that is promised: 500 endpoints, 1,000 policies, 5,000
//! pods, 10,000 prefixes.

use std::{collections::BTreeMap, fs, time::Instant};

use anyhow::{Context as _, Result, ensure};
use dataplane::{
    agent::Agent,
    api::types::{AttachRequest, PodName},
};
use serde_json::Value;
use sluice_tests::{
    agent::TestAgent,
    netns::TestNetns,
    node::{POD_INTERFACE, UPLINK},
    policy::{
        PolicyFolder,
        large::{
            CIDRS, ENDPOINTS, PODS, POLICIES, address, large_cluster, namespace_name, numbered_pod,
        },
    },
    poll::wait_until,
};

use crate::{
    interrupt,
    local::{options, request},
    row::{Bar, Row},
    scale::Process,
};

const STARTS: usize = 3;
const CHANGES: usize = 7;

pub(crate) fn measure() -> Result<Vec<Row>> {
    let node = TestNetns::new()?;
    let machine = TestNetns::new()?;
    node.add_veth(UPLINK, &machine, "eth0")?;
    let folder = PolicyFolder::new()?;
    let mut files = Files::new();
    files.write_all(&folder)?;
    let agent = TestAgent::prepare(&node, &["--policy-dir", &folder.path()])?;
    eprintln!("    making and attaching {ENDPOINTS} pods, each in a namespace (up to a minute)");
    let pods = (0..ENDPOINTS)
        .map(|_| {
            interrupt::check()?;
            let pod = TestNetns::new()?;
            node.add_macvlan(UPLINK, &pod, POD_INTERFACE, "bridge")?;
            Ok(pod)
        })
        .collect::<Result<Vec<_>>>()?;
    attach(&node, &agent, &pods)?;

    let mut rows = Rows::default();
    for start in 0..STARTS {
        interrupt::check()?;
        let begun = Instant::now();
        let (process, _) = Process::start(&agent)?;
        let status = in_force(&agent, |status| {
            status["compile_seconds"].as_f64() > Some(0.0)
        })?;
        rows.add("start-to-in-force", "s", begun.elapsed().as_secs_f64());
        ensure!(
            status["policies"].as_array().map(Vec::len) == Some(POLICIES),
            "policies"
        );
        ensure!(status["pods"] == PODS, "{} pods", status["pods"]);
        ensure!(
            status["prefixes"].as_u64() >= Some(CIDRS as u64),
            "{}",
            status["prefixes"]
        );
        // The first start fills the maps, the others find them full.
        let case = if start == 0 { "all" } else { "restart" };
        rows.add_times(case, &status)?;
        if start + 1 == STARTS {
            for change in 0..CHANGES {
                interrupt::check()?;
                files.move_pod(change);
                rows.add_change("pod", &agent, || files.write(&folder, "pods-0"))?;
                files.change_policy(change);
                rows.add_change("policy", &agent, || files.write(&folder, "policies-1"))?;
            }
        }
        rows.add("memory", "MiB", process.resident_mib()?);
        rows.add("maps", "MiB", map_mib(&process)?);
    }
    eprintln!("    removing them");
    Ok(rows.finish())
}

/// The cluster's manifests, by file.
struct Files(BTreeMap<String, Vec<Value>>);

impl Files {
    /// Pods and policies of a namespace are a file each.
    fn new() -> Self {
        let mut files = BTreeMap::<_, Vec<_>>::new();
        for object in large_cluster().objects {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
            let number = namespace.trim_start_matches("team-");
            let file = match object["kind"].as_str() {
                Some("Pod") => format!("pods-{number}"),
                Some("Namespace") => "namespaces".to_owned(),
                _ => format!("policies-{number}"),
            };
            files.entry(file).or_default().push(object);
        }
        Self(files)
    }

    fn write_all(&self, folder: &PolicyFolder) -> Result<()> {
        let mut names = self.0.keys();
        names.try_for_each(|name| self.write(folder, name))
    }

    fn write(&self, folder: &PolicyFolder, name: &str) -> Result<()> {
        folder.write(&format!("{name}.yaml"), &self.0[name])
    }

    /// The last pod of the first namespace goes, one with another address comes.
    fn move_pod(&mut self, number: usize) {
        let mut pod = numbered_pod(PODS + number * 20);
        pod["metadata"]["labels"] = numbered_pod(PODS - 20)["metadata"]["labels"].clone();
        if let Some(last) = self.0.get_mut("pods-0").and_then(|pods| pods.last_mut()) {
            *last = pod;
        }
    }

    /// A policy gets another port.
    fn change_policy(&mut self, number: usize) {
        if let Some(policy) = self.0.get_mut("policies-1").and_then(|all| all.first_mut()) {
            policy["spec"]["ingress"][0]["ports"][0]["port"] = (10_000 + number).into();
        }
    }
}

fn attach(node: &TestNetns, agent: &TestAgent, pods: &[TestNetns]) -> Result<()> {
    let pins = agent.pins();
    let root = pins.parent().context("pins without a folder")?;
    // Where the real one will run, so that it finds what it would have left.
    let opened = node.enter(|| Agent::open(options(agent.state(), root.to_owned())))??;
    for (number, pod) in pods.iter().enumerate() {
        interrupt::check()?;
        pod.add_address(POD_INTERFACE, &format!("{}/12", address(number)))?;
        opened.attach(&AttachRequest {
            pod: Some(PodName {
                namespace: namespace_name(number),
                name: format!("pod-{number}"),
            }),
            ..request(pod, POD_INTERFACE)
        })?;
    }
    Ok(())
}

/// Waits until the agent's status is as wished.
fn in_force(agent: &TestAgent, wished: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut status = Value::Null;
    wait_until("the policies to be in force", || {
        status = agent.json(&["policy", "list"])?;
        Ok(wished(&status))
    })?;
    let problems = status["problems"].as_array().context("no problems")?;
    ensure!(problems.is_empty(), "{problems:?}");
    Ok(status)
}

/// What the agent's maps take, as the kernel says (`memlock` in its `fdinfo`), each map once.
fn map_mib(process: &Process) -> Result<f64> {
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{}/fdinfo", process.id()))? {
        // A descriptor may be closed meanwhile.
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<u64>().ok()
        };
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    ensure!(!maps.is_empty(), "the agent has no map open");
    Ok(maps.values().sum::<u64>() as f64 / f64::from(1 << 20))
}

/// Samples by case.
#[derive(Default)]
struct Rows(BTreeMap<String, (&'static str, Vec<f64>)>);

impl Rows {
    fn add(&mut self, case: &str, unit: &'static str, sample: f64) {
        let (_, samples) = self.0.entry(case.to_owned()).or_insert((unit, Vec::new()));
        samples.push(sample);
    }

    /// What the agent says of its last change.
    fn add_times(&mut self, case: &str, status: &Value) -> Result<()> {
        for part in ["compile", "apply"] {
            let seconds = status[format!("{part}_seconds")].as_f64();
            let seconds = seconds.context("no times")?;
            self.add(&format!("{case}-{part}"), "ms", seconds * 1e3);
        }
        Ok(())
    }

    /// Makes a change and adds how long the agent took, and how long it was until somebody who asks
    /// now and again was told.
    fn add_change(
        &mut self,
        case: &str,
        agent: &TestAgent,
        change: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let before = agent.json(&["policy", "list"])?["generation"].as_u64();
        let start = Instant::now();
        change()?;
        let status = in_force(agent, |status| status["generation"].as_u64() > before)?;
        let took = start.elapsed().as_secs_f64() * 1e3;
        self.add(&format!("{case}-change-file-to-in-force"), "ms", took);
        self.add_times(&format!("{case}-change"), &status)
    }

    fn finish(self) -> Vec<Row> {
        let rows = self.0.into_iter();
        rows.map(|(case, (unit, samples))| {
            Row::alone(format!("policy-scale/{case}"), unit, &samples, Bar::None)
        })
        .collect()
    }
}
