//! One cell of a truth table: a place, a destination, what is promised there, and what was seen.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use stickler_model::{
    AFFINITY_RULE, Affinity, Health, ObjectKey, Protocol, Route, Turn, World, affinity_breaches, health,
};
use stickler_pods::protocol::{Outcome, Probe, Seen};
use stickler_reports::{CellVerdict, Saw};

use crate::Scene;
use crate::calls::in_words;
use crate::destination::Target;
use crate::invariant::{Unlike, is_silent, patience, probe, unlike};
use crate::vantage::Vantage;

/// How many calls are made where several may answer: every one of them from each place is a new
/// chance to meet somebody who must not.
pub(crate) const CALLS: u64 = 3;

/// What one place saw at one destination, beside what was promised there.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) verdict: CellVerdict,
    pub(crate) answered: bool,
    /// The set of what is allowed, and who promised it.
    pub(crate) promised: String,
    /// What was seen, and how often.
    pub(crate) seen: BTreeMap<String, u64>,
    /// What is wrong with it, as the end of a sentence that begins with the client.
    pub(crate) why: Option<String>,
    /// What kind of thing was seen instead, where an address was called.
    pub(crate) saw: Option<Saw>,
    /// Nobody told that the call is refused, though somebody had to. Kernels send one host a few refusals at
    /// once, and then one a second (icmp(7), `icmp_ratelimit`), so that alone says little.
    pub(crate) refusal_is_missing: bool,
}

impl Cell {
    /// One that nobody looked at, because nothing is promised.
    pub(crate) fn not_promised(promised: String) -> Self {
        Self { verdict: CellVerdict::NotPromised, ..Self::of(promised, &[], None) }
    }

    /// One that cannot be looked at.
    pub(crate) fn could_not_tell(promised: String, why: String) -> Self {
        Self { verdict: CellVerdict::CouldNotTell, ..Self::of(promised, &[], Some(why)) }
    }

    /// What came of calls, and how that differs, if it does.
    pub(crate) fn of(promised: String, outcomes: &[Outcome], why: Option<String>) -> Self {
        let mut seen = BTreeMap::new();
        for outcome in outcomes {
            *seen.entry(in_words(&outcome.seen)).or_default() += 1;
        }
        let answered = outcomes.iter().any(|outcome| match &outcome.seen {
            Seen::Answered(_) | Seen::Connected => true,
            Seen::Resolved(resolved) => !resolved.records.is_empty(),
            _ => false,
        });
        let verdict = if why.is_some() { CellVerdict::Differs } else { CellVerdict::AsPromised };
        Self { verdict, answered, promised, seen, why, saw: None, refusal_is_missing: false }
    }
}

/// Calls of a destination in its protocol: as many where somebody is to answer, one where nobody is. Nobody
/// is called where nothing is promised. The call is waited for as long as calls are, and at least so long.
///
/// # Errors
/// If it could not look.
pub(crate) async fn call(
    scene: &Scene,
    from: &Vantage,
    target: &Target,
    route: &Route,
    calls: u64,
    at_least: Duration,
) -> anyhow::Result<Cell> {
    let promised = format!("{route}, promised by {}", route.rule());
    let mut workload = scene.workload(probe(target), calls);
    // One after the other: calls at once may be answered by several, stickiness or not.
    workload.concurrency = 1;
    match route {
        Route::NotPromised { .. } => return Ok(Cell::not_promised(promised)),
        Route::Nobody { .. } | Route::AtMost { .. } | Route::Dropped { .. } | Route::Refused { .. } => {
            workload.count = Some(1)
        }
        Route::Answered { .. } => {}
    }
    workload.timeout_ms =
        patience(route, workload.timeout_ms).max(u64::try_from(at_least.as_millis()).unwrap_or(u64::MAX));
    let outcomes = scene.call(from, &target.label, workload).await?;
    if let Some(Unlike { why, saw }) = unlike(scene, from, route, &outcomes)? {
        let refusal_is_missing =
            matches!(route, Route::Refused { protocol: Protocol::Tcp, .. }) && outcomes.iter().all(is_silent);
        return Ok(Cell { saw: Some(saw), refusal_is_missing, ..Cell::of(promised, &outcomes, Some(why)) });
    }
    let Route::Answered { affinity: Some(Affinity::ClientIp { timeout_seconds }), .. } = route else {
        return Ok(Cell::of(promised, &outcomes, None));
    };
    let stays = Duration::from_secs((*timeout_seconds).into());
    let turns = turns(from, target, &outcomes);
    let breach = affinity_breaches(stays, Duration::ZERO, &turns, &[]).into_iter().next();
    Ok(match breach {
        None => Cell::of(promised, &outcomes, None),
        Some(breach) => {
            let promised = format!("answered by one back end each time: {AFFINITY_RULE}");
            let cell = Cell::of(promised, &outcomes, Some(format!("met several: {breach}")));
            Cell { saw: Some(Saw::Several), ..cell }
        }
    })
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

/// What a node says of its endpoints.
///
/// # Errors
/// If it could not look.
pub(crate) async fn check(
    scene: &Scene,
    world: &World,
    from: &Vantage,
    address: SocketAddr,
    service: &ObjectKey,
    label: &str,
) -> anyhow::Result<Cell> {
    let health = health(world, scene.cluster.promises(), service, address.ip());
    let promised = format!("{health}, promised by {}", health.rule());
    if matches!(health, Health::NotPromised { .. }) {
        return Ok(Cell::not_promised(promised));
    }
    // Another service may have the port by now.
    let spec = world.services.get(service).and_then(|service| service.spec.as_ref());
    if spec.and_then(|spec| spec.health_check_node_port) != Some(i32::from(address.port())) {
        return Ok(Cell::not_promised(format!("not promised: `{}` has given the port back", service.name)));
    }
    let probe = Probe::Http {
        address,
        host: None,
        path: "/healthz".to_owned(),
        method: None,
        source_port: None,
        reuse_connection: false,
        server_name: None,
        lines: None,
    };
    let outcomes = scene.call(from, label, scene.workload(probe, 1)).await?;
    for outcome in &outcomes {
        let status = match &outcome.seen {
            Seen::Answered(answer) => answer.status,
            Seen::CouldNotLook { error } => bail!("the agent could not look: {error}"),
            _ => None,
        };
        if let Err(why) = health.allows(status) {
            return Ok(Cell::of(promised, &outcomes, Some(format!("{why} ({})", in_words(&outcome.seen)))));
        }
    }
    Ok(Cell::of(promised, &outcomes, None))
}
