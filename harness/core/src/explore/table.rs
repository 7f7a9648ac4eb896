//! The truth table of an exploration: every vantage against every destination there ever was, observed
//! and compared with the model.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, try_join_all};
use futures::{FutureExt as _, TryFutureExt as _};
use k8s_openapi::api::core::v1::Service;
use stickler_model::{
    AFFINITY_RULE, Destination, ObjectKey, Protocol, RecordType, Route, World, endpoint_slices_match,
    endpoints, endpoints_object_matches, route,
};
use stickler_pods::protocol::Probe;
use stickler_reports::{Difference, Finding, Flow, Place, Promised, Saw, Slices, Transport};

use super::form::CONTAINER_PORT;
use crate::Scene;
use crate::destination::Target;
use crate::invariant::{Unlike, patience, probe, unlike};
use crate::names::{ResolveAsPromised, resolve_as_promised};
use crate::truth::address::{At, Known, addresses, cluster_dns, health_checks, protocol};
use crate::truth::cell::{self, CALLS};
use crate::vantage::Vantage;

/// The ports flows of datagrams are sent from that a proxy may know from before: no node port, and
/// none that a kernel picks.
const FLOW_PORTS: std::ops::Range<u16> = 20_000..29_000;

/// The next of them; what one case has used, the next ones do not use again so soon.
static NEXT_FLOW: AtomicU16 = AtomicU16::new(FLOW_PORTS.start);

/// The destinations of a case, those included that are gone by now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    services: BTreeMap<Destination, Known>,
    pods: BTreeMap<Destination, String>,
    names: BTreeSet<String>,
    /// The names of services' ports: `_http._tcp.one...`.
    ports: BTreeSet<String>,
    /// Every health check port there ever was, at every node.
    checks: BTreeMap<SocketAddr, (ObjectKey, String)>,
    /// For each address for datagrams how its service is, and the port its flow comes from as long as
    /// it is so.
    flows: BTreeMap<Destination, (String, u16)>,
    /// How often it was looked at.
    turn: usize,
}

/// Something in a table that differs from the promises.
#[derive(Clone, Debug)]
pub(crate) struct Differing {
    pub(crate) finding: Finding,
    /// Where an address was called; nothing else can be known.
    pub(crate) called: Option<Called>,
}

/// Calls of an address that differ from what is promised.
#[derive(Clone, Debug)]
pub(crate) struct Called {
    /// Which cell it is; one that differs again has the same name.
    pub(crate) cell: String,
    pub(crate) to: Destination,
    pub(crate) difference: Difference,
}

impl Differing {
    /// One that nobody can know.
    pub(crate) fn unknown(finding: Finding) -> Self {
        Self { finding, called: None }
    }
}

/// What came of a look at the whole table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Looked {
    /// How many looks there were.
    pub(crate) looks: usize,
    pub(crate) differing: Vec<Differing>,
}

impl Table {
    /// Adds what is there now.
    pub(crate) fn learn(&mut self, world: &World, namespace: &str, domain: &str) {
        self.turn += 1;
        for (key, service) in world.services.iter().filter(|(key, _)| key.namespace == namespace) {
            let name = format!("{}.{namespace}.svc.{domain}", key.name);
            self.learn_service(world, key, service, &name);
            self.names.insert(name);
        }
        for (key, pod) in world.pods.iter().filter(|(key, _)| key.namespace == namespace) {
            let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
            if let Some(ip) = ip.and_then(|ip| ip.parse().ok()) {
                let destination = Destination::tcp(ip, CONTAINER_PORT);
                self.pods.insert(destination, format!("pod `{}`", key.name));
            }
        }
    }

    fn learn_service(&mut self, world: &World, key: &ObjectKey, service: &Service, name: &str) {
        let Some(spec) = &service.spec else { return };
        let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ingress = balancer.map(|balancer| &balancer.ingress);
        let form = format!("{:?} {spec:?} {ingress:?}", service.metadata.labels);
        for (destination, known) in addresses(world, key, service) {
            self.services.insert(destination, known);
            if destination.protocol == Protocol::Udp {
                let flow = self.flows.entry(destination).or_default();
                if flow.0 != form {
                    *flow = (form.clone(), next_flow());
                }
            }
        }
        for port in spec.ports.iter().flatten() {
            let protocol = protocol(port).to_string().to_lowercase();
            let port = port.name.as_deref().unwrap_or_default();
            self.ports.insert(format!("_{port}._{protocol}.{name}"));
        }
        for (address, label) in health_checks(world, key, service) {
            self.checks.insert(address, (key.clone(), label));
        }
        // What a flow to a port or address comes to that the service has no more, nobody promises.
        let services = &self.services;
        let is_of_service =
            |destination: &Destination| services.get(destination).is_some_and(|known| known.service == *key);
        self.flows.retain(|destination, (was, _)| *was == form || !is_of_service(destination));
    }

    /// Every address of a service there ever was.
    pub(crate) fn services(&self) -> impl Iterator<Item = (Destination, &Known)> {
        self.services.iter().map(|(to, known)| (*to, known))
    }

    /// The names of all services there ever were.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// How many cells a look from so many places has, at most.
    pub(crate) fn cells(&self, places: usize) -> usize {
        (self.services.len() + self.pods.len()) * places + self.checks.len()
    }

    /// Looks at the whole table, and returns everything that differs from the promises of this world; if
    /// what names endpoints does, nothing else is looked at.
    ///
    /// # Errors
    /// If it could not look everywhere.
    pub(crate) async fn look(
        &self,
        scene: &Scene,
        world: &World,
        from: &[Vantage],
    ) -> anyhow::Result<Looked> {
        if let Some(finding) = mirrors(scene, world) {
            return Ok(Looked { looks: 1, differing: vec![Differing::unknown(finding)] });
        }
        let asks = Asks::default();
        let mut looks: Vec<BoxFuture<'_, anyhow::Result<Option<Differing>>>> = Vec::new();
        let services = self.services.iter().map(|(to, known)| {
            (CALLS, to, &known.label, Kind::of(known, world), self.places(known, world, from))
        });
        let pods = self.pods.iter().map(|(to, label)| (1, to, label, Kind::POD, from.iter().collect()));
        for (calls, destination, label, kind, places) in services.chain(pods) {
            for from in places {
                let target = Target { label: format!("{label} ({destination})"), destination: *destination };
                looks.push(cell(scene, world, from, target, kind, calls).boxed());
            }
        }
        self.look_at_flows(scene, world, from, &mut looks);
        if answers_names(scene, world) {
            self.look_at_names(scene, world, from, &asks, &mut looks);
        }
        self.look_at_checks(scene, world, from, &mut looks);
        let seen = try_join_all(looks).await?;
        Ok(Looked { looks: seen.len(), differing: seen.into_iter().flatten().collect() })
    }

    /// Where an address is called from this time: a cluster IP from everywhere, others from every pod of
    /// the harness and from outside, and from one place after the other of the rest, and what belongs
    /// to no service any more from three of all. Else every service would be called a hundred times at
    /// each look, most of them the same way.
    fn places<'a>(&self, known: &Known, world: &World, from: &'a [Vantage]) -> Vec<&'a Vantage> {
        let turns = |from: Vec<&'a Vantage>, count: usize| {
            let first = self.turn * count;
            (0..count.min(from.len())).map(|number| from[(first + number) % from.len()]).collect::<Vec<_>>()
        };
        if !world.services.contains_key(&known.service) {
            return turns(from.iter().collect(), 3);
        }
        if known.at == At::ClusterIp {
            return from.iter().collect();
        }
        let (mut places, others): (Vec<_>, Vec<_>) =
            from.iter().partition(|from| matches!(from, Vantage::PodOn(_) | Vantage::Outside));
        places.extend(turns(others, 1));
        places
    }

    /// Datagrams of a flow that was there before, as long as nothing but the endpoints of its service
    /// changed: those that leave are to be forgotten, and those that come to be found
    /// (upstream e2e, "Conntrack should be able to preserve UDP traffic when server pod cycles"). A
    /// service that is another one by now may find its old flows as they were: nobody promises
    /// otherwise, nor that a flow leaves an endpoint that serves while it terminates. From
    /// everywhere: whether a flow leads to the endpoint that leaves is chance, and one of many does.
    fn look_at_flows<'a>(
        &'a self,
        scene: &'a Scene,
        world: &'a World,
        from: &'a [Vantage],
        looks: &mut Vec<BoxFuture<'a, anyhow::Result<Option<Differing>>>>,
    ) {
        let terminating = world.pods.iter().any(|(key, pod)| {
            key.namespace == scene.namespace() && pod.metadata.deletion_timestamp.is_some()
        });
        if terminating {
            return;
        }
        for (destination, (_, port)) in &self.flows {
            let known = self.services.get(destination);
            let Some(known) = known.filter(|known| world.services.contains_key(&known.service)) else {
                continue;
            };
            let kind = Kind::of(known, world);
            for from in from {
                let label = format!("{} ({destination}) with a flow known before", known.label);
                let target = Target { label, destination: *destination };
                looks.push(flow(scene, world, from, target, kind, *port).boxed());
            }
        }
    }

    /// Whole names from every pod; the other forms from one each time.
    fn look_at_names<'a>(
        &'a self,
        scene: &'a Scene,
        world: &'a World,
        from: &'a [Vantage],
        asks: &'a Asks,
        looks: &mut Vec<BoxFuture<'a, anyhow::Result<Option<Differing>>>>,
    ) {
        let pods: Vec<&Vantage> = from.iter().filter(|from| matches!(from, Vantage::PodOn(_))).collect();
        let mut ask = |asking: &'a ResolveAsPromised, from: &'a Vantage, name: String| {
            let asked = async move { asking.ask(scene, world, from, &name).await };
            looks.push(asked.map_ok(|finding| finding.map(Differing::unknown)).boxed());
        };
        for name in &self.names {
            for from in &pods {
                ask(&asks.address, from, name.clone());
            }
        }
        let Some(one) = self.turn.checked_rem(pods.len()).and_then(|turn| pods.get(turn)) else { return };
        for name in &self.ports {
            ask(&asks.port, one, name.clone());
        }
        let back_end = from.iter().find(|from| matches!(from, Vantage::Backend(_)));
        for name in &self.names {
            ask(&asks.alias, one, name.clone());
            let mut labels = name.split('.');
            let (Some(service), Some(namespace)) = (labels.next(), labels.next()) else { continue };
            ask(&asks.searched, one, format!("{service}.{namespace}"));
            ask(&asks.searched, one, format!("{service}.{namespace}.svc"));
            if let Some(back_end) = back_end {
                ask(&asks.searched, back_end, service.to_owned());
            }
        }
    }

    /// Health check ports are for those outside; a cluster without any is looked at from a node.
    fn look_at_checks<'a>(
        &'a self,
        scene: &'a Scene,
        world: &'a World,
        from: &'a [Vantage],
        looks: &mut Vec<BoxFuture<'a, anyhow::Result<Option<Differing>>>>,
    ) {
        let outside = from.iter().find(|from| matches!(from, Vantage::Outside));
        let Some(from) = outside.or_else(|| from.iter().find(|from| matches!(from, Vantage::Node(_)))) else {
            return;
        };
        for (address, (service, label)) in &self.checks {
            looks.push(check(scene, world, from, *address, service, label).boxed());
        }
    }
}

/// Whether there is anybody who could answer for names: the cluster's DNS is pods as others are, and
/// when the kubelet of its only one is stopped, it is ready no more.
fn answers_names(scene: &Scene, world: &World) -> bool {
    let dns = cluster_dns();
    // Under another name it is nothing that is known here.
    !world.services.contains_key(&dns)
        || endpoints(world, scene.cluster.promises(), &dns).ports.iter().any(|port| !port.ready().is_empty())
}

fn next_flow() -> u16 {
    let next = |port: u16| Some(if port + 1 < FLOW_PORTS.end { port + 1 } else { FLOW_PORTS.start });
    NEXT_FLOW.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or(FLOW_PORTS.start)
}

/// The questions there are about a name.
struct Asks {
    address: ResolveAsPromised,
    alias: ResolveAsPromised,
    port: ResolveAsPromised,
    /// The address, along the search path.
    searched: ResolveAsPromised,
}

impl Default for Asks {
    fn default() -> Self {
        let ask = |kind| resolve_as_promised(Vec::new(), kind, Vec::new());
        Self {
            address: ask(RecordType::A),
            alias: ask(RecordType::Cname),
            port: ask(RecordType::Srv),
            searched: ask(RecordType::A).searching(),
        }
    }
}

/// Endpoints and EndpointSlices show what the pods make of them, and slices what was made by hand.
/// What an ExternalName, which has no endpoints, had before, may stay, and so may what a service has
/// that is being deleted: nobody promises otherwise.
fn mirrors(scene: &Scene, world: &World) -> Option<Finding> {
    let own = world.services.iter().filter(|(key, _)| key.namespace == scene.namespace());
    for (key, service) in own {
        let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
        if kind == Some("ExternalName") || service.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let expected = endpoints(world, scene.cluster.promises(), key);
        let mut differences = endpoint_slices_match(&expected, world.endpoint_slices.values());
        if expected.selected {
            differences.extend(endpoints_object_matches(&expected, world.endpoints.get(key)));
        }
        if !differences.is_empty() {
            let promised = format!(
                "Endpoints and EndpointSlices of `{}` list what its pods, or those who made them, make of it",
                key.name
            );
            return Some(Finding { promised, observed: differences.join("; ") });
        }
    }
    None
}

/// One datagram from a port that the next look uses again.
async fn flow(
    scene: &Scene,
    world: &World,
    from: &Vantage,
    target: Target,
    kind: Kind,
    port: u16,
) -> anyhow::Result<Option<Differing>> {
    let client = scene.vantages().to_model(from);
    let route = route(world, scene.cluster.promises(), &client, &target.destination);
    let mut workload = scene.workload(probe(&target), 1);
    if let Probe::Udp { source_port, .. } = &mut workload.probe {
        *source_port = Some(port);
    }
    if matches!(route, Route::NotPromised { .. }) {
        return Ok(None);
    }
    workload.timeout_ms = patience(&route, workload.timeout_ms);
    let outcomes = scene.call(from, &target.label, workload).await?;
    let unlike = unlike(scene, from, &route, &outcomes)?;
    Ok(unlike.map(|Unlike { why, saw }| {
        let promised = format!("{route}, promised by {}", route.rule());
        let difference = difference(kind, &target.destination, Flow::Known, &route, saw);
        let called = difference.map(|difference| {
            let cell = format!("{from} {} from port {port}", target.label);
            Called { cell, to: target.destination, difference }
        });
        Differing { finding: finding(from, &target, &promised, &why), called }
    }))
}

/// What a node says of its endpoints.
async fn check(
    scene: &Scene,
    world: &World,
    from: &Vantage,
    address: SocketAddr,
    service: &ObjectKey,
    label: &str,
) -> anyhow::Result<Option<Differing>> {
    let cell = cell::check(scene, world, from, address, service, label).await?;
    Ok(cell.why.map(|why| {
        Differing::unknown(Finding {
            promised: format!("{label} ({address}) answers {}", cell.promised),
            observed: format!("{from} asking it {why}"),
        })
    }))
}

async fn cell(
    scene: &Scene,
    world: &World,
    from: &Vantage,
    target: Target,
    kind: Kind,
    calls: u64,
) -> anyhow::Result<Option<Differing>> {
    let client = scene.vantages().to_model(from);
    let route = route(world, scene.cluster.promises(), &client, &target.destination);
    let cell = cell::call(scene, from, &target, &route, calls, Duration::ZERO).await?;
    let difference = cell.saw.and_then(|saw| difference(kind, &target.destination, Flow::New, &route, saw));
    let called = difference.map(|difference| {
        let cell = format!("{from} {}", target.label);
        Called { cell, to: target.destination, difference }
    });
    Ok(cell.why.map(|why| Differing { finding: finding(from, &target, &cell.promised, &why), called }))
}

fn finding(from: &Vantage, target: &Target, promised: &str, why: &str) -> Finding {
    Finding {
        promised: format!("from {from}, {} is {promised}", target.label),
        observed: format!("{from} calling {} {why}", target.label),
    }
}

/// What is called.
#[derive(Clone, Copy, Debug)]
struct Kind {
    at: Place,
    slices: Slices,
}

impl Kind {
    const POD: Self = Self { at: Place::Pod, slices: Slices::Plain };

    fn of(known: &Known, world: &World) -> Self {
        let slices = match is_labelled_headless(world, &known.service) {
            true => Slices::LabelledHeadless,
            false => Slices::Plain,
        };
        Self { at: place(known.at), slices }
    }
}

fn place(at: At) -> Place {
    match at {
        At::ClusterIp => Place::ClusterIp,
        At::ExternalIp => Place::ExternalIp,
        At::LoadBalancer => Place::LoadBalancer,
        At::Node(_) => Place::NodePort,
    }
}

/// Does a slice of a service that has a cluster IP say it had none?
fn is_labelled_headless(world: &World, service: &ObjectKey) -> bool {
    let spec = world.services.get(service).and_then(|service| service.spec.as_ref());
    let has_address = spec.and_then(|spec| spec.cluster_ip.as_deref()).is_some_and(|ip| ip != "None");
    has_address
        && world.endpoint_slices.iter().any(|(key, slice)| {
            let labels = slice.metadata.labels.as_ref();
            let label = |name: &str| labels.and_then(|labels| labels.get(name));
            key.namespace == service.namespace
                && label("kubernetes.io/service-name") == Some(&service.name)
                && label("service.kubernetes.io/headless").is_some()
        })
}

/// What kind of difference it is; none where nothing is promised.
fn difference(kind: Kind, to: &Destination, flow: Flow, route: &Route, seen: Saw) -> Option<Difference> {
    let promised = match route {
        Route::Answered { .. } => Promised::Answered,
        Route::AtMost { .. } => Promised::AtMost,
        Route::Refused { .. } => Promised::Refused,
        Route::Dropped { .. } => Promised::Dropped,
        Route::Nobody { .. } => Promised::Nobody,
        Route::NotPromised { .. } => return None,
    };
    let protocol = match to.protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => Transport::Sctp,
    };
    let by = if seen == Saw::Several { AFFINITY_RULE } else { route.rule() };
    let Kind { at, slices } = kind;
    Some(Difference { at, protocol, flow, slices, promised, seen, by: Some(by.title.to_owned()) })
}

#[cfg(test)]
mod tests {
    use stickler_model::{Citation, Source};

    use super::*;

    #[test]
    fn a_difference_names_what_was_called_what_was_promised_and_by_whom() {
        let rule = Citation { title: "a test", url: "https://example.org" };
        let why = "a reason".to_owned();
        let to = Destination::new([10, 0, 0, 1].into(), 80, Protocol::Udp);
        let dropped = Route::Dropped { why: why.clone(), rule };
        let kind = |at| Kind { at: place(at), slices: Slices::Plain };
        let told = difference(kind(At::Node(2)), &to, Flow::Known, &dropped, Saw::Answered);
        let words = "{ at = \"node-port\", protocol = \"UDP\", flow = \"known\", promised = \"dropped\", seen = \
                     \"answered\", by = \"a test\" }";
        assert_eq!(told.map(|told| told.to_string()).as_deref(), Some(words));

        // Who promises that a client stays with its back end is another one than who promises an answer.
        let (by, source, affinity) = (BTreeSet::new(), Source::NotPromised, None);
        let answered = Route::Answered { by, source, affinity, why: why.clone(), rule };
        let told = difference(kind(At::ClusterIp), &to, Flow::New, &answered, Saw::Several);
        assert_eq!(told.and_then(|told| told.by).as_deref(), Some(AFFINITY_RULE.title));
        let nothing = Route::NotPromised { why, rule };
        assert_eq!(difference(Kind::POD, &to, Flow::New, &nothing, Saw::Silent), None);
    }
}
