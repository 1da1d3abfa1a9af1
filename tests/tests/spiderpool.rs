//! Queries of dashboards made for Spiderpool's exporter, by a real Prometheus. The numbers are made
//! by hand: there is no such card here.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
};

use anyhow::{Result, ensure};
use dataplane::metrics::spiderpool::{Port, Ports, encode};
use sluice_tests::{netns::TestNetns, prometheus::Prometheus};

const ADDRESS: &str = "127.0.0.1:9655";

fn port(device: &str, number: u32) -> Port {
    let counters = [
        "np_cnp_sent",
        "out_of_sequence",
        "rx_vport_rdma_unicast_bytes",
        "rx_vport_rdma_multicast_bytes",
        "tx_vport_rdma_unicast_bytes",
    ];
    Port {
        device: device.into(),
        number,
        netdev: Some(format!("net-{device}-{number}")),
        guids: ["0c42:a103:0065:3a3e".into(), "0c42:a103:0065:3a3e".into()],
        parent: None,
        pod: None,
        counters: counters.map(|name| (name.to_owned(), 1000)).into(),
        by_priority: vec![("rx_pause".into(), "3", 10), ("rx_pause".into(), "4", 20)],
        speed: Some(200_000),
        traffic_class: Some(106),
    }
}

/// A device with two ports, and one of its VFs in a pod.
fn ports() -> Ports {
    let vf = Port {
        parent: Some("mlx5_0".into()),
        pod: "shop/web-0".parse().ok(),
        speed: None,
        traffic_class: None,
        by_priority: Vec::new(),
        ..port("mlx5_2", 1)
    };
    Ports {
        node: "node-1".into(),
        ports: vec![port("mlx5_0", 1), port("mlx5_0", 2), vf],
    }
}

/// Answers every request with the same text, as long as the test runs.
fn serve(netns: &TestNetns, text: String) -> Result<()> {
    let listener = netns.enter(|| TcpListener::bind(ADDRESS))??;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-type: application/openmetrics-text; version=1.0.0\r\n\
                 content-length: {}\r\nconnection: close\r\n\r\n{text}",
                text.len()
            );
        }
    });
    Ok(())
}

#[test]
fn queries_of_its_dashboards_work_on_numbers_made_by_hand() -> Result<()> {
    let netns = TestNetns::new()?;
    serve(&netns, encode(&ports()))?;
    let prometheus = Prometheus::start(&netns, ADDRESS)?;
    // As many series as each query must have.
    for (query, series) in [
        (
            "count by (pod_namespace, pod_name) (rdma_tx_vport_rdma_unicast_bytes_total{pod_name!=\"\"})",
            1,
        ),
        // Two ports of one device, which share their other labels but the interface.
        (
            "sum by (net_dev_name, ifname) (rate(rdma_np_cnp_sent_total{pod_name=\"\", is_root=\"true\", node_name=~\".*\"}[10s]))",
            2,
        ),
        (
            "sum by (net_dev_name, ifname, priority) (rate(rdma_rx_pause_total{pod_name=\"\"}[10s]))",
            4,
        ),
        (
            "sum by (rdma_parent_name) (irate(rdma_rx_vport_rdma_unicast_bytes_total[10s]) + irate(rdma_rx_vport_rdma_multicast_bytes_total[10s])) / sum by (rdma_parent_name) (rdma_vport_speed_mbps_total{is_root=\"true\"})",
            1,
        ),
        (
            "sum by (net_dev_name, node_name, ifname) (rdma_device_tos_total)",
            2,
        ),
        (
            "count by (port) (rdma_out_of_sequence_total{ifname=\"mlx5_0\"})",
            2,
        ),
    ] {
        sluice_tests::poll::wait_until(&format!("{series} series of {query}"), || {
            Ok(prometheus.query(query)?.len() == series)
        })?;
    }
    let value = prometheus.value("rdma_out_of_sequence_total{ifname=\"mlx5_2\", pod_namespace=\"shop\", pod_name=\"web-0\", is_root=\"false\", rdma_parent_name=\"mlx5_0\", node_guid=\"0c42:a103:0065:3a3e\"}")?;
    ensure!(value == 1000.0, "{value}");
    Ok(())
}

#[test]
fn gauges_are_gauges_and_counters_counters() -> Result<()> {
    let text = encode(&ports());
    for line in [
        "# TYPE rdma_vport_speed_mbps_total gauge",
        "# TYPE rdma_device_tos_total gauge",
        "# TYPE rdma_np_cnp_sent counter",
    ] {
        ensure!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    Ok(())
}
