//! Clients that mean harm: whatever they send is refused with a `Status` or costs them their
//! connection, and what was stored before stays as it was.

use std::collections::BTreeMap;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::apiserver::limits;
use crate::apiserver::resources::{CONFIG_MAPS, RESOURCES};

const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

impl Scene {
    async fn send(&self, method: &str, path: &str, content_type: &str, body: Vec<u8>) -> (u16, Value) {
        let request = http::Request::builder().method(method).uri(path).header("content-type", content_type);
        let request = request.body(kube::client::Body::from(body)).unwrap();
        let what = format!("{method} {path}");
        let answer = async {
            let response = self.client.send(request).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            let code = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap_or_else(|error| panic!("{what}: {error}"));
            (code, serde_json::from_slice(&body.to_bytes()).unwrap_or_default())
        };
        let answer = tokio::time::timeout(3 * LIMIT, answer).await;
        answer.unwrap_or_else(|_| panic!("{method} {path}: no answer"))
    }

    /// Every object of every kind, by kind and name.
    fn stored(&self) -> BTreeMap<String, Value> {
        let transaction = self.server.shared.registry.store.transaction();
        let mut all = BTreeMap::new();
        for resource in RESOURCES {
            for object in transaction.list(resource, None) {
                let key = object.key();
                all.insert(format!("{} {} {}", resource.kind, key.namespace, key.name), object.value.clone());
            }
        }
        all
    }

    /// What the attacks are aimed at.
    async fn populate(&self) {
        self.account().await;
        for (path, object) in targets() {
            let (code, answer) = self.post(path, object).await;
            assert_eq!(code, 201, "{path}: {answer}");
        }
    }
}

fn targets() -> Vec<(&'static str, Value)> {
    let template = json!({"metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}});
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    vec![
        ("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "x"}, "data": {"k": "v"}})),
        ("/api/v1/namespaces/default/secrets", json!({"metadata": {"name": "x"}, "data": {"k": "dg=="}})),
        (
            "/api/v1/namespaces/default/services",
            json!({"metadata": {"name": "x"}, "spec": {"type": "NodePort", "selector": {"a": "b"},
                "ports": [{"name": "p", "port": 80}, {"name": "q", "port": 53, "protocol": "UDP"}]}}),
        ),
        (
            "/api/v1/namespaces/default/endpoints",
            json!({"metadata": {"name": "x"},
                "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 1}]}]}),
        ),
        (
            "/api/v1/namespaces/default/pods",
            json!({"metadata": {"name": "x", "labels": {"a": "b"}}, "spec": template["spec"]}),
        ),
        (
            "/apis/apps/v1/namespaces/default/deployments",
            json!({"metadata": {"name": "x"}, "spec": {"replicas": 0,
                "selector": {"matchLabels": {"a": "b"}}, "template": template}}),
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
            json!({"metadata": {"name": "x"}, "spec": {"rules": [
                {"host": "a.b", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}}),
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            json!({"metadata": {"name": "x"}, "addressType": "IPv4",
                "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 1}]}),
        ),
    ]
}

fn nested(depth: usize, open: &str, close: &str) -> Vec<u8> {
    format!("{}1{}", open.repeat(depth), close.repeat(depth)).into_bytes()
}

/// A JSON patch that doubles a text again and again.
fn copy_bomb() -> Value {
    let mut steps = vec![json!({"op": "add", "path": "/data", "value": {"a": "x".repeat(1000)}})];
    for step in 0..40 {
        steps.push(json!({"op": "copy", "from": "/data", "path": format!("/data/{step}")}));
    }
    Value::Array(steps)
}

/// What no server may accept: method, path, media type, body and the code it is refused with.
fn attacks() -> Vec<(&'static str, String, &'static str, Vec<u8>, u16)> {
    let map = "/api/v1/namespaces/default/configmaps";
    let service = "/api/v1/namespaces/default/services/x";
    let mut attacks = Vec::new();
    let mut add = |method, path: &str, content_type, body: Vec<u8>, code| {
        attacks.push((method, path.to_owned(), content_type, body, code));
    };
    for body in ["", "{", "[]", "1", "null", "\"x\"", "{\"metadata\":1}", "{\"metadata\":[]}", "\u{feff}{}"] {
        add("POST", map, JSON, body.as_bytes().to_vec(), 400);
        add("PUT", &format!("{map}/x"), JSON, body.as_bytes().to_vec(), 400);
    }
    add("POST", map, JSON, b"{\"metadata\":{\"name\":\"\xff\xfe\"}}".to_vec(), 400);
    add("POST", map, JSON, nested(100_000, "{\"a\":", "}"), 400);
    add("POST", map, JSON, nested(1_000_000, "[", "]"), 400);
    add("POST", map, "application/yaml", nested(5000, "[", "]"), 400);
    add("POST", map, "application/yaml", b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]".to_vec(), 422);
    let mut deep = json!(1);
    for _ in 0..110 {
        deep = json!({"a": deep});
    }
    let data = json!({"metadata": {"name": "deep"}, "data": deep.clone(), "revision": 1});
    let revisions = "/apis/apps/v1/namespaces/default/controllerrevisions";
    add("POST", revisions, JSON, data.to_string().into_bytes(), 400);
    let large = json!({"metadata": {"name": "large"}, "data": {"k": "x".repeat(limits::OBJECT)}});
    add("POST", map, JSON, large.to_string().into_bytes(), 413);
    let huge = json!({"metadata": {"name": "huge"}, "data": {"k": "x".repeat(limits::BODY)}});
    add("POST", map, JSON, huge.to_string().into_bytes(), 413);
    for content_type in
        ["text/plain", "application/xml", "application/cbor", "multipart/form-data", "nonsense"]
    {
        add("POST", map, content_type, b"{}".to_vec(), 415);
        add("PATCH", service, content_type, b"{}".to_vec(), 415);
    }
    add("PATCH", service, JSON, b"{}".to_vec(), 415);
    add("PATCH", service, "application/apply-patch+yaml", b"{}".to_vec(), 415);
    for body in [
        &b"k8s\0"[..],
        b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"k8s\0\x0a\xff\xff\xff\x7f",
        b"k8s",
    ] {
        add("POST", map, PROTOBUF, body.to_vec(), if body == b"k8s\0" { 415 } else { 400 });
    }
    // Messages in messages, as many as fit.
    let mut inner = Vec::new();
    for _ in 0..50_000 {
        let mut outer = vec![0x7a];
        let mut length = inner.len();
        while length >= 0x80 {
            outer.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        // Prepending would be quadratic: the lengths only have to look right from outside.
        outer.extend(std::mem::take(&mut inner));
        inner = outer;
        if inner.len() > 20_000 {
            break;
        }
    }
    let mut body = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12".to_vec();
    let mut length = inner.len();
    while length >= 0x80 {
        body.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    body.push(length as u8);
    body.extend(inner);
    add("POST", map, PROTOBUF, body, 400);
    for (patch, code) in [
        (json!({}), 400),
        (json!([1]), 400),
        (json!([{"op": "add"}]), 400),
        (json!([{"op": "explode", "path": "/x"}]), 400),
        (json!([{"op": "replace", "path": "/spec/ports/99999999999999999999/port", "value": 1}]), 422),
        (json!([{"op": "add", "path": "/spec/ports/18446744073709551615", "value": {}}]), 422),
        (json!([{"op": "remove", "path": "/spec/ports/-1"}]), 422),
        (json!([{"op": "test", "path": "/spec/type", "value": "no"}]), 422),
        (json!([{"op": "remove", "path": ""}]), 422),
        (json!([{"op": "replace", "path": "", "value": [1, 2]}]), 400),
        (json!([{"op": "move", "from": "/spec", "path": "/spec/deeper"}]), 422),
        (json!([{"op": "replace", "path": "/metadata/name", "value": "other"}]), 400),
        (json!([{"op": "replace", "path": "/metadata/namespace", "value": "kube-system"}]), 400),
        (json!([{"op": "replace", "path": "/metadata/uid", "value": "1"}]), 409),
        (json!([{"op": "replace", "path": "/metadata/resourceVersion", "value": "1"}]), 409),
        (json!([{"op": "replace", "path": "/kind", "value": "Pod"}]), 400),
        (json!([{"op": "replace", "path": "/spec/clusterIP", "value": "10.96.0.77"}]), 422),
        (json!([{"op": "replace", "path": "/spec/ports/0/port", "value": 70000}]), 422),
        (json!([{"op": "replace", "path": "/spec/ports/0/port", "value": "x"}]), 400),
        (Value::Array(vec![json!({"op": "test", "path": "/kind", "value": "Service"}); 10_001]), 413),
        (copy_bomb(), 413),
    ] {
        add("PATCH", service, JSON_PATCH, patch.to_string().into_bytes(), code);
    }
    let many: Vec<Value> = (0..5000).map(|port| json!({"port": port, "name": format!("p{port}")})).collect();
    for (content_type, patch, code) in [
        (MERGE_PATCH, json!([]), 400),
        (MERGE_PATCH, json!({"metadata": null}), 200),
        (MERGE_PATCH, json!({"metadata": "x"}), 400),
        (MERGE_PATCH, json!({"metadata": {"name": "y"}}), 400),
        (MERGE_PATCH, json!({"kind": "Pod"}), 400),
        (MERGE_PATCH, json!({"apiVersion": "v2"}), 400),
        (MERGE_PATCH, json!({"metadata": {"uid": "y"}}), 409),
        (MERGE_PATCH, json!({"spec": {"clusterIP": "1.2.3.4"}}), 422),
        (MERGE_PATCH, json!({"spec": {"ports": null}}), 422),
        (MERGE_PATCH, json!({"spec": {"type": "Nonsense"}}), 422),
        (STRATEGIC_PATCH, json!({"spec": {"ports": [{"name": "no-key"}]}}), 400),
        (STRATEGIC_PATCH, json!({"$patch": "explode"}), 400),
        (STRATEGIC_PATCH, json!({"spec": {"ports": many}}), 400),
        (STRATEGIC_PATCH, json!({"spec": {"ports": [{"port": 80, "$patch": "replace"}]}}), 422),
    ] {
        if code != 200 {
            add("PATCH", service, content_type, patch.to_string().into_bytes(), code);
        }
    }
    let pods = "/api/v1/namespaces/default/pods";
    for query in [
        "labelSelector=%3D%3D",
        "labelSelector=a+in+(b",
        "fieldSelector=spec.nonsense%3D1",
        "fieldSelector=x",
        "limit=-1",
        "limit=99999999999999999999999",
        "continue=nonsense",
        "continue=bnVsbA",
        "resourceVersion=x",
        "resourceVersion=-1",
        "resourceVersionMatch=Exact",
        "resourceVersion=1&resourceVersionMatch=Nonsense",
        "watch=1&resourceVersion=x",
        "watch=1&timeoutSeconds=x",
        "watch=1&sendInitialEvents=true",
    ] {
        let unfit = query.contains("sendInitial") || query.contains("Match");
        let code = if unfit { 422 } else { 400 };
        add("GET", &format!("{pods}?{query}"), JSON, Vec::new(), code);
    }
    add("GET", &format!("{pods}?labelSelector={}", "a%2C".repeat(3000) + "%3D"), JSON, Vec::new(), 400);
    for path in ["/api/v1/nonsense", "/apis/x/y/z", "/api/v1/namespaces/default/pods/x/nonsense", "/", "/x"] {
        add("GET", path, JSON, Vec::new(), 404);
    }
    for name in ["%00", "..", "%2e%2e%2f", "%25", "ü", "A"] {
        let body = format!("{{\"metadata\":{{\"name\":\"{}\"}}}}", name.replace("%00", "\\u0000"));
        add("POST", map, JSON, body.into_bytes(), 422);
        if name.is_ascii() && name != ".." {
            add("GET", &format!("{map}/{name}"), JSON, Vec::new(), 404);
        }
    }
    add("DELETE", &format!("{pods}/x?gracePeriodSeconds=x"), JSON, Vec::new(), 400);
    add("DELETE", &format!("{pods}/x?propagationPolicy=Nonsense"), JSON, Vec::new(), 422);
    add("DELETE", &format!("{pods}/x?dryRun=Some"), JSON, Vec::new(), 400);
    add("DELETE", &format!("{pods}/x"), JSON, b"{\"preconditions\":{\"uid\":\"no\"}}".to_vec(), 409);
    add("DELETE", &format!("{pods}/x"), JSON, b"{\"gracePeriodSeconds\":\"x\"}".to_vec(), 400);
    add("DELETE", "/api/v1/namespaces", JSON, Vec::new(), 405);
    add("DELETE", "/api/v1/namespaces/default", JSON, Vec::new(), 403);
    add("PUT", map, JSON, b"{}".to_vec(), 405);
    add("POST", &format!("{map}/x"), JSON, b"{}".to_vec(), 405);
    add("POST", &format!("{pods}/x/binding"), JSON, b"{\"target\":1}".to_vec(), 422);
    add("POST", &format!("{pods}/x/eviction"), JSON, b"{\"deleteOptions\":1}".to_vec(), 400);
    add("GET", &format!("{pods}/x/exec?command=x"), JSON, Vec::new(), 400);
    add("GET", &format!("{pods}/x/attach"), JSON, Vec::new(), 400);
    add("GET", &format!("{pods}/x/portforward"), JSON, Vec::new(), 400);
    let token = "/api/v1/namespaces/default/serviceaccounts/default/token";
    add("POST", token, JSON, b"{\"spec\":{\"expirationSeconds\":9223372036854775807}}".to_vec(), 422);
    let scale = "/apis/apps/v1/namespaces/default/deployments/x/scale";
    for (content_type, body) in [
        (JSON, json!({"spec": {"replicas": -1}})),
        (JSON, json!({"spec": {"replicas": i64::MAX}})),
        (JSON, json!({"spec": {"replicas": "x"}})),
    ] {
        let code = if body["spec"]["replicas"] == -1 { 422 } else { 400 };
        add("PUT", scale, content_type, body.to_string().into_bytes(), code);
    }
    add("PATCH", scale, JSON_PATCH, b"[{\"op\":\"replace\",\"path\":\"\",\"value\":3}]".to_vec(), 400);
    attacks
}

#[tokio::test]
async fn hostile_requests_are_refused_and_harm_nothing() {
    let scene = Scene::new();
    scene.populate().await;
    let before = scene.stored();
    let mut wrong = Vec::new();
    for (method, path, content_type, body, expected) in attacks() {
        let shown = format!(
            "{method} {path} {content_type} {}",
            String::from_utf8_lossy(&body[..body.len().min(200)])
        );
        let (code, answer) = scene.send(method, &path, content_type, body).await;
        let whole = answer["kind"] == "Status" && answer["status"] == "Failure" && answer["code"] == code;
        if code != expected || !whole {
            wrong.push(format!("{shown}: {code} and not {expected}: {answer:.300}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(scene.stored(), before);
}

/// A value with a bit of everything.
fn noise(random: &mut StdRng, depth: u32) -> Value {
    const KEYS: &[&str] = &[
        "metadata",
        "spec",
        "status",
        "name",
        "labels",
        "annotations",
        "ports",
        "port",
        "type",
        "clusterIP",
        "selector",
        "template",
        "containers",
        "rules",
        "http",
        "paths",
        "backend",
        "finalizers",
        "$patch",
        "$retainKeys",
        "$setElementOrder/ports",
        "$deleteFromPrimitiveList/finalizers",
        "data",
        "subsets",
        "ownerReferences",
        "uid",
        "deletionTimestamp",
        "generateName",
        "",
        "endpoints",
        "addresses",
        "replicas",
    ];
    const TEXTS: &[&str] = &[
        "",
        "x",
        "default",
        "None",
        "LoadBalancer",
        "ExternalName",
        "replace",
        "delete",
        "10.96.0.5",
        "TCP",
        "9999-99-99",
        "\u{0}",
        "a/b",
        "\u{202e}",
        "-1",
        "~1",
    ];
    match random.random_range(0..if depth == 0 { 5 } else { 9 }) {
        0 => Value::Null,
        1 => json!(random.random::<bool>()),
        2 => json!([0, -1, 80, 65536, i64::MAX, i64::MIN][random.random_range(0..6)]),
        3 => json!(random.random_range(-1e300..1e300)),
        4 => json!(TEXTS[random.random_range(0..TEXTS.len())]),
        5 | 6 => (0..random.random_range(0..4)).map(|_| noise(random, depth - 1)).collect(),
        _ => {
            let mut map = serde_json::Map::new();
            for _ in 0..random.random_range(0..5) {
                let key = KEYS[random.random_range(0..KEYS.len())];
                map.insert(key.to_owned(), noise(random, depth - 1));
            }
            Value::Object(map)
        }
    }
}

/// Changes one place of an object into noise.
fn mutate(random: &mut StdRng, value: &mut Value) {
    let deeper = random.random_range(0..4) != 0;
    match value {
        Value::Object(map) if deeper && !map.is_empty() => {
            let at = random.random_range(0..map.len());
            if let Some((_, value)) = map.iter_mut().nth(at) {
                mutate(random, value);
            }
        }
        Value::Array(list) if deeper && !list.is_empty() => {
            let at = random.random_range(0..list.len());
            mutate(random, &mut list[at]);
        }
        value => *value = noise(random, 3),
    }
}

/// A pointer to some place of an object, or to none.
fn pointer(random: &mut StdRng, value: &Value) -> String {
    let mut path = String::new();
    let mut value = value;
    while random.random_range(0..5) != 0 {
        let (key, next) = match value {
            Value::Object(map) if !map.is_empty() => {
                let (key, next) = map.iter().nth(random.random_range(0..map.len())).unwrap();
                (key.replace('~', "~0").replace('/', "~1"), next)
            }
            Value::Array(list) if !list.is_empty() => {
                let at = random.random_range(0..list.len());
                (at.to_string(), &list[at])
            }
            _ => return path + ["/-", "/99", "/x", ""][random.random_range(0..4)],
        };
        path = format!("{path}/{key}");
        value = next;
    }
    path
}

#[tokio::test]
async fn noise_neither_breaks_the_server_nor_what_it_stores() {
    let seed: u64 = rand::rng().random();
    let mut random = StdRng::seed_from_u64(seed);
    let scene = Scene::new();
    scene.populate().await;
    let before = scene.stored();
    let identity = |object: &Value| {
        let of = |pointer: &str| object.pointer(pointer).cloned().unwrap_or_default();
        ["/metadata/uid", "/metadata/creationTimestamp", "/kind", "/apiVersion"].map(of)
    };
    for round in 0..1500 {
        let targets = targets();
        let (path, _) = &targets[random.random_range(0..targets.len())];
        let path =
            if random.random_range(0..6) == 0 { format!("{path}/x/status") } else { format!("{path}/x") };
        let (_, now) = scene.get(path.trim_end_matches("/status")).await;
        let (method, content_type, body) = match random.random_range(0..4) {
            0 => {
                let mut object = now.clone();
                for _ in 0..random.random_range(1..4) {
                    mutate(&mut random, &mut object);
                }
                ("PUT", JSON, object)
            }
            1 => {
                let steps = (0..random.random_range(1..6)).map(|_| {
                    let op = ["add", "remove", "replace", "move", "copy", "test"][random.random_range(0..6)];
                    json!({"op": op, "path": pointer(&mut random, &now), "from": pointer(&mut random, &now),
                        "value": noise(&mut random, 2)})
                });
                ("PATCH", JSON_PATCH, steps.collect())
            }
            2 => ("PATCH", MERGE_PATCH, noise(&mut random, 4)),
            _ => ("PATCH", STRATEGIC_PATCH, noise(&mut random, 4)),
        };
        let shown = format!("seed {seed}, round {round}: {method} {path} {content_type} {body}");
        let (code, answer) = scene.send(method, &path, content_type, body.to_string().into_bytes()).await;
        if code != 200 {
            assert!((400..500).contains(&code) && answer["kind"] == "Status", "{shown}: {code} {answer}");
        }
    }
    let after = scene.stored();
    for (name, old) in &before {
        let new = after.get(name).unwrap_or_else(|| panic!("seed {seed}: {name} is gone"));
        assert_eq!(identity(new), identity(old), "seed {seed}: {name}");
    }
    // Clients with types can still read all of it, and it can be written back as it is.
    for resource in RESOURCES {
        for (name, object) in
            after.iter().filter(|(name, _)| name.starts_with(&format!("{} ", resource.kind)))
        {
            if resource.stored.is_none() {
                let admitted = (resource.rules.admit)(object, Some(object));
                let errors = admitted.unwrap_or_else(|what| panic!("seed {seed}: {name}: {what}")).errors;
                assert!(errors.is_empty(), "seed {seed}: {name}: {errors:?} {object}");
            }
        }
    }
}

/// A connection as TLS leaves it, with one of the protocols.
async fn connect(scene: &Scene, protocol: &[u8]) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in rustls_pki_types::pem::PemObject::pem_slice_iter(scene.endpoint.ca_pem.as_bytes()) {
        let certificate: rustls_pki_types::CertificateDer<'static> = certificate.unwrap();
        roots.add(certificate).unwrap();
    }
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = tokio::net::TcpStream::connect(scene.endpoint.address).await.unwrap();
    connector.connect("localhost".try_into().unwrap(), stream).await.unwrap()
}

#[tokio::test]
async fn slow_clients_lose_their_connection() {
    let scene = Scene::new();
    // Says nothing, says half a head, and says half a body.
    let heads = [
        &b""[..],
        b"GET /api HTTP/1.1\r\nhost: x\r\nx-slow: ",
        b"POST /apis/authentication.k8s.io/v1/selfsubjectreviews HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{",
    ];
    let slow = heads.map(|head| async {
        let mut stream = connect(&scene, b"http/1.1").await;
        stream.write_all(head).await.unwrap();
        let mut answer = Vec::new();
        let end = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await;
        assert!(end.is_ok(), "{:?} is still connected", String::from_utf8_lossy(head));
        String::from_utf8_lossy(&answer).into_owned()
    });
    let answers = futures::future::join_all(slow).await;
    assert!(answers[0].is_empty() && !answers[1].contains(" 200 "), "{answers:?}");
    let (code, _) = scene.get("/api/v1/namespaces").await;
    assert_eq!(code, 200, "others are served");
}

/// How much memory this process has.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn thousands_of_watches_are_served_in_bounded_memory() {
    const WATCHES: usize = 2000;
    let scene = Scene::new();
    let before = resident();
    let mut watches = Vec::new();
    let mut clients = Vec::new();
    for index in 0..WATCHES {
        if index % 200 == 0 {
            let io = hyper_util::rt::TokioIo::new(connect_as_admin(&scene).await);
            let executor = hyper_util::rt::TokioExecutor::new();
            let (sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
            tokio::spawn(connection);
            clients.push(sender);
        }
        let sender = &mut clients[index / 200];
        let request = http::Request::get("https://localhost/api/v1/configmaps?watch=1")
            .body(http_body_util::Empty::<Bytes>::new())
            .unwrap();
        let response = tokio::time::timeout(LIMIT, sender.send_request(request)).await.unwrap().unwrap();
        assert_eq!(response.status(), 200);
        watches.push(response.into_body());
    }
    let grown = resident().saturating_sub(before);
    // Both ends of all connections are in this process.
    assert!(grown < WATCHES * 256 * 1024, "{} KiB per watch", grown / WATCHES / 1024);
    let maps: Api<ConfigMap> = scene.default();
    maps.create(&PostParams::default(), &config_map("a", "x")).await.unwrap();
    for watch in &mut watches {
        let frame = tokio::time::timeout(3 * LIMIT, watch.frame()).await.unwrap().unwrap().unwrap();
        let event: Value = serde_json::from_slice(&frame.into_data().unwrap()).unwrap();
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("a")));
    }
}

async fn connect_as_admin(scene: &Scene) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    use rustls_pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in rustls_pki_types::CertificateDer::pem_slice_iter(scene.endpoint.ca_pem.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let chain = rustls_pki_types::CertificateDer::pem_slice_iter(scene.admin.certificate_pem.as_bytes())
        .collect::<Result<_, _>>()
        .unwrap();
    let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(scene.admin.key_pem.as_bytes()).unwrap();
    let mut config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = tokio::net::TcpStream::connect(scene.endpoint.address).await.unwrap();
    connector.connect("localhost".try_into().unwrap(), stream).await.unwrap()
}

#[tokio::test]
async fn a_watch_nobody_reads_is_cut_and_holds_little() {
    let scene = Scene::new();
    let request = http::Request::get("/api/v1/configmaps?watch=1").body(Vec::new()).unwrap();
    let mut lines = scene.client.request_stream(request).await.unwrap().lines();
    let registry = &scene.server.shared.registry;
    let key = crate::apiserver::store::Key::new("default", "a");
    for count in 0..1000 {
        let value = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a", "namespace": "default"},
            "data": {"count": count.to_string(), "k": "x".repeat(128 << 10)}});
        registry.store.transaction().put(&CONFIG_MAPS, key.clone(), value).unwrap();
        tokio::task::yield_now().await;
    }
    let remembered = {
        let transaction = registry.store.transaction();
        let oldest = transaction.changes(&CONFIG_MAPS, 0).unwrap_err().oldest;
        let changes = transaction.changes(&CONFIG_MAPS, oldest).unwrap();
        changes.iter().map(|change| change.object.json().len()).sum::<usize>()
    };
    assert!((limits::HISTORY_BYTES / 2..=limits::HISTORY_BYTES).contains(&remembered), "{remembered} bytes");
    let (mut events, mut last) = (0, Value::Null);
    while let Some(line) = tokio::time::timeout(LIMIT, lines.next()).await.unwrap() {
        last = serde_json::from_str(&line.unwrap()).unwrap();
        events += 1;
        if last["type"] == "ERROR" {
            break;
        }
    }
    assert_eq!((&last["type"], &last["object"]["code"]), (&json!("ERROR"), &json!(410)), "after {events}");
    assert!(events < 1000, "nothing was forgotten");
}

#[tokio::test]
async fn a_full_store_refuses_more_and_lets_go() {
    let scene = Scene::new();
    let path = "/api/v1/namespaces/default/configmaps";
    let text = "x".repeat(1 << 20);
    let mut made = 0;
    let refused = loop {
        let map = json!({"metadata": {"name": format!("m{made}")}, "data": {"k": text}});
        let (code, answer) = scene.post(path, map).await;
        if code != 201 {
            break (code, answer);
        }
        made += 1;
        assert!(made <= limits::STORE >> 20, "the store has no end");
    };
    assert_eq!((refused.0, refused.1["reason"].as_str()), (403, Some("Forbidden")), "{}", refused.1);
    let small = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(scene.raw("PATCH", &format!("{path}/m0"), MERGE_PATCH, &small).await.0, 200);
    assert_eq!(scene.raw("DELETE", &format!("{path}/m0"), JSON, &Value::Null).await.0, 200);
    let map = json!({"metadata": {"name": "again"}, "data": {"k": "x".repeat(1000)}});
    assert_eq!(scene.post(path, map).await.0, 201);
}
