//! What people and machines get wrong: each case one line that names the
//! thing, the cause and the remedy, with its exit code, and nothing left
//! half done.

use std::{
    fs,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use nix::{mount::MsFlags, sched::CloneFlags};
use sluice_tests::{
    agent::{TestAgent, binary, install},
    netns::TestNetns,
    node::{POD_INTERFACE, TestNode, UPLINK},
    poll::wait_until,
};

/// Runs a command that must fail: with this exit code, and with one line on
/// standard error that has all these words.
fn fails(command: &mut Command, code: i32, words: &[&str]) -> Result<()> {
    let output = command.output()?;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let told: Vec<_> = stderr
        .lines()
        .filter(|line| line.starts_with("sluice: "))
        .collect();
    ensure!(
        output.status.code() == Some(code),
        "{command:?}: {:?}: {stderr}",
        output.status
    );
    ensure!(told.len() == 1, "{command:?}: not one line: {stderr}");
    ensure!(
        told[0].matches("(os error ").count() <= 1,
        "{command:?}: a cause told twice: {stderr}"
    );
    for word in words {
        ensure!(
            told[0].contains(word),
            "{command:?}: no {word:?} in: {stderr}"
        );
    }
    Ok(())
}

/// Runs a subcommand against a running agent that must fail.
fn refuses(agent: &TestAgent, arguments: &[&str], code: i32, words: &[&str]) -> Result<()> {
    let mut command = Command::new(binary()?);
    command.arg("--socket").arg(agent.socket()).args(arguments);
    fails(&mut command, code, words)
}

/// What this machine lacks is said in words, where it lacks it.
#[test]
fn hardware_that_is_not_there() -> Result<()> {
    let setup = TestNode::new(0)?;
    let agent = TestAgent::start(&setup.node, &["--metrics-address", "off"])?;
    let set = ["sriov", "set", "--pf", "no-such-nic", "--num-vfs", "2"];
    refuses(&agent, &set, 4, &["no-such-nic", "SR-IOV"])?;
    if !std::path::Path::new("/sys/class/infiniband").exists() {
        refuses(&agent, &["rdma", "show"], 6, &["no RDMA", "ib_core"])?;
        refuses(&agent, &["rdma", "mode", "shared"], 6, &["no RDMA"])?;
        ensure!(agent.json(&["sriov", "show"])?.is_array());
    }
    Ok(())
}

#[test]
fn requests_that_name_what_is_not_there() -> Result<()> {
    let setup = TestNode::new(1)?;
    let pod = setup.pods[0].name();
    let agent = TestAgent::start(&setup.node, &["--metrics-address", "off"])?;
    let cases: &[(&[&str], i32, &[&str])] = &[
        (
            &["attach", "--netns", pod, "net9"],
            4,
            &["net9", pod, "net1"],
        ),
        (
            &["attach", "--netns", "no-such-ns", "net1"],
            4,
            &["no-such-ns", "gone or was never there"],
        ),
        (
            &["attach", "--netns", "/proc/self/ns/pid", "net1"],
            1,
            &["/proc/self/ns/pid", "not a network namespace"],
        ),
        (&["attach", "--netns", pod, "lo"], 1, &["lo", "Ethernet"]),
        (&["detach", "77"], 4, &["77", "sluice endpoints"]),
        (
            &["detach", "web"],
            2,
            &["web", "is no endpoint id", "--netns"],
        ),
        (&["detach", "--netns", pod, "net1"], 4, &["net1", pod]),
        (&["uplink", "add", "no-such-nic"], 4, &["no-such-nic"]),
        (&["uplink", "del", "up0"], 4, &["up0", "sluice uplink list"]),
        (
            &["block", "del", "192.0.2.0/24"],
            4,
            &["192.0.2.0/24", "sluice block list"],
        ),
    ];
    for (arguments, code, words) in cases {
        refuses(&agent, arguments, *code, words)?;
    }
    let left = fs::read_dir(agent.pins().join("links"))?.count()
        + fs::read_dir(agent.state().join("endpoints"))?.count()
        + fs::read_dir(agent.state().join("uplinks"))?.count();
    ensure!(left == 0, "{left} pins or records left");
    Ok(())
}

#[test]
fn an_agent_that_is_not_there() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(binary()?);
    command
        .arg("--socket")
        .arg(folder.path().join("no.sock"))
        .arg("status");
    fails(&mut command, 3, &["no.sock", "sluice agent"])
}

#[test]
fn a_second_agent() -> Result<()> {
    let setup = TestNode::new(0)?;
    let agent = TestAgent::start(&setup.node, &["--metrics-address", "off"])?;
    let pid = agent.id()?.to_string();
    fails(&mut agent.command()?, 5, &["another agent", &pid])?;
    // The first one is none the worse.
    agent.run(&["status"])?;
    Ok(())
}

#[test]
fn no_root() -> Result<()> {
    let setup = TestNode::new(0)?;
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join("sluice");
    install(&binary()?, &copy)?;
    fs::set_permissions(
        folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    let mut command = Command::new(copy);
    let _ = &setup;
    command
        .arg("agent")
        .arg("--state-dir")
        .arg("/tmp/sluice-no-root")
        .uid(65534)
        .gid(65534);
    fails(&mut command, 6, &["root", "sudo"])
}

#[test]
fn configuration_that_cannot_be() -> Result<()> {
    let setup = TestNode::new(0)?;
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("config.toml");
    let cases: &[(&str, &[&str])] = &[
        ("max_endpoint = 5\n", &["config.toml", "max_endpoint"]),
        ("max_endpoints = 5000\n", &["max_endpoints", "4096"]),
        ("metrics_address = \"here\"\n", &["config.toml", "here"]),
        ("tc = \"magic\"\n", &["config.toml", "magic"]),
        ("uplinks = [\n", &["config.toml"]),
    ];
    for (text, words) in cases {
        fs::write(&config, text)?;
        let mut command = setup.node.command(&binary()?.display().to_string());
        command.arg("agent").arg("--config").arg(&config);
        fails(&mut command, 2, words)?;
    }
    let mut command = setup.node.command(&binary()?.display().to_string());
    command.args(["agent", "--config", "/no/such.toml"]);
    fails(
        &mut command,
        2,
        &["/no/such.toml", "No such file", "--config"],
    )
}

#[test]
fn pins_that_are_not_ours() -> Result<()> {
    let setup = TestNode::new(0)?;
    let agent = TestAgent::prepare(&setup.node, &["--metrics-address", "off"])?;
    let root = agent.pins().parent().context("no root")?.to_owned();
    // A map of another make under one of our names.
    fs::create_dir_all(agent.pins())?;
    let pin = agent.pins().join("ep_stats").display().to_string();
    let made = Command::new("bpftool")
        .args([
            "map", "create", &pin, "type", "hash", "key", "4", "value", "4", "entries", "7",
            "name", "ep_stats",
        ])
        .status()?;
    ensure!(made.success());
    fails(&mut agent.command()?, 1, &["ep_stats", "kind", "rm -r"])?;
    ensure!(fs::exists(&pin)?, "somebody else's pin was removed");
    fs::remove_file(&pin)?;
    // Another version's folder.
    fs::create_dir(root.join("v0"))?;
    fails(&mut agent.command()?, 1, &["v0", "older version", "rm -r"])?;
    fs::remove_dir(root.join("v0"))?;
    // Somebody else's.
    fs::create_dir(root.join("other"))?;
    fails(
        &mut agent.command()?,
        1,
        &["other", "not of Sluice", "rm -r"],
    )?;
    fs::remove_dir(root.join("other"))?;
    Ok(())
}

#[test]
fn no_bpf_file_system() -> Result<()> {
    let setup = TestNode::new(0)?;
    let folder = tempfile::tempdir()?;
    let mut command = setup.node.command(&binary()?.display().to_string());
    command
        .arg("agent")
        .arg("--state-dir")
        .arg(folder.path().join("state"))
        .arg("--bpffs")
        .arg(folder.path().join("pins"));
    fails(&mut command, 6, &["BPF file system", "mount -t bpf"])
}

/// Runs the agent in a mount namespace of its own that `change` has changed.
fn in_changed_mounts(
    node: &TestNetns,
    agent: &TestAgent,
    change: impl Fn() -> nix::Result<()> + Send + Sync + 'static,
) -> Result<Command> {
    let _ = node;
    let mut command = agent.command()?;
    // SAFETY: only system calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
            let none: Option<&str> = None;
            nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            Ok(change()?)
        });
    }
    Ok(command)
}

#[test]
fn no_btf() -> Result<()> {
    let setup = TestNode::new(0)?;
    let agent = TestAgent::prepare(&setup.node, &["--metrics-address", "off"])?;
    let mut command = in_changed_mounts(&setup.node, &agent, || {
        let none: Option<&str> = None;
        nix::mount::mount(
            Some("tmpfs"),
            "/sys/kernel/btf",
            Some("tmpfs"),
            MsFlags::empty(),
            none,
        )
    })?;
    fails(
        &mut command,
        6,
        &["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"],
    )
}

#[test]
fn a_full_disk() -> Result<()> {
    let setup = TestNode::new(1)?;
    let agent = TestAgent::prepare(&setup.node, &["--metrics-address", "off"])?;
    fs::create_dir_all(agent.state())?;
    let state = agent.state();
    // A small disk of the test's own, so that filling it hurts nobody.
    nix::mount::mount(
        Some("tmpfs"),
        &state,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=64k"),
    )?;
    let attempted = full_disk(&setup, agent, &state);
    nix::mount::umount2(&state, nix::mount::MntFlags::MNT_DETACH)?;
    attempted
}

fn full_disk(setup: &TestNode, mut agent: TestAgent, state: &std::path::Path) -> Result<()> {
    agent.restart()?;
    let filler = state.join("filler");
    // Writes until nothing more fits; the error is the point.
    let _ = fs::write(&filler, vec![0; 1 << 20]);
    let pod = setup.pods[0].name();
    refuses(
        &agent,
        &["attach", "--netns", pod, POD_INTERFACE],
        1,
        &["endpoints/1.json", "No space left", "free some space"],
    )?;
    let links = fs::read_dir(agent.pins().join("links"))?.count();
    ensure!(links == 0, "{links} links left");
    fs::remove_file(&filler)?;
    agent.attach(&setup.pods[0], POD_INTERFACE)?;
    Ok(())
}

/// Asks for an attachment of a fresh pod; the pod and the request under way.
fn begin_attaching(setup: &TestNode, agent: &TestAgent) -> Result<(TestNetns, Child)> {
    let pod = TestNetns::new()?;
    setup
        .node
        .add_macvlan(UPLINK, &pod, POD_INTERFACE, "bridge")?;
    let mut command = Command::new(binary()?);
    command
        .arg("--socket")
        .arg(agent.socket())
        .args(["attach", "--netns", pod.name(), POD_INTERFACE])
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    Ok((pod, command.spawn()?))
}

fn nothing_is_left(agent: &TestAgent) -> Result<()> {
    wait_until("nothing to be left", || {
        let endpoints = agent.json(&["endpoints"])?;
        let records = fs::read_dir(agent.state().join("endpoints"))?.count();
        let links = fs::read_dir(agent.pins().join("links"))?.count();
        Ok(endpoints.as_array().is_some_and(Vec::is_empty) && records + links == 0)
    })
}

/// The interface, or its whole namespace, goes at some moment of the
/// attachment: whatever the answer, nothing half-attached remains.
#[test]
fn what_goes_while_it_is_being_attached() -> Result<()> {
    let setup = TestNode::new(0)?;
    let agent = TestAgent::start(&setup.node, &["--metrics-address", "off"])?;
    // How long it takes undisturbed: an emulated machine is many times slower.
    let begin = Instant::now();
    let (pod, request) = begin_attaching(&setup, &agent)?;
    ensure!(request.wait_with_output()?.status.success());
    let takes = begin.elapsed();
    drop(pod);
    nothing_is_left(&agent)?;

    let (mut attached, mut refused) = (0, 0);
    for round in 0..16_u32 {
        let (pod, request) = begin_attaching(&setup, &agent)?;
        // From at once to well after the end.
        std::thread::sleep(takes * (round / 2) / 4);
        match round % 2 {
            0 => pod.delete_link(POD_INTERFACE)?,
            _ => drop(pod),
        }
        let answer = request.wait_with_output()?;
        let told = String::from_utf8_lossy(&answer.stderr).into_owned();
        match answer.status.code() {
            Some(0) => attached += 1,
            Some(1 | 4) if told.lines().count() == 1 => refused += 1,
            code => anyhow::bail!("{code:?}: {told}"),
        }
        nothing_is_left(&agent).with_context(|| told)?;
    }
    ensure!(
        attached > 0 && refused > 0,
        "{attached} attached, {refused} refused"
    );
    Ok(())
}
