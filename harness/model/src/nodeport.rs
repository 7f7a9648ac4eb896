//! Node ports: a service on the addresses of every node, and what else answers there.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Service, ServicePort};

use crate::citation;
use crate::clusterip::{affinity, find_port, given_away, no_endpoints, usable_of_port};
use crate::endpoints::{finished_phase, pod_addresses};
use crate::ports;
use crate::route::{Backend, Route, Scene, Source, Usable};
use crate::{Conditions, Endpoint, ObjectKey};

/// A destination that is a node's address; nothing if it is none.
///
/// [Service, "type: NodePort"](https://kubernetes.io/docs/concepts/services-networking/service/#type-nodeport):
/// "Each node proxies that port (the same port number on every Node) into your Service", whatever
/// runs on the node. Promised at the internal and external IPs of the node's status.
pub(crate) fn route(scene: &Scene<'_>) -> Option<Route> {
    let node = scene.world.node_at(scene.destination.address)?;
    let of_service = scene.world.services.iter().filter(|(_, service)| has_node_ports(service)).find_map(
        |(key, service)| {
            let port = find_port(scene, service, |port| port.node_port.unwrap_or_default())?;
            Some(given_away(key, service).unwrap_or_else(|| node_port(scene, key, service, port, node)))
        },
    );
    Some(of_service.unwrap_or_else(|| own_listener(scene, node)))
}

/// A node port, by the service's external traffic policy.
fn node_port(scene: &Scene<'_>, key: &ObjectKey, service: &Service, port: &ServicePort, node: &str) -> Route {
    let all = usable_of_port(scene, key, port, None);
    if !is_external_local(service) {
        if all.backends.is_empty() {
            return no_endpoints(scene, key);
        }
        // By default the source is rewritten to the node's, but a network that returns answers
        // directly may keep it.
        return all.answered(Source::NotPromised, affinity(service), citation::NODE_PORT);
    }
    let local = usable_of_port(scene, key, port, Some(node));
    if all.backends.is_empty() && local.backends.is_empty() {
        // With no endpoint anywhere, proxies refuse; the documentation says dropped.
        return Route::Nobody {
            why: format!("`{}` has no ready endpoints", key.name),
            rule: citation::EXTERNAL_POLICY,
        };
    }
    if scene.client.is_outside() {
        local_from_outside(key, service, local, node)
    } else {
        local_from_inside(scene, key, service, all, local, node)
    }
}

/// "`Local` to only route to ready node-local endpoints"; "preserves the original source IP
/// address. If there are no local endpoints, packets sent to the node are dropped".
pub(crate) fn local_from_outside(key: &ObjectKey, service: &Service, local: Usable, node: &str) -> Route {
    if local.backends.is_empty() {
        return Route::Dropped {
            why: format!(
                "`{}` has external traffic policy Local and no ready endpoint on node `{node}`",
                key.name
            ),
            rule: citation::EXTERNAL_POLICY,
        };
    }
    local.answered(Source::Kept, affinity(service), citation::SOURCE_NODE_PORT)
}

/// Clients within the cluster "may need to take traffic policy into account when picking a node":
/// a node with endpoints of its own answers, from those or (where the proxy takes the client for
/// internal traffic) from all; of a node without any nothing is promised but that nobody else does.
///
/// Nor is it to a pod elsewhere, unless all endpoints are on that node. kube-proxy in iptables mode sends
/// what comes from pods to any endpoint, and leaves the source as it is: that of another node answers the
/// pod directly, from an address it did not call. Seen with 1.20.2 and with 1.36.2, where the pod network
/// keeps the source of what goes to nodes.
fn local_from_inside(
    scene: &Scene<'_>,
    key: &ObjectKey,
    service: &Service,
    all: Usable,
    local: Usable,
    node: &str,
) -> Route {
    let by: BTreeSet<Backend> = all.backends.union(&local.backends).cloned().collect();
    let elsewhere = scene.client.pod.is_some() && scene.client.node != Some(node);
    if elsewhere && !all.backends.is_subset(&local.backends) && !local.backends.is_empty() {
        return Route::AtMost {
            by,
            why: format!(
                "`{}` has external traffic policy Local and endpoints beside those on node `{node}`, and what \
                 pods of other nodes send there may be answered by them directly",
                key.name
            ),
            rule: citation::EXTERNAL_POLICY_FIELD,
        };
    }
    if local.backends.is_empty() {
        return Route::AtMost {
            by,
            why: format!(
                "`{}` has external traffic policy Local and no ready endpoint on node `{node}`, \
                 and clients in the cluster may count as internal traffic",
                key.name
            ),
            rule: citation::EXTERNAL_POLICY_FIELD,
        };
    }
    let why = format!("ready endpoints of `{}`", key.name);
    Usable { backends: by, why, rule: None, doubt: all.doubt.or(local.doubt) }.answered(
        Source::NotPromised,
        affinity(service),
        citation::EXTERNAL_POLICY_FIELD,
    )
}

/// What is no node port: a pod in the host network, or a program of the node itself.
fn own_listener(scene: &Scene<'_>, node: &str) -> Route {
    let destination = scene.destination;
    let port = destination.port;
    let by = host_network_pods(scene, node);
    if !by.is_empty() {
        // Whether it listens, and a firewall lets others than the node itself in, is open.
        return Route::AtMost {
            by,
            why: format!(
                "a pod in the host network of node `{node}` names port {port}/{}",
                destination.protocol
            ),
            rule: citation::NETWORK_MODEL,
        };
    }
    let health_check = scene.world.services.values().any(|service| {
        let spec = service.spec.as_ref();
        spec.and_then(|spec| spec.health_check_node_port) == Some(i32::from(port))
    });
    if scene.promises.node_port_range.contains(&port) && !health_check {
        // The range is the API server's to give out; what nobody has, no proxy forwards.
        return Route::Nobody {
            why: format!("no service has the node port {port}/{}", destination.protocol),
            rule: citation::NODE_PORT,
        };
    }
    let why = format!("port {port}/{} of node `{node}` is for the node's own programs", destination.protocol);
    Route::NotPromised { why, rule: citation::NODE_PORT }
}

fn host_network_pods(scene: &Scene<'_>, node: &str) -> BTreeSet<Backend> {
    let destination = scene.destination;
    let pods = scene.world.pods.iter().filter(|(_, pod)| {
        let spec = pod.spec.as_ref();
        spec.is_some_and(|spec| spec.host_network == Some(true) && spec.node_name.as_deref() == Some(node))
            && finished_phase(pod).is_none()
            && pod_addresses(pod).contains(&destination.address)
            && ports::declares(pod, destination.port, destination.protocol)
    });
    pods.filter_map(|(key, _)| {
        let conditions = Conditions { ready: true, serving: true, terminating: false };
        let (address, port) = (destination.address, Some(destination.port));
        let endpoint =
            Endpoint { address, port, pod: Some(key.clone()), node: Some(node.to_owned()), conditions };
        Backend::of(scene.world, &endpoint)
    })
    .collect()
}

/// A load balancer is built on node ports, so it has them too (unless
/// `allocateLoadBalancerNodePorts` is off: then the ports name none).
fn has_node_ports(service: &Service) -> bool {
    let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    matches!(kind, Some("NodePort" | "LoadBalancer"))
}

pub(crate) fn is_external_local(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.external_traffic_policy.as_deref()) == Some("Local")
}
