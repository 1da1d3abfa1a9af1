//! A scrape of a node full of RDMA hardware, which no machine here is: devices and processes are
//! simulated (`sluice_tests::hca`), GID tables are files in a folder. What is measured is the
//! agent's own part: asking, decoding, finding out whose each object is, adding up, encoding. What
//! a kernel and a device need for their answers is not in it.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Result, ensure};
use dataplane::{
    hw::{Asked, Collector, Pods, Resident, Saved},
    link::Sysfs,
    metrics::{self, Format},
    rdma::{GidTable, TURNS},
};
use nix::time::{ClockId, clock_gettime};
use sluice_tests::{
    hca::{Hca, Set, SimulatedKernel, node},
    scrape::{endpoint, inode, snapshot},
};

use crate::{
    interrupt,
    row::{Bar, Row},
};

const ENDPOINTS: u32 = 500;
const DEVICES: u32 = 16;
const QUEUE_PAIRS: u32 = 10_000;
const PROCESSES: u32 = 1_000;
/// Entries of a GID table, of which every second one is in use.
const GIDS: u32 = 256;
const SCRAPES: usize = 40;

/// What mlx5 counts by port; of these all but the last five also by set.
const COUNTERS: [&str; 35] = [
    "rx_write_requests",
    "rx_read_requests",
    "rx_atomic_requests",
    "rx_dct_connect",
    "out_of_buffer",
    "out_of_sequence",
    "duplicate_request",
    "rnr_nak_retry_err",
    "packet_seq_err",
    "implied_nak_seq_err",
    "local_ack_timeout_err",
    "resp_local_length_error",
    "resp_cqe_error",
    "req_cqe_error",
    "req_remote_invalid_request",
    "req_remote_access_errors",
    "resp_remote_access_errors",
    "resp_cqe_flush_error",
    "req_cqe_flush_error",
    "req_transport_retries_exceeded",
    "req_rnr_retries_exceeded",
    "roce_adp_retrans",
    "roce_adp_retrans_to",
    "roce_slow_restart",
    "roce_slow_restart_cnps",
    "roce_slow_restart_trans",
    "rdma_tx_packets",
    "rdma_tx_bytes",
    "rdma_rx_packets",
    "rdma_rx_bytes",
    "rp_cnp_ignored",
    "rp_cnp_handled",
    "np_ecn_marked_roce_packets",
    "np_cnp_sent",
    "rx_icrc_encapsulated",
];
const OF_SETS: usize = 30;

pub(crate) fn measure() -> Result<Vec<Row>> {
    let kernel = SimulatedKernel::new()?;
    for process in 1..=PROCESSES {
        let endpoint = 1 + process % ENDPOINTS;
        kernel.add_process(process, inode(endpoint), &cgroup(endpoint))?;
    }
    let mut hcas: Vec<Hca> = (0..DEVICES).map(hca).collect();
    let sysfs = tempfile::tempdir()?;
    for hca in &hcas {
        write_gids(sysfs.path(), hca.index)?;
    }
    let sysfs = Sysfs::new(sysfs.path());
    let mut collector = Collector::new(kernel.clone(), Saved::default());
    let endpoints: Vec<_> = (1..=ENDPOINTS).map(endpoint).collect();

    let mut tables: Vec<Option<GidTable>> = vec![None; hcas.len()];
    let mut rows = BTreeMap::<&str, Vec<f64>>::new();
    for scrape in 0..SCRAPES {
        interrupt::check()?;
        for hca in &mut hcas {
            advance(hca, scrape as u64);
            kernel.set(hca);
        }
        let node = node(&hcas);
        let residents = endpoints.iter().map(|endpoint| Resident {
            endpoint: endpoint.id,
            netns: endpoint.netns.clone(),
            inode: endpoint.netns_inode,
            pod: endpoint.pod.clone(),
        });
        let pods = Pods::new(residents, []);
        let begin = cpu_ms()?;
        for (hca, known) in hcas.iter().zip(&mut tables) {
            // As the agent does every fifteen seconds.
            let is_its_turn = hca.index % TURNS == scrape as u32 % TURNS;
            let known_still = known.as_ref().filter(|_| !is_its_turn);
            let table = read_gids(&sysfs, hca, known_still)?;
            ensure!(table.entries.len() as u32 == GIDS / 2, "GIDs are missing");
            *known = Some(table);
        }
        let gids = cpu_ms()?;
        let stats = collector.read(Asked {
            node: &node,
            pods,
            uplinks: Vec::new(),
            make_sets: true,
        });
        let read = cpu_ms()?;
        let pairs: u64 = stats
            .holdings
            .iter()
            .filter(|held| held.kind == dataplane::rdma::ResourceKind::Qp)
            .map(|held| held.count)
            .sum();
        ensure!(
            pairs == u64::from(QUEUE_PAIRS),
            "{pairs} queue pairs were found"
        );
        let shot = snapshot(endpoints.clone(), stats);
        let cloned = cpu_ms()?;
        let text = metrics::encode(Format::OpenMetrics, &shot);
        let encoded = cpu_ms()?;
        ensure!(
            text.contains("sluice_rdma_pod_bytes_total"),
            "no sums by pod"
        );
        let saved = serde_json::to_vec(&collector.to_save(true))?;
        let saved_at = cpu_ms()?;
        ensure!(!saved.is_empty(), "nothing to save");
        for hca in &hcas {
            read_gids(&sysfs, hca, None)?;
        }
        let gids_anew = cpu_ms()? - saved_at;
        // The first one meets every process for the first time.
        if scrape == 0 {
            rows.entry("first")
                .or_default()
                .push(read - begin + encoded - cloned);
            continue;
        }
        for (name, took) in [
            ("gids", gids - begin),
            // As after a change of endpoints or ports.
            ("gids-anew", gids_anew),
            ("read", read - gids),
            ("encode", encoded - cloned),
            ("whole", read - begin + encoded - cloned),
            ("save", saved_at - encoded),
        ] {
            rows.entry(name).or_default().push(took);
        }
    }
    let rows = rows.into_iter().map(|(name, samples)| {
        let bar = if name == "whole" {
            Bar::AtMost(50.0)
        } else {
            Bar::None
        };
        Row::alone(format!("rdma-scrape/{name}"), "ms CPU", &samples, bar)
    });
    Ok(rows.collect())
}

fn read_gids(sysfs: &Sysfs, hca: &Hca, before: Option<&GidTable>) -> Result<GidTable> {
    let device = format!("mlx5_{}", hca.index);
    Ok(GidTable::read(sysfs, &device, 1, before)?)
}

fn cgroup(endpoint: u32) -> String {
    let uid = format!("00000000-0000-0000-0000-{endpoint:012x}");
    format!("/kubepods/burstable/pod{uid}/{endpoint:064x}")
}

/// Its share of the queue pairs, each with a completion queue, a connection and two memory regions;
/// a protection domain and a counter set for each process.
fn hca(index: u32) -> Hca {
    let mine = |number: &u32| number % DEVICES == index;
    let process = |number: u32| 1 + number % PROCESSES;
    let queue_pairs: Vec<_> = (0..QUEUE_PAIRS)
        .filter(mine)
        .map(|number| (number, process(number)))
        .collect();
    let of_pairs: Vec<_> = queue_pairs.iter().map(|pair| pair.1).collect();
    let mut processes = of_pairs.clone();
    processes.sort_unstable();
    processes.dedup();
    let sets = processes.iter().zip(1..).map(|(&process, id)| Set {
        id,
        process,
        queue_pairs: queue_pairs
            .iter()
            .filter(|pair| pair.1 == process)
            .map(|pair| pair.0)
            .collect(),
        counters: counters(OF_SETS),
    });
    Hca {
        index,
        counters: counters(COUNTERS.len()),
        sets: sets.collect(),
        others: [
            of_pairs.clone(),
            of_pairs.clone(),
            of_pairs.repeat(2),
            processes,
        ],
        queue_pairs,
        has_sets: true,
        auto: true,
        old: false,
    }
}

fn counters(number: usize) -> Vec<(String, u64)> {
    let names = COUNTERS.iter().take(number);
    names.map(|name| ((*name).to_owned(), 1)).collect()
}

/// Has every counter grow.
fn advance(hca: &mut Hca, scrape: u64) {
    let sets = hca.sets.iter_mut().map(|set| &mut set.counters);
    for (_, value) in sets.chain([&mut hca.counters]).flatten() {
        *value += 1000 + scrape;
    }
}

fn write_gids(root: &Path, device: u32) -> Result<()> {
    let port = root.join(format!("class/infiniband/mlx5_{device}/ports/1"));
    for folder in ["gids", "gid_attrs/types", "gid_attrs/ndevs"] {
        fs::create_dir_all(port.join(folder))?;
    }
    for index in 0..GIDS {
        let used = index % 2 == 0;
        let gid = if used {
            format!("0000:0000:0000:0000:0000:ffff:0a00:{index:04x}\n")
        } else {
            "0000:0000:0000:0000:0000:0000:0000:0000\n".to_owned()
        };
        fs::write(port.join(format!("gids/{index}")), gid)?;
        if used {
            fs::write(port.join(format!("gid_attrs/types/{index}")), "RoCE v2\n")?;
            fs::write(port.join(format!("gid_attrs/ndevs/{index}")), "net1\n")?;
        }
    }
    Ok(())
}

/// What this thread has had of a processor, in milliseconds.
fn cpu_ms() -> Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 * 1e3 + time.tv_nsec() as f64 / 1e6)
}
