//! The API's two sides against each other, over a real socket.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::Arc,
};

use dataplane::{
    api::{
        Dataplane, Socket,
        client::{Client, ClientError},
        hardware::{RdmaModeRequest, VfsRequest},
        server,
        types::{AttachRequest, Endpoint, EndpointSelector, EventLine, UplinkRequest},
    },
    rdma::NetnsMode,
};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle};

use crate::fake::{EVENT_QUEUE, Fake, MAX_ENDPOINTS, event};

/// A served fake; stop it with [`Served::stop`].
struct Served {
    _dir: TempDir,
    path: PathBuf,
    fake: Arc<Fake>,
    client: Client,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

fn serve() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let fake = Arc::new(Fake::new());
    let (stop, stopped) = watch::channel(false);
    let socket = Socket::bind(&path).unwrap();
    let task = tokio::spawn(server::serve(socket, fake.clone(), stopped));
    Served {
        _dir: dir,
        client: Client::new(&path),
        path,
        fake,
        stop,
        task,
    }
}

impl Served {
    async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
        assert!(!self.path.exists(), "the socket goes with the server");
    }

    /// Sends text as it is; the whole answer.
    async fn raw(&self, request: &str) -> String {
        let (path, request) = (self.path.clone(), request.to_owned());
        tokio::task::spawn_blocking(move || {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
        .await
        .unwrap()
    }

    async fn raw_body(&self, method: &str, path: &str, body: &str) -> String {
        let length = body.len();
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await
    }
}

fn attach_request(netns: &str, interface: &str) -> AttachRequest {
    AttachRequest {
        netns: netns.parse().unwrap(),
        interface: interface.into(),
        pod: Some("default/web-0".parse().unwrap()),
    }
}

fn refused(result: Result<impl std::fmt::Debug, ClientError>) -> (u16, String) {
    match result {
        Err(ClientError::Refused { status, error }) => (status.as_u16(), error),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn every_operation_reaches_the_dataplane_and_its_answer_the_client() {
    let served = serve();
    let client = &served.client;

    let uplink = client
        .add_uplink(&UplinkRequest {
            interface: "ens1".into(),
            host_reach: false,
        })
        .await
        .unwrap();
    assert!(!uplink.host_reach);
    assert_eq!(client.uplinks().await.unwrap().first(), Some(&uplink));

    let first = client
        .attach(&attach_request("pod-a", "net1"))
        .await
        .unwrap();
    let second = client
        .attach(&attach_request("/run/netns/pod-b", "net1"))
        .await
        .unwrap();
    assert_eq!(first.uplink.as_deref(), Some("ens1"));
    assert_eq!(
        client.endpoints().await.unwrap(),
        [first.clone(), second.clone()]
    );
    let stats = client.stats().await.unwrap();
    assert_eq!(stats.endpoints.len(), 2);
    assert_eq!(stats.endpoints[0].pod, first.pod);
    assert_eq!(client.status().await.unwrap().endpoints, 2);
    let flows = client.roce_flows().await.unwrap().flows;
    assert_eq!(flows[1].seen_at.endpoint, Some(second.id));
    assert_eq!(flows[0].counts.operations["write"], flows[0].counts.packets);

    let by_name = EndpointSelector::Interface {
        netns: second.netns.clone(),
        interface: "net1".into(),
    };
    assert_eq!(client.detach(&by_name).await.unwrap(), second);
    let by_id = EndpointSelector::Id { id: first.id };
    assert_eq!(client.detach(&by_id).await.unwrap(), first);
    assert_eq!(client.endpoints().await.unwrap(), Vec::<Endpoint>::new());

    let rdma = client.rdma().await.unwrap();
    assert_eq!(rdma.devices[0].device.name, "mlx5_0");
    assert_eq!(client.sriov().await.unwrap(), []);

    let cidr = "2001:db8::/32".parse().unwrap();
    client.block(cidr).await.unwrap();
    assert_eq!(client.blocks().await.unwrap()[0].cidr, cidr);
    assert_eq!(client.unblock(cidr).await.unwrap().count.packets, 7);
    assert_eq!(client.remove_uplink("ens1").await.unwrap(), uplink);
    served.stop().await;
}

#[tokio::test]
async fn each_error_has_its_status_and_keeps_its_text() {
    let served = serve();
    let client = &served.client;
    let (status, error) = refused(client.attach(&attach_request("host", "lo")).await);
    assert_eq!((status, error.as_str()), (400, "lo: not a pod's interface"));
    let id = EndpointSelector::Id { id: 9 };
    let (status, error) = refused(client.detach(&id).await);
    assert_eq!((status, error.as_str()), (404, "no such endpoint"));
    let request = UplinkRequest {
        interface: "ens1".into(),
        host_reach: true,
    };
    client.add_uplink(&request).await.unwrap();
    assert_eq!(refused(client.add_uplink(&request).await).0, 409);
    let (status, error) = refused(client.attach(&attach_request("host", "panic")).await);
    assert_eq!(status, 500);
    assert!(error.contains("its log tells more"), "{error}");
    let mode = RdmaModeRequest {
        mode: NetnsMode::Exclusive,
    };
    assert_eq!(refused(client.set_rdma_mode(&mode).await).0, 409);
    let vfs = VfsRequest {
        pf: "ens1".into(),
        num_vfs: 2,
    };
    let (status, error) = refused(client.set_vfs(&vfs).await);
    assert_eq!((status, error.as_str()), (501, "ens1 has no SR-IOV"));
    for _ in 0..MAX_ENDPOINTS {
        served.fake.attach(&attach_request("host", "x")).unwrap();
    }
    assert_eq!(
        refused(client.attach(&attach_request("host", "y")).await).0,
        507
    );
    served.stop().await;
}

#[tokio::test]
async fn wrong_requests_are_explained() {
    let served = serve();
    for (method, path, body, status, explanation) in [
        (
            "POST",
            "/v1/endpoints",
            r#"{"netns":"a","interface":"b","prot":"c"}"#,
            400,
            "unknown field `prot`",
        ),
        ("POST", "/v1/endpoints", "", 400, "request body: "),
        (
            "POST",
            "/v1/endpoints",
            r#"{"netns":"a/b","interface":"b"}"#,
            400,
            "a path must be absolute",
        ),
        ("DELETE", "/v1/endpoints", "{}", 400, "either by id or by"),
        ("DELETE", "/v1/endpoints?id=x", "", 400, "query: "),
        (
            "DELETE",
            "/v1/endpoints?netns=a&interface=b",
            "",
            404,
            "no such endpoint",
        ),
        ("DELETE", "/v1/endpoints?id=77", "", 404, "no such endpoint"),
        (
            "POST",
            "/v1/blocks",
            r#"{"cidr":"10/8"}"#,
            400,
            "request body: ",
        ),
        (
            "DELETE",
            "/v1/blocks?cidr=10.0.0.0/8",
            "",
            404,
            "10.0.0.0/8 is not blocked",
        ),
        ("GET", "/v2/status", "", 404, "no such resource: /v2/status"),
        ("PUT", "/v1/status", "", 405, "PUT is not possible"),
        (
            "POST",
            "/v1/endpoints",
            &" ".repeat(65 * 1024),
            413,
            "limit 65536 bytes",
        ),
    ] {
        let answer = served.raw_body(method, path, body).await;
        let start = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&start), "{method} {path}: {answer}");
        let json = answer.split_once("\r\n\r\n").unwrap().1;
        let error = serde_json::from_str::<dataplane::api::types::ApiError>(json).unwrap();
        assert!(
            error.error.contains(explanation),
            "{method} {path}: {error:?}"
        );
        assert!(!error.error.contains('\n'));
    }
    served.stop().await;
}

#[tokio::test]
async fn a_slow_follower_is_told_what_it_missed() {
    let served = serve();
    let mut events = served.client.events().await.unwrap();
    let mut other = served.client.events().await.unwrap();

    // In one go, so that no follower can take anything out in between; the
    // queue keeps the last of them.
    let sent = EVENT_QUEUE as u32 * 4;
    for psn in 0..sent {
        assert_eq!(served.fake.emit(event(psn)), 2);
    }
    for stream in [&mut events, &mut other] {
        let line = stream.next().await.unwrap().unwrap();
        let missed = u64::from(sent) - EVENT_QUEUE as u64;
        assert_eq!(line, EventLine::Missed { missed });
        for psn in sent - EVENT_QUEUE as u32..sent {
            let line = stream.next().await.unwrap().unwrap();
            assert_eq!(line, EventLine::Event(Box::new(event(psn))));
        }
    }
    // A stop ends the streams at once rather than waiting for their clients.
    served.stop().await;
    assert_eq!(events.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_follower_that_leaves_is_forgotten() {
    let served = serve();
    let events = served.client.events().await.unwrap();
    assert_eq!(served.fake.emit(event(1)), 1);
    drop(events);
    while served.fake.emit(event(2)) > 0 {
        tokio::task::yield_now().await;
    }
    served.stop().await;
}

#[tokio::test]
async fn a_silent_client_holds_nobody_up() {
    let served = serve();
    let _silent = UnixStream::connect(&served.path).unwrap();
    let mut half = UnixStream::connect(&served.path).unwrap();
    half.write_all(b"POST /v1/endpoints HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
        .unwrap();
    assert_eq!(served.client.status().await.unwrap().endpoints, 0);
}

#[tokio::test]
async fn the_client_says_why_it_cannot_reach_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let client = Client::new(&path);
    let shown = path.display();
    let remedy = "start it with `sluice agent` or `systemctl start sluice`";
    assert_eq!(
        client.status().await.unwrap_err().to_string(),
        format!("no agent at {shown}: not running; {remedy}")
    );
    drop(UnixListener::bind(&path).unwrap());
    assert_eq!(
        client.status().await.unwrap_err().to_string(),
        format!("no agent at {shown}: not running, only its old socket is there; {remedy}")
    );
}

#[tokio::test]
async fn the_client_does_not_trust_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let answers = [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{",
        "SSH-2.0-OpenSSH_9.2\r\n",
    ];
    let server = std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            // The request's head, which ends with an empty line.
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let client = Client::new(&path);
    for expected in [
        "missing field",
        "500 Internal Server Error, without an explanation",
        "lost the agent",
        "lost the agent",
    ] {
        let error = client.status().await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    server.join().unwrap();
}
