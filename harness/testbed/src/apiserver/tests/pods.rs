//! Pods and what makes them; logs and commands.

use super::kubectl::{kubectl, words};
use super::*;
use crate::apiserver::tls::Tls;

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

/// A kubelet that answers every log with its path, and echoes every stream.
async fn stand_in_kubelet(pki: &Pki, listener: tokio::net::TcpListener) {
    let credentials = pki.server(&["kube1"], &[Ipv4Addr::LOCALHOST.into()]).unwrap();
    let acceptor =
        tokio_rustls::TlsAcceptor::from(Tls::new(&pki.ca_pem(), &credentials).unwrap().http1_only());
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
