//! What Endpoints and EndpointSlices must show, and how differences read.

use stickler_model::{
    Expected, ObjectKey, Promises, Protocol, World, endpoint_slices_match, endpoints,
    endpoints_object_matches,
};

const PODS: &str = r#"
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: web-1, labels: {app: web}}
  spec: {nodeName: kube1.vm, containers: [{name: web, ports: [{name: http, containerPort: 8000}, {name: dns, containerPort: 53, protocol: UDP}]}]}
  status: {phase: Running, podIP: 10.244.1.2, conditions: [{type: Ready, status: "True"}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: web-2, labels: {app: web}}
  spec: {nodeName: kube2.vm, containers: [{name: web, ports: [{name: http, containerPort: 9000}]}]}
  status: {phase: Running, podIP: 10.244.2.3, conditions: [{type: Ready, status: "False"}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: web-3, labels: {app: web}, deletionTimestamp: "2026-01-01T00:00:00Z"}
  spec: {nodeName: kube2.vm, containers: [{name: web, ports: [{name: http, containerPort: 8000}]}]}
  status: {phase: Running, podIP: 10.244.2.4, conditions: [{type: Ready, status: "True"}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: done, labels: {app: web}}
  spec: {nodeName: kube2.vm, containers: [{name: web, ports: [{name: http, containerPort: 8000}]}]}
  status: {phase: Succeeded, podIP: 10.244.2.5}
- apiVersion: v1
  kind: Pod
  metadata: {name: pending, labels: {app: web}}
  spec: {containers: [{name: web}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: other, labels: {app: other}}
  spec: {nodeName: kube2.vm, containers: [{name: web}]}
  status: {phase: Running, podIP: 10.244.2.6, conditions: [{type: Ready, status: "True"}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: foreign, namespace: elsewhere, labels: {app: web}}
  spec: {nodeName: kube2.vm, containers: [{name: web}]}
  status: {phase: Running, podIP: 10.244.2.7, conditions: [{type: Ready, status: "True"}]}
"#;

fn world(spec: &str) -> World {
    let service = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {spec}\n");
    World::from_yaml(&format!("{PODS}\n---\n{service}")).unwrap()
}

fn expected(spec: &str) -> Expected {
    endpoints(&world(spec), &Promises::of_minor(37), &web())
}

/// A slice beside those of the selected pods is served, and no part of the Endpoints.
#[test]
fn a_slice_made_by_hand_beside_selected_pods_is_in_no_endpoints_object() {
    let made = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: more, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: '', port: 8000}]
endpoints: [{addresses: [10.244.2.6]}]
---
apiVersion: v1
kind: Endpoints
metadata: {name: web}
subsets:
- addresses: [{ip: 10.244.1.2}]
  ports: [{port: 8000}]
";
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: \
                   [{port: 80, targetPort: 8000}]}\n";
    let pod = PODS.split("- apiVersion").take(2).collect::<Vec<_>>().join("- apiVersion");
    let world = World::from_yaml(&format!("{pod}\n---\n{service}---\n{made}")).unwrap();
    let expected = endpoints(&world, &Promises::of_minor(37), &web());
    assert_eq!(expected.ports[0].ready().len(), 2);
    assert_eq!(endpoints_object_matches(&expected, world.endpoints.get(&web())), Vec::<String>::new());
}

fn web() -> ObjectKey {
    ObjectKey::new("default", "web")
}

/// All endpoints of a port, one a line.
fn shown(expected: &Expected, name: &str, protocol: Protocol) -> Vec<String> {
    expected.port(name, protocol).unwrap().endpoints.iter().map(ToString::to_string).collect()
}

const HTTP: &str = "{clusterIP: 10.96.0.20, selector: {app: web}, ports: [{port: 80, targetPort: http}]}";

#[test]
fn named_ports_are_looked_up_in_each_pod() {
    assert_eq!(
        shown(&expected(HTTP), "", Protocol::Tcp),
        [
            "`10.244.1.2:8000` (pod `web-1`, ready)",
            "`10.244.2.3:9000` (pod `web-2`, not ready)",
            "`10.244.2.4:8000` (pod `web-3`, serving, terminating)",
        ]
    );
    // The same name with another protocol is another port.
    let udp = expected(
        "{clusterIP: 10.96.0.20, selector: {app: web}, ports: [{name: d, port: 53, targetPort: dns, protocol: UDP}, {name: t, port: 53, targetPort: dns}]}",
    );
    assert_eq!(shown(&udp, "d", Protocol::Udp), ["`10.244.1.2:53` (pod `web-1`, ready)"]);
    assert!(shown(&udp, "t", Protocol::Tcp).is_empty());
}

#[test]
fn the_target_port_defaults_to_the_port() {
    let expected = expected("{clusterIP: 10.96.0.20, selector: {app: web}, ports: [{port: 8080}]}");
    assert_eq!(shown(&expected, "", Protocol::Tcp)[0], "`10.244.1.2:8080` (pod `web-1`, ready)");
}

#[test]
fn not_ready_addresses_may_be_published() {
    let expected = expected(
        "{clusterIP: None, publishNotReadyAddresses: true, selector: {app: web}, ports: [{port: 80, targetPort: 8000}]}",
    );
    assert_eq!(
        shown(&expected, "", Protocol::Tcp),
        [
            "`10.244.1.2:8000` (pod `web-1`, ready)",
            "`10.244.2.3:8000` (pod `web-2`, ready)",
            "`10.244.2.4:8000` (pod `web-3`, ready, terminating)",
        ]
    );
}

#[test]
fn a_headless_service_needs_no_ports() {
    let expected = expected("{clusterIP: None, selector: {app: web}}");
    assert_eq!(shown(&expected, "", Protocol::Tcp)[0], "`10.244.1.2` (pod `web-1`, ready)");
    assert!(expected.ports[0].ready().is_empty(), "no port, no socket");
}

#[test]
fn nothing_is_selected_without_a_selector() {
    for spec in [
        "{clusterIP: 10.96.0.20, ports: [{port: 80}]}",
        "{clusterIP: 10.96.0.20, selector: {}, ports: [{port: 80}]}",
        "{type: ExternalName, externalName: www.baidu.com, selector: {app: web}, ports: [{port: 80}]}",
    ] {
        assert!(expected(spec).ports.iter().all(|port| port.endpoints.is_empty()), "{spec}");
    }
    let nobody = endpoints(&World::new(), &Promises::of_minor(37), &web());
    assert!(nobody.ports.is_empty());
}

#[test]
fn dual_stack_services_list_each_family() {
    let pod = r#"
apiVersion: v1
kind: Pod
metadata: {name: web-1, labels: {app: web}}
spec: {nodeName: kube1.vm, containers: [{name: web}]}
status: {phase: Running, podIP: 10.244.1.2, podIPs: [{ip: 10.244.1.2}, {ip: "fd00::2"}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
"#;
    let of = |families: &str| {
        let spec = format!("spec: {{ipFamilies: {families}, selector: {{app: web}}, ports: [{{port: 80}}]}}");
        let world = World::from_yaml(&format!("{pod}{spec}")).unwrap();
        endpoints(&world, &Promises::of_minor(37), &web())
    };
    let both = of("[IPv6, IPv4]");
    assert_eq!(both.ports[0].endpoints.len(), 2);
    assert_eq!(of("[IPv6]").ports[0].ready(), ["[fd00::2]:80".parse().unwrap()].into());
    // The Endpoints object shows the first family only.
    let object = "
apiVersion: v1
kind: Endpoints
metadata: {name: web}
subsets: [{addresses: [{ip: 'fd00::2'}], ports: [{port: 80}]}]
";
    let world = World::from_yaml(object).unwrap();
    assert!(endpoints_object_matches(&both, world.endpoints.get(&web())).is_empty());
}

/// The differences between what the service with `spec` must show and an Endpoints object.
fn compare_object(spec: &str, subsets: &str) -> Vec<String> {
    let object = format!("apiVersion: v1\nkind: Endpoints\nmetadata: {{name: web}}\nsubsets: {subsets}\n");
    let actual = World::from_yaml(&object).unwrap();
    endpoints_object_matches(&expected(spec), actual.endpoints.get(&web()))
}

#[test]
fn an_endpoints_object_is_compared() {
    let right = "
- addresses: [{ip: 10.244.1.2, nodeName: kube1.vm, targetRef: {kind: Pod, name: web-1, namespace: default}}]
  ports: [{port: 8000}]
- notReadyAddresses: [{ip: 10.244.2.3}]
  ports: [{port: 9000}]";
    assert_eq!(compare_object(HTTP, right), [""; 0]);
    assert_eq!(
        endpoints_object_matches(&expected(HTTP), None),
        [
            "missing `10.244.1.2:8000` (pod `web-1`, ready)",
            "missing `10.244.2.3:9000` (pod `web-2`, not ready)"
        ]
    );
    assert_eq!(
        compare_object(
            HTTP,
            "
- addresses: [{ip: 10.244.2.3}, {ip: 10.244.2.4}]
  ports: [{port: 9000}]
- addresses:
  - {ip: 10.244.1.2, nodeName: kube9.vm, targetRef: {kind: Pod, name: web-9}}
  - {ip: 10.244.2.3}
  - {ip: 10.244.2.4}
  - {ip: 10.244.2.5}
  - {ip: 10.244.2.6}
  - {ip: 10.244.2.7, targetRef: {kind: Pod, name: ghost}}
  - {ip: 11.11.11.11}
  ports: [{port: 8000}]"
        ),
        [
            "`10.244.1.2:8000` is said to be pod `web-9`, but is pod `web-1`",
            "`10.244.1.2:8000` is said to be on node `kube9.vm`, but pod `web-1` is on `kube1.vm`",
            "`10.244.2.3:9000` is listed as ready, but pod `web-2` is not ready",
            "`10.244.2.3:8000` is listed, but pod `web-2` serves port `9000` there",
            "`10.244.2.4:8000` is listed, but pod `web-3` is being deleted",
            "`10.244.2.4:9000` is listed, but pod `web-3` is being deleted",
            "`10.244.2.5:8000` is listed, but pod `done` has finished (Succeeded)",
            "`10.244.2.6:8000` is listed, but pod `other` is not selected",
            "`10.244.2.7:8000` is listed, but pod `ghost` does not exist or does not have that address",
            "`11.11.11.11:8000` is listed, but `web` has no such endpoint",
        ]
    );
}

fn compare_slices(minor: u32, slices: &str) -> Vec<String> {
    let actual = World::from_yaml(slices).unwrap();
    let expected = endpoints(&world(HTTP), &Promises::of_minor(minor), &web());
    endpoint_slices_match(&expected, actual.endpoint_slices.values())
}

const SLICES: &str = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-a, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: '', port: 8000}]
endpoints:
- {addresses: [10.244.1.2], conditions: {ready: true, serving: true, terminating: false}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-b, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: '', port: 9000}]
endpoints:
- {addresses: [10.244.2.3], conditions: {ready: false, serving: false, terminating: false}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: another, labels: {kubernetes.io/service-name: another}}
addressType: IPv4
ports: [{name: '', port: 9000}]
endpoints:
- {addresses: [10.244.2.99]}
---
";

/// A terminating endpoint, the same ready one as in `web-a` once more, and a pod without the port.
const MORE: &str = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-c, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: '', port: 8000}]
endpoints:
- {addresses: [10.244.1.2], conditions: {ready: true}}
- {addresses: [10.244.2.4], conditions: {ready: false, serving: true, terminating: true}}
";

#[test]
fn endpoint_slices_are_compared() {
    assert_eq!(compare_slices(37, &format!("{SLICES}{MORE}")), [""; 0]);
    assert_eq!(compare_slices(37, SLICES), ["missing `10.244.2.4:8000` (pod `web-3`, serving, terminating)"]);
    assert_eq!(compare_slices(20, SLICES), [""; 0], "1.20 need not show who terminates");
    let ready = MORE.replace("ready: false, serving: true, terminating: true", "ready: true");
    assert_eq!(
        compare_slices(37, &format!("{SLICES}{ready}")),
        [
            "`10.244.2.4:8000` is listed as ready, but pod `web-3` is not ready",
            "`10.244.2.4:8000` is listed as not terminating, but pod `web-3` is terminating",
        ]
    );
}
