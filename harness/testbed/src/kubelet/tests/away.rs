//! A kubelet that was away, and one that was taken for dead.

use super::probes::inside;
use super::*;

fn container_id(pod: &Value) -> (&Value, &Value) {
    let status = &pod["status"]["containerStatuses"][0];
    (&status["containerID"], &status["restartCount"])
}

fn ready_when(file: &str) -> Value {
    json!({"exec": {"command": ["exists", file]}, "periodSeconds": 1, "failureThreshold": 1,
        "timeoutSeconds": 5, "successThreshold": 1})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_said_about_its_pod_is_put_right() {
    let api = Api::new();
    let _kubelet = kubelet(&api).await;
    api.run("calm", json!({"restartPolicy": "Always", "containers": [container(&["graceful"])]}));
    let mut pod = api.until("calm", is_ready).await;
    for _ in 0..2 {
        let conditions = pod["status"]["conditions"].as_array_mut().expect("conditions");
        let ready =
            conditions.iter_mut().find(|condition| condition["type"] == "Ready").expect("a condition");
        ready["status"] = json!("False");
        ready["reason"] = json!("NodeNotReady");
        api.put("MODIFIED", pod);
        pod = api.until("calm", is_ready).await;
        let conditions = pod["status"]["conditions"].as_array().expect("conditions");
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready").expect("a condition");
        assert_eq!(ready["reason"], Value::Null);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_go_on_without_it_and_are_taken_up_again() {
    let api = Api::new();
    let mut kubelet = kubelet(&api).await;
    let namespace = kubelet.node.namespace.clone();
    switch_loopback_on(&namespace);
    let port = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, node::PORT));
    let mut probed = container(&["graceful"]);
    probed["readinessProbe"] = ready_when("/var/ready");
    api.run("stays", json!({"restartPolicy": "Always", "containers": [probed]}));
    for name in ["dies", "deleted", "removed"] {
        api.run(name, json!({"restartPolicy": "Always", "containers": [container(&["graceful"])]}));
        api.until(name, is_ready).await;
    }
    api.until("stays", |pod| state(pod)["running"].is_object()).await;
    assert_eq!(inside(&kubelet, "stays", &["touch", "/var/ready"]).await, Exit::Code(0));
    let stays = api.until("stays", is_ready).await;
    let dies = api.pod("dies");
    drop(namespace.connect(port).await.expect("it is at home"));

    kubelet.stop().await;
    kubelet.stop().await;
    assert_eq!(kubelet.processes(), 4, "pods do not need it to live");
    let refused = namespace.connect(port).await.expect_err("nobody is at home").kind();
    assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);
    let died = kubelet.node.records.find("default", "dies", "c").expect("a record").running.expect("it runs");
    died.process().signal(libc::SIGKILL).expect("it can be killed");
    died.wait().await;
    assert_eq!(inside(&kubelet, "stays", &["rm", "/var/ready"]).await, Exit::Code(0));
    let mut deleted = api.pod("deleted");
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    deleted["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    api.put("MODIFIED", deleted);
    api.put("DELETED", api.pod("removed"));
    api.run("new", json!({"restartPolicy": "Always", "containers": [container(&["graceful"])]}));
    assert_eq!(kubelet.processes(), 3, "nobody restarts, ends or starts anything");
    assert_eq!(api.pod("dies"), dies, "and nobody tells");

    kubelet.resume().expect("it starts");
    kubelet.resume().expect("it runs already");
    api.until("new", is_ready).await;
    api.until("deleted", Value::is_null).await;
    let restarted = api.until("dies", |pod| container_id(pod).1 == 1 && is_ready(pod)).await;
    let ended = &restarted["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(ended["exitCode"], 137);
    let unready = api.until("stays", |pod| !is_ready(pod)).await;
    assert_eq!(container_id(&unready), container_id(&stays), "it is still the same process");
    let mut changes = api.changes.subscribe();
    let three = async {
        while kubelet.processes() != 3 {
            changes.changed().await.expect("the API lives");
        }
    };
    timeout(BOUND, three).await.expect("the pod that was removed has ended");
    assert_eq!(inside(&kubelet, "stays", &["touch", "/var/ready"]).await, Exit::Code(0));
    api.until("stays", is_ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_registers_again_before_it_says_anything_about_pods() {
    let api = Api::new();
    let mut kubelet = kubelet(&api).await;
    kubelet.stop().await;
    api.run("late", json!({"restartPolicy": "Always", "containers": [container(&["graceful"])]}));
    assert_eq!(api.nodes.lock().expect("nodes").len(), 1);
    kubelet.resume().expect("it starts");
    api.until("late", is_ready).await;
    assert_eq!(api.nodes.lock().expect("nodes").len(), 2);
}

/// Workers may be done before the stop itself is noticed; none may be lost by that.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn no_pod_is_lost_however_often_it_is_away() {
    let api = Api::new();
    let mut kubelet = kubelet(&api).await;
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in names {
        api.run(name, json!({"restartPolicy": "Always", "containers": [container(&["graceful"])]}));
    }
    let mut before = Vec::new();
    for name in names {
        before.push(api.until(name, is_ready).await);
    }
    for _ in 0..30 {
        kubelet.stop().await;
        assert_eq!(kubelet.asleep.len(), names.len());
        kubelet.resume().expect("it starts");
        api.is_watched().await;
        // Whoever says again what is true has taken its pod up.
        for name in names {
            let mut pod = api.pod(name);
            pod["status"]["phase"] = json!("Unknown");
            api.put("MODIFIED", pod);
        }
        for name in names {
            api.until(name, |pod| pod["status"]["phase"] == "Running").await;
        }
    }
    for (name, pod) in names.into_iter().zip(before) {
        assert_eq!(container_id(&api.pod(name)), container_id(&pod), "it is still the same process");
    }
    assert_eq!(kubelet.processes(), names.len());
}
