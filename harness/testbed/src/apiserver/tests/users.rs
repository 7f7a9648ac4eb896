//! Who may do what.

use super::*;

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
