//! The plugin by itself, held against the CNI specification: what it must refuse, with which code,
//! and what it does without an agent. Sections are of the specification, version 1.1.0.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

const ALL: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A call: the environment, as far as it is not the usual one, and the configuration.
struct Call<'a> {
    command: &'a str,
    unset: &'a [&'a str],
    set: &'a [(&'a str, &'a str)],
    input: String,
}

impl<'a> Call<'a> {
    fn new(command: &'a str, input: &Value) -> Self {
        Self {
            command,
            unset: &[],
            set: &[],
            input: input.to_string(),
        }
    }

    /// Exit status, what was printed as JSON (null for nothing), what was said.
    fn run(&self) -> (bool, Value, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-cni"));
        command
            .env_clear()
            .env("CNI_COMMAND", self.command)
            .env("CNI_CONTAINERID", "container-1")
            .env("CNI_NETNS", "/run/netns/none-of-this-name")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/nowhere")
            .envs(self.set.iter().copied());
        for name in self.unset {
            command.env_remove(name);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may end without reading.
        let _ = child.stdin.take().unwrap().write_all(self.input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let printed = if output.stdout.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&output.stdout).unwrap()
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), printed, said)
    }

    /// Code and text of the error that it must print (section 5, "Error").
    fn error(&self) -> (u64, String) {
        let (success, printed, said) = self.run();
        assert!(!success, "{printed} {said}");
        assert!(printed["cniVersion"].is_string(), "{printed}");
        let text = printed["msg"].as_str().unwrap().to_owned();
        assert!(!text.is_empty());
        (printed["code"].as_u64().unwrap(), text)
    }
}

/// A configuration for an agent that is not there, with a state folder of its own.
fn config(version: &str, folder: &Path, more: Value) -> Value {
    let mut config = json!({
        "cniVersion": version,
        "name": "net",
        "type": "sluice",
        "socket": folder.join("agent.sock"),
        "stateDir": folder.join("state"),
    });
    let fields = more.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(fields);
    config
}

fn result(version: &str) -> Value {
    json!({
        "cniVersion": version,
        "interfaces": [{"name": "eth0", "sandbox": "/run/netns/none-of-this-name"}],
    })
}

/// Section 2, "VERSION": the versions that are supported, answered without any other variable.
#[test]
fn version_lists_what_is_supported() {
    for asked in ALL.into_iter().chain(["0.2.0", "9.9.9"]) {
        let call = Call {
            unset: &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
            ..Call::new("VERSION", &json!({"cniVersion": asked}))
        };
        let (success, printed, said) = call.run();
        assert!(success && said.is_empty(), "{said}");
        assert_eq!(printed["cniVersion"], asked);
        assert_eq!(printed["supportedVersions"], json!(ALL));
    }
}

/// Section 2, "Parameters": what each command needs; code 4 names what is missing.
#[test]
fn each_command_needs_its_variables() {
    for (command, needed) in [
        (
            "ADD",
            &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"][..],
        ),
        (
            "CHECK",
            &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
        ),
        ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]),
        ("GC", &["CNI_PATH"]),
        ("STATUS", &["CNI_PATH"]),
    ] {
        for missing in needed {
            let call = Call {
                unset: &[missing],
                ..Call::new(command, &json!({"cniVersion": "1.1.0", "name": "n"}))
            };
            let (code, text) = call.error();
            assert_eq!(code, 4, "{command} without {missing}: {text}");
            assert!(text.contains(missing), "{text}");
        }
    }
}

#[test]
fn variables_must_be_sound() {
    for (name, value) in [
        ("CNI_COMMAND", "FETCH"),
        ("CNI_COMMAND", "add"),
        ("CNI_CONTAINERID", "../escape"),
        ("CNI_CONTAINERID", "-begins-with-a-dash"),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "much-too-long-name"),
        ("CNI_IFNAME", ".."),
        ("CNI_ARGS", "no-pair"),
    ] {
        let set = [(name, value)];
        let call = Call {
            set: &set,
            ..Call::new("ADD", &json!({"cniVersion": "1.0.0", "name": "n"}))
        };
        let (code, text) = call.error();
        assert_eq!(code, 4, "{name}={value}: {text}");
    }
}

/// Section 1 and section 5: code 6 for what is no JSON, 1 for a version that is not supported, 7
/// for a field that is wrong; the error is in the version of the caller.
#[test]
fn configurations_must_be_sound() {
    let folder = TempDir::new().unwrap();
    for (input, wanted) in [
        ("", 6),
        ("{", 6),
        ("[]", 6),
        ("\"text\"", 6),
        (r#"{"name":"n"}"#, 7),
        (r#"{"cniVersion":1,"name":"n"}"#, 7),
        (r#"{"cniVersion":"0.2.0","name":"n"}"#, 1),
        (r#"{"cniVersion":"2.0.0","name":"n"}"#, 1),
        (r#"{"cniVersion":"1.0.0"}"#, 7),
        (r#"{"cniVersion":"1.0.0","name":""}"#, 7),
        (r#"{"cniVersion":"1.0.0","name":"a b"}"#, 7),
        (r#"{"cniVersion":"1.0.0","name":"n","prevResult":7}"#, 7),
        (r#"{"cniVersion":"1.0.0","name":"n","mode":"bridge"}"#, 7),
    ] {
        let call = Call {
            input: input.into(),
            ..Call::new("ADD", &Value::Null)
        };
        let (code, text) = call.error();
        assert_eq!(code, wanted, "{input}: {text}");
    }
    for version in ALL {
        let call = Call::new("ADD", &config(version, folder.path(), json!({"mtu": "x"})));
        assert_eq!(call.run().1["cniVersion"], version);
    }
}

#[test]
fn options_are_checked_before_anything_is_done() {
    let folder = TempDir::new().unwrap();
    let vf = "0000:3b:00.2";
    for (more, code, word) in [
        (json!({"mode": "macvlan", "mtu": 67}), 7, "mtu"),
        (json!({"mode": "macvlan", "mtu": 65536}), 7, "mtu"),
        (
            json!({"mode": "macvlan", "mac": "01:00:00:00:00:01"}),
            7,
            "mac",
        ),
        (json!({"mode": "macvlan", "mac": "nonsense"}), 7, "mac"),
        (json!({"mode": "macvlan", "macvlanMode": "l2"}), 7, "l2"),
        (json!({"mode": "macvlan", "vlan": 4095}), 7, "vlan"),
        (
            json!({"mode": "ipvlan", "vlan": 5, "vlanQoS": 1}),
            7,
            "vlanQoS",
        ),
        (
            json!({"mode": "macvlan", "vlan": 5, "hostReach": true}),
            7,
            "hostReach",
        ),
        (json!({"vlan": 5}), 7, "vlan"),
        (json!({"logLevel": "loud"}), 7, "logLevel"),
        (json!({"mode": "macvlan", "rdma": "maybe"}), 7, "maybe"),
        (
            json!({"mode": "macvlan", "routes": ["10.0.0.0/33"]}),
            7,
            "routes[0]",
        ),
        (
            json!({"mode": "ipvlan", "mac": "02:00:00:00:00:01"}),
            7,
            "ipvlan",
        ),
        (
            json!({"mode": "ipvlan", "ipvlanMode": "bridge"}),
            7,
            "bridge",
        ),
        (json!({"mode": "sriov"}), 7, "deviceID"),
        (json!({"mode": "sriov", "deviceID": "17"}), 7, "deviceID"),
        (
            json!({"mode": "sriov", "deviceID": vf, "master": "eth0"}),
            7,
            "master",
        ),
        (
            json!({"mode": "sriov", "deviceID": vf, "vlan": 4095}),
            7,
            "vlan",
        ),
        (
            json!({"mode": "sriov", "deviceID": vf, "vlanQoS": 3}),
            7,
            "vlanQoS",
        ),
        (
            json!({"mode": "sriov", "deviceID": vf, "vlan": 5, "vlanQoS": 8}),
            7,
            "vlanQoS",
        ),
        (
            json!({"mode": "sriov", "deviceID": vf, "vlan": 5, "vlanProto": "q"}),
            7,
            "vlanProto",
        ),
        (
            json!({"mode": "sriov", "deviceID": vf, "vlanProto": "802.1ad"}),
            7,
            "vlanProto",
        ),
        (
            json!({"mode": "sriov", "deviceID": vf, "spoofchk": "yes"}),
            7,
            "yes",
        ),
        (
            json!({"mode": "sriov", "deviceID": vf, "link_state": "up"}),
            7,
            "up",
        ),
        (
            json!({"mode": "sriov", "deviceID": vf, "min_tx_rate": 2, "max_tx_rate": 1}),
            7,
            "rate",
        ),
        (
            json!({"mode": "macvlan", "ipam": {"type": "host-local"}}),
            7,
            "host-local",
        ),
        (
            json!({"mode": "macvlan", "ipam": {"type": "../sh"}}),
            7,
            "../sh",
        ),
        (json!({"hostReach": true}), 7, "hostReach"),
        (json!({"serviceCIDRs": ["10.96.0.0/12"]}), 7, "serviceCIDRs"),
        (json!({"master": "eth0"}), 7, "master"),
        (json!({"vlan": 5}), 7, "vlan"),
        (
            json!({"runtimeConfig": {"bandwidth": {"ingressRate": 1}}}),
            2,
            "bandwidth",
        ),
        (
            json!({"runtimeConfig": {"portMappings": [{"hostPort": 1}]}}),
            2,
            "portMappings",
        ),
        (
            json!({"runtimeConfig": {"dns": {"servers": ["10.0.0.10"]}}}),
            2,
            "dns",
        ),
        (json!({"runtimeConfig": {"aliases": ["web"]}}), 2, "aliases"),
        (
            json!({"runtimeConfig": {"infinibandGUID": "c2:11:22:33:44:55:66:77"}}),
            2,
            "infinibandGUID",
        ),
        (
            json!({"mode": "macvlan", "runtimeConfig": {"ipRanges": [[{"subnet": "10.1"}]]}}),
            7,
            "runtimeConfig.ipRanges[0][0].subnet",
        ),
    ] {
        let (found, text) = Call::new("ADD", &config("1.0.0", folder.path(), more.clone())).error();
        assert_eq!(found, code, "{more}: {text}");
        assert!(text.contains(word), "{more}: {text}");
    }
}

/// Section 2, "CHECK", "GC", "STATUS": commands came with versions, and need what they need.
#[test]
fn commands_are_refused_before_their_version() {
    let folder = TempDir::new().unwrap();
    for (command, first, code) in [("CHECK", 1, 7), ("GC", 3, 7), ("STATUS", 3, 50)] {
        for (index, version) in ALL.into_iter().enumerate() {
            let call = Call::new(command, &config(version, folder.path(), json!({})));
            let wanted = if index < first { 1 } else { code };
            let (found, text) = call.error();
            assert_eq!(found, wanted, "{command} in {version}: {text}");
        }
    }
}

/// Section 5: code 11 is "try again later"; the agent is down.
#[test]
fn add_waits_for_an_agent() {
    let folder = TempDir::new().unwrap();
    for version in ALL {
        let more = json!({"prevResult": result(version)});
        let (code, text) = Call::new("ADD", &config(version, folder.path(), more)).error();
        assert_eq!(code, 11, "{text}");
        assert!(text.contains("agent.sock"), "{text}");
    }
    assert!(
        !folder.path().join("state").exists(),
        "an ADD left something"
    );
}

#[test]
fn chained_it_needs_something_to_take_over() {
    let folder = TempDir::new().unwrap();
    for more in [
        json!({}),
        json!({"prevResult": null}),
        json!({"prevResult": {"interfaces": []}}),
        json!({"prevResult": {"interfaces": [{"name": "eth0"}]}}),
        json!({"prevResult": {"interfaces": [{"name": "eth0", "sandbox": "/elsewhere"}]}}),
    ] {
        let (code, text) = Call::new("ADD", &config("1.0.0", folder.path(), more)).error();
        assert_eq!(code, 7, "{text}");
        assert!(text.contains("prevResult"), "{text}");
    }
}

/// Section 2, "DEL": generally succeeds; with the agent down it leaves a tombstone, with or without
/// a namespace and a prevResult.
#[test]
fn del_succeeds_without_an_agent() {
    for version in ALL {
        for more in [json!({}), json!({"prevResult": result(version)})] {
            for unset in [&[][..], &["CNI_NETNS"]] {
                let folder = TempDir::new().unwrap();
                let call = Call {
                    unset,
                    ..Call::new("DEL", &config(version, folder.path(), more.clone()))
                };
                let (success, printed, said) = call.run();
                assert!(success, "{printed} {said}");
                assert!(printed.is_null(), "{printed}");
                let tombstones = folder.path().join("state/cni/tombstones");
                let names: Vec<_> = fs::read_dir(tombstones)
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                    .collect();
                assert_eq!(names, ["container-1:eth0.json"]);
            }
        }
    }
}

#[test]
fn del_that_can_leave_no_tombstone_fails() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("state"), "in the way").unwrap();
    let (code, text) = Call::new("DEL", &config("1.0.0", folder.path(), json!({}))).error();
    assert_eq!(code, 5, "{text}");
}

/// The log goes to a file or to standard error; standard output is the result's alone.
#[test]
fn the_log_goes_where_it_is_told() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("logs/sluice.log");
    let call = |command, level: &str, file: &Path| {
        let more = json!({"logFile": file, "logLevel": level});
        Call::new(command, &config("1.0.0", folder.path(), more))
    };
    let (success, printed, said) = call("DEL", "info", &path).run();
    assert!(success && printed.is_null() && said.is_empty(), "{said}");
    let log = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(
        lines[0].contains(" warning DEL net: eth0 of container container-1: ")
            && lines[0].contains("tombstone"),
        "{log}"
    );
    assert!(lines[1].ends_with(": done"), "{log}");
    // An error is the result's as well; less than the level says nothing more.
    let (_, text) = call("ADD", "error", &path).error();
    let more = fs::read_to_string(&path).unwrap();
    let more = more.strip_prefix(&log).unwrap();
    assert_eq!(more.lines().count(), 1, "{more}");
    assert!(
        more.contains(" error ADD ") && more.contains(&text),
        "{more}"
    );
    // A file that cannot be written stops nothing.
    let (success, _, said) = call("DEL", "warning", &path.join("below")).run();
    assert!(success, "{said}");
    assert!(
        said.contains("logFile") && said.contains("tombstone"),
        "{said}"
    );
}

/// An IPAM plugin, and where it notes the commands that it was given.
fn ipam(folder: &Path, script: &str) -> String {
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).unwrap();
    let log = folder.join("commands").display().to_string();
    let text = format!("#!/bin/sh\n/bin/cat >/dev/null\necho $CNI_COMMAND >>{log}\n{script}\n");
    fs::write(bin.join("scripted"), text).unwrap();
    fs::set_permissions(bin.join("scripted"), fs::Permissions::from_mode(0o755)).unwrap();
    bin.display().to_string()
}

/// Section 4: a delegate that was asked for an address is asked to release it when ADD fails, and
/// on DEL, whatever else fails.
#[test]
fn addresses_are_released_when_an_add_fails() {
    let address = r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"}]}'"#;
    for (script, more, wanted) in [
        (address, json!({}), 11),
        (
            "echo '{\"code\":999,\"msg\":\"no addresses left\"}'; exit 1",
            json!({}),
            11,
        ),
        ("exec /bin/sleep 1000", json!({"ipamTimeout": 1}), 11),
    ] {
        let folder = TempDir::new().unwrap();
        let bin = ipam(folder.path(), script);
        let mut config = config(
            "1.0.0",
            folder.path(),
            json!({"mode": "macvlan", "ipam": {"type": "scripted"}}),
        );
        config
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let set = [("CNI_PATH", bin.as_str())];
        let call = Call {
            set: &set,
            ..Call::new("ADD", &config)
        };
        let (code, text) = call.error();
        assert_eq!(code, wanted, "{text}");
        let commands = fs::read_to_string(folder.path().join("commands")).unwrap();
        assert_eq!(commands, "ADD\nDEL\n");
    }
}

#[test]
fn del_releases_the_address_and_passes_the_plugins_error_on() {
    for (script, code) in [
        ("", None),
        (
            "echo '{\"code\":999,\"msg\":\"cannot\"}'; exit 1",
            Some(999),
        ),
        ("exit 1", Some(104)),
    ] {
        let folder = TempDir::new().unwrap();
        let bin = ipam(folder.path(), script);
        let set = [("CNI_PATH", bin.as_str())];
        let more = json!({"mode": "macvlan", "ipam": {"type": "scripted"}});
        let call = Call {
            set: &set,
            ..Call::new("DEL", &config("1.0.0", folder.path(), more))
        };
        match code {
            None => assert!(call.run().0),
            Some(code) => assert_eq!(call.error().0, code),
        }
        // The agent's part is done all the same.
        assert!(
            folder
                .path()
                .join("state/cni/tombstones/container-1:eth0.json")
                .exists()
        );
        let commands = fs::read_to_string(folder.path().join("commands")).unwrap();
        assert_eq!(commands, "DEL\n");
    }
}

/// Section 2, "GC": without a list of what is in use nothing may go.
#[test]
fn gc_needs_its_list() {
    let folder = TempDir::new().unwrap();
    let (code, text) = Call::new("GC", &config("1.1.0", folder.path(), json!({}))).error();
    assert_eq!(code, 7, "{text}");
    let more = json!({"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "b/c"}]});
    let (code, _) = Call::new("GC", &config("1.1.0", folder.path(), more)).error();
    assert_eq!(code, 7);
    let more = json!({"cni.dev/valid-attachments": []});
    let (code, _) = Call::new("GC", &config("1.1.0", folder.path(), more)).error();
    assert_eq!(code, 11);
}

#[test]
fn without_a_command_it_says_what_it_is() {
    let call = Call {
        unset: &["CNI_COMMAND"],
        ..Call::new("", &Value::Null)
    };
    let (success, printed, said) = call.run();
    assert!(success && printed.is_null());
    assert!(said.contains("CNI") && said.contains("1.1.0"), "{said}");
}
