//! The server itself: what it starts with, and what it keeps.

use super::watches::next;
use super::*;

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
