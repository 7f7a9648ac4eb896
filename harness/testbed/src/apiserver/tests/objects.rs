//! Writing objects of whatever kind.

use super::*;

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
async fn warnings_come_with_what_is_deprecated_or_in_vain() {
    let scene = Scene::new();
    scene.account().await;
    let warnings = async |method: &str, path: &str, body: Value| {
        let request = http::Request::builder().method(method).uri(path);
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = request.header("content-type", "application/json").body(body.into()).unwrap();
        let response = scene.client.send(request).await.unwrap();
        let warnings = response.headers().get_all("warning").iter();
        let warnings: Vec<String> = warnings.map(|text| text.to_str().unwrap().to_owned()).collect();
        (response.status().as_u16(), warnings)
    };
    let deprecated = "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"";
    let endpoints = "/api/v1/namespaces/default/endpoints";
    for (path, code) in [
        (endpoints.to_owned(), 200),
        (format!("{endpoints}/kubernetes"), 200),
        (format!("{endpoints}/x"), 404),
    ] {
        assert_eq!(warnings("GET", &path, Value::Null).await, (code, vec![deprecated.to_owned()]), "{path}");
    }
    let ingresses = "namespaces/default/ingresses";
    let spec = json!({"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}});
    for (group, since) in [("networking.k8s.io/v1beta1", "v1.19+"), ("extensions/v1beta1", "v1.14+")] {
        let told = format!(
            "299 - \"{group} Ingress is deprecated in {since}, unavailable in v1.22+; use networking.k8s.io/v1 Ingress\""
        );
        assert_eq!(
            warnings("GET", &format!("/apis/{group}/{ingresses}"), Value::Null).await,
            (200, vec![told])
        );
    }
    let metadata = json!({"name": "i", "annotations": {"kubernetes.io/ingress.class": "x"}});
    let body = json!({"metadata": metadata, "spec": spec});
    let told = "299 - \"annotation \\\"kubernetes.io/ingress.class\\\" is deprecated, please use \
                'spec.ingressClassName' instead\"";
    let made = warnings("POST", &format!("/apis/networking.k8s.io/v1/{ingresses}"), body).await;
    assert_eq!(made, (201, vec![told.to_owned()]));

    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "None", "sessionAffinity": "ClientIP",
        "externalNam": "x", "ports": [{"port": 80}]}});
    let unknown = "299 - \"unknown field \\\"spec.externalNam\\\"\"".to_owned();
    let ignored = "299 - \"spec.SessionAffinity is ignored for headless services\"".to_owned();
    let made = warnings("POST", services, service.clone()).await;
    assert_eq!(made, (201, vec![unknown, ignored.clone()]));
    // What is said about the object does not depend on how its fields are to be checked.
    let put = warnings("PUT", &format!("{services}/s?fieldValidation=Ignore"), service).await;
    assert_eq!(put, (200, vec![ignored]));
    let status = json!({"metadata": {"name": "s"}, "status": {}});
    assert_eq!(warnings("PUT", &format!("{services}/s/status"), status).await, (200, vec![]));

    let mut twice = pod("p");
    twice["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80}, {"containerPort": 80}]);
    let told = |path: &str| {
        format!(
            "299 - \"{path}.containers[0].ports[1]: duplicate port definition with {path}.containers[0].ports[0]\""
        )
    };
    let made = warnings("POST", "/api/v1/namespaces/default/pods", twice.clone()).await;
    assert_eq!(made, (201, vec![told("spec")]));
    let mut set = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": twice["spec"]}}});
    let sets = "/apis/apps/v1/namespaces/default/deployments";
    assert_eq!(warnings("POST", sets, set.clone()).await, (201, vec![told("spec.template.spec")]));
    set["spec"]["replicas"] = json!(2);
    assert_eq!(
        warnings("PUT", &format!("{sets}/d"), set).await,
        (200, vec![]),
        "the template did not change"
    );
}
