//! The plugin against the rules of the CNI specification, 0.3.1 to 1.1.0: what it is told, what it
//! prints, how it ends.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::{
    cni::{
        call::Call,
        chain::Chain,
        node::{
            CniNode, CniPod, INTERFACE, POD_ADDRESS, chained, chained_list, host_local,
            main_macvlan, reference_macvlan, static_ipam,
        },
        plugin,
        sandbox::Sandbox,
    },
    node::{TestNode, UPLINK},
};

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A sandbox with the plugin, and no agent.
fn lonely() -> Result<(Sandbox, TestNode)> {
    let node = TestNode::new(0)?;
    let sandbox = Sandbox::bare(&node.node)?;
    std::os::unix::fs::symlink(plugin()?, sandbox.bin().join("sluice"))?;
    Ok((sandbox, node))
}

#[test]
fn version_names_every_version_and_answers_in_the_callers() -> Result<()> {
    let (sandbox, _node) = lonely()?;
    let call = Call {
        verb: "VERSION".into(),
        ..Call::default()
    };
    for asked in VERSIONS.into_iter().chain(["0.1.0", "9.9.9"]) {
        let answer = call.run(&sandbox, "sluice", &json!({"cniVersion": asked}))?;
        let answer = answer.result()?;
        assert_eq!(answer["cniVersion"], asked);
        let supported: BTreeSet<_> = answer["supportedVersions"]
            .as_array()
            .context("no list")?
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(supported, BTreeSet::from(VERSIONS));
    }
    Ok(())
}

#[test]
fn a_wrong_call_gets_the_code_that_the_specification_gives_it() -> Result<()> {
    let (sandbox, _node) = lonely()?;
    let pod = CniPod::new("pod-1")?;
    let good = json!({"cniVersion": "1.1.0", "name": "net", "type": "sluice", "mode": "macvlan", "master": UPLINK, "ipam": static_ipam(POD_ADDRESS)});
    let with = |field: &str, value: Value| {
        let mut config = good.clone();
        config[field] = value;
        config
    };
    let without = |field: &str| {
        let mut config = good.clone();
        if let Some(fields) = config.as_object_mut() {
            fields.remove(field);
        }
        config
    };
    let mut chained = good.clone();
    if let Some(fields) = chained.as_object_mut() {
        fields.retain(|field, _| !["mode", "master", "ipam"].contains(&field.as_str()));
    }
    let add = || pod.call("ADD");
    let check = || pod.call("CHECK");
    let cases: Vec<(&str, Call, Value, u64, &str)> = vec![
        (
            "no verb of CNI",
            pod.call("MOVE"),
            good.clone(),
            4,
            "CNI_COMMAND",
        ),
        (
            "no container id",
            Call {
                container: String::new(),
                ..add()
            },
            good.clone(),
            4,
            "CNI_CONTAINERID",
        ),
        (
            "no interface name",
            Call {
                interface: String::new(),
                ..add()
            },
            good.clone(),
            4,
            "CNI_IFNAME",
        ),
        (
            "no namespace",
            Call {
                netns: None,
                ..add()
            },
            good.clone(),
            4,
            "CNI_NETNS",
        ),
        (
            "a container id that is a path",
            Call {
                container: "../../etc".into(),
                ..add()
            },
            good.clone(),
            4,
            "container id",
        ),
        (
            "an interface name that is too long",
            Call {
                interface: "sixteen-letters-".into(),
                ..add()
            },
            good.clone(),
            4,
            "interface name",
        ),
        (
            "an interface name that is a path",
            Call {
                interface: "a/b".into(),
                ..add()
            },
            good.clone(),
            4,
            "interface name",
        ),
        (
            "arguments that are no pairs",
            Call {
                arguments: "K8S_POD_NAME".into(),
                ..add()
            },
            good.clone(),
            4,
            "CNI_ARGS",
        ),
        (
            "a version that is not there yet",
            add(),
            with("cniVersion", json!("2.0.0")),
            1,
            "2.0.0",
        ),
        (
            "a version from before lists",
            add(),
            with("cniVersion", json!("0.2.0")),
            1,
            "0.2.0",
        ),
        ("no version", add(), without("cniVersion"), 7, "cniVersion"),
        ("no name", add(), without("name"), 7, "name"),
        (
            "a name that is a path",
            add(),
            with("name", json!("a/b")),
            7,
            "a/b",
        ),
        (
            "a mode that is none",
            add(),
            with("mode", json!("bridge")),
            7,
            "bridge",
        ),
        (
            "a master that is no text",
            add(),
            with("master", json!(7)),
            7,
            "master",
        ),
        (
            "an MTU that no interface has",
            add(),
            with("mtu", json!(7)),
            7,
            "mtu",
        ),
        (
            "a MAC address of a group",
            add(),
            with("mac", json!("01:00:5e:00:00:01")),
            7,
            "mac",
        ),
        (
            "a VLAN's priority on macvlan",
            add(),
            with("vlanQoS", json!(5)),
            7,
            "vlanQoS",
        ),
        (
            "an IPAM plugin that is not there",
            add(),
            with("ipam", json!({"type": "nowhere"})),
            7,
            "nowhere",
        ),
        (
            "an IPAM plugin elsewhere",
            add(),
            with("ipam", json!({"type": "../../bin/sh"})),
            7,
            "sh",
        ),
        (
            "chained, with an option of a main plugin",
            add(),
            without("mode"),
            7,
            "mode",
        ),
        (
            "chained, with nothing before it",
            add(),
            chained,
            7,
            "prevResult",
        ),
        (
            "a shaped bandwidth",
            add(),
            with("runtimeConfig", json!({"bandwidth": {"ingressRate": 1000}})),
            2,
            "bandwidth",
        ),
        (
            "CHECK without a result",
            check(),
            good.clone(),
            7,
            "prevResult",
        ),
        (
            "CHECK before it was there",
            check(),
            with("cniVersion", json!("0.3.1")),
            1,
            "CHECK",
        ),
        (
            "STATUS before it was there",
            pod.call("STATUS"),
            with("cniVersion", json!("1.0.0")),
            1,
            "STATUS",
        ),
        (
            "GC before it was there",
            pod.call("GC"),
            with("cniVersion", json!("1.0.0")),
            1,
            "GC",
        ),
        (
            "GC without a list: nothing may be taken for garbage",
            pod.call("GC"),
            good.clone(),
            7,
            "valid-attachments",
        ),
        ("ADD without an agent", add(), good.clone(), 11, "agent"),
        (
            "STATUS without an agent",
            pod.call("STATUS"),
            good.clone(),
            50,
            "agent",
        ),
    ];
    let mut wrong = Vec::new();
    for (what, call, config, code, word) in cases {
        let reply = call.run(&sandbox, "sluice", &config)?;
        let (got, text) = reply.error().context(what)?;
        if got != code || !text.contains(word) || text.contains('\n') {
            wrong.push(format!("{what}: not {code} with {word:?}: {reply}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(pod.interfaces()?, [""; 0]);
    Ok(())
}

#[test]
fn what_is_no_json_is_refused() -> Result<()> {
    use std::{io::Write as _, process::Stdio};
    let (sandbox, _node) = lonely()?;
    for input in ["", "{", "[]", "{\"cniVersion\":", "\u{feff}{}"] {
        let mut child = sandbox
            .command("/opt/cni/bin/sluice")
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", "pod-1")
            .env("CNI_NETNS", "/run/netns/none")
            .env("CNI_IFNAME", "net1")
            .env("CNI_PATH", "/opt/cni/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .context("no input")?
            .write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        assert!(!output.status.success());
        let error: Value = serde_json::from_slice(&output.stdout)?;
        assert_eq!(error["code"], 6, "{input:?}: {error}");
    }
    Ok(())
}

/// The rules of results that differ between versions.
fn ensure_result(result: &Value, version: &str) -> Result<()> {
    ensure!(result["cniVersion"] == version, "wrong version: {result}");
    for ip in result["ips"].as_array().context("no ips")? {
        // `version` was required until 1.0.0, and is gone since.
        let said = ip["version"].as_str();
        let old = ["0.3.1", "0.4.0"].contains(&version);
        ensure!(said == old.then_some("4"), "{version}: {ip}");
        ensure!(
            ip["address"].as_str().is_some_and(|a| a.contains('/')),
            "{ip}"
        );
    }
    Ok(())
}

#[test]
fn results_are_of_the_callers_version() -> Result<()> {
    let node = CniNode::new()?;
    // The reference plugins of today's distributions end at 1.0.0.
    let newest = r#"{"cniVersion":"1.1.0","ips":[{"address":"10.78.0.99/24"}]}"#;
    let script =
        format!("#!/bin/sh\ncat > /dev/null\n[ $CNI_COMMAND != ADD ] || echo '{newest}'\n");
    node.sandbox.script("newest-ipam", &script)?;
    for version in VERSIONS {
        let pod = CniPod::new(&format!("main-{version}"))?;
        let ipam = match version {
            "1.1.0" => json!({"type": "newest-ipam"}),
            _ => host_local(),
        };
        let main = Chain::of(version, "net", &[main_macvlan(&ipam)]);
        let added = main.add(&node.sandbox, &pod.call("ADD"))?;
        ensure_result(&added, version)?;
        let interface = &added["interfaces"][0];
        assert_eq!(interface["name"], INTERFACE);
        assert_eq!(interface["sandbox"], pod.netns.path().display().to_string());
        let link = pod.netns.describe(INTERFACE)?;
        assert_eq!(interface["mac"], link["address"]);
        // Fields that came with 1.1.0.
        let mtu = (version == "1.1.0").then_some(1500);
        assert_eq!(interface["mtu"].as_u64(), mtu, "{version}");
        assert_eq!(added["ips"][0]["interface"], 0);
        main.del(&node.sandbox, &pod.call("DEL"), Some(&added))?;

        // Behind another plugin: its result, with fields that nobody knows.
        let pod = CniPod::new(&format!("chained-{version}"))?;
        if version == "1.1.0" {
            continue;
        }
        let before = Chain::of(version, "net", &[reference_macvlan()]);
        let mut previous = before.add(&node.sandbox, &pod.call("ADD"))?;
        previous["interfaces"][0]["colour"] = json!("green");
        previous["weather"] = json!({"wind": [1, 2.5, null]});
        let list = Chain::of(version, "net", &[chained()]);
        let (_, config) = list.configurations(Some(&previous))?.swap_remove(0);
        let added = pod.call("ADD").run(&node.sandbox, "sluice", &config)?;
        assert_eq!(added.result()?, previous);
        assert!(pod.protected(INTERFACE)?);
        list.del(&node.sandbox, &pod.call("DEL"), Some(&previous))?;
        before.del(&node.sandbox, &pod.call("DEL"), Some(&previous))?;
    }
    assert_eq!(node.endpoints()?.len(), 0);
    Ok(())
}

#[test]
fn a_chained_result_of_1_1_0_passes_through() -> Result<()> {
    let node = CniNode::new()?;
    let pod = CniPod::new("pod-1")?;
    node.node
        .node
        .add_macvlan(UPLINK, &pod.netns, INTERFACE, "bridge")?;
    let sandbox_path = pod.netns.path().display().to_string();
    let previous = json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "cni0", "mac": "02:00:00:00:00:09"},
            {"name": INTERFACE, "sandbox": sandbox_path, "mtu": 1500, "socketPath": "/x", "pciID": "0000:00:00.0"},
        ],
        "ips": [{"address": "10.78.0.9/24", "interface": 1}],
        "routes": [{"dst": "10.0.0.0/8", "gw": "10.78.0.1", "mtu": 1400, "priority": 5, "table": 9, "scope": 0, "advmss": 1000}],
        "dns": {"nameservers": ["10.78.0.1"]},
    });
    let list = Chain::of("1.1.0", "net", &[chained()]);
    let (_, config) = list.configurations(Some(&previous))?.swap_remove(0);
    let added = pod.call("ADD").run(&node.sandbox, "sluice", &config)?;
    assert_eq!(added.result()?, previous);
    pod.call("CHECK")
        .run(&node.sandbox, "sluice", &config)?
        .result()?;
    pod.call("DEL")
        .run(&node.sandbox, "sluice", &config)?
        .result()?;
    assert!(!pod.protected(INTERFACE)?);
    Ok(())
}

#[test]
fn status_is_good_with_an_agent() -> Result<()> {
    let node = CniNode::new()?;
    let status = Call {
        verb: "STATUS".into(),
        ..Call::default()
    };
    let main = json!({"type": "sluice", "mode": "macvlan", "master": UPLINK});
    for plugin in [chained(), main] {
        let list = Chain::of("1.1.0", "net", &[plugin]);
        let (_, config) = list.configurations(None)?.swap_remove(0);
        let reply = status.run(&node.sandbox, "sluice", &config)?;
        // STATUS prints nothing when all is well.
        assert_eq!(reply.result()?, Value::Null, "{reply}");
    }
    Ok(())
}

#[test]
fn del_prints_nothing_and_never_minds_what_is_not_there() -> Result<()> {
    let node = CniNode::new()?;
    let pod = CniPod::new("never-added")?;
    let list = chained_list("1.0.0");
    for call in [
        pod.call("DEL"),
        Call {
            netns: None,
            ..pod.call("DEL")
        },
        Call {
            netns: Some("/run/netns/no-such".into()),
            ..pod.call("DEL")
        },
    ] {
        for (plugin, config) in list.configurations(None)?.into_iter().skip(1) {
            let reply = call.run(&node.sandbox, &plugin, &config)?;
            assert_eq!(reply.result()?, Value::Null, "{reply}");
        }
    }
    Ok(())
}
