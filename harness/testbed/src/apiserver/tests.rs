//! The API server as its clients see it.

mod hostile;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};

use super::{ApiServer, ApiServerConfig, KubeletDial};
use crate::bugs::Bugs;
use crate::client::{ApiEndpoint, client};
use crate::namespace::NetNamespace;
use crate::pki::{Credentials, Pki};

const LIMIT: Duration = Duration::from_secs(10);

/// A server on loopback, and an administrator of it.
struct Scene {
    pki: Pki,
    server: ApiServer,
    endpoint: ApiEndpoint,
    admin: Credentials,
    client: kube::Client,
}

impl Scene {
    fn new() -> Self {
        Self::with_kubelets(Arc::new(|address| Box::pin(tokio::net::TcpStream::connect(address))))
    }

    fn with_kubelets(kubelet_dial: KubeletDial) -> Self {
        // The second test of a process finds it installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let pki = Pki::new().unwrap();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = ApiServer::start(ApiServerConfig {
            pki: &pki,
            listeners: vec![listener],
            advertise: SocketAddr::from(([192, 168, 199, 117], 6443)),
            names: vec!["kube0.vm".to_owned()],
            service_cidr: "10.96.0.0/24".parse().unwrap(),
            node_port_range: 30000..=32767,
            kubelet_dial,
            version: "v1.37.0".to_owned(),
            bugs: Bugs::default(),
        })
        .unwrap();
        let endpoint = ApiEndpoint { address, ca_pem: pki.ca_pem() };
        let admin = pki.client("kubernetes-admin", &["system:masters"]).unwrap();
        let client = client(NetNamespace::home().unwrap(), &endpoint, &admin).unwrap();
        Self { pki, server, endpoint, admin, client }
    }

    fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::ClusterResourceScope>,
        K::DynamicType: Default,
    {
        Api::all(self.client.clone())
    }

    fn default<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    /// One request as it goes over the wire; the answer's code and object.
    async fn raw(&self, method: &str, path: &str, content_type: &str, body: &Value) -> (u16, Value) {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .body(if body.is_null() { Vec::new() } else { body.to_string().into_bytes() })
            .unwrap();
        let response = self.client.send(request.map(kube::client::Body::from)).await.unwrap();
        let code = response.status().as_u16();
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        (code, serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body))))
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.raw("POST", path, "application/json", &body).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.raw("GET", path, "application/json", &Value::Null).await
    }

    /// Creates a service and returns what became of it, or why not.
    async fn service(&self, spec: Value) -> Result<Value, String> {
        let body = json!({"metadata": {"generateName": "s-"}, "spec": spec});
        let (code, answer) = self.post("/api/v1/namespaces/default/services", body).await;
        if code == 201 { Ok(answer) } else { Err(message(&answer)) }
    }

    async fn account(&self) {
        let accounts: Api<ServiceAccount> = self.default();
        accounts
            .create(&PostParams::default(), &object(json!({"metadata": {"name": "default"}})))
            .await
            .unwrap();
    }
}

fn message(answer: &Value) -> String {
    answer["message"].as_str().unwrap_or_default().to_owned()
}

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn config_map(name: &str, label: &str) -> ConfigMap {
    object(json!({"metadata": {"name": name, "labels": {"on": label}}}))
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "web", "image": "goweb"}]}})
}

fn refused<T>(result: kube::Result<T>) -> (u16, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.message),
        Err(other) => panic!("the answer was no `Status` but {other}"),
        Ok(_) => panic!("the request was not refused"),
    }
}

#[tokio::test]
async fn a_cluster_is_born_with_its_first_objects() {
    let scene = Scene::new();
    let namespaces = scene.all::<Namespace>().list(&ListParams::default()).await.unwrap();
    let names: Vec<_> = namespaces.iter().map(|namespace| namespace.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let (_, service) = scene.get("/api/v1/namespaces/default/services/kubernetes").await;
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    assert_eq!(service["spec"]["ports"][0]["targetPort"], 6443);
    let (_, endpoints) = scene.get("/api/v1/namespaces/default/endpoints/kubernetes").await;
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "192.168.199.117");
    assert_eq!(endpoints["metadata"]["labels"]["endpointslice.kubernetes.io/skip-mirror"], "true");
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let (_, slice) = scene.get(path).await;
    assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "kubernetes");
    assert_eq!(scene.get("/version").await.1["gitVersion"], "v1.37.0");
}

#[tokio::test]
async fn strangers_get_401_and_tokens_are_good_while_their_account_lives() {
    let scene = Scene::new();
    scene.account().await;
    let foreign = Pki::new().unwrap().client("kubernetes-admin", &["system:masters"]).unwrap();
    let stranger = client(NetNamespace::home().unwrap(), &scene.endpoint, &foreign).unwrap();
    let (code, _) = refused(Api::<Namespace>::all(stranger.clone()).get("default").await);
    assert_eq!(code, 401);

    let (code, answer) = scene
        .post(
            "/api/v1/namespaces/default/serviceaccounts/default/token",
            json!({"spec": {"expirationSeconds": 600}}),
        )
        .await;
    assert_eq!(code, 201, "{answer}");
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    let whoami = |token: String| {
        let stranger = stranger.clone();
        async move {
            let request = http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
                .header("authorization", format!("Bearer {token}"))
                .body(b"{}".to_vec())
                .unwrap();
            stranger.request::<Value>(request).await
        }
    };
    let user = whoami(token.clone()).await.unwrap();
    assert_eq!(user["status"]["userInfo"]["username"], "system:serviceaccount:default:default");
    let forged = format!("{}A{}", &token[..token.len() / 2], &token[token.len() / 2 + 1..]);
    assert_eq!(refused(whoami(forged).await).0, 401);
    let accounts: Api<ServiceAccount> = scene.default();
    accounts.delete("default", &DeleteParams::default()).await.unwrap();
    assert_eq!(refused(whoami(token).await).0, 401);
}

#[tokio::test]
async fn writes_collide_as_upstream_says() {
    let scene = Scene::new();
    let maps: Api<ConfigMap> = scene.default();
    let made = maps.create(&PostParams::default(), &config_map("a", "x")).await.unwrap();
    let again = refused(maps.create(&PostParams::default(), &config_map("a", "x")).await);
    assert_eq!(again, (409, "configmaps \"a\" already exists".to_owned()));
    assert_eq!(refused(maps.get("b").await), (404, "configmaps \"b\" not found".to_owned()));

    let mut changed = made.clone();
    changed.data = Some([("k".to_owned(), "v".to_owned())].into());
    let newer = maps.replace("a", &PostParams::default(), &changed).await.unwrap();
    assert_ne!(newer.metadata.resource_version, made.metadata.resource_version);
    let same = maps.replace("a", &PostParams::default(), &newer).await.unwrap();
    assert_eq!(same.metadata.resource_version, newer.metadata.resource_version, "nothing changed");
    changed.data = None;
    let (code, message) = refused(maps.replace("a", &PostParams::default(), &changed).await);
    assert_eq!(code, 409);
    assert_eq!(
        message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your \
         changes to the latest version and try again"
    );
    let elsewhere: Api<ConfigMap> = Api::namespaced(scene.client.clone(), "missing");
    let missing = refused(elsewhere.create(&PostParams::default(), &config_map("a", "x")).await);
    assert_eq!(missing, (404, "namespaces \"missing\" not found".to_owned()));
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    maps.create(&dry, &config_map("dry", "x")).await.unwrap();
    assert_eq!(refused(maps.get("dry").await).0, 404);
    let preconditions = DeleteParams {
        preconditions: Some(kube::api::Preconditions { uid: Some("x".to_owned()), ..Default::default() }),
        ..Default::default()
    };
    assert_eq!(refused(maps.delete("a", &preconditions).await).0, 409);
}

/// The next event that is no bookmark.
async fn next<K>(events: &mut (impl futures::Stream<Item = kube::Result<WatchEvent<K>>> + Unpin)) -> String
where
    K: kube::Resource<DynamicType = ()> + Clone,
{
    let name = |object: &K| object.meta().name.clone().unwrap_or_default();
    let waited = tokio::time::timeout(LIMIT, async {
        loop {
            match events.try_next().await.unwrap() {
                Some(WatchEvent::Added(object)) => return format!("added {}", name(&object)),
                Some(WatchEvent::Modified(object)) => return format!("modified {}", name(&object)),
                Some(WatchEvent::Deleted(object)) => return format!("deleted {}", name(&object)),
                Some(WatchEvent::Error(status)) => return format!("error {}", status.code),
                Some(WatchEvent::Bookmark(_)) => {}
                None => return "over".to_owned(),
            }
        }
    });
    waited.await.expect("an event comes soon")
}

#[tokio::test]
async fn watches_tell_of_objects_that_enter_and_leave_the_selection() {
    let scene = Scene::new();
    let maps: Api<ConfigMap> = scene.default();
    maps.create(&PostParams::default(), &config_map("old", "yes")).await.unwrap();
    let params = WatchParams::default().labels("on=yes");
    let mut events = std::pin::pin!(maps.watch(&params, "0").await.unwrap());
    assert_eq!(next(&mut events).await, "added old");
    maps.create(&PostParams::default(), &config_map("a", "no")).await.unwrap();
    let label = |value: &str| Patch::Merge(json!({"metadata": {"labels": {"on": value}}}));
    let patch = PatchParams::default();
    maps.patch("a", &patch, &label("yes")).await.unwrap();
    assert_eq!(next(&mut events).await, "added a");
    maps.patch("a", &patch, &Patch::Merge(json!({"data": {"k": "v"}}))).await.unwrap();
    assert_eq!(next(&mut events).await, "modified a");
    maps.patch("a", &patch, &label("no")).await.unwrap();
    assert_eq!(next(&mut events).await, "deleted a");
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    maps.delete("old", &DeleteParams::default()).await.unwrap();
    assert_eq!(next(&mut events).await, "deleted old");
}

#[tokio::test]
async fn a_watch_from_the_forgotten_past_is_gone() {
    let scene = Scene::new();
    let maps: Api<ConfigMap> = scene.default();
    let first = maps.create(&PostParams::default(), &config_map("a", "x")).await.unwrap();
    let version = first.metadata.resource_version.unwrap();
    let registry = &scene.server.shared.registry;
    let key = super::store::Key::new("default", "a");
    for count in 0..5000 {
        let map = &super::resources::CONFIG_MAPS;
        let mut value = registry.get(map, &key).unwrap().value.clone();
        value["data"] = json!({"count": count.to_string()});
        registry.store.transaction().put(map, key.clone(), value).unwrap();
    }
    let (code, answer) = scene.get(&format!("/api/v1/configmaps?watch=1&resourceVersion={version}")).await;
    assert_eq!((code, answer["reason"].as_str()), (410, Some("Expired")), "{answer}");
    let exact = format!("/api/v1/configmaps?resourceVersion={version}&resourceVersionMatch=Exact");
    assert_eq!(scene.get(&exact).await.0, 410);
    let future = "/api/v1/configmaps?resourceVersion=99999999&resourceVersionMatch=NotOlderThan";
    assert_eq!(scene.get(future).await.0, 504);
}

#[tokio::test]
async fn streaming_lists_end_with_a_bookmark() {
    let scene = Scene::new();
    let path = "/api/v1/namespaces?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                &allowWatchBookmarks=true";
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    let lines = scene.client.request_stream(request).await.unwrap().lines().take(5);
    let lines: Vec<Value> = tokio::time::timeout(
        LIMIT,
        lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect(),
    )
    .await
    .unwrap();
    let kinds: Vec<_> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ADDED", "ADDED", "ADDED", "ADDED", "BOOKMARK"]);
    assert_eq!(lines[4]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let (code, _) = scene.get("/api/v1/namespaces?watch=1&sendInitialEvents=true").await;
    assert_eq!(code, 422);
}

#[tokio::test]
async fn lists_come_in_pages_of_one_version() {
    let scene = Scene::new();
    let maps: Api<ConfigMap> = scene.default();
    for name in ["a", "b", "c", "d", "e"] {
        maps.create(&PostParams::default(), &config_map(name, "x")).await.unwrap();
    }
    let mut names = Vec::new();
    let mut params = ListParams::default().limit(2);
    loop {
        let page = maps.list(&params).await.unwrap();
        names.extend(page.iter().map(|map| map.metadata.name.clone().unwrap()));
        // What comes later must not show on later pages.
        let _ = maps.create(&PostParams::default(), &config_map("f", "x")).await;
        let _ = maps.delete("e", &DeleteParams::default()).await;
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = ListParams::default().limit(2).continue_token(&token),
            None => break,
        }
    }
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
}

#[tokio::test]
async fn pods_end_gracefully() {
    let scene = Scene::new();
    let pods: Api<Pod> = scene.default();
    let (code, message) = refused(pods.create(&PostParams::default(), &object(pod("early"))).await);
    assert_eq!(code, 403);
    assert_eq!(
        message,
        "pods \"early\" is forbidden: error looking up service account default/default: serviceaccount \
         \"default\" not found"
    );
    scene.account().await;
    let made = pods.create(&PostParams::default(), &object(pod("a"))).await.unwrap();
    assert_eq!(made.status.as_ref().unwrap().phase.as_deref(), Some("Pending"));
    assert_eq!(made.spec.as_ref().unwrap().termination_grace_period_seconds, Some(30));
    pods.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(refused(pods.get("a").await).0, 404, "nobody runs it, so nobody has to stop it");

    pods.create(&PostParams::default(), &object(pod("b"))).await.unwrap();
    let binding = json!({"metadata": {"name": "b"}, "target": {"kind": "Node", "name": "kube1"}});
    let path = "/api/v1/namespaces/default/pods/b/binding";
    assert_eq!(scene.post(path, binding.clone()).await.0, 201);
    let (code, answer) = scene.post(path, binding).await;
    assert_eq!(code, 409, "{answer}");
    let bound = pods.get("b").await.unwrap();
    assert_eq!(bound.spec.unwrap().node_name.as_deref(), Some("kube1"));
    pods.delete("b", &DeleteParams::default()).await.unwrap();
    let ending = pods.get("b").await.unwrap().metadata;
    assert_eq!(ending.deletion_grace_period_seconds, Some(30));
    pods.delete("b", &DeleteParams::default().grace_period(5)).await.unwrap();
    assert_eq!(pods.get("b").await.unwrap().metadata.deletion_grace_period_seconds, Some(5));
    pods.delete("b", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(refused(pods.get("b").await).0, 404);
}

#[tokio::test]
async fn finalizers_and_propagation_hold_an_object() {
    let scene = Scene::new();
    let maps: Api<ConfigMap> = scene.default();
    maps.create(&PostParams::default(), &config_map("a", "x")).await.unwrap();
    maps.delete("a", &DeleteParams::foreground()).await.unwrap();
    let held = maps.get("a").await.unwrap().metadata;
    assert_eq!(held.finalizers.unwrap(), ["foregroundDeletion"]);
    assert!(held.deletion_timestamp.is_some());
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("a", &PatchParams::default(), &release).await.unwrap();
    assert_eq!(refused(maps.get("a").await).0, 404);
}

#[tokio::test]
async fn a_namespace_goes_when_it_is_finalized() {
    let scene = Scene::new();
    let namespaces: Api<Namespace> = scene.all();
    let made = object(json!({"metadata": {"name": "a"}}));
    let made = namespaces.create(&PostParams::default(), &made).await.unwrap();
    assert_eq!(made.metadata.labels.unwrap()["kubernetes.io/metadata.name"], "a");
    namespaces.delete("a", &DeleteParams::default()).await.unwrap();
    let ending = namespaces.get("a").await.unwrap();
    assert_eq!(ending.status.unwrap().phase.as_deref(), Some("Terminating"));
    let maps: Api<ConfigMap> = Api::namespaced(scene.client.clone(), "a");
    let (code, message) = refused(maps.create(&PostParams::default(), &config_map("b", "x")).await);
    assert_eq!(code, 403);
    assert_eq!(
        message,
        "configmaps \"b\" is forbidden: unable to create new content in namespace a because it is being terminated"
    );
    let body = json!({"metadata": {"name": "a"}, "spec": {"finalizers": []}});
    let (code, answer) = scene.raw("PUT", "/api/v1/namespaces/a/finalize", "application/json", &body).await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(refused(namespaces.get("a").await).0, 404);
    assert_eq!(refused(namespaces.delete("default", &DeleteParams::default()).await).0, 403);
}

#[tokio::test]
async fn services_are_refused_in_upstreams_words() {
    let scene = Scene::new();
    let port = || json!([{"port": 80}]);
    for (spec, expected) in [
        (json!({}), "spec.ports: Required value"),
        (json!({"ports": [{"port": 80}, {"port": 81, "name": "b"}]}), "spec.ports[0].name: Required value"),
        (
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}),
            "spec.ports[1].name: Duplicate value: \"a\"",
        ),
        (
            json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}),
            "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
        ),
        (
            json!({"ports": [{"port": 70000, "targetPort": 1}]}),
            "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"ports": [{"port": 80, "protocol": "tcp"}]}),
            "spec.ports[0].protocol: Unsupported value: \"tcp\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            json!({"ports": [{"port": 80, "targetPort": "this-name-is-too-long"}]}),
            "spec.ports[0].targetPort: Invalid value: \"this-name-is-too-long\": must be no more than 15 characters",
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 30080}]}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}),
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid \
             ports is 30000-32767",
        ),
        (
            json!({"type": "Odd", "ports": port()}),
            "spec.type: Unsupported value: \"Odd\": supported values: \"ClusterIP\", \"ExternalName\", \
             \"LoadBalancer\", \"NodePort\"",
        ),
        (
            json!({"clusterIP": "10.96.0.1", "ports": port()}),
            "spec.clusterIPs: Invalid value: [\"10.96.0.1\"]: failed to allocate IP 10.96.0.1: provided IP is \
             already allocated",
        ),
        (
            json!({"clusterIP": "10.97.0.1", "ports": port()}),
            "spec.clusterIPs: Invalid value: [\"10.97.0.1\"]: failed to allocate IP 10.97.0.1: the provided IP \
             (10.97.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/24",
        ),
        (
            json!({"clusterIP": "nonsense", "ports": port()}),
            "spec.clusterIPs[0]: Invalid value: \"nonsense\": must be a valid IP address, (e.g. 10.9.8.7 or \
             2001:db8::ffff)",
        ),
        (
            json!({"type": "NodePort", "clusterIP": "None", "ports": port()}),
            "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
        ),
        (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
        (
            json!({"sessionAffinity": "Sticky", "ports": port()}),
            "spec.sessionAffinity: Unsupported value: \"Sticky\": supported values: \"ClientIP\", \"None\"",
        ),
        (
            json!({"sessionAffinity": "ClientIP", "ports": port(),
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and \
             less than 86400",
        ),
        (
            json!({"externalTrafficPolicy": "Local", "ports": port()}),
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
        ),
        (
            json!({"ipFamilyPolicy": "RequireDualStack", "ports": port()}),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack \
             services",
        ),
        (
            json!({"externalIPs": ["127.0.0.1"], "ports": port()}),
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, \
             ::1/128)",
        ),
        (
            json!({"loadBalancerClass": "a/b", "ports": port()}),
            "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        (
            json!({"trafficDistribution": "Near", "ports": port()}),
            "spec.trafficDistribution: Unsupported value: \"Near\": supported values: \"PreferClose\", \
             \"PreferSameNode\", \"PreferSameZone\"",
        ),
    ] {
        let refusal = scene.service(spec.clone()).await.unwrap_err();
        let (head, seen) = refusal.split_once(" is invalid: ").unwrap_or_else(|| panic!("{spec}: {refusal}"));
        assert!(head.starts_with("Service \"s-"), "{refusal}");
        assert_eq!(seen, expected, "{spec}");
    }
    let body = json!({"metadata": {"name": "1a"}, "spec": {"ports": port()}});
    let (code, answer) = scene.post("/api/v1/namespaces/default/services", body).await;
    assert_eq!((code, answer["reason"].as_str()), (422, Some("Invalid")));
    assert_eq!(answer["details"]["causes"][0]["field"], "metadata.name");
    assert_eq!(answer["details"]["kind"], "Service");
}

#[tokio::test]
async fn services_get_upstreams_defaults() {
    let scene = Scene::new();
    let spec = |service: &Value, field: &str| service["spec"][field].clone();
    let plain = scene.service(json!({"ports": [{"port": 80}]})).await.unwrap();
    for (field, expected) in [
        ("type", json!("ClusterIP")),
        ("sessionAffinity", json!("None")),
        ("internalTrafficPolicy", json!("Cluster")),
        ("externalTrafficPolicy", Value::Null),
        ("ipFamilies", json!(["IPv4"])),
        ("ipFamilyPolicy", json!("SingleStack")),
        ("ports", json!([{"port": 80, "protocol": "TCP", "targetPort": 80}])),
    ] {
        assert_eq!(spec(&plain, field), expected, "{field}");
    }
    assert_eq!(plain["spec"]["clusterIPs"][0], plain["spec"]["clusterIP"]);
    assert_eq!(plain["status"], json!({"loadBalancer": {}}));
    let headless = scene.service(json!({"clusterIP": "None"})).await.unwrap();
    assert_eq!(spec(&headless, "clusterIPs"), json!(["None"]));
    let sticky =
        scene.service(json!({"sessionAffinity": "ClientIP", "ports": [{"port": 80}]})).await.unwrap();
    assert_eq!(spec(&sticky, "sessionAffinityConfig"), json!({"clientIP": {"timeoutSeconds": 10800}}));
    let balanced = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    let balanced = scene.service(balanced).await.unwrap();
    assert_eq!(spec(&balanced, "allocateLoadBalancerNodePorts"), json!(true));
    assert!(spec(&balanced, "healthCheckNodePort").as_i64().is_some_and(|port| port >= 30000));
    let external = scene.service(json!({"type": "ExternalName", "externalName": "a.b."})).await.unwrap();
    assert_eq!(spec(&external, "clusterIP"), Value::Null);
    let both = json!({"type": "NodePort", "ports": [
        {"name": "u", "port": 53, "protocol": "UDP"}, {"name": "t", "port": 53}]});
    let both = scene.service(both).await.unwrap();
    assert_eq!(both["spec"]["ports"][0]["nodePort"], both["spec"]["ports"][1]["nodePort"]);
}

#[tokio::test]
async fn addresses_and_ports_come_back() {
    let scene = Scene::new();
    let services: Api<Service> = scene.default();
    let make = |name: &str, ip: &str| {
        let spec = json!({"type": "NodePort", "clusterIP": ip, "ports": [{"port": 80, "nodePort": 30080}]});
        object::<Service>(json!({"metadata": {"name": name}, "spec": spec}))
    };
    services.create(&PostParams::default(), &make("a", "10.96.0.50")).await.unwrap();
    let (code, message) = refused(services.create(&PostParams::default(), &make("b", "10.96.0.51")).await);
    assert_eq!(code, 422);
    assert!(
        message.ends_with("spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated")
    );
    services.delete("a", &DeleteParams::default()).await.unwrap();
    services.create(&PostParams::default(), &make("b", "10.96.0.50")).await.unwrap();

    // A type that needs no node port gives it back, and keeps its address.
    let patch = |body: Value| {
        let services = services.clone();
        async move { services.patch("b", &PatchParams::default(), &Patch::Strategic(body)).await }
    };
    let changed = patch(json!({"spec": {"type": "ClusterIP"}})).await.unwrap().spec.unwrap();
    assert_eq!(changed.ports.unwrap()[0].node_port, None);
    assert_eq!(changed.cluster_ip.as_deref(), Some("10.96.0.50"));
    let (code, message) = refused(patch(json!({"spec": {"clusterIP": "10.96.0.52"}})).await);
    assert_eq!(code, 422);
    assert!(message.contains("first value must match `clusterIP`"), "{message}");
    let both = json!({"spec": {"clusterIP": "10.96.0.52", "clusterIPs": ["10.96.0.52"]}});
    let (_, message) = refused(patch(both).await);
    assert!(
        message.ends_with("spec.clusterIPs[0]: Invalid value: [\"10.96.0.52\"]: may not change once set")
    );
    services.create(&PostParams::default(), &make("c", "10.96.0.53")).await.unwrap();
    let external = json!({"spec": {"type": "ExternalName", "externalName": "a.b"}});
    assert_eq!(patch(external).await.unwrap().spec.unwrap().cluster_ip, None);
    services
        .create(
            &PostParams::default(),
            &object(json!({"metadata": {"name": "d"},
        "spec": {"clusterIP": "10.96.0.50", "ports": [{"port": 1}]}})),
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn fields_are_validated_as_asked() {
    let scene = Scene::new();
    let body = json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80, "prot": 1}], "foo": 1}});
    let path = "/api/v1/namespaces/default/services?fieldValidation=Strict";
    let (code, answer) = scene.post(path, body.clone()).await;
    assert_eq!(code, 400);
    assert!(message(&answer).starts_with("Service in version \"v1\" cannot be handled as a Service: strict decoding error: unknown field \"spec."), "{answer}");
    let (code, _) = scene.post("/api/v1/namespaces/default/services", body).await;
    assert_eq!(code, 201);
    let wrong = json!({"metadata": {"name": "b"}, "spec": {"ports": [{"port": "x"}]}});
    assert_eq!(scene.post("/api/v1/namespaces/default/services", wrong).await.0, 400);
    let (code, _) = scene
        .raw("PATCH", "/api/v1/namespaces/default/services/a", "application/apply-patch+yaml", &json!({}))
        .await;
    assert_eq!(code, 415);
    let (code, _) = scene
        .raw("POST", "/api/v1/namespaces/default/services", "application/vnd.kubernetes.protobuf", &json!({}))
        .await;
    assert_eq!(code, 400);
    let patch = json!([{"op": "replace", "path": "/spec/ports/0/port", "value": 81}]);
    let path = "/api/v1/namespaces/default/services/a";
    let (code, answer) = scene.raw("PATCH", path, "application/json-patch+json", &patch).await;
    assert_eq!((code, &answer["spec"]["ports"][0]["port"]), (200, &json!(81)), "{answer}");
}

#[tokio::test]
async fn workloads_scale_and_keep_their_status() {
    let scene = Scene::new();
    let path = "/apis/apps/v1/namespaces/default/replicasets";
    let set = |label: &str| {
        json!({"metadata": {"name": "web"}, "status": {"replicas": 7}, "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": label}}, "spec": pod("x")["spec"]}}})
    };
    let (code, answer) = scene.post(path, set("other")).await;
    assert_eq!(code, 422);
    assert_eq!(
        message(&answer),
        "ReplicaSet.apps \"web\" is invalid: spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: \
         `selector` does not match template `labels`"
    );
    let (code, made) = scene.post(path, set("web")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!((&made["spec"]["replicas"], &made["status"]["replicas"]), (&json!(1), &json!(0)));
    let scale = format!("{path}/web/scale");
    let merge = "application/merge-patch+json";
    let (code, answer) = scene.raw("PATCH", &scale, merge, &json!({"spec": {"replicas": 3}})).await;
    assert_eq!((code, &answer["spec"]["replicas"]), (200, &json!(3)), "{answer}");
    let status = json!({"status": {"replicas": 3, "readyReplicas": 2}, "spec": {"replicas": 9}});
    scene.raw("PATCH", &format!("{path}/web/status"), merge, &status).await;
    let (_, seen) = scene.get(&format!("{path}/web")).await;
    assert_eq!(seen["spec"]["replicas"], 3, "a status update changes nothing else");
    assert_eq!(seen["status"]["readyReplicas"], 2);
    assert_eq!(seen["metadata"]["generation"], 2);
}

#[tokio::test]
async fn a_stopped_server_comes_back_with_its_store() {
    let mut scene = Scene::new();
    let maps: Api<ConfigMap> = scene.default();
    maps.create(&PostParams::default(), &config_map("a", "x")).await.unwrap();
    let mut events = std::pin::pin!(maps.watch(&WatchParams::default(), "0").await.unwrap());
    assert_eq!(next(&mut events).await, "added a");
    tokio::time::timeout(LIMIT, scene.server.stop()).await.expect("the server stops");
    tokio::time::timeout(LIMIT, async { while let Ok(Some(_)) = events.try_next().await {} })
        .await
        .expect("the watch ends with its server");
    assert!(maps.get("a").await.is_err());
    let listener = std::net::TcpListener::bind(scene.endpoint.address).unwrap();
    scene.server.resume(vec![listener]).unwrap();
    maps.get("a").await.unwrap();
}

/// Runs the real kubectl against the server; nothing if this machine has none.
async fn kubectl(scene: &Scene, input: Option<&str>, arguments: &str) -> Option<Output> {
    use base64::Engine as _;
    use tokio::io::AsyncWriteExt as _;
    let encode = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("config");
    std::fs::write(
        &config,
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "t",
            "clusters": [{"name": "t", "cluster": {"server": format!("https://{}", scene.endpoint.address),
                "certificate-authority-data": encode(&scene.endpoint.ca_pem)}}],
            "users": [{"name": "t", "user": {"client-certificate-data": encode(&scene.admin.certificate_pem),
                "client-key-data": encode(&scene.admin.key_pem)}}],
            "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
        })
        .to_string(),
    )
    .unwrap();
    let spawned = tokio::process::Command::new("kubectl")
        .args(arguments.split_whitespace())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("KUBECONFIG", &config)
        .env("HOME", home.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => panic!("kubectl cannot be started: {error}"),
    };
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.unwrap_or_default().as_bytes()).await.unwrap();
    drop(stdin);
    let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await;
    Some(output.expect("kubectl comes to an end").unwrap())
}

/// The words kubectl printed, line by line.
fn words(output: &Output) -> Vec<Vec<String>> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

const MANIFESTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 31234}]
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: goweb}]}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unmodified_kubectl_works() {
    let scene = Scene::new();
    let Some(created) = kubectl(&scene, Some(MANIFESTS), "create -f -").await else {
        // Nothing of kubectl's is tested then, and whoever reads the output shall know.
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "skipped: there is no kubectl on this machine");
        return;
    };
    assert_eq!(words(&created), [["service/web", "created"], ["replicaset.apps/web", "created"]]);
    let run = async |arguments: &str| {
        let output = kubectl(&scene, None, arguments).await.unwrap();
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments}: {why}");
        words(&output)
    };
    let services = run("get svc -o wide").await;
    assert_eq!(services[0].join(" "), "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR");
    assert_eq!(services[1][0], "kubernetes");
    assert_eq!(services[2][4], "80:31234/TCP");
    let sets = run("get rs -o wide").await;
    assert_eq!(sets[0].join(" "), "NAME DESIRED CURRENT READY AGE CONTAINERS IMAGES SELECTOR");
    assert_eq!(sets[1][..4], ["web", "2", "0", "0"]);
    assert_eq!(run("scale rs web --replicas=5").await[0].join(" "), "replicaset.apps/web scaled");
    assert_eq!(run("get rs web -o jsonpath={.spec.replicas}").await, [["5"]]);
    let patched = run(r#"patch svc web -p {"spec":{"type":"ClusterIP"}}"#).await;
    assert_eq!(patched[0].join(" "), "service/web patched");
    let applied = words(&kubectl(&scene, Some(MANIFESTS), "apply -f -").await.unwrap());
    assert_eq!(applied, [["service/web", "configured"], ["replicaset.apps/web", "configured"]]);
    let again = words(&kubectl(&scene, Some(MANIFESTS), "apply -f -").await.unwrap());
    assert_eq!(again, [["service/web", "unchanged"], ["replicaset.apps/web", "unchanged"]]);
    let typo =
        MANIFESTS.replace("selector: {app: web}", "selectr: {app: web}").replace("name: web}", "name: typo}");
    let refused = kubectl(&scene, Some(&typo), "create -f -").await.unwrap();
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(why.contains("strict decoding error: unknown field \"spec.selectr\""), "{why}");
    let unknown = "apiVersion: v1\nkind: Servce\nmetadata: {name: a}\n";
    let refused = kubectl(&scene, Some(unknown), "create -f -").await.unwrap();
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(why.contains("no matches for kind \"Servce\" in version \"v1\""), "{why}");
    assert_eq!(run("create ns made").await[0].join(" "), "namespace/made created");
    scene.account().await;
    assert!(run("create token default").await[0][0].starts_with("ey"));
    assert_eq!(run("get ep").await[1][..2], ["kubernetes", "192.168.199.117:6443"]);
    assert_eq!(run("get ns").await[1][..2], ["default", "Active"]);
    assert_eq!(run("auth whoami").await[1].join(" "), "Username kubernetes-admin");
    assert_eq!(run("auth can-i create pods").await, [["yes"]]);
    assert!(run("describe svc web").await.len() > 10);
    assert!(!run("get all").await.is_empty());
    let deleted = run("delete svc/web rs/web rs/typo").await;
    assert_eq!(deleted[0].join(" "), "service \"web\" deleted");
    assert_eq!(run("get rs --no-headers --ignore-not-found").await, Vec::<Vec<String>>::new());
}

#[tokio::test]
async fn tables_show_pods_and_nodes() {
    let scene = Scene::new();
    scene.account().await;
    let nodes: Api<Node> = scene.all();
    nodes.create(&PostParams::default(), &object(json!({"metadata": {"name": "kube1"}}))).await.unwrap();
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    nodes.patch_status("kube1", &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
    let pods: Api<Pod> = scene.default();
    pods.create(&PostParams::default(), &object(pod("a"))).await.unwrap();
    let table = async |path: &str| {
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let request = http::Request::get(path).header("accept", accept).body(Vec::new()).unwrap();
        scene.client.request::<Value>(request).await.unwrap()
    };
    let shown = table("/api/v1/namespaces/default/pods").await;
    assert_eq!(shown["kind"], "Table");
    let cells = shown["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells[..4], [json!("a"), json!("0/1"), json!("Pending"), json!("0")]);
    assert_eq!(shown["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let names: Vec<_> = shown["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["Name", "Ready", "Status", "Restarts", "Age", "IP", "Node", "Nominated Node", "Readiness Gates"]
    );
    assert_eq!(table("/api/v1/nodes").await["rows"][0]["cells"][1], "Ready");
    assert_eq!(scene.pki.ca_pem(), scene.endpoint.ca_pem);
}

/// A kubelet that answers every log with its path, and echoes every stream.
async fn stand_in_kubelet(pki: &Pki, listener: tokio::net::TcpListener) {
    let credentials = pki.server(&["kube1"], &[Ipv4Addr::LOCALHOST.into()]).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(
        super::tls::Tls::new(&pki.ca_pem(), &credentials).unwrap().http1_only(),
    );
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let stream = acceptor.accept(stream).await.unwrap();
            assert!(stream.get_ref().1.peer_certificates().is_some(), "the API server says who it is");
            let service = hyper::service::service_fn(
                |mut request: http::Request<hyper::body::Incoming>| async move {
                    let path = request.uri().to_string();
                    let mut response = http::Response::new(axum::body::Body::from(path.clone()));
                    if path.contains("missing") {
                        *response.status_mut() = http::StatusCode::NOT_FOUND;
                    } else if path.starts_with("/exec/") {
                        let upgrade = hyper::upgrade::on(&mut request);
                        let (key, version) = ("sec-websocket-key", "sec-websocket-version");
                        assert_eq!(request.headers()[version], "13");
                        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(
                            request.headers()[key].as_bytes(),
                        );
                        *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
                        *response.body_mut() = axum::body::Body::empty();
                        for (name, value) in [
                            ("connection", "Upgrade"),
                            ("upgrade", "websocket"),
                            ("sec-websocket-accept", accept.as_str()),
                            ("sec-websocket-protocol", "v5.channel.k8s.io"),
                        ] {
                            response.headers_mut().insert(name, value.parse().unwrap());
                        }
                        tokio::spawn(async move {
                            use futures::SinkExt as _;
                            use tokio_tungstenite::tungstenite::{Message, protocol::Role};
                            let stream = hyper_util::rt::TokioIo::new(upgrade.await.unwrap());
                            let mut socket = tokio_tungstenite::WebSocketStream::from_raw_socket(
                                stream,
                                Role::Server,
                                None,
                            )
                            .await;
                            let said = format!("\u{1}{path}").into_bytes();
                            socket.send(Message::binary(said)).await.unwrap();
                            let over = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
                            socket.send(Message::binary(format!("\u{3}{over}").into_bytes())).await.unwrap();
                            // kubectl takes a close without a code for a broken stream.
                            let normal = tokio_tungstenite::tungstenite::protocol::CloseFrame {
                                code:
                                    tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode::Normal,
                                reason: "".into(),
                            };
                            socket.close(Some(normal)).await.unwrap();
                            while socket.next().await.is_some_and(|message| message.is_ok()) {}
                        });
                    }
                    Ok::<_, std::convert::Infallible>(response)
                },
            );
            let stream = hyper_util::rt::TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(stream, service)
                .with_upgrades()
                .await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_and_commands_come_from_the_kubelet() {
    let scene = Scene::new();
    scene.account().await;
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let nodes: Api<Node> = scene.all();
    nodes.create(&PostParams::default(), &object(json!({"metadata": {"name": "kube1"}}))).await.unwrap();
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    nodes.patch_status("kube1", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let pods: Api<Pod> = scene.default();
    let mut bound = pod("a");
    bound["spec"]["nodeName"] = json!("kube1");
    pods.create(&PostParams::default(), &object(bound)).await.unwrap();

    let clients = async {
        let logs = pods
            .logs("a", &kube::api::LogParams { tail_lines: Some(3), ..Default::default() })
            .await
            .unwrap();
        assert_eq!(logs, "/containerLogs/default/a/web?tailLines=3");
        let other = kube::api::LogParams { container: Some("other".to_owned()), ..Default::default() };
        assert_eq!(
            refused(pods.logs("a", &other).await),
            (400, "container other is not valid for pod a".to_owned())
        );
        let mut process =
            pods.exec("a", ["curl", "-s", "a b"], &kube::api::AttachParams::default()).await.unwrap();
        let mut said = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut process.stdout().unwrap(), &mut said).await.unwrap();
        assert_eq!(said, "/exec/default/a/web?command=curl&command=-s&command=a%20b&output=1&error=1");
        if let Some(output) = kubectl(&scene, None, "exec a -- curl -s x").await {
            let said = words(&output);
            assert_eq!(said, [["/exec/default/a/web?command=curl&command=-s&command=x&output=1&error=1"]]);
        }
        let (code, _) =
            scene.raw("POST", "/api/v1/namespaces/default/pods/a/exec?command=x", "", &Value::Null).await;
        assert_eq!(code, 400);
    };
    tokio::select! {
        () = stand_in_kubelet(&scene.pki, listener) => {}
        () = clients => {}
    }
}

#[tokio::test]
async fn roles_decide_who_may_do_what() {
    let scene = Scene::new();
    let other = scene.pki.client("jane", &["devs"]).unwrap();
    let jane = client(NetNamespace::home().unwrap(), &scene.endpoint, &other).unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(jane.clone(), "default");
    let refusal = "configmaps is forbidden: User \"jane\" cannot list resource \"configmaps\" in API group \"\" in \
                   the namespace \"default\"";
    let listed = async || maps.list(&ListParams::default()).await;
    assert_eq!(refused(listed().await), (403, refusal.to_owned()));
    let nodes = refused(Api::<Node>::all(jane.clone()).list(&ListParams::default()).await).1;
    assert!(
        nodes.ends_with("cannot list resource \"nodes\" in API group \"\" at the cluster scope"),
        "{nodes}"
    );

    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "get"], "resourceNames": []}]);
    let binding = json!({
        "metadata": {"name": "readers"}, "roleRef": {"kind": "Role", "name": "reader"},
        "subjects": [{"kind": "Group", "name": "devs"}],
    });
    let (code, answer) =
        scene.post(&format!("{rbac}/namespaces/default/rolebindings"), binding.clone()).await;
    assert_eq!((code, &answer["roleRef"]["apiGroup"]), (201, &json!("rbac.authorization.k8s.io")));
    let missing = ": RBAC: role.rbac.authorization.k8s.io \"reader\" not found";
    assert_eq!(refused(listed().await).1, format!("{refusal}{missing}"));
    let role = json!({"metadata": {"name": "reader"}, "rules": rules});
    assert_eq!(scene.post(&format!("{rbac}/namespaces/default/roles"), role).await.0, 201);
    listed().await.unwrap();
    assert_eq!(refused(maps.create(&PostParams::default(), &config_map("a", "x")).await).0, 403);
    let elsewhere: Api<ConfigMap> = Api::namespaced(jane.clone(), "kube-system");
    assert_eq!(refused(elsewhere.list(&ListParams::default()).await).0, 403);

    let ask = async |verb: &str| {
        let attributes = json!({"verb": verb, "resource": "configmaps", "namespace": "default"});
        let review = json!({"spec": {"resourceAttributes": attributes}});
        let request = http::Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews");
        let answer: Value =
            jane.request(request.body(review.to_string().into_bytes()).unwrap()).await.unwrap();
        answer["status"].clone()
    };
    let reason = "RBAC: allowed by RoleBinding \"readers/default\" of Role \"reader\" to Group \"devs\"";
    assert_eq!(ask("list").await, json!({"allowed": true, "reason": reason}));
    assert_eq!(ask("delete").await, json!({"allowed": false}));

    let path = format!("{rbac}/namespaces/default/rolebindings/readers");
    let other = json!({"roleRef": {"name": "writer"}});
    let (code, answer) = scene.raw("PATCH", &path, "application/merge-patch+json", &other).await;
    assert!(code == 422 && message(&answer).ends_with("cannot change roleRef"), "{answer}");
    assert_eq!(scene.raw("DELETE", &path, "application/json", &Value::Null).await.0, 200);
    assert_eq!(refused(listed().await), (403, refusal.to_owned()));
}

#[tokio::test]
async fn who_may_impersonate_is_somebody_else() {
    let scene = Scene::new();
    let get = async |user: &str| {
        let request = http::Request::get("/api/v1/namespaces/default/services")
            .header("impersonate-user", user)
            .body(Vec::new())
            .unwrap();
        scene.client.request::<Value>(request).await
    };
    let refusal = "services is forbidden: User \"system:serviceaccount:default:default\" cannot list resource \
                   \"services\" in API group \"\" in the namespace \"default\"";
    assert_eq!(refused(get("system:serviceaccount:default:default").await), (403, refusal.to_owned()));
    get("system:kube-scheduler").await.unwrap();
    get("system:kube-proxy").await.unwrap();
}

#[tokio::test]
async fn commands_over_websockets_need_create_too() {
    let scene = Scene::new();
    let pods: Api<Pod> = scene.default();
    scene.account().await;
    pods.create(&PostParams::default(), &object(pod("a"))).await.unwrap();
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rules = json!([{"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get"]}]);
    let role = json!({"metadata": {"name": "looks"}, "rules": rules});
    scene.post(&format!("{rbac}/clusterroles"), role).await;
    let binding = json!({"metadata": {"name": "looks"}, "roleRef": {"kind": "ClusterRole", "name": "looks"},
        "subjects": [{"kind": "User", "name": "jane"}]});
    assert_eq!(scene.post(&format!("{rbac}/clusterrolebindings"), binding).await.0, 201);
    let jane = scene.pki.client("jane", &[]).unwrap();
    let jane = client(NetNamespace::home().unwrap(), &scene.endpoint, &jane).unwrap();
    let request =
        http::Request::get("/api/v1/namespaces/default/pods/a/exec?command=ls").body(Vec::new()).unwrap();
    let (code, why) = refused(jane.request::<Value>(request).await);
    assert!(code == 403 && why.contains("cannot create resource \"pods/exec\""), "{code} {why}");
}

#[tokio::test]
async fn one_ingress_is_served_in_all_its_versions() {
    let scene = Scene::new();
    let class = json!({"metadata": {"name": "usual", "annotations": {
        "ingressclass.kubernetes.io/is-default-class": "true"}}, "spec": {"controller": "a.b/c"}});
    assert_eq!(scene.post("/apis/networking.k8s.io/v1/ingressclasses", class).await.0, 201);
    let oldest = "/apis/extensions/v1beta1/namespaces/default/ingresses";
    let ingress = json!({"apiVersion": "extensions/v1beta1", "kind": "Ingress", "metadata": {"name": "a"},
        "spec": {"rules": [{"host": "a.b", "http": {"paths": [
            {"path": "/", "backend": {"serviceName": "s", "servicePort": 80}}]}}]}});
    let (code, made) = scene.post(oldest, ingress.clone()).await;
    assert_eq!((code, &made["apiVersion"]), (201, &json!("extensions/v1beta1")), "{made}");
    let path = "/apis/networking.k8s.io/v1/namespaces/default/ingresses/a";
    let (_, new) = scene.get(path).await;
    assert_eq!(new["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(new["spec"]["ingressClassName"], "usual", "the default class");
    let shown = &new["spec"]["rules"][0]["http"]["paths"][0];
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    assert_eq!(*shown, json!({"path": "/", "pathType": "ImplementationSpecific", "backend": backend}));
    // A patch speaks the version of its path.
    let patch =
        json!([{"op": "replace", "value": 81, "path": "/spec/rules/0/http/paths/0/backend/servicePort"}]);
    let (code, patched) =
        scene.raw("PATCH", &format!("{oldest}/a"), "application/json-patch+json", &patch).await;
    assert_eq!(code, 200, "{patched}");
    let (_, new) = scene.get(path).await;
    assert_eq!(new["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["port"]["number"], 81);
    let mut wrong = ingress.clone();
    wrong["metadata"]["name"] = json!("b");
    wrong["spec"]["rules"][0]["http"]["paths"][0]["backend"] =
        json!({"service": {"name": "s"}, "serviceName": "s", "servicePort": 1});
    let (code, answer) = scene.post(&format!("{oldest}?fieldValidation=Strict"), wrong).await;
    assert!(code == 400 && message(&answer).contains("unknown field"), "{answer}");
    let (_, list) = scene.get("/apis/networking.k8s.io/v1beta1/ingresses").await;
    assert_eq!(
        (&list["kind"], &list["items"][0]["apiVersion"]),
        (&json!("IngressList"), &json!("networking.k8s.io/v1beta1"))
    );
}

#[tokio::test]
async fn a_load_balancer_is_reported_and_keeps_its_health_check() {
    let scene = Scene::new();
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    let made = scene.service(spec).await.unwrap();
    let check = made["spec"]["healthCheckNodePort"].as_i64().unwrap();
    let path = format!("/api/v1/namespaces/default/services/{}", made["metadata"]["name"].as_str().unwrap());
    let patch = |body: Value| {
        let path = path.clone();
        let scene = &scene;
        async move { scene.raw("PATCH", &path, "application/merge-patch+json", &body).await }
    };
    let (code, answer) = patch(json!({"spec": {"healthCheckNodePort": check + 1}})).await;
    assert!(
        code == 422 && message(&answer).ends_with("spec.healthCheckNodePort: Forbidden: field is immutable"),
        "{answer}"
    );
    let status = format!("{path}/status");
    let report = |body: Value| {
        let status = status.clone();
        let scene = &scene;
        async move {
            let body = json!({"status": {"loadBalancer": {"ingress": [body]}}});
            scene.raw("PATCH", &status, "application/merge-patch+json", &body).await
        }
    };
    let (code, answer) = report(json!({"ip": "1.2.3.4"})).await;
    assert_eq!(code, 200);
    assert_eq!(answer["status"]["loadBalancer"]["ingress"][0]["ipMode"], "VIP");
    for (bad, expected) in [
        (json!({"ip": "x"}), "status.loadBalancer.ingress[0].ip: Invalid value: \"x\""),
        (
            json!({"ip": "1.2.3.4", "ipMode": "x"}),
            "status.loadBalancer.ingress[0].ipMode: Unsupported value: \"x\"",
        ),
        (
            json!({"hostname": "1.2.3.4"}),
            "status.loadBalancer.ingress[0].hostname: Invalid value: \"1.2.3.4\"",
        ),
    ] {
        let (code, answer) = report(bad).await;
        assert!(code == 422 && message(&answer).contains(expected), "{answer}");
    }
    // What only a load balancer has goes with the type; its cluster address stays.
    let (code, changed) = patch(json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80}]}})).await;
    assert_eq!(code, 200, "{changed}");
    for gone in ["healthCheckNodePort", "allocateLoadBalancerNodePorts", "externalTrafficPolicy"] {
        assert!(changed["spec"].get(gone).is_none(), "{gone}: {changed}");
    }
    assert_eq!(changed["spec"]["clusterIP"], made["spec"]["clusterIP"]);
}
