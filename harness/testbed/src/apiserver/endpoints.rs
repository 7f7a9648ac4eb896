//! Endpoints and endpoint slices: defaults and validation
//! ([EndpointSlices](https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/),
//! [Service, "Services without selectors"](https://kubernetes.io/docs/concepts/services-networking/service/#services-without-selectors)).

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::{EndpointHints, EndpointSlice};

use super::admission::Admit;
use super::names;
use super::service::{PROTOCOLS, check_usable_address};
use super::status::FieldError;
use super::warnings;

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_HINTS: usize = 8;

impl Admit for Endpoints {
    fn fill(&mut self) {
        for subset in self.subsets.iter_mut().flatten() {
            for port in subset.ports.iter_mut().flatten() {
                fill_protocol(&mut port.protocol);
            }
        }
    }

    fn check(&self, _old: Option<&Self>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (index, subset) in self.subsets.iter().flatten().enumerate() {
            let path = format!("subsets[{index}]");
            let ready = subset.addresses.iter().flatten().collect::<Vec<_>>();
            let not_ready = subset.not_ready_addresses.iter().flatten().collect::<Vec<_>>();
            if ready.is_empty() && not_ready.is_empty() {
                errors.push(FieldError::required(&path, "must specify `addresses` or `notReadyAddresses`"));
            }
            for (field, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
                for (index, address) in addresses.iter().enumerate() {
                    let path = format!("{path}.{field}[{index}]");
                    errors.extend(check_usable_address(&format!("{path}.ip"), &address.ip));
                    check_place(
                        &path,
                        address.hostname.as_deref(),
                        address.node_name.as_deref(),
                        &mut errors,
                    );
                }
            }
            let ports: Vec<_> = subset.ports.iter().flatten().collect();
            for (index, port) in ports.iter().enumerate() {
                let path = format!("{path}.ports[{index}]");
                let name = port.name.as_deref().unwrap_or_default();
                if name.is_empty() {
                    if ports.len() > 1 {
                        errors.push(FieldError::required(format!("{path}.name"), ""));
                    }
                } else {
                    check_label(&format!("{path}.name"), name, &mut errors);
                }
                for problem in names::port_number(port.port.into()) {
                    errors.push(FieldError::invalid(format!("{path}.port"), port.port, &problem));
                }
                check_protocol(&path, port.protocol.as_deref(), &mut errors);
                check_application(&path, port.app_protocol.as_deref(), &mut errors);
            }
        }
        errors
    }

    fn warn(&self, _old: Option<&Self>) -> Vec<String> {
        warnings::of_endpoints(self)
    }
}

impl Admit for EndpointSlice {
    fn fill(&mut self) {
        for endpoint in self.endpoints.iter_mut().flatten() {
            // The node and the zone have fields of their own in this version.
            endpoint.deprecated_topology = None;
        }
        for port in self.ports.iter_mut().flatten() {
            port.name.get_or_insert_default();
            fill_protocol(&mut port.protocol);
        }
    }

    fn check(&self, old: Option<&Self>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let family = self.address_type.as_str();
        match family {
            "IPv4" | "IPv6" | "FQDN" => {}
            "" => errors.push(FieldError::required("addressType", "")),
            other => {
                errors.push(FieldError::not_supported("addressType", other, &["FQDN", "IPv4", "IPv6"]));
            }
        }
        if old.is_some_and(|old| old.address_type != self.address_type) {
            errors.push(FieldError::invalid("addressType", family, "field is immutable"));
        }
        let count = self.endpoints.as_ref().map_or(0, Vec::len);
        if count > MAX_ENDPOINTS {
            errors.push(FieldError::too_many("endpoints", count, MAX_ENDPOINTS));
            return errors;
        }
        for (index, endpoint) in self.endpoints.iter().flatten().enumerate() {
            let path = format!("endpoints[{index}]");
            check_place(&path, endpoint.hostname.as_deref(), endpoint.node_name.as_deref(), &mut errors);
            if let Some(hints) = &endpoint.hints {
                check_hints(&format!("{path}.hints"), hints, &mut errors);
            }
            let path = format!("{path}.addresses");
            if endpoint.addresses.len() > MAX_ADDRESSES {
                errors.push(FieldError::too_many(&path, endpoint.addresses.len(), MAX_ADDRESSES));
                continue;
            }
            if endpoint.addresses.is_empty() {
                errors.push(FieldError::required(&path, "must contain at least 1 address"));
            }
            for (index, address) in endpoint.addresses.iter().enumerate() {
                let path = format!("{path}[{index}]");
                match (family, address.parse::<IpAddr>()) {
                    ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => {
                        errors.extend(check_usable_address(&path, address));
                    }
                    ("FQDN", _) => {
                        for problem in names::subdomain(address) {
                            errors.push(FieldError::invalid(&path, address.as_str(), &problem));
                        }
                    }
                    ("IPv6", _) => {
                        let why = "must be an IPv6 address";
                        errors.push(FieldError::invalid(&path, address.as_str(), why));
                    }
                    _ => {
                        let why = "must be an IPv4 address";
                        errors.push(FieldError::invalid(&path, address.as_str(), why));
                    }
                }
            }
        }
        let ports = self.ports.as_ref().map_or(0, Vec::len);
        if ports > MAX_PORTS {
            errors.push(FieldError::too_many("ports", ports, MAX_PORTS));
            return errors;
        }
        let mut seen = BTreeSet::new();
        for (index, port) in self.ports.iter().flatten().enumerate() {
            let path = format!("ports[{index}]");
            let name = port.name.as_deref().unwrap_or_default();
            if !name.is_empty() {
                check_label(&format!("{path}.name"), name, &mut errors);
            }
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
            check_protocol(&path, port.protocol.as_deref(), &mut errors);
            check_application(&path, port.app_protocol.as_deref(), &mut errors);
        }
        errors
    }
}

/// The host and the node an endpoint says it is.
fn check_place(path: &str, hostname: Option<&str>, node: Option<&str>, errors: &mut Vec<FieldError>) {
    if let Some(hostname) = hostname.filter(|hostname| !hostname.is_empty()) {
        check_label(&format!("{path}.hostname"), hostname, errors);
    }
    if let Some(node) = node {
        for problem in names::subdomain(node) {
            errors.push(FieldError::invalid(format!("{path}.nodeName"), node, &problem));
        }
    }
}

/// [Topology Aware Routing, "EndpointSlice hints"](https://kubernetes.io/docs/concepts/services-networking/topology-aware-routing/#implementation-control-plane)
fn check_hints(path: &str, hints: &EndpointHints, errors: &mut Vec<FieldError>) {
    let of_zones = hints.for_zones.iter().flatten().map(|zone| zone.name.as_str());
    let of_nodes = hints.for_nodes.iter().flatten().map(|node| node.name.as_str());
    let kinds: [(&str, Vec<&str>); 2] = [("forZones", of_zones.collect()), ("forNodes", of_nodes.collect())];
    for (field, all) in kinds {
        let path = format!("{path}.{field}");
        if all.len() > MAX_HINTS {
            errors.push(FieldError::too_many(path, all.len(), MAX_HINTS));
            continue;
        }
        let mut seen = BTreeSet::new();
        for (index, name) in all.into_iter().enumerate() {
            let path = format!("{path}[{index}].name");
            let problems = if field == "forNodes" {
                names::subdomain(name)
            } else if name.is_empty() {
                errors.push(FieldError::required(&path, ""));
                continue;
            } else {
                names::label_value(name)
            };
            for problem in problems {
                errors.push(FieldError::invalid(&path, name, &problem));
            }
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(path, name));
            }
        }
    }
}

fn check_application(path: &str, protocol: Option<&str>, errors: &mut Vec<FieldError>) {
    let Some(protocol) = protocol else { return };
    for problem in names::qualified(protocol) {
        errors.push(FieldError::invalid(format!("{path}.appProtocol"), protocol, &problem));
    }
}

fn fill_protocol(protocol: &mut Option<String>) {
    if protocol.as_deref().unwrap_or_default().is_empty() {
        *protocol = Some("TCP".to_owned());
    }
}

fn check_label(path: &str, name: &str, errors: &mut Vec<FieldError>) {
    for problem in names::label(name) {
        errors.push(FieldError::invalid(path, name, &problem));
    }
}

fn check_protocol(path: &str, protocol: Option<&str>, errors: &mut Vec<FieldError>) {
    let protocol = protocol.unwrap_or_default();
    if !PROTOCOLS.contains(&protocol) {
        errors.push(FieldError::not_supported(format!("{path}.protocol"), protocol, PROTOCOLS));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::apiserver::admission::admit;

    fn errors(slice: Value) -> Vec<String> {
        let admitted = admit::<EndpointSlice>(&slice, None).unwrap();
        admitted.errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn slices_have_limits() {
        let endpoint = json!({"addresses": ["10.0.0.1"]});
        let slice = |count: usize| json!({"metadata": {"name": "a"}, "addressType": "IPv4", "endpoints": vec![endpoint.clone(); count]});
        assert_eq!(errors(slice(1000)), Vec::<String>::new());
        assert_eq!(errors(slice(1001)), ["endpoints: Too many: 1001: must have at most 1000 items"]);
        let addresses = vec!["10.0.0.1"; 101];
        let many = json!({"addressType": "IPv4", "endpoints": [{"addresses": addresses}]});
        assert_eq!(errors(many), ["endpoints[0].addresses: Too many: 101: must have at most 100 items"]);
    }

    #[test]
    fn endpoints_say_where_they_are_as_upstream_allows() {
        for (endpoint, expected) in [
            (json!({"hostname": "A"}), "endpoints[0].hostname: Invalid value: \"A\""),
            (json!({"nodeName": "_"}), "endpoints[0].nodeName: Invalid value: \"_\""),
            (json!({"hints": {"forZones": [{"name": ""}]}}), "endpoints[0].hints.forZones[0].name: Required"),
            (
                json!({"hints": {"forZones": [{"name": "a"}, {"name": "a"}]}}),
                "endpoints[0].hints.forZones[1].name: Duplicate value: \"a\"",
            ),
            (json!({"addresses": []}), "endpoints[0].addresses: Required value"),
            (json!({"addresses": ["::1"]}), "endpoints[0].addresses[0]: Invalid value: \"::1\""),
            (json!({"addresses": ["127.0.0.1"]}), "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\""),
        ] {
            let mut whole = json!({"addresses": ["10.0.0.1"]});
            json_patch::merge(&mut whole, &endpoint);
            let errors = errors(json!({"addressType": "IPv4", "endpoints": [whole]}));
            assert!(errors[0].starts_with(expected), "{endpoint}: {errors:?}");
        }
    }
}
