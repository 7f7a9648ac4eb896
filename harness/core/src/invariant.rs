//! Invariants: what must hold, as values that *eventually*, *always* and *exactly* take.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use futures::FutureExt as _;
use futures::future::{BoxFuture, try_join_all};
use stickler_model::{
    Backend, ObjectKey, Observed, Protocol, Route, World, endpoint_slices_match, endpoints,
    endpoints_object_matches, route,
};
use stickler_pods::protocol::{Answer, Outcome, Probe, Seen, Workload};
use stickler_reports::{Finding, Saw};

use crate::Scene;
use crate::calls::{http, in_words, udp};
use crate::destination::{Target, To};
use crate::vantage::Vantage;

/// Something that must hold in a scene. Looking never fails because of what is seen; an error
/// means that it could not look.
pub trait Invariant: Sync {
    /// What is promised, in one sentence.
    fn promise(&self) -> String;

    /// Looks once.
    fn look<'a>(&'a self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<Judgement>>;
}

impl<T: Invariant + ?Sized> Invariant for &T {
    fn promise(&self) -> String {
        (**self).promise()
    }

    fn look<'a>(&'a self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<Judgement>> {
        (**self).look(scene)
    }
}

/// What one look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    Holds,
    Broken(Finding),
    /// What is promised changed while it was looked, so what was seen may be of the time before or of the
    /// time after: the look tells nothing.
    Overtaken(Finding),
}

/// Calls from these vantages to these destinations are answered as the model promises for the
/// objects as they are.
pub fn as_promised(from: Vec<Vantage>, to: Vec<To>) -> AsPromised {
    AsPromised { from, to, calls: 3, source_port: None }
}

/// See [`as_promised`].
pub struct AsPromised {
    from: Vec<Vantage>,
    to: Vec<To>,
    calls: u64,
    source_port: Option<u16>,
}

impl AsPromised {
    /// How many calls are made in each cell of the table; 3 if it is not said.
    #[must_use]
    pub fn calls(self, calls: u64) -> Self {
        Self { calls, ..self }
    }

    /// Datagrams are all sent from this port, one after the other, so that to everybody on the way
    /// they are one flow. Where there are several destinations, each has a port of its own, counted
    /// from this one.
    #[must_use]
    pub fn with_source_port(self, port: u16) -> Self {
        Self { source_port: Some(port), ..self }
    }
}

impl Invariant for AsPromised {
    fn promise(&self) -> String {
        let to: Vec<String> = self.to.iter().map(|to| format!("{to:?}")).collect();
        format!("{} are answered as promised from {} places", to.join(", "), self.from.len())
    }

    fn look<'a>(&'a self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<Judgement>> {
        async move {
            if self.from.is_empty() {
                bail!("there is no place to look from");
            }
            scene.control(&self.from).await?;
            let world = scene.world().await?;
            let targets = match resolve(&self.to, &world, scene.namespace()) {
                Ok(targets) => targets,
                Err(missing) => return Ok(broken(self.promise(), missing)),
            };
            let targets = &targets;
            let cells =
                self.from.iter().flat_map(|from| (0..).zip(targets).map(move |(n, to)| (from, n, to)));
            let world = &world;
            let looks = cells.map(|(from, number, target)| async move {
                let client = scene.vantages().to_model(from);
                let route = route(world, scene.cluster.promises(), &client, &target.destination);
                if matches!(route, Route::NotPromised { .. }) {
                    return Ok(None);
                }
                let mut workload = scene.workload(probe(target), self.calls);
                workload.timeout_ms = patience(&route, workload.timeout_ms);
                if let (Probe::Udp { source_port, .. }, Some(port)) = (&mut workload.probe, self.source_port)
                {
                    *source_port = port.checked_add(number);
                    workload.concurrency = 1;
                    // All go the same way, and where nobody answers each would be waited for.
                    if may_be_silent(&route) {
                        workload.count = Some(1);
                    }
                }
                let again = Workload { count: Some(1), ..workload.clone() };
                let mut outcomes = scene.call(from, &target.label, workload).await?;
                // Each of them waited for longer than it takes until the next refusal may be sent.
                if matches!(route, Route::Refused { .. }) && outcomes.iter().all(is_silent) {
                    outcomes.extend(scene.call(from, &target.label, again).await?);
                }
                Ok::<_, anyhow::Error>(Some((from, target, route, outcomes)))
            });
            let cells: Vec<_> = try_join_all(looks).await?.into_iter().flatten().collect();
            if cells.is_empty() {
                bail!("nothing is promised from any of these places, so there is nothing to look at");
            }
            let mut differing = Vec::new();
            for (from, target, promised, outcomes) in &cells {
                if let Some(finding) = judge(scene, from, target, promised, outcomes)? {
                    differing.push((*from, *target, promised, finding));
                }
            }
            if differing.is_empty() {
                return Ok(Judgement::Holds);
            }
            // Pods get ready when they like: whoever did between the list and the calls may have answered.
            let now = scene.world().await?;
            let (stands, overtaken): (Vec<_>, Vec<_>) =
                differing.into_iter().partition(|(from, target, promised, _)| {
                    let client = scene.vantages().to_model(from);
                    route(&now, scene.cluster.promises(), &client, &target.destination) == **promised
                });
            let count = stands.len();
            let Some((.., mut first)) = stands.into_iter().next() else {
                let first = overtaken.into_iter().next().map(|(.., finding)| finding);
                return Ok(first.map_or(Judgement::Holds, Judgement::Overtaken));
            };
            if count > 1 {
                first.observed = format!("{}; {count} of {} such pairs differ", first.observed, cells.len());
            }
            Ok(Judgement::Broken(first))
        }
        .boxed()
    }
}

/// Compares what was seen in one cell with what is promised there.
pub(crate) fn judge(
    scene: &Scene,
    from: &Vantage,
    target: &Target,
    route: &Route,
    outcomes: &[Outcome],
) -> anyhow::Result<Option<Finding>> {
    let unlike = unlike(scene, from, route, outcomes)?;
    Ok(unlike.map(|Unlike { why, .. }| Finding {
        promised: format!("from {from}, {} is {route}, promised by {}", target.label, route.rule()),
        observed: format!("{from} calling {} {why}", target.label),
    }))
}

/// How outcomes differ from what is promised.
#[derive(Clone, Debug)]
pub(crate) struct Unlike {
    /// The end of a sentence that begins with the client.
    pub(crate) why: String,
    /// What kind of thing was seen instead.
    pub(crate) saw: Saw,
}

/// How outcomes differ from what is promised, if they do.
pub(crate) fn unlike(
    scene: &Scene,
    from: &Vantage,
    route: &Route,
    outcomes: &[Outcome],
) -> anyhow::Result<Option<Unlike>> {
    let client = scene.vantages().to_model(from);
    let was_refused = refused_as_often_as_may_be(route, outcomes);
    for outcome in outcomes {
        let observed = observed(&outcome.seen)?;
        if was_refused && is_silent(outcome) {
            continue;
        }
        if let Err(why) = route.allows(&observed) {
            return Ok(Some(Unlike { why, saw: kind(&observed) }));
        }
        if let Some(why) = wrong_source(route, &client, outcome) {
            return Ok(Some(Unlike { why, saw: Saw::OtherSource }));
        }
    }
    Ok(None)
}

fn kind(observed: &Observed) -> Saw {
    match observed {
        Observed::Answered { .. } => Saw::Answered,
        Observed::Refused => Saw::Refused,
        Observed::Silent => Saw::Silent,
        Observed::Unreachable => Saw::Unreachable,
        Observed::Reset => Saw::Reset,
    }
}

/// Were calls that are to be refused refused at least once? Kernels send one host a few refusals at once,
/// and then one a second (icmp(7), `icmp_ratelimit`), so of many calls some are not told.
fn refused_as_often_as_may_be(route: &Route, outcomes: &[Outcome]) -> bool {
    matches!(route, Route::Refused { .. })
        && outcomes.iter().any(|outcome| matches!(outcome.seen, Seen::Refused))
}

/// Whether nothing at all may come of a call.
fn may_be_silent(route: &Route) -> bool {
    route.allows(&Observed::Silent).is_ok()
}

/// How long a call is waited for, in milliseconds, of what calls are given. Where nobody may answer, or nobody
/// need, every call takes as long as it is listened: what comes is proof, and comes about as soon as answers
/// do, which calls are given several times as long as they take.
pub(crate) fn patience(route: &Route, timeout_ms: u64) -> u64 {
    if may_be_silent(route) { timeout_ms / 4 } else { timeout_ms }
}

pub(crate) fn is_silent(outcome: &Outcome) -> bool {
    matches!(outcome.seen, Seen::TimedOut { .. })
}

/// The source the back end saw, where it is promised to be the client's own: the address, for the
/// kernel may take another port if two flows would look the same to it.
fn wrong_source(route: &Route, client: &stickler_model::Vantage, outcome: &Outcome) -> Option<String> {
    let Route::Answered { by, source, .. } = route else { return None };
    let Seen::Answered(answer) = &outcome.seen else { return None };
    let name = called(answer)?;
    let backend = by.iter().find(|backend| backend.is_called(name))?;
    let (seen, own) = (answer.source?, outcome.from?);
    (source.is_kept(client, backend) && seen.ip() != own.ip())
        .then(|| format!("was answered by {backend}, which saw the caller as {seen} instead of {own}"))
}

/// A call to a target in its protocol.
pub(crate) fn probe(target: &Target) -> Probe {
    match target.destination.protocol {
        Protocol::Udp => udp(target.destination.socket()),
        _ => http(target.destination.socket()),
    }
}

fn resolve(to: &[To], world: &World, namespace: &str) -> Result<Vec<Target>, String> {
    let mut targets = Vec::new();
    for to in to {
        targets.extend(to.resolve(world, namespace)?);
    }
    Ok(targets)
}

/// Who answered: the pod, if it was told its name, or else the host. Who is in its node's network has its
/// node's host name, which clouds give otherwise than the node's name.
fn called(answer: &Answer) -> Option<&str> {
    answer.pod.as_deref().or(answer.hostname.as_deref())
}

/// The outcome in the model's words.
fn observed(seen: &Seen) -> anyhow::Result<Observed> {
    Ok(match seen {
        Seen::Answered(answer) => {
            let by = called(answer).unwrap_or("a stranger").to_owned();
            Observed::Answered { by }
        }
        Seen::Connected => Observed::Answered { by: "somebody who says nothing".to_owned() },
        Seen::Refused => Observed::Refused,
        Seen::Reset | Seen::Closed => Observed::Reset,
        Seen::TimedOut { .. } => Observed::Silent,
        Seen::Unreachable { .. } => Observed::Unreachable,
        Seen::Garbled { .. } | Seen::Resolved(_) => Observed::Answered { by: in_words(seen) },
        Seen::CouldNotLook { error } => bail!("the agent could not look: {error}"),
    })
}

/// Endpoints and EndpointSlices of a service show exactly what its pods make of it.
pub fn endpoints_mirror_pods(service: &'static str) -> EndpointsMirrorPods {
    EndpointsMirrorPods(service)
}

/// See [`endpoints_mirror_pods`].
pub struct EndpointsMirrorPods(&'static str);

impl Invariant for EndpointsMirrorPods {
    fn promise(&self) -> String {
        format!("Endpoints and EndpointSlices of `{}` list what its pods make of it", self.0)
    }

    fn look<'a>(&'a self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<Judgement>> {
        async move {
            let world = scene.world().await?;
            let key = ObjectKey { namespace: scene.namespace().to_owned(), name: self.0.to_owned() };
            let expected = endpoints(&world, scene.cluster.promises(), &key);
            let mut differences = endpoints_object_matches(&expected, world.endpoints.get(&key));
            differences.extend(endpoint_slices_match(&expected, world.endpoint_slices.values()));
            if differences.is_empty() {
                return Ok(Judgement::Holds);
            }
            Ok(broken(self.promise(), differences.join("; ")))
        }
        .boxed()
    }
}

/// Connections to a service's cluster IP from one place reach every ready endpoint.
pub fn spreads(service: &'static str, from: Vantage) -> Spreads {
    spreads_at(To::ClusterIp(service), from)
}

/// Connections from one place reach every ready endpoint, at each address behind a destination.
pub fn spreads_at(to: To, from: Vantage) -> Spreads {
    Spreads { to, from }
}

/// See [`spreads`].
pub struct Spreads {
    to: To,
    from: Vantage,
}

/// How often a check may cry wolf.
const FALSE_ALARM: f64 = 1e-9;

/// The smallest share of the connections that still counts as spreading, as a part of an even
/// share. Nothing promises an even spread; a back end that gets less than half of one would go
/// unnoticed by nobody.
const PART_OF_AN_EVEN_SHARE: f64 = 0.5;

/// How many connections are needed so that a back end that gets its least share of them is missed
/// by all with a probability of at most [`FALSE_ALARM`], for all `backends` together.
pub(crate) fn connections_to_see_all(backends: usize) -> u64 {
    let backends = backends.max(1) as f64;
    let share = PART_OF_AN_EVEN_SHARE / backends;
    // backends * (1 - share)^n <= FALSE_ALARM
    ((FALSE_ALARM / backends).ln() / (1.0 - share).ln()).ceil() as u64
}

impl Invariant for Spreads {
    fn promise(&self) -> String {
        format!("connections to {} are routed to any of the ready endpoints", self.to)
    }

    fn look<'a>(&'a self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<Judgement>> {
        async move {
            scene.control(std::slice::from_ref(&self.from)).await?;
            let world = scene.world().await?;
            let targets = match self.to.resolve(&world, scene.namespace()) {
                Ok(targets) => targets,
                Err(missing) => return Ok(broken(self.promise(), missing)),
            };
            for target in &targets {
                let client = scene.vantages().to_model(&self.from);
                let route = route(&world, scene.cluster.promises(), &client, &target.destination);
                let Some(backends) = route.backends() else {
                    return Ok(broken(self.promise(), format!("{} is {route}", target.label)));
                };
                let calls = connections_to_see_all(backends.len());
                let workload = scene.workload(probe(target), calls);
                let outcomes = scene.call(&self.from, &target.label, workload).await?;
                if let Some(finding) = judge(scene, &self.from, target, &route, &outcomes)? {
                    return Ok(Judgement::Broken(finding));
                }
                if let Some(observed) = unseen(backends, &outcomes) {
                    return Ok(broken(
                        self.promise(),
                        format!("of {calls} connections to {}, {observed}", target.label),
                    ));
                }
            }
            Ok(Judgement::Holds)
        }
        .boxed()
    }
}

/// Every connection from one place to one destination is answered by one and the same back end.
pub fn sticks(from: Vec<Vantage>, to: To) -> Sticks {
    Sticks { from, to }
}

/// See [`sticks`].
pub struct Sticks {
    from: Vec<Vantage>,
    to: To,
}

/// How many connections are needed so that a back end chosen anew for each of them would be the
/// same one for all with a probability of at most [`FALSE_ALARM`].
pub(crate) fn connections_to_see_stickiness(backends: usize) -> u64 {
    let backends = backends.max(2) as f64;
    // (1 / backends)^(n - 1) <= FALSE_ALARM
    ((FALSE_ALARM.ln() / (1.0 / backends).ln()).ceil() as u64) + 1
}

impl Invariant for Sticks {
    fn promise(&self) -> String {
        format!("each client of {:?} is answered by one back end each time", self.to)
    }

    fn look<'a>(&'a self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<Judgement>> {
        async move {
            scene.control(&self.from).await?;
            let world = scene.world().await?;
            let targets = match self.to.resolve(&world, scene.namespace()) {
                Ok(targets) => targets,
                Err(missing) => return Ok(broken(self.promise(), missing)),
            };
            let looks = self.from.iter().map(|from| self.look_from(scene, &world, from, &targets));
            let first = try_join_all(looks).await?.into_iter().flatten().next();
            Ok(first.map_or(Judgement::Holds, Judgement::Broken))
        }
        .boxed()
    }
}

impl Sticks {
    /// What is wrong with what one client sees, if anything is.
    async fn look_from(
        &self,
        scene: &Scene,
        world: &World,
        from: &Vantage,
        targets: &[Target],
    ) -> anyhow::Result<Option<Finding>> {
        let finding = |observed: String| Finding { promised: self.promise(), observed };
        for target in targets {
            let client = scene.vantages().to_model(from);
            let route = route(world, scene.cluster.promises(), &client, &target.destination);
            let Route::Answered { by, affinity: Some(_), .. } = &route else {
                return Ok(Some(finding(format!("{} is {route}", target.label))));
            };
            let calls = connections_to_see_stickiness(by.len());
            let outcomes = scene.call(from, &target.label, scene.workload(probe(target), calls)).await?;
            if let Some(finding) = judge(scene, from, target, &route, &outcomes)? {
                return Ok(Some(finding));
            }
            let names: BTreeSet<&str> = outcomes
                .iter()
                .filter_map(|outcome| match &outcome.seen {
                    Seen::Answered(answer) => called(answer),
                    _ => None,
                })
                .collect();
            if names.len() > 1 {
                return Ok(Some(finding(format!(
                    "{calls} connections from {from} to {} were answered by {names:?}",
                    target.label
                ))));
            }
        }
        Ok(None)
    }
}

/// Which back ends answered nothing, and who answered how often.
fn unseen(backends: &BTreeSet<Backend>, outcomes: &[Outcome]) -> Option<String> {
    let mut answers: BTreeMap<&str, u64> = BTreeMap::new();
    for outcome in outcomes {
        if let Seen::Answered(answer) = &outcome.seen {
            *answers.entry(called(answer).unwrap_or_default()).or_default() += 1;
        }
    }
    let missing: Vec<String> = backends
        .iter()
        .filter(|backend| !answers.keys().any(|name| backend.is_called(name)))
        .map(ToString::to_string)
        .collect();
    (!missing.is_empty()).then(|| format!("{} got none; answers: {answers:?}", missing.join(", ")))
}

/// Every one of these addresses answers a call from a vantage in these words: the body of goweb.
pub fn answers(from: Vantage, address: SocketAddr, body: String) -> Answers {
    Answers { from, address, body }
}

/// See [`answers`].
pub struct Answers {
    from: Vantage,
    address: SocketAddr,
    body: String,
}

impl Invariant for Answers {
    fn promise(&self) -> String {
        format!("{} answers {:?}", self.address, self.body)
    }

    fn look<'a>(&'a self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<Judgement>> {
        async move {
            scene.control(std::slice::from_ref(&self.from)).await?;
            let workload = scene.workload(http(self.address), 1);
            let outcomes = scene.call(&self.from, &self.address.to_string(), workload).await?;
            let seen = &outcomes.first().context("no call was made")?.seen;
            Ok(match seen {
                Seen::Answered(answer) if answer.body == self.body && answer.status == Some(200) => {
                    Judgement::Holds
                }
                Seen::Answered(answer) => broken(
                    self.promise(),
                    format!("it answered {:?} with status {:?}", answer.body, answer.status),
                ),
                Seen::CouldNotLook { error } => bail!("the agent could not look: {error}"),
                other => broken(self.promise(), in_words(other)),
            })
        }
        .boxed()
    }
}

/// Anything else that must hold: a sentence, and a function that says what is otherwise.
pub fn that<F>(promise: impl Into<String>, look: F) -> That<F>
where
    F: for<'a> Fn(&'a Scene) -> BoxFuture<'a, anyhow::Result<Result<(), String>>> + Sync,
{
    That { promise: promise.into(), look }
}

/// See [`that`].
pub struct That<F> {
    promise: String,
    look: F,
}

impl<F> Invariant for That<F>
where
    F: for<'a> Fn(&'a Scene) -> BoxFuture<'a, anyhow::Result<Result<(), String>>> + Sync,
{
    fn promise(&self) -> String {
        self.promise.clone()
    }

    fn look<'a>(&'a self, scene: &'a Scene) -> BoxFuture<'a, anyhow::Result<Judgement>> {
        async move {
            Ok(match (self.look)(scene).await? {
                Ok(()) => Judgement::Holds,
                Err(observed) => broken(self.promise.clone(), observed),
            })
        }
        .boxed()
    }
}

fn broken(promised: String, observed: String) -> Judgement {
    Judgement::Broken(Finding { promised, observed })
}

#[cfg(test)]
mod tests {
    use stickler_model::{Citation, Protocol, Route};
    use stickler_pods::protocol::{Outcome, Phase, Seen};

    use super::{
        FALSE_ALARM, PART_OF_AN_EVEN_SHARE, connections_to_see_all, connections_to_see_stickiness,
        refused_as_often_as_may_be,
    };

    #[test]
    fn refusals_that_are_not_told_are_excused_by_one_that_is() {
        let rule = Citation { title: "a test", url: "https://example.com" };
        let why = "it has no endpoints".to_owned();
        let refused = Route::Refused { protocol: Protocol::Tcp, why: why.clone(), rule };
        let dropped = Route::Dropped { why, rule };
        let outcome = |seen| Outcome { started_us: 0, finished_us: 1, from: None, seen };
        let silent = || outcome(Seen::TimedOut { phase: Phase::Connect });
        let told = [outcome(Seen::Refused), silent(), silent()];
        assert!(refused_as_often_as_may_be(&refused, &told));
        assert!(!refused_as_often_as_may_be(&refused, &[silent(), silent()]));
        assert!(
            !refused_as_often_as_may_be(&dropped, &told),
            "one that is to be dropped must not be refused"
        );
    }

    #[test]
    fn chance_does_not_look_like_stickiness() {
        for backends in 2..20 {
            let calls = connections_to_see_stickiness(backends) as f64;
            let same = |calls: f64| (1.0 / backends as f64).powf(calls - 1.0);
            assert!(same(calls) <= FALSE_ALARM * 1.000_001, "{backends} back ends");
            assert!(same(calls - 1.0) > FALSE_ALARM, "{backends} back ends");
        }
    }

    #[test]
    fn the_sample_is_as_large_as_the_false_alarm_demands_and_no_larger() {
        for backends in 1..20 {
            let calls = connections_to_see_all(backends) as f64;
            let missed =
                |calls: f64| backends as f64 * (1.0 - PART_OF_AN_EVEN_SHARE / backends as f64).powf(calls);
            assert!(missed(calls) <= FALSE_ALARM, "{backends} back ends");
            assert!(missed(calls - 1.0) > FALSE_ALARM, "{backends} back ends");
        }
    }
}
