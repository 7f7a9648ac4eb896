//! Cluster IPs: the virtual address of a service within the cluster.

use k8s_openapi::api::core::v1::{Service, ServicePort};

use crate::ObjectKey;
use crate::citation::{self, Citation};
use crate::endpoints::{cluster_ips, proxied};
use crate::ports::{self, Protocol};
use crate::route::{Affinity, Route, Scene, Source, Usable};
use crate::selector::is_external_name;

/// A destination that is a service's cluster IP; nothing if it is none.
///
/// [Virtual IPs](https://kubernetes.io/docs/reference/networking/virtual-ips/): proxies "capture
/// traffic to the Service's `clusterIP` and `port`, and redirect that traffic to one of the
/// Service's endpoints".
pub(crate) fn route(scene: &Scene<'_>) -> Option<Route> {
    let address = scene.destination.address;
    let (key, service) = scene
        .world
        .services
        .iter()
        .find(|(_, service)| !is_external_name(service) && cluster_ips(service).contains(&address))?;
    if scene.client.is_outside() {
        let why = format!("the cluster IP of `{}` is for clients within the cluster", key.name);
        return Some(Route::NotPromised { why, rule: citation::CLUSTER_IP });
    }
    if let Some(route) = given_away(key, service) {
        return Some(route);
    }
    let found = find_port(scene, service, |port| port.port);
    let Some(port) = found else {
        // A virtual IP has no host behind it, so there is nobody to answer on its other ports; a
        // node's own listener that does is a bug (kubernetes/kubernetes#72236).
        let destination = scene.destination;
        let why = format!("`{}` has no port {}/{}", key.name, destination.port, destination.protocol);
        return Some(Route::Nobody { why, rule: citation::SERVICE_IPS });
    };
    let node = scene.client.node.filter(|_| is_internal_local(scene, service));
    let usable = usable_of_port(scene, key, port, node);
    if usable.backends.is_empty() {
        return Some(match node {
            None => no_endpoints(scene, key),
            // One page says that traffic "is dropped", another that the service "behaves as if it
            // has zero endpoints" (Service Internal Traffic Policy): the way it fails is open.
            Some(node) => Route::Nobody {
                why: format!(
                    "`{}` has internal traffic policy Local and no ready endpoint on node `{node}`",
                    key.name
                ),
                rule: citation::INTERNAL_POLICY,
            },
        });
    }
    let source = source(scene, &usable);
    let rule = if node.is_some() { citation::INTERNAL_POLICY } else { citation::VIRTUAL_IPS };
    Some(usable.answered(source, affinity(service), rule))
}

/// The port of the service that a number means, if the destination's protocol matches too.
pub(crate) fn find_port<'a>(
    scene: &Scene<'_>,
    service: &'a Service,
    number_of: impl Fn(&ServicePort) -> i32,
) -> Option<&'a ServicePort> {
    ports::service_ports(service).find(|port| {
        number_of(port) == i32::from(scene.destination.port)
            && Protocol::of_field(port.protocol.as_deref()) == Some(scene.destination.protocol)
    })
}

/// The endpoints a proxy may choose from for one port of a service.
pub(crate) fn usable_of_port(
    scene: &Scene<'_>,
    key: &ObjectKey,
    port: &ServicePort,
    node: Option<&str>,
) -> Usable {
    let expected = proxied(scene.world, scene.promises, key);
    let name = port.name.as_deref().unwrap_or_default();
    scene.usable(key, &expected, expected.port(name, scene.destination.protocol), node)
}

/// A service without endpoints refuses, so that clients need not wait for a time-out.
pub(crate) fn no_endpoints(scene: &Scene<'_>, key: &ObjectKey) -> Route {
    Route::Refused {
        protocol: scene.destination.protocol,
        why: format!("`{}` has no ready endpoints", key.name),
        rule: citation::REJECTED,
    }
}

/// Services the cluster's own proxy leaves alone: its label names another proxy. One that says there is
/// nothing to proxy belongs on endpoints; on a Service it made kube-proxy leave that alone until 1.31, and
/// since then it does not.
pub(crate) fn given_away(key: &ObjectKey, service: &Service) -> Option<Route> {
    let (why, rule) = why_given_away(key, service)?;
    Some(match rule {
        citation::PROXY_NAME => Route::Nobody { why, rule },
        _ => Route::NotPromised { why, rule },
    })
}

/// Why the cluster's own proxy leaves a service alone, and where that is written.
pub(crate) fn why_given_away(key: &ObjectKey, service: &Service) -> Option<(String, Citation)> {
    let has = |label: &str| service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(label));
    if has("service.kubernetes.io/service-proxy-name") {
        return Some((format!("`{}` is labelled for another proxy", key.name), citation::PROXY_NAME));
    }
    if has("service.kubernetes.io/headless") {
        return Some((format!("`{}` is labelled as headless", key.name), citation::HEADLESS_LABEL));
    }
    None
}

/// [Session stickiness timeout](https://kubernetes.io/docs/reference/networking/virtual-ips/#session-stickiness-timeout):
/// "the default value is 10800".
pub(crate) fn affinity(service: &Service) -> Option<Affinity> {
    let spec = service.spec.as_ref()?;
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let given = client_ip.and_then(|client_ip| client_ip.timeout_seconds);
    Some(Affinity::ClientIp {
        timeout_seconds: given.and_then(|given| given.try_into().ok()).unwrap_or(10800),
    })
}

fn is_internal_local(scene: &Scene<'_>, service: &Service) -> bool {
    let policy = service.spec.as_ref().and_then(|spec| spec.internal_traffic_policy.as_deref());
    scene.promises.internal_traffic_policy && policy == Some("Local")
}

/// Which source address backends see behind a cluster IP.
///
/// [Using Source IP](https://kubernetes.io/docs/tutorials/services/source-ip/#source-ip-for-services-with-type-clusterip):
/// "Packets sent to ClusterIP from within the cluster are never source NAT'd"; upstream's e2e
/// demands it as "should preserve source pod IP for traffic thru service cluster IP". That is
/// between pods: on the way to a host or a foreign address a network may rewrite it, and of a
/// node's several addresses any may be used.
fn source(scene: &Scene<'_>, usable: &Usable) -> Source {
    let is_pod_network = |pod: &ObjectKey| {
        let spec = scene.world.pods.get(pod).and_then(|pod| pod.spec.as_ref());
        spec.is_some_and(|spec| spec.host_network != Some(true))
    };
    let between_pods =
        usable.backends.iter().all(|backend| backend.pod.as_ref().is_some_and(&is_pod_network));
    match scene.client.pod {
        Some(client) if between_pods => {
            if usable.backends.iter().any(|backend| backend.pod.as_ref() == Some(client)) {
                Source::KeptUnlessItself
            } else {
                Source::Kept
            }
        }
        _ => Source::NotPromised,
    }
}
