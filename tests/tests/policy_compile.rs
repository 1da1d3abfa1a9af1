//! The compiler's plain data against the naive evaluator: for random clusters,
//! every interface of every pod, many addresses, protocols and ports.

#![expect(
    clippy::unwrap_used,
    reason = "a manifest that makes no sense is the test's own mistake"
)]

use std::sync::Arc;

use dataplane::policy::compile::{Compiled, Compiler, EndpointPolicy, RuleNumbers, State};
use dataplane_ebpf::abi::Direction;
use proptest::prelude::*;
use sluice_tests::policy::{ADDRESSES, Cluster, PORTS, Packet, cluster, endpoints, model, verdict};

/// A MultiNetworkPolicy for a pod of which nobody knows the networks isolates
/// it until they are known; the evaluator does not judge that.
fn is_undecided(policy: &EndpointPolicy) -> bool {
    matches!(policy.state, State::Isolated(_))
}

fn packets() -> Vec<Packet> {
    let mut packets = Vec::new();
    for ingress in [true, false] {
        for peer in ADDRESSES {
            let peer = peer.parse().unwrap();
            for port in PORTS {
                packets.extend([6, 17, 132].map(|protocol| Packet {
                    ingress,
                    peer,
                    protocol,
                    port,
                }));
            }
            packets.push(Packet {
                ingress,
                peer,
                protocol: 1,
                port: 0,
            });
        }
    }
    packets
}

fn compare(cluster: &Cluster, compiled: &Compiled) -> Result<(), TestCaseError> {
    let packets = packets();
    for (pod, endpoint) in endpoints(cluster) {
        let policy = &compiled.endpoints[&endpoint.id];
        if is_undecided(policy) {
            continue;
        }
        for packet in &packets {
            prop_assert_eq!(
                verdict(compiled, endpoint.id, packet),
                cluster.verdict(pod, &endpoint.interface, packet),
                "{:?} at {} of {}",
                packet,
                endpoint.interface,
                pod
            );
        }
    }
    Ok(())
}

fn compile(compiler: &mut Compiler, cluster: &Cluster) -> Compiled {
    let endpoints: Vec<_> = endpoints(cluster)
        .into_iter()
        .map(|(_, endpoint)| endpoint)
        .collect();
    compiler.compile(&model(cluster), &endpoints, &[])
}

proptest! {
    // PROPTEST_CASES asks for more.
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").map_or(60, |cases| cases.parse().unwrap()),
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_compiled_says_what_the_manifests_say(cluster in cluster()) {
        let mut compiler = Compiler::new(Default::default(), RuleNumbers::default(), Default::default());
        compare(&cluster, &compile(&mut compiler, &cluster))?;
    }

    /// What the compiler remembers from another cluster changes nothing.
    #[test]
    fn compiling_again_says_the_same_as_compiling_afresh(before in cluster(), after in cluster()) {
        let mut used = Compiler::new(Default::default(), RuleNumbers::default(), Default::default());
        compile(&mut used, &before);
        let again = compile(&mut used, &after);
        compare(&after, &again)?;
        let mut fresh = Compiler::new(Default::default(), RuleNumbers::default(), Default::default());
        let afresh = compile(&mut fresh, &after);
        prop_assert_eq!(&again.addresses, &afresh.addresses);
        prop_assert_eq!(&again.prefixes, &afresh.prefixes);
        // Nothing has changed: not even the allocations.
        let third = compile(&mut used, &after);
        for (id, policy) in &again.endpoints {
            for direction in [Direction::Ingress, Direction::Egress] {
                let (one, other) = (policy.table(direction), third.endpoints[id].table(direction));
                match (one, other) {
                    (Some(one), Some(other)) => prop_assert!(Arc::ptr_eq(one, other)),
                    (one, other) => prop_assert!(one.is_none() && other.is_none()),
                }
            }
        }
    }
}
