//! Listings: whether an Endpoints object or EndpointSlices show what they must.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::endpoints::{referred_pod, slice_endpoints, slice_is_of};
use crate::{Conditions, Endpoint, Expected, ObjectKey, Protocol};

/// Compares an Endpoints object with what it must show; every difference is one readable
/// sentence, none means that it is right.
///
/// Ready addresses stand in `addresses`, others in `notReadyAddresses`; a pod that is being
/// deleted in neither, unless `publishNotReadyAddresses` is set. How addresses are gathered into
/// subsets is not promised, nor whether a service without endpoints has an (empty) object.
/// Beyond 1000 addresses the object is cut and says so
/// ([Services, "Over-capacity endpoints"](https://kubernetes.io/docs/concepts/services-networking/service/#over-capacity-endpoints)).
pub fn endpoints_object_matches(expected: &Expected, actual: Option<&Endpoints>) -> Vec<String> {
    let mut seen = Listing::default();
    let mut truncated = false;
    if let Some(object) = actual {
        let annotations = object.metadata.annotations.as_ref();
        truncated =
            annotations.and_then(|all| all.get("endpoints.kubernetes.io/over-capacity")).map(String::as_str)
                == Some("truncated");
        let namespace = ObjectKey::of(&object.metadata).namespace;
        for subset in object.subsets.iter().flatten() {
            add_subset(&mut seen, subset, &namespace);
        }
    }
    // The Endpoints API has one address family: the service's first.
    let is_ipv4 = primary_is_ipv4(expected);
    let mut promised = Listing::default();
    for port in &expected.ports {
        for endpoint in &port.endpoints {
            let listed = !endpoint.conditions.terminating || expected.publish_not_ready;
            // Who adds a slice to those of the selected pods does not add to the Endpoints.
            let selected = !expected.selected || !port.sliced.contains(endpoint);
            if listed && selected && endpoint.address.is_ipv4() == is_ipv4 {
                promised.add(&port.name, port.protocol, endpoint.clone());
            }
        }
    }
    let rules = Rules { serving: false, missing_allowed: truncated, terminating_allowed: false };
    differences(expected, &promised, &seen, rules)
}

/// Compares the EndpointSlices of a service with what they must show; every difference is one
/// readable sentence, none means that they are right. Slices of other services are passed over.
///
/// How endpoints are spread over slices is not promised, and an endpoint may stand in two of them
/// ([EndpointSlices, "Duplicate endpoints"](https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/#duplicate-endpoints):
/// "endpoints may be represented in more than one EndpointSlice at the same time").
pub fn endpoint_slices_match<'a>(
    expected: &Expected,
    actual: impl IntoIterator<Item = &'a EndpointSlice>,
) -> Vec<String> {
    let mut seen = Listing::default();
    for slice in actual.into_iter().filter(|slice| slice_is_of(slice, &expected.service)) {
        for (name, protocol, endpoint) in slice_endpoints(slice) {
            seen.add(&name, protocol, endpoint);
        }
    }
    let mut promised = Listing::default();
    for port in &expected.ports {
        for endpoint in &port.endpoints {
            promised.add(&port.name, port.protocol, endpoint.clone());
        }
    }
    // A pod without the port a service names still stands in a slice, one without that port.
    seen.drop_portless(&promised);
    let rules = Rules {
        serving: expected.terminating_conditions,
        missing_allowed: false,
        // Before KEP-1672 a terminating endpoint left its slice, unless it was published anyway.
        terminating_allowed: !expected.terminating_conditions && !expected.publish_not_ready,
    };
    differences(expected, &promised, &seen, rules)
}

/// Endpoints by port and address.
#[derive(Default)]
struct Listing(BTreeMap<Place, Vec<Endpoint>>);

/// Where an endpoint stands: port name, protocol, address, port number.
type Place = (String, Protocol, IpAddr, Option<u16>);

impl Listing {
    fn add(&mut self, name: &str, protocol: Protocol, endpoint: Endpoint) {
        let place = (name.to_owned(), protocol, endpoint.address, endpoint.port);
        self.0.entry(place).or_default().push(endpoint);
    }

    fn drop_portless(&mut self, promised: &Self) {
        self.0.retain(|place, _| place.3.is_some() || promised.0.contains_key(place));
    }
}

/// What a comparison holds against the listing.
#[derive(Clone, Copy)]
struct Rules {
    /// The conditions `serving` and `terminating` are shown.
    serving: bool,
    /// The listing says itself that it is not complete.
    missing_allowed: bool,
    /// A terminating endpoint may be listed or not.
    terminating_allowed: bool,
}

fn add_subset(seen: &mut Listing, subset: &EndpointSubset, namespace: &str) {
    let mut subset_ports = vec![(String::new(), Protocol::Tcp, None)];
    if subset.ports.as_ref().is_some_and(|ports| !ports.is_empty()) {
        subset_ports.clear();
        for port in subset.ports.iter().flatten() {
            if let Some(protocol) = Protocol::of_field(port.protocol.as_deref()) {
                let name = port.name.clone().unwrap_or_default();
                subset_ports.push((name, protocol, crate::ports::number(port.port)));
            }
        }
    }
    let ready = subset.addresses.iter().flatten().map(|address| (address, true));
    let not_ready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
    for (address, ready) in ready.chain(not_ready) {
        for (name, protocol, port) in &subset_ports {
            if let Some(endpoint) = listed_endpoint(address, *port, ready, namespace) {
                seen.add(name, *protocol, endpoint);
            }
        }
    }
}

fn listed_endpoint(
    address: &EndpointAddress,
    port: Option<u16>,
    ready: bool,
    namespace: &str,
) -> Option<Endpoint> {
    Some(Endpoint {
        address: address.ip.parse().ok()?,
        port,
        pod: referred_pod(address.target_ref.as_ref(), namespace),
        node: address.node_name.clone(),
        conditions: Conditions { ready, serving: ready, terminating: false },
    })
}

fn primary_is_ipv4(expected: &Expected) -> bool {
    match expected.primary_family_is_ipv4 {
        Some(is_ipv4) => is_ipv4,
        None => {
            expected.ports.iter().flat_map(|port| &port.endpoints).all(|endpoint| endpoint.address.is_ipv4())
        }
    }
}

fn differences(expected: &Expected, promised: &Listing, seen: &Listing, rules: Rules) -> Vec<String> {
    let mut found = Vec::new();
    for (place, endpoints) in &promised.0 {
        match seen.0.get(place) {
            Some(listed) => compare(place, endpoints, listed, rules, &mut found),
            None if rules.missing_allowed => {}
            None if rules.terminating_allowed && endpoints.iter().all(|one| one.conditions.terminating) => {}
            None => {
                found.extend(endpoints.iter().map(|endpoint| format!("missing {endpoint}{}", of_port(place))))
            }
        }
    }
    for (place, listed) in &seen.0 {
        if !promised.0.contains_key(place) {
            let why = why_not(expected, place, listed);
            found.push(format!("{} is listed{}, but {why}", socket(place), of_port(place)));
        }
    }
    found
}

/// Compares what stands at one place. Where several pods share an address (host network), the
/// address is ready if one of them is.
fn compare(place: &Place, promised: &[Endpoint], listed: &[Endpoint], rules: Rules, found: &mut Vec<String>) {
    let at = socket(place);
    let whose = promised.iter().find_map(|endpoint| endpoint.pod.as_ref());
    let subject = whose.map_or_else(|| "it".to_owned(), |pod| format!("pod `{}`", pod.name));
    let any = |endpoints: &[Endpoint], wanted: fn(&Conditions) -> bool| {
        endpoints.iter().any(|endpoint| wanted(&endpoint.conditions))
    };
    let mut condition =
        |name: &str, wanted: fn(&Conditions) -> bool| match (any(listed, wanted), any(promised, wanted)) {
            (true, false) => found.push(format!("{at} is listed as {name}, but {subject} is not {name}")),
            (false, true) => found.push(format!("{at} is listed as not {name}, but {subject} is {name}")),
            _ => {}
        };
    condition("ready", |conditions| conditions.ready);
    if rules.serving {
        condition("serving", |conditions| conditions.serving);
        condition("terminating", |conditions| conditions.terminating);
    }
    // Whom an address belongs to may be left unsaid, but not said wrong.
    let pods: BTreeSet<&ObjectKey> = promised.iter().filter_map(|endpoint| endpoint.pod.as_ref()).collect();
    let nodes: BTreeSet<&String> = promised.iter().filter_map(|endpoint| endpoint.node.as_ref()).collect();
    for endpoint in listed {
        if let Some(pod) = &endpoint.pod
            && !pods.is_empty()
            && !pods.contains(pod)
        {
            found.push(format!("{at} is said to be pod `{}`, but is {subject}", pod.name));
        }
        if let (Some(said), Some(node)) = (&endpoint.node, nodes.first())
            && !nodes.contains(said)
        {
            found.push(format!("{at} is said to be on node `{said}`, but {subject} is on `{node}`"));
        }
    }
}

/// Why an address must not be listed where it is.
fn why_not(expected: &Expected, place: &Place, listed: &[Endpoint]) -> String {
    let (_, _, address, _) = place;
    let known = expected.ports.iter().flat_map(|port| &port.endpoints).find(|one| one.address == *address);
    if let Some(known) = known {
        let pod = known.pod.as_ref().map_or_else(|| "it".to_owned(), |pod| format!("pod `{}`", pod.name));
        return if known.conditions.terminating {
            format!("{pod} is being deleted")
        } else {
            let sockets: BTreeSet<SocketAddr> = expected
                .ports
                .iter()
                .flat_map(|port| &port.endpoints)
                .filter(|one| one.address == *address)
                .filter_map(Endpoint::socket)
                .collect();
            let ports: Vec<String> = sockets.iter().map(|socket| format!("`{}`", socket.port())).collect();
            format!("{pod} serves port {} there", ports.join(", "))
        };
    }
    if let Some(why) = expected.absent.get(address) {
        return why.clone();
    }
    match listed.iter().find_map(|endpoint| endpoint.pod.as_ref()) {
        Some(pod) => format!("pod `{}` does not exist or does not have that address", pod.name),
        None => format!("`{}` has no such endpoint", expected.service.name),
    }
}

fn socket(place: &Place) -> String {
    match place {
        (_, _, address, Some(port)) => format!("`{}`", SocketAddr::new(*address, *port)),
        (_, _, address, None) => format!("`{address}`"),
    }
}

fn of_port((name, protocol, _, _): &Place) -> String {
    match (name.as_str(), protocol) {
        ("", Protocol::Tcp) => String::new(),
        ("", protocol) => format!(" for {protocol}"),
        (name, protocol) => format!(" for port `{name}`/{protocol}"),
    }
}
