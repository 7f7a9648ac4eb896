//! The truth table: every vantage against every destination there ever was, observed and compared
//! with the model.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, try_join_all};
use stickler_model::{
    AFFINITY_RULE, Affinity, Destination, ObjectKey, Protocol, RecordType, Route, Turn, World,
    affinity_breaches, endpoint_slices_match, endpoints, endpoints_object_matches, route,
};
use stickler_pods::protocol::{Outcome, Seen};
use stickler_reports::Finding;

use super::operation::CONTAINER_PORT;
use crate::Scene;
use crate::destination::{Target, nodes};
use crate::invariant::{judge, probe};
use crate::names::resolve_as_promised;
use crate::vantage::Vantage;

/// How many calls are made where several may answer: every one of them from each place is a new
/// chance to meet somebody who must not.
const CALLS: u64 = 4;

/// How long to listen where nobody may answer: what comes later is missed, what comes is proof.
const LISTEN: Duration = Duration::from_millis(250);

/// The destinations of a case, those included that are gone by now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    services: BTreeMap<Destination, String>,
    pods: BTreeMap<Destination, String>,
    names: BTreeSet<String>,
}

impl Table {
    /// Adds what is there now.
    pub(crate) fn learn(&mut self, world: &World, namespace: &str, domain: &str) {
        for (key, service) in world.services.iter().filter(|(key, _)| key.namespace == namespace) {
            self.names.insert(format!("{}.{namespace}.svc.{domain}", key.name));
            let spec = service.spec.as_ref();
            let ip = spec.and_then(|spec| spec.cluster_ip.as_deref()).and_then(|ip| ip.parse().ok());
            for port in spec.iter().flat_map(|spec| spec.ports.iter().flatten()) {
                let protocol: Protocol =
                    port.protocol.as_deref().and_then(|name| name.parse().ok()).unwrap_or(Protocol::Tcp);
                let number = u16::try_from(port.port).ok();
                if let Some((ip, number)) = ip.zip(number) {
                    let label = format!("`{}`", key.name);
                    self.services.insert(Destination::new(ip, number, protocol), label);
                }
                let Some(number) = port.node_port.and_then(|port| u16::try_from(port).ok()) else { continue };
                for (node, ip) in nodes(world) {
                    let label = format!("`{}` at {node}", key.name);
                    self.services.insert(Destination::new(ip, number, protocol), label);
                }
            }
        }
        for (key, pod) in world.pods.iter().filter(|(key, _)| key.namespace == namespace) {
            let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
            if let Some(ip) = ip.and_then(|ip| ip.parse().ok()) {
                let destination = Destination::tcp(ip, CONTAINER_PORT);
                self.pods.insert(destination, format!("pod `{}`", key.name));
            }
        }
    }

    /// Every address of a service there ever was, with its label, and whether it is a node's.
    pub(crate) fn services(&self) -> impl Iterator<Item = (Destination, &str, bool)> {
        self.services.iter().map(|(to, label)| (*to, label.as_str(), label.contains(" at ")))
    }

    /// The names of all services there ever were.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// How many cells a look from so many places has, at most.
    pub(crate) fn cells(&self, places: usize) -> usize {
        (self.services.len() + self.pods.len()) * places
    }

    /// Looks at the whole table, and returns what differs from the promises of this world first.
    ///
    /// # Errors
    /// If it could not look everywhere.
    pub(crate) async fn look(
        &self,
        scene: &Scene,
        world: &World,
        from: &[Vantage],
    ) -> anyhow::Result<Option<Finding>> {
        if let Some(finding) = mirrors(scene, world) {
            return Ok(Some(finding));
        }
        let ask = resolve_as_promised(Vec::new(), RecordType::A, Vec::new());
        let mut looks: Vec<BoxFuture<'_, anyhow::Result<Option<Finding>>>> = Vec::new();
        let targets = self.services.iter().map(|target| (CALLS, target));
        for (calls, (destination, label)) in targets.chain(self.pods.iter().map(|target| (1, target))) {
            for from in from {
                let target = Target { label: format!("{label} ({destination})"), destination: *destination };
                looks.push(cell(scene, world, from, target, calls).boxed());
            }
        }
        for from in from.iter().filter(|from| matches!(from, Vantage::PodOn(_))) {
            for name in &self.names {
                let ask = &ask;
                looks.push(async move { ask.ask(scene, world, from, name).await }.boxed());
            }
        }
        let seen = try_join_all(looks).await?;
        let cells = seen.len();
        let mut differing = seen.into_iter().flatten();
        let Some(mut first) = differing.next() else { return Ok(None) };
        let more = differing.count();
        if more > 0 {
            first.observed = format!("{}; {} of {cells} looks differ", first.observed, more + 1);
        }
        Ok(Some(first))
    }
}

/// Endpoints and EndpointSlices show what the pods make of them.
fn mirrors(scene: &Scene, world: &World) -> Option<Finding> {
    let own = world.services.keys().filter(|key| key.namespace == scene.namespace());
    for key in own {
        let expected = endpoints(world, scene.cluster.promises(), key);
        let mut differences = endpoints_object_matches(&expected, world.endpoints.get(key));
        differences.extend(endpoint_slices_match(&expected, world.endpoint_slices.values()));
        if !differences.is_empty() {
            let promised =
                format!("Endpoints and EndpointSlices of `{}` list what its pods make of it", key.name);
            return Some(Finding { promised, observed: differences.join("; ") });
        }
    }
    None
}

async fn cell(
    scene: &Scene,
    world: &World,
    from: &Vantage,
    target: Target,
    calls: u64,
) -> anyhow::Result<Option<Finding>> {
    let client = scene.vantages().to_model(from);
    let route = route(world, scene.cluster.promises(), &client, &target.destination);
    let mut workload = scene.workload(probe(&target), calls);
    // One after the other: calls at once may be answered by several, stickiness or not.
    workload.concurrency = 1;
    match &route {
        Route::NotPromised { .. } => return Ok(None),
        Route::Nobody { .. } | Route::AtMost { .. } => {
            workload.count = Some(1);
            let listen = u64::try_from(LISTEN.as_millis()).unwrap_or(u64::MAX);
            workload.timeout_ms = workload.timeout_ms.min(listen);
        }
        Route::Refused { .. } => workload.count = Some(1),
        Route::Answered { .. } | Route::Dropped { .. } => {}
    }
    let outcomes = scene.call(from, &target.label, workload).await?;
    if let Some(finding) = judge(scene, from, &target, &route, &outcomes)? {
        return Ok(Some(finding));
    }
    let Route::Answered { affinity: Some(Affinity::ClientIp { timeout_seconds }), .. } = route else {
        return Ok(None);
    };
    let stays = Duration::from_secs(timeout_seconds.into());
    let breach =
        affinity_breaches(stays, Duration::ZERO, &turns(from, &target, &outcomes), &[]).into_iter().next();
    Ok(breach.map(|observed| Finding {
        promised: format!(
            "from {from}, {} is answered by one back end each time: {AFFINITY_RULE}",
            target.label
        ),
        observed,
    }))
}

fn turns(from: &Vantage, target: &Target, outcomes: &[Outcome]) -> Vec<Turn> {
    let micros = |us: u64| i64::try_from(us).unwrap_or(i64::MAX);
    let turn = |outcome: &Outcome| {
        let Seen::Answered(answer) = &outcome.seen else { return None };
        Some(Turn {
            start_us: micros(outcome.started_us),
            end_us: micros(outcome.finished_us),
            client: from.to_string(),
            destination: target.label.clone(),
            backend: answer.hostname.clone()?,
        })
    };
    outcomes.iter().filter_map(turn).collect()
}

/// A pod of a workload that calls can start from: it runs, and is not on its way out.
pub(crate) fn hairpins(world: &World, namespace: &str, out_of_reach: Option<&str>) -> Vec<Vantage> {
    let mut by_workload: BTreeMap<&str, &ObjectKey> = BTreeMap::new();
    for (key, pod) in world.pods.iter().filter(|(key, _)| key.namespace == namespace) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let app = pod.metadata.labels.as_ref().and_then(|labels| labels.get("app"));
        let goes = pod.metadata.deletion_timestamp.is_some();
        if let (Some(node), Some(app), false) = (node, app, goes)
            && Some(node) != out_of_reach
            && crate::wait::pod_ready(pod).is_ok()
        {
            by_workload.entry(app).or_insert(key);
        }
    }
    by_workload.into_values().cloned().map(Vantage::Backend).collect()
}
