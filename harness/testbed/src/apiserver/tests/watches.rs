//! Watches, and lists that are streamed.

use super::*;
use crate::apiserver::resources::CONFIG_MAPS;
use crate::apiserver::store::Key;

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
    let key = Key::new("default", "a");
    for count in 0..5000 {
        let map = &CONFIG_MAPS;
        let mut value = registry.get(map, &key).unwrap().value.clone();
        value["data"] = json!({"count": count.to_string()});
        registry.store.transaction().put(map, key.clone(), value).unwrap();
    }
    // It is told as an event, which also ends the watch.
    let (code, event) = scene.get(&format!("/api/v1/configmaps?watch=1&resourceVersion={version}")).await;
    assert_eq!((code, event["type"].as_str()), (200, Some("ERROR")), "{event}");
    let status = &event["object"];
    assert_eq!((&status["code"], &status["reason"]), (&json!(410), &json!("Expired")), "{event}");
}

#[tokio::test]
async fn streaming_lists_end_with_a_bookmark() {
    let scene = Scene::new();
    let path = "/api/v1/namespaces?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                &allowWatchBookmarks=true";
    let lines = events(&scene, path, 5).await;
    let kinds: Vec<_> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["ADDED", "ADDED", "ADDED", "ADDED", "BOOKMARK"]);
    let bookmark = &lines[4]["object"];
    assert_eq!(bookmark["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    assert_eq!(bookmark["kind"], "Namespace");
    let version: u64 = bookmark["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    for line in &lines[..4] {
        let shown = line["object"]["metadata"]["resourceVersion"].as_str().unwrap();
        assert!(shown.parse::<u64>().unwrap() <= version, "{line}");
    }
    // Who wants no bookmarks gets the same without one, and so it is with what was said by a version alone.
    let bare = "/api/v1/namespaces?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1";
    assert_eq!(events(&scene, bare, 5).await.len(), 4);
    let by_version = "/api/v1/namespaces?watch=1&resourceVersion=0&allowWatchBookmarks=true";
    let lines = events(&scene, by_version, 5).await;
    assert_eq!(lines[4]["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    let nothing = "/api/v1/namespaces?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan\
                   &allowWatchBookmarks=true&timeoutSeconds=1";
    assert_eq!(events(&scene, nothing, 1).await, [Value::Null; 0]);
    let future = "/api/v1/namespaces?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                  &resourceVersion=99999999";
    assert_eq!(scene.get(future).await.0, 504);
}

#[tokio::test]
async fn what_a_watch_cannot_do_is_refused_in_upstreams_words() {
    let scene = Scene::new();
    let needs = "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
    let alone = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents \
                 is provided";
    let unknown = "resourceVersionMatch: Unsupported value: \"Exact\": supported values: \"NotOlderThan\"";
    let page = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided";
    for (query, why) in [
        ("sendInitialEvents=true", needs.to_owned()),
        ("sendInitialEvents=false&allowWatchBookmarks=true", needs.to_owned()),
        ("resourceVersionMatch=NotOlderThan", alone.to_owned()),
        ("sendInitialEvents=true&resourceVersionMatch=Exact", format!("[{needs}, {unknown}]")),
        ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&continue=x", page.to_owned()),
    ] {
        let (code, answer) = scene.get(&format!("/api/v1/namespaces?watch=1&{query}")).await;
        assert_eq!((code, answer["reason"].as_str()), (422, Some("Invalid")), "{query}: {answer}");
        assert_eq!(message(&answer), format!("ListOptions.meta.k8s.io \"\" is invalid: {why}"), "{query}");
    }
}

/// At most so many events of a watch.
async fn events(scene: &Scene, path: &str, count: usize) -> Vec<Value> {
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    let lines = scene.client.request_stream(request).await.unwrap().lines().take(count);
    let read = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    tokio::time::timeout(LIMIT, read).await.expect("the events come, or the watch ends")
}

/// The next event that is no bookmark.
pub(super) async fn next<K>(
    events: &mut (impl futures::Stream<Item = kube::Result<WatchEvent<K>>> + Unpin),
) -> String
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
