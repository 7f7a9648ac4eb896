//! Where services are: every address and port one has, and the pods behind them that calls can start from.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use stickler_model::{Destination, ObjectKey, Protocol, World};

use crate::destination::{balancer_addresses, nodes};
use crate::vantage::Vantage;

/// An address of a service.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) label: String,
    pub(crate) at: At,
    pub(crate) service: ObjectKey,
}

/// Where a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum At {
    ClusterIp,
    ExternalIp,
    LoadBalancer,
    /// The port of a node, which is the so manyth of all.
    Node(usize),
}

/// Every address of a service, each with every port that leads to it there.
pub(crate) fn addresses(world: &World, key: &ObjectKey, service: &Service) -> Vec<(Destination, Known)> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let mut all = Vec::new();
    let mut known = |ip: IpAddr, number: u16, protocol: Protocol, label: String, at: At| {
        let known = Known { label, at, service: key.clone() };
        all.push((Destination::new(ip, number, protocol), known));
    };
    let cluster_ip: Option<IpAddr> = spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok());
    let external = spec.external_ips.iter().flatten().filter_map(|ip| ip.parse().ok());
    let external = external.map(|ip| (ip, At::ExternalIp, "the external IP"));
    let balanced = balancer_addresses(service).into_iter();
    let balanced = balanced.map(|ip| (ip, At::LoadBalancer, "the load balancer"));
    let others: Vec<(IpAddr, At, &str)> = external.chain(balanced).collect();
    for port in spec.ports.iter().flatten() {
        let protocol = protocol(port);
        if let Some(number) = number(Some(port.port)) {
            if let Some(ip) = cluster_ip {
                known(ip, number, protocol, format!("`{}`", key.name), At::ClusterIp);
            }
            for (ip, at, what) in &others {
                known(*ip, number, protocol, format!("{what} of `{}`", key.name), *at);
            }
        }
        let Some(number) = number(port.node_port) else { continue };
        for (index, (node, ip)) in nodes(world).enumerate() {
            known(ip, number, protocol, format!("`{}` at {node}", key.name), At::Node(index));
        }
    }
    all
}

/// A service's health check port at every node, with the words for it.
pub(crate) fn health_checks(world: &World, key: &ObjectKey, service: &Service) -> Vec<(SocketAddr, String)> {
    let port = service.spec.as_ref().and_then(|spec| number(spec.health_check_node_port));
    let Some(port) = port.filter(|port| *port != 0) else { return Vec::new() };
    let label = |(node, ip): (&str, IpAddr)| {
        (SocketAddr::new(ip, port), format!("the health check port of `{}` at {node}", key.name))
    };
    nodes(world).map(label).collect()
}

/// The service that cluster DNS usually is.
pub(crate) fn cluster_dns() -> ObjectKey {
    ObjectKey::new("kube-system", "kube-dns")
}

/// A pod of each workload that calls can start from: it runs, and is not on its way out. Pods that no
/// label `app` puts together each stand for themselves.
pub(crate) fn hairpins(world: &World, namespace: &str, out_of_reach: Option<&str>) -> Vec<Vantage> {
    let mut by_workload: BTreeMap<&str, &ObjectKey> = BTreeMap::new();
    for (key, pod) in world.pods.iter().filter(|(key, _)| key.namespace == namespace) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let app = pod.metadata.labels.as_ref().and_then(|labels| labels.get("app"));
        let goes = pod.metadata.deletion_timestamp.is_some();
        if let (Some(node), false) = (node, goes)
            && Some(node) != out_of_reach
            && runs_an_agent(pod)
            && crate::wait::pod_ready(pod).is_ok()
        {
            by_workload.entry(app.unwrap_or(&key.name)).or_insert(key);
        }
    }
    by_workload.into_values().cloned().map(Vantage::Backend).collect()
}

fn runs_an_agent(pod: &Pod) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers
        .filter_map(|container| container.command.as_ref())
        .any(|command| command[..].first().is_some_and(|program| program == "agent"))
}

pub(crate) fn protocol(port: &ServicePort) -> Protocol {
    port.protocol.as_deref().and_then(|name| name.parse().ok()).unwrap_or(Protocol::Tcp)
}

fn number(port: Option<i32>) -> Option<u16> {
    port.and_then(|port| u16::try_from(port).ok())
}
