//! Ingresses and their classes: defaults and validation
//! ([Ingress](https://kubernetes.io/docs/concepts/services-networking/ingress/),
//! [Ingress API](https://kubernetes.io/docs/reference/kubernetes-api/service-resources/ingress-v1/)).

use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressClass, IngressSpec, ServiceBackendPort, ServiceCIDR,
};
use serde_json::{Value, json};

use super::admission::Admit;
use super::json::{object_mut, text};
use super::names;
use super::resources::INGRESS_CLASSES;
use super::status::FieldError;
use super::store::Transaction;
use super::warnings;

/// How classes were chosen before there was a field for it.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
const IMMUTABLE: &str = "field is immutable";

impl Admit for Ingress {
    fn fill(&mut self) {
        self.spec.get_or_insert_default();
        self.status.get_or_insert_default().load_balancer.get_or_insert_default();
    }

    fn check(&self, old: Option<&Self>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let default = IngressSpec::default();
        let spec = self.spec.as_ref().unwrap_or(&default);
        let annotated = self.metadata.annotations.as_ref().and_then(|all| all.get(CLASS_ANNOTATION));
        if let Some(class) = annotated.filter(|_| old.is_none() && spec.ingress_class_name.is_some()) {
            errors.push(FieldError::invalid(
                format!("annotations.{CLASS_ANNOTATION}"),
                class.as_str(),
                "can not be set when the class field is also set",
            ));
        }
        check_spec(spec, &mut errors);
        let addresses = self
            .status
            .iter()
            .flat_map(|status| &status.load_balancer)
            .flat_map(|balancer| balancer.ingress.iter().flatten());
        for (index, address) in addresses.enumerate() {
            let path = format!("status.loadBalancer.ingress[{index}]");
            if let Some(ip) =
                address.ip.as_deref().filter(|ip| !ip.is_empty() && ip.parse::<IpAddr>().is_err())
            {
                errors.push(FieldError::invalid(format!("{path}.ip"), ip, "must be a valid IP address"));
            }
            if let Some(name) = address.hostname.as_deref().filter(|name| !name.is_empty()) {
                for problem in names::subdomain(name) {
                    errors.push(FieldError::invalid(format!("{path}.hostname"), name, &problem));
                }
                if name.parse::<IpAddr>().is_ok() {
                    let why = "must be a DNS name, not an IP address";
                    errors.push(FieldError::invalid(format!("{path}.hostname"), name, why));
                }
            }
        }
        errors
    }

    fn warn(&self, old: Option<&Self>) -> Vec<String> {
        if old.is_some() { Vec::new() } else { warnings::of_new_ingress(self, CLASS_ANNOTATION) }
    }
}

fn check_spec(spec: &IngressSpec, errors: &mut Vec<FieldError>) {
    let rules = spec.rules.as_deref().unwrap_or_default();
    if rules.is_empty() && spec.default_backend.is_none() {
        let why = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid("spec", json!([]), why));
    }
    if let Some(backend) = &spec.default_backend {
        check_backend("spec.defaultBackend", backend, errors);
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        let host = rule.host.as_deref().unwrap_or_default();
        if !host.is_empty() {
            if host.parse::<IpAddr>().is_ok() {
                let why = "must be a DNS name, not an IP address";
                errors.push(FieldError::invalid(format!("{path}.host"), host, why));
            }
            check_host(&format!("{path}.host"), host, errors);
        }
        let Some(http) = &rule.http else { continue };
        if http.paths.is_empty() {
            errors.push(FieldError::required(format!("{path}.http.paths"), ""));
        }
        for (index, http_path) in http.paths.iter().enumerate() {
            check_path(&format!("{path}.http.paths[{index}]"), http_path, errors);
        }
    }
    for (index, tls) in spec.tls.iter().flatten().enumerate() {
        let path = format!("spec.tls[{index}]");
        for (index, host) in tls.hosts.iter().flatten().enumerate() {
            check_host(&format!("{path}.hosts[{index}]"), host, errors);
        }
        if let Some(secret) = tls.secret_name.as_deref().filter(|secret| !secret.is_empty()) {
            for problem in names::subdomain(secret) {
                errors.push(FieldError::invalid(format!("{path}.secretName"), secret, &problem));
            }
        }
    }
    if let Some(class) = &spec.ingress_class_name {
        for problem in names::subdomain(class) {
            errors.push(FieldError::invalid("spec.ingressClassName", class.as_str(), &problem));
        }
    }
}

/// [Ingress, "Hostname wildcards"](https://kubernetes.io/docs/concepts/services-networking/ingress/#hostname-wildcards)
fn check_host(path: &str, host: &str, errors: &mut Vec<FieldError>) {
    let problems = if host.contains('*') { names::wildcard(host) } else { names::subdomain(host) };
    for problem in problems {
        errors.push(FieldError::invalid(path, host, &problem));
    }
}

/// [Ingress, "Path types"](https://kubernetes.io/docs/concepts/services-networking/ingress/#path-types)
fn check_path(path: &str, http_path: &HTTPIngressPath, errors: &mut Vec<FieldError>) {
    let value = http_path.path.as_deref().unwrap_or_default();
    let mut refuse = |why: &str| errors.push(FieldError::invalid(format!("{path}.path"), value, why));
    match http_path.path_type.as_str() {
        "Exact" | "Prefix" => {
            if !value.starts_with('/') {
                refuse("must be an absolute path");
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"] {
                if value.contains(part) {
                    refuse(&format!("must not contain '{part}'"));
                }
            }
            for end in ["/..", "/."] {
                if value.ends_with(end) {
                    refuse(&format!("cannot end with '{end}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !value.is_empty() && !value.starts_with('/') {
                refuse("must be an absolute path");
            }
        }
        "" => errors.push(FieldError::required(format!("{path}.pathType"), "pathType must be specified")),
        other => errors.push(FieldError::not_supported(format!("{path}.pathType"), other, PATH_TYPES)),
    }
    check_backend(&format!("{path}.backend"), &http_path.backend, errors);
}

fn check_backend(path: &str, backend: &IngressBackend, errors: &mut Vec<FieldError>) {
    match (&backend.service, &backend.resource) {
        (Some(_), Some(_)) => {
            errors.push(FieldError::invalid(path, "", "cannot set both resource and service backends"));
        }
        (None, None) => {
            errors.push(FieldError::invalid(path, "", "resource or service backend is required"));
        }
        (None, Some(resource)) => {
            let fields = [("kind", &resource.kind), ("name", &resource.name)];
            for (field, value) in fields {
                let path = format!("{path}.resource.{field}");
                if value.is_empty() {
                    errors.push(FieldError::required(path, &format!("{field} is required")));
                } else {
                    for problem in names::segment(value) {
                        errors.push(FieldError::invalid(&path, value.as_str(), &problem));
                    }
                }
            }
        }
        (Some(service), None) => {
            let name = format!("{path}.service.name");
            if service.name.is_empty() {
                errors.push(FieldError::required(name, ""));
            } else {
                for problem in names::dns1035(&service.name) {
                    errors.push(FieldError::invalid(&name, service.name.as_str(), &problem));
                }
            }
            check_backend_port(path, service.port.as_ref(), errors);
        }
    }
}

fn check_backend_port(path: &str, port: Option<&ServiceBackendPort>, errors: &mut Vec<FieldError>) {
    let name = port.and_then(|port| port.name.as_deref()).unwrap_or_default();
    let number = port.and_then(|port| port.number).unwrap_or_default();
    match (name, number) {
        ("", 0) => errors.push(FieldError::required(path, "port name or number is required")),
        ("", number) => {
            for problem in names::port_number(number.into()) {
                errors.push(FieldError::invalid(format!("{path}.service.port.number"), number, &problem));
            }
        }
        (name, 0) => {
            for problem in names::port_name(name) {
                errors.push(FieldError::invalid(format!("{path}.service.port.name"), name, &problem));
            }
        }
        _ => errors.push(FieldError::invalid(path, "", "cannot set both port name & port number")),
    }
}

/// A new Ingress that chooses no class gets the default one, if there is one
/// ([Ingress, "Default IngressClass"](https://kubernetes.io/docs/concepts/services-networking/ingress/#default-ingress-class)).
pub(crate) fn choose_class(transaction: &Transaction<'_>, ingress: &mut Value) {
    let annotations = ingress.pointer("/metadata/annotations");
    let annotated = annotations.is_some_and(|annotations| annotations.get(CLASS_ANNOTATION).is_some());
    if annotated || ingress.pointer("/spec/ingressClassName").is_some() {
        return;
    }
    let defaults = transaction.list(&INGRESS_CLASSES, None).map(|class| &class.value).filter(|class| {
        let annotations = class.pointer("/metadata/annotations");
        annotations.and_then(|annotations| annotations[DEFAULT_ANNOTATION].as_str()) == Some("true")
    });
    // The newest; of equally old ones the first by name.
    let key = |class: &&Value| {
        let name = text(class, "/metadata/name").to_owned();
        (text(class, "/metadata/creationTimestamp").to_owned(), std::cmp::Reverse(name))
    };
    if let Some(class) = defaults.max_by_key(key) {
        let name = json!(text(class, "/metadata/name"));
        object_mut(ingress, "spec").insert("ingressClassName".to_owned(), name);
    }
}

impl Admit for IngressClass {
    fn fill(&mut self) {
        let spec = self.spec.get_or_insert_default();
        if let Some(parameters) = &mut spec.parameters {
            parameters.scope.get_or_insert_with(|| "Cluster".to_owned());
        }
    }

    fn check(&self, old: Option<&Self>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = self.spec.clone().unwrap_or_default();
        let controller = spec.controller.as_deref().unwrap_or_default();
        if let Some(old) = old.and_then(|old| old.spec.as_ref())
            && old.controller.as_deref().unwrap_or_default() != controller
        {
            errors.push(FieldError::invalid("spec.controller", controller, IMMUTABLE));
        }
        if controller.len() > 250 {
            errors.push(FieldError::too_long("spec.controller", 250));
        }
        if controller.is_empty() {
            errors.push(FieldError::required("spec.controller", ""));
        }
        for problem in names::domain_prefixed(controller) {
            errors.push(FieldError::invalid("spec.controller", controller, &problem));
        }
        let Some(parameters) = &spec.parameters else { return errors };
        for (field, value) in [("kind", &parameters.kind), ("name", &parameters.name)] {
            if value.is_empty() {
                let why = format!("{field} is required");
                errors.push(FieldError::required(format!("spec.parameters.{field}"), &why));
            }
        }
        let namespace = parameters.namespace.as_deref().unwrap_or_default();
        match parameters.scope.as_deref().unwrap_or_default() {
            "Namespace" if namespace.is_empty() => errors.push(FieldError::required(
                "spec.parameters.namespace",
                "`parameters.scope` is set to 'Namespace'",
            )),
            "Cluster" if !namespace.is_empty() => errors.push(FieldError::forbidden(
                "spec.parameters.namespace",
                "`parameters.scope` is set to 'Cluster'",
            )),
            "Namespace" | "Cluster" => {}
            other => errors.push(FieldError::not_supported(
                "spec.parameters.scope",
                other,
                &["Cluster", "Namespace"],
            )),
        }
        errors
    }
}

impl Admit for ServiceCIDR {
    fn fill(&mut self) {
        self.spec.get_or_insert_default();
        self.status.get_or_insert_default();
    }

    fn check(&self, old: Option<&Self>) -> Vec<FieldError> {
        let cidrs = |this: &Self| this.spec.clone().unwrap_or_default().cidrs.unwrap_or_default();
        let mut errors = Vec::new();
        if cidrs(self).is_empty() {
            errors.push(FieldError::required("spec.cidrs", "at least one CIDR required"));
        }
        if old.is_some_and(|old| cidrs(old) != cidrs(self)) {
            errors.push(FieldError::invalid("spec.cidrs", json!(cidrs(self)), IMMUTABLE));
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::admission::admit;

    fn errors(spec: Value) -> Vec<String> {
        let ingress = json!({"metadata": {"name": "a"}, "spec": spec});
        admit::<Ingress>(&ingress, None).unwrap().errors.iter().map(ToString::to_string).collect()
    }

    fn rule(host: &str, path: Value) -> Value {
        json!({"rules": [{"host": host, "http": {"paths": [path]}}]})
    }

    fn path(kind: Value, path: &str) -> Value {
        json!({"path": path, "pathType": kind, "backend": {"service": {"name": "a", "port": {"number": 80}}}})
    }

    #[test]
    fn good_ingresses_pass() {
        for spec in [
            rule("a.b", path(json!("Prefix"), "/")),
            rule("*.b", path(json!("Exact"), "/x")),
            rule("", path(json!("ImplementationSpecific"), "")),
            json!({"defaultBackend": {"service": {"name": "a", "port": {"name": "web"}}}}),
            json!({"defaultBackend": {"resource": {"kind": "K", "name": "n", "apiGroup": "g.io"}}}),
        ] {
            assert_eq!(errors(spec.clone()), Vec::<String>::new(), "{spec}");
        }
    }

    #[test]
    fn bad_ingresses_are_told_why() {
        let backend = |backend: Value| json!({"path": "/", "pathType": "Exact", "backend": backend});
        for (spec, expected) in [
            (json!({}), "spec: Invalid value: []: either `defaultBackend` or `rules` must be specified"),
            (rule("1.2.3.4", path(json!("Exact"), "/")), "spec.rules[0].host: Invalid value: \"1.2.3.4\""),
            (rule("A", path(json!("Exact"), "/")), "spec.rules[0].host: Invalid value: \"A\""),
            (rule("a.*.b", path(json!("Exact"), "/")), "spec.rules[0].host: Invalid value: \"a.*.b\""),
            (
                rule("a", path(Value::Null, "/")),
                "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
            ),
            (
                rule("a", path(json!("Fuzzy"), "/")),
                "spec.rules[0].http.paths[0].pathType: Unsupported value: \"Fuzzy\"",
            ),
            (
                rule("a", path(json!("Prefix"), "x")),
                "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path",
            ),
            (
                rule("a", path(json!("Prefix"), "/a//b")),
                "spec.rules[0].http.paths[0].path: Invalid value: \"/a//b\": must not contain '//'",
            ),
            (
                rule("a", backend(json!({}))),
                "spec.rules[0].http.paths[0].backend: Invalid value: \"\": resource or service backend is \
                 required",
            ),
            (
                rule("a", backend(json!({"service": {"name": "a"}}))),
                "spec.rules[0].http.paths[0].backend: Required value: port name or number is required",
            ),
            (
                rule("a", backend(json!({"service": {"name": "a", "port": {"number": 70000}}}))),
                "spec.rules[0].http.paths[0].backend.service.port.number: Invalid value: 70000",
            ),
            (json!({"rules": [{"http": {"paths": []}}]}), "spec.rules[0].http.paths: Required value"),
            (
                json!({"rules": [{}], "tls": [{"hosts": ["_"], "secretName": "s"}]}),
                "spec.tls[0].hosts[0]: Invalid value: \"_\"",
            ),
        ] {
            let errors = errors(spec.clone());
            assert!(errors.iter().any(|error| error.starts_with(expected)), "{spec}: {errors:?}");
        }
    }

    #[test]
    fn a_class_names_its_controller_for_good() {
        let class = |controller: &str| json!({"metadata": {"name": "a"}, "spec": {"controller": controller}});
        let errors = |new: &str, old: Option<&str>| {
            let old = old.map(class);
            let admitted = admit::<IngressClass>(&class(new), old.as_ref()).unwrap();
            admitted.errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(errors("k8s.io/ingress-nginx", None), Vec::<String>::new());
        assert!(errors("", None)[0].starts_with("spec.controller: Required value"));
        assert!(errors("nginx", None)[0].contains("must be a domain-prefixed path"));
        assert!(errors("b.io/c", Some("a.io/c"))[0].ends_with("field is immutable"));
    }
}
