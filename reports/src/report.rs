//! The report: what the events of a run add up to. It is a fold over the journal and nothing else,
//! so an old journal can be rendered again by today's code.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    BoundCard, ChaosReport, Class, ClusterCard, Deviation, Event, Evidence, Finding, Record, Reporter,
    Timing, Verdict,
};

/// The version of the report's shape; it grows when a field changes its meaning or goes away.
pub const SCHEMA: &str = "stickler.report/v1";

/// `report.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema: String,
    pub tool: String,
    pub suite: String,
    pub cluster: Option<ClusterReport>,
    /// The bounds that were measured when the run began; none if they were known beforehand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bounds: Vec<BoundCard>,
    pub seed: u64,
    pub started: Timestamp,
    pub duration_ms: u64,
    /// Stopped before its end, by a signal or a crash.
    pub interrupted: bool,
    pub checks: Vec<CheckReport>,
    /// What became of each feature, which is a chapter of checks, in the order of their names.
    #[serde(default)]
    pub features: Vec<FeatureReport>,
    /// What was found while faults struck, if they did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chaos: Option<ChaosReport>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explore: Option<crate::ExploreReport>,
    /// What every place saw at every destination, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<crate::TableReport>,
    /// Trouble that belongs to no check, such as an agent that did not come up.
    pub troubles: Vec<String>,
    pub timings: Vec<Timing>,
    pub summary: Summary,
}

/// The cluster, as the report shows it.
pub type ClusterReport = ClusterCard;

/// One check's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    pub id: String,
    pub title: String,
    /// The part of the id before the slash.
    pub chapter: String,
    pub class: Class,
    pub verdict: Verdict,
    pub reason: Option<String>,
    pub duration_ms: u64,
    pub promised: Option<String>,
    pub observed: Option<String>,
    pub evidence: Vec<Evidence>,
    /// It failed as this implementation is known to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Deviation>,
}

impl CheckReport {
    /// Did it fail, and was that not expected?
    pub fn is_broken(&self) -> bool {
        self.verdict == Verdict::Failed && self.expected.is_none()
    }
}

/// A feature: the checks of one chapter, and how much of it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureReport {
    pub feature: String,
    /// Does the implementation claim to have it? If not, its checks are skipped.
    pub claimed: bool,
    /// How many checks it has in this run.
    pub total: usize,
    /// How they ended; those that passed were kept.
    pub summary: Summary,
    /// How many of a hundred were kept, rounded down: 100 means all of them. What was skipped was not
    /// kept. None for what is not claimed.
    pub percent: Option<u8>,
}

impl FeatureReport {
    /// The percentage in words.
    pub fn in_percent(&self) -> String {
        self.percent.map_or_else(|| "not claimed".to_owned(), |percent| format!("{percent} %"))
    }
}

/// How many checks ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub passed: usize,
    pub failed: usize,
    /// Those that failed as the implementation is known to; they are not among `failed`.
    #[serde(default)]
    pub expected: usize,
    pub skipped: usize,
    pub inconclusive: usize,
}

impl Summary {
    fn of<'a>(checks: impl IntoIterator<Item = &'a CheckReport>) -> Self {
        let mut summary = Self::default();
        for check in checks {
            let count = match check.verdict {
                Verdict::Passed => &mut summary.passed,
                Verdict::Failed if check.expected.is_some() => &mut summary.expected,
                Verdict::Failed => &mut summary.failed,
                Verdict::Skipped => &mut summary.skipped,
                Verdict::Inconclusive => &mut summary.inconclusive,
            };
            *count += 1;
        }
        summary
    }
}

impl Report {
    /// An empty report, to be filled by [`Reporter::hear`].
    pub fn new() -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            tool: String::new(),
            suite: String::new(),
            cluster: None,
            bounds: Vec::new(),
            seed: 0,
            started: Timestamp::UNIX_EPOCH,
            duration_ms: 0,
            // Until the last event says otherwise.
            interrupted: true,
            checks: Vec::new(),
            features: Vec::new(),
            chaos: None,
            explore: None,
            table: None,
            troubles: Vec::new(),
            timings: Vec::new(),
            summary: Summary::default(),
        }
    }

    /// What these events add up to.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut report = Self::new();
        for record in records {
            report.hear(record);
        }
        report
    }

    /// The worst verdict of all checks, known deviations aside; an interrupted run and one with
    /// trouble is never better than inconclusive.
    pub fn verdict(&self) -> Verdict {
        // Who asked for one of these and has nothing to show for it cannot tell.
        let missing = match self.suite.as_str() {
            "chaos" => self.chaos.is_none(),
            "explore" => self.explore.is_none(),
            "table" => self.table.is_none(),
            _ => false,
        };
        let floor = if self.interrupted || missing || !self.troubles.is_empty() {
            Verdict::Inconclusive
        } else {
            Verdict::Passed
        };
        self.checks
            .iter()
            .filter(|check| check.expected.is_none())
            .map(|check| check.verdict)
            .chain(self.chaos.iter().map(|chaos| chaos.verdict))
            // A skipped check has its reason in the report and is no stain on the run.
            .filter(|verdict| *verdict != Verdict::Skipped)
            .chain(self.explore.iter().map(crate::ExploreReport::verdict))
            .chain(self.table.iter().map(crate::TableReport::verdict))
            .fold(floor, Ord::max)
    }

    /// Does the implementation claim to have a feature? Unless it was said that it does not.
    pub fn is_claimed(&self, feature: &str) -> bool {
        self.features.iter().all(|known| known.claimed || known.feature != feature)
    }

    /// Counts the checks anew: all of them, and those of each feature.
    pub(crate) fn count(&mut self) {
        let unclaimed = self.features.iter().filter(|feature| !feature.claimed);
        let unclaimed = unclaimed.map(|feature| feature.feature.clone()).collect::<Vec<_>>();
        self.count_without(&unclaimed);
    }

    fn count_without(&mut self, unclaimed: &[String]) {
        self.summary = Summary::of(&self.checks);
        let mut chapters: BTreeMap<&str, Vec<&CheckReport>> = BTreeMap::new();
        for check in &self.checks {
            chapters.entry(&check.chapter).or_default().push(check);
        }
        let feature = |(feature, checks): (&str, Vec<&CheckReport>)| {
            let (total, summary) = (checks.len(), Summary::of(checks));
            let (feature, claimed) = (feature.to_owned(), !unclaimed.iter().any(|name| name == feature));
            let percent = u8::try_from(100 * summary.passed / total).ok().filter(|_| claimed);
            FeatureReport { feature, claimed, total, summary, percent }
        };
        self.features = chapters.into_iter().map(feature).collect();
    }
}

/// How the run ended, in words.
pub(crate) fn headline(report: &Report) -> &'static str {
    match report.verdict() {
        Verdict::Passed | Verdict::Skipped
            if report.summary.expected > 0
                || report.explore.as_ref().is_some_and(|explore| explore.expected > 0) =>
        {
            "every promise held, known deviations aside"
        }
        Verdict::Passed | Verdict::Skipped => "every promise held",
        Verdict::Failed => "a promise was broken",
        Verdict::Inconclusive if report.interrupted => "interrupted",
        Verdict::Inconclusive => "could not tell",
    }
}

impl Default for Report {
    fn default() -> Self {
        Self::new()
    }
}

/// One reason for which something could not be told, and the checks it kept from ending: a part that was
/// lost is the reason of many.
pub(crate) struct Untold<'a> {
    pub(crate) reason: &'a str,
    pub(crate) checks: Vec<&'a CheckReport>,
}

impl Report {
    /// What could not be told, by reason, in the order of the checks.
    pub(crate) fn untold(&self) -> Vec<Untold<'_>> {
        let mut reasons: Vec<Untold<'_>> = Vec::new();
        for check in self.checks.iter().filter(|check| check.verdict == Verdict::Inconclusive) {
            let reason = check.reason.as_deref().unwrap_or("no reason was given");
            match reasons.iter_mut().find(|known| known.reason == reason) {
                Some(known) => known.checks.push(check),
                None => reasons.push(Untold { reason, checks: vec![check] }),
            }
        }
        reasons
    }
}

impl Untold<'_> {
    /// How many checks are named.
    const NAMED: usize = 5;

    /// Their ids, or the first of them and how many more there are.
    pub(crate) fn named(&self) -> String {
        let first: Vec<&str> = self.checks.iter().take(Self::NAMED).map(|check| check.id.as_str()).collect();
        match self.checks.len().checked_sub(Self::NAMED) {
            Some(more @ 1..) => format!("{} and {more} more", first.join(", ")),
            _ => first.join(", "),
        }
    }
}

impl Reporter for Report {
    fn hear(&mut self, record: &Record) {
        match &record.event {
            Event::RunStarted { tool, suite, seed, jobs: _, checks, unclaimed } => {
                self.tool.clone_from(tool);
                self.suite.clone_from(suite);
                self.seed = *seed;
                self.started = record.at;
                // Checks stand in the report in the suite's order, whatever order they end in.
                self.checks = checks
                    .iter()
                    .map(|card| CheckReport {
                        id: card.id.clone(),
                        title: card.title.clone(),
                        chapter: card.id.split('/').next().unwrap_or_default().to_owned(),
                        class: card.class,
                        verdict: Verdict::Inconclusive,
                        reason: Some("it never ended".to_owned()),
                        duration_ms: 0,
                        promised: None,
                        observed: None,
                        evidence: Vec::new(),
                        expected: None,
                    })
                    .collect();
                self.count_without(unclaimed);
            }
            Event::ClusterReady { cluster } => self.cluster = Some(cluster.clone()),
            Event::Lacks { capability, .. } => {
                if let Some(cluster) = &mut self.cluster {
                    cluster.capabilities.retain(|has| has != capability);
                }
            }
            Event::BoundsMeasured { bounds, .. } => self.bounds.clone_from(bounds),
            Event::CheckFinished { check, verdict, reason, finding, duration_ms, evidence, expected } => {
                let Some(known) = self.checks.iter_mut().find(|known| known.id == *check) else { return };
                let (promised, observed) = match finding {
                    Some(Finding { promised, observed }) => (Some(promised.clone()), Some(observed.clone())),
                    None => (None, None),
                };
                *known = CheckReport {
                    verdict: *verdict,
                    reason: reason.clone(),
                    duration_ms: *duration_ms,
                    promised,
                    observed,
                    evidence: evidence.clone(),
                    expected: expected.clone(),
                    ..known.clone()
                };
                self.count();
            }
            Event::ChaosFinished { chaos } => self.chaos = Some(chaos.as_ref().clone()),
            Event::Trouble { message } => self.troubles.push(message.clone()),
            Event::RunFinished { duration_ms, interrupted, timings } => {
                self.duration_ms = *duration_ms;
                self.interrupted = *interrupted;
                self.timings.clone_from(timings);
            }
            Event::Explored { explore } => self.explore = Some((**explore).clone()),
            Event::Tabulated { table } => self.table = Some((**table).clone()),
            Event::CheckStarted { .. }
            | Event::Acted { .. }
            | Event::Called { .. }
            | Event::CaseFinished { .. }
            | Event::ChaosPlanned { .. }
            | Event::ClientsStarted { .. }
            | Event::FaultInjected { .. }
            | Event::FaultHealed { .. }
            | Event::Changed { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CheckCard;

    fn record(event: Event) -> Record {
        Record { at: Timestamp::UNIX_EPOCH, event }
    }

    fn started(ids: &[&str]) -> Record {
        let card = |id: &&str| CheckCard {
            id: (*id).to_owned(),
            title: "a title".to_owned(),
            class: Class::Promise,
        };
        record(Event::RunStarted {
            tool: "stickler test".to_owned(),
            suite: "conformance".to_owned(),
            seed: 7,
            jobs: 1,
            unclaimed: Vec::new(),
            checks: ids.iter().map(card).collect(),
        })
    }

    fn finished(id: &str, verdict: Verdict) -> Record {
        record(Event::CheckFinished {
            check: id.to_owned(),
            verdict,
            reason: None,
            finding: None,
            duration_ms: 1,
            evidence: Vec::new(),
            expected: None,
        })
    }

    fn ended(interrupted: bool) -> Record {
        record(Event::RunFinished { duration_ms: 5, interrupted, timings: Vec::new() })
    }

    #[test]
    fn every_field_is_documented() {
        let mut fields = std::collections::BTreeSet::new();
        let mut report = crate::example::report();
        report.bounds.push(BoundCard {
            bound: "convergence".to_owned(),
            ms: 5_000,
            measured_ms: None,
            rule: "a rule".to_owned(),
        });
        report.timings.push(Timing { step: "a step".to_owned(), us: 1 });
        let difference = crate::Difference {
            at: crate::Place::Pod,
            protocol: crate::Transport::Tcp,
            flow: crate::Flow::New,
            slices: crate::Slices::Plain,
            promised: crate::Promised::Answered,
            seen: crate::Saw::Silent,
            by: Some("somebody".to_owned()),
        };
        let failure = crate::ExploreFailure {
            case: 1,
            drawn: 2,
            operations: 1,
            script: String::new(),
            finding: Finding { promised: String::new(), observed: String::new() },
            difference: Some(difference.clone()),
            file: None,
            shrink_runs: 1,
            shrink_ms: 1,
            evidence: Vec::new(),
        };
        let (reason, source) = ("it forgets".to_owned(), "https://example.org/1".to_owned());
        let known = crate::KnownDifference { explore: vec![difference], reason, source };
        report.explore =
            Some(crate::ExploreReport { failure: Some(failure), ..crate::ExploreReport::knowing(&[known]) });
        collect(&serde_json::to_value(&report).expect("JSON"), &mut fields);
        assert!(fields.len() > 80, "{fields:?}");
        let text = include_str!("../report.md");
        let missing: Vec<_> = fields.iter().filter(|field| !text.contains(&format!("`{field}`"))).collect();
        assert!(missing.is_empty(), "reports/report.md does not say what these are: {missing:?}");
        assert!(text.contains(SCHEMA));
    }

    fn collect(value: &serde_json::Value, fields: &mut std::collections::BTreeSet<String>) {
        match value {
            serde_json::Value::Object(object) => object.iter().for_each(|(field, value)| {
                fields.insert(field.clone());
                collect(value, fields);
            }),
            serde_json::Value::Array(values) => values.iter().for_each(|value| collect(value, fields)),
            _ => {}
        }
    }

    #[test]
    fn a_known_deviation_does_not_stain_the_run() {
        let known = Deviation {
            check: "a/one".to_owned(),
            reason: "it is slow".to_owned(),
            source: "https://example.org/1".to_owned(),
            sometimes: false,
        };
        let mut failed = finished("a/one", Verdict::Failed);
        if let Event::CheckFinished { expected, .. } = &mut failed.event {
            *expected = Some(known);
        }
        let both = [started(&["a/one", "a/two"]), failed, finished("a/two", Verdict::Passed), ended(false)];
        let report = Report::of(&both);
        assert_eq!(report.summary, Summary { passed: 1, expected: 1, ..Summary::default() });
        assert_eq!(report.verdict(), Verdict::Passed);
        let [first, _, _, last] = both;
        let other = finished("a/two", Verdict::Failed);
        assert_eq!(Report::of(&[first, other, last]).verdict(), Verdict::Failed);
    }

    #[test]
    fn a_check_that_never_ended_is_inconclusive() {
        let report = Report::of(&[started(&["a/one", "a/two"]), finished("a/one", Verdict::Passed)]);
        assert_eq!(report.summary, Summary { passed: 1, inconclusive: 1, ..Summary::default() });
        assert!(report.interrupted, "a journal without an end is a run that was cut off");
        assert_eq!(report.verdict(), Verdict::Inconclusive);
    }

    #[test]
    fn the_worst_verdict_wins_and_a_skip_is_none() {
        let verdict = |verdicts: &[Verdict]| {
            let ids = ["a/0", "a/1", "a/2"];
            let mut records = vec![started(&ids[..verdicts.len()])];
            records.extend(ids.iter().zip(verdicts).map(|(id, verdict)| finished(id, *verdict)));
            records.push(ended(false));
            Report::of(&records).verdict()
        };
        assert_eq!(verdict(&[Verdict::Passed, Verdict::Skipped]), Verdict::Passed);
        assert_eq!(verdict(&[Verdict::Passed, Verdict::Inconclusive]), Verdict::Inconclusive);
        assert_eq!(verdict(&[Verdict::Inconclusive, Verdict::Failed, Verdict::Passed]), Verdict::Failed);
    }

    #[test]
    fn trouble_and_interruption_are_never_green() {
        let trouble = record(Event::Trouble { message: "an agent died".to_owned() });
        let calm = [started(&["a/0"]), finished("a/0", Verdict::Passed), ended(false)];
        assert_eq!(Report::of(&calm).verdict(), Verdict::Passed);
        let troubled = [started(&["a/0"]), trouble, finished("a/0", Verdict::Passed), ended(false)];
        assert_eq!(Report::of(&troubled).verdict(), Verdict::Inconclusive);
        let cut = [started(&["a/0"]), finished("a/0", Verdict::Passed), ended(true)];
        assert_eq!(Report::of(&cut).verdict(), Verdict::Inconclusive);
    }

    #[test]
    fn what_was_skipped_was_not_kept_and_what_is_not_claimed_has_no_percentage() {
        let mut first = started(&["a/0", "a/1", "a/2", "b/0", "c/0", "c/1"]);
        let Event::RunStarted { unclaimed, .. } = &mut first.event else { unreachable!("it starts") };
        unclaimed.push("c".to_owned());
        let skipped = ["a/2", "c/0", "c/1"].map(|id| finished(id, Verdict::Skipped));
        let passed = ["a/0", "a/1", "b/0"].map(|id| finished(id, Verdict::Passed));
        let report = Report::of([first].iter().chain(&skipped).chain(&passed));
        let told = |feature: &FeatureReport| (feature.feature.clone(), feature.total, feature.in_percent());
        let told: Vec<_> = report.features.iter().map(told).collect();
        let expected = [("a", 3, "66 %"), ("b", 1, "100 %"), ("c", 2, "not claimed")];
        assert_eq!(told, expected.map(|(name, total, words)| (name.to_owned(), total, words.to_owned())));
        assert_eq!(report.features[0].summary, Summary { passed: 2, skipped: 1, ..Summary::default() });
        assert!(report.is_claimed("a") && !report.is_claimed("c"));
    }

    #[test]
    fn checks_keep_the_suites_order() {
        let report = Report::of(&[
            started(&["a/one", "b/two"]),
            finished("b/two", Verdict::Passed),
            finished("a/one", Verdict::Failed),
        ]);
        let ids: Vec<_> = report.checks.iter().map(|check| check.id.as_str()).collect();
        assert_eq!(ids, ["a/one", "b/two"]);
        assert_eq!(report.checks[1].chapter, "b");
    }

    #[test]
    fn a_journal_survives_the_line_a_crash_cut_off() {
        let dir = tempfile::TempDir::new().expect("a temporary folder");
        let path = dir.path().join("journal.jsonl");
        let mut journal = crate::Journal::create(&path).expect("a journal");
        let records = [started(&["a/0"]), finished("a/0", Verdict::Passed)];
        records.iter().for_each(|record| journal.hear(record));
        journal.finish().expect("written whole");
        let mut text = std::fs::read_to_string(&path).expect("the journal");
        text.push_str("{\"at\":\"1970-01-01T00:00:00Z\",\"ev");
        std::fs::write(&path, &text).expect("the cut journal");
        assert_eq!(crate::read_journal(&path).expect("readable"), records);
        std::fs::write(&path, text.replacen("run-started", "run-stranded", 1)).expect("the broken journal");
        let error = crate::read_journal(&path).expect_err("an unknown event in the middle").to_string();
        assert!(error.starts_with("line 1 of the journal"), "{error}");
    }
}
