//! CNI: ADD and DEL by plugin binaries, ours in turn with the reference macvlan plugin's, one pod
//! at a time and eight at once.
//!
//! Every plugin is run as a runtime runs it: a process for each call, its configuration on
//! standard input. Ours does not look for address conflicts in the rows with a bar, since the
//! reference does not either; a row of its own tells what that takes.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};
use sluice_tests::{
    agent::TestAgent,
    cni::{plugin, reference_plugins},
    netns::TestNetns,
    node::{TestNode, UPLINK},
};
use tempfile::TempDir;

use crate::{
    interrupt,
    row::{Bar, Row},
    sys::{self, Kind},
};

const SERIAL: usize = 60;
const AT_ONCE: usize = 8;
const ROUNDS: usize = 15;
const STARTS: usize = 200;
/// What the kernel is given to be done with what went before.
const SETTLE: Duration = Duration::from_millis(40);
/// As long as a runtime would wait; our detection of address conflicts takes seconds.
const DETECTIONS: usize = 5;

/// The chains that are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// Reference macvlan with static addresses.
    Reference,
    /// The same, and ours behind it.
    Chained,
    /// Ours alone, with static addresses.
    Main,
}

const VARIANTS: [Variant; 3] = [Variant::Reference, Variant::Chained, Variant::Main];

/// What an ADD and its DEL took, in milliseconds.
#[derive(Clone, Copy)]
struct Pair {
    add: f64,
    del: f64,
}

pub(crate) fn measure() -> Result<Vec<Row>> {
    let bench = Bench::new()?;
    let mut rows = bench.starts()?;
    rows.push(bench.memory()?);
    rows.extend(bench.serial()?);
    rows.extend(bench.at_once()?);
    rows.push(bench.detection()?);
    bench.agent.dismiss();
    Ok(rows)
}

/// A node, an agent of its own, and the folder where plugins are.
struct Bench {
    folder: TempDir,
    agent: TestAgent,
    node: TestNode,
    /// The kernel's code for TCX hooks is patched in with the first program on one, and out with
    /// the last; a node in use has some.
    stays: Option<BenchPod>,
}

impl Bench {
    fn new() -> Result<Self> {
        let node = TestNode::new(0)?;
        let agent = TestAgent::start(&node.node, &[])?;
        let folder = TempDir::new()?;
        for entry in fs::read_dir(reference_plugins()?)? {
            let entry = entry?;
            std::os::unix::fs::symlink(entry.path(), folder.path().join(entry.file_name()))?;
        }
        std::os::unix::fs::symlink(plugin()?, folder.path().join("sluice"))?;
        let mut this = Self {
            folder,
            agent,
            node,
            stays: None,
        };
        let stays = this.pod(255)?;
        this.on_node(|| this.add(Variant::Main, &stays, &[]))?;
        this.stays = Some(stays);
        Ok(this)
    }

    fn pod(&self, number: usize) -> Result<BenchPod> {
        Ok(BenchPod {
            netns: TestNetns::new()?,
            container: format!("pod-{number}"),
            address: format!("10.79.{}.{}/16", number / 250, 1 + number % 250),
        })
    }

    /// Runs on a thread in the node's namespace, where plugins find their master.
    fn on_node<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.node.node.enter(work)?
    }

    fn plugins(&self, variant: Variant, pod: &BenchPod, more: &[(&str, Value)]) -> Vec<Value> {
        let ipam = json!({"type": "static", "addresses": [{"address": pod.address}]});
        let of = |kind: &str| {
            json!({
                "cniVersion": "1.0.0", "name": "bench", "type": kind, "master": UPLINK,
                "mode": "bridge", "ipam": ipam,
            })
        };
        let mut ours = json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "sluice", "socket": self.agent.socket(),
            "stateDir": self.agent.state(),
        });
        for (key, value) in more {
            ours[*key] = value.clone();
        }
        let mut main = ours.clone();
        for (key, value) in [
            ("mode", json!("macvlan")),
            ("master", json!(UPLINK)),
            ("ipam", ipam.clone()),
            ("detectConflicts", json!(false)),
        ] {
            if main[key].is_null() {
                main[key] = value;
            }
        }
        match variant {
            Variant::Reference => vec![of("macvlan")],
            Variant::Chained => vec![of("macvlan"), ours],
            Variant::Main => vec![main],
        }
    }

    /// ADD by all plugins of a chain, in milliseconds.
    fn add(&self, variant: Variant, pod: &BenchPod, more: &[(&str, Value)]) -> Result<f64> {
        let mut plugins = self.plugins(variant, pod, more);
        let start = Instant::now();
        let mut previous: Option<Value> = None;
        for config in &mut plugins {
            if let Some(previous) = previous {
                config["prevResult"] = previous;
            }
            previous = Some(self.call("ADD", pod, config)?);
        }
        Ok(milliseconds(start))
    }

    fn del(&self, variant: Variant, pod: &BenchPod) -> Result<f64> {
        let plugins = self.plugins(variant, pod, &[]);
        let start = Instant::now();
        for config in plugins.iter().rev() {
            self.call("DEL", pod, config)?;
        }
        Ok(milliseconds(start))
    }

    fn call(&self, verb: &str, pod: &BenchPod, config: &Value) -> Result<Value> {
        let kind = config["type"].as_str().context("no type")?;
        let mut child = Command::new(self.folder.path().join(kind))
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &pod.container)
            .env("CNI_NETNS", pod.netns.path())
            .env("CNI_IFNAME", "net1")
            .env("CNI_PATH", self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let text = serde_json::to_vec(config)?;
        child.stdin.take().context("no input")?.write_all(&text)?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{verb} of {kind}: {said}");
        if said.is_empty() {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_str(&said)?)
    }

    /// The time that a process takes which has nothing to do, and our VERSION.
    fn starts(&self) -> Result<Vec<Row>> {
        let plugin = self.folder.path().join("sluice");
        let reference = self.folder.path().join("macvlan");
        let [mut nothing, mut ours, mut theirs] = [(); 3].map(|()| Vec::new());
        for _ in 0..STARTS {
            interrupt::check()?;
            nothing.push(start(Path::new("/bin/true"))?);
            ours.push(start(&plugin)?);
            theirs.push(start(&reference)?);
        }
        Ok(vec![
            Row::beside(
                "cni/version",
                "ms",
                &ours,
                &nothing,
                Bar::TimesBaseline(1.5),
            ),
            Row::beside("cni/version-reference", "ms", &theirs, &nothing, Bar::None),
        ])
    }

    /// The plugin's resident memory at its highest, which its IPAM plugin sees: by then the
    /// configuration is read and the agent asked.
    fn memory(&self) -> Result<Row> {
        let witness = self.folder.path().join("witness");
        let seen = self.folder.path().join("seen");
        fs::write(
            &witness,
            format!(
                "#!/bin/sh\ncat > /dev/null\n[ $CNI_COMMAND = ADD ] || exit 0\n\
                 while read -r name value unit; do\n\
                 [ $name != VmHWM: ] || echo $value >> {}\ndone < /proc/$PPID/status\n\
                 echo '{{\"cniVersion\":\"1.0.0\",\"ips\":[{{\"address\":\"10.79.9.9/16\"}}]}}'\n",
                seen.display()
            ),
        )?;
        fs::set_permissions(
            &witness,
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )?;
        let pod = self.pod(0)?;
        for _ in 0..5 {
            self.on_node(|| {
                self.add(Variant::Main, &pod, &[("ipam", json!({"type": "witness"}))])
            })?;
            self.on_node(|| self.del(Variant::Main, &pod))?;
        }
        let text = fs::read_to_string(&seen).context("the IPAM plugin saw nothing")?;
        let samples: Vec<f64> = text
            .lines()
            .map(|line| Ok(line.parse::<f64>()? / 1024.0))
            .collect::<Result<_>>()?;
        Ok(Row::alone("cni/memory", "MiB", &samples, Bar::AtMost(8.0)))
    }

    /// The kernel's own time for two TCX attachments, as in the benchmark `attach`.
    fn bare(&self, pod: &BenchPod) -> Result<f64> {
        let empty = sys::empty_program(Kind::Tc, sys::TC_NEXT)?;
        let ifindex = pod.netns.describe("bare0")?["ifindex"].clone();
        let ifindex = ifindex.as_u64().context("interface without an index")? as u32;
        thread::sleep(SETTLE);
        pod.netns.enter(|| ())?;
        pod.netns.enter(|| {
            let start = Instant::now();
            let _links = sys::attach_both(&empty, ifindex)?;
            Ok(milliseconds(start))
        })?
    }

    fn serial(&self) -> Result<Vec<Row>> {
        let pod = self.pod(0)?;
        let bare_pod = self.pod(1)?;
        self.node
            .node
            .add_macvlan(UPLINK, &bare_pod.netns, "bare0", "bridge")?;
        let mut pairs: [Vec<Pair>; 3] = Default::default();
        let mut bare = Vec::new();
        for _ in 0..SERIAL {
            interrupt::check()?;
            bare.push(self.bare(&bare_pod)?);
            for (variant, pairs) in VARIANTS.into_iter().zip(&mut pairs) {
                thread::sleep(SETTLE);
                let add = self.on_node(|| self.add(variant, &pod, &[]))?;
                thread::sleep(SETTLE);
                let del = self.on_node(|| self.del(variant, &pod))?;
                pairs.push(Pair { add, del });
            }
        }
        let mut rows = vec![Row::alone("cni/bare-attachments", "ms", &bare, Bar::None)];
        rows.extend(self.rows("one", &pairs, Some(&bare)));
        Ok(rows)
    }

    /// Eight pods at the same moment, in rounds; the variants take turns.
    fn at_once(&self) -> Result<Vec<Row>> {
        let pods = (0..AT_ONCE)
            .map(|number| self.pod(number))
            .collect::<Result<Vec<_>>>()?;
        let mut pairs: [Vec<Pair>; 3] = Default::default();
        for _ in 0..ROUNDS {
            interrupt::check()?;
            for (variant, pairs) in VARIANTS.into_iter().zip(&mut pairs) {
                thread::sleep(SETTLE);
                let adds = self.together(&pods, |pod| self.add(variant, pod, &[]))?;
                thread::sleep(SETTLE);
                let dels = self.together(&pods, |pod| self.del(variant, pod))?;
                pairs.extend(
                    adds.into_iter()
                        .zip(dels)
                        .map(|(add, del)| Pair { add, del }),
                );
            }
        }
        Ok(self.rows("eight", &pairs, None))
    }

    fn together(
        &self,
        pods: &[BenchPod],
        work: impl Fn(&BenchPod) -> Result<f64> + Sync,
    ) -> Result<Vec<f64>> {
        let barrier = Barrier::new(pods.len());
        thread::scope(|scope| {
            let threads: Vec<_> = pods
                .iter()
                .map(|pod| {
                    let (barrier, work) = (&barrier, &work);
                    scope.spawn(move || {
                        self.on_node(|| {
                            barrier.wait();
                            work(pod)
                        })
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| anyhow!("panicked"))?)
                .collect()
        })
    }

    /// A variant's rows beside the reference's. The bars are set for one pod at a time; what the
    /// kernel takes for the attachments comes on top.
    fn rows(&self, load: &str, pairs: &[Vec<Pair>; 3], bare: Option<&[f64]>) -> Vec<Row> {
        let [reference, chained, main] = pairs;
        let adds = |pairs: &[Pair]| pairs.iter().map(|pair| pair.add).collect::<Vec<_>>();
        let dels = |pairs: &[Pair]| pairs.iter().map(|pair| pair.del).collect::<Vec<_>>();
        let base = adds(reference);
        let bars = bare.map(|bare| {
            let (base, bare) = (median(&base), median(bare));
            [
                Bar::Computed(0.6 * base + bare, "≤ 0.6 × baseline + attachments"),
                Bar::Computed(base + 4.0 + bare, "≤ baseline + 4 + attachments"),
            ]
        });
        let [main_bar, chained_bar] = bars.unwrap_or([Bar::None, Bar::None]);
        let name = |verb: &str, variant: &str| format!("cni/{verb}-{load}-{variant}");
        vec![
            Row::alone(name("add", "reference"), "ms", &base, Bar::None),
            Row::beside(name("add", "main"), "ms", &adds(main), &base, main_bar),
            Row::beside(
                name("add", "chained"),
                "ms",
                &adds(chained),
                &base,
                chained_bar,
            ),
            Row::alone(name("del", "reference"), "ms", &dels(reference), Bar::None),
            Row::beside(
                name("del", "main"),
                "ms",
                &dels(main),
                &dels(reference),
                Bar::None,
            ),
            Row::beside(
                name("del", "chained"),
                "ms",
                &dels(chained),
                &dels(reference),
                Bar::None,
            ),
        ]
    }

    /// ADD as it is by default: the pod waits until nobody has claimed its address.
    fn detection(&self) -> Result<Row> {
        let pod = self.pod(0)?;
        let mut samples = Vec::new();
        for _ in 0..DETECTIONS {
            interrupt::check()?;
            let more = [("detectConflicts", json!(true))];
            samples.push(self.on_node(|| self.add(Variant::Main, &pod, &more))?);
            self.on_node(|| self.del(Variant::Main, &pod))?;
        }
        Ok(Row::alone(
            "cni/add-one-main-detecting-conflicts",
            "ms",
            &samples,
            Bar::None,
        ))
    }
}

struct BenchPod {
    netns: TestNetns,
    container: String,
    address: String,
}

/// Runs a program as CNI's VERSION, to its end.
fn start(program: &Path) -> Result<f64> {
    let start = Instant::now();
    let mut child = Command::new(program)
        .env("CNI_COMMAND", "VERSION")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    // `/bin/true` does not read it.
    let _ = child
        .stdin
        .take()
        .context("no input")?
        .write_all(br#"{"cniVersion":"1.0.0"}"#);
    let output = child.wait_with_output()?;
    let took = milliseconds(start);
    ensure!(output.status.success(), "{}", program.display());
    Ok(took)
}

fn median(samples: &[f64]) -> f64 {
    crate::row::percentile(samples, 50)
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
