//! What [`health`] says: which nodes pass the health check of a service.

use stickler_model::{Health, ObjectKey, Promises, World, health};

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: ready, labels: {app: web}}
spec: {nodeName: kube1.vm, containers: [{name: c}]}
status: {phase: Running, podIP: 10.244.1.2, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: unready, labels: {app: web}}
spec: {nodeName: kube0.vm, containers: [{name: c}]}
status: {phase: Running, podIP: 10.244.0.2, conditions: [{type: Ready, status: "False"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: leaving, labels: {app: web}, deletionTimestamp: "2026-01-01T00:00:00Z"}
spec: {nodeName: kube2.vm, containers: [{name: c}]}
status: {phase: Running, podIP: 10.244.2.2, conditions: [{type: Ready, status: "True"}]}
"#;

/// What each of the three nodes is to answer.
fn healths(service: &str) -> [Option<u16>; 3] {
    let lab = include_str!("lab.yaml");
    let world = World::from_yaml(&format!("{lab}\n---\n{PODS}\n---\n{service}")).unwrap();
    ["192.168.199.117", "192.168.199.231", "192.168.199.212"].map(|ip| {
        let key = ObjectKey::new("default", "web");
        match health(&world, &Promises::of_minor(37), &key, ip.parse().unwrap()) {
            Health::Passes { .. } => Some(200),
            Health::Fails { .. } => Some(503),
            Health::NotPromised { .. } => None,
        }
    })
}

fn service(labels: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web, labels: {{{labels}}}}}
spec: {{selector: {{app: web}}, clusterIP: 10.96.0.20, ports: [{{port: 80, targetPort: 8000}}], {spec}}}
"
    )
}

#[test]
fn nodes_with_a_ready_endpoint_pass_and_others_fail() {
    let local = "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 32000";
    // A pod that terminates may still be sent to, but counts no more.
    assert_eq!(healths(&service("", local)), [Some(503), Some(200), Some(503)]);
    let published = format!("{local}, publishNotReadyAddresses: true");
    assert_eq!(healths(&service("", &published)), [Some(200); 3]);
}

#[test]
fn only_a_load_balancer_with_policy_local_is_asked() {
    for spec in [
        "type: LoadBalancer, externalTrafficPolicy: Cluster, healthCheckNodePort: 32000",
        "type: NodePort, externalTrafficPolicy: Local, healthCheckNodePort: 32000",
        "type: LoadBalancer, externalTrafficPolicy: Local",
    ] {
        assert_eq!(healths(&service("", spec)), [None; 3], "{spec}");
    }
    let local = "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 32000";
    let labelled = service("service.kubernetes.io/service-proxy-name: other", local);
    assert_eq!(healths(&labelled), [None; 3], "another proxy may do as it likes");
    assert_eq!(healths("apiVersion: v1\nkind: Service\nmetadata: {name: other}\n"), [None; 3]);
}

#[test]
fn an_answer_reads_well() {
    let local = "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 32000";
    let lab = include_str!("lab.yaml");
    let world = World::from_yaml(&format!("{lab}\n---\n{PODS}\n---\n{}", service("", local))).unwrap();
    let key = ObjectKey::new("default", "web");
    let at = |ip: &str| health(&world, &Promises::of_minor(37), &key, ip.parse().unwrap());
    assert_eq!(at("192.168.199.231").allows(Some(200)), Ok(()));
    assert_eq!(at("192.168.199.117").allows(Some(503)), Ok(()));
    assert_eq!(
        at("192.168.199.117").allows(Some(200)).unwrap_err(),
        "was answered 200; 503 was promised: `web` has no ready endpoint on node `kube0.vm`"
    );
    assert_eq!(
        at("192.168.199.231").allows(None).unwrap_err(),
        "was not answered; 200 was promised: `web` has a ready endpoint on node `kube1.vm`"
    );
}
