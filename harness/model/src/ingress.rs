//! Ingress: who may answer an HTTP request that comes to an ingress controller.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::networking::v1::{Ingress, IngressBackend};

use crate::citation;
use crate::endpoints::{Endpoint, endpoints};
use crate::ports;
use crate::route::{Backend, Route, Source};
use crate::selector::is_external_name;
use crate::{ObjectKey, Promises, Protocol, World};

/// An HTTP request as an ingress controller gets it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IngressRequest {
    /// The `Host` header without a port; over TLS the server name too.
    pub host: String,
    /// The path, without a query, beginning with `/`.
    pub path: String,
    /// Whether it comes over TLS.
    pub tls: bool,
}

impl IngressRequest {
    pub fn http(host: impl Into<String>, path: impl Into<String>) -> Self {
        Self { host: host.into(), path: path.into(), tls: false }
    }

    pub fn https(host: impl Into<String>, path: impl Into<String>) -> Self {
        Self { tls: true, ..Self::http(host, path) }
    }
}

impl fmt::Display for IngressRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.tls { "https" } else { "http" }, self.host, self.path)
    }
}

/// Says which backends may answer a request that comes to the controller with this name.
///
/// [Ingress](https://kubernetes.io/docs/concepts/services-networking/ingress/): the rules of every
/// Ingress of the controller's classes are asked; the longest matching path of one Ingress wins,
/// then Exact before Prefix; what no rule takes goes to a default backend. Nothing is promised of
/// the order between Ingresses, between a precise host and a wildcard, nor of the answer where no
/// backend is: the controller gives one of its own then, so [`Route::Nobody`] says only that no
/// pod may have answered.
pub fn ingress(world: &World, promises: &Promises, controller: &str, request: &IngressRequest) -> Route {
    let mut candidates = Vec::new();
    let mut unclear = None;
    for (key, ingress) in &world.ingresses {
        match serves(world, controller, ingress) {
            Served::No => continue,
            Served::Unknown => unclear = Some(format!("nobody says which controller serves `{}`", key.name)),
            Served::Yes => {}
        }
        candidates.extend(matches(key, ingress, request));
    }
    let by_rule = candidates.iter().any(|candidate| candidate.certain && !candidate.default);
    if by_rule {
        // A default backend takes what no rule takes.
        candidates.retain(|candidate| !candidate.default);
    }
    let Some(first) = candidates.first() else {
        return Route::Nobody { why: format!("no rule matches {request}"), rule: citation::INGRESS_DEFAULT };
    };
    let rule = if first.default { citation::INGRESS_DEFAULT } else { citation::INGRESS_PATHS };
    if candidates.iter().any(|candidate| !candidate.certain) {
        unclear.get_or_insert_with(|| "the class decides what the path means".to_owned());
    }
    if !request.tls && candidates.iter().any(|candidate| candidate.encrypted) {
        // Many controllers redirect to HTTPS then; nobody promises that they do or do not.
        unclear.get_or_insert_with(|| {
            format!("`{}` has a certificate, so HTTP may be redirected", request.host)
        });
    }
    let mut by = BTreeSet::new();
    let mut services = BTreeSet::new();
    for candidate in &candidates {
        match targets(world, promises, &candidate.ingress.namespace, candidate.backend) {
            Targets::These { ready, terminating, service } => {
                services.insert(format!("`{}`", service.name));
                if ready.is_empty() && !terminating.is_empty() {
                    // The fallback to terminating endpoints is promised of service proxies only.
                    unclear.get_or_insert_with(|| format!("no endpoint of `{}` is ready", service.name));
                    by.extend(terminating);
                } else if ready.is_empty() && candidates.len() > 1 {
                    unclear.get_or_insert_with(|| format!("`{}` has no ready endpoints", service.name));
                } else {
                    by.extend(ready);
                }
            }
            Targets::Unknown(why) => return Route::NotPromised { why, rule },
        }
    }
    let services: Vec<_> = services.into_iter().collect();
    let services = services.join(" and ");
    match (by.is_empty(), unclear) {
        (true, _) => Route::Nobody { why: format!("{services} has no ready endpoints"), rule },
        (false, Some(why)) => Route::AtMost { by, why, rule },
        (false, None) => {
            // The controller is the client of the backend.
            let why = format!("ready endpoints of {services}");
            Route::Answered { by, source: Source::NotPromised, affinity: None, why, rule }
        }
    }
}

/// The Secrets of which one must show the certificate for a host; empty where none is named, and
/// then which certificate is shown is not promised.
///
/// [Ingress, "TLS"](https://kubernetes.io/docs/concepts/services-networking/ingress/#tls): hosts
/// of a TLS section "are multiplexed on the same port according to the hostname specified through
/// the SNI TLS extension".
pub fn certificates(world: &World, controller: &str, host: &str) -> BTreeSet<ObjectKey> {
    let served =
        world.ingresses.iter().filter(|(_, ingress)| serves(world, controller, ingress) == Served::Yes);
    let mut secrets = BTreeSet::new();
    for (key, ingress) in served {
        for tls in ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten()) {
            let covers = tls.hosts.iter().flatten().any(|pattern| host_matches(pattern, host));
            if let Some(secret) = tls.secret_name.as_ref().filter(|_| covers) {
                secrets.insert(ObjectKey::new(key.namespace.clone(), secret.clone()));
            }
        }
    }
    secrets
}

/// Is an Ingress the controller's business?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Served {
    Yes,
    No,
    Unknown,
}

/// [Ingress class](https://kubernetes.io/docs/concepts/services-networking/ingress/#ingress-class):
/// "a reference to an IngressClass resource that contains additional configuration including the
/// name of the controller that should implement the class".
fn serves(world: &World, controller: &str, ingress: &Ingress) -> Served {
    let annotated = ingress.metadata.annotations.as_ref();
    let annotated = annotated.and_then(|annotations| annotations.get("kubernetes.io/ingress.class"));
    let named = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref());
    // The older annotation was "never formally defined"; it is read like the field.
    let Some(class) = named.or(annotated) else {
        return Served::Unknown;
    };
    let spec = world.ingress_classes.get(class).and_then(|class| class.spec.as_ref());
    match spec.and_then(|spec| spec.controller.as_deref()) {
        Some(name) if name == controller => Served::Yes,
        None if named.is_none() => Served::Unknown,
        _ => Served::No,
    }
}

/// A backend that may be meant.
struct Candidate<'a> {
    ingress: &'a ObjectKey,
    backend: &'a IngressBackend,
    /// Whether it is sure that the rule takes the request.
    certain: bool,
    default: bool,
    /// The host has a certificate.
    encrypted: bool,
}

/// The backends one Ingress may send a request to.
fn matches<'a>(key: &'a ObjectKey, ingress: &'a Ingress, request: &IngressRequest) -> Vec<Candidate<'a>> {
    let Some(spec) = &ingress.spec else {
        return Vec::new();
    };
    let tls = spec.tls.iter().flatten().flat_map(|tls| tls.hosts.iter().flatten());
    let encrypted = tls.clone().any(|pattern| host_matches(pattern, &request.host));
    let candidate =
        |backend, certain, default| Candidate { ingress: key, backend, certain, default, encrypted };
    let mut found: Vec<(Weight, Candidate<'a>)> = Vec::new();
    let mut without_paths = false;
    for rule in spec.rules.iter().flatten() {
        let any_host = rule.host.as_deref().unwrap_or_default();
        if !any_host.is_empty() && !host_matches(any_host, &request.host) {
            continue;
        }
        let Some(http) = &rule.http else {
            without_paths = true;
            continue;
        };
        for path in &http.paths {
            let written = path.path.as_deref().unwrap_or("/");
            let Some((certain, exact)) = path_matches(&path.path_type, written, &request.path) else {
                continue;
            };
            let host = Host::of(any_host);
            let length = written.trim_end_matches('/').len();
            found.push((Weight { host, length, exact }, candidate(&path.backend, certain, false)));
        }
    }
    let chosen = preferred(found);
    if chosen.iter().any(|candidate| candidate.certain) {
        return chosen;
    }
    // "If defaultBackend is not set, the handling of requests that do not match any of the rules
    // will be up to the ingress controller"; a rule without paths sends everything there.
    let default = spec.default_backend.iter().map(|backend| candidate(backend, true, !without_paths));
    chosen.into_iter().chain(default).collect()
}

/// How strongly a path matches, within one Ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Weight {
    host: Host,
    length: usize,
    exact: bool,
}

/// What a rule says of hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    Any,
    Wildcard,
    Precise,
}

impl Host {
    fn of(host: &str) -> Self {
        match host {
            "" => Self::Any,
            host if host.starts_with("*.") => Self::Wildcard,
            _ => Self::Precise,
        }
    }
}

/// [Multiple matches](https://kubernetes.io/docs/concepts/services-networking/ingress/#multiple-matches):
/// "precedence will be given first to the longest matching path. If two paths are still equally
/// matched, precedence will be given to paths with an exact path type". That is of paths: between
/// rules whose hosts match differently nothing is said, so all of them stay.
fn preferred<'a>(found: Vec<(Weight, Candidate<'a>)>) -> Vec<Candidate<'a>> {
    let better = |one: Weight, other: Weight| {
        one.host == other.host && (one.length, one.exact) > (other.length, other.exact)
    };
    let weights: Vec<(Weight, bool)> =
        found.iter().map(|(weight, candidate)| (*weight, candidate.certain)).collect();
    let beaten = |weight: Weight| weights.iter().any(|(other, certain)| *certain && better(*other, weight));
    found.into_iter().filter(|(weight, _)| !beaten(*weight)).map(|(_, candidate)| candidate).collect()
}

/// [Hostname wildcards](https://kubernetes.io/docs/concepts/services-networking/ingress/#hostname-wildcards):
/// a wildcard covers exactly one label. Hosts are compared without regard to case (RFC 9110, 4.2.3).
fn host_matches(pattern: &str, host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let pattern = pattern.to_ascii_lowercase();
    match pattern.strip_prefix("*.") {
        None => pattern == host,
        Some(suffix) => host.split_once('.').is_some_and(|(first, rest)| !first.is_empty() && rest == suffix),
    }
}

/// Whether a path takes a request, and if so whether that is certain and whether it is exact.
///
/// [Path types](https://kubernetes.io/docs/concepts/services-networking/ingress/#path-types): Exact
/// "matches the URL path exactly and with case sensitivity", Prefix "on a path element by element
/// basis", a slash at the end of either aside; ImplementationSpecific "is up to the IngressClass",
/// which may take it for either of the others, so that only an equal path is certain.
fn path_matches(path_type: &str, written: &str, path: &str) -> Option<(bool, bool)> {
    let equal = written == path;
    let prefix = elements(path).starts_with(&elements(written));
    match path_type {
        "Exact" => equal.then_some((true, true)),
        "Prefix" => prefix.then_some((true, false)),
        // It may also be a pattern of the implementation's own.
        _ => Some((equal, false)),
    }
}

fn elements(path: &str) -> Vec<&str> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() { Vec::new() } else { path.split('/').collect() }
}

/// Where a backend's requests may go.
enum Targets {
    These { ready: BTreeSet<Backend>, terminating: BTreeSet<Backend>, service: ObjectKey },
    Unknown(String),
}

fn targets(world: &World, promises: &Promises, namespace: &str, backend: &IngressBackend) -> Targets {
    let Some(service) = &backend.service else {
        return Targets::Unknown("the backend is no service".to_owned());
    };
    let key = ObjectKey::new(namespace, service.name.clone());
    let none = |service| Targets::These { ready: BTreeSet::new(), terminating: BTreeSet::new(), service };
    let Some(object) = world.services.get(&key) else {
        return none(key);
    };
    if is_external_name(object) {
        return Targets::Unknown(format!("`{}` is an ExternalName", key.name));
    }
    let wanted = service.port.as_ref();
    let number = wanted.and_then(|port| port.number);
    let name = wanted.and_then(|port| port.name.as_deref());
    let port = ports::service_ports(object).find(|port| match number {
        Some(number) => port.port == number,
        None => port.name.as_deref() == name,
    });
    let Some(port) = port.filter(|port| Protocol::of_field(port.protocol.as_deref()) == Some(Protocol::Tcp))
    else {
        return none(key);
    };
    let expected = endpoints(world, promises, &key);
    let expected = expected.port(port.name.as_deref().unwrap_or_default(), Protocol::Tcp);
    let choose = |wanted: fn(&Endpoint) -> bool| -> BTreeSet<Backend> {
        let endpoints = expected.iter().flat_map(|port| &port.endpoints).filter(|endpoint| wanted(endpoint));
        endpoints.filter_map(|endpoint| Backend::of(world, endpoint)).collect()
    };
    Targets::These {
        ready: choose(|endpoint| endpoint.conditions.ready),
        terminating: choose(|endpoint| endpoint.conditions.serving && endpoint.conditions.terminating),
        service: key,
    }
}
