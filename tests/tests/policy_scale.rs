//! A node of the largest size that is promised: 500 endpoints, 1,000 policies,
//! 5,000 pods, 10,000 prefixes, in the kernel's maps, looked up as packets
//! are, against the naive evaluator.

#![expect(
    clippy::unwrap_used,
    reason = "a manifest that makes no sense is the test's own mistake"
)]

use std::{collections::BTreeMap, net::IpAddr};

use dataplane::{
    kernel::{Maps, Sizes},
    policy::{
        apply::{Applied, Switches},
        compile::{Compiler, Endpoint, RuleNumbers},
        explain::{Service, explain},
    },
};
use dataplane_ebpf::abi::{Direction, EndpointConfig};
use serde_json::Value;
use sluice_tests::{
    judge::Judge,
    policy::{
        Cluster, Packet, Verdict, endpoints,
        large::{CIDRS, ENDPOINTS, PODS, POLICIES, address, cidr, large_cluster, numbered_pod},
        model,
    },
};

/// Packets that are held against the evaluator.
const SAMPLES: usize = 500;

struct Scale {
    judge: Judge,
    compiler: Compiler,
    applied: Applied<Maps>,
    endpoints: Vec<Endpoint>,
}

impl Scale {
    fn new(cluster: &Cluster) -> Self {
        let sizes = Sizes {
            max_endpoints: ENDPOINTS as u32,
            ..Sizes::DEFAULT
        };
        let judge = Judge::without_entries(sizes).unwrap();
        let attached = endpoints(cluster).into_iter().take(ENDPOINTS);
        for id in 1..=sizes.max_endpoints {
            let in_use = |config: &mut EndpointConfig| config.flags = EndpointConfig::IN_USE;
            judge.kernel().maps().change_endpoint(id, in_use).unwrap();
        }
        Self {
            judge,
            compiler: Compiler::new(
                Default::default(),
                RuleNumbers::default(),
                Default::default(),
            ),
            applied: Applied::default(),
            endpoints: attached.map(|(_, endpoint)| endpoint).collect(),
        }
    }

    fn maps(&self) -> &Maps {
        self.judge.kernel().maps()
    }

    fn go_by(&mut self, cluster: &Cluster) {
        let compiled = self.compiler.compile(&model(cluster), &self.endpoints, &[]);
        let maps = self.judge.kernel().maps();
        let outcome = self.applied.apply(maps, &compiled, &Switches::default());
        assert!(outcome.problems.is_empty(), "{:?}", outcome.problems);
        assert!(outcome.closed.is_empty(), "{:?}", outcome.closed);
    }

    /// Which table, and in how many entries, each endpoint goes by.
    fn tables(&self) -> BTreeMap<(u32, Direction), u32> {
        let maps = self.maps().policy();
        let mut tables = BTreeMap::new();
        for endpoint in &self.endpoints {
            for direction in [Direction::Ingress, Direction::Egress] {
                let slot = maps.open_policy_slot(endpoint.id, direction).unwrap();
                tables.extend(slot.map(|map| ((endpoint.id, direction), map.id())));
            }
        }
        tables
    }

    /// Holds samples against the evaluator; tells how many it allows and how
    /// many it denies.
    fn check(&self, cluster: &Cluster) -> [usize; 2] {
        let pods: BTreeMap<_, _> = cluster.pods().map(|pod| (name(pod), pod)).collect();
        let mut seen = [0; 2];
        for number in 0..SAMPLES {
            let endpoint = &self.endpoints[number * 7 % ENDPOINTS];
            let packet = sample(number);
            let pod = pods[&endpoint.pod.as_ref().unwrap().to_string()];
            let expected =
                about(cluster, pod, packet.peer).verdict(pod, &endpoint.interface, &packet);
            let direction = match packet.ingress {
                true => Direction::Ingress,
                false => Direction::Egress,
            };
            let service = Service {
                protocol: packet.protocol,
                port: Some(packet.port),
            };
            let found =
                explain(self.maps(), endpoint.id, direction, packet.peer, &service).unwrap();
            assert_eq!(
                found.is_allowed(),
                expected != Verdict::Denied,
                "{packet:?} at {pod}: {found:?}"
            );
            seen[usize::from(found.is_allowed())] += 1;
        }
        seen
    }
}

/// The manifests that can matter to a packet, since the evaluator reads each of
/// them for each peer of each rule: policies of the pod's namespace, pods with
/// the peer's address, namespaces.
fn about(cluster: &Cluster, pod: &Value, peer: IpAddr) -> Cluster {
    let address = format!("\"{peer}\"");
    let objects = cluster.objects.iter().filter(|object| {
        let metadata = &object["metadata"];
        match object["kind"].as_str() {
            Some("Namespace") => true,
            Some("Pod") => metadata["annotations"]["k8s.v1.cni.cncf.io/network-status"]
                .as_str()
                .is_some_and(|status| status.contains(&address)),
            _ => metadata["namespace"] == pod["metadata"]["namespace"],
        }
    });
    Cluster {
        objects: objects.cloned().collect(),
    }
}

fn name(pod: &Value) -> String {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap();
    format!("{}/{}", text("namespace"), text("name"))
}

/// Spread over directions, peers (pods, prefixes, their excepts, nobody),
/// protocols and ports.
fn sample(number: usize) -> Packet {
    let spread = number * 7919;
    let peer: IpAddr = match number % 4 {
        0 | 1 => address(spread % PODS).into(),
        2 => {
            let host = if number % 8 < 4 { "7" } else { "200" };
            let block = cidr(spread % CIDRS).replace(".0/24", "");
            format!("{block}.{host}").parse().unwrap()
        }
        _ => IpAddr::from([192, 0, 2, 7]),
    };
    let (protocol, port) = match number % 5 {
        0 => (17, 53),
        1 => (6, 9050),
        _ => (6, 8000 + (spread % 50) as u16),
    };
    Packet {
        ingress: !number.is_multiple_of(3),
        peer,
        protocol,
        port,
    }
}

#[test]
fn a_full_node_says_what_its_manifests_say_and_changes_only_what_changes() {
    let mut cluster = large_cluster();
    assert_eq!(cluster.pods().count(), PODS);
    let mut scale = Scale::new(&cluster);
    scale.go_by(&cluster);
    let [denied, allowed] = scale.check(&cluster);
    assert!(
        denied > 30 && allowed > 30,
        "{denied} denied, {allowed} allowed"
    );
    let tables = scale.tables();
    let identities = scale.maps().policy().identities().unwrap();
    assert!(identities.len() > CIDRS, "{} identities", identities.len());

    // A pod goes, another one of its kind comes: identities of addresses, and
    // not one table.
    let leaving = numbered_pod(PODS - 1);
    let mut coming = leaving.clone();
    coming["metadata"]["name"] = "pod-new".into();
    let status = coming["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"]
        .as_str()
        .unwrap()
        .replace(&address(PODS - 1).to_string(), &address(PODS).to_string());
    coming["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"] = status.into();
    let at = cluster
        .objects
        .iter()
        .position(|object| *object == leaving)
        .unwrap();
    cluster.objects[at] = coming;
    scale.go_by(&cluster);
    assert_eq!(scale.tables(), tables, "tables were replaced");
    let after = scale.maps().policy().identities().unwrap();
    let changed: Vec<_> = after
        .iter()
        .filter(|entry| !identities.contains(entry))
        .collect();
    assert_eq!(changed.len(), 1, "{changed:?}");
    assert_eq!(after.len(), identities.len());

    // One policy goes: its endpoints get other tables, nobody else does.
    let last = cluster.objects.pop().unwrap();
    assert_eq!(last["metadata"]["name"], format!("policy-{}", POLICIES - 1));
    scale.go_by(&cluster);
    let now = scale.tables();
    let replaced: Vec<_> = tables
        .iter()
        .filter(|(slot, table)| now.get(slot) != Some(table))
        .map(|((endpoint, _), _)| *endpoint)
        .collect();
    let namespace = last["metadata"]["namespace"].as_str().unwrap();
    let app = &last["spec"]["podSelector"]["matchLabels"]["app"];
    let selected: Vec<_> = scale
        .endpoints
        .iter()
        .filter(|endpoint| {
            let pod = endpoint.pod.as_ref().unwrap();
            let mut pods = cluster.pods();
            let found = pods.find(|one| name(one) == pod.to_string()).unwrap();
            pod.namespace == namespace && found["metadata"]["labels"]["app"] == *app
        })
        .map(|endpoint| endpoint.id)
        .collect();
    assert_eq!(replaced, selected);
    scale.check(&cluster);
}
