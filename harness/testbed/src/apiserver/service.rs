//! Services: defaults and validation
//! ([Service](https://kubernetes.io/docs/concepts/services-networking/service/),
//! [Service API](https://kubernetes.io/docs/reference/kubernetes-api/service-resources/service-v1/)).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{ClientIPConfig, Service, ServicePort, ServiceSpec, SessionAffinityConfig};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::admission::Admit;
use super::names;
use super::status::FieldError;
use super::warnings;

/// What a service's port may speak.
pub(crate) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// No load balancer may lead the world to it.
const KUBELET_PORT: i32 = 10250;
/// How the ranges were given before there was a field for them.
const RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const NO_RANGE: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
const NO_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const ONLY_LOAD_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";

impl Admit for Service {
    fn keep(&mut self, old: &Self) {
        let (Some(new), Some(old)) = (&mut self.spec, &old.spec) else { return };
        normalize_type(new);
        forget_what_the_type_lost(new, old);
        keep_allocated(new, old);
    }

    fn fill(&mut self) {
        let spec = self.spec.get_or_insert_default();
        normalize_type(spec);
        fill(spec);
        let balancer = self.status.get_or_insert_default().load_balancer.get_or_insert_default();
        for ingress in balancer.ingress.iter_mut().flatten() {
            if !is_empty(ingress.ip.as_ref()) {
                ingress.ip_mode.get_or_insert_with(|| "VIP".to_owned());
            }
        }
    }

    fn check(&self, old: Option<&Self>) -> Vec<FieldError> {
        let default = ServiceSpec::default();
        let spec = self.spec.as_ref().unwrap_or(&default);
        let mut errors = Vec::new();
        check_ports(spec, &mut errors);
        check_selector(spec, &mut errors);
        check_affinity(spec, &mut errors);
        check_addresses(spec, &mut errors);
        check_type(spec, &mut errors);
        check_policies(spec, &mut errors);
        if let Some(old) = old.and_then(|old| old.spec.as_ref()) {
            check_change(spec, old, &mut errors);
        }
        check_annotated_ranges(self, kind(spec), &mut errors);
        // An update of the specification leaves the status as it was, whatever it was.
        if old.is_some_and(|old| old.status != self.status) {
            check_balancer(self, kind(spec), &mut errors);
        }
        errors
    }

    fn warn(&self, _old: Option<&Self>) -> Vec<String> {
        warnings::of_service(self)
    }
}

fn kind(spec: &ServiceSpec) -> &str {
    spec.type_.as_deref().unwrap_or_default()
}

fn ports(spec: &ServiceSpec) -> &[ServicePort] {
    spec.ports.as_deref().unwrap_or_default()
}

fn cluster_ip(spec: &ServiceSpec) -> &str {
    spec.cluster_ip.as_deref().unwrap_or_default()
}

fn cluster_ips(spec: &ServiceSpec) -> &[String] {
    spec.cluster_ips.as_deref().unwrap_or_default()
}

fn is_headless(spec: &ServiceSpec) -> bool {
    cluster_ip(spec) == "None" || cluster_ips(spec).first().is_some_and(|ip| ip == "None")
}

fn wants_cluster_ip(spec: &ServiceSpec) -> bool {
    ["ClusterIP", "NodePort", "LoadBalancer"].contains(&kind(spec))
}

fn wants_node_ports(spec: &ServiceSpec) -> bool {
    match kind(spec) {
        "NodePort" => true,
        "LoadBalancer" => spec.allocate_load_balancer_node_ports.unwrap_or(true),
        _ => false,
    }
}

fn wants_health_check(spec: &ServiceSpec) -> bool {
    kind(spec) == "LoadBalancer" && spec.external_traffic_policy.as_deref() == Some("Local")
}

/// Can somebody outside of the cluster reach it?
fn is_external(spec: &ServiceSpec) -> bool {
    match kind(spec) {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()),
        _ => false,
    }
}

fn is_empty(text: Option<&String>) -> bool {
    text.is_none_or(String::is_empty)
}

fn normalize_type(spec: &mut ServiceSpec) {
    if is_empty(spec.type_.as_ref()) {
        spec.type_ = Some("ClusterIP".to_owned());
    }
}

/// What only the old type needed goes, unless the client changed it as well and so means it.
fn forget_what_the_type_lost(new: &mut ServiceSpec, old: &ServiceSpec) {
    if wants_cluster_ip(old) && !wants_cluster_ip(new) {
        if cluster_ip(new) == cluster_ip(old) && cluster_ips(new) == cluster_ips(old) {
            new.cluster_ip = None;
            new.cluster_ips = None;
        }
        if new.ip_families == old.ip_families {
            new.ip_families = None;
        }
        if new.ip_family_policy == old.ip_family_policy {
            new.ip_family_policy = None;
        }
    }
    if wants_node_ports(old) && !wants_node_ports(new) {
        let numbers = |spec: &ServiceSpec| -> BTreeSet<i32> {
            ports(spec).iter().filter_map(|port| port.node_port).filter(|port| *port != 0).collect()
        };
        if numbers(new) == numbers(old) {
            for port in new.ports.iter_mut().flatten() {
                port.node_port = None;
            }
        }
    }
    if wants_health_check(old)
        && !wants_health_check(new)
        && new.health_check_node_port == old.health_check_node_port
    {
        new.health_check_node_port = None;
    }
    if kind(old) == "LoadBalancer" && kind(new) != "LoadBalancer" {
        if new.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            new.allocate_load_balancer_node_ports = None;
        }
        if new.load_balancer_class == old.load_balancer_class {
            new.load_balancer_class = None;
        }
    }
    if is_external(old) && !is_external(new) && new.external_traffic_policy == old.external_traffic_policy {
        new.external_traffic_policy = None;
    }
    if kind(old) != "ExternalName"
        && kind(new) == "ExternalName"
        && new.internal_traffic_policy == old.internal_traffic_policy
    {
        new.internal_traffic_policy = None;
    }
}

/// What was allocated and is left out now stays as it is.
fn keep_allocated(new: &mut ServiceSpec, old: &ServiceSpec) {
    if wants_cluster_ip(old) && wants_cluster_ip(new) {
        if cluster_ip(new).is_empty() && cluster_ips(new).is_empty() {
            new.cluster_ip.clone_from(&old.cluster_ip);
        }
        if cluster_ips(new).is_empty() && cluster_ip(new) == cluster_ip(old) {
            new.cluster_ips.clone_from(&old.cluster_ips);
        }
    }
    if wants_node_ports(old) && wants_node_ports(new) {
        let mut used: BTreeSet<i32> = ports(new).iter().filter_map(|port| port.node_port).collect();
        for port in new.ports.iter_mut().flatten() {
            if port.node_port.unwrap_or_default() != 0 {
                continue;
            }
            let protocol = |port: &ServicePort| port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let before = ports(old)
                .iter()
                .find(|old| old.port == port.port && protocol(old) == protocol(port))
                .and_then(|old| old.node_port);
            if let Some(before) = before.filter(|before| used.insert(*before)) {
                port.node_port = Some(before);
            }
        }
    }
    if wants_health_check(old)
        && wants_health_check(new)
        && new.health_check_node_port.unwrap_or_default() == 0
    {
        new.health_check_node_port = old.health_check_node_port;
    }
}

fn fill(spec: &mut ServiceSpec) {
    if is_empty(spec.session_affinity.as_ref()) {
        spec.session_affinity = Some("None".to_owned());
    }
    match spec.session_affinity.as_deref() {
        Some("None") => spec.session_affinity_config = None,
        Some("ClientIP") => {
            let config = spec.session_affinity_config.get_or_insert_with(SessionAffinityConfig::default);
            let client_ip = config.client_ip.get_or_insert_with(ClientIPConfig::default);
            client_ip.timeout_seconds.get_or_insert(10800);
        }
        _ => {}
    }
    for port in spec.ports.iter_mut().flatten() {
        if is_empty(port.protocol.as_ref()) {
            port.protocol = Some("TCP".to_owned());
        }
        let unset = match &port.target_port {
            None | Some(IntOrString::Int(0)) => true,
            Some(IntOrString::String(name)) => name.is_empty(),
            Some(IntOrString::Int(_)) => false,
        };
        if unset {
            port.target_port = Some(IntOrString::Int(port.port));
        }
        port.node_port = port.node_port.filter(|port| *port != 0);
    }
    if is_external(spec) && is_empty(spec.external_traffic_policy.as_ref()) {
        spec.external_traffic_policy = Some("Cluster".to_owned());
    }
    if kind(spec) == "LoadBalancer" {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
    if !wants_cluster_ip(spec) {
        if cluster_ip(spec).is_empty() && cluster_ips(spec).is_empty() {
            spec.cluster_ip = None;
            spec.cluster_ips = None;
        }
        return;
    }
    spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
    if !cluster_ip(spec).is_empty() && cluster_ips(spec).is_empty() {
        spec.cluster_ips = Some(vec![cluster_ip(spec).to_owned()]);
    }
    fill_families(spec);
}

/// Without a selector nobody but the client knows the families of a headless service.
fn fill_families(spec: &mut ServiceSpec) {
    let of_unknown = is_headless(spec) && spec.selector.as_ref().is_none_or(|selector| selector.is_empty());
    if is_empty(spec.ip_family_policy.as_ref()) {
        let policy = if of_unknown { "RequireDualStack" } else { "SingleStack" };
        spec.ip_family_policy = Some(policy.to_owned());
    }
    if spec.ip_families.as_ref().is_none_or(Vec::is_empty) {
        let mut families = vec!["IPv4".to_owned()];
        if of_unknown && spec.ip_family_policy.as_deref() != Some("SingleStack") {
            families.push("IPv6".to_owned());
        }
        spec.ip_families = Some(families);
    }
}

fn check_ports(spec: &ServiceSpec, errors: &mut Vec<FieldError>) {
    let ports = ports(spec);
    if ports.is_empty() && !is_headless(spec) && kind(spec) != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    let mut names_seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let name = port.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            if ports.len() > 1 {
                errors.push(FieldError::required(format!("{path}.name"), ""));
            }
        } else {
            for problem in names::label(name) {
                errors.push(FieldError::invalid(format!("{path}.name"), name, &problem));
            }
            if !names_seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
        }
        for problem in names::port_number(port.port.into()) {
            errors.push(FieldError::invalid(format!("{path}.port"), port.port, &problem));
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        if !PROTOCOLS.contains(&protocol) {
            errors.push(FieldError::not_supported(format!("{path}.protocol"), protocol, PROTOCOLS));
        }
        match &port.target_port {
            Some(IntOrString::Int(number)) => {
                for problem in names::port_number((*number).into()) {
                    errors.push(FieldError::invalid(format!("{path}.targetPort"), *number, &problem));
                }
            }
            Some(IntOrString::String(name)) => {
                for problem in names::port_name(name) {
                    errors.push(FieldError::invalid(format!("{path}.targetPort"), name.as_str(), &problem));
                }
            }
            None => {}
        }
        if let Some(protocol) = &port.app_protocol {
            for problem in names::qualified(protocol) {
                errors.push(FieldError::invalid(format!("{path}.appProtocol"), protocol.as_str(), &problem));
            }
        }
    }
    if kind(spec) == "LoadBalancer" {
        for (index, _) in ports.iter().enumerate().filter(|(_, port)| port.port == KUBELET_PORT) {
            let why = format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet");
            errors.push(FieldError::invalid(format!("spec.ports[{index}].port"), KUBELET_PORT, &why));
        }
    }
    check_pairs(spec, errors);
}

/// A pair of protocol and port, or of protocol and node port, is there once.
fn check_pairs(spec: &ServiceSpec, errors: &mut Vec<FieldError>) {
    let (mut numbers, mut node_ports) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports(spec).iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let protocol = port.protocol.as_deref().unwrap_or_default();
        if !numbers.insert((protocol, port.port)) {
            errors.push(FieldError::duplicate(&path, json!({"port": port.port, "protocol": protocol})));
        }
        let Some(node_port) = port.node_port.filter(|port| *port != 0) else { continue };
        if kind(spec) == "ClusterIP" || kind(spec) == "ExternalName" {
            let why = format!("may not be used when `type` is '{}'", kind(spec));
            errors.push(FieldError::forbidden(format!("{path}.nodePort"), &why));
        } else if !node_ports.insert((protocol, node_port)) {
            errors.push(FieldError::duplicate(format!("{path}.nodePort"), node_port));
        }
    }
}

fn check_selector(spec: &ServiceSpec, errors: &mut Vec<FieldError>) {
    for (key, value) in spec.selector.iter().flatten() {
        for problem in names::qualified(key) {
            errors.push(FieldError::invalid("spec.selector", key.as_str(), &problem));
        }
        for problem in names::label_value(value) {
            errors.push(FieldError::invalid("spec.selector", value.as_str(), &problem));
        }
    }
}

/// [Virtual IPs, "Session affinity"](https://kubernetes.io/docs/reference/networking/virtual-ips/#session-affinity)
fn check_affinity(spec: &ServiceSpec, errors: &mut Vec<FieldError>) {
    match spec.session_affinity.as_deref().unwrap_or_default() {
        "None" => {}
        "ClientIP" => {
            let timeout = spec
                .session_affinity_config
                .as_ref()
                .and_then(|config| config.client_ip.as_ref())
                .and_then(|client_ip| client_ip.timeout_seconds);
            if let Some(timeout) = timeout.filter(|timeout| !(1..=86400).contains(timeout)) {
                errors.push(FieldError::invalid(
                    "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                    timeout,
                    "must be greater than 0 and less than 86400",
                ));
            }
        }
        other => {
            errors.push(FieldError::not_supported("spec.sessionAffinity", other, &["ClientIP", "None"]));
        }
    }
}

fn check_addresses(spec: &ServiceSpec, errors: &mut Vec<FieldError>) {
    for (index, address) in spec.external_ips.iter().flatten().enumerate() {
        errors.extend(check_usable_address(&format!("spec.externalIPs[{index}]"), address));
    }
    if kind(spec) == "ExternalName" {
        return;
    }
    let (one, all) = (cluster_ip(spec), cluster_ips(spec));
    if one.is_empty() && !all.is_empty() {
        let why = "must be empty when `clusterIP` is not specified";
        errors.push(FieldError::invalid("spec.clusterIPs", json!(all), why));
    } else if all.first().is_some_and(|first| first != one) {
        let why = "first value must match `clusterIP`";
        errors.push(FieldError::invalid("spec.clusterIPs", json!(all), why));
    }
    if all.len() > 1 && is_headless(spec) {
        let why = "'None' must be the first and only value";
        errors.push(FieldError::invalid("spec.clusterIPs", json!(all), why));
        return;
    }
    for (index, address) in all.iter().enumerate().filter(|(_, address)| *address != "None") {
        let path = format!("spec.clusterIPs[{index}]");
        let why = match address.parse::<IpAddr>() {
            Err(_) => NO_ADDRESS,
            Ok(IpAddr::V6(_)) => "ipFamily \"IPv6\" is not configured on this cluster",
            Ok(IpAddr::V4(_)) if index > 0 => {
                "may only hold one address: this cluster is not configured for dual-stack services"
            }
            Ok(IpAddr::V4(_)) => continue,
        };
        errors.push(FieldError::invalid(path, address.as_str(), why));
    }
    check_families(spec, errors);
}

fn check_families(spec: &ServiceSpec, errors: &mut Vec<FieldError>) {
    // Nothing is allocated for it: any family may be claimed.
    let of_unknown = is_headless(spec) && spec.selector.as_ref().is_none_or(|selector| selector.is_empty());
    let mut seen = BTreeSet::new();
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        let path = format!("spec.ipFamilies[{index}]");
        match family.as_str() {
            "IPv4" => {}
            "IPv6" if of_unknown => {}
            "IPv6" => errors.push(FieldError::invalid(&path, "IPv6", "not configured on this cluster")),
            other => errors.push(FieldError::not_supported(&path, other, &["IPv4", "IPv6"])),
        }
        if !seen.insert(family) {
            errors.push(FieldError::duplicate(path, family.as_str()));
        }
    }
    match spec.ip_family_policy.as_deref().unwrap_or_default() {
        "SingleStack" | "PreferDualStack" | "" => {}
        "RequireDualStack" if of_unknown => {}
        "RequireDualStack" => errors.push(FieldError::invalid(
            "spec.ipFamilyPolicy",
            "RequireDualStack",
            "this cluster is not configured for dual-stack services",
        )),
        other => errors.push(FieldError::not_supported(
            "spec.ipFamilyPolicy",
            other,
            &["PreferDualStack", "RequireDualStack", "SingleStack"],
        )),
    }
}

/// [Service, "Service type"](https://kubernetes.io/docs/concepts/services-networking/service/#publishing-services-service-types)
fn check_type(spec: &ServiceSpec, errors: &mut Vec<FieldError>) {
    let kind = kind(spec);
    match kind {
        "ClusterIP" => {}
        "NodePort" | "LoadBalancer" => {
            if is_headless(spec) {
                let why = format!("may not be set to 'None' for {kind} services");
                errors.push(FieldError::invalid("spec.clusterIPs[0]", "None", &why));
            }
        }
        "ExternalName" => {
            let unwanted = [
                ("spec.clusterIPs", !cluster_ips(spec).is_empty() || !cluster_ip(spec).is_empty()),
                ("spec.ipFamilies", spec.ip_families.as_ref().is_some_and(|families| !families.is_empty())),
                ("spec.ipFamilyPolicy", spec.ip_family_policy.is_some()),
            ];
            for (path, _) in unwanted.into_iter().filter(|(_, set)| *set) {
                errors.push(FieldError::forbidden(path, "may not be set for ExternalName services"));
            }
            let name = spec.external_name.as_deref().unwrap_or_default();
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.is_empty() {
                errors.push(FieldError::required("spec.externalName", ""));
            } else {
                for problem in names::subdomain(name) {
                    errors.push(FieldError::invalid("spec.externalName", name, &problem));
                }
            }
        }
        other => errors.push(FieldError::not_supported(
            "spec.type",
            other,
            &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
        )),
    }
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    if !ranges.is_empty() && kind != "LoadBalancer" {
        errors.push(FieldError::forbidden("spec.loadBalancerSourceRanges", ONLY_LOAD_BALANCER));
    }
    for (index, range) in ranges.iter().enumerate() {
        if range.trim().parse::<IpNet>().is_err() {
            errors.push(FieldError::invalid(
                format!("spec.loadBalancerSourceRanges[{index}]"),
                range.as_str(),
                NO_RANGE,
            ));
        }
    }
    if kind != "LoadBalancer" && spec.allocate_load_balancer_node_ports.is_some() {
        errors.push(FieldError::forbidden("spec.allocateLoadBalancerNodePorts", ONLY_LOAD_BALANCER));
    }
    if let Some(class) = &spec.load_balancer_class {
        if kind == "LoadBalancer" {
            for problem in names::qualified(class) {
                errors.push(FieldError::invalid("spec.loadBalancerClass", class.as_str(), &problem));
            }
        } else {
            errors.push(FieldError::forbidden("spec.loadBalancerClass", ONLY_LOAD_BALANCER));
        }
    }
}

/// [Virtual IPs, "Traffic policies"](https://kubernetes.io/docs/reference/networking/virtual-ips/#traffic-policies)
fn check_policies(spec: &ServiceSpec, errors: &mut Vec<FieldError>) {
    const POLICIES: &[&str] = &["Cluster", "Local"];
    let external = spec.external_traffic_policy.as_deref().unwrap_or_default();
    if is_external(spec) {
        if !POLICIES.contains(&external) {
            errors.push(FieldError::not_supported("spec.externalTrafficPolicy", external, POLICIES));
        }
    } else if !external.is_empty() {
        let why = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid("spec.externalTrafficPolicy", external, why));
    }
    let health_check = spec.health_check_node_port.unwrap_or_default();
    if health_check != 0 {
        if !wants_health_check(spec) {
            errors.push(FieldError::invalid(
                "spec.healthCheckNodePort",
                health_check,
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ));
        } else {
            for problem in names::port_number(health_check.into()) {
                errors.push(FieldError::invalid("spec.healthCheckNodePort", health_check, &problem));
            }
        }
    }
    let internal = spec.internal_traffic_policy.as_deref().filter(|_| kind(spec) != "ExternalName");
    if let Some(internal) = internal.filter(|internal| !POLICIES.contains(internal)) {
        errors.push(FieldError::not_supported("spec.internalTrafficPolicy", internal, POLICIES));
    }
    const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameNode", "PreferSameZone"];
    let distribution = spec.traffic_distribution.as_deref();
    if let Some(distribution) = distribution.filter(|distribution| !DISTRIBUTIONS.contains(distribution)) {
        errors.push(FieldError::not_supported("spec.trafficDistribution", distribution, DISTRIBUTIONS));
    }
}

fn check_change(new: &ServiceSpec, old: &ServiceSpec, errors: &mut Vec<FieldError>) {
    if wants_cluster_ip(old) && wants_cluster_ip(new) {
        let before = cluster_ip(old);
        if !before.is_empty() && cluster_ip(new) != before {
            let value = json!(cluster_ips(new));
            errors.push(FieldError::invalid("spec.clusterIPs[0]", value, "may not change once set"));
        }
    }
    if wants_health_check(old)
        && wants_health_check(new)
        && new.health_check_node_port != old.health_check_node_port
    {
        errors.push(FieldError::forbidden("spec.healthCheckNodePort", "field is immutable"));
    }
    if kind(old) == "LoadBalancer"
        && kind(new) == "LoadBalancer"
        && new.load_balancer_class != old.load_balancer_class
    {
        let value = json!(new.load_balancer_class);
        errors.push(FieldError::invalid("spec.loadBalancerClass", value, "may not change once set"));
    }
}

fn check_annotated_ranges(service: &Service, kind: &str, errors: &mut Vec<FieldError>) {
    let annotations = service.metadata.annotations.as_ref();
    let Some(ranges) = annotations.and_then(|annotations| annotations.get(RANGES_ANNOTATION)) else { return };
    let path = format!("metadata.annotations[{RANGES_ANNOTATION}]");
    if kind != "LoadBalancer" {
        errors.push(FieldError::forbidden(path, ONLY_LOAD_BALANCER));
        return;
    }
    let mut ranges_read = ranges.split(',').map(str::trim).filter(|range| !range.is_empty());
    if ranges_read.any(|range| range.parse::<IpNet>().is_err()) {
        let why = "must be a comma separated list of CIDRs e.g. 192.168.0.0/16,10.0.0.0/8";
        errors.push(FieldError::invalid(path, ranges.as_str(), why));
    }
}

/// What a provider may report
/// ([Service, "Specifying IPMode of load balancer status"](https://kubernetes.io/docs/concepts/services-networking/service/#load-balancer-ip-mode)).
fn check_balancer(service: &Service, kind: &str, errors: &mut Vec<FieldError>) {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let all = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let path = "status.loadBalancer.ingress";
    if kind != "LoadBalancer" && !all.is_empty() {
        errors.push(FieldError::forbidden(path, "may only be used when `spec.type` is LoadBalancer"));
        return;
    }
    for (index, ingress) in all.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let ip = ingress.ip.as_deref().unwrap_or_default();
        if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
            errors.push(FieldError::invalid(format!("{path}.ip"), ip, NO_ADDRESS));
        }
        match ingress.ip_mode.as_deref() {
            Some(_) if ip.is_empty() => errors.push(FieldError::forbidden(
                format!("{path}.ipMode"),
                "may not be specified when `ip` is not set",
            )),
            Some(mode) if !["Proxy", "VIP"].contains(&mode) => {
                errors.push(FieldError::not_supported(format!("{path}.ipMode"), mode, &["Proxy", "VIP"]))
            }
            _ => {}
        }
        let hostname = ingress.hostname.as_deref().unwrap_or_default();
        if !hostname.is_empty() {
            let path = format!("{path}.hostname");
            for problem in names::subdomain(hostname) {
                errors.push(FieldError::invalid(&path, hostname, &problem));
            }
            if hostname.parse::<IpAddr>().is_ok() {
                errors.push(FieldError::invalid(path, hostname, "must be a DNS name, not an IP address"));
            }
        }
    }
}

/// An address others can send to: neither unspecified nor bound to one link or machine.
pub(crate) fn check_usable_address(path: &str, address: &str) -> Vec<FieldError> {
    let invalid = |why: &str| FieldError::invalid(path, address, why);
    let Ok(parsed) = address.parse::<IpAddr>() else { return vec![invalid(NO_ADDRESS)] };
    let mut errors = Vec::new();
    if parsed.is_unspecified() {
        errors.push(invalid(&format!("may not be unspecified ({address})")));
    }
    if parsed.is_loopback() {
        errors.push(invalid("may not be in the loopback range (127.0.0.0/8, ::1/128)"));
    }
    let (link_local, link_local_multicast) = match parsed {
        IpAddr::V4(v4) => {
            (v4.is_link_local(), v4.to_bits() >> 8 == Ipv4Addr::new(224, 0, 0, 0).to_bits() >> 8)
        }
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] == 0xff02),
    };
    if link_local {
        errors.push(invalid("may not be in the link-local range (169.254.0.0/16, fe80::/10)"));
    }
    if link_local_multicast {
        errors.push(invalid("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"));
    }
    errors
}
