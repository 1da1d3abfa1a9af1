//! The plugin in the hands of real clients: containerd, cnitool, Multus.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sluice_tests::{
    cni::{
        chain::Chain,
        containerd::Containerd,
        node::{
            CniNode, CniPod, INTERFACE, POD_ADDRESS, chained, chained_list, host_local, main_list,
            main_macvlan, reference_macvlan, static_ipam,
        },
    },
    netns::output,
    node::{MACHINE, pings},
    poll::wait_until,
};

/// Packets that an endpoint has counted in both directions.
fn packets(node: &CniNode, endpoint: &Value) -> Result<[u64; 2]> {
    let id = endpoint["id"].as_u64().context("endpoint without id")?;
    let stats = node.agent.stats(id)?;
    let count = |direction: &str| stats[direction]["packets"].as_u64().context("no packets");
    Ok([count("ingress")?, count("egress")?])
}

/// Two pods by containerd on one network: they reach each other and the world, each is counted,
/// and nothing stays of them.
fn containerd_pods(list: &Chain) -> Result<()> {
    let node = CniNode::new()?;
    node.sandbox.configure("10-net.conflist", list.list())?;
    let containerd = Containerd::start(&node.sandbox)?;
    // Clients and IPAM make their folders once.
    containerd.pod("warm-up")?.stop()?;
    let before = node.look(&[])?;

    let web = containerd.pod("web")?;
    let client = containerd.pod("client")?;
    let endpoints = node.endpoints()?;
    assert_eq!(endpoints.len(), 2, "{endpoints:#?}");
    let counts = endpoints.iter().map(|endpoint| packets(&node, endpoint));
    let earlier = counts.collect::<Result<Vec<_>>>()?;

    let addresses = web.run(&["/bin/ip", "-o", "-4", "address", "show", "eth0"])?;
    let address = addresses
        .split_whitespace()
        .find(|word| word.starts_with("10.78.0."))
        .and_then(|word| word.split('/').next())
        .context("no address")?;
    client.run(&["/bin/ping", "-c", "3", "-W", "2", address])?;
    client.run(&["/bin/ping", "-c", "3", "-W", "2", MACHINE[0]])?;
    for (endpoint, earlier) in endpoints.iter().zip(earlier) {
        let now = packets(&node, endpoint)?;
        for (now, earlier) in now.into_iter().zip(earlier) {
            assert!(now >= earlier + 3, "{earlier} and then {now}: {endpoint}");
        }
    }

    web.stop()?;
    client.stop()?;
    // Containerd's DEL comes without a namespace.
    node.wait_same(&before, &[])
}

#[test]
fn containerd_runs_chained_pods() -> Result<()> {
    containerd_pods(&chained_list("1.0.0"))
}

#[test]
fn containerd_runs_pods_of_the_main_plugin() -> Result<()> {
    containerd_pods(&main_list("1.0.0"))
}

/// Cnitool through the verbs of the newest version: only our plugin and IPAM, since the reference
/// plugins of distributions do not know it.
#[test]
fn cnitool_goes_through_every_verb() -> Result<()> {
    let node = CniNode::new()?;
    let pod = CniPod::new("unused")?;
    let plugin = main_macvlan(&static_ipam(POD_ADDRESS));
    // Static is of 1.0.0: it answers in the version that it is asked in, or not at all.
    for version in ["0.4.0", "1.0.0"] {
        let list = Chain::of(version, "net", std::slice::from_ref(&plugin));
        node.sandbox.configure("10-net.conflist", list.list())?;
        let before = node.look(&[("pod", &pod.netns)])?;
        let run = |verb: &str| output(&mut node.sandbox.cnitool(verb, "net", &pod.netns)?);
        let added: Value = serde_json::from_str(&run("add")?)?;
        assert_eq!(added["cniVersion"], version);
        assert!(pod.protected("eth0")?);
        // The other machine may remember who had the address before.
        node.node.machine.ip("neighbour flush all")?;
        assert!(pings(&node.node.machine, POD_ADDRESS)?);
        run("check")?;
        run("del")?;
        assert_eq!(pod.interfaces()?, [""; 0]);
        node.wait_same(&before, &[("pod", &pod.netns)])?;
    }

    let list = Chain::of(
        "1.1.0",
        "net",
        &[json!({"type": "sluice", "mode": "macvlan", "master": "up0"})],
    );
    node.sandbox.configure("10-net.conflist", list.list())?;
    let run = |verb: &str| output(&mut node.sandbox.cnitool(verb, "net", &pod.netns)?);
    run("status")?;
    run("add")?;
    run("check")?;
    assert_eq!(node.endpoints()?.len(), 1);
    // Cnitool deletes what it remembers, and then gives no list of what is in use: nothing more may
    // be taken for garbage.
    let error = run("gc").unwrap_err().to_string();
    assert!(error.contains("valid-attachments"), "{error}");
    assert_eq!(node.endpoints()?.len(), 0);
    assert_eq!(pod.interfaces()?, [""; 0]);
    run("del")?;
    Ok(())
}

#[test]
fn cnitool_check_tells_what_is_wrong() -> Result<()> {
    let node = CniNode::new()?;
    let pod = CniPod::new("unused")?;
    let list = Chain::of("1.0.0", "net", &[main_macvlan(&static_ipam(POD_ADDRESS))]);
    node.sandbox.configure("10-net.conflist", list.list())?;
    let run = |verb: &str| output(&mut node.sandbox.cnitool(verb, "net", &pod.netns)?);
    run("add")?;
    run("check")?;
    pod.netns
        .ip(&format!("address delete {POD_ADDRESS}/24 dev eth0"))?;
    let error = run("check").unwrap_err().to_string();
    assert!(error.contains(POD_ADDRESS), "{error}");
    pod.netns.ip("link delete eth0")?;
    let error = run("check").unwrap_err().to_string();
    assert!(error.contains("eth0"), "{error}");
    run("del")?;
    Ok(())
}

/// Multus with two networks: a chain behind macvlan, and our plugin as the main one. The second
/// gets the device of a resource, once a shared device's token, which is none, once a VF that is
/// not there, which is an error.
#[test]
fn multus_runs_two_networks_of_ours() -> Result<()> {
    let node = CniNode::new()?;
    let pod = CniPod::new("pod-1")?;
    let ipam = json!({"type": "static", "addresses": [{"address": "10.78.0.210/24"}]});
    let second = |device: &str, mode: &str| {
        let mut plugin = main_macvlan(&ipam);
        plugin["capabilities"] =
            json!({"deviceID": true, "CNIDeviceInfoFile": true, "mac": true, "ips": true});
        plugin["deviceID"] = json!(device);
        plugin["pciBusID"] = json!(device);
        if mode == "sriov" {
            plugin = json!({"type": "sluice", "mode": "sriov", "deviceID": device, "pciBusID": device, "ipam": ipam});
        }
        json!({"cniVersion": "1.0.0", "name": "second", "plugins": [plugin]})
    };
    let config = |device: &str, mode: &str| {
        json!({
            "cniVersion": "1.0.0", "name": "multus", "type": "multus", "logLevel": "error",
            "runtimeConfig": {"deviceID": device},
            "delegates": [
                {"cniVersion": "1.0.0", "name": "first", "plugins": [reference_macvlan(), chained()]},
                second(device, mode),
            ],
        })
    };
    let mut call = pod.call("ADD");
    call.interface = "eth0".into();
    call.arguments =
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=pod-1"
            .into();
    let delete = sluice_tests::cni::call::Call {
        verb: "DEL".into(),
        ..call.clone()
    };
    let shared = config("17", "macvlan");
    call.run(&node.sandbox, "multus", &shared)?.result()?;
    delete.run(&node.sandbox, "multus", &shared)?.result()?;
    let before = node.look(&[("pod", &pod.netns)])?;

    call.run(&node.sandbox, "multus", &shared)?.result()?;
    for interface in ["eth0", "net1"] {
        assert!(pod.protected(interface)?, "{interface}");
    }
    let endpoints = node.endpoints()?;
    assert_eq!(endpoints.len(), 2);
    let text = node.agent.run(&["endpoints"])?;
    assert_eq!(text.matches("default/web-0").count(), 2, "{text}");
    assert!(pings(&node.node.machine, "10.78.0.210")?);
    delete.run(&node.sandbox, "multus", &shared)?.result()?;
    node.wait_same(&before, &[("pod", &pod.netns)])?;

    // A PCI address is meant: there is no such VF here, and Multus takes the first network back.
    let vf = config("ffff:ff:1f.7", "sriov");
    let reply = call.run(&node.sandbox, "multus", &vf)?;
    assert!(!reply.output.status.success());
    let text = reply.to_string();
    assert!(text.contains("ffff:ff:1f.7"), "{text}");
    // Multus remembers its failed ADD until the runtime deletes the pod.
    delete.run(&node.sandbox, "multus", &vf)?.result()?;
    node.wait_same(&before, &[("pod", &pod.netns)])
}

#[test]
fn the_main_plugin_honours_capabilities_and_arguments() -> Result<()> {
    let node = CniNode::new()?;
    let mut plugin = main_macvlan(&host_local());
    plugin["capabilities"] = json!({"mac": true, "ips": true});
    plugin["mtu"] = json!(1400);
    let list = Chain::of("1.0.0", "net", &[plugin]).with_capabilities(json!({
        "mac": "02:11:22:33:44:55", "ips": ["10.78.0.150"],
    }));
    let pod = CniPod::new("pod-1")?;
    let added = list.add(&node.sandbox, &pod.call("ADD"))?;
    assert_eq!(added["interfaces"][0]["mac"], "02:11:22:33:44:55");
    assert_eq!(added["ips"][0]["address"], "10.78.0.150/24");
    let link = pod.netns.describe(INTERFACE)?;
    assert_eq!(link["address"], "02:11:22:33:44:55");
    assert_eq!(link["mtu"], 1400);
    assert!(pings(&node.node.machine, "10.78.0.150")?);
    list.del(&node.sandbox, &pod.call("DEL"), Some(&added))?;

    // Static knows nothing of `ips` that it does not have itself.
    let mut plugin =
        main_macvlan(&json!({"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/24"}]]}));
    plugin["capabilities"] = json!({"ips": true});
    let list =
        Chain::of("1.0.0", "net", &[plugin]).with_capabilities(json!({"ips": ["10.78.0.150"]}));
    let error = list.add(&node.sandbox, &pod.call("ADD")).unwrap_err();
    assert!(format!("{error:#}").contains("10.78.0.150"), "{error:#}");
    assert_eq!(pod.interfaces()?, [""; 0]);

    // Host-local takes ranges from the runtime, static does not.
    let of = |ipam: Value| {
        let mut plugin = main_macvlan(&ipam);
        plugin["capabilities"] = json!({"ipRanges": true});
        let range = json!({
            "subnet": "10.78.0.0/24", "rangeStart": "10.78.0.160", "rangeEnd": "10.78.0.160",
        });
        Chain::of("1.0.0", "net", &[plugin]).with_capabilities(json!({"ipRanges": [[range]]}))
    };
    let list = of(json!({"type": "host-local"}));
    let added = list.add(&node.sandbox, &pod.call("ADD"))?;
    assert_eq!(added["ips"][0]["address"], "10.78.0.160/24");
    list.del(&node.sandbox, &pod.call("DEL"), Some(&added))?;
    let list = of(static_ipam("10.79.0.7"));
    let error = list.add(&node.sandbox, &pod.call("ADD")).unwrap_err();
    assert!(format!("{error:#}").contains("ipRanges"), "{error:#}");
    assert_eq!(pod.interfaces()?, [""; 0]);
    Ok(())
}

/// The reference dhcp plugin with its daemon, and a DHCP server on the other machine.
#[test]
fn addresses_come_by_dhcp() -> Result<()> {
    let node = CniNode::new()?;
    let folder = node.sandbox.folder();
    let (config, leases) = (folder.join("udhcpd.conf"), folder.join("leases"));
    std::fs::write(&leases, "")?;
    std::fs::write(
        &config,
        format!(
            "start 10.78.0.60\nend 10.78.0.70\ninterface eth0\nlease_file {}\npidfile {}\n\
             option subnet 255.255.255.0\noption router 10.78.0.254\n",
            leases.display(),
            folder.join("udhcpd.pid").display()
        ),
    )?;
    let config = config.display().to_string();
    let _server = node
        .node
        .machine
        .spawn("busybox", &["udhcpd", "-f", "-S", &config])?;
    let mut daemon = node.sandbox.command("sh");
    daemon.args(["-c", "mkdir -p /run/cni && exec /opt/cni/bin/dhcp daemon"]);
    let mut daemon = Killed(daemon.spawn()?);
    wait_until("the DHCP daemon to listen", || {
        let listens = node
            .sandbox
            .command("test")
            .args(["-S", "/run/cni/dhcp.sock"])
            .status()?;
        Ok(listens.success())
    })?;

    let list = Chain::of("1.0.0", "net", &[main_macvlan(&json!({"type": "dhcp"}))]);
    let pod = CniPod::new("pod-1")?;
    let added = list.add(&node.sandbox, &pod.call("ADD"))?;
    let address = added["ips"][0]["address"].as_str().context("no address")?;
    assert!(
        address.starts_with("10.78.0.6") || address == "10.78.0.70/24",
        "{address}"
    );
    assert!(pod.protected(INTERFACE)?);
    let bare = address.split('/').next().context("no address")?;
    assert!(pings(&node.node.machine, bare)?);
    list.del(&node.sandbox, &pod.call("DEL"), Some(&added))?;
    assert_eq!(pod.interfaces()?, [""; 0]);
    daemon.0.kill()?;
    Ok(())
}

/// A child that does not outlive its test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
