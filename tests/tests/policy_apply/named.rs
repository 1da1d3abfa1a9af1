//! Changes that were wrong once, or easily would be.

use dataplane::policy::apply::Applied;
use dataplane_ebpf::abi::Direction;
use serde_json::json;
use sluice_tests::policy::{Cluster, Verdict};

use crate::world::World;

/// A pod whose egress is isolated, and perhaps may reach a block.
fn with_block(block: Option<serde_json::Value>) -> Cluster {
    let egress: Vec<_> = block
        .into_iter()
        .map(|block| json!({"to": [{"ipBlock": block}]}))
        .collect();
    Cluster {
        objects: vec![
            json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"namespace": "one", "name": "a"},
            }),
            json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"namespace": "one", "name": "p"},
                "spec": {"policyTypes": ["Egress"], "egress": egress},
            }),
        ],
    }
}

/// From one to the other and back.
fn ensure_no_wrong_step(one: &Cluster, other: &Cluster) {
    for (before, after) in [(one, other), (other, one)] {
        let world = World::new(before, after);
        let mut applied = Applied::default();
        applied.apply(&world.memory, &world.before, &world.switches);
        world.watch();
        applied.apply(&world.memory, &world.after, &world.switches);
        world.check_end().unwrap();
    }
}

#[test]
fn an_except_is_in_place_before_its_block_and_as_long_as_it() {
    let none = with_block(None);
    let block = json!({"cidr": "10.0.0.0/8", "except": ["10.0.0.0/16"]});
    let block = with_block(Some(block));
    ensure_no_wrong_step(&none, &block);
}

#[test]
fn a_pod_that_becomes_a_peer_is_one_before_an_except_names_its_address() {
    let cluster = |to: serde_json::Value, from: serde_json::Value| {
        let peer = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": "one", "name": "peer", "labels": {"app": "peer"}},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
        });
        let mut cluster = with_block(None);
        cluster.objects[1]["spec"] = json!({
            "podSelector": {},
            "policyTypes": ["Ingress", "Egress"],
            "egress": [{"to": [to]}],
            "ingress": [{"from": [from]}],
        });
        cluster.objects.push(peer);
        cluster
    };
    let block = json!({"ipBlock": {"cidr": "10.0.0.0/8"}});
    let except = json!({"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.0.1/32"]}});
    let pods = json!({"podSelector": {"matchLabels": {"app": "peer"}}});
    let by_address = cluster(block.clone(), block);
    let by_label = cluster(pods, except);
    ensure_no_wrong_step(&by_address, &by_label);
}

#[test]
fn where_an_except_does_not_fit_its_block_is_closed() {
    let block = json!({"cidr": "10.0.0.0/8", "except": ["10.0.0.0/16", "10.255.0.0/16"]});
    let world = World::new(&with_block(None), &with_block(Some(block)));
    for room in 0..3 {
        world.memory.room.set(room);
        let outcome = Applied::default().apply(&world.memory, &world.after, &world.switches);
        let closed: Vec<_> = outcome.closed.keys().copied().collect();
        assert_eq!(closed, [(1, Direction::Egress)], "room for {room}");
        let reason = outcome.closed.values().next().unwrap();
        assert!(reason.contains("did not fit"), "{reason}");
        let verdicts = world.memory.verdicts(&world.ids);
        assert!(!verdicts.contains(&Verdict::Allowed), "room for {room}");
    }
}

/// Peers by name, with the label and the address of each; one policy of the
/// pod `a`, whose egress may reach the peers with this label.
fn with_peers(peers: &[(&str, &str)], allowed: &str) -> Cluster {
    let mut cluster = with_block(None);
    cluster.objects[1]["spec"] = json!({
        "podSelector": {"matchLabels": {"app": "a"}},
        "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"app": allowed}}}]}],
    });
    cluster.objects[0]["metadata"]["labels"] = json!({"app": "a"});
    // Another policy, so that both labels stand for an identity all along.
    let ports = json!([{"protocol": "UDP", "port": 1}]);
    let both = json!({"matchExpressions": [
        {"key": "app", "operator": "In", "values": ["p", "q"]},
    ]});
    for label in ["p", "q"] {
        cluster.objects.push(json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"namespace": "one", "name": format!("of-{label}")},
            "spec": {
                "podSelector": both,
                "policyTypes": ["Ingress"],
                "ingress": [{
                    "from": [{"podSelector": {"matchLabels": {"app": label}}}],
                    "ports": ports,
                }],
            },
        }));
    }
    for (number, (label, address)) in peers.iter().enumerate() {
        cluster.objects.push(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": "one",
                "name": format!("peer-{number}"),
                "labels": {"app": label},
            },
            "status": {"phase": "Running", "podIPs": [{"ip": address}]},
        }));
    }
    cluster
}

/// Neither the old nor the new policy lets the pod reach the one that moves;
/// back, it joins the class that just now is no longer allowed.
#[test]
fn a_pod_that_leaves_a_class_does_not_profit_from_what_the_class_is_allowed_next() {
    let one = with_peers(&[("p", "10.0.0.1"), ("p", "10.0.0.2")], "q");
    let other = with_peers(&[("p", "10.0.0.1"), ("q", "10.0.0.2")], "p");
    ensure_no_wrong_step(&one, &other);
    let one = with_peers(&[("p", "10.0.0.1"), ("q", "10.0.0.2")], "q");
    let other = with_peers(&[("p", "10.0.0.1"), ("p", "10.0.0.2")], "p");
    ensure_no_wrong_step(&one, &other);
}

#[test]
fn pods_that_change_places_while_the_rules_over_them_do_keep_their_verdicts() {
    let one = with_peers(&[("p", "10.0.0.1"), ("q", "10.0.0.2")], "p");
    let other = with_peers(&[("q", "10.0.0.1"), ("p", "10.0.0.2")], "q");
    ensure_no_wrong_step(&one, &other);
}

/// The same of two addresses of the node, which are told apart by blocks.
#[test]
fn addresses_of_the_node_that_change_places_keep_their_verdicts() {
    let cluster = |first: &str, second: &str, allowed: &str| {
        let mut cluster = with_peers(&[], "p");
        let blocks = [("first", first), ("second", second)];
        for (name, cidr) in blocks {
            cluster.objects.push(json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"namespace": "one", "name": name},
                "spec": {"policyTypes": ["Egress"], "egress": [{
                    "to": [{"ipBlock": {"cidr": cidr}}],
                    "ports": [{"protocol": "TCP", "port": if name == allowed { 80 } else { 443 }}],
                }]},
            }));
        }
        cluster
    };
    let one = cluster("192.0.2.1/32", "11.0.0.0/32", "first");
    let other = cluster("11.0.0.0/32", "192.0.2.1/32", "second");
    ensure_no_wrong_step(&one, &other);
}

/// Two pods share a table; one gets rules of its own in the change in which an
/// address comes to a peer's class, and another leaves it.
#[test]
fn a_table_that_grows_for_others_does_not_grow_for_who_leaves_it() {
    let cluster = |label: &str, peer: &str| {
        let mut cluster = with_peers(&[("p", peer)], "p");
        cluster.objects[0]["metadata"]["labels"] = json!({"app": label});
        cluster.objects[1]["spec"]["podSelector"] = json!({"matchExpressions": [
            {"key": "app", "operator": "In", "values": ["a", "p"]},
        ]});
        cluster.objects.push(json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"namespace": "one", "name": "always"},
            "spec": {
                "policyTypes": ["Egress"],
                "egress": [{"ports": [{"protocol": "TCP"}]}],
            },
        }));
        cluster
    };
    ensure_no_wrong_step(&cluster("a", "10.0.0.1"), &cluster("b", "10.0.0.2"));
    ensure_no_wrong_step(&cluster("a", "10.0.0.1"), &cluster("b", "fd00::1"));
}
