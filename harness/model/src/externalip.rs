//! External addresses of services: `externalIPs`, and what a load balancer published.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort};

use crate::citation;
use crate::clusterip::{affinity, find_port, no_endpoints, usable_of_port, why_given_away};
use crate::endpoints::cluster_ips;
use crate::nodeport::{is_external_local, local_from_outside};
use crate::route::{Backend, Route, Scene, Source};
use crate::selector::is_external_name;
use crate::{Citation, ObjectKey};

/// A destination that is an external address and port of a service; nothing if it is none.
///
/// [Service, "External IPs"](https://kubernetes.io/docs/concepts/services-networking/service/#external-ips):
/// traffic "with the external IP (as destination IP) and the port matching that Service" is routed
/// to one of its endpoints, once it has come to a node; how it comes there is "the responsibility
/// of the cluster administrator".
pub(crate) fn route(scene: &Scene<'_>) -> Option<Route> {
    let address = scene.destination.address;
    scene.world.services.iter().filter(|(_, service)| !is_external_name(service)).find_map(
        |(key, service)| {
            let rule = if external_ips(service).any(|ip| ip == address) {
                citation::EXTERNAL_IPS
            } else if load_balancer_ips(service).any(|ip| ip == address) {
                citation::LOAD_BALANCER
            } else {
                return None;
            };
            let port = find_port(scene, service, |port| port.port)?;
            Some(external_ip(scene, key, service, port, rule))
        },
    )
}

fn external_ip(
    scene: &Scene<'_>,
    key: &ObjectKey,
    service: &Service,
    port: &ServicePort,
    rule: Citation,
) -> Route {
    if cluster_ips(service).is_empty() {
        // The page says that they go with any type of service; the proxies of all modes pass over
        // services without a cluster IP.
        let why = format!("`{}` has no cluster IP", key.name);
        return Route::NotPromised { why, rule };
    }
    let all = usable_of_port(scene, key, port, None);
    if let Some((why, rule)) = why_given_away(key, service) {
        // Whose the address is besides, a node's or a load balancer's, the label does not say.
        return match scene.world.node_at(scene.destination.address) {
            Some(_) => Route::NotPromised { why, rule },
            None => Route::AtMost { by: all.backends, why, rule },
        };
    }
    let at = scene.world.node_at(scene.destination.address);
    let outside = scene.client.is_outside();
    if rule == citation::LOAD_BALANCER
        && let Some((why, rule)) = why_not_admitted(key, service, scene.destination.address)
    {
        let mut by = all.backends;
        for node in scene.world.nodes.keys() {
            by.extend(usable_of_port(scene, key, port, Some(node)).backends);
        }
        return if by.is_empty() { nobody(key, rule) } else { Route::AtMost { by, why, rule } };
    }
    // From outside, only an address of a node, or one a load balancer stands for, is known to lead
    // into the cluster.
    let arrives = !outside || at.is_some() || rule == citation::LOAD_BALANCER;
    if !is_external_local(service) {
        return match (all.backends.is_empty(), arrives) {
            (true, _) if outside => nobody(key, rule),
            (true, _) => no_endpoints(scene, key),
            (false, true) => {
                // A balancer may hand each connection to another node, and each node knows its own.
                let affinity = affinity(service).filter(|_| rule != citation::LOAD_BALANCER);
                all.answered(Source::NotPromised, affinity, rule)
            }
            (false, false) => {
                let why = "whether the address is routed to a node is the administrator's part".to_owned();
                Route::AtMost { by: all.backends, why, rule }
            }
        };
    }
    // With policy Local: every node's own endpoints, whichever node it is that gets the traffic.
    let mut by: BTreeSet<Backend> = all.backends;
    for node in scene.world.nodes.keys() {
        by.extend(usable_of_port(scene, key, port, Some(node)).backends);
    }
    if by.is_empty() {
        return nobody(key, rule);
    }
    if let (true, Some(node)) = (outside, at) {
        // The node that gets it is known: "each node will deliver traffic only to the node-local
        // endpoints of the service, without masquerading the client source IP".
        let local = usable_of_port(scene, key, port, Some(node));
        return local_from_outside(key, service, local, node);
    }
    // From inside it "will always get Cluster semantics", but a current proxy mode drops it where
    // the client's node has no endpoint (kubernetes/kubernetes#131765), so nothing is promised there.
    let why = format!("`{}` has external traffic policy Local", key.name);
    Route::AtMost { by, why, rule: citation::EXTERNAL_POLICY_FIELD }
}

/// Why a call to a load balancer's address may come to nothing.
fn why_not_admitted(key: &ObjectKey, service: &Service, address: IpAddr) -> Option<(String, Citation)> {
    if service.metadata.deletion_timestamp.is_some() {
        // The object stays until its provider has cleaned up.
        return Some((format!("`{}` is being deleted", key.name), citation::LOAD_BALANCER));
    }
    // What a client's address is when it arrives is not known here.
    let everybody = if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    let ranges = service.spec.iter().flat_map(|spec| spec.load_balancer_source_ranges.iter().flatten());
    let mut ranges = ranges.map(|range| range.trim()).peekable();
    let admits_all = ranges.peek().is_none() || ranges.any(|range| range == everybody);
    (!admits_all).then(|| (format!("`{}` admits some addresses only", key.name), citation::SOURCE_RANGES))
}

fn nobody(key: &ObjectKey, rule: Citation) -> Route {
    Route::Nobody { why: format!("`{}` has no ready endpoints", key.name), rule }
}

fn external_ips(service: &Service) -> impl Iterator<Item = IpAddr> {
    let ips = service.spec.iter().flat_map(|spec| spec.external_ips.iter().flatten());
    ips.filter_map(|ip| ip.parse().ok())
}

/// The addresses of a load balancer; with `ipMode: Proxy` the balancer itself answers, and nodes
/// leave the address alone (KEP-1860), which is the same set of backends in the end.
fn load_balancer_ips(service: &Service) -> impl Iterator<Item = IpAddr> {
    let is_load_balancer =
        service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer");
    let status = service.status.as_ref().filter(|_| is_load_balancer);
    let ingress = status.and_then(|status| status.load_balancer.as_ref());
    ingress
        .into_iter()
        .flat_map(|balancer| balancer.ingress.iter().flatten())
        .filter_map(|ingress| ingress.ip.as_deref()?.parse().ok())
}
