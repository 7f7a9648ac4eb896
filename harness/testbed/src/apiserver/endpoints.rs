//! Endpoints and endpoint slices: defaults and validation
//! ([EndpointSlices](https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/),
//! [Service, "Services without selectors"](https://kubernetes.io/docs/concepts/services-networking/service/#services-without-selectors)).

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::admission::Admit;
use super::names;
use super::service::{PROTOCOLS, check_usable_address};
use super::status::FieldError;

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
                    errors.extend(check_usable_address(&format!("{path}.{field}[{index}].ip"), &address.ip));
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
            }
        }
        errors
    }
}

impl Admit for EndpointSlice {
    fn fill(&mut self) {
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
        for (index, endpoint) in self.endpoints.iter().flatten().enumerate() {
            let path = format!("endpoints[{index}].addresses");
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
        let mut seen = Vec::new();
        for (index, port) in self.ports.iter().flatten().enumerate() {
            let path = format!("ports[{index}]");
            let name = port.name.as_deref().unwrap_or_default();
            if !name.is_empty() {
                check_label(&format!("{path}.name"), name, &mut errors);
            }
            if seen.contains(&name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
            seen.push(name);
            check_protocol(&path, port.protocol.as_deref(), &mut errors);
        }
        errors
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
