//! What a node is to forward, computed from all services and endpoint slices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;

use super::dataplane::{At, Backends, Desired, Endpoint, Frontend, Protocol};
use crate::bugs::{Bug, Bugs};

/// Every endpoint a service's port was ever seen with; kept for [`Bug::StaleEndpoint`] only.
pub(super) type Memory = BTreeMap<(String, String), Vec<Candidate>>;

/// What `node` is to forward.
pub(super) fn desired<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node: &str,
    bugs: &Bugs,
    memory: &mut Memory,
) -> Desired {
    let mut slices_of: BTreeMap<(String, String), Vec<&EndpointSlice>> = BTreeMap::new();
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
        let slices = slices_of.get(&name).map(Vec::as_slice).unwrap_or_default();
        for port in spec.ports.iter().flatten() {
            let Some((protocol, number)) = protocol(port).zip(u16::try_from(port.port).ok()) else {
                continue;
            };
            let mut candidates = candidates(slices, port, node);
            if bugs.has(Bug::StaleEndpoint) {
                let port_name = port.name.clone().unwrap_or_else(|| number.to_string());
                let uid = service.uid().unwrap_or_default();
                candidates = remembered(memory.entry((uid, port_name)).or_default(), candidates);
            }
            let all = chosen(candidates.iter());
            let near = chosen(candidates.iter().filter(|candidate| candidate.local));
            let backends = |keep: bool| Backends {
                all: all.clone(),
                local: keep.then(|| near.clone()),
                affinity: affinity(spec).filter(|_| !bugs.has(Bug::AffinityIgnored)),
            };
            let internal = backends(spec.internal_traffic_policy.as_deref() == Some("Local"));
            let external = backends(spec.external_traffic_policy.as_deref() == Some("Local"));

            for ip in &cluster_ips {
                let frontend = Frontend { at: At::ClusterIp(*ip), protocol, port: number };
                desired.frontends.insert(frontend, internal.clone());
            }
            for ip in external_ips(service, spec) {
                let frontend = Frontend { at: At::ExternalIp(ip), protocol, port: number };
                desired.frontends.insert(frontend, external.clone());
            }
            let node_port =
                port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
            if let Some(node_port) = node_port {
                if bugs.has(Bug::NodePortOnlyWherePodRuns) && near.is_empty() {
                    continue;
                }
                let frontend = Frontend { at: At::NodePort, protocol, port: node_port };
                desired.frontends.insert(frontend, external.clone());
            }
        }
    }
    desired
}

/// Another proxy was asked for, or none
/// ([well-known labels](https://kubernetes.io/docs/reference/labels-annotations-taints/#servicekubernetesioservice-proxy-name)).
fn is_ours(labels: &BTreeMap<String, String>) -> bool {
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

fn external_ips(service: &Service, spec: &ServiceSpec) -> BTreeSet<Ipv4Addr> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    // A balancer in mode `Proxy` is not to be bypassed (KEP-1860).
    let vips = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    let given = spec.external_ips.iter().flatten();
    given.chain(vips.filter_map(|ingress| ingress.ip.as_ref())).filter_map(|ip| ip.parse().ok()).collect()
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
}

/// The endpoints a service's port has in its slices, matched by the port's name.
fn candidates(slices: &[&EndpointSlice], port: &ServicePort, node: &str) -> Vec<Candidate> {
    let mut found = Vec::new();
    for slice in slices {
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
            let ready = conditions.ready.unwrap_or(true);
            let serving = conditions.serving.unwrap_or(ready);
            // "endpoints are fungible": the first address is the endpoint.
            let Some(ip) = endpoint.addresses.first().and_then(|ip| ip.parse().ok()) else { continue };
            found.push(Candidate {
                endpoint: Endpoint { ip, port: number },
                local: endpoint.node_name.as_deref() == Some(node),
                ready,
                last_resort: serving && conditions.terminating.unwrap_or(false),
            });
        }
    }
    found
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
        service(json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "ports": [port]}))
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

    fn desired_on_kube0(service: &Service, slices: &[EndpointSlice]) -> Desired {
        desired([service], slices, "kube0.vm", &Bugs::default(), &mut Memory::new())
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
        let mut service = web();
        if let Some(spec) = &mut service.spec {
            spec.external_traffic_policy = Some("Local".to_owned());
        }
        let slices = [slice(&[(2, "kube0.vm", ready()), (3, "kube1.vm", ready())])];
        let desired = desired_on_kube0(&service, &slices);
        let local = |at| {
            let (_, backends) = desired.frontends.iter().find(|(frontend, _)| frontend.at == at)?;
            let local = backends.local.as_ref()?;
            Some(local.iter().map(|endpoint| endpoint.ip.octets()[3]).collect::<Vec<u8>>())
        };
        assert_eq!(local(At::NodePort), Some(vec![2]));
        assert_eq!(local(At::ClusterIp(CLUSTER_IP)), None);
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
        let mut memory = Memory::new();
        let mut served = |conditions: [Value; 2]| {
            let [second, third] = conditions;
            let slices = [slice(&[(2, "kube0.vm", second), (3, "kube1.vm", third)])];
            last_octets(&desired([&web()], &slices, "kube0.vm", &bugs, &mut memory), At::NodePort)
        };
        assert_eq!(served([ready(), unready()]), Some(vec![2]));
        assert_eq!(served([unready(), ready()]), Some(vec![2, 3]));
        assert_eq!(served([unready(), unready()]), Some(vec![2, 3]));
    }

    #[test]
    fn the_node_port_bug_closes_it_where_no_pod_runs() {
        let bugs: Bugs = [Bug::NodePortOnlyWherePodRuns].into_iter().collect();
        let slices = [slice(&[(2, "kube1.vm", ready())])];
        let on = |node| desired([&web()], &slices, node, &bugs, &mut Memory::new());
        assert_eq!(last_octets(&on("kube1.vm"), At::NodePort), Some(vec![2]));
        assert_eq!(last_octets(&on("kube0.vm"), At::NodePort), None);
        assert_eq!(last_octets(&on("kube0.vm"), At::ClusterIp(CLUSTER_IP)), Some(vec![2]));
    }
}
