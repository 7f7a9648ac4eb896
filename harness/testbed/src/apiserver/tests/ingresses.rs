//! Ingresses.

use super::*;

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
