//! What containers find when they start: volumes, environment and names; and how they start and end.

use super::probes::inside;
use super::*;

/// Runs a command to its end in a pod of its own and returns what it printed.
async fn output(kubelet: &Kubelet, api: &Arc<Api>, pod: &str) -> String {
    api.until(pod, |seen| seen["status"]["phase"] == "Succeeded").await;
    let (status, log) = ask(kubelet, &format!("/containerLogs/default/{pod}/c")).await;
    assert_eq!(status, StatusCode::OK);
    log
}

fn once(command: &[&str]) -> Value {
    json!({"restartPolicy": "Never", "containers": [container(command)]})
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_in_the_environment_and_the_manifest_wins() {
    let api = Api::new();
    let kubelet = kubelet(&api).await;
    let mut spec = once(&["env"]);
    spec["containers"][0]["env"] = json!([
        {"name": "URL", "value": "http://$(WEB_FRONT_SERVICE_HOST):$(WEB_FRONT_SERVICE_PORT)"},
        {"name": "WEB_FRONT_PORT", "value": "mine"}
    ]);
    api.run("linked", spec.clone());
    let variables = output(&kubelet, &api, "linked").await;
    let lines: Vec<_> = variables.lines().collect();
    for line in ["URL=http://10.96.0.7:80", "WEB_FRONT_PORT=mine", "WEB_FRONT_PORT_80_TCP_ADDR=10.96.0.7"] {
        assert!(lines.contains(&line), "{line} is missing: {variables}");
    }
    spec["enableServiceLinks"] = json!(false);
    api.run("alone", spec);
    let variables = output(&kubelet, &api, "alone").await;
    assert!(!variables.contains("WEB_FRONT_SERVICE_HOST="), "{variables}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_dir_is_shared_and_outlives_containers() {
    let api = Api::new();
    let kubelet = kubelet(&api).await;
    let mount = json!([{"name": "shared", "mountPath": "/var/run/shared"}]);
    let mut main = container(&["graceful"]);
    main["volumeMounts"] = mount.clone();
    let init = json!({"name": "before", "image": "busybox", "command": ["touch", "/data/made"],
        "volumeMounts": [{"name": "shared", "mountPath": "/data"}]});
    api.run(
        "web",
        json!({"restartPolicy": "Always", "initContainers": [init], "containers": [main],
            "volumes": [{"name": "shared", "emptyDir": {}}]}),
    );
    let pod = api.until("web", is_ready).await;
    assert_eq!(pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
    assert_eq!(inside(&kubelet, "web", &["touch", "/var/run/shared/kept"]).await, Exit::Code(0));
    assert_eq!(inside(&kubelet, "web", &["exists", "/run/shared/made"]).await, Exit::Code(0));
    let record = kubelet.node.records.find("default", "web", "c").expect("a record");
    record.running.expect("it runs").process().signal(libc::SIGTERM).expect("a signal");
    api.until("web", |pod| pod["status"]["containerStatuses"][0]["restartCount"] == 1 && is_ready(pod)).await;
    assert_eq!(inside(&kubelet, "web", &["exists", "/var/run/shared/kept"]).await, Exit::Code(0));
    let folder = spawn::store().expect("a store").outside().join(api.uid("web"));
    assert!(
        folder.join("shared/kept").exists() && !std::path::Path::new("/sys").join(api.uid("web")).exists()
    );
    api.put("DELETED", api.pod("web"));
    let mut changes = tokio::time::interval(Duration::from_millis(10));
    let gone = async {
        while folder.exists() {
            changes.tick().await;
        }
    };
    timeout(BOUND, gone).await.expect("the folder goes with the pod");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_waits_for_its_config_map_and_sees_all_sources() {
    let api = Api::new();
    let kubelet = kubelet(&api).await;
    let mut main = container(&["sleep"]);
    main["volumeMounts"] = json!([
        {"name": "all", "mountPath": "/etc/all"},
        {"name": "all", "mountPath": "/etc/one", "subPath": "renamed"}
    ]);
    let sources = json!([
        {"configMap": {"name": "web", "items": [{"key": "a", "path": "renamed"}]}},
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"downwardAPI": {"items": [{"path": "deep/name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    ]);
    let volume = json!({"name": "all", "projected": {"sources": sources}});
    api.run("web", json!({"restartPolicy": "Always", "containers": [main], "volumes": [volume]}));
    let message = api.told("web", "FailedMount").await;
    assert!(message.contains("\"all\"") && message.contains("configmap \"web\" not found"), "{message}");
    assert_eq!(state(&api.pod("web"))["running"], Value::Null);
    api.config_maps.lock().expect("maps").insert("web".into(), json!({"a": "1", "b": "2"}));
    api.until("web", is_ready).await;
    let record = kubelet.node.records.find("default", "web", "c").expect("a record");
    let running = record.running.expect("it runs");
    for (file, contents) in [
        ("/etc/all/renamed", "1"),
        ("/etc/one", "1"),
        ("/etc/all/token", "default in web"),
        ("/etc/all/deep/name", "web"),
    ] {
        let command = vec!["cat".to_owned(), file.to_owned()];
        let spec = ExecSpec { command, stdout: true, ..ExecSpec::default() };
        let mut session = kubelet.node.runtime.exec(&running, spec).await.expect("it starts");
        let mut text = String::new();
        let stdout = session.stdout.as_mut().expect("output");
        tokio::io::AsyncReadExt::read_to_string(stdout, &mut text).await.expect("text");
        assert_eq!(text, contents, "{file}");
    }
    assert_eq!(inside(&kubelet, "web", &["exists", "/etc/all/b"]).await, Exit::Code(1));
    assert_eq!(inside(&kubelet, "web", &["touch", "/etc/all/new"]).await, Exit::Code(1), "read-only");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_on_the_host_network_has_the_nodes_name_and_address() {
    let api = Api::new();
    let kubelet = kubelet(&api).await;
    let mut spec = once(&["hostname"]);
    spec["hostNetwork"] = json!(true);
    api.run("host", spec);
    assert_eq!(output(&kubelet, &api, "host").await.trim(), "kube1");
    assert_eq!(api.pod("host")["status"]["podIP"], "127.0.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hook_goes_first_and_force_comes_last() {
    let api = Api::new();
    let kubelet = kubelet(&api).await;
    let mut main = container(&["stubborn"]);
    main["volumeMounts"] = json!([{"name": "shared", "mountPath": "/data"}]);
    main["lifecycle"] = json!({"preStop": {"exec": {"command": ["touch", "/data/asked"]}}});
    let volumes = json!([{"name": "shared", "emptyDir": {}}]);
    api.run("web", json!({"restartPolicy": "Always", "containers": [main], "volumes": volumes}));
    let mut pod = api.until("web", is_ready).await;
    let record = kubelet.node.records.find("default", "web", "c").expect("a record");
    let process = record.running.expect("it runs").process().clone();
    let folder = spawn::store().expect("a store").outside().join(api.uid("web")).join("shared");
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    pod["metadata"]["deletionGracePeriodSeconds"] = json!(1);
    api.put("MODIFIED", pod);
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let asked = async {
        while !folder.join("asked").exists() {
            ticks.tick().await;
        }
    };
    timeout(BOUND, asked).await.expect("the hook runs");
    api.until("web", Value::is_null).await;
    assert_eq!(process.exit(), Some(Exit::Signal(libc::SIGKILL)));
    assert_eq!(api.told("web", "Killing").await, "Stopping container c");
}
