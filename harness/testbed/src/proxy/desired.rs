//! What a node is to forward, computed from all services and endpoint slices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;

use super::dataplane::{At, Backends, Desired, Endpoint, Frontend, Protocol};
use crate::bugs::{Bug, Bugs};

/// What only bugs remember.
#[derive(Default)]
pub(super) struct Memory {
    /// Every endpoint a service's port was ever seen with; for [`Bug::StaleEndpoint`].
    endpoints: BTreeMap<(String, String), Vec<Candidate>>,
    /// Every frontend a service ever had; for [`Bug::RemovedPortServed`] and [`Bug::NodePortStays`].
    frontends: BTreeMap<String, BTreeMap<Frontend, Backends>>,
    /// The slices there were, and the addresses that are overlooked in those there are; for
    /// [`Bug::SameAddressForgotten`].
    slices: BTreeMap<String, BTreeSet<Ipv4Addr>>,
    overlooked: BTreeSet<(String, Ipv4Addr)>,
}

/// The node a proxy works for, as far as it decides who serves there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) node: String,
    pub(super) zone: Option<String>,
    /// The node's own; for [`Bug::OwnHostEndpointLost`] only.
    pub(super) address: Option<Ipv4Addr>,
}

/// What a node is to forward.
pub(super) fn desired<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    place: &Place,
    bugs: &Bugs,
    memory: &mut Memory,
) -> Desired {
    let mut slices_of: BTreeMap<(String, String), Vec<&EndpointSlice>> = BTreeMap::new();
    let is_ours = |labels| is_ours(labels) || bugs.has(Bug::ProxyNameIgnored);
    let slices: Vec<&EndpointSlice> = slices.into_iter().collect();
    if bugs.has(Bug::SameAddressForgotten) {
        memory.overlook(&slices);
    }
    for slice in slices.into_iter().filter(|slice| slice.address_type == "IPv4" && is_ours(slice.labels())) {
        if let Some(service) = slice.labels().get("kubernetes.io/service-name") {
            let name = (slice.namespace().unwrap_or_default(), service.clone());
            slices_of.entry(name).or_default().push(slice);
        }
    }
    let mut desired = Desired::default();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        if !is_ours(service.labels()) || spec.type_.as_deref() == Some("ExternalName") {
            continue;
        }
        let cluster_ips: Vec<Ipv4Addr> = cluster_ips(spec);
        if cluster_ips.is_empty() {
            continue;
        }
        let name = (service.namespace().unwrap_or_default(), service.name_any());
        let mut slices = slices_of.get(&name).map(Vec::as_slice).unwrap_or_default();
        if bugs.has(Bug::OneSliceOnly) {
            slices = slices.get(..1).unwrap_or(slices);
        }
        let mut had = BTreeMap::new();
        for port in spec.ports.iter().flatten() {
            let Some((protocol, number)) = protocol(port).zip(u16::try_from(port.port).ok()) else {
                continue;
            };
            let mut candidates = candidates(slices, port, &place.node, bugs, memory);
            if bugs.has(Bug::StaleEndpoint) {
                let port_name = port.name.clone().unwrap_or_else(|| number.to_string());
                let uid = service.uid().unwrap_or_default();
                candidates = remembered(memory.endpoints.entry((uid, port_name)).or_default(), candidates);
            }
            if bugs.has(Bug::OwnHostEndpointLost) && protocol == Protocol::Udp {
                candidates.retain(|candidate| Some(candidate.endpoint.ip) != place.address);
            }
            let mut all = chosen_by_hints(&candidates, place);
            if bugs.has(Bug::EndpointNeverChosen) && all.len() > 1 {
                all.pop_last();
            }
            let near = chosen(candidates.iter().filter(|candidate| candidate.local));
            let backends = |policy: Option<&String>| Backends {
                all: all.clone(),
                local: policy.is_some_and(|policy| policy == "Local").then(|| near.clone()),
                affinity: affinity(spec).filter(|_| !bugs.has(Bug::AffinityIgnored)),
                sources: None,
            };
            let policy = spec.internal_traffic_policy.as_ref();
            let internal = backends(policy.filter(|_| !bugs.has(Bug::InternalPolicyIgnored)));
            let policy = spec.external_traffic_policy.as_ref();
            let mut external = backends(policy.filter(|_| !bugs.has(Bug::LocalPolicyIgnored)));
            external.affinity = external.affinity.filter(|_| !bugs.has(Bug::AffinityAtClusterIpOnly));

            for ip in &cluster_ips {
                let frontend = Frontend { at: At::ClusterIp(*ip), protocol, port: number };
                had.insert(frontend, internal.clone());
            }
            let external_ips = spec.external_ips.iter().flatten();
            for ip in addresses(external_ips.filter(|_| !bugs.has(Bug::ExternalIpsIgnored))) {
                let frontend = Frontend { at: At::ExternalIp(ip), protocol, port: number };
                had.insert(frontend, external.clone());
            }
            for ip in balancer_ips(service, spec) {
                let frontend = Frontend { at: At::ExternalIp(ip), protocol, port: number };
                let sources = source_ranges(spec).filter(|_| !bugs.has(Bug::SourceRangesIgnored));
                let backends = Backends { sources, ..external.clone() };
                had.insert(frontend, backends);
            }
            let node_port = port.node_port.filter(|_| has_node_ports(spec));
            let node_port = node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
            if let Some(node_port) = node_port {
                if bugs.has(Bug::NodePortOnlyWherePodRuns) && near.is_empty() {
                    continue;
                }
                let frontend = Frontend { at: At::NodePort, protocol, port: node_port };
                had.insert(frontend, external.clone());
            }
            if bugs.has(Bug::ProtocolsMerged) {
                let first: BTreeSet<_> = had.keys().map(|frontend| (frontend.at, frontend.port)).collect();
                let merged = first.len() < had.len();
                had.retain(|frontend, _| !merged || frontend.protocol == Protocol::Tcp);
            }
        }
        desired.frontends.extend(memory.remembered(&service.uid().unwrap_or_default(), had, bugs));
    }
    desired
}

/// Another proxy was asked for, or none
/// ([well-known labels](https://kubernetes.io/docs/reference/labels-annotations-taints/#servicekubernetesioservice-proxy-name)).
pub(super) fn is_ours(labels: &BTreeMap<String, String>) -> bool {
    !labels.contains_key("service.kubernetes.io/service-proxy-name")
        && !labels.contains_key("service.kubernetes.io/headless")
}

/// None for a headless service, whose cluster IP is the word `None`.
fn cluster_ips(spec: &ServiceSpec) -> Vec<Ipv4Addr> {
    let first = spec.cluster_ip.iter();
    let ips: BTreeSet<Ipv4Addr> =
        first.chain(spec.cluster_ips.iter().flatten()).filter_map(|ip| ip.parse().ok()).collect();
    ips.into_iter().collect()
}

/// Three hours unless said otherwise
/// ([Virtual IPs, "Session stickiness timeout"](https://kubernetes.io/docs/reference/networking/virtual-ips/#session-stickiness-timeout)).
fn affinity(spec: &ServiceSpec) -> Option<u32> {
    const DEFAULT_SECONDS: u32 = 10_800;
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = client_ip.and_then(|client_ip| client_ip.timeout_seconds);
    Some(seconds.and_then(|seconds| seconds.try_into().ok()).unwrap_or(DEFAULT_SECONDS))
}

fn addresses<'a>(given: impl Iterator<Item = &'a String>) -> BTreeSet<Ipv4Addr> {
    given.filter_map(|ip| ip.parse().ok()).collect()
}

/// The addresses at which a load balancer's packets arrive as they were sent. One in mode `Proxy`
/// sends them to node ports in its own name, and is not to be bypassed
/// ([KEP-1860](https://github.com/kubernetes/enhancements/tree/master/keps/sig-network/1860-kube-proxy-IP-node-binding)).
fn balancer_ips(service: &Service, spec: &ServiceSpec) -> BTreeSet<Ipv4Addr> {
    let is_balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let status = service.status.as_ref().filter(|_| is_balanced);
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    let vips = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    addresses(vips.filter_map(|ingress| ingress.ip.as_ref()))
}

/// Who may call the load balancer's address: everybody, if nothing is said. Ranges of another family
/// admit nobody of this one
/// ([API reference, `ServiceSpec.loadBalancerSourceRanges`](https://kubernetes.io/docs/reference/kubernetes-api/service-resources/service-v1/#ServiceSpec)).
fn source_ranges(spec: &ServiceSpec) -> Option<BTreeSet<Ipv4Net>> {
    let ranges = spec.load_balancer_source_ranges.as_ref().filter(|ranges| !ranges.is_empty())?;
    Some(
        ranges.iter().filter_map(|range| range.trim().parse().ok().map(|net: Ipv4Net| net.trunc())).collect(),
    )
}

/// A load balancer is built on node ports, unless it was asked to do without: then its ports name none.
fn has_node_ports(spec: &ServiceSpec) -> bool {
    matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"))
}

fn protocol(port: &ServicePort) -> Option<Protocol> {
    match port.protocol.as_deref() {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        _ => None,
    }
}

/// An endpoint that may be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    endpoint: Endpoint,
    local: bool,
    ready: bool,
    /// It still serves while it shuts down.
    last_resort: bool,
    /// For which zones it is meant; none if it does not say.
    zones: BTreeSet<String>,
    /// For which nodes it is meant; none if it does not say.
    nodes: BTreeSet<String>,
}

/// The endpoints a service's port has in its slices, matched by the port's name.
fn candidates(
    slices: &[&EndpointSlice],
    port: &ServicePort,
    node: &str,
    bugs: &Bugs,
    memory: &Memory,
) -> Vec<Candidate> {
    let mut found = Vec::new();
    let mut homes: BTreeMap<Ipv4Addr, String> = BTreeMap::new();
    for slice in slices {
        for ip in addresses_in(slice) {
            homes.entry(ip).or_insert_with(|| slice.name_any());
        }
        let same = slice.ports.iter().flatten().find(|other| {
            other.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
                && other.protocol.as_deref().unwrap_or("TCP") == port.protocol.as_deref().unwrap_or("TCP")
        });
        let Some(number) = same.and_then(|same| same.port).and_then(|number| u16::try_from(number).ok())
        else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let ready = is_ready(endpoint);
            let hints = endpoint.hints.clone().unwrap_or_default();
            let serving = conditions.serving.unwrap_or(ready);
            // "endpoints are fungible": the first address is the endpoint.
            let Some(ip) = endpoint.addresses.first().and_then(|ip| ip.parse().ok()) else { continue };
            let is_at_home = homes.get(&ip) == Some(&slice.name_any());
            if (bugs.has(Bug::AddressOfOneSlice) && !is_at_home) || memory.overlooks(slice, ip) {
                continue;
            }
            let ending = serving && conditions.terminating.unwrap_or(false);
            found.push(Candidate {
                endpoint: Endpoint { ip, port: number },
                local: endpoint.node_name.as_deref() == Some(node),
                ready: ready || (ending && bugs.has(Bug::TerminatingStillServed)),
                last_resort: ending && !bugs.has(Bug::TerminatingNeverServes),
                zones: hints.for_zones.into_iter().flatten().map(|zone| zone.name).collect(),
                nodes: hints.for_nodes.into_iter().flatten().map(|node| node.name).collect(),
            });
        }
    }
    found
}

/// Not knowing counts as ready
/// ([EndpointSlices, "Conditions"](https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#conditions)).
pub(super) fn is_ready(endpoint: &k8s_openapi::api::discovery::v1::Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

/// Those meant for this node, or else for its zone, if every ready endpoint says for whom it is meant
/// and one of them is; otherwise anyone
/// ([Topology Aware Routing, "Safeguards"](https://kubernetes.io/docs/concepts/services-networking/topology-aware-routing/#safeguards),
/// [KEP-3015](https://github.com/kubernetes/enhancements/tree/master/keps/sig-network/3015-prefer-same-node)).
fn chosen_by_hints(candidates: &[Candidate], place: &Place) -> BTreeSet<Endpoint> {
    let ready = || candidates.iter().filter(|candidate| candidate.ready);
    let for_node = |candidate: &&Candidate| candidate.nodes.contains(&place.node);
    let for_zone =
        |candidate: &&Candidate| place.zone.as_ref().is_some_and(|zone| candidate.zones.contains(zone));
    let endpoints = |near: Vec<&Candidate>| near.into_iter().map(|near| near.endpoint).collect();
    if ready().all(|candidate| !candidate.nodes.is_empty()) && ready().any(|one| for_node(&one)) {
        return endpoints(ready().filter(for_node).collect());
    }
    if ready().all(|candidate| !candidate.zones.is_empty()) && ready().any(|one| for_zone(&one)) {
        return endpoints(ready().filter(for_zone).collect());
    }
    chosen(candidates.iter())
}

/// Ready ones; if there are none, those that still serve while they terminate
/// ([Virtual IPs, "Traffic to terminating endpoints"](https://kubernetes.io/docs/reference/networking/virtual-ips/#traffic-to-terminating-endpoints)).
fn chosen<'a>(candidates: impl Iterator<Item = &'a Candidate> + Clone) -> BTreeSet<Endpoint> {
    let ready: BTreeSet<Endpoint> =
        candidates.clone().filter(|candidate| candidate.ready).map(|candidate| candidate.endpoint).collect();
    if ready.is_empty() {
        return candidates.filter(|candidate| candidate.last_resort).map(|it| it.endpoint).collect();
    }
    ready
}

/// Every address of a slice.
fn addresses_in(slice: &EndpointSlice) -> BTreeSet<Ipv4Addr> {
    let endpoints = slice.endpoints.iter().flatten();
    endpoints.filter_map(|endpoint| endpoint.addresses.first()?.parse().ok()).collect()
}

impl Memory {
    /// What the bugs make of the frontends a service has now.
    fn remembered(
        &mut self,
        service: &str,
        mut now: BTreeMap<Frontend, Backends>,
        bugs: &Bugs,
    ) -> BTreeMap<Frontend, Backends> {
        let stays = |at: At| match at {
            At::ClusterIp(_) | At::ExternalIp(_) => bugs.has(Bug::RemovedPortServed),
            At::NodePort => bugs.has(Bug::NodePortStays),
        };
        let had = self.frontends.entry(service.to_owned()).or_default();
        had.extend(now.clone().into_iter().filter(|(frontend, _)| stays(frontend.at)));
        for (frontend, backends) in had.iter() {
            now.entry(*frontend).or_insert_with(|| backends.clone());
        }
        now
    }

    /// An address that leaves with a slice is overlooked in all slices there are by then.
    fn overlook(&mut self, slices: &[&EndpointSlice]) {
        let now: BTreeMap<String, BTreeSet<Ipv4Addr>> =
            slices.iter().map(|slice| (slice.uid().unwrap_or_default(), addresses_in(slice))).collect();
        let nobody = BTreeSet::new();
        for (uid, before) in &self.slices {
            for left in before.difference(now.get(uid).unwrap_or(&nobody)) {
                let others = now.iter().filter(|(_, addresses)| addresses.contains(left));
                self.overlooked.extend(others.map(|(other, _)| (other.clone(), *left)));
            }
        }
        self.slices = now;
    }

    fn overlooks(&self, slice: &EndpointSlice, ip: Ipv4Addr) -> bool {
        self.overlooked.contains(&(slice.uid().unwrap_or_default(), ip))
    }
}

/// Once ready, always ready.
fn remembered(memory: &mut Vec<Candidate>, now: Vec<Candidate>) -> Vec<Candidate> {
    for candidate in now.into_iter().filter(|candidate| candidate.ready) {
        if !memory.contains(&candidate) {
            memory.push(candidate);
        }
    }
    memory.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "1"},
            "spec": spec,
        }))
        .expect("a service")
    }

    fn web() -> Service {
        let port = json!({"port": 80, "targetPort": 8000, "nodePort": 31234, "protocol": "TCP"});
        service(
            json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "type": "NodePort", "ports": [port]}),
        )
    }

    /// Each endpoint is its last octet, its node and its conditions.
    fn slice(endpoints: &[(u8, &str, Value)]) -> EndpointSlice {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(last, node, conditions)| {
                json!({"addresses": [format!("10.244.0.{last}")], "nodeName": node, "conditions": conditions})
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": {
                "name": "web-x", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4",
            "ports": [{"port": 8000, "protocol": "TCP"}],
            "endpoints": endpoints,
        }))
        .expect("an endpoint slice")
    }

    fn at(node: &str) -> Place {
        Place { node: node.to_owned(), zone: Some("a".to_owned()), address: None }
    }

    fn local_octets(desired: &Desired, at: At) -> Option<Vec<u8>> {
        let (_, backends) = desired.frontends.iter().find(|(frontend, _)| frontend.at == at)?;
        Some(backends.local.as_ref()?.iter().map(|endpoint| endpoint.ip.octets()[3]).collect())
    }

    fn with(mut service: Service, spec: Value) -> Service {
        let mut value = serde_json::to_value(&service.spec).expect("a spec");
        for (field, set) in spec.as_object().expect("an object") {
            value[field] = set.clone();
        }
        service.spec = serde_json::from_value(value).expect("a spec");
        service
    }

    fn ending() -> Value {
        json!({"ready": false, "serving": true, "terminating": true})
    }

    fn desired_on_kube0(service: &Service, slices: &[EndpointSlice]) -> Desired {
        desired([service], slices, &at("kube0.vm"), &Bugs::default(), &mut Memory::default())
    }

    fn last_octets(desired: &Desired, at: At) -> Option<Vec<u8>> {
        let (_, backends) = desired.frontends.iter().find(|(frontend, _)| frontend.at == at)?;
        Some(backends.all.iter().map(|endpoint| endpoint.ip.octets()[3]).collect())
    }

    fn ready() -> Value {
        json!({"ready": true, "serving": true, "terminating": false})
    }

    fn unready() -> Value {
        json!({"ready": false, "serving": false, "terminating": false})
    }

    #[test]
    fn ready_endpoints_are_served_at_cluster_ip_and_node_port() {
        let slices =
            [slice(&[(2, "kube0.vm", ready()), (3, "kube1.vm", unready()), (4, "kube2.vm", json!({}))])];
        let desired = desired_on_kube0(&web(), &slices);
        assert_eq!(last_octets(&desired, At::ClusterIp(CLUSTER_IP)), Some(vec![2, 4]));
        assert_eq!(last_octets(&desired, At::NodePort), Some(vec![2, 4]));
        let frontends: Vec<(At, u16)> = desired.frontends.keys().map(|it| (it.at, it.port)).collect();
        assert_eq!(frontends, [(At::ClusterIp(CLUSTER_IP), 80), (At::NodePort, 31234)]);
    }

    #[test]
    fn terminating_endpoints_are_the_last_resort() {
        let ending = json!({"ready": false, "serving": true, "terminating": true});
        let dead = json!({"ready": false, "serving": false, "terminating": true});
        let both = [slice(&[(2, "kube0.vm", ready()), (3, "kube0.vm", ending.clone())])];
        assert_eq!(last_octets(&desired_on_kube0(&web(), &both), At::NodePort), Some(vec![2]));
        let none_ready =
            [slice(&[(2, "kube0.vm", unready()), (3, "kube0.vm", ending), (4, "kube0.vm", dead)])];
        assert_eq!(last_octets(&desired_on_kube0(&web(), &none_ready), At::NodePort), Some(vec![3]));
    }

    #[test]
    fn a_service_without_slices_is_known_but_has_nobody() {
        assert_eq!(last_octets(&desired_on_kube0(&web(), &[]), At::ClusterIp(CLUSTER_IP)), Some(vec![]));
    }

    #[test]
    fn headless_external_and_foreign_services_are_left_alone() {
        let headless = service(json!({"clusterIP": "None", "ports": [{"port": 80}]}));
        let external = service(json!({"type": "ExternalName", "externalName": "www.baidu.com"}));
        let mut foreign = web();
        foreign.labels_mut().insert("service.kubernetes.io/service-proxy-name".to_owned(), "mine".to_owned());
        for service in [headless, external, foreign] {
            let slices = [slice(&[(2, "kube0.vm", ready())])];
            assert_eq!(desired_on_kube0(&service, &slices), Desired::default(), "{service:?}");
        }
    }

    #[test]
    fn slices_are_matched_by_port_name_and_namespace() {
        let named = service(json!({"clusterIP": "10.96.0.10", "ports": [{"name": "http", "port": 80}]}));
        let mut slices = [slice(&[(2, "kube0.vm", ready())])];
        assert_eq!(last_octets(&desired_on_kube0(&named, &slices), At::ClusterIp(CLUSTER_IP)), Some(vec![]));
        if let Some(port) = slices[0].ports.iter_mut().flatten().next() {
            port.name = Some("http".to_owned());
        }
        assert_eq!(last_octets(&desired_on_kube0(&named, &slices), At::ClusterIp(CLUSTER_IP)), Some(vec![2]));
        slices[0].metadata.namespace = Some("other".to_owned());
        assert_eq!(last_octets(&desired_on_kube0(&named, &slices), At::ClusterIp(CLUSTER_IP)), Some(vec![]));
    }

    #[test]
    fn traffic_policies_name_the_endpoints_of_this_node() {
        let slices = [slice(&[(2, "kube0.vm", ready()), (3, "kube1.vm", ready())])];
        let cluster_ip = At::ClusterIp(CLUSTER_IP);
        let external = with(web(), json!({"externalTrafficPolicy": "Local"}));
        let desired = desired_on_kube0(&external, &slices);
        assert_eq!(local_octets(&desired, At::NodePort), Some(vec![2]));
        assert_eq!(local_octets(&desired, cluster_ip), None, "the cluster IP is internal");
        let internal = with(web(), json!({"internalTrafficPolicy": "Local"}));
        let desired = desired_on_kube0(&internal, &slices);
        assert_eq!(local_octets(&desired, At::NodePort), None, "the node port is external");
        assert_eq!(local_octets(&desired, cluster_ip), Some(vec![2]));
    }

    #[test]
    fn within_policy_local_terminating_endpoints_are_the_last_resort_too() {
        let service = with(web(), json!({"externalTrafficPolicy": "Local"}));
        let far = (3, "kube1.vm", ready());
        let slices = [slice(&[(2, "kube0.vm", ending()), (4, "kube0.vm", unready()), far.clone()])];
        let desired = desired_on_kube0(&service, &slices);
        assert_eq!(local_octets(&desired, At::NodePort), Some(vec![2]));
        assert_eq!(last_octets(&desired, At::NodePort), Some(vec![3]), "others are ready elsewhere");
        let slices = [slice(&[(2, "kube0.vm", ending()), (5, "kube0.vm", ready()), far])];
        assert_eq!(local_octets(&desired_on_kube0(&service, &slices), At::NodePort), Some(vec![5]));
    }

    #[test]
    fn the_policy_bug_takes_local_for_cluster() {
        let bugs: Bugs = [Bug::LocalPolicyIgnored].into_iter().collect();
        let service = with(web(), json!({"externalTrafficPolicy": "Local"}));
        let desired = desired([&service], &[], &at("kube0.vm"), &bugs, &mut Memory::default());
        assert_eq!(local_octets(&desired, At::NodePort), None);
    }

    #[test]
    fn external_addresses_are_served_but_not_in_mode_proxy() {
        let mut service = with(
            web(),
            json!({"type": "LoadBalancer", "externalIPs": ["192.0.2.1", "2001:db8::1"],
                "loadBalancerSourceRanges": ["10.1.2.3/16", " 192.0.2.0/24"]}),
        );
        let status = json!({"loadBalancer": {"ingress": [
            {"ip": "192.0.2.2"}, {"ip": "192.0.2.3", "ipMode": "VIP"}, {"ip": "192.0.2.4", "ipMode": "Proxy"},
            {"hostname": "balancer.example.com"}]}});
        service.status = serde_json::from_value(status).expect("a status");
        let slices = [slice(&[(2, "kube1.vm", ready())])];
        let desired = desired_on_kube0(&service, &slices);
        let external = |last| At::ExternalIp(Ipv4Addr::new(192, 0, 2, last));
        for (last, served) in [(1, true), (2, true), (3, true), (4, false)] {
            assert_eq!(last_octets(&desired, external(last)).is_some(), served, "192.0.2.{last}");
        }
        let sources = |at| {
            let (_, backends) = desired.frontends.iter().find(|(frontend, _)| frontend.at == at)?;
            Some(backends.sources.as_ref()?.iter().map(Ipv4Net::to_string).collect::<Vec<_>>())
        };
        assert_eq!(sources(external(2)), Some(vec!["10.1.0.0/16".to_owned(), "192.0.2.0/24".to_owned()]));
        for unrestricted in [external(1), At::NodePort, At::ClusterIp(CLUSTER_IP)] {
            assert_eq!(sources(unrestricted), None, "{unrestricted:?}");
        }
        // What is left of a balancer when the type changed.
        let other = with(service, json!({"type": "ClusterIP"}));
        let desired = desired_on_kube0(&other, &slices);
        assert_eq!(last_octets(&desired, external(2)), None);
        assert_eq!(last_octets(&desired, At::NodePort), None);
        assert_eq!(last_octets(&desired, external(1)), Some(vec![2]));
    }

    #[test]
    fn a_balancer_may_do_without_node_ports() {
        let service = with(
            web(),
            json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]}),
        );
        assert_eq!(last_octets(&desired_on_kube0(&service, &[]), At::NodePort), None);
    }

    #[test]
    fn hints_are_heeded_if_all_have_them_and_one_is_for_here() {
        let hinted = |zones: &[Option<&str>], nodes: &[Option<&str>]| {
            let mut slices =
                [slice(&[(2, "kube0.vm", ready()), (3, "kube1.vm", ready()), (4, "x", unready())])];
            let endpoints = slices[0].endpoints.iter_mut().flatten();
            for ((endpoint, zone), node) in endpoints.zip(zones).zip(nodes) {
                let named =
                    |name: &Option<&str>| name.map(|name| vec![json!({"name": name})]).unwrap_or_default();
                let hints = json!({"forZones": named(zone), "forNodes": named(node)});
                endpoint.hints = serde_json::from_value(hints).expect("hints");
            }
            last_octets(&desired_on_kube0(&web(), &slices), At::ClusterIp(CLUSTER_IP)).unwrap_or_default()
        };
        let none = [None, None];
        assert_eq!(hinted(&[Some("b"), Some("a")], &none), [3]);
        assert_eq!(hinted(&[Some("b"), None], &none), [2, 3], "one has no hint");
        assert_eq!(hinted(&[Some("b"), Some("c")], &none), [2, 3], "none is for here");
        assert_eq!(hinted(&[Some("b"), Some("a")], &[Some("kube0.vm"), Some("kube1.vm")]), [2]);
        assert_eq!(hinted(&[Some("b"), Some("a")], &[Some("kube7.vm"), Some("kube1.vm")]), [3]);
        assert_eq!(hinted(&[Some("b"), Some("a")], &[Some("kube0.vm"), None]), [3]);
    }

    #[test]
    fn one_number_may_be_two_ports_and_a_port_name_many_numbers() {
        let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}]);
        let service = service(json!({"clusterIP": "10.96.0.10", "ports": ports}));
        let of_group = |last, number| {
            let mut slice = slice(&[(last, "kube0.vm", ready())]);
            let ports = json!([{"name": "dns", "port": number, "protocol": "UDP"},
                {"name": "dns-tcp", "port": number + 1, "protocol": "TCP"}]);
            slice.ports = serde_json::from_value(ports).expect("ports");
            slice
        };
        let desired = desired_on_kube0(&service, &[of_group(2, 1053), of_group(3, 2053)]);
        let numbers: Vec<(Protocol, Vec<u16>)> = desired
            .frontends
            .iter()
            .map(|(frontend, backends)| {
                (frontend.protocol, backends.all.iter().map(|endpoint| endpoint.port).collect())
            })
            .collect();
        assert_eq!(numbers, [(Protocol::Tcp, vec![1054, 2054]), (Protocol::Udp, vec![1053, 2053])]);
    }

    #[test]
    fn affinity_lasts_three_hours_unless_said_otherwise() {
        let affinity_of = |spec| {
            let desired = desired_on_kube0(&service(spec), &[]);
            desired.frontends.into_values().next().and_then(|backends| backends.affinity)
        };
        let ports = json!([{"port": 80}]);
        assert_eq!(affinity_of(json!({"clusterIP": "10.96.0.10", "ports": ports})), None);
        let sticky = json!({"clusterIP": "10.96.0.10", "ports": ports, "sessionAffinity": "ClientIP"});
        assert_eq!(affinity_of(sticky.clone()), Some(10_800));
        let mut short = sticky;
        short["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 7}});
        assert_eq!(affinity_of(short), Some(7));
    }

    #[test]
    fn the_stale_endpoint_bug_keeps_what_was_ready_once() {
        let bugs: Bugs = [Bug::StaleEndpoint].into_iter().collect();
        let mut memory = Memory::default();
        let mut served = |conditions: [Value; 2]| {
            let [second, third] = conditions;
            let slices = [slice(&[(2, "kube0.vm", second), (3, "kube1.vm", third)])];
            last_octets(&desired([&web()], &slices, &at("kube0.vm"), &bugs, &mut memory), At::NodePort)
        };
        assert_eq!(served([ready(), unready()]), Some(vec![2]));
        assert_eq!(served([unready(), ready()]), Some(vec![2, 3]));
        assert_eq!(served([unready(), unready()]), Some(vec![2, 3]));
    }

    #[test]
    fn the_node_port_bug_closes_it_where_no_pod_runs() {
        let bugs: Bugs = [Bug::NodePortOnlyWherePodRuns].into_iter().collect();
        let slices = [slice(&[(2, "kube1.vm", ready())])];
        let on = |node| desired([&web()], &slices, &at(node), &bugs, &mut Memory::default());
        assert_eq!(last_octets(&on("kube1.vm"), At::NodePort), Some(vec![2]));
        assert_eq!(last_octets(&on("kube0.vm"), At::NodePort), None);
        assert_eq!(last_octets(&on("kube0.vm"), At::ClusterIp(CLUSTER_IP)), Some(vec![2]));
    }
}
