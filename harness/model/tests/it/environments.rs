//! What [`environment`] says: the service variables of a container.

use std::collections::BTreeMap;

use stickler_model::{ObjectKey, World, environment};

const WORLD: &str = "
apiVersion: v1
kind: Service
metadata: {name: kubernetes}
spec: {clusterIP: 10.96.0.1, ports: [{name: https, port: 443}]}
---
apiVersion: v1
kind: Service
metadata: {name: goweb-svc, namespace: shop}
spec: {clusterIP: 10.96.0.20, ports: [{name: http, port: 80, targetPort: 8000}, {name: dns-udp, port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: shop}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {clusterIP: 10.96.0.30, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {containers: [{name: c}, {name: own, env: [{name: GOWEB_SVC_SERVICE_HOST, value: mine}]}, {name: many, envFrom: [{configMapRef: {name: x}}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: unlinked, namespace: shop}
spec: {enableServiceLinks: false, containers: [{name: c}]}
";

fn said(pod: &str, container: &str) -> stickler_model::Environment {
    let world = World::from_yaml(WORLD).unwrap();
    environment(&world, &ObjectKey::new("shop", pod), container).unwrap()
}

fn set(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const KUBERNETES: &[(&str, &str)] = &[
    ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
    ("KUBERNETES_SERVICE_PORT", "443"),
    ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
    ("KUBERNETES_PORT", "tcp://10.96.0.1:443"),
    ("KUBERNETES_PORT_443_TCP", "tcp://10.96.0.1:443"),
    ("KUBERNETES_PORT_443_TCP_PROTO", "tcp"),
    ("KUBERNETES_PORT_443_TCP_PORT", "443"),
    ("KUBERNETES_PORT_443_TCP_ADDR", "10.96.0.1"),
];

const GOWEB: &[(&str, &str)] = &[
    ("GOWEB_SVC_SERVICE_HOST", "10.96.0.20"),
    ("GOWEB_SVC_SERVICE_PORT", "80"),
    ("GOWEB_SVC_SERVICE_PORT_HTTP", "80"),
    ("GOWEB_SVC_SERVICE_PORT_DNS_UDP", "53"),
    ("GOWEB_SVC_PORT", "tcp://10.96.0.20:80"),
    ("GOWEB_SVC_PORT_80_TCP", "tcp://10.96.0.20:80"),
    ("GOWEB_SVC_PORT_80_TCP_PROTO", "tcp"),
    ("GOWEB_SVC_PORT_80_TCP_PORT", "80"),
    ("GOWEB_SVC_PORT_80_TCP_ADDR", "10.96.0.20"),
    ("GOWEB_SVC_PORT_53_UDP", "udp://10.96.0.20:53"),
    ("GOWEB_SVC_PORT_53_UDP_PROTO", "udp"),
    ("GOWEB_SVC_PORT_53_UDP_PORT", "53"),
    ("GOWEB_SVC_PORT_53_UDP_ADDR", "10.96.0.20"),
];

#[test]
fn services_of_the_namespace_and_the_api_server() {
    assert_eq!(said("client", "c").set, set(&[KUBERNETES, GOWEB].concat()));
    assert!(said("client", "c").unset.is_empty());
}

#[test]
fn links_can_be_switched_off() {
    let environment = said("unlinked", "c");
    assert_eq!(environment.set, set(KUBERNETES));
    assert_eq!(
        environment.unset.keys().cloned().collect::<Vec<_>>(),
        set(GOWEB).into_keys().collect::<Vec<_>>()
    );
}

#[test]
fn the_containers_own_variables_come_first() {
    let environment = said("client", "own");
    assert!(!environment.set.contains_key("GOWEB_SVC_SERVICE_HOST"));
    assert!(environment.set.contains_key("GOWEB_SVC_SERVICE_PORT"));
    assert!(said("client", "many").set.is_empty());
}

#[test]
fn one_name_for_two_things_is_not_promised() {
    let world = World::from_yaml(
        "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: web-service}, spec: {clusterIP: 10.96.0.3, ports: [{port: 80}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c}]}}
",
    )
    .unwrap();
    let environment = environment(&world, &"p".parse().unwrap(), "c").unwrap();
    assert!(!environment.set.contains_key("WEB_SERVICE_PORT"));
    assert_eq!(environment.set["WEB_SERVICE_SERVICE_PORT"], "80");
}

#[test]
fn differences_are_told_in_words() {
    let environment = said("unlinked", "c");
    let mut seen = set(KUBERNETES);
    seen.insert("PATH".to_owned(), "/bin".to_owned());
    assert_eq!(environment.differences(&seen), Vec::<String>::new());
    seen.insert("KUBERNETES_SERVICE_HOST".to_owned(), "10.96.0.9".to_owned());
    seen.remove("KUBERNETES_SERVICE_PORT");
    seen.insert("GOWEB_SVC_PORT".to_owned(), "tcp://10.96.0.20:80".to_owned());
    assert_eq!(
        environment.differences(&seen),
        [
            "`KUBERNETES_SERVICE_HOST` is `10.96.0.9`; it must be `10.96.0.1`",
            "`KUBERNETES_SERVICE_PORT` is missing; it must be `443`",
            "`GOWEB_SVC_PORT` is `tcp://10.96.0.20:80`; it must not be set: `unlinked` has enableServiceLinks: false",
        ]
    );
}
