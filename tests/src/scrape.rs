//! A scrape of made-up endpoints, by the agent's own encoder.

use std::{path::PathBuf, sync::Arc};

use dataplane::{
    api::types::{
        Count, Endpoint, EndpointStats, Health, RoceEndpoints, RoceVisibility, Stats, Status,
        TcMechanism,
    },
    hw::HwStats,
    link::NetnsRef,
    metrics::Snapshot,
};

/// An endpoint in the namespace `pod-ID`, of the pod `shop/web-ID`.
pub fn endpoint(id: u32) -> Endpoint {
    Endpoint {
        id,
        netns: NetnsRef::Name(format!("pod-{id}")),
        netns_inode: inode(id),
        interface: "net1".into(),
        ifindex: 2,
        kind: "macvlan bridge".into(),
        mac: None,
        addresses: Vec::new(),
        pod: Some(dataplane::api::types::PodName {
            namespace: "shop".into(),
            name: format!("web-{id}"),
        }),
        beside: None,
        uplink: None,
        rdma: None,
        roce: Some(RoceVisibility::Offloaded),
        mechanism: TcMechanism::Tcx,
        health: Health::Attached,
    }
}

/// The inode of that namespace.
pub fn inode(id: u32) -> u64 {
    4_026_540_000 + u64::from(id)
}

/// What one scrape tells of these endpoints, beside what hardware tells.
pub fn snapshot(endpoints: Vec<Endpoint>, hw: HwStats) -> Snapshot {
    let stats = endpoints.iter().map(|endpoint| EndpointStats {
        id: endpoint.id,
        interface: endpoint.interface.clone(),
        netns: endpoint.netns.clone(),
        pod: endpoint.pod.clone(),
        ingress: Count::default(),
        egress: Count::default(),
        drops: Vec::new(),
        would_drop: Vec::new(),
        roce: Vec::new(),
    });
    Snapshot {
        stats: Stats {
            endpoints: stats.collect(),
            ..Stats::default()
        },
        status: Status {
            version: "0".into(),
            pid: 1,
            uptime_seconds: 1,
            kernel: "6.18".into(),
            cpus: 2,
            mechanism: TcMechanism::Tcx,
            pins: PathBuf::from("/sys/fs/bpf/sluice"),
            layout: 1,
            pipeline: "0".into(),
            endpoints: endpoints.len() as u32,
            max_endpoints: 512,
            maps: Vec::new(),
            memory_bytes: 0,
            roce: RoceEndpoints::default(),
            uplinks: Vec::new(),
            problems: Vec::new(),
        },
        endpoints,
        rdma: None,
        hw: Some(Arc::new(hw)),
        policy: None,
    }
}
