//! Attachments over time: repeated, at once, after the agent or the namespace has gone, with IPAM
//! plugins that misbehave; and what is left of them.

use std::{fs, thread};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use sluice_tests::{
    cni::{
        call::Call,
        chain::Chain,
        node::{
            CniNode, CniPod, INTERFACE, POD_ADDRESS, chained_list, main_list, main_macvlan,
            static_ipam,
        },
    },
    node::{UPLINK, pings},
    poll::wait_until,
};

/// Both ways to use the plugin.
fn lists() -> [Chain; 2] {
    [chained_list("1.0.0"), main_list("1.0.0")]
}

/// Our plugin's part of a list: its last one, with what it is to get.
fn our_config(list: &Chain, previous: Option<&Value>) -> Result<Value> {
    let mut configurations = list.configurations(previous)?;
    Ok(configurations.pop().context("an empty list")?.1)
}

/// One ADD and DEL, after which the folders of clients and IPAM are there.
fn warm_up(node: &CniNode, list: &Chain) -> Result<()> {
    let pod = CniPod::new("warm-up")?;
    let added = list.add(&node.sandbox, &pod.call("ADD"))?;
    list.del(&node.sandbox, &pod.call("DEL"), Some(&added))
}

#[test]
fn an_add_that_is_repeated_changes_nothing() -> Result<()> {
    for list in lists() {
        let node = CniNode::new()?;
        let pod = CniPod::new("pod-1")?;
        let added = list.add(&node.sandbox, &pod.call("ADD"))?;
        let look = || node.look(&[("pod", &pod.netns)]);
        let links = node.agent.pins().join("links");
        wait_until("the attachments that stay", || {
            Ok(fs::read_dir(&links)?.count() == 2)
        })?;
        let before = look()?;
        let main = list.configurations(None)?.len() == 1;
        let previous = (!main).then_some(&added);
        let config = our_config(&list, previous)?;
        let again = pod.call("ADD").run(&node.sandbox, "sluice", &config)?;
        assert_eq!(again.result()?, added);
        before.ensure_same(&look()?)?;
        assert!(pod.protected(INTERFACE)?);
        assert_eq!(node.endpoints()?.len(), 1);
    }
    Ok(())
}

#[test]
fn pods_are_added_side_by_side() -> Result<()> {
    for list in lists() {
        let node = CniNode::new()?;
        warm_up(&node, &list)?;
        let before = node.look(&[])?;
        let pods = (0..8)
            .map(|number| CniPod::new(&format!("pod-{number}")))
            .collect::<Result<Vec<_>>>()?;
        let each = |verb: &'static str, results: &[Value]| -> Result<Vec<Value>> {
            thread::scope(|scope| {
                let (node, list) = (&node, &list);
                let work = |(number, pod): (usize, &CniPod)| match verb {
                    "ADD" => list.add(&node.sandbox, &pod.call(verb)),
                    _ => list
                        .del(&node.sandbox, &pod.call(verb), results.get(number))
                        .map(|()| Value::Null),
                };
                let threads: Vec<_> = pods
                    .iter()
                    .enumerate()
                    .map(|one| scope.spawn(move || work(one)))
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().map_err(|_| anyhow!("panicked"))?)
                    .collect()
            })
        };
        let added = each("ADD", &[])?;
        let mut addresses: Vec<_> = added
            .iter()
            .map(|result| result["ips"][0]["address"].to_string())
            .collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 8, "{added:#?}");
        assert_eq!(node.endpoints()?.len(), 8);
        for pod in &pods {
            assert!(pod.protected(INTERFACE)?);
        }
        assert!(
            pings(&node.node.machine, POD_ADDRESS)? || pings(&node.node.machine, "10.78.0.101")?
        );
        each("DEL", &added)?;
        node.wait_same(&before, &[])?;
    }
    Ok(())
}

#[test]
fn add_and_del_of_one_interface_take_turns() -> Result<()> {
    let node = CniNode::new()?;
    let list = main_list("1.0.0");
    warm_up(&node, &list)?;
    let pod = CniPod::new("pod-1")?;
    let before = node.look(&[("pod", &pod.netns)])?;
    let config = our_config(&list, None)?;
    thread::scope(|scope| {
        for verb in ["ADD", "DEL", "ADD", "DEL"] {
            let (node, pod, config) = (&node, &pod, &config);
            scope.spawn(move || {
                for _ in 0..5 {
                    // Any may lose against another; none may hang or leave a half.
                    let _ = pod.call(verb).run(&node.sandbox, "sluice", config);
                }
            });
        }
    });
    list.del(&node.sandbox, &pod.call("DEL"), None)?;
    node.wait_same(&before, &[("pod", &pod.netns)])
}

/// What a DEL may be told of the namespace, and in what state it finds the rest.
#[derive(Clone, Copy, Debug)]
enum Del {
    WithoutNetns,
    OfNetnsThatIsGone,
    WithoutInterface,
    Twice,
}

#[test]
fn del_succeeds_whatever_is_left() -> Result<()> {
    for list in lists() {
        let node = CniNode::new()?;
        warm_up(&node, &list)?;
        let before = node.look(&[])?;
        for case in [
            Del::WithoutNetns,
            Del::OfNetnsThatIsGone,
            Del::WithoutInterface,
            Del::Twice,
        ] {
            let pod = CniPod::new("pod-1")?;
            let added = list.add(&node.sandbox, &pod.call("ADD"))?;
            let mut call = pod.call("DEL");
            let mut kept = Some(pod);
            match case {
                Del::WithoutNetns => call.netns = None,
                Del::OfNetnsThatIsGone => {
                    if let Some(pod) = kept.take() {
                        pod.netns.remove()?;
                    }
                }
                Del::WithoutInterface => {
                    if let Some(pod) = &kept {
                        pod.netns.delete_link(INTERFACE)?;
                    }
                }
                Del::Twice => list.del(&node.sandbox, &call, Some(&added))?,
            }
            let config = our_config(&list, Some(&added))?;
            call.run(&node.sandbox, "sluice", &config)?
                .result()
                .with_context(|| format!("{case:?}"))?;
            // The reference plugins are not our matter, but host-local's address must go.
            for (plugin, config) in list.configurations(Some(&added))?.into_iter().rev().skip(1) {
                call.run(&node.sandbox, &plugin, &config)?;
            }
            // Without a namespace the reference plugin cannot take its interface away.
            drop(kept);
            node.wait_same(&before, &[])
                .with_context(|| format!("{case:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn an_add_without_an_agent_leaves_nothing() -> Result<()> {
    let mut node = CniNode::new()?;
    let list = main_list("1.0.0");
    warm_up(&node, &list)?;
    let pod = CniPod::new("pod-1")?;
    let before = node.look(&[("pod", &pod.netns)])?;
    node.agent.kill()?;
    let config = our_config(&list, None)?;
    let reply = pod.call("ADD").run(&node.sandbox, "sluice", &config)?;
    let (code, _) = reply.error()?;
    assert_eq!(code, 11, "{reply}");
    node.agent.restart()?;
    node.wait_same(&before, &[("pod", &pod.netns)])
}

#[test]
fn a_del_that_the_agent_did_not_hear_is_done_at_its_next_start() -> Result<()> {
    for list in lists() {
        let mut node = CniNode::new()?;
        warm_up(&node, &list)?;
        let pod = CniPod::new("pod-1")?;
        let before = node.look(&[("pod", &pod.netns)])?;
        let added = list.add(&node.sandbox, &pod.call("ADD"))?;
        node.agent.kill()?;
        list.del(&node.sandbox, &pod.call("DEL"), Some(&added))?;
        let tombstones = node.agent.state().join("cni/tombstones");
        assert_eq!(fs::read_dir(&tombstones)?.count(), 1);
        node.agent.restart()?;
        node.wait_same(&before, &[("pod", &pod.netns)])?;
    }
    Ok(())
}

/// What a reboot leaves: the files. Namespaces and pins are taken away by hand, and the kernel's
/// boot id is another file in the agent's mount namespace.
#[test]
fn after_a_reboot_with_a_boot_id_file_of_the_tests_own_pods_are_added_anew() -> Result<()> {
    for list in lists() {
        let mut node = CniNode::new()?;
        warm_up(&node, &list)?;
        let before = node.look(&[])?;
        let pod = CniPod::new("pod-1")?;
        list.add(&node.sandbox, &pod.call("ADD"))?;
        node.agent.kill()?;
        pod.netns.remove()?;
        fs::remove_dir_all(node.agent.pins().parent().context("no folder")?)?;
        let boot_id = node.sandbox.folder().join("boot_id");
        fs::write(&boot_id, "00000000-0000-4000-8000-000000000000\n")?;
        node.agent.set_mounts(&format!(
            "mount --bind {} /proc/sys/kernel/random/boot_id",
            boot_id.display()
        ));
        node.agent.restart()?;
        ensure!(node.endpoints()?.is_empty());
        let attachments = fs::read_dir(node.agent.state().join("cni"))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("pod-1"));
        ensure!(attachments.count() == 0);

        let pod = CniPod::new("pod-1")?;
        list.del(&node.sandbox, &pod.call("DEL"), None)?;
        let added = list.add(&node.sandbox, &pod.call("ADD"))?;
        ensure!(pod.protected(INTERFACE)?, "{added}");
        list.del(&node.sandbox, &pod.call("DEL"), Some(&added))?;
        node.wait_same(&before, &[])?;
    }
    Ok(())
}

#[test]
fn gc_removes_what_is_not_in_use_and_nothing_else() -> Result<()> {
    let node = CniNode::new()?;
    // Host-local of distributions ends at 1.0.0, so these networks have no IPAM.
    let of = |name: &str| {
        let plugin = json!({"type": "sluice", "mode": "macvlan", "master": UPLINK});
        Chain::of("1.1.0", name, &[plugin])
    };
    let before = node.look(&[])?;
    let pods = ["keep", "drop-1", "drop-2", "other"]
        .map(CniPod::new)
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    for pod in &pods {
        let network = if pod.container == "other" {
            "other"
        } else {
            "net"
        };
        of(network).add(&node.sandbox, &pod.call("ADD"))?;
    }
    assert_eq!(node.endpoints()?.len(), 4);
    let gc = |valid: Value| -> Result<()> {
        let mut config = our_config(&of("net"), None)?;
        config["cni.dev/valid-attachments"] = valid;
        let call = Call {
            verb: "GC".into(),
            ..Call::default()
        };
        call.run(&node.sandbox, "sluice", &config)?.result()?;
        Ok(())
    };
    gc(json!([{"containerID": "keep", "ifname": INTERFACE}]))?;
    let left = |pod: &CniPod| Ok::<_, anyhow::Error>(!pod.interfaces()?.is_empty());
    let kept: Vec<_> = pods.iter().map(left).collect::<Result<_>>()?;
    assert_eq!(kept, [true, false, false, true]);
    assert!(pods[0].protected(INTERFACE)?);
    assert_eq!(node.endpoints()?.len(), 2);
    gc(json!([]))?;
    assert_eq!(node.endpoints()?.len(), 1);
    of("other").del(&node.sandbox, &pods[3].call("DEL"), None)?;
    drop(pods);
    node.wait_same(&before, &[])
}

/// A main plugin with an IPAM plugin that is this shell script.
fn with_ipam(node: &CniNode, script: &str) -> Result<Chain> {
    node.sandbox
        .script("shell-ipam", &format!("#!/bin/sh\n{script}\n"))?;
    let mut plugin = main_macvlan(&json!({"type": "shell-ipam"}));
    plugin["ipamTimeout"] = json!(1);
    Ok(Chain::of("1.0.0", "net", &[plugin]))
}

#[test]
fn an_ipam_plugin_that_misbehaves_costs_the_add_and_nothing_else() -> Result<()> {
    let node = CniNode::new()?;
    let released = node.sandbox.folder().join("released");
    let script = |on_add: &str| {
        format!(
            "cat > /dev/null\n[ \"$CNI_COMMAND\" = ADD ] || {{ echo $CNI_CONTAINERID >> {}; exit 0; }}\n{on_add}",
            released.display()
        )
    };
    for (what, on_add, word) in [
        (
            "says why it fails",
            "echo '{\"cniVersion\":\"1.0.0\",\"code\":42,\"msg\":\"pool is empty\"}'; exit 1",
            "pool is empty",
        ),
        ("fails without a word", "exit 3", "shell-ipam"),
        ("prints no JSON", "echo hello", "shell-ipam"),
        (
            "prints no address",
            "echo '{\"cniVersion\":\"1.0.0\",\"ips\":[]}'",
            "address",
        ),
        ("is killed", "kill -9 $$", "shell-ipam"),
        ("hangs", "sleep 1000", "ipamTimeout"),
        (
            "hangs with children",
            "sleep 1000 & sleep 1000 & wait",
            "ipamTimeout",
        ),
    ] {
        let list = with_ipam(&node, &script(on_add))?;
        let pod = CniPod::new("pod-1")?;
        let before = node.look(&[("pod", &pod.netns)])?;
        let _ = fs::remove_file(&released);
        let config = our_config(&list, None)?;
        let reply = pod.call("ADD").run(&node.sandbox, "sluice", &config)?;
        let (_, text) = reply.error().context(what)?;
        ensure!(text.contains(word), "{what}: {reply}");
        // What may have been given is given back.
        let given_back = fs::read_to_string(&released).context(what)?;
        assert_eq!(given_back.trim(), "pod-1", "{what}");
        node.wait_same(&before, &[("pod", &pod.netns)])
            .context(what)?;
    }
    Ok(())
}

#[test]
fn an_ipam_plugin_that_hangs_does_not_hold_up_other_pods() -> Result<()> {
    let node = CniNode::new()?;
    let list = with_ipam(
        &node,
        "cat > /dev/null; [ $CNI_COMMAND != ADD ] || sleep 1000",
    )?;
    let slow = CniPod::new("slow")?;
    let mut config = our_config(&list, None)?;
    config["ipamTimeout"] = json!(600);
    let mut hanging = slow.call("ADD").start(&node.sandbox, "sluice", &config)?;
    let quick = CniPod::new("quick")?;
    let list = Chain::of("1.0.0", "net", &[main_macvlan(&static_ipam(POD_ADDRESS))]);
    let added = list.add(&node.sandbox, &quick.call("ADD"))?;
    assert!(hanging.try_wait()?.is_none());
    assert!(pings(&node.node.machine, POD_ADDRESS)?);
    list.del(&node.sandbox, &quick.call("DEL"), Some(&added))?;
    // The runtime loses patience.
    hanging.kill()?;
    hanging.wait()?;
    with_ipam(&node, "cat > /dev/null")?.del(&node.sandbox, &slow.call("DEL"), None)?;
    assert_eq!(slow.interfaces()?, [""; 0]);
    assert_eq!(node.endpoints()?.len(), 0);
    Ok(())
}

/// What it gives after the runtime has undone the ADD would be nobody's.
#[test]
fn an_ipam_plugin_that_outlives_a_killed_add_leaves_no_address() -> Result<()> {
    let node = CniNode::new()?;
    let before = node.look(&[])?;
    for verb in ["DEL", "GC"] {
        let folder = node.sandbox.folder().join(verb);
        fs::create_dir(&folder)?;
        let file = |name: &str| folder.join(name);
        let list = with_ipam(
            &node,
            &format!(
                "cat > /dev/null; cd {}
                 [ $CNI_COMMAND = ADD ] || {{ echo released >> log; exit; }}
                 touch begun; until [ -e go ]; do sleep 0.01; done; sleep 0.2
                 echo given >> log",
                folder.display()
            ),
        )?;
        let mut config = our_config(&list, None)?;
        config["cniVersion"] = json!("1.1.0");
        config["ipamTimeout"] = json!(600);
        let pod = CniPod::new("pod-1")?;
        let mut adding = pod.call("ADD").start(&node.sandbox, "sluice", &config)?;
        wait_until("the IPAM plugin to be at work", || {
            Ok(file("begun").exists())
        })?;
        adding.kill()?;
        adding.wait()?;
        let call = match verb {
            "GC" => Call {
                verb: verb.into(),
                ..Call::default()
            },
            _ => pod.call(verb),
        };
        config["cni.dev/valid-attachments"] = json!([]);
        thread::scope(|scope| -> Result<()> {
            let undoing = scope.spawn(|| call.run(&node.sandbox, "sluice", &config));
            // The agent's part does not wait for addresses.
            let gone = wait_until("the interface to be gone", || {
                Ok(pod.interfaces()? == [""; 0] && node.endpoints()?.is_empty())
            });
            fs::write(file("go"), "")?;
            undoing.join().map_err(|_| anyhow!("panicked"))??.result()?;
            gone
        })
        .context(verb)?;
        let log = fs::read_to_string(file("log"))?;
        assert_eq!(log, "given\nreleased\n", "{verb}");
        drop(pod);
        node.wait_same(&before, &[]).context(verb)?;
    }
    Ok(())
}

#[test]
fn an_address_in_use_is_found_before_the_pod_has_it() -> Result<()> {
    let node = CniNode::new()?;
    let mut plugin = main_macvlan(&static_ipam("10.78.0.254"));
    plugin["detectConflicts"] = json!(true);
    let list = Chain::of("1.0.0", "net", &[plugin]);
    let pod = CniPod::new("pod-1")?;
    let config = our_config(&list, None)?;
    let reply = pod.call("ADD").run(&node.sandbox, "sluice", &config)?;
    let (code, text) = reply.error()?;
    ensure!(code >= 100 && text.contains("10.78.0.254"), "{reply}");
    assert_eq!(pod.interfaces()?, [""; 0]);
    // One that is free is given.
    let mut plugin = main_macvlan(&static_ipam(POD_ADDRESS));
    plugin["detectConflicts"] = json!(true);
    let list = Chain::of("1.0.0", "net", &[plugin]);
    list.add(&node.sandbox, &pod.call("ADD"))?;
    assert!(pings(&node.node.machine, POD_ADDRESS)?);
    Ok(())
}
