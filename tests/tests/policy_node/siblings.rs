//! Interfaces that a pod makes beside its own, and its own that it takes elsewhere.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::{
    netns::TestNetns,
    node::{MACHINE, POD_INTERFACE, addresses, pings},
    policy::{namespace, pod, policy},
    poll::wait_until,
};

use crate::lab::Lab;

/// An address that no pod has.
const OTHER: &str = "10.78.0.99";

/// Two pods; the first, an endpoint, may send to the other machine and to nobody else.
fn lab() -> Result<Lab> {
    let objects = [
        namespace("x"),
        pod(0, "x", "a"),
        pod(1, "x", "b"),
        policy(
            "x",
            "out",
            json!({
                "podSelector": {"matchLabels": {"pod": "a"}},
                "policyTypes": ["Egress"],
                "egress": [{"to": [{"ipBlock": {"cidr": format!("{}/32", MACHINE[0])}}]}],
            }),
        ),
    ];
    let lab = Lab::new(2, &objects)?;
    lab.attach(0, "x/a")?;
    let isolated = |list: &Value| list["endpoints"][0]["egress"] == "isolated";
    lab.wait_for("the policy", isolated)?;
    Ok(lab)
}

fn must(pod: &TestNetns, command: &str) -> Result<()> {
    ensure!(pod.run_as_net_admin(command)?, "{command} failed");
    Ok(())
}

/// Makes an interface beside `net1` as the pod can.
fn make(pod: &TestNetns, name: &str) -> Result<()> {
    must(
        pod,
        &format!("ip link add link {POD_INTERFACE} name {name} type macvlan mode bridge"),
    )?;
    must(pod, &format!("ip address add {OTHER}/24 dev {name}"))?;
    must(pod, &format!("ip link set {name} up"))
}

/// Waits until an interface is an endpoint; what the agent says of it.
fn endpoint(lab: &Lab, interface: &str) -> Result<Value> {
    let mut found = None;
    wait_until(&format!("{interface} to be an endpoint"), || {
        let endpoints = lab.agent.json(&["endpoints"])?;
        let mut endpoints = endpoints.as_array().into_iter().flatten();
        found = endpoints.find(|one| one["interface"] == interface).cloned();
        Ok(found.is_some())
    })?;
    found.context("no endpoint")
}

/// The machine is reached through the interface, and the other pod is not.
fn is_judged(from: &TestNetns, interface: &str) -> Result<bool> {
    let reaches = |to: &str| -> Result<bool> {
        let ping = ["-c", "1", "-W", "1", "-I", interface, to];
        Ok(from.run("ping", &ping).is_ok())
    };
    let [peer, _] = addresses(1);
    ensure!(
        reaches(MACHINE[0])?,
        "{interface} does not reach the machine"
    );
    Ok(!reaches(&peer)?)
}

#[test]
fn an_interface_that_a_pod_makes_is_held_to_the_pod_s_policies() -> Result<()> {
    let lab = lab()?;
    let pod = &lab.node.pods[0];
    make(pod, "more0")?;
    let found = endpoint(&lab, "more0")?;
    ensure!(
        found["beside"] == POD_INTERFACE && found["pod"]["name"] == "a",
        "{found}"
    );
    ensure!(is_judged(pod, "more0")?, "its policy is not enforced");
    let id = found["id"].as_u64().context("no id")?;
    let stats = lab.agent.stats(id)?;
    ensure!(
        stats["egress"]["packets"].as_u64() > Some(0)
            && stats["drops"].to_string().contains("policy_denied"),
        "{stats}"
    );
    let status = lab.agent.json(&["status"])?["problems"].to_string();
    ensure!(
        status.contains(&format!("endpoint {id} (more0)")) && status.contains("beside net1"),
        "{status}"
    );
    must(pod, "ip link del more0")?;
    wait_until("the endpoint to go with it", || {
        let endpoints = lab.agent.json(&["endpoints"])?;
        Ok(endpoints.as_array().map(Vec::len) == Some(1))
    })
}

/// The pod deletes what was attached, and later all that is: its parent is known by index still.
#[test]
fn a_pod_that_replaces_its_interfaces_does_not_get_away() -> Result<()> {
    let lab = lab()?;
    let pod = &lab.node.pods[0];
    let link: Value =
        serde_json::from_str(&pod.run("ip", &["-j", "link", "show", POD_INTERFACE])?)?;
    let parent = link[0]["link_index"].as_u64().context("no parent")?;
    let parent_netns = link[0]["link_netnsid"].as_u64().context("no namespace")?;
    // In one go, so that the agent hears of both at once.
    let batch = format!(
        "link add link {POD_INTERFACE} name more0 type macvlan mode bridge\n\
         link del {POD_INTERFACE}\n\
         address add {OTHER}/24 dev more0\n\
         link set more0 up\n"
    );
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(&file, batch)?;
    must(pod, &format!("ip -batch {}", file.path().display()))?;
    ensure!(endpoint(&lab, "more0")?["beside"] == POD_INTERFACE);
    ensure!(is_judged(pod, "more0")?, "more0 is open");
    must(pod, "ip link del more0")?;
    wait_until("no endpoint to be left", || {
        let endpoints = lab.agent.json(&["endpoints"])?;
        Ok(endpoints.as_array().is_some_and(Vec::is_empty))
    })?;
    must(
        pod,
        &format!(
            "ip link add link if{parent} link-netnsid {parent_netns} name more1 type macvlan mode \
             bridge"
        ),
    )?;
    must(pod, &format!("ip address add {OTHER}/24 dev more1"))?;
    must(pod, "ip link set more1 up")?;
    endpoint(&lab, "more1")?;
    ensure!(is_judged(pod, "more1")?, "more1 is open");
    Ok(())
}

#[test]
fn a_pod_does_not_take_the_endpoints_of_all_others() -> Result<()> {
    let lab = lab()?;
    let pod = &lab.node.pods[0];
    for number in 0..17 {
        let name = format!("more{number}");
        must(
            pod,
            &format!("ip link add link {POD_INTERFACE} name {name} type macvlan mode bridge"),
        )?;
        must(pod, &format!("ip link set {name} up"))?;
    }
    let endpoints = || -> Result<usize> {
        let endpoints = lab.agent.json(&["endpoints"])?;
        endpoints.as_array().map(Vec::len).context("no endpoints")
    };
    wait_until("sixteen of them to be endpoints", || Ok(endpoints()? == 17))?;
    let up = || -> Result<usize> {
        let up: Value = serde_json::from_str(&pod.run("ip", &["-j", "link", "show", "up"])?)?;
        let up = up.as_array().context("no links")?;
        let named = |one: &&Value| {
            one["ifname"]
                .as_str()
                .is_some_and(|it| it.starts_with("more"))
        };
        Ok(up.iter().filter(named).count())
    };
    wait_until("the last to be set down", || Ok(up()? == 16))?;
    ensure!(endpoints()? == 17);
    Ok(())
}

#[test]
fn what_was_detached_by_hand_stays_so() -> Result<()> {
    let lab = lab()?;
    let pod = &lab.node.pods[0];
    make(pod, "net2")?;
    endpoint(&lab, "net2")?;
    lab.agent.run(&["detach", "--netns", pod.name(), "net2"])?;
    // The agent looks at the whole namespace for this one.
    make_named_only(pod, "more0")?;
    endpoint(&lab, "more0")?;
    let endpoints = lab.agent.json(&["endpoints"])?.to_string();
    ensure!(!endpoints.contains("\"net2\""), "{endpoints}");
    // Until somebody asks for it.
    lab.agent
        .run(&["attach", "--netns", pod.name(), "net2", "--pod", "x/a"])?;
    ensure!(endpoint(&lab, "net2")?.get("beside").is_none());
    Ok(())
}

fn make_named_only(pod: &TestNetns, name: &str) -> Result<()> {
    must(
        pod,
        &format!("ip link add link {POD_INTERFACE} name {name} type macvlan mode bridge"),
    )
}

/// As CNI does when it comes after the kernel's word of the interface that it made.
#[test]
fn an_interface_that_was_found_can_be_asked_for() -> Result<()> {
    let lab = lab()?;
    let pod = &lab.node.pods[0];
    make_named_only(pod, "temporary")?;
    let found = endpoint(&lab, "temporary")?;
    must(pod, "ip link set temporary name net2")?;
    let arguments = ["attach", "--netns", pod.name(), "net2", "--pod", "x/b"];
    let asked = lab.agent.json(&arguments)?;
    ensure!(
        asked["id"] == found["id"]
            && asked["interface"] == "net2"
            && asked["pod"]["name"] == "b"
            && asked.get("beside").is_none(),
        "{asked}"
    );
    Ok(())
}

#[test]
fn an_interface_that_a_pod_takes_elsewhere_stays_judged() -> Result<()> {
    let lab = lab()?;
    if lab.agent.json(&["status"])?["mechanism"] != "tcx" {
        // What is on clsact the kernel takes off when an interface moves.
        return Ok(());
    }
    let pod = &lab.node.pods[0];
    // Of the pod, for all that the agent knows.
    let elsewhere = TestNetns::new()?;
    pod.ip(&format!(
        "link set {POD_INTERFACE} netns {}",
        elsewhere.name()
    ))?;
    wait_until("the agent to notice", || {
        let endpoints = lab.agent.json(&["endpoints"])?.to_string();
        Ok(endpoints.contains("moved out of"))
    })?;
    elsewhere.ip(&format!(
        "address add {}/24 dev {POD_INTERFACE}",
        addresses(0)[0]
    ))?;
    elsewhere.set_up(POD_INTERFACE)?;
    ensure!(is_judged(&elsewhere, POD_INTERFACE)?, "it is open there");
    Ok(())
}

/// Which networks' policies an interface is held to is not the pod's to say.
#[test]
fn an_interface_that_a_pod_renames_is_held_to_the_same_policies() -> Result<()> {
    let lab = lab()?;
    let pod = &lab.node.pods[0];
    let [peer, _] = addresses(1);
    // Older kernels rename only what is down.
    must(pod, &format!("ip link set {POD_INTERFACE} down"))?;
    must(pod, &format!("ip link set {POD_INTERFACE} name eth7 up"))?;
    endpoint(&lab, "eth7")?;
    ensure!(is_judged(pod, "eth7")?);
    let list = lab.agent.json(&["policy", "list"])?;
    ensure!(list["endpoints"][0]["egress"] == "isolated", "{list}");
    ensure!(!pings(pod, &peer)?);
    Ok(())
}
