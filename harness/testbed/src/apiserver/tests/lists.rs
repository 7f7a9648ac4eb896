//! Lists, and what they are made of.

use std::io::Read as _;

use super::*;
use crate::apiserver::compression;
use crate::apiserver::resources::CONFIG_MAPS;
use crate::apiserver::store::Key;

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

/// kube-controller-manager takes a slice of which the generation did not change for its own work.
#[tokio::test]
async fn a_slice_counts_changes_though_it_has_no_specification() {
    let scene = Scene::new();
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let endpoints = json!([{"addresses": ["10.0.0.1"]}]);
    let slice = json!({"metadata": {"name": "a"}, "addressType": "IPv4", "endpoints": endpoints});
    let (_, mut slice) = scene.post(path, slice).await;
    for (field, value, generation) in [
        ("/endpoints", json!([]), 2),
        ("/metadata/annotations", json!({"x": "y"}), 2),
        ("/metadata/labels", json!({"x": "y"}), 3),
    ] {
        let parent = field.rsplit_once('/').unwrap();
        slice.pointer_mut(parent.0).unwrap()[parent.1] = value;
        let (code, changed) = scene.raw("PUT", &format!("{path}/a"), "application/json", &slice).await;
        assert_eq!((code, &changed["metadata"]["generation"]), (200, &json!(generation)), "{field}");
        slice = changed;
    }
}

/// A scheduler waits until it has seen all of them.
#[tokio::test]
async fn kinds_that_nobody_does_anything_with_can_be_followed_and_not_made() {
    let scene = Scene::new();
    for (path, kind) in [
        ("/apis/storage.k8s.io/v1/csidrivers", "CSIDriver"),
        ("/apis/policy/v1beta1/poddisruptionbudgets", "PodDisruptionBudget"),
        ("/api/v1/namespaces/default/persistentvolumeclaims", "PersistentVolumeClaim"),
    ] {
        let (code, list) = scene.get(path).await;
        assert_eq!((code, &list["kind"], &list["items"]), (200, &json!(format!("{kind}List")), &json!([])));
        let (code, _) = scene.post(path, json!({"metadata": {"name": "x"}})).await;
        assert_eq!(code, 405, "{path}");
        let (code, _) = scene.get(&format!("{path}/x")).await;
        assert_eq!(code, 404, "{path}");
    }
}

/// The names and the versions of what a list shows.
fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

impl Scene {
    /// Changes an object until the past of its kind is forgotten.
    fn forget(&self, name: &str) {
        let registry = &self.server.shared.registry;
        let key = Key::new("default", name);
        for count in 0..5000 {
            let mut value = registry.get(&CONFIG_MAPS, &key).unwrap().value.clone();
            value["data"] = json!({"count": count.to_string()});
            registry.store.transaction().put(&CONFIG_MAPS, key.clone(), value).unwrap();
        }
    }
}

#[tokio::test]
async fn a_page_of_the_forgotten_past_says_how_to_go_on() {
    let scene = Scene::new();
    let maps: Api<ConfigMap> = scene.default();
    for name in ["a", "b", "c", "d"] {
        maps.create(&PostParams::default(), &config_map(name, "x")).await.unwrap();
    }
    let path = "/api/v1/namespaces/default/configmaps?limit=2";
    let (_, first) = scene.get(path).await;
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a", "b"], &json!(2)));
    let version = first["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    // While it is remembered, the next page shows what was.
    maps.delete("c", &DeleteParams::default()).await.unwrap();
    let (_, second) = scene.get(&format!("{path}&continue={token}")).await;
    assert_eq!((names(&second), &second["metadata"]["resourceVersion"]), (vec!["c", "d"], &json!(version)));
    assert!(second["metadata"].get("continue").is_none(), "{second}");

    scene.forget("a");
    let (code, expired) = scene.get(&format!("{path}&continue={token}")).await;
    assert_eq!((code, expired["reason"].as_str()), (410, Some("Expired")), "{expired}");
    assert!(message(&expired).contains("use the continue token in this response"), "{expired}");
    let token = expired["metadata"]["continue"].as_str().unwrap();
    maps.create(&PostParams::default(), &config_map("e", "x")).await.unwrap();
    let (code, rest) = scene.get(&format!("{path}&continue={token}")).await;
    assert_eq!((code, names(&rest)), (200, vec!["d", "e"]), "as it is now");
    // With one page more, which shows the same version again.
    let (_, page) = scene.get(&format!("{}&continue={token}", path.replace("limit=2", "limit=1"))).await;
    let version = page["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    maps.delete("e", &DeleteParams::default()).await.unwrap();
    let token = page["metadata"]["continue"].as_str().unwrap();
    let (_, page) = scene.get(&format!("{path}&continue={token}")).await;
    assert_eq!((names(&page), &page["metadata"]["resourceVersion"]), (vec!["e"], &json!(version)));
}

#[tokio::test]
async fn a_list_is_of_the_version_that_was_asked_for() {
    let scene = Scene::new();
    let maps: Api<ConfigMap> = scene.default();
    let mut versions = Vec::new();
    for name in ["a", "b", "c"] {
        let made = maps.create(&PostParams::default(), &config_map(name, "x")).await.unwrap();
        versions.push(made.metadata.resource_version.unwrap());
    }
    let list = async |query: &str| scene.get(&format!("/api/v1/configmaps?{query}")).await;
    let (first, newest) = (&versions[0], &versions[2]);
    for (query, shown, version) in [
        (String::new(), vec!["a", "b", "c"], newest),
        ("resourceVersion=0".to_owned(), vec!["a", "b", "c"], newest),
        (format!("resourceVersion={first}"), vec!["a", "b", "c"], newest),
        (format!("resourceVersion={first}&resourceVersionMatch=NotOlderThan"), vec!["a", "b", "c"], newest),
        (format!("resourceVersion={first}&resourceVersionMatch=Exact"), vec!["a"], first),
        // What is asked for in pages is meant exactly.
        (format!("resourceVersion={first}&limit=5"), vec!["a"], first),
        ("resourceVersion=0&limit=5".to_owned(), vec!["a", "b", "c"], newest),
        (
            format!("resourceVersion={first}&resourceVersionMatch=NotOlderThan&limit=5"),
            vec!["a", "b", "c"],
            newest,
        ),
    ] {
        let (code, answer) = list(&query).await;
        assert_eq!((code, names(&answer)), (200, shown), "{query}");
        assert_eq!(answer["metadata"]["resourceVersion"], json!(version), "{query}");
    }
    let future = "resourceVersion=99999999";
    assert_eq!(list(future).await.0, 504);
    assert_eq!(list(&format!("{future}&resourceVersionMatch=NotOlderThan")).await.0, 504);
    let (code, answer) = scene.get(&format!("/api/v1/namespaces/default/configmaps/a?{future}")).await;
    assert_eq!((code, &answer["details"]["causes"][0]["reason"]), (504, &json!("ResourceVersionTooLarge")));
    assert_eq!(scene.get("/api/v1/namespaces/default/configmaps/a?resourceVersion=0").await.0, 200);
    scene.forget("a");
    let (code, answer) = list(&format!("resourceVersion={first}&resourceVersionMatch=Exact")).await;
    assert_eq!((code, answer["reason"].as_str()), (410, Some("Expired")), "{answer}");
    assert_eq!(message(&answer), "The resourceVersion for the provided list is too old.");
    assert_eq!(list(&format!("resourceVersion={first}")).await.0, 200, "anything newer will do");
}

#[tokio::test]
async fn what_a_list_cannot_do_is_refused_in_upstreams_words() {
    let scene = Scene::new();
    for (query, code, why) in [
        (
            "resourceVersionMatch=Exact",
            422,
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "resourceVersionMatch=Exact&resourceVersion=0",
            422,
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        (
            "resourceVersionMatch=NotOlderThan&resourceVersion=1&continue=x",
            422,
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided",
        ),
        (
            "resourceVersionMatch=Some&resourceVersion=1",
            422,
            "resourceVersionMatch: Unsupported value: \"Some\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
        ),
        (
            "sendInitialEvents=true",
            422,
            "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
        ),
        ("continue=x", 400, "invalid continue token: continue key is not valid: "),
        // {"v":"meta.k8s.io/v1","rv":0,"start":"a"}, {"v":"v2","rv":1,"start":"a"}, and a version to come.
        (
            "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MCwic3RhcnQiOiJhIn0",
            400,
            "invalid continue token: continue key is not valid: incorrect encoded start resourceVersion",
        ),
        (
            "continue=eyJ2IjoidjIiLCJydiI6MSwic3RhcnQiOiJhIn0",
            400,
            "invalid continue token: continue key is not valid: server does not recognize this encoded version v2",
        ),
        (
            "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6OTk5OTk5OSwic3RhcnQiOiJhIn0",
            400,
            "invalid continue token: continue key is not valid: its resource version was never reached",
        ),
        (
            "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhIn0&resourceVersion=1",
            400,
            "specifying resource version is not allowed when using continue",
        ),
    ] {
        let (seen, answer) = scene.get(&format!("/api/v1/configmaps?{query}")).await;
        assert!(seen == code && message(&answer).contains(why), "{query}: {answer}");
    }
}

#[tokio::test]
async fn lists_are_sorted_as_the_paths_of_their_objects() {
    let scene = Scene::new();
    for namespace in ["a", "a-b", "a0"] {
        let (code, _) = scene.post("/api/v1/namespaces", json!({"metadata": {"name": namespace}})).await;
        assert_eq!(code, 201);
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        assert_eq!(scene.post(&path, json!({"metadata": {"name": format!("in-{namespace}")}})).await.0, 201);
    }
    let (mut shown, mut query) = (Vec::new(), "limit=1".to_owned());
    loop {
        let (_, page) = scene.get(&format!("/api/v1/configmaps?{query}")).await;
        shown.extend(names(&page).into_iter().map(str::to_owned));
        let Some(token) = page["metadata"]["continue"].as_str() else { break };
        query = format!("limit=1&continue={token}");
    }
    // A dash comes before the slash behind a namespace, a digit after it.
    assert_eq!(shown, ["in-a-b", "in-a", "in-a0"]);
}

#[tokio::test]
async fn large_answers_are_compressed_for_whoever_asks() {
    let scene = Scene::new();
    let maps: Api<ConfigMap> = scene.default();
    let get = async |path: &str, accepts: &str| {
        let request = http::Request::get(path).header("accept-encoding", accepts);
        let request = request.body(kube::client::Body::empty()).unwrap();
        let response = scene.client.send(request).await.unwrap();
        let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (coding, varies) = (header("content-encoding"), header("vary"));
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        (coding, varies, body)
    };
    let path = "/api/v1/namespaces/default/configmaps";
    let mut map = config_map("small", "x");
    map.data = Some([("k".to_owned(), "v".repeat(compression::LEAST - 2000))].into());
    maps.create(&PostParams::default(), &map).await.unwrap();
    let (coding, ..) = get(path, "gzip").await;
    assert_eq!(coding, None, "it is not large");
    map.metadata.name = Some("other".to_owned());
    maps.create(&PostParams::default(), &map).await.unwrap();
    let (coding, _, plain) = get(path, "deflate, identity").await;
    assert_eq!(coding, None, "nobody asked");
    let (coding, varies, body) = get(path, "deflate, gzip").await;
    assert_eq!((coding.as_deref(), varies.as_deref()), (Some("gzip"), Some("Accept-Encoding")));
    assert!(body.len() < plain.len() / 10, "{} bytes of {}", body.len(), plain.len());
    let mut decoded = Vec::new();
    flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut decoded).unwrap();
    assert!(decoded == plain, "it says something else");

    // A request is not decompressed.
    let request = http::Request::post(path).header("content-encoding", "gzip");
    let request = request.header("content-type", "application/json").body(body.to_vec().into()).unwrap();
    let response = scene.client.send(request).await.unwrap();
    assert_eq!(response.status().as_u16(), 400);
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
