//! Counters by pod on a shared HCA, on a simulated kernel: no machine here has an HCA whose queue
//! pairs have counters of their own. What is simulated is the bytes that RDMA netlink answers and a
//! folder in place of `/proc`; everything above is what the agent runs.

use anyhow::{Context as _, Result};
use dataplane::{
    hw::{Asked, Collector, Holder, HwStats, Pods, Resident, Saved},
    metrics::{self, Format},
};
use sluice_tests::{
    hca::{Hca, Set, SimulatedKernel, node},
    scrape::{endpoint, inode, snapshot},
};

fn pods(endpoints: u32) -> Pods {
    let residents = (1..=endpoints).map(endpoint).map(|endpoint| Resident {
        endpoint: endpoint.id,
        inode: endpoint.netns_inode,
        netns: endpoint.netns,
        pod: endpoint.pod,
    });
    Pods::new(residents, [])
}

fn read(collector: &mut Collector, hcas: &[Hca], endpoints: u32) -> HwStats {
    collector.read(Asked {
        node: &node(hcas),
        pods: pods(endpoints),
        uplinks: Vec::new(),
        make_sets: true,
    })
}

fn set(id: u32, process: u32, bytes: u64) -> Set {
    Set {
        id,
        process,
        queue_pairs: vec![100 + id],
        counters: vec![
            ("rdma_tx_bytes".into(), bytes),
            ("out_of_sequence".into(), bytes % 7),
        ],
    }
}

/// The sums of `rdma_tx_bytes`, by pod, or by what else is known.
fn bytes(stats: &HwStats) -> Result<Vec<(String, u64)>> {
    let sums = stats.shares.iter().map(|share| {
        let who = match &share.holder {
            Holder::Pod { pod: Some(pod), .. } => pod.name.clone(),
            Holder::Pod { uid: Some(uid), .. } => uid.clone(),
            other => other.label().to_owned(),
        };
        let counted = share
            .counters
            .iter()
            .find(|one| &*one.raw == "rdma_tx_bytes");
        Ok((who, counted.context("no bytes")?.total))
    });
    let mut sums = sums.collect::<Result<Vec<_>>>()?;
    sums.sort();
    Ok(sums)
}

#[test]
fn simulated_counter_sets_become_sums_by_pod() {
    const UID: &str = "11111111-2222-3333-4444-555555555555";
    let kernel = SimulatedKernel::new().unwrap();
    kernel
        .add_process(10, inode(1), "/kubepods/pod0/a")
        .unwrap();
    kernel.add_process(20, inode(2), "/").unwrap();
    kernel
        .add_process(30, 1, &format!("/kubepods/pod{UID}/b"))
        .unwrap();
    kernel
        .add_process(40, 1, "/system.slice/sshd.service")
        .unwrap();
    let mut hca = Hca {
        counters: vec![("rdma_tx_bytes".into(), 5000)],
        queue_pairs: vec![(101, 10), (102, 20), (103, 30), (104, 40), (105, 99)],
        has_sets: true,
        old: true,
        ..Hca::default()
    };
    kernel.set(&hca);
    let mut collector = Collector::new(kernel.clone(), Saved::default());
    // Sets auto mode; there is no set yet.
    let stats = read(&mut collector, std::slice::from_ref(&hca), 2);
    assert!(stats.shares.is_empty());
    let pairs: Vec<_> = stats
        .holdings
        .iter()
        .map(|held| (held.holder.label(), held.count))
        .collect();
    assert_eq!(
        pairs,
        [
            ("pod", 1),
            ("pod", 1),
            ("pod", 1),
            ("host", 1),
            ("unknown", 1)
        ]
    );

    hca.sets = vec![
        set(1, 10, 1000),
        set(2, 20, 10),
        set(3, 30, 1),
        set(4, 40, 2),
    ];
    kernel.set(&hca);
    let stats = read(&mut collector, std::slice::from_ref(&hca), 2);
    let expected = |web: u64| {
        [
            (UID.to_owned(), 1),
            ("host".to_owned(), 2),
            ("web-1".to_owned(), web),
            ("web-2".to_owned(), 10),
        ]
    };
    assert_eq!(bytes(&stats).unwrap(), expected(1000));

    // A queue pair dies, and its process; another of the same pod comes.
    kernel.end_process(10).unwrap();
    kernel.add_process(11, inode(1), "/").unwrap();
    hca.sets = vec![set(2, 20, 10), set(3, 30, 1), set(4, 40, 2), set(5, 11, 50)];
    kernel.set(&hca);
    let stats = read(&mut collector, std::slice::from_ref(&hca), 2);
    assert_eq!(bytes(&stats).unwrap(), expected(1050));

    // The next agent goes on with it.
    let saved = collector.to_save(false).expect("a set has ended");
    let saved = serde_json::from_slice(&serde_json::to_vec(&saved).unwrap()).unwrap();
    let mut restarted = Collector::new(kernel.clone(), saved);
    hca.sets[3] = set(5, 11, 60);
    kernel.set(&hca);
    let stats = read(&mut restarted, std::slice::from_ref(&hca), 2);
    assert_eq!(bytes(&stats).unwrap(), expected(1060));
}

/// As bnxt_re and soft-RoCE are.
#[test]
fn a_simulated_driver_without_counter_sets_has_numbers_of_objects_only() {
    let kernel = SimulatedKernel::new().unwrap();
    kernel.add_process(10, inode(1), "/").unwrap();
    let hca = Hca {
        queue_pairs: vec![(101, 10)],
        ..Hca::default()
    };
    kernel.set(&hca);
    let mut collector = Collector::new(kernel, Saved::default());
    let stats = read(&mut collector, std::slice::from_ref(&hca), 1);
    assert_eq!((stats.shares.len(), stats.holdings.len()), (0, 1));
}

/// Series of a scrape with this many queue pairs of the same ten processes.
fn series(queue_pairs: u32) -> Result<usize> {
    let kernel = SimulatedKernel::new()?;
    for process in 1..=10 {
        kernel.add_process(process, inode(process), "/")?;
    }
    let pairs: Vec<_> = (0..queue_pairs)
        .map(|number| (number, 1 + number % 10))
        .collect();
    let processes: Vec<_> = pairs.iter().map(|&(_, process)| process).collect();
    let hca = Hca {
        counters: vec![("out_of_sequence".into(), 1)],
        sets: (1..=10)
            .map(|process| Set {
                queue_pairs: pairs
                    .iter()
                    .filter(|pair| pair.1 == process)
                    .map(|pair| pair.0)
                    .collect(),
                ..set(process, process, 9)
            })
            .collect(),
        queue_pairs: pairs,
        others: std::array::from_fn(|_| processes.clone()),
        has_sets: true,
        auto: true,
        ..Hca::default()
    };
    kernel.set(&hca);
    let mut collector = Collector::new(kernel, Saved::default());
    let stats = read(&mut collector, &[hca], 10);
    let text = metrics::encode(
        Format::OpenMetrics,
        &snapshot((1..=10).map(endpoint).collect(), stats),
    );
    assert!(text.contains("sluice_rdma_pod_bytes_total{"), "{text}");
    assert!(text.contains("sluice_rdma_resources{"), "{text}");
    Ok(text.lines().filter(|line| !line.starts_with('#')).count())
}

#[test]
fn series_do_not_grow_with_simulated_queue_pairs() {
    assert_eq!(series(10).unwrap(), series(2000).unwrap());
}
