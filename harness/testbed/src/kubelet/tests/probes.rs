//! What probes do to pods.

use super::*;

/// Looks every second and believes at once.
fn every_second(command: &[&str]) -> Value {
    json!({"exec": {"command": command}, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 5,
        "successThreshold": 1})
}

/// Runs a command inside, as a client of the kubelet does.
pub(super) async fn inside(kubelet: &Kubelet, pod: &str, command: &[&str]) -> Exit {
    let record = kubelet.node.records.find("default", pod, "c").expect("a record");
    let command = command.iter().map(|word| (*word).to_owned()).collect();
    let spec = ExecSpec { command, ..ExecSpec::default() };
    let running = record.running.expect("it runs");
    kubelet.node.runtime.exec(&running, spec).await.expect("it starts").process.wait().await
}

fn status(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

#[tokio::test(flavor = "multi_thread")]
async fn touch_makes_it_ready_and_rm_unready_and_nothing_restarts_it() {
    let api = Api::new();
    let kubelet = kubelet(&api).await;
    let mut command = container(&["sleep"]);
    command["readinessProbe"] = every_second(&["exists", "/var/ready"]);
    api.run("web", json!({"restartPolicy": "Always", "containers": [command]}));
    let message = api.told("web", "Unhealthy").await;
    assert!(message.starts_with("Readiness probe failed:"), "{message}");
    let pod = api.until("web", |pod| state(pod)["running"].is_object()).await;
    assert!(!is_ready(&pod));
    assert_eq!((&status(&pod)["ready"], &status(&pod)["started"]), (&json!(false), &json!(true)));

    assert_eq!(inside(&kubelet, "web", &["touch", "/var/ready"]).await, Exit::Code(0));
    api.until("web", is_ready).await;
    assert_eq!(inside(&kubelet, "web", &["rm", "/var/ready"]).await, Exit::Code(0));
    let pod = api.until("web", |pod| !is_ready(pod)).await;
    assert_eq!(status(&pod)["restartCount"], 0);
    assert_eq!(pod["status"]["phase"], "Running");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_live_is_restarted_with_a_fresh_root() {
    let api = Api::new();
    let kubelet = kubelet(&api).await;
    let mut command = container(&["graceful"]);
    command["livenessProbe"] = every_second(&["exists", "/var/alive"]);
    // It is alive before the first look.
    command["livenessProbe"]["initialDelaySeconds"] = json!(2);
    api.run("web", json!({"restartPolicy": "OnFailure", "containers": [command]}));
    api.until("web", is_ready).await;
    for file in ["/var/alive", "/var/left"] {
        assert_eq!(inside(&kubelet, "web", &["touch", file]).await, Exit::Code(0));
    }
    assert_eq!(inside(&kubelet, "web", &["rm", "/var/alive"]).await, Exit::Code(0));
    let restarted = |pod: &Value| status(pod)["restartCount"] == 1 && is_ready(pod);
    let pod = api.until("web", restarted).await;
    assert_eq!(status(&pod)["lastState"]["terminated"]["exitCode"], 7);
    assert_eq!(inside(&kubelet, "web", &["exists", "/var/left"]).await, Exit::Code(1), "a fresh root");
    assert!(api.told("web", "Unhealthy").await.starts_with("Liveness probe failed:"));
    let killing = "Container c failed liveness probe, will be restarted";
    assert_eq!(api.told("web", "Killing").await, killing);
}

#[tokio::test(flavor = "multi_thread")]
async fn force_ends_who_does_not_listen_and_never_means_never() {
    let api = Api::new();
    let _kubelet = kubelet(&api).await;
    let mut command = container(&["stubborn"]);
    command["livenessProbe"] = every_second(&["exists", "/var/alive"]);
    command["livenessProbe"]["terminationGracePeriodSeconds"] = json!(1);
    api.run("web", json!({"restartPolicy": "Never", "containers": [command]}));
    let pod = api.until("web", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(state(&pod)["terminated"]["exitCode"], 137);
    assert_eq!(api.told("web", "Killing").await, "Container c failed liveness probe");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_bug_it_runs_on() {
    let api = Api::new();
    let bugs = Bugs::from_iter([crate::bugs::Bug::LivenessNeverRestarts]);
    let kubelet = kubelet_of(&api, &Pki::new().expect("an authority"), bugs).await;
    let mut command = container(&["graceful"]);
    command["livenessProbe"] = every_second(&["exists", "/var/alive"]);
    command["readinessProbe"] = every_second(&["exists", "/var/ready"]);
    api.run("web", json!({"restartPolicy": "Always", "containers": [command]}));
    api.told("web", "Unhealthy").await;
    assert_eq!(inside(&kubelet, "web", &["touch", "/var/ready"]).await, Exit::Code(0));
    let pod = api.until("web", is_ready).await;
    assert_eq!(status(&pod)["restartCount"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn startup_goes_before_everything_else() {
    let api = Api::new();
    let kubelet = kubelet(&api).await;
    let mut command = container(&["sleep"]);
    command["startupProbe"] = every_second(&["exists", "/var/started"]);
    command["startupProbe"]["failureThreshold"] = json!(100);
    command["livenessProbe"] = every_second(&["exists", "/var/started"]);
    command["readinessProbe"] = every_second(&["exists", "/etc/hosts"]);
    api.run("web", json!({"restartPolicy": "Always", "containers": [command]}));
    assert!(api.told("web", "Unhealthy").await.starts_with("Startup probe failed:"));
    let pod = api.until("web", |pod| state(pod)["running"].is_object()).await;
    assert_eq!((&status(&pod)["ready"], &status(&pod)["started"]), (&json!(false), &json!(false)));
    assert_eq!(inside(&kubelet, "web", &["touch", "/var/started"]).await, Exit::Code(0));
    let pod = api.until("web", is_ready).await;
    assert_eq!((&status(&pod)["started"], &status(&pod)["restartCount"]), (&json!(true), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn http_and_tcp_are_asked_from_the_node() {
    let api = Api::new();
    let kubelet = kubelet(&api).await;
    switch_loopback_on(&kubelet.node.namespace);
    let listener = kubelet.node.namespace.listen(([127, 0, 0, 1], 0).into()).expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    listener.set_nonblocking(true).expect("a listener can be nonblocking");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let well = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let answer = {
        let well = Arc::clone(&well);
        move |headers: http::HeaderMap| async move {
            assert_eq!(headers["user-agent"], "kube-probe/1.37.0");
            match well.load(Ordering::SeqCst) && headers["x-probe"] == "yes" {
                true => StatusCode::FOUND,
                false => StatusCode::BAD_REQUEST,
            }
        }
    };
    let server = tokio::spawn(async move {
        axum::serve(listener, Router::new().route("/well", get(answer))).await.expect("it serves");
    });
    let mut command = container(&["sleep"]);
    command["ports"] = json!([{"name": "web", "containerPort": port}]);
    command["readinessProbe"] = json!({"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 5,
        "httpGet": {"host": "127.0.0.1", "port": "web", "path": "/well",
            "httpHeaders": [{"name": "X-Probe", "value": "yes"}]}});
    api.run("http", json!({"restartPolicy": "Always", "containers": [command.clone()]}));
    let message = api.told("http", "Unhealthy").await;
    assert_eq!(message, "Readiness probe failed: HTTP probe failed with statuscode: 400");
    well.store(true, Ordering::SeqCst);
    api.until("http", is_ready).await;

    command["readinessProbe"] = json!({"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 5,
        "tcpSocket": {"host": "127.0.0.1", "port": port}});
    api.run("tcp", json!({"restartPolicy": "Always", "containers": [command]}));
    api.until("tcp", is_ready).await;
    server.abort();
    let _ = server.await;
    api.until("tcp", |pod| !is_ready(pod)).await;
    let message = api.told("tcp", "Unhealthy").await;
    assert!(message.contains(&format!("dial tcp 127.0.0.1:{port}: connect:")), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_begins_to_serve_late_does_not_wait_for_the_next_period() {
    let api = Api::new();
    let kubelet = kubelet(&api).await;
    switch_loopback_on(&kubelet.node.namespace);
    let listener = kubelet.node.namespace.listen(([127, 0, 0, 1], 0).into()).expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    listener.set_nonblocking(true).expect("a listener can be nonblocking");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let asked = Arc::new(AtomicUsize::new(0));
    let answer = {
        let asked = Arc::clone(&asked);
        async move || match asked.fetch_add(1, Ordering::SeqCst) {
            0..3 => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::OK,
        }
    };
    tokio::spawn(async move {
        axum::serve(listener, Router::new().route("/", get(answer))).await.expect("it serves");
    });
    let mut command = container(&["sleep"]);
    // The next look in its turn comes in an hour.
    command["readinessProbe"] = json!({"periodSeconds": 3600, "timeoutSeconds": 5,
        "httpGet": {"host": "127.0.0.1", "port": port}});
    api.run("late", json!({"restartPolicy": "Always", "containers": [command]}));
    api.until("late", is_ready).await;
    assert_eq!(asked.load(Ordering::SeqCst), 4, "once in its turn, and three times out of turn");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_cannot_be_made_is_refused() {
    let api = Api::new();
    let _kubelet = kubelet(&api).await;
    let mut command = container(&["sleep"]);
    command["livenessProbe"] = json!({"grpc": {"port": 1}});
    api.run("web", json!({"restartPolicy": "Always", "containers": [command]}));
    let refused = |pod: &Value| state(pod)["waiting"]["reason"] == "CreateContainerConfigError";
    let pod = api.until("web", refused).await;
    let message = state(&pod)["waiting"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("grpc, which is not supported here"), "{message}");
    assert!(api.told("web", "Failed").await.contains("grpc"));
}
