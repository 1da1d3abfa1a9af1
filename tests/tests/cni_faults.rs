//! Crashes and broken disks at every step of ADD and DEL. Each test says how many faults it
//! injected and that nothing was left.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sluice_tests::{
    agent::TestAgent,
    cni::{
        call::{Call, Reply},
        chain::Chain,
        faults::{Chance, Tally, seed},
        node::{CniNode, CniPod, INTERFACE, chained_list, main_list},
        sandbox::Sandbox,
    },
    netns::output,
    poll::{wait_for, wait_until},
};

/// Steps of the agent and of the plugin, on ADD and DEL.
const AGENT_ADD: &[&str] = &[
    "cni::add::before_intent",
    "cni::add::after_intent",
    "cni::add::after_attach",
    "cni::add::after_done",
];
const AGENT_ADD_MAIN: &[&str] = &[
    "cni::add::before_intent",
    "cni::add::after_intent",
    "cni::add::after_create",
    "cni::add::after_attach",
    "cni::add::after_created",
    "cni::configure::before",
    "cni::configure::after_probe",
    "cni::configure::after_addresses",
    "cni::configure::after_routes",
    "cni::configure::after_done",
];
const AGENT_DEL: &[&str] = &[
    "cni::del::before_undo",
    "cni::del::after_unmake",
    "cni::del::after_detach",
    "cni::del::before_forget",
    "cni::del::after_forget",
];
const PLUGIN_ADD: &[&str] = &[
    "cni::plugin::add::before_agent",
    "cni::plugin::add::after_agent",
];
const PLUGIN_ADD_MAIN: &[&str] = &[
    "cni::plugin::add::before_ipam",
    "cni::plugin::add::after_create",
    "cni::plugin::add::after_ipam",
    "cni::plugin::add::after_configure",
];
const PLUGIN_DEL: &[&str] = &[
    "cni::plugin::del::before_agent",
    "cni::plugin::del::after_agent",
    "cni::plugin::del::after_ipam",
];

/// How often a runtime tries a DEL again before this test gives up.
const PATIENCE: usize = 50;

/// One way to use the plugin, with a node of its own and what it looked like before.
struct Case {
    node: CniNode,
    list: Chain,
    main: bool,
    tally: Tally,
}

impl Case {
    fn new(main: bool) -> Result<Self> {
        let node = CniNode::with_failpoints()?;
        let list = if main {
            main_list("1.0.0")
        } else {
            chained_list("1.0.0")
        };
        let case = Self {
            node,
            list,
            main,
            tally: Tally::default(),
        };
        // Clients and IPAM make their folders once.
        let pod = CniPod::new("warm-up")?;
        let added = case.list.add(&case.node.sandbox, &pod.call("ADD"))?;
        case.list
            .del(&case.node.sandbox, &pod.call("DEL"), Some(&added))?;
        Ok(case)
    }

    /// Starts the agent anew, to do this at that step; with `None` to do its work only.
    fn restart(&mut self, failpoint: Option<(&str, &str)>) -> Result<()> {
        let set = failpoint.map(|(point, action)| format!("{point}=return({action})"));
        self.node
            .agent
            .set_environment("FAILPOINTS", &set.unwrap_or_default());
        self.node.agent.restart()
    }

    /// ADD up to our plugin, and our plugin's answer.
    fn add(&self, call: &Call) -> Result<Reply> {
        let mut previous = None;
        let mut configurations = self.list.configurations(None)?;
        let (plugin, _) = configurations.pop().context("an empty list")?;
        for (other, config) in configurations {
            let plain = Call {
                environment: Vec::new(),
                ..call.clone()
            };
            previous = Some(plain.run(&self.node.sandbox, &other, &config)?.result()?);
        }
        let configurations = self.list.configurations(previous.as_ref())?;
        let (_, config) = configurations.last().context("an empty list")?;
        call.run(&self.node.sandbox, &plugin, config)
    }

    /// ADD by our plugin only, as if the runtime asked again.
    fn add_again(&self, pod: &CniPod) -> Result<Value> {
        let previous = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": INTERFACE, "sandbox": pod.netns.path().display().to_string()}],
        });
        let previous = (!self.main).then_some(&previous);
        let configurations = self.list.configurations(previous)?;
        let (plugin, config) = configurations.last().context("an empty list")?;
        pod.call("ADD")
            .run(&self.node.sandbox, plugin, config)?
            .result()
    }

    fn del(&self, call: &Call) -> Result<()> {
        del_until_done(&self.list, &self.node.sandbox, call)
    }

    fn report(&self, what: &str) {
        println!(
            "{what}, {}: injected {}; left: nothing",
            if self.main { "main plugin" } else { "chained" },
            self.tally
        );
    }
}

/// DEL as a runtime does it: again until all plugins say that it is done.
fn del_until_done(list: &Chain, sandbox: &Sandbox, call: &Call) -> Result<()> {
    let mut last = None;
    for _ in 0..PATIENCE {
        match list.del(sandbox, call, None) {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(error),
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(last.context("never tried")?).context("DEL never succeeded")
}

/// The agent dies at every step of an ADD. The runtime then undoes the ADD, or tries it again.
#[test]
fn agent_killed_at_each_step_of_add() -> Result<()> {
    for main in [false, true] {
        let mut case = Case::new(main)?;
        let points = if main { AGENT_ADD_MAIN } else { AGENT_ADD };
        ensure!(!points.is_empty(), "no failpoints");
        for &point in points {
            for retry in [false, true] {
                let context = || format!("{point}, main {main}, retry {retry}");
                let pod = CniPod::new("pod-1")?;
                let before = case.node.look(&[("pod", &pod.netns)])?;
                case.node.agent.kill()?;
                case.restart(Some((point, "kill")))?;
                let reply = case.add(&pod.call("ADD"))?;
                let (code, _) = reply.error().with_context(context)?;
                case.node.agent.wait_dead().with_context(context)?;
                case.tally.count("agent killed");
                assert_eq!(code, 11, "{}: {reply}", context());
                if main {
                    pod.ensure_protected().with_context(context)?;
                }
                case.restart(None)?;
                if retry {
                    case.add_again(&pod).with_context(context)?;
                    assert!(pod.protected(INTERFACE)?, "{}", context());
                }
                case.del(&pod.call("DEL")).with_context(context)?;
                case.node
                    .wait_same(&before, &[("pod", &pod.netns)])
                    .with_context(context)?;
            }
        }
        case.report("agent killed at each step of ADD");
    }
    Ok(())
}

/// The agent dies at every step of a DEL: the DEL succeeds by a tombstone or is tried again.
#[test]
fn agent_killed_at_each_step_of_del() -> Result<()> {
    for main in [false, true] {
        let mut case = Case::new(main)?;
        ensure!(!AGENT_DEL.is_empty(), "no failpoints");
        for &point in AGENT_DEL {
            for namespace_stays in [true, false] {
                let context = || format!("{point}, main {main}, namespace stays {namespace_stays}");
                let before = case.node.look(&[])?;
                let pod = CniPod::new("pod-1")?;
                case.add(&pod.call("ADD"))?.result()?;
                case.node.agent.kill()?;
                case.restart(Some((point, "kill")))?;
                let call = pod.call("DEL");
                let _ = case.list.del(&case.node.sandbox, &call, None);
                case.node.agent.wait_dead().with_context(context)?;
                case.tally.count("agent killed");
                if !namespace_stays {
                    pod.netns.remove()?;
                    case.tally.count("namespace deleted");
                }
                case.restart(None)?;
                case.del(&call).with_context(context)?;
                case.node.wait_same(&before, &[]).with_context(context)?;
            }
        }
        case.report("agent killed at each step of DEL");
    }
    Ok(())
}

/// The plugin dies at every step, of ADD and of DEL; the runtime undoes.
#[test]
fn plugin_killed_at_each_step() -> Result<()> {
    for main in [false, true] {
        let case = Case::new(main)?;
        let adds = if main { PLUGIN_ADD_MAIN } else { PLUGIN_ADD };
        let points = adds
            .iter()
            .map(|point| ("ADD", *point))
            .chain(PLUGIN_DEL.iter().map(|point| ("DEL", *point)));
        for (verb, point) in points {
            let context = || format!("{point}, main {main}");
            let pod = CniPod::new("pod-1")?;
            let before = case.node.look(&[("pod", &pod.netns)])?;
            let set = format!("{point}=return(kill)");
            if verb == "ADD" {
                let reply = case.add(&pod.call("ADD").with("FAILPOINTS", &set))?;
                ensure!(reply.killed(), "{}: not reached: {reply}", context());
                if main {
                    pod.ensure_protected().with_context(context)?;
                }
            } else {
                case.add(&pod.call("ADD"))?.result()?;
                let call = pod.call("DEL").with("FAILPOINTS", &set);
                let replies = case.list.del_replies(&case.node.sandbox, &call, None)?;
                ensure!(replies[0].killed(), "{}: not reached", context());
            }
            case.tally.count("plugin killed");
            case.del(&pod.call("DEL")).with_context(context)?;
            case.node
                .wait_same(&before, &[("pod", &pod.netns)])
                .with_context(context)?;
        }
        case.report("plugin killed at each step");
    }
    Ok(())
}

/// The pod's namespace goes while the agent is between two steps.
#[test]
fn namespace_deleted_between_steps() -> Result<()> {
    for main in [false, true] {
        let mut case = Case::new(main)?;
        let points = if main { AGENT_ADD_MAIN } else { AGENT_ADD };
        for &point in points {
            let context = || format!("{point}, main {main}");
            let before = case.node.look(&[])?;
            let reached = case.node.sandbox.folder().join("reached");
            case.node.agent.kill()?;
            case.restart(Some((point, &format!("wait:{}", reached.display()))))?;
            let pod = CniPod::new("pod-1")?;
            let (add, del) = (pod.call("ADD"), pod.call("DEL"));
            let removed = thread::scope(|scope| -> Result<Reply> {
                let adding = scope.spawn(|| case.add(&add));
                wait_for("the step to be reached", || {
                    Ok(reached.exists().then_some(()))
                })?;
                pod.netns.remove()?;
                fs::remove_file(&reached)?;
                adding.join().map_err(|_| anyhow::anyhow!("panicked"))?
            });
            // Whether it failed depends on what was left to do.
            removed.with_context(context)?;
            case.tally.count("namespace deleted");
            case.del(&del).with_context(context)?;
            case.node.agent.kill()?;
            case.restart(None)?;
            case.node.wait_same(&before, &[]).with_context(context)?;
        }
        case.report("namespace deleted between steps");
    }
    Ok(())
}

/// Runs a command in the agent's own mounts.
fn in_mounts(agent: &TestAgent, script: &str) -> Result<String> {
    let target = format!("--target={}", agent.id()?);
    output(
        std::process::Command::new("nsenter")
            .args([&target, "--mount", "sh", "-c", script, "sh"])
            .arg(agent.state()),
    )
}

/// The disk of the agent's records takes no more: ADD fails with a word of the disk, DEL works.
#[test]
fn a_disk_that_takes_no_writes() -> Result<()> {
    for main in [false, true] {
        let mut case = Case::new(main)?;
        case.node.agent.kill()?;
        case.node
            .agent
            .set_mounts("mkdir -p \"$1\"; mount -t tmpfs -o size=256k tmpfs \"$1\"");
        case.restart(None)?;
        for (fault, begin, end) in [
            (
                "disk full",
                "dd if=/dev/zero of=\"$1/filler\" bs=1k 2>/dev/null || true",
                "rm \"$1/filler\"",
            ),
            (
                "disk read-only",
                // Folder by folder, since the agent holds its lock file open for writing.
                "for folder in endpoints cni; do mount --bind \"$1/$folder\" \"$1/$folder\"; \
                 mount -o remount,bind,ro \"$1/$folder\"; done",
                "umount \"$1/endpoints\" \"$1/cni\"",
            ),
        ] {
            let context = || format!("{fault}, main {main}");
            let before = case.node.look(&[])?;
            let (old, new) = (CniPod::new("old")?, CniPod::new("new")?);
            case.add(&old.call("ADD"))?.result()?;
            in_mounts(&case.node.agent, begin)?;
            case.tally.count(fault);
            let reply = case.add(&new.call("ADD"))?;
            let (_, text) = reply.error().with_context(context)?;
            ensure!(
                text.contains("space") || text.to_lowercase().contains("read-only"),
                "{}: {reply}",
                context()
            );
            ensure!(old.protected(INTERFACE)?, "{}", context());
            // The runtime undoes the one and stops the other; what cannot be written is tried again.
            let _ = case.list.del(&case.node.sandbox, &new.call("DEL"), None);
            let _ = case.list.del(&case.node.sandbox, &old.call("DEL"), None);
            in_mounts(&case.node.agent, end)?;
            for pod in [&old, &new] {
                case.del(&pod.call("DEL")).with_context(context)?;
            }
            drop((old, new));
            case.node.wait_same(&before, &[]).with_context(context)?;
        }
        case.report("a disk that takes no writes");
    }
    Ok(())
}

/// Every file below a folder.
fn files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let list = output(
        std::process::Command::new("find")
            .arg(folder)
            .args(["-type", "f", "-name", "*.json"]),
    )?;
    Ok(list.lines().map(Into::into).collect())
}

/// Records cut short, empty, of another version or not ours at all: the agent starts, says which,
/// serves the others, and DEL still undoes all.
#[test]
fn broken_and_foreign_files() -> Result<()> {
    for main in [false, true] {
        let mut case = Case::new(main)?;
        for (fault, broken) in [
            ("record cut short", 20usize),
            ("record emptied", 0),
            ("record of another version", usize::MAX),
        ] {
            let context = || format!("{fault}, main {main}");
            let before = case.node.look(&[])?;
            let (victim, other) = (CniPod::new("victim")?, CniPod::new("other")?);
            case.add(&victim.call("ADD"))?.result()?;
            let known = files(&case.node.agent.state())?;
            case.add(&other.call("ADD"))?.result()?;
            case.node.agent.kill()?;
            let mut spoilt = 0;
            for file in known {
                let text = fs::read_to_string(&file)?;
                let new = match broken {
                    usize::MAX => text.replace("\"version\": 1", "\"version\": 4000000000"),
                    length => text.chars().take(length).collect(),
                };
                if new != text {
                    fs::write(&file, new)?;
                    spoilt += 1;
                }
            }
            ensure!(spoilt > 0, "{}: no record to spoil", context());
            case.tally.count(fault);
            let folder = case.node.agent.state().join("endpoints");
            for foreign in ["README", "core", "7.json.swp", ".1.json.new"] {
                fs::write(folder.join(foreign), "not ours")?;
                case.tally.count("foreign file");
            }
            case.restart(None).with_context(context)?;
            ensure!(other.protected(INTERFACE)?, "{}", context());
            victim.ensure_protected().with_context(context)?;
            for pod in [&victim, &other] {
                case.del(&pod.call("DEL")).with_context(context)?;
            }
            drop((victim, other));
            // What is not known any more goes with the interface, at a start or within a minute.
            case.node.agent.kill()?;
            case.restart(None).with_context(context)?;
            let mut left = Vec::new();
            wait_until("everything to be as before", || {
                let after = case.node.look(&[])?.without(&["not ours"]);
                left = before.differences(&after);
                Ok(left.is_empty())
            })
            .with_context(|| format!("{}: {left:#?}", context()))?;
            for foreign in ["README", "core", "7.json.swp", ".1.json.new"] {
                let _ = fs::remove_file(folder.join(foreign));
            }
        }
        case.report("broken and foreign files");
    }
    Ok(())
}

/// Pairs of ADD and DEL of the test below, and how many are at it at once.
const PAIRS: usize = 200;
const AT_ONCE: usize = 8;

/// 200 pods, eight at a time, while agent and plugin are killed again and again.
#[test]
fn two_hundred_pods_among_random_kills() -> Result<()> {
    let seed = seed()?;
    println!("SLUICE_SEED={seed}");
    let mut node = CniNode::new()?;
    for list in [chained_list("1.0.0"), main_list("1.0.0")] {
        let pod = CniPod::new("warm-up")?;
        let added = list.add(&node.sandbox, &pod.call("ADD"))?;
        list.del(&node.sandbox, &pod.call("DEL"), Some(&added))?;
    }
    let before = node.look(&[])?;
    let tally = Tally::default();
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    {
        let CniNode { sandbox, agent, .. } = &mut node;
        let sandbox = &*sandbox;
        thread::scope(|scope| -> Result<()> {
            let (next, tally, stop) = (&next, &tally, &stop);
            let workers: Vec<_> = (0..AT_ONCE)
                .map(|_| {
                    scope.spawn(move || -> Result<()> {
                        loop {
                            let pair = next.fetch_add(1, Ordering::Relaxed);
                            if pair >= PAIRS {
                                return Ok(());
                            }
                            let chance = Chance::of(seed.wrapping_mul(1000) + pair as u64);
                            one_pod(sandbox, pair, chance, tally)
                                .with_context(|| format!("pod {pair}, SLUICE_SEED={seed}"))?;
                        }
                    })
                })
                .collect();
            let killer = scope.spawn(move || -> Result<()> {
                let mut chance = Chance::of(seed);
                while !stop.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(50 + chance.below(400)));
                    agent.kill()?;
                    tally.count("agent killed");
                    thread::sleep(Duration::from_millis(chance.below(60)));
                    agent.restart()?;
                }
                Ok(())
            });
            let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
            stop.store(true, Ordering::Relaxed);
            let killed = killer.join();
            for result in results.into_iter().chain([killed]) {
                match result {
                    Ok(result) => result?,
                    Err(_) => bail!("panicked"),
                }
            }
            Ok(())
        })?;
    }
    let same = node.wait_same(&before, &[]);
    same.with_context(|| format!("SLUICE_SEED={seed}"))?;
    assert_eq!(node.endpoints()?.len(), 0);
    println!("{PAIRS} pods, {AT_ONCE} at once: injected {tally}; left: nothing");
    ensure!(tally.total() > 20, "hardly any faults: {tally}");
    Ok(())
}

/// One pod's life: ADD, perhaps again, perhaps a check, DEL until it is done.
fn one_pod(sandbox: &Sandbox, number: usize, mut chance: Chance, tally: &Tally) -> Result<()> {
    let list = if chance.percent(50) {
        chained_list("1.0.0")
    } else {
        main_list("1.0.0")
    };
    let pod = CniPod::new(&format!("pod-{number}"))?;
    let added = calls(sandbox, &list, &pod.call("ADD"), &mut chance, tally)?;
    if added {
        // The pod runs.
        ensure!(pod.protected(INTERFACE)?, "it runs unprotected");
    }
    let mut del = pod.call("DEL");
    let mut pod = Some(pod);
    if chance.percent(15) {
        tally.count("namespace deleted");
        if let Some(pod) = pod.take() {
            pod.netns.remove()?;
        }
    } else if chance.percent(15) {
        del.netns = None;
        tally.count("DEL without a namespace");
    }
    if chance.percent(30) {
        calls(sandbox, &list, &del, &mut chance, tally)?;
    }
    // Containerd forgets a pod only when all of its plugins are done; if one fails for good, such
    // as a reference plugin whose namespace is gone, the others still have to be.
    wait_until("DEL to succeed", || {
        let replies = list.del_replies(sandbox, &del, None)?;
        Ok(replies.iter().all(|reply| reply.output.status.success()))
    })
}

/// The calls of a chain, each killed by chance a little after its start. False if one failed.
fn calls(
    sandbox: &Sandbox,
    list: &Chain,
    call: &Call,
    chance: &mut Chance,
    tally: &Tally,
) -> Result<bool> {
    let mut previous = None;
    let count = list.configurations(None)?.len();
    for step in 0..count {
        let add = call.verb == "ADD";
        let index = if add { step } else { count - 1 - step };
        let (plugin, config) = list.configurations(previous.as_ref())?.swap_remove(index);
        let mut child = call.start(sandbox, &plugin, &config)?;
        // The reference plugins stay alive: what they leave is theirs.
        if plugin == "sluice" && chance.percent(25) {
            thread::sleep(Duration::from_micros(chance.below(30_000)));
            if child.try_wait()?.is_none() {
                tally.count("plugin killed");
            }
            child.kill()?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            return Ok(false);
        }
        if add {
            previous = serde_json::from_slice(&output.stdout).ok();
            if previous.is_none() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}
