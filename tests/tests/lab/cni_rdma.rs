//! The RDMA device that goes with a pod's interface: soft-RoCE on a macvlan interface that another
//! plugin has made, in the RDMA subsystem's mode that the machine was booted for. A soft device dies
//! when its interface changes its namespace, so there is none for an interface that our plugin makes
//! or lends.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::{
    agent::TestAgent,
    cni::{call::Reply, sandbox::Sandbox, with_failpoints},
    netns::TestNetns,
    poll::wait_until,
};

use crate::{
    card::{Card, PF},
    cni::call,
    rxe::exclusive,
};

const DEVICE: &str = "rxe81";

struct Setup {
    card: Card,
    agent: TestAgent,
    sandbox: Sandbox,
}

impl Setup {
    fn new() -> Result<Self> {
        let card = Card::up()?;
        let mut agent = TestAgent::prepare(&card.node, &["--metrics-address", "off"])?;
        let folder = with_failpoints()?;
        agent.set_binary(folder.join("sluice"));
        agent.restart()?;
        Ok(Self {
            sandbox: Sandbox::with_plugin(&card.node, &agent, &folder.join("sluice-cni"))?,
            agent,
            card,
        })
    }

    /// A pod with an interface, and a device on it if wanted, which is on the node.
    fn pod(&self, device: bool) -> Result<TestNetns> {
        let pod = TestNetns::new()?;
        self.card.node.add_macvlan(PF, &pod, "net1", "bridge")?;
        pod.add_address("net1", "10.94.0.7/24")?;
        if device {
            pod.run(
                "rdma",
                &["link", "add", DEVICE, "type", "rxe", "netdev", "net1"],
            )?;
        }
        Ok(pod)
    }

    fn run(&self, verb: &str, pod: &TestNetns, rdma: &str) -> Result<Reply> {
        let config = json!({
            "cniVersion": "1.0.0", "name": "fast", "type": "sluice", "rdma": rdma,
            "prevResult": {
                "cniVersion": "1.0.0",
                "interfaces": [{"name": "net1", "sandbox": pod.path().display().to_string()}],
            },
        });
        call(verb, "pod", pod).run(&self.sandbox, "sluice", &config)
    }

    fn add(&self, pod: &TestNetns, rdma: &str) -> Result<Value> {
        self.run("ADD", pod, rdma)?.result()
    }

    fn del(&self, pod: &TestNetns) -> Result<()> {
        self.run("DEL", pod, "auto")?.result().map(drop)
    }

    fn restart(&mut self, failpoint: &str) -> Result<()> {
        self.agent.set_environment("FAILPOINTS", failpoint);
        // It may have killed itself, as it was told to.
        let _ = self.agent.kill();
        self.agent.restart()
    }
}

fn sees(netns: &TestNetns) -> Result<bool> {
    Ok(netns.run("rdma", &["dev"])?.contains(DEVICE))
}

/// What the result says of the interface's device.
fn ensure_told(added: &Value, alone: bool) -> Result<()> {
    let told = &added["sluice"]["rdma"]["net1"];
    ensure!(told["device"] == DEVICE && told["port"] == 1, "{added}");
    ensure!(told["exclusive"] == alone, "{added}");
    ensure!(told["gid"]["type"] == "RoCE v2", "{added}");
    let index = told["gid"]["index"].as_u64().context("no GID")?;
    let hint = &told["environment"]["NCCL_IB_GID_INDEX"];
    let told = hint.as_str().and_then(|text| text.parse().ok());
    ensure!(told == Some(index), "{added}");
    Ok(())
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn a_soft_device_goes_into_the_pod_where_devices_are_exclusive_and_comes_back() -> Result<()> {
    let mut setup = Setup::new()?;
    if !exclusive(&setup.card.node)? {
        return Ok(());
    }
    let pod = setup.pod(true)?;
    ensure!(sees(&setup.card.node)? && !sees(&pod)?, "before");
    for rdma in ["auto", "require"] {
        let added = setup.add(&pod, rdma)?;
        ensure!(sees(&pod)? && !sees(&setup.card.node)?, "{rdma}, added");
        ensure_told(&added, true)?;
        ensure_told(&setup.add(&pod, rdma)?, true)?;
        setup.restart("")?;
        setup.del(&pod)?;
        ensure!(sees(&setup.card.node)? && !sees(&pod)?, "{rdma}, deleted");
        pod.describe("net1")?;
    }
    for point in ["cni::add::before_rdma", "cni::add::after_rdma"] {
        setup.restart(&format!("{point}=return(kill)"))?;
        ensure!(setup.add(&pod, "auto").is_err(), "{point}");
        setup.agent.wait_dead()?;
        setup.restart("")?;
        ensure!(sees(&setup.card.node)? && !sees(&pod)?, "{point}");
    }
    setup.restart("cni::del::after_rdma=return(kill)")?;
    setup.add(&pod, "auto")?;
    let _ = setup.del(&pod);
    setup.agent.wait_dead()?;
    setup.restart("")?;
    setup.del(&pod)?;
    ensure!(sees(&setup.card.node)? && !sees(&pod)?, "after a cut DEL");

    // With its pod and its interface the device goes for good, and nobody waits for it.
    setup.add(&pod, "auto")?;
    pod.remove()?;
    wait_until("the attachment to be forgotten", || {
        let state = setup.agent.state().join("cni");
        let files = std::fs::read_dir(state)?.filter_map(Result::ok);
        let records = files.filter(|file| file.path().extension().is_some());
        Ok(records.count() == 0 && setup.agent.json(&["endpoints"])? == json!([]))
    })?;

    // A macvlan interface shares its master's device, which is not for one pod alone.
    let pod = setup.pod(false)?;
    let (_, text) = setup.run("ADD", &pod, "require")?.error()?;
    ensure!(text.contains("rdma system set netns shared"), "{text}");
    setup.add(&pod, "auto")?;
    setup.del(&pod)
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn a_soft_device_is_reported_where_devices_are_shared_and_stays() -> Result<()> {
    let setup = Setup::new()?;
    if exclusive(&setup.card.node)? {
        return Ok(());
    }
    let pod = setup.pod(true)?;
    let added = setup.add(&pod, "auto")?;
    ensure_told(&added, false)?;
    ensure!(sees(&pod)? && sees(&setup.card.node)?);
    setup.del(&pod)?;
    ensure!(sees(&setup.card.node)?);
    let (_, text) = setup.run("ADD", &pod, "require")?.error()?;
    ensure!(text.contains("rdma system set netns exclusive"), "{text}");
    Ok(())
}
