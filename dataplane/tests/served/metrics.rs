//! The metrics as their readers get them.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Command, Stdio},
    sync::Arc,
};

use dataplane::{
    api::{
        Dataplane,
        types::{
            AttachRequest, UplinkRequest,
            policy::{EndpointPolicy, Isolation, PolicyFile, PolicyStatus, RuleHits},
        },
    },
    hw::{
        Counted, Holder, Holding, HwStats, Limit, NicCounters, PortCounters, Share, known,
        nic_samples,
    },
    link::{NetnsRef, NicStatistics},
    metrics::{self, Compat, Format, Snapshot},
    rdma::{Driver, PortState, ResourceKind},
};
use tokio::sync::watch;

use crate::fake::Fake;

fn dataplane(endpoints: usize) -> Fake {
    let fake = Fake::new();
    let uplink = UplinkRequest {
        interface: "ens1".into(),
        host_reach: true,
    };
    fake.add_uplink(&uplink).unwrap();
    for number in 0..endpoints {
        let request = AttachRequest {
            netns: format!("cni-{number}").parse().unwrap(),
            interface: "net1".into(),
            pod: (number != 0).then(|| "shop/web-0".parse().unwrap()),
        };
        fake.attach(&request).unwrap();
    }
    fake
}

/// Head and body of the answer.
async fn get(address: SocketAddr, path: &str, headers: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    let read = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        // Ends by itself: the server grants one request a connection.
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = tokio::task::spawn_blocking(read).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn each_reader_gets_the_format_that_it_asks_for() {
    let listener = metrics::bind((Ipv4Addr::LOCALHOST, 0).into())
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let server = tokio::spawn(metrics::serve(
        listener,
        Arc::new(dataplane(2)),
        Vec::new(),
        stopped,
    ));

    let (head, body) = get(address, "/metrics", "").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(
        body.contains("# TYPE sluice_endpoint_packets_total counter"),
        "{body}"
    );

    let accept = "accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let (head, body) = get(address, "/metrics", accept).await;
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(
        body.contains("# TYPE sluice_endpoint_packets counter"),
        "{body}"
    );
    assert!(body.ends_with("# EOF\n"));

    let (head, body) = get(address, "/healthz", "").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(body, "ok\n");

    let error = metrics::bind(address).await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("cannot serve metrics at {address}: ")),
        "{error}"
    );
    stop.send_replace(true);
    server.await.unwrap();
    assert!(TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn another_exporters_names_come_on_request_and_with_ours() {
    let listener = metrics::bind((Ipv4Addr::LOCALHOST, 0).into())
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stopped) = watch::channel(false);
    let mut dataplane = dataplane(1);
    dataplane.hw = hardware();
    let compat = vec![Compat::Spiderpool];
    tokio::spawn(metrics::serve(
        listener,
        Arc::new(dataplane),
        compat,
        stopped,
    ));
    let accept = "accept: application/openmetrics-text;version=1.0.0\r\n";
    let (_, body) = get(address, "/metrics", accept).await;
    let theirs = body.lines().filter(|line| line.starts_with("rdma_"));
    let mut theirs = theirs.filter(|line| line.contains("ifname=\"mlx5_0\",port=\"1\""));
    assert!(theirs.next().is_some(), "{body}");
    assert!(body.contains("\nsluice_rdma_port_active{"), "{body}");
    assert_eq!(body.matches("# EOF").count(), 1);
    assert!(body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn promtool_finds_nothing_to_say() {
    let listener = metrics::bind((Ipv4Addr::LOCALHOST, 0).into())
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stopped) = watch::channel(false);
    let mut dataplane = dataplane(3);
    dataplane.hw = hardware();
    tokio::spawn(metrics::serve(
        listener,
        Arc::new(dataplane),
        Vec::new(),
        stopped,
    ));
    let (_, body) = get(address, "/metrics", "").await;
    assert!(body.contains("sluice_rdma_pod_bytes_total{"), "{body}");

    check(&body);
}

/// Fails unless promtool finds nothing to say.
fn check(body: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(body.as_bytes())
        .unwrap();
    let checked = promtool.wait_with_output().unwrap();
    let said = [checked.stdout, checked.stderr].concat();
    assert_eq!(String::from_utf8(said).unwrap(), "", "{body}");
    assert!(checked.status.success());
}

/// Everything that hardware may tell, by one port and NIC of each driver.
fn hardware() -> HwStats {
    let port = |driver: Driver| {
        let mut meanings = BTreeSet::new();
        // A driver has one of the names of a meaning.
        let entries = known(driver).filter(|entry| {
            let meaning = entry.meaning;
            meaning.is_none_or(|meaning| meanings.insert(meaning))
        });
        let counters = entries.zip(1..).map(|(entry, total)| Counted {
            raw: entry.raw.into(),
            entry: Some(entry),
            total,
            increase: 0,
        });
        PortCounters {
            device: format!("{driver}_0"),
            port: 1,
            netns: NetnsRef::Host,
            pod: None,
            driver: Some(driver),
            protocol: Some("roce".into()),
            netdev: None,
            pci: None,
            state: PortState::Active,
            counters: counters.collect(),
        }
    };
    let drivers = [
        Driver::Mlx5,
        Driver::BnxtRe,
        Driver::Irdma,
        Driver::Rxe,
        Driver::Ionic,
    ];
    let ports: Vec<_> = drivers.map(port).into();
    let pod = Holder::Pod {
        pod: Some("shop/web-0".parse().unwrap()),
        uid: None,
        endpoint: Some(1),
    };
    let statistics = NicStatistics {
        driver: "mlx5_core".into(),
        values: [
            "rx_prio3_pause",
            "rx_prio3_pause_duration",
            "rx_prio3_pause_transition",
            "tx_pause_storm_error_events",
            "rx_discards_phy",
            "rx_prio3_marked",
            "rx_vport_rdma_unicast_packets",
            "rx_vport_rdma_unicast_bytes",
        ]
        .map(|name| (name.to_owned(), 2_500_000))
        .into(),
    };
    HwStats {
        shares: vec![Share {
            device: "mlx5_0".into(),
            port: 1,
            netns: NetnsRef::Host,
            holder: pod.clone(),
            counters: ports[0].counters.clone(),
        }],
        ports,
        nics: vec![NicCounters {
            interface: "ens1".into(),
            netns: NetnsRef::Host,
            pod: None,
            samples: nic_samples(&statistics),
        }],
        holdings: [pod, Holder::Host, Holder::Kernel, Holder::Unknown]
            .map(|holder| Holding {
                device: "mlx5_0".into(),
                netns: NetnsRef::Host,
                holder,
                kind: ResourceKind::Qp,
                count: 3,
            })
            .into(),
        limits: vec![Limit {
            device: "mlx5_0".into(),
            netns: NetnsRef::Host,
            kind: "qp".into(),
            max: 131_072,
        }],
    }
}

#[test]
fn hardware_has_one_set_of_names() {
    let mut snapshot = Snapshot::read(&dataplane(1)).unwrap();
    snapshot.hw = Some(Arc::new(hardware()));
    let text = metrics::encode(Format::OpenMetrics, &snapshot);
    let port = |device: &str| {
        format!(
            "device=\"{device}\",port=\"1\",netns=\"host\",namespace=\"\",pod=\"\",source=\"hw\""
        )
    };
    for (name, labels) in [
        ("sluice_rdma_port_out_of_sequence_packets_total", ""),
        ("sluice_rdma_port_duplicate_requests_total", ""),
        ("sluice_rdma_port_rnr_naks_total", ",direction=\"ingress\""),
    ] {
        for device in ["mlx5_0", "bnxt_re_0", "rxe_0", "ionic_0"] {
            let series = format!("{name}{{{}{labels}}} ", port(device));
            assert!(text.contains(&series), "no {series} in\n{text}");
        }
    }
    for line in [
        "sluice_nic_pause_seconds_total{interface=\"ens1\",netns=\"host\",namespace=\"\",pod=\"\",source=\"hw\",direction=\"ingress\",priority=\"3\"} 2.5",
        "sluice_rdma_resources{device=\"mlx5_0\",netns=\"host\",owner=\"pod\",namespace=\"shop\",pod=\"web-0\",pod_uid=\"\",endpoint=\"1\",source=\"hw\",kind=\"qp\"} 3",
        "sluice_rdma_resources{device=\"mlx5_0\",netns=\"host\",owner=\"kernel\",namespace=\"\",pod=\"\",pod_uid=\"\",endpoint=\"\",source=\"hw\",kind=\"qp\"} 3",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "no {line} in\n{text}"
        );
    }
    // A counter with a unified name is not told under its driver's as well.
    assert!(!text.contains("counter=\"out_of_sequence\""), "{text}");
    assert!(text.contains("counter=\"roce_adp_retrans\""), "{text}");
    assert!(text.contains("sluice_rdma_port_driver_value{"), "{text}");
}

/// What policy has to say of three endpoints.
fn policy() -> PolicyStatus {
    let endpoint = |id, ingress, egress| EndpointPolicy {
        id,
        pod: None,
        interface: "net1".into(),
        ingress,
        egress,
        audit: false,
        reason: None,
        policies: Vec::new(),
    };
    let file = |refused| PolicyFile {
        path: "policies.yaml".into(),
        objects: 1,
        refused,
    };
    PolicyStatus {
        generation: 7,
        compile_seconds: 0.25,
        files: vec![file(None), file(Some("line 3: no kind".into()))],
        addresses: 12,
        rules: vec![RuleHits {
            kind: "NetworkPolicy".into(),
            namespace: "shop".into(),
            policy: "web".into(),
            direction: "ingress".into(),
            rule: 1,
            hits: 34,
        }],
        endpoints: vec![
            endpoint(1, Isolation::Isolated, Isolation::Open),
            endpoint(2, Isolation::Closed, Isolation::Open),
            endpoint(3, Isolation::Isolated, Isolation::Isolated),
        ],
        ..PolicyStatus::default()
    }
}

#[test]
fn endpoints_are_told_by_how_policy_judges_them() {
    let mut snapshot = Snapshot::read(&dataplane(1)).unwrap();
    assert!(snapshot.policy.is_none(), "without a source");
    snapshot.policy = Some(policy());
    let text = metrics::encode(Format::OpenMetrics, &snapshot);
    for line in [
        "sluice_policy_endpoints{direction=\"ingress\",state=\"isolated\"} 2",
        "sluice_policy_endpoints{direction=\"ingress\",state=\"closed\"} 1",
        "sluice_policy_endpoints{direction=\"egress\",state=\"open\"} 2",
        "sluice_policy_refused_files 1",
        "sluice_policy_generations_total 7",
        "sluice_policy_compile_seconds 0.25",
        "sluice_policy_identities{kind=\"address\"} 12",
        "sluice_policy_rule_hits_total{kind=\"NetworkPolicy\",policy_namespace=\"shop\",\
         policy=\"web\",direction=\"ingress\",rule=\"1\"} 34",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

/// Names of the samples.
fn names(text: &str) -> BTreeSet<&str> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect()
}

#[test]
fn every_metric_is_documented_and_none_besides() {
    let mut snapshot = Snapshot::read(&dataplane(2)).unwrap();
    snapshot.policy = Some(policy());
    let mut hw = hardware();
    for share in &mut hw.shares {
        // Documented once, as a rule.
        share.counters.clear();
    }
    snapshot.hw = Some(Arc::new(hw));
    let text = metrics::encode(Format::OpenMetrics, &snapshot);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let docs = std::fs::read_to_string(path).unwrap();
    let documented: BTreeSet<_> = docs
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next())
        .collect();
    assert_eq!(names(&text), documented);
}

#[test]
fn samples_carry_the_numbers_and_the_labels() {
    let snapshot = Snapshot::read(&dataplane(2)).unwrap();
    let text = metrics::encode(Format::OpenMetrics, &snapshot);
    let [nameless, named] = &snapshot.stats.endpoints[..] else {
        panic!("two endpoints were attached");
    };
    let labels = |id, namespace, pod| {
        format!(
            "endpoint=\"{id}\",interface=\"net1\",namespace=\"{namespace}\",pod=\"{pod}\",uplink=\"ens1\""
        )
    };
    let (nameless_labels, named_labels) = (labels(0, "", ""), labels(1, "shop", "web-0"));
    let write = named.roce.iter().find(|roce| roce.kind == "write").unwrap();
    let expected = [
        format!(
            "sluice_endpoint_packets_total{{{named_labels},direction=\"ingress\"}} {}",
            named.ingress.packets
        ),
        format!(
            "sluice_endpoint_bytes_total{{{nameless_labels},direction=\"egress\"}} {}",
            nameless.egress.bytes
        ),
        format!(
            "sluice_endpoint_dropped_packets_total{{{named_labels},direction=\"ingress\",reason=\"ipv4_truncated\"}} {}",
            named.drops[0].count.packets
        ),
        format!(
            "sluice_roce_bytes_total{{{named_labels},direction=\"{}\",transport=\"rc\",operation=\"write\",source=\"wire\"}} {}",
            write.direction, write.count.bytes
        ),
        format!("sluice_endpoint_attached{{{named_labels}}} 1"),
        "sluice_endpoints 2".to_owned(),
    ];
    for line in expected {
        assert!(
            text.lines().any(|found| found == line),
            "no {line} in\n{text}"
        );
    }
}

#[test]
fn no_series_appears_twice() {
    let text = metrics::encode(Format::OpenMetrics, &Snapshot::read(&dataplane(3)).unwrap());
    let mut seen = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(seen.insert(series), "{series} twice");
        value.parse::<u64>().unwrap();
    }
}
