//! Endpoints: the addresses behind a service, and in which condition each is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Endpoints, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::ports::{self, Protocol};
use crate::selector::{has_selector, is_external_name, selects};
use crate::{ObjectKey, Promises, World};

/// Says what Endpoints and EndpointSlices of a service must show.
///
/// With a selector they follow the pods: every selected pod that has an address and has not
/// finished ([Service](https://kubernetes.io/docs/concepts/services-networking/service/#services-in-kubernetes):
/// "continuously scans for Pods that match its selector, and then makes any necessary updates to
/// the set of EndpointSlices"). Without one they are what was made by hand
/// ([Services without selectors](https://kubernetes.io/docs/concepts/services-networking/service/#services-without-selectors)).
/// A service that does not exist, or is an ExternalName, has none.
pub fn endpoints(world: &World, promises: &Promises, service: &ObjectKey) -> Expected {
    found(world, promises, service, |_| true)
}

/// The endpoints that proxies are to know: those of [`endpoints`] without what is labelled as headless
/// ([Labels, annotations and taints](https://kubernetes.io/docs/reference/labels-annotations-taints/#servicekubernetesioheadless):
/// "Used on: Endpoints"; their label is that of the EndpointSlices that mirror them).
pub(crate) fn proxied(world: &World, promises: &Promises, service: &ObjectKey) -> Expected {
    let is_headless = |metadata: &ObjectMeta| {
        let labels = metadata.labels.as_ref();
        labels.is_some_and(|labels| labels.contains_key("service.kubernetes.io/headless"))
    };
    found(world, promises, service, |metadata| !is_headless(metadata))
}

/// What of it is made by hand counts if its metadata says so.
fn found(
    world: &World,
    promises: &Promises,
    service: &ObjectKey,
    counts: impl Fn(&ObjectMeta) -> bool,
) -> Expected {
    let mut expected = Expected {
        service: service.clone(),
        selected: false,
        publish_not_ready: false,
        terminating_conditions: promises.terminating_conditions,
        primary_family_is_ipv4: None,
        ports: Vec::new(),
        absent: BTreeMap::new(),
    };
    let Some(object) = world.services.get(service) else {
        return expected;
    };
    if is_external_name(object) {
        return expected;
    }
    expected.selected = has_selector(object);
    expected.publish_not_ready = publishes_not_ready(object);
    expected.primary_family_is_ipv4 =
        families(object).and_then(|families| families.first().map(|first| *first == Family::V4));
    for port in ports::service_ports(object) {
        if let Some(protocol) = Protocol::of_field(port.protocol.as_deref()) {
            expected.port_mut(port.name.as_deref().unwrap_or_default(), protocol);
        }
    }
    if expected.selected {
        add_selected(&mut expected, world, object);
    } else if let Some(made) = world.endpoints.get(service).filter(|made| counts(&made.metadata)) {
        add_made_endpoints(&mut expected, made);
    }
    for slice in world.endpoint_slices.values() {
        if is_made_slice(slice, service, expected.selected) && counts(&slice.metadata) {
            add_made_slice(&mut expected, slice);
        }
    }
    expected
}

/// What Endpoints and EndpointSlices of one service must show.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    pub service: ObjectKey,
    /// The service has a selector, so the endpoints are its pods.
    pub selected: bool,
    /// `publishNotReadyAddresses`: "disregard any indications of ready/not-ready".
    pub publish_not_ready: bool,
    /// One entry per service port, the same address in each. A headless service without ports
    /// has one entry whose endpoints have no port.
    pub ports: Vec<ExpectedPort>,
    pub(crate) terminating_conditions: bool,
    /// The family the Endpoints object is in, where the service states one.
    pub(crate) primary_family_is_ipv4: Option<bool>,
    /// Pods of the namespace that must not be listed, and why not: for messages.
    pub(crate) absent: BTreeMap<IpAddr, String>,
}

impl Expected {
    /// The entry of a port; the name of an only port may be empty.
    pub fn port(&self, name: &str, protocol: Protocol) -> Option<&ExpectedPort> {
        self.ports.iter().find(|port| port.name == name && port.protocol == protocol)
    }

    /// Whether somebody made an endpoint by hand: then it is his to say who is there.
    pub(crate) fn is_by_hand(&self, port: &ExpectedPort, endpoint: &Endpoint) -> bool {
        !self.selected || port.sliced.contains(endpoint)
    }

    fn port_mut(&mut self, name: &str, protocol: Protocol) -> &mut ExpectedPort {
        let found = self.ports.iter().position(|port| port.name == name && port.protocol == protocol);
        let index = found.unwrap_or_else(|| {
            self.ports.push(ExpectedPort {
                name: name.to_owned(),
                protocol,
                endpoints: BTreeSet::new(),
                sliced: BTreeSet::new(),
            });
            self.ports.len() - 1
        });
        &mut self.ports[index]
    }
}

/// What must be shown for one port of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpectedPort {
    pub name: String,
    pub protocol: Protocol,
    pub endpoints: BTreeSet<Endpoint>,
    /// Where the others are pods that were selected: those that only stand in slices made by hand.
    pub(crate) sliced: BTreeSet<Endpoint>,
}

impl ExpectedPort {
    /// The addresses that are ready.
    pub fn ready(&self) -> BTreeSet<SocketAddr> {
        self.sockets(|conditions| conditions.ready)
    }

    /// The addresses that are known and not ready. Two pods of one node's network may share an
    /// address; it is ready when one of them is.
    pub fn not_ready(&self) -> BTreeSet<SocketAddr> {
        let ready = self.ready();
        self.sockets(|conditions| !conditions.ready).difference(&ready).copied().collect()
    }

    /// The addresses of pods that are being deleted and still pass their readiness probe.
    pub fn serving_terminating(&self) -> BTreeSet<SocketAddr> {
        self.sockets(|conditions| conditions.serving && conditions.terminating)
    }

    fn sockets(&self, wanted: impl Fn(Conditions) -> bool) -> BTreeSet<SocketAddr> {
        self.endpoints
            .iter()
            .filter(|endpoint| wanted(endpoint.conditions))
            .filter_map(Endpoint::socket)
            .collect()
    }
}

/// One address behind a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub address: IpAddr,
    /// None only for a headless service without ports.
    pub port: Option<u16>,
    pub pod: Option<ObjectKey>,
    pub node: Option<String>,
    pub conditions: Conditions,
}

impl Endpoint {
    pub fn socket(&self) -> Option<SocketAddr> {
        self.port.map(|port| SocketAddr::new(self.address, port))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.socket() {
            Some(socket) => write!(f, "`{socket}`")?,
            None => write!(f, "`{}`", self.address)?,
        }
        match &self.pod {
            Some(pod) => write!(f, " (pod `{}`, {})", pod.name, self.conditions),
            None => write!(f, " ({})", self.conditions),
        }
    }
}

/// The conditions of an endpoint
/// ([EndpointSlices, "Conditions"](https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#conditions)):
/// `serving` is the pod's Ready condition, `terminating` its deletion, `ready` "essentially a
/// shortcut for checking serving and not terminating", always true with `publishNotReadyAddresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conditions {
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

impl Conditions {
    const READY: Self = Self { ready: true, serving: true, terminating: false };
    const NOT_READY: Self = Self { ready: false, serving: false, terminating: false };
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.ready, self.serving, self.terminating) {
            (true, _, false) => "ready",
            (true, _, true) => "ready, terminating",
            (false, true, true) => "serving, terminating",
            (false, false, true) => "not serving, terminating",
            (false, _, false) => "not ready",
        })
    }
}

fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or_default()
}

fn add_selected(expected: &mut Expected, world: &World, service: &Service) {
    let families = families(service);
    for (key, pod) in &world.pods {
        if key.namespace != expected.service.namespace {
            continue;
        }
        let addresses = addresses_in(pod, families.as_deref());
        match why_absent(service, pod) {
            Some(why) => {
                for address in addresses {
                    expected.absent.entry(address).or_insert_with(|| format!("pod `{}` {why}", key.name));
                }
            }
            None => addresses.into_iter().for_each(|address| add_pod(expected, service, key, pod, address)),
        }
    }
}

/// Why a pod with an address is no endpoint at all. A pod that is being deleted is one: the
/// listings decide what they do with it.
fn why_absent(service: &Service, pod: &Pod) -> Option<String> {
    if !selects(service, pod) {
        return Some("is not selected".to_owned());
    }
    // [Pod Lifecycle, "Pod phase"](https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-phase):
    // in these phases all containers have terminated and "will not be restarted".
    finished_phase(pod).map(|phase| format!("has finished ({phase})"))
}

pub(crate) fn finished_phase(pod: &Pod) -> Option<&str> {
    let phase = pod.status.as_ref()?.phase.as_deref()?;
    matches!(phase, "Succeeded" | "Failed").then_some(phase)
}

fn add_pod(expected: &mut Expected, service: &Service, key: &ObjectKey, pod: &Pod, address: IpAddr) {
    let serving = is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let ready = expected.publish_not_ready || (serving && !terminating);
    let endpoint = |port| Endpoint {
        address,
        port,
        pod: Some(key.clone()),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        conditions: Conditions { ready, serving, terminating },
    };
    let service_ports: Vec<&ServicePort> = ports::service_ports(service).collect();
    if service_ports.is_empty() {
        // [Headless Services](https://kubernetes.io/docs/concepts/services-networking/service/#headless-services)
        // may have no ports; their addresses are listed all the same.
        expected.port_mut("", Protocol::Tcp).endpoints.insert(endpoint(None));
    }
    for port in service_ports {
        let Some(protocol) = Protocol::of_field(port.protocol.as_deref()) else {
            continue;
        };
        match ports::target_port(pod, port) {
            Some(number) => {
                let name = port.name.as_deref().unwrap_or_default();
                expected.port_mut(name, protocol).endpoints.insert(endpoint(Some(number)));
            }
            None => {
                let why = format!("pod `{}` does not have the port the service names", key.name);
                expected.absent.entry(address).or_insert(why);
            }
        }
    }
}

/// [Pod Lifecycle, "Pod readiness"](https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-conditions):
/// `Ready` is the condition by which a pod is "added to the load balancing pools of all matching
/// Services".
pub(crate) fn is_ready(pod: &Pod) -> bool {
    pod.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Every address of a pod.
pub(crate) fn pod_addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut addresses: Vec<IpAddr> =
        status.pod_ip.as_deref().into_iter().chain(all).filter_map(|ip| ip.parse().ok()).collect();
    let mut seen = BTreeSet::new();
    addresses.retain(|address| seen.insert(*address));
    addresses
}

/// The pod's addresses of the service's families, one of each
/// ([IPv4/IPv6 dual-stack, "Services"](https://kubernetes.io/docs/concepts/services-networking/dual-stack/#services)).
/// Without a stated family it is the pod's primary address.
fn addresses_in(pod: &Pod, families: Option<&[Family]>) -> Vec<IpAddr> {
    let all = pod_addresses(pod);
    match families {
        None => all.into_iter().take(1).collect(),
        Some(families) => families
            .iter()
            .filter_map(|family| all.iter().find(|address| Family::of(**address) == *family))
            .copied()
            .collect(),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

fn families(service: &Service) -> Option<Vec<Family>> {
    let spec = service.spec.as_ref()?;
    if let Some(names) = spec.ip_families.as_ref().filter(|names| !names.is_empty()) {
        let family = |name: &String| if name == "IPv6" { Family::V6 } else { Family::V4 };
        return Some(names.iter().map(family).collect());
    }
    let families: Vec<Family> = cluster_ips(service).into_iter().map(Family::of).collect();
    (!families.is_empty()).then_some(families)
}

/// The cluster IPs of a service; a headless one has none.
pub(crate) fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let all = spec.cluster_ips.iter().flatten().map(String::as_str);
    let mut addresses: Vec<IpAddr> =
        spec.cluster_ip.as_deref().into_iter().chain(all).filter_map(|ip| ip.parse().ok()).collect();
    addresses.dedup();
    addresses
}

/// Adds hand-made Endpoints.
///
/// They reach the proxies mirrored into EndpointSlices, unless they ask not to be
/// ([EndpointSlices, "EndpointSlice mirroring"](https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#endpointslice-mirroring):
/// "the Endpoints resource has a `endpointslice.kubernetes.io/skip-mirror` label set to `true`",
/// or a leader election annotation).
fn add_made_endpoints(expected: &mut Expected, made: &Endpoints) {
    let labels = made.metadata.labels.as_ref();
    let skips = labels.and_then(|labels| labels.get("endpointslice.kubernetes.io/skip-mirror"));
    let annotations = made.metadata.annotations.as_ref();
    if skips.is_some_and(|skips| skips == "true")
        || annotations.is_some_and(|all| all.contains_key("control-plane.alpha.kubernetes.io/leader"))
    {
        return;
    }
    let namespace = expected.service.namespace.clone();
    for subset in made.subsets.iter().flatten() {
        let ready = subset.addresses.iter().flatten().map(|address| (address, Conditions::READY));
        let not_ready =
            subset.not_ready_addresses.iter().flatten().map(|address| (address, Conditions::NOT_READY));
        for (address, conditions) in ready.chain(not_ready) {
            let Ok(ip) = address.ip.parse() else {
                continue;
            };
            for port in subset.ports.iter().flatten() {
                let Some(protocol) = Protocol::of_field(port.protocol.as_deref()) else {
                    continue;
                };
                let name = port.name.as_deref().unwrap_or_default();
                expected.port_mut(name, protocol).endpoints.insert(Endpoint {
                    address: ip,
                    port: ports::number(port.port),
                    pod: referred_pod(address.target_ref.as_ref(), &namespace),
                    node: address.node_name.clone(),
                    conditions,
                });
            }
        }
    }
}

/// Whether a slice was made by somebody else than the control plane's own controllers, which
/// only copy what the model computes itself. A slice "is linked to a Service" by the label
/// `kubernetes.io/service-name`; who manages it stands in `endpointslice.kubernetes.io/managed-by`
/// ([EndpointSlices, "Management" and "Ownership"](https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#management)).
fn is_made_slice(slice: &EndpointSlice, service: &ObjectKey, selected: bool) -> bool {
    let label =
        |name: &str| slice.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
    let is_copy = match label("endpointslice.kubernetes.io/managed-by") {
        Some("endpointslicemirroring-controller.k8s.io") => true,
        // Left over from the time when the service had a selector: nobody updates it any more.
        Some("endpointslice-controller.k8s.io") => selected,
        _ => false,
    };
    slice_is_of(slice, service) && !is_copy
}

/// Whether a slice is linked to the service.
pub(crate) fn slice_is_of(slice: &EndpointSlice, service: &ObjectKey) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get("kubernetes.io/service-name")) == Some(&service.name)
        && ObjectKey::of(&slice.metadata).namespace == service.namespace
}

fn add_made_slice(expected: &mut Expected, slice: &EndpointSlice) {
    for (name, protocol, endpoint) in slice_endpoints(slice) {
        let selected = expected.selected;
        let port = expected.port_mut(&name, protocol);
        if port.endpoints.insert(endpoint.clone()) && selected {
            port.sliced.insert(endpoint);
        }
    }
}

/// The endpoints a slice shows, each under its port's name. An unknown readiness means ready,
/// an unknown `serving` is that of `ready`
/// ([API reference, EndpointConditions](https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/):
/// "A nil value should be interpreted as \"true\"", "should defer to the ready condition").
pub(crate) fn slice_endpoints(slice: &EndpointSlice) -> Vec<(String, Protocol, Endpoint)> {
    let namespace = ObjectKey::of(&slice.metadata).namespace;
    // A slice without ports lists the addresses of a headless service without ports.
    let mut slice_ports = vec![(String::new(), Protocol::Tcp, None)];
    if slice.ports.as_ref().is_some_and(|ports| !ports.is_empty()) {
        slice_ports.clear();
        for port in slice.ports.iter().flatten() {
            if let Some(protocol) = Protocol::of_field(port.protocol.as_deref()) {
                let name = port.name.clone().unwrap_or_default();
                slice_ports.push((name, protocol, port.port.and_then(ports::number)));
            }
        }
    }
    let mut shown = Vec::new();
    for endpoint in slice.endpoints.iter().flatten() {
        let given = endpoint.conditions.as_ref();
        let ready = given.and_then(|given| given.ready).unwrap_or(true);
        let conditions = Conditions {
            ready,
            serving: given.and_then(|given| given.serving).unwrap_or(ready),
            terminating: given.and_then(|given| given.terminating).unwrap_or_default(),
        };
        // All addresses of one endpoint are "assumed to be fungible and clients may choose to only
        // use the first element" (API reference, Endpoint.addresses).
        let Some(address) = endpoint.addresses.first().and_then(|address| address.parse().ok()) else {
            continue;
        };
        for (name, protocol, port) in &slice_ports {
            let endpoint = Endpoint {
                address,
                port: *port,
                pod: referred_pod(endpoint.target_ref.as_ref(), &namespace),
                node: endpoint.node_name.clone(),
                conditions,
            };
            shown.push((name.clone(), *protocol, endpoint));
        }
    }
    shown
}

pub(crate) fn referred_pod(target: Option<&ObjectReference>, namespace: &str) -> Option<ObjectKey> {
    let target = target.filter(|target| target.kind.as_deref() == Some("Pod"))?;
    Some(ObjectKey::new(target.namespace.as_deref().unwrap_or(namespace), target.name.as_deref()?))
}
