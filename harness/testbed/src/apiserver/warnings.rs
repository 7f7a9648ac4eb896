//! What is accepted and yet deserves a word: told in `Warning` headers, which kubectl prints
//! ([Warning: Helpful Warnings Ahead](https://kubernetes.io/blog/2020/09/03/warnings/)).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use axum::body::Body;
use http::Response;
use http::header::{HeaderValue, WARNING};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Container, ContainerPort, Endpoints, PodSpec, Service};
use k8s_openapi::api::networking::v1::Ingress;

/// Adds a warning to an answer, in the form of
/// [RFC 7234, section 5.5](https://datatracker.ietf.org/doc/html/rfc7234#section-5.5).
pub(crate) fn add(response: &mut Response<Body>, warning: &str) {
    let text = format!("299 - \"{}\"", warning.replace('\\', "\\\\").replace('"', "\\\""));
    // What cannot stand in a header is not worth losing the answer.
    if let Ok(text) = HeaderValue::from_str(&text) {
        response.headers_mut().append(WARNING, text);
    }
}

/// Fields of a service that nobody heeds, or will not for much longer.
pub(crate) fn of_service(service: &Service) -> Vec<String> {
    let mut warnings = Vec::new();
    let annotations = service.metadata.annotations.as_ref();
    if annotations.is_some_and(|all| all.contains_key("service.kubernetes.io/topology-aware-hints")) {
        warnings.push(
            "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use \
             service.kubernetes.io/topology-mode instead"
                .to_owned(),
        );
    }
    let Some(spec) = &service.spec else { return warnings };
    let kind = spec.type_.as_deref().unwrap_or_default();
    let has_name = spec.external_name.as_ref().is_some_and(|name| !name.is_empty());
    let balancer = spec.load_balancer_ip.as_deref().unwrap_or_default();
    let external = spec.external_ips.as_deref().unwrap_or_default();
    let is_headless = kind == "ClusterIP" && spec.cluster_ip.as_deref() == Some("None");
    if !is_headless {
        for (index, ip) in spec.cluster_ips.iter().flatten().enumerate() {
            warnings.extend(of_address(&format!("spec.clusterIPs[{index}]"), ip));
        }
    } else {
        let affinity = spec.session_affinity.as_deref().unwrap_or("None");
        for (field, is_set) in [
            ("loadBalancerIP", !balancer.is_empty()),
            ("externalIPs", !external.is_empty()),
            ("SessionAffinity", affinity != "None"),
        ] {
            if is_set {
                warnings.push(format!("spec.{field} is ignored for headless services"));
            }
        }
    }
    for (index, ip) in external.iter().enumerate() {
        warnings.extend(of_address(&format!("spec.externalIPs[{index}]"), ip));
    }
    if !external.is_empty() && !is_headless && kind != "ExternalName" {
        let what = "spec.externalIPs is deprecated and may no longer be implemented in some clusters";
        warnings.push(what.to_owned());
    }
    if !balancer.is_empty() {
        warnings.extend(of_address("spec.loadBalancerIP", balancer));
    }
    for (index, range) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        warnings.extend(of_network(&format!("spec.loadBalancerSourceRanges[{index}]"), range));
    }
    if kind == "ExternalName" && !external.is_empty() {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if kind != "ExternalName" && has_name {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.traffic_distribution.as_deref() == Some("PreferClose") {
        let what = "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"";
        warnings.push(what.to_owned());
    }
    warnings
}

/// Addresses that a hand wrote in another way than everybody else would.
pub(crate) fn of_endpoints(endpoints: &Endpoints) -> Vec<String> {
    // These are not a hand's.
    let labels = endpoints.metadata.labels.as_ref();
    if labels.is_some_and(|labels| labels.contains_key("endpoints.kubernetes.io/managed-by")) {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    for (index, subset) in endpoints.subsets.iter().flatten().enumerate() {
        let parts = [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)];
        for (field, addresses) in parts {
            for (number, address) in addresses.iter().flatten().enumerate() {
                let path = format!("subsets[{index}].{field}[{number}].ip");
                warnings.extend(of_address(&path, &address.ip));
            }
        }
    }
    warnings
}

/// How classes were chosen before there was a field for it; asked about new ingresses only.
pub(crate) fn of_new_ingress(ingress: &Ingress, annotation: &str) -> Vec<String> {
    let is_annotated = ingress.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(annotation));
    let has_class = ingress.spec.as_ref().is_some_and(|spec| spec.ingress_class_name.is_some());
    if !is_annotated || has_class {
        return Vec::new();
    }
    vec![format!("annotation {annotation:?} is deprecated, please use 'spec.ingressClassName' instead")]
}

/// What a pod says twice. `path` is where its specification stands.
pub(crate) fn of_pod_spec(path: &str, spec: &PodSpec) -> Vec<String> {
    let mut warnings = Vec::new();
    let named = |field: &str, containers: &[Container]| -> Vec<(String, Container)> {
        let path = |index| format!("{path}.{field}[{index}]");
        (0_usize..).zip(containers).map(|(index, container)| (path(index), container.clone())).collect()
    };
    let mut containers = named("initContainers", spec.init_containers.as_deref().unwrap_or_default());
    containers.extend(named("containers", &spec.containers));
    for (path, container) in &containers {
        let mut seen = BTreeSet::new();
        for (index, variable) in container.env.iter().flatten().enumerate() {
            let name = variable.name.as_str();
            let (value, reference) = (variable.value.as_deref().unwrap_or_default(), format!("$({name})"));
            // A value that is made of the one before is meant to stand beside it.
            let builds_on_it =
                variable.value_from.is_none() && value != reference && value.contains(&reference);
            if !seen.insert(name) && !builds_on_it {
                warnings.push(format!(
                    "{path}.env[{index}]: hides previous definition of {name:?}, which may be dropped when using apply"
                ));
            }
        }
    }
    let mut seen: BTreeMap<(i32, String), Vec<(String, ContainerPort)>> = BTreeMap::new();
    for (path, container) in &containers {
        for (index, port) in container.ports.iter().flatten().enumerate() {
            let path = format!("{path}.ports[{index}]");
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let others = seen.entry((port.container_port, protocol)).or_default();
            for (other, before) in &*others {
                if let Some(what) = overlap(port, before) {
                    warnings.push(format!("{path}: {what} port definition with {other}"));
                }
            }
            others.push((path, port.clone()));
        }
    }
    if spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        warnings.push(format!(
            "{path}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    warnings
}

/// How two definitions of one port get in each other's way.
fn overlap(one: &ContainerPort, other: &ContainerPort) -> Option<&'static str> {
    let host = |port: &ContainerPort| (port.host_ip.clone().unwrap_or_default(), port.host_port.unwrap_or(0));
    let ((ip, port), (other_ip, other_port)) = (host(one), host(other));
    if (&ip, port) == (&other_ip, other_port) {
        Some("duplicate")
    } else if port == 0 || other_port == 0 {
        Some("overlapping")
    } else {
        (port == other_port && ip.is_empty() != other_ip.is_empty()).then_some("dangerously ambiguous")
    }
}

/// [RFC 5952](https://datatracker.ietf.org/doc/html/rfc5952) has one way to write an address of IPv6.
fn of_address(path: &str, written: &str) -> Option<String> {
    let ip: Ipv6Addr = written.parse().ok()?;
    if let Some(ip) = ip.to_ipv4_mapped() {
        return Some(format!(
            "{path}: non-standard IP address {written:?} will be considered invalid in a future Kubernetes release: \
             use \"{ip}\""
        ));
    }
    let canonical = ip.to_string();
    (canonical != written).then(|| {
        format!("{path}: IPv6 address {written:?} should be in RFC 5952 canonical format ({canonical:?})")
    })
}

fn of_network(path: &str, written: &str) -> Option<String> {
    let network: IpNet = written.trim().parse().ok()?;
    let (whole, address) = (network.trunc(), network.addr());
    if whole != network {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        return Some(format!(
            "{path}: CIDR value {written:?} is ambiguous in this context (should be \"{whole}\" or \
             \"{address}/{bits}\"?)"
        ));
    }
    let canonical = network.to_string();
    (matches!(address, IpAddr::V6(_)) && canonical != written).then(|| {
        format!("{path}: IPv6 CIDR value {written:?} should be in RFC 5952 canonical format ({canonical:?})")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> Vec<String> {
        of_service(&serde_json::from_value(json!({"spec": spec})).unwrap())
    }

    #[test]
    fn services_are_told_what_is_ignored() {
        let headless = json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"],
            "sessionAffinity": "ClientIP", "externalIPs": ["1.2.3.4"], "externalName": "a.b"});
        let expected = [
            "spec.externalIPs is ignored for headless services",
            "spec.SessionAffinity is ignored for headless services",
            "spec.externalName is ignored when spec.type is not \"ExternalName\"",
        ];
        assert_eq!(service(headless), expected);
        let usual = json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.9"], "externalIPs": ["2001:db8:0:0::2"],
            "loadBalancerSourceRanges": ["10.0.0.0/8", "10.1.2.3/24", "2001:db8:0::/64"],
            "trafficDistribution": "PreferClose"});
        let expected = [
            "spec.externalIPs[0]: IPv6 address \"2001:db8:0:0::2\" should be in RFC 5952 canonical format \
             (\"2001:db8::2\")",
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
            "spec.loadBalancerSourceRanges[1]: CIDR value \"10.1.2.3/24\" is ambiguous in this context (should be \
             \"10.1.2.0/24\" or \"10.1.2.3/32\"?)",
            "spec.loadBalancerSourceRanges[2]: IPv6 CIDR value \"2001:db8:0::/64\" should be in RFC 5952 canonical \
             format (\"2001:db8::/64\")",
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
        ];
        assert_eq!(service(usual), expected);
        assert_eq!(service(json!({"type": "ClusterIP", "clusterIP": "10.96.0.9"})), [""; 0]);
    }

    #[test]
    fn pods_are_told_what_they_say_twice() {
        let ports = |ports: Value| json!({"name": "a", "ports": ports});
        let spec = json!({"terminationGracePeriodSeconds": -1,
        "initContainers": [ports(json!([{"containerPort": 1}]))],
        "containers": [
            {"name": "b", "env": [{"name": "X", "value": "a"}, {"name": "X", "value": "$(X)b"},
                {"name": "X", "value": "c"}],
                "ports": [{"containerPort": 1}, {"containerPort": 1, "protocol": "UDP"}]},
            ports(json!([{"containerPort": 2, "hostPort": 9}, {"containerPort": 2},
                {"containerPort": 2, "hostPort": 9, "hostIP": "10.0.0.1"}])),
        ]});
        let seen = of_pod_spec("spec", &serde_json::from_value(spec).unwrap());
        let expected = [
            "spec.containers[0].env[2]: hides previous definition of \"X\", which may be dropped when using apply",
            "spec.containers[0].ports[0]: duplicate port definition with spec.initContainers[0].ports[0]",
            "spec.containers[1].ports[1]: overlapping port definition with spec.containers[1].ports[0]",
            "spec.containers[1].ports[2]: dangerously ambiguous port definition with spec.containers[1].ports[0]",
            "spec.containers[1].ports[2]: overlapping port definition with spec.containers[1].ports[1]",
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn endpoints_made_by_hand_are_told_how_addresses_are_written() {
        let mut endpoints =
            json!({"subsets": [{"notReadyAddresses": [{"ip": "::ffff:1.2.3.4"}, {"ip": "::1"}]}]});
        let told = |endpoints: &Value| of_endpoints(&serde_json::from_value(endpoints.clone()).unwrap());
        let seen = told(&endpoints);
        assert!(
            seen.len() == 1 && seen[0].ends_with("future Kubernetes release: use \"1.2.3.4\""),
            "{seen:?}"
        );
        endpoints["metadata"] =
            json!({"labels": {"endpoints.kubernetes.io/managed-by": "endpoint-controller"}});
        assert_eq!(told(&endpoints), [""; 0]);
    }
}
