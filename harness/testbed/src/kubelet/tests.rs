//! A whole kubelet against an API server that only remembers: pods run, report, restart and go.
//!
//! The program inside the pods is this test program: a constructor looks at its name before `main`.

#[path = "../../tests/kubelet/applets.rs"]
#[expect(clippy::print_stdout, reason = "the programs of the pods talk through their output")]
mod applets;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};
use tokio::time::timeout;
use tower::ServiceExt as _;

use super::*;
use crate::pki::Pki;

const BOUND: Duration = Duration::from_secs(20);

#[used]
#[expect(unsafe_code, reason = "a test harness has no other place before `main`")]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = {
    extern "C" fn before_main() {
        if let Some(code) = init_main().or_else(applets::dispatch) {
            let same = |number: &u8| std::process::ExitCode::from(*number) == code;
            std::process::exit((0..=u8::MAX).find(same).map_or(1, i32::from));
        }
    }
    before_main
};

/// Remembers pods, and what was asked.
struct Api {
    /// Tells this cluster's pods from those of another test, which share a store.
    number: usize,
    pods: Mutex<BTreeMap<String, Value>>,
    events: broadcast::Sender<Value>,
    changes: watch::Sender<u64>,
    nodes: Mutex<Vec<Value>>,
    deletions: Mutex<Vec<Value>>,
    told: Mutex<Vec<Value>>,
    config_maps: Mutex<BTreeMap<String, Value>>,
}

type Shared = State<Arc<Api>>;

impl Api {
    fn new() -> Arc<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        Arc::new(Self {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            pods: Mutex::default(),
            events: broadcast::channel(64).0,
            changes: watch::Sender::new(1),
            nodes: Mutex::default(),
            deletions: Mutex::default(),
            told: Mutex::default(),
            config_maps: Mutex::default(),
        })
    }

    fn client(self: &Arc<Self>) -> Client {
        let pod = "/api/v1/namespaces/{namespace}/pods/{name}";
        let router = Router::new()
            .route("/api/v1/nodes", post(create_node))
            .route("/api/v1/pods", get(pods))
            .route("/api/v1/services", get(services))
            .route("/api/v1/namespaces/{namespace}/configmaps/{name}", get(config_map))
            .route("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", post(token))
            .route("/api/v1/namespaces/{namespace}/events", post(create_event))
            .route(pod, axum::routing::delete(delete_pod))
            .route(&format!("{pod}/status"), axum::routing::patch(patch_pod))
            .with_state(Arc::clone(self));
        Client::new(router, "default")
    }

    fn put(&self, kind: &str, mut pod: Value) {
        let version = *self.changes.borrow() + 1;
        pod["metadata"]["resourceVersion"] = json!(version.to_string());
        let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
        match kind {
            "DELETED" => drop(self.pods.lock().expect("pods").remove(&name)),
            _ => drop(self.pods.lock().expect("pods").insert(name, pod.clone())),
        }
        let _ = self.events.send(json!({"type": kind, "object": pod}));
        self.changes.send_replace(version);
    }

    fn run(&self, name: &str, spec: Value) {
        self.put(
            "ADDED",
            json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
                "metadata": {"name": name, "namespace": "default", "uid": self.uid(name)}}),
        );
    }

    /// Waits until the kubelet watches: only a watch sees what happens after it began.
    async fn is_watched(&self) {
        let mut changes = self.changes.subscribe();
        let watching = changes.wait_for(|_| self.events.receiver_count() > 0);
        timeout(BOUND, watching).await.expect("the kubelet watches").expect("the API lives");
    }

    fn uid(&self, pod: &str) -> String {
        format!("uid-{pod}-{}", self.number)
    }

    fn pod(&self, name: &str) -> Value {
        self.pods.lock().expect("pods").get(name).cloned().unwrap_or_default()
    }

    /// Waits until an event of this reason was told; returns its message.
    async fn told(&self, pod: &str, reason: &str) -> String {
        let mut changes = self.changes.subscribe();
        let find = || {
            let told = self.told.lock().expect("events");
            let fits = |event: &&Value| event["reason"] == reason && event["involvedObject"]["name"] == pod;
            told.iter().find(fits).map(|event| event["message"].as_str().unwrap_or_default().to_owned())
        };
        let wait = async {
            loop {
                if let Some(message) = find() {
                    return message;
                }
                changes.changed().await.expect("the API lives");
            }
        };
        timeout(BOUND, wait).await.expect("the event is told")
    }

    /// Waits until the pod is as wanted.
    async fn until(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut changes = self.changes.subscribe();
        let wait = async {
            while !wanted(&self.pod(name)) {
                changes.changed().await.expect("the API lives");
            }
        };
        let waited = timeout(BOUND, wait).await;
        assert!(waited.is_ok(), "`{name}` never got there: {:#}", self.pod(name));
        self.pod(name)
    }
}

async fn create_node(State(api): Shared, Json(node): Json<Value>) -> Response {
    api.nodes.lock().expect("nodes").push(node.clone());
    (StatusCode::CREATED, Json(node)).into_response()
}

/// There is one service, and it never changes.
async fn services(Query(query): Query<BTreeMap<String, String>>) -> Response {
    if query.contains_key("watch") {
        let silence = futures::stream::pending::<Result<String, std::convert::Infallible>>();
        return Response::new(Body::from_stream(silence));
    }
    let service = json!({"metadata": {"name": "web-front", "namespace": "default", "uid": "s"},
        "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}});
    Json(json!({"apiVersion": "v1", "kind": "ServiceList", "metadata": {"resourceVersion": "1"},
        "items": [service]}))
    .into_response()
}

async fn config_map(State(api): Shared, Path((_, name)): Path<(String, String)>) -> Response {
    match api.config_maps.lock().expect("maps").get(&name) {
        Some(data) => Json(json!({"metadata": {"name": name}, "data": data})).into_response(),
        None => failure(StatusCode::NOT_FOUND),
    }
}

async fn token(Path((_, account)): Path<(String, String)>, Json(mut request): Json<Value>) -> Response {
    let pod = &request["spec"]["boundObjectRef"]["name"];
    let token = format!("{account} in {}", pod.as_str().unwrap_or_default());
    request["status"] = json!({"token": token, "expirationTimestamp": "2100-01-01T00:00:00Z"});
    (StatusCode::CREATED, Json(request)).into_response()
}

async fn create_event(State(api): Shared, Json(event): Json<Value>) -> Response {
    api.told.lock().expect("events").push(event.clone());
    api.changes.send_modify(|version| *version += 1);
    (StatusCode::CREATED, Json(event)).into_response()
}

async fn pods(State(api): Shared, Query(query): Query<BTreeMap<String, String>>) -> Response {
    assert_eq!(query.get("fieldSelector").map(String::as_str), Some("spec.nodeName=kube1"));
    if !query.contains_key("watch") {
        let version = api.changes.borrow().to_string();
        let items: Vec<_> = api.pods.lock().expect("pods").values().cloned().collect();
        return Json(json!({"apiVersion": "v1", "kind": "PodList",
            "metadata": {"resourceVersion": version}, "items": items}))
        .into_response();
    }
    let events = futures::stream::unfold(api.events.subscribe(), async |mut events| {
        let event = events.recv().await.ok()?;
        Some((Ok::<_, std::convert::Infallible>(format!("{event}\n")), events))
    });
    api.changes.send_modify(|version| *version += 1);
    Response::new(Body::from_stream(events))
}

async fn patch_pod(
    State(api): Shared,
    Path((_, name)): Path<(String, String)>,
    Json(patch): Json<Value>,
) -> Response {
    let mut pod = api.pod(&name);
    if pod["metadata"]["uid"] != patch["metadata"]["uid"] {
        return failure(StatusCode::NOT_FOUND);
    }
    pod["status"] = patch["status"].clone();
    api.put("MODIFIED", pod.clone());
    Json(pod).into_response()
}

async fn delete_pod(State(api): Shared, Path((_, name)): Path<(String, String)>, body: Bytes) -> Response {
    api.deletions.lock().expect("deletions").push(serde_json::from_slice(&body).expect("options"));
    let pod = api.pod(&name);
    api.put("DELETED", pod.clone());
    Json(pod).into_response()
}

fn failure(code: StatusCode) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(),
        "reason": if code == StatusCode::NOT_FOUND { "NotFound" } else { "" }});
    (code, Json(status)).into_response()
}

mod away;
mod contents;
mod probes;

/// Pods of these tests talk to nobody.
struct NoNetwork;

impl PodNetwork for NoNetwork {
    fn attach<'a>(&'a self, _: &'a NetNamespace, _: Ipv4Addr) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn detach<'a>(&'a self, _: &'a NetNamespace, _: Ipv4Addr) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn map_ports<'a>(&'a self, _: Ipv4Addr, _: &'a [HostPort]) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn unmap_ports<'a>(&'a self, _: Ipv4Addr, _: &'a [HostPort]) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// A kubelet on a node whose address is its loopback.
async fn kubelet(api: &Arc<Api>) -> Kubelet {
    kubelet_of(api, &Pki::new().expect("an authority"), Bugs::default()).await
}

async fn kubelet_of(api: &Arc<Api>, pki: &Pki, bugs: Bugs) -> Kubelet {
    let node_ip = Ipv4Addr::LOCALHOST;
    let config = KubeletConfig {
        images: Vec::new(),
        client: api.client(),
        node_name: "kube1".into(),
        node_ip,
        pod_cidr: "10.244.1.0/24".parse().expect("a range"),
        namespace: NetNamespace::new().expect("a namespace"),
        network: Arc::new(NoNetwork),
        serving: pki.server(&["kube1"], &[node_ip.into()]).expect("a certificate"),
        ca_pem: pki.ca_pem(),
        labels: BTreeMap::new(),
        control_plane: true,
        version: "v1.37.0".into(),
        cluster_dns: None,
        cluster_domain: "cluster.local".into(),
        node_dns: Ipv4Addr::LOCALHOST,
        node_searches: vec!["lan".into()],
        applets: applets::APPLETS.iter().map(|name| (*name).to_owned()).collect(),
        bugs,
    };
    let kubelet = Kubelet::start(config).await.expect("a kubelet");
    api.is_watched().await;
    kubelet
}

fn container(command: &[&str]) -> Value {
    json!({"name": "c", "image": "busybox", "command": command})
}

fn state(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

async fn ask(kubelet: &Kubelet, path: &str) -> (StatusCode, String) {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    let response = server::router(Arc::clone(&kubelet.node), CancellationToken::new())
        .oneshot(request)
        .await
        .expect("an answer");
    let status = response.status();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_reports_and_is_taken_away() {
    let api = Api::new();
    let kubelet = kubelet(&api).await;
    let node = api.nodes.lock().expect("nodes")[0].clone();
    assert_eq!(node["spec"]["podCIDR"], "10.244.1.0/24");
    assert_eq!(node["metadata"]["labels"]["node-role.kubernetes.io/control-plane"], "");

    let command = container(&["graceful"]);
    api.run("web", json!({"nodeName": "kube1", "restartPolicy": "Always", "containers": [command]}));
    let pod = api.until("web", is_ready).await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["podIP"], "10.244.1.2");
    assert_eq!(pod["status"]["hostIP"], "127.0.0.1");
    assert_eq!(kubelet.processes(), 1);

    let record = kubelet.node.records.find("default", "web", "c").expect("a record");
    assert!(record.log.as_ref().expect("a log").more(0).await);
    assert_eq!(ask(&kubelet, "/containerLogs/default/web/c").await, (StatusCode::OK, "ready\n".into()));
    let (status, message) = ask(&kubelet, "/containerLogs/default/web/d").await;
    let missing = "container \"d\" not found in pod \"web\"\n";
    assert_eq!((status, message.as_str()), (StatusCode::NOT_FOUND, missing));
    assert_eq!(ask(&kubelet, "/containerLogs/default/x/c").await.0, StatusCode::NOT_FOUND);

    let mut deleted = pod;
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    deleted["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    api.put("MODIFIED", deleted);
    api.until("web", Value::is_null).await;
    let deletion = api.deletions.lock().expect("deletions")[0].clone();
    assert_eq!(deletion["gracePeriodSeconds"], 0);
    assert_eq!(deletion["preconditions"]["uid"], api.uid("web"));
    assert_eq!(kubelet.processes(), 0, "it ended when it was asked, not after 30 seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_restarted_once_and_then_less_often() {
    let api = Api::new();
    let _kubelet = kubelet(&api).await;
    let failing = container(&["exit", "3"]);
    api.run("bad", json!({"nodeName": "kube1", "restartPolicy": "Always", "containers": [failing]}));
    let looping = |pod: &Value| state(pod)["waiting"]["reason"] == "CrashLoopBackOff";
    let pod = api.until("bad", looping).await;
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["restartCount"], 1);
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(status["lastState"]["terminated"]["reason"], "Error");
    let message = format!("back-off 10s restarting failed container=c pod=bad_default({})", api.uid("bad"));
    assert_eq!(status["state"]["waiting"]["message"], message);
    assert_eq!(pod["status"]["phase"], "Running");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_decides_about_the_end() {
    let api = Api::new();
    let _kubelet = kubelet(&api).await;
    for (code, phase, reason) in [("0", "Succeeded", "Completed"), ("5", "Failed", "Error")] {
        let once = container(&["exit", code]);
        api.run(phase.to_lowercase().as_str(), json!({"restartPolicy": "Never", "containers": [once]}));
        let pod = api.until(&phase.to_lowercase(), |pod| pod["status"]["phase"] == phase).await;
        assert_eq!(state(&pod)["terminated"]["reason"], reason);
        assert!(!is_ready(&pod));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_cannot_start_says_why() {
    let api = Api::new();
    let _kubelet = kubelet(&api).await;
    let image = json!({"name": "c", "image": "nginx:1"});
    api.run("image", json!({"restartPolicy": "Always", "containers": [image]}));
    let waits = |pod: &Value| state(pod)["waiting"]["reason"] == "ErrImagePull";
    let pod = api.until("image", waits).await;
    let message = state(&pod)["waiting"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("nginx:1") && message.contains("`goweb`"), "{message}");

    let command = container(&["nosuch"]);
    api.run("command", json!({"restartPolicy": "Never", "containers": [command]}));
    let pod = api.until("command", |pod| pod["status"]["phase"] == "Failed").await;
    let ended = &state(&pod)["terminated"];
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&json!("StartError"), &json!(128)));
    assert_eq!(ended["message"], "exec: \"nosuch\": executable file not found in $PATH");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_removed_by_force_and_a_kubelet_that_ends_leave_no_process() {
    let api = Api::new();
    let kubelet = kubelet(&api).await;
    for name in ["one", "two"] {
        api.run(name, json!({"restartPolicy": "Always", "containers": [container(&["sleep"])]}));
        api.until(name, is_ready).await;
    }
    let record = kubelet.node.records.find("default", "one", "c").expect("a record");
    let first = record.running.expect("it runs").process().clone();
    let record = kubelet.node.records.find("default", "two", "c").expect("a record");
    let second = record.running.expect("it runs").process().clone();
    api.put("DELETED", api.pod("one"));
    let exit = timeout(BOUND, first.wait()).await.expect("it is killed at once");
    assert_eq!(exit, Exit::Signal(libc::SIGKILL));
    assert_eq!(second.exit(), None);
    drop(kubelet);
    assert_eq!(second.exit(), Some(Exit::Signal(libc::SIGKILL)), "reaped when the drop returns");
}

#[expect(unsafe_code, reason = "a link is switched on with ioctl")]
fn switch_loopback_on(namespace: &NetNamespace) {
    let on = namespace.run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
        // SAFETY: ifreq is plain data that outlives the call; its name is `lo` with zeros after it.
        unsafe {
            let mut request: libc::ifreq = std::mem::zeroed();
            request.ifr_name[0] = b'l' as libc::c_char;
            request.ifr_name[1] = b'o' as libc::c_char;
            request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
            libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCSIFFLAGS, &raw const request)
        }
    });
    assert_eq!(on.expect("a namespace can be visited"), 0);
}

/// A TLS connection to the kubelet, with a client certificate or without.
async fn dial(
    kubelet: &Kubelet,
    pki: &Pki,
    certified: bool,
) -> std::io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).expect("a certificate");
    roots.add(ca).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_root_certificates(roots);
    let config = if certified {
        let ours = pki.client("kubernetes-admin", &["system:masters"]).expect("credentials");
        let chain = CertificateDer::from_pem_slice(ours.certificate_pem.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(ours.key_pem.as_bytes()).expect("a key");
        config.with_client_auth_cert(vec![chain], key).expect("a client")
    } else {
        config.with_no_client_auth()
    };
    let stream = kubelet.node.namespace.connect((kubelet.node.ip, node::PORT).into()).await?;
    let name = std::net::IpAddr::from(kubelet.node.ip).into();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_over_the_network() {
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

    let (api, pki) = (Api::new(), Pki::new().expect("an authority"));
    let kubelet = kubelet_of(&api, &pki, Bugs::default()).await;
    switch_loopback_on(&kubelet.node.namespace);
    api.run("web", json!({"restartPolicy": "Always", "containers": [container(&["sleep"])]}));
    api.until("web", is_ready).await;

    let run = async |protocol: &str, command: &str, input: &[u8]| {
        let stream = dial(&kubelet, &pki, true).await.expect("the certificate is good");
        let path = format!("exec/default/web/c?{command}&input=1&output=1&error=1");
        let url = format!("wss://127.0.0.1:{}/{path}", node::PORT);
        let mut request = url.into_client_request().expect("a request");
        let protocol = protocol.parse().expect("a header");
        request.headers_mut().insert("sec-websocket-protocol", protocol);
        let (mut socket, answer) =
            tokio_tungstenite::client_async(request, stream).await.expect("a WebSocket");
        let spoken = answer.headers()["sec-websocket-protocol"].to_str().expect("text").to_owned();
        futures::SinkExt::send(&mut socket, Message::binary([&[0], input].concat())).await.expect("sent");
        futures::SinkExt::send(&mut socket, Message::binary(vec![255, 0])).await.expect("sent");
        let mut channels: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Binary(data) = message {
                channels.entry(data[0]).or_default().extend_from_slice(&data[1..]);
            }
        }
        let status: Value = serde_json::from_slice(&channels[&3]).expect("a status");
        let text = |channel: u8| {
            String::from_utf8_lossy(channels.get(&channel).map_or(&[][..], Vec::as_slice)).into_owned()
        };
        (spoken, text(1), text(2), status)
    };
    let both = "v4.channel.k8s.io, v5.channel.k8s.io";
    let (spoken, out, _, status) =
        timeout(BOUND, run(both, "command=cat", b"there and back")).await.expect("closing ends cat");
    assert_eq!((spoken.as_str(), out.as_str()), ("v5.channel.k8s.io", "there and back"));
    assert_eq!(status, json!({"metadata": {}, "status": "Success"}));

    let (spoken, out, err, _) =
        timeout(BOUND, run("v4.channel.k8s.io", "command=noise", b"")).await.expect("it ends");
    assert_eq!((spoken.as_str(), out.as_str(), err.as_str()), ("v4.channel.k8s.io", "out\n", "err\n"));

    let (_, _, _, status) = timeout(BOUND, run(both, "command=exit&command=42", b"")).await.expect("it ends");
    assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "42"}));
    let (_, _, _, status) = timeout(BOUND, run(both, "command=nosuch", b"")).await.expect("it ends");
    assert_eq!(status["reason"], "InternalError");

    // TLS 1.3 tells a client only with the first answer that its certificate is missing.
    let refused = async {
        let mut stream = dial(&kubelet, &pki, false).await?;
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /healthz HTTP/1.1\r\n\r\n").await?;
        tokio::io::AsyncReadExt::read_u8(&mut stream).await
    };
    assert!(timeout(BOUND, refused).await.expect("an answer").is_err(), "no certificate, no answer");
    assert_eq!(kubelet.processes(), 1, "every process that joined was reaped");
}
