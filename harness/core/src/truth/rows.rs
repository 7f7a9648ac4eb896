//! The rows of a truth table: what there is to ask about a namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::Ingress;
use stickler_model::{Destination, IngressRequest, ObjectKey, RecordType, World, endpoints};

use super::address::{At, Known, addresses, health_checks, protocol};
use crate::Scene;
use crate::cluster::Capability;
use crate::destination::{Target, balancer_addresses, nodes};
use crate::names::type_name;
use crate::vantage::NODE_CONTROL_PORT;

/// What is asked in a row, from every place that can.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ask {
    /// Calls that need no service: of somebody who answers, or of nobody.
    Control {
        open: bool,
    },
    Address(Destination),
    Health {
        service: ObjectKey,
        at: SocketAddr,
    },
    Name {
        name: String,
        kind: RecordType,
        form: Form,
    },
    Request(IngressRequest),
}

/// How much of a name is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// The name of a service alone, which means something to pods of its namespace.
    Bare,
    /// With its namespace, to be searched for.
    Searched,
    Whole,
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control { .. } => f.write_str("each place has one of its own"),
            Self::Address(to) => write!(f, "{to}"),
            Self::Health { at, .. } => write!(f, "http://{at}/healthz"),
            Self::Name { name, kind, .. } => write!(f, "{} {name}", type_name(*kind)),
            Self::Request(request) => write!(f, "{request}"),
        }
    }
}

/// A destination, and the words for it.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) subject: String,
    pub(super) destination: String,
    pub(super) ask: Ask,
}

impl Row {
    fn new(subject: &str, destination: impl Into<String>, ask: Ask) -> Self {
        Self { subject: subject.to_owned(), destination: destination.into(), ask }
    }

    /// As calls know it.
    pub(super) fn target(&self) -> Target {
        let Ask::Address(destination) = self.ask else {
            unreachable!("only addresses are called as targets")
        };
        Target { label: format!("{}, {} ({destination})", self.subject, self.destination), destination }
    }
}

/// Everything there is to ask, the controls first, then service by service.
pub(super) fn rows(scene: &Scene, world: &World, known: &BTreeMap<Destination, Known>) -> Vec<Row> {
    let mut rows = vec![
        Row::new("control", "a server without any service", Ask::Control { open: true }),
        Row::new("control", "a port where nobody listens", Ask::Control { open: false }),
    ];
    let mut there = BTreeSet::new();
    for (key, service) in own(scene, world) {
        there.extend(addresses(world, key, service).into_iter().map(|(to, _)| to));
    }
    let mut subjects: BTreeSet<&ObjectKey> = own(scene, world).map(|(key, _)| key).collect();
    subjects.extend(known.values().map(|known| &known.service));
    let mut shapes = BTreeSet::new();
    for key in subjects {
        let service = world.services.get(key);
        let mut of_service: Vec<_> = known.iter().filter(|(_, known)| known.service == *key).collect();
        of_service
            .sort_by_key(|(to, known)| (!there.contains(to), known.at, to.protocol, to.port, to.address));
        for (to, known) in of_service {
            let removed = if there.contains(to) { "" } else { "removed: " };
            rows.push(Row::new(&key.name, format!("{removed}{}", at(world, known, to)), Ask::Address(*to)));
        }
        let Some(service) = service else { continue };
        let shape = Shape::of(service);
        let is_first = shapes.insert(shape);
        if let (true, Some(ip)) = (is_first, cluster_ip(service))
            && let Some(port) = unused_port(service)
        {
            let words = format!("unused port {port}/TCP of the cluster IP");
            rows.push(Row::new(&key.name, words, Ask::Address(Destination::tcp(ip, port))));
        }
        if shape == Shape::Headless {
            rows.extend(members(scene, world, key));
        }
        for (address, label) in health_checks(world, key, service) {
            let label = label.replace(&format!(" of `{}`", key.name), "");
            let label = label.strip_prefix("the ").unwrap_or(&label);
            rows.push(Row::new(&key.name, label, Ask::Health { service: key.clone(), at: address }));
        }
        rows.extend(names(scene, world, key, service, shape, is_first));
    }
    rows.extend(requests(scene, world));
    rows.extend(unused(scene, world));
    rows
}

/// What is to be said of destinations that are missing.
pub(super) fn remarks(scene: &Scene, world: &World) -> Vec<String> {
    let mut remarks = Vec::new();
    let waiting = own(scene, world).filter(|(_, service)| {
        let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
        kind == Some("LoadBalancer") && balancer_addresses(service).is_empty()
    });
    let waiting: Vec<String> = waiting.map(|(key, _)| format!("`{}`", key.name)).collect();
    if !waiting.is_empty() {
        let why = match scene.cluster.capabilities().contains(&Capability::LoadBalancer) {
            true => "it got none in time".into(),
            false => Capability::LoadBalancer.lacking(),
        };
        remarks.push(format!("{} without the address of a load balancer: {why}", waiting.join(", ")));
    }
    for (key, ingress) in &world.ingresses {
        if key.namespace == scene.namespace()
            && let Some(class) = class_of_others(scene, ingress)
        {
            let why = format!("it names the class `{class}`, and whose that is is not known here");
            remarks.push(format!("Ingress `{}` has no rows: {why}", key.name));
        }
    }
    remarks
}

fn own<'a>(scene: &'a Scene, world: &'a World) -> impl Iterator<Item = (&'a ObjectKey, &'a Service)> {
    world.services.iter().filter(|(key, _)| key.namespace == scene.namespace())
}

/// What an address is of its service.
fn at(world: &World, known: &Known, to: &Destination) -> String {
    let Destination { address, port, protocol } = to;
    match known.at {
        At::ClusterIp => format!("cluster IP, port {port}/{protocol}"),
        At::ExternalIp => format!("external IP {address}, port {port}/{protocol}"),
        At::LoadBalancer => format!("load balancer {address}, port {port}/{protocol}"),
        At::Node(_) => {
            let node = nodes(world).find(|(_, ip)| ip == address).map(|(node, _)| node);
            format!("node port {port}/{protocol} at {}", node.unwrap_or("a node"))
        }
    }
}

/// What decides which names a service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    ClusterIp,
    Headless,
    ExternalName,
}

impl Shape {
    fn of(service: &Service) -> Self {
        let spec = service.spec.as_ref();
        if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
            return Self::ExternalName;
        }
        if cluster_ip(service).is_some() { Self::ClusterIp } else { Self::Headless }
    }
}

fn cluster_ip(service: &Service) -> Option<IpAddr> {
    service.spec.as_ref()?.cluster_ip.as_deref()?.parse().ok()
}

/// A port of a cluster IP that nobody has, though every node listens on it
/// (kubernetes/kubernetes#72236).
fn unused_port(service: &Service) -> Option<u16> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let is_used = ports.clone().any(|port| port.port == i32::from(NODE_CONTROL_PORT));
    (!is_used && ports.count() > 0).then_some(NODE_CONTROL_PORT)
}

/// The pods of a headless service, each at its own address.
fn members(scene: &Scene, world: &World, key: &ObjectKey) -> Vec<Row> {
    let mut rows = Vec::new();
    for port in &endpoints(world, scene.cluster.promises(), key).ports {
        for endpoint in port.endpoints.iter().filter(|endpoint| endpoint.conditions.ready) {
            let Some(socket) = endpoint.socket() else { continue };
            let who = endpoint.pod.as_ref().map_or_else(|| socket.ip().to_string(), |pod| pod.name.clone());
            let words = format!("member {who}, port {}/{}", socket.port(), port.protocol);
            let to = Destination::new(socket.ip(), socket.port(), port.protocol);
            rows.push(Row::new(&key.name, words, Ask::Address(to)));
        }
    }
    rows
}

/// The names of a service: each is asked for whole; of the first service of each shape, the shorter forms
/// too, and the name of its address.
fn names(
    scene: &Scene,
    world: &World,
    key: &ObjectKey,
    service: &Service,
    shape: Shape,
    is_first: bool,
) -> Vec<Row> {
    let domain = &scene.cluster.promises().cluster_domain;
    let (name, namespace) = (&key.name, &key.namespace);
    let whole = format!("{name}.{namespace}.svc.{domain}");
    let mut rows = Vec::new();
    let mut ask = |name: String, kind: RecordType, form: Form| {
        let short = name.replace(namespace.as_str(), "NS");
        let words = format!("{} {short}", type_name(kind));
        rows.push(Row::new(&key.name, words, Ask::Name { name, kind, form }));
    };
    ask(whole.clone(), RecordType::A, Form::Whole);
    if is_first {
        ask(name.clone(), RecordType::A, Form::Bare);
        ask(format!("{name}.{namespace}"), RecordType::A, Form::Searched);
        ask(format!("{name}.{namespace}.svc"), RecordType::A, Form::Searched);
        if let Some(IpAddr::V4(ip)) = cluster_ip(service) {
            let [a, b, c, d] = ip.octets();
            ask(format!("{d}.{c}.{b}.{a}.in-addr.arpa"), RecordType::Ptr, Form::Whole);
        }
    }
    if shape == Shape::ExternalName {
        ask(whole, RecordType::Cname, Form::Whole);
        return rows;
    }
    for port in service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()) {
        if let Some(port_name) = &port.name {
            let protocol = protocol(port).to_string().to_lowercase();
            ask(format!("_{port_name}._{protocol}.{whole}"), RecordType::Srv, Form::Whole);
        }
    }
    if shape == Shape::Headless {
        for host in hosts(world, key) {
            ask(format!("{host}.{whole}"), RecordType::A, Form::Whole);
        }
    }
    rows
}

/// The host names of pods below a headless service.
fn hosts(world: &World, key: &ObjectKey) -> BTreeSet<String> {
    let of_service = |pod: &Pod| {
        let spec = pod.spec.as_ref()?;
        (spec.subdomain.as_ref() == Some(&key.name)).then(|| spec.hostname.clone())?
    };
    world
        .pods
        .iter()
        .filter(|(pod, _)| pod.namespace == key.namespace)
        .filter_map(|(_, pod)| of_service(pod))
        .collect()
}

/// Every host and path of the namespace's Ingresses, a path that no rule has, and a host that none has.
fn requests(scene: &Scene, world: &World) -> Vec<Row> {
    let mut requests = BTreeSet::new();
    let own = world.ingresses.iter().filter(|(key, _)| key.namespace == scene.namespace());
    for (_, ingress) in own.filter(|(_, ingress)| class_of_others(scene, ingress).is_none()) {
        let Some(spec) = &ingress.spec else { continue };
        let encrypted: Vec<&String> =
            spec.tls.iter().flatten().flat_map(|tls| tls.hosts.iter().flatten()).collect();
        for rule in spec.rules.iter().flatten() {
            let named = rule.host.as_deref().unwrap_or("any.example");
            // Of a wildcard, one of the hosts it stands for.
            let host = named.replacen('*', "some", 1);
            let mut paths = vec!["/no-such-path".to_owned()];
            for path in rule.http.iter().flat_map(|http| &http.paths) {
                let given = path.path.clone().unwrap_or_else(|| "/".to_owned());
                if path.path_type == "Prefix" {
                    paths.push(format!("{}/below", given.trim_end_matches('/')));
                }
                paths.push(given);
            }
            for path in paths.iter().filter(|path| path.starts_with('/')) {
                requests.insert(IngressRequest::http(&host, path));
                if encrypted.iter().any(|covered| *covered == named) {
                    requests.insert(IngressRequest::https(&host, path));
                }
            }
        }
    }
    if !requests.is_empty() {
        requests.insert(IngressRequest::http("nobody.example", "/"));
    }
    requests
        .into_iter()
        .map(|request| Row::new("Ingress", request.to_string(), Ask::Request(request)))
        .collect()
}

/// The class of an Ingress that is not for the scene's controller.
fn class_of_others<'a>(scene: &Scene, ingress: &'a Ingress) -> Option<&'a str> {
    let named = ingress.spec.as_ref()?.ingress_class_name.as_deref()?;
    let own = scene.ingress.controller().map(|controller| controller.class.as_str());
    (Some(named) != own).then_some(named)
}

/// What the cluster has to give and has given to nobody.
fn unused(scene: &Scene, world: &World) -> Vec<Row> {
    let mut rows = Vec::new();
    let promises = scene.cluster.promises();
    let name = format!("nobody.{}.svc.{}", scene.namespace(), promises.cluster_domain);
    let words = format!("A nobody.NS.svc.{}", promises.cluster_domain);
    let ask = Ask::Name { name, kind: RecordType::A, form: Form::Whole };
    rows.push(Row::new("nobody", words, ask));
    let specs = || world.services.values().filter_map(|service| service.spec.as_ref());
    let taken: BTreeSet<IpAddr> =
        specs().filter_map(|spec| spec.cluster_ip.as_deref()?.parse().ok()).collect();
    if let Some(ip) = promises.service_cidr.and_then(|cidr| last_free(&cidr, &taken)) {
        let to = Ask::Address(Destination::tcp(ip, 80));
        rows.push(Row::new("nobody", "a cluster IP of no service, port 80/TCP", to));
    }
    let ports = specs().flat_map(|spec| {
        let ports = spec.ports.iter().flatten().filter_map(|port| port.node_port);
        ports.chain(spec.health_check_node_port)
    });
    let ports: BTreeSet<i32> = ports.collect();
    let free = promises.node_port_range.clone().rev().find(|port| !ports.contains(&i32::from(*port)));
    for (node, ip) in nodes(world) {
        let Some(port) = free else { break };
        let to = Ask::Address(Destination::tcp(ip, port));
        rows.push(Row::new("nobody", format!("unused node port {port}/TCP at {node}"), to));
    }
    rows
}

/// The last address of a range that nobody has; its broadcast address is none.
fn last_free(cidr: &ipnet::IpNet, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let ipnet::IpNet::V4(cidr) = cidr else { return None };
    let (first, last) = (u32::from(cidr.network()), u32::from(cidr.broadcast()));
    let free = (first + 1..last).rev().map(|ip| IpAddr::V4(Ipv4Addr::from(ip)));
    free.take(taken.len() + 1).find(|ip| !taken.contains(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_free_address_is_nobodys_and_no_broadcast_address() {
        let cidr = "10.96.0.0/30".parse().expect("a range");
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(last_free(&cidr, &BTreeSet::new()), Some(ip("10.96.0.2")));
        assert_eq!(last_free(&cidr, &BTreeSet::from([ip("10.96.0.2")])), Some(ip("10.96.0.1")));
        assert_eq!(last_free(&cidr, &BTreeSet::from([ip("10.96.0.1"), ip("10.96.0.2")])), None);
    }
}
