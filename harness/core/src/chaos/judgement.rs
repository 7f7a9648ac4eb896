//! Judgements: what clients saw while faults struck, held against what was promised meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stickler_model::{Affinity, Members, Promises, Protocol, Route, Turn, affinity_breaches, route};
use stickler_pods::protocol::Seen;
use stickler_reports::{
    BucketReport, ChaosReport, DistributionReport, FaultReport, Verdict, ViolationReport,
};

use super::strike::Struck;
use crate::bounds::Bounds;
use crate::calls::in_words;
use crate::chronicle::{Chronicle, Place, Question};
use crate::clients::{Aim, Harvest, Harvests};
use crate::history::{
    Allowed, Backends, Call, Distribution, History, NameCall, Timeline, check, check_names, spread,
};
use crate::vantage::{Vantage, Vantages};

/// So many violations are told in full.
const IN_FULL: usize = 20;
/// So many calls of the same client are told before and after each.
const BESIDE: usize = 2;

/// Everything a run has to show.
pub(super) struct Shown<'a> {
    pub(super) chronicle: &'a Chronicle,
    pub(super) harvests: &'a Harvests,
    pub(super) struck: &'a [Struck],
    pub(super) vantages: &'a Vantages,
    pub(super) promises: &'a Promises,
    pub(super) bounds: Bounds,
    pub(super) seed: u64,
    pub(super) rate: u32,
}

/// Calls and where each came from: which client, which of its outcomes.
struct Traced<T> {
    all: Vec<T>,
    from: Vec<(usize, usize)>,
}

impl<T> Traced<T> {
    fn new() -> Self {
        Self { all: Vec::new(), from: Vec::new() }
    }
}

impl Shown<'_> {
    /// The report, as far as the calls decide it: green if nothing was wrong with them.
    pub(super) fn judge(&self) -> ChaosReport {
        let mut backends = Backends::new();
        let (history, traced) = self.history(&mut backends);
        let bound_us = micros(self.bounds.staleness);
        let verdicts = check(&history, bound_us);
        let mut violations: Vec<ViolationReport> = (verdicts.violations.iter())
            .map(|violation| {
                let (harvest, outcome) = traced.from[violation.call];
                let allowed = told(&violation.allowed_then, &backends);
                self.violation(harvest, outcome, allowed, violation.needed_us)
            })
            .collect();

        let (questions, asked) = self.asked();
        let names = self.chronicle.names(self.promises, &questions);
        let findings = check_names(&names, &asked.all, micros(self.bounds.name_staleness));
        violations.extend(findings.wrong.iter().map(|wrong| {
            let (harvest, outcome) = asked.from[wrong.call];
            self.violation(harvest, outcome, wrong.allowed_then.to_string(), wrong.needed_us)
        }));
        violations.extend(self.moves());
        violations.sort_by_key(|violation| violation.started_us);

        let spread = spread(&self.spreading(&history, &traced));
        let times = history.calls.iter().map(|call| (call.start_us, call.end_us));
        let started_us = times.clone().map(|(start, _)| start).min().unwrap_or_default();
        let ended_us = times.map(|(_, end)| end).max().unwrap_or_default();
        let (verdict, reason) = self.verdict(&history.calls, &asked.all, &violations);
        let faults = self.faults(&history);
        ChaosReport {
            verdict,
            reason,
            seed: self.seed,
            rate: self.rate,
            duration_ms: u64::try_from((ended_us - started_us) / 1_000).unwrap_or_default(),
            staleness_bound_ms: millis(self.bounds.staleness),
            name_staleness_bound_ms: millis(self.bounds.name_staleness),
            clients: self.harvests.of.len() + self.harvests.lost.len(),
            calls: history.calls.len(),
            names_asked: asked.all.len(),
            could_not_look: self.could_not_look().values().sum(),
            changes: self.chronicle.changes.len(),
            faults,
            violations: violations.len(),
            first_violations: violations.into_iter().take(IN_FULL).collect(),
            staleness: distribution(&verdicts.staleness),
            name_staleness: distribution(&findings.staleness),
            ready_to_served_everywhere: distribution(&spread.ready_to_served_everywhere),
            not_served_everywhere: spread.not_served_everywhere,
            removed_to_last_served: distribution(&spread.removed_to_last_served),
            converged_ms: None,
            convergence_bound_ms: millis(self.bounds.convergence),
            slowest_answer_ms: u64::try_from(self.chronicle.slowest_answer_us / 1_000).unwrap_or_default(),
        }
    }

    /// The calls of all clients, with one timeline for all vantages of which the same is promised
    /// at a destination all the time.
    fn history(&self, backends: &mut Backends) -> (History, Traced<Call>) {
        let places: BTreeSet<Place> =
            self.harvests.of.iter().filter_map(|harvest| harvest.client.place(self.vantages)).collect();
        let places: Vec<Place> = places.into_iter().collect();
        let each = self.chronicle.timelines(self.promises, &places, backends);
        let mut timelines: Vec<Timeline> = Vec::new();
        let mut classes: Vec<(Place, usize)> = Vec::new();
        for (place, timeline) in places.into_iter().zip(each) {
            let same =
                |(other, index): &&(Place, usize)| other.to == place.to && timelines[*index] == timeline;
            let index = classes.iter().find(same).map(|(_, index)| *index).unwrap_or_else(|| {
                timelines.push(timeline.clone());
                timelines.len() - 1
            });
            classes.push((place, index));
        }
        let classes: BTreeMap<Place, usize> = classes.into_iter().collect();
        let vantages: Vec<Vantage> = self.vantages.everywhere();
        let mut traced = Traced::new();
        for (index, harvest) in self.harvests.of.iter().enumerate() {
            let Some(place) = harvest.client.place(self.vantages) else { continue };
            let vantage = vantages.iter().position(|vantage| *vantage == harvest.client.from);
            let vantage = vantage.and_then(|index| u32::try_from(index).ok()).unwrap_or(u32::MAX);
            let calls = harvest.calls(classes[&place], vantage, backends);
            traced.from.extend(calls.outcomes.into_iter().map(|outcome| (index, outcome)));
            traced.all.extend(calls.calls);
        }
        (History { timelines, calls: traced.all.clone() }, traced)
    }

    fn asked(&self) -> (Vec<Question>, Traced<NameCall>) {
        let mut questions: Vec<Question> = Vec::new();
        let mut traced = Traced::new();
        for (index, harvest) in self.harvests.of.iter().enumerate() {
            let Some(question) = harvest.client.question(self.vantages) else { continue };
            let known = questions.iter().position(|known| *known == question);
            let timeline = known.unwrap_or_else(|| {
                questions.push(question);
                questions.len() - 1
            });
            let asks = harvest.asks(timeline);
            traced.from.extend(asks.outcomes.into_iter().map(|outcome| (index, outcome)));
            traced.all.extend(asks.asked);
        }
        (questions, traced)
    }

    /// The answers of affine clients that should have been another's.
    fn moves(&self) -> Vec<ViolationReport> {
        let mut moves = Vec::new();
        for (index, harvest) in self.harvests.of.iter().enumerate() {
            let Some(place) = harvest.client.place(self.vantages) else { continue };
            let Some((timeout, members)) = self.members(&place) else { continue };
            let mut turns = Vec::new();
            let mut outcomes = Vec::new();
            for (number, outcome) in harvest.outcomes.iter().enumerate() {
                let Seen::Answered(answer) = &outcome.seen else { continue };
                let (Some(backend), Some(from)) = (&answer.hostname, outcome.from) else { continue };
                let (start_us, end_us, _) = harvest.times(outcome);
                turns.push(Turn {
                    start_us,
                    end_us,
                    client: from.ip().to_string(),
                    destination: place.to.to_string(),
                    backend: backend.clone(),
                });
                outcomes.push(number);
            }
            let breaches =
                |upto: usize| affinity_breaches(timeout, self.bounds.staleness, &turns[..upto], &members);
            let all = breaches(turns.len());
            for (nth, sentence) in all.into_iter().enumerate() {
                // The call that proves it is the first one that adds this breach.
                let place = (1..=turns.len())
                    .collect::<Vec<_>>()
                    .partition_point(|upto| breaches(*upto).len() <= nth);
                let outcome = outcomes.get(place).copied().unwrap_or_default();
                let allowed = format!("the same back end as before: {sentence}");
                moves.push(self.violation(index, outcome, allowed, None));
            }
        }
        moves
    }

    /// How long a client is to stay with its back end at a place, and who was there when; none
    /// where that is not promised all the time.
    fn members(&self, place: &Place) -> Option<(Duration, Vec<Members>)> {
        let mut timeout = None;
        let mut promised = true;
        let mut members: Vec<Members> = Vec::new();
        self.chronicle.each(|version| {
            if !version.concerns_routes {
                return;
            }
            let route = route(version.world, self.promises, &place.from, &place.to);
            let backends: BTreeSet<String> = match &route {
                Route::Answered { by, affinity: Some(Affinity::ClientIp { timeout_seconds }), .. } => {
                    timeout = Some(Duration::from_secs(u64::from(*timeout_seconds)));
                    by.iter().filter_map(|backend| backend.hostname.clone()).collect()
                }
                Route::Answered { affinity: None, .. } => {
                    promised = false;
                    BTreeSet::new()
                }
                _ => BTreeSet::new(),
            };
            let before = members.last().map(|last| last.backends.clone());
            if before.as_ref() == Some(&backends) {
                return;
            }
            // While it is in doubt whether it has happened, nobody has to be there who left or came.
            if let Some(before) = before {
                let sure = before.intersection(&backends).cloned().collect();
                members.push(Members { from_us: version.earliest_us, backends: sure });
            }
            members.push(Members { from_us: version.latest_us, backends });
        });
        timeout.filter(|_| promised).map(|timeout| (timeout, members))
    }

    /// What is left to tell from who answered how changes spread: new connections whose back end is
    /// chosen anew each time.
    fn spreading(&self, history: &History, traced: &Traced<Call>) -> History {
        let is_chosen_anew = |harvest: &Harvest| {
            let place = harvest.client.place(self.vantages);
            place.is_some_and(|place| place.to.protocol == Protocol::Tcp && self.members(&place).is_none())
        };
        let chosen: Vec<bool> = self.harvests.of.iter().map(is_chosen_anew).collect();
        let calls = history.calls.iter().zip(&traced.from).filter(|(_, (harvest, _))| chosen[*harvest]);
        History { timelines: history.timelines.clone(), calls: calls.map(|(call, _)| *call).collect() }
    }

    fn violation(
        &self,
        harvest: usize,
        outcome: usize,
        allowed_then: String,
        needed_us: Option<i64>,
    ) -> ViolationReport {
        let harvest = &self.harvests.of[harvest];
        let seen = &harvest.outcomes[outcome];
        let (started_us, ended_us, within_us) = harvest.times(seen);
        let last = self.struck.iter().rev().find(|struck| struck.injected_us <= ended_us);
        ViolationReport {
            vantage: harvest.client.from.to_string(),
            destination: harvest.client.label.clone(),
            call: outcome,
            started_us,
            ended_us,
            within_us,
            seen: in_words(&seen.seen),
            allowed_then,
            needed_ms: needed_us.map(|needed| u64::try_from(needed / 1_000).unwrap_or_default()),
            after: last.map(|struck| struck.fault.name().to_owned()),
            around: self.around(harvest, outcome),
        }
    }

    /// What the client saw before and after a call.
    fn around(&self, harvest: &Harvest, outcome: usize) -> Vec<String> {
        let first = outcome.saturating_sub(BESIDE);
        let beside = harvest.outcomes.iter().enumerate().skip(first).take(2 * BESIDE + 1);
        beside
            .map(|(number, outcome)| {
                let (start_us, end_us, _) = harvest.times(outcome);
                let since_us = self.struck.first().map_or(start_us, |first| first.injected_us);
                let seconds = |at_us: i64| (at_us - since_us) as f64 / 1e6;
                let from = outcome.from.map(|from| format!(" from {from}")).unwrap_or_default();
                let seen = in_words(&outcome.seen);
                format!("call {number} at {:.3} to {:.3} s{from}: {seen}", seconds(start_us), seconds(end_us))
            })
            .collect()
    }

    /// The faults, each with how stale the answers were from its beginning to the next one's.
    fn faults(&self, history: &History) -> Vec<FaultReport> {
        let mut faults = Vec::new();
        for (index, struck) in self.struck.iter().enumerate() {
            let until_us = self.struck.get(index + 1).map_or(i64::MAX, |next| next.injected_us);
            let within = |call: &&Call| (struck.injected_us..until_us).contains(&call.start_us);
            let calls = history.calls.iter().filter(within).copied().collect();
            let part = History { timelines: history.timelines.clone(), calls };
            faults.push(FaultReport {
                fault: struck.fault.name().to_owned(),
                what: struck.what.join(", "),
                injected_us: struck.injected_us,
                healed_us: struck.healed_us,
                trouble: struck.trouble.clone(),
                staleness: distribution(&check(&part, i64::MAX).staleness),
            });
        }
        faults
    }

    fn could_not_look(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for harvest in &self.harvests.of {
            for outcome in &harvest.outcomes {
                if let Seen::CouldNotLook { error } = &outcome.seen {
                    *all.entry(error.clone()).or_default() += 1;
                }
            }
        }
        all
    }

    fn verdict(
        &self,
        calls: &[Call],
        asked: &[NameCall],
        violations: &[ViolationReport],
    ) -> (Verdict, Option<String>) {
        if !violations.is_empty() {
            let (wrong, all) = (violations.len(), calls.len() + asked.len());
            return (Verdict::Failed, Some(format!("{wrong} of {all} answers were not allowed")));
        }
        let mut doubts: Vec<String> = self.harvests.lost.clone();
        doubts.extend(self.chronicle.gaps.iter().cloned());
        doubts.extend(
            self.could_not_look()
                .into_iter()
                .map(|(error, count)| format!("{count} calls were not made: {error}")),
        );
        let silent = self.harvests.of.iter().filter(|harvest| harvest.outcomes.is_empty());
        doubts.extend(
            silent.map(|harvest| format!("{} made no call of {}", harvest.client.from, harvest.client.label)),
        );
        let troubled = self.struck.iter().filter_map(|struck| Some((struck.fault, struck.trouble.clone()?)));
        doubts.extend(troubled.map(|(fault, trouble)| format!("{fault}: {trouble}")));
        if self.struck.is_empty() {
            doubts.push("no fault struck".to_owned());
        }
        let asks = self.harvests.of.iter().any(|harvest| matches!(harvest.client.to, Aim::Name { .. }));
        if calls.is_empty() || (asks && asked.is_empty()) {
            doubts.push("there is nothing to judge".to_owned());
        }
        match doubts.is_empty() {
            true => (Verdict::Passed, None),
            false => (Verdict::Inconclusive, Some(doubts.join("; "))),
        }
    }
}

/// What was allowed, in words.
fn told(allowed: &Allowed, backends: &Backends) -> String {
    let names: Vec<String> = (allowed.backends().iter())
        .map(|id| format!("`{}`", backends.name(*id).unwrap_or("a backend without a name")))
        .collect();
    match (names.is_empty(), allowed.otherwise()) {
        (true, None) => "nothing".to_owned(),
        (true, Some(otherwise)) => otherwise.to_owned(),
        (false, None) => format!("an answer by {}", names.join(" or ")),
        (false, Some(otherwise)) => format!("an answer by {}, or {otherwise}", names.join(" or ")),
    }
}

fn distribution(of: &Distribution) -> DistributionReport {
    let Distribution { count, p50_us, p90_us, p99_us, max_us, histogram } = of.clone();
    let bucket =
        |bucket: crate::history::Bucket| BucketReport { up_to_us: bucket.up_to_us, count: bucket.count };
    let histogram = histogram.into_iter().map(bucket).collect();
    DistributionReport { count, p50_us, p90_us, p99_us, max_us, histogram }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
