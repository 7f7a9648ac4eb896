//! What an exploration found.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::{Difference, Evidence, Finding, KnownDifference, Verdict};

/// The section `explore` of a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExploreReport {
    pub seed: u64,
    /// How many cases were to be tried.
    pub planned: usize,
    pub held: usize,
    pub failed: usize,
    /// Those that differed in nothing but what is known; they are among neither of these.
    #[serde(default)]
    pub expected: usize,
    pub inconclusive: usize,
    /// Operations performed, shrinking left out; and by their kind.
    pub steps: usize,
    pub operations: BTreeMap<String, usize>,
    /// Cells of truth tables that were looked at.
    pub looks: usize,
    pub case_ms_mean: u64,
    pub case_ms_max: u64,
    pub duration_ms: u64,
    /// Why cases could not be judged.
    pub reasons: Vec<String>,
    pub failure: Option<ExploreFailure>,
    /// The deviations it was told are known, those that were not met included: what an exploration comes
    /// to is chance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deviations: Vec<DeviationReport>,
}

/// A known deviation, and how often it was met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviationReport {
    /// The differences it shows in.
    pub explore: Vec<Difference>,
    pub reason: String,
    pub source: String,
    /// How many cases showed it, those included that failed by something else.
    pub cases: usize,
    /// The first that was seen of it.
    pub observed: Option<String>,
}

/// The first case that failed, as small as it could be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExploreFailure {
    pub case: usize,
    /// How many operations were drawn, and how many are left.
    pub drawn: usize,
    pub operations: usize,
    /// What a person would type to see it.
    pub script: String,
    pub finding: Finding,
    /// What kind of difference it is, if it is one that could be known: calls of an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<Difference>,
    /// Where the case was saved.
    pub file: Option<String>,
    pub shrink_runs: usize,
    pub shrink_ms: u64,
    pub evidence: Vec<Evidence>,
}

impl ExploreReport {
    /// One that counts nothing yet, of an exploration that knows these deviations.
    pub fn knowing(known: &[KnownDifference]) -> Self {
        let deviation = |known: &KnownDifference| {
            let KnownDifference { explore, reason, source } = known.clone();
            DeviationReport { explore, reason, source, cases: 0, observed: None }
        };
        Self { deviations: known.iter().map(deviation).collect(), ..Self::default() }
    }

    /// Counts a case. Of the known deviations that it showed, `known` has the place in the list, and what
    /// was seen.
    pub fn count(
        &mut self,
        verdict: Verdict,
        reason: Option<&str>,
        known: &BTreeMap<usize, String>,
        duration_ms: u64,
    ) {
        let before = (self.held + self.failed + self.expected + self.inconclusive) as u64;
        self.case_ms_mean = (self.case_ms_mean * before + duration_ms) / (before + 1);
        self.case_ms_max = self.case_ms_max.max(duration_ms);
        match verdict {
            Verdict::Passed | Verdict::Skipped if !known.is_empty() => self.expected += 1,
            Verdict::Passed | Verdict::Skipped => self.held += 1,
            Verdict::Failed => self.failed += 1,
            Verdict::Inconclusive => self.inconclusive += 1,
        }
        self.reasons.extend(reason.map(str::to_owned));
        for (place, observed) in known {
            if let Some(deviation) = self.deviations.get_mut(*place) {
                deviation.cases += 1;
                deviation.observed.get_or_insert_with(|| observed.clone());
            }
        }
    }

    /// The worst of all cases, known differences aside; fewer than were planned are inconclusive, unless one
    /// failed.
    pub fn verdict(&self) -> Verdict {
        if self.failure.is_some() || self.failed > 0 {
            Verdict::Failed
        } else if self.inconclusive > 0 || self.held + self.expected < self.planned {
            Verdict::Inconclusive
        } else {
            Verdict::Passed
        }
    }

    /// How many cases held, in words.
    pub(crate) fn in_words(&self) -> String {
        let known = match self.expected {
            0 => String::new(),
            expected => format!(", {expected} differed as known"),
        };
        format!("{} of {} cases held{known}", self.held, self.planned)
    }

    /// The section as text.
    pub(crate) fn write(&self, text: &mut String) {
        if let Some(failure) = &self.failure {
            let _ = writeln!(
                text,
                "FAILED case {}: {} operations are enough (of {}; {} smaller ones were tried, {:.1} s)",
                failure.case,
                failure.operations,
                failure.drawn,
                failure.shrink_runs,
                failure.shrink_ms as f64 / 1000.0
            );
            let _ = writeln!(text, "   promised  {}", failure.finding.promised);
            let _ = writeln!(text, "   observed  {}", failure.finding.observed);
            for (index, line) in failure.script.lines().enumerate() {
                let _ = writeln!(text, "  {:>9}  {line}", if index == 0 { "by" } else { "" });
            }
            if let Some(difference) = &failure.difference {
                let _ = writeln!(text, "    to know  explore = [{difference}]");
            }
            if let Some(file) = &failure.file {
                let _ = writeln!(text, "      again  stickler replay {file}");
            }
            text.push('\n');
        }
        for reason in &self.reasons {
            let _ = writeln!(text, "could not tell: {reason}\n");
        }
        let _ = writeln!(
            text,
            "  explored  {}, {} operations, {} looks, {} ms a case (at most {})",
            self.in_words(),
            self.steps,
            self.looks,
            self.case_ms_mean,
            self.case_ms_max
        );
        let kinds: Vec<String> =
            self.operations.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        if !kinds.is_empty() {
            let _ = writeln!(text, "            {}", kinds.join(", "));
        }
        for deviation in &self.deviations {
            let DeviationReport { reason, source, .. } = deviation;
            let _ = writeln!(text, "  known deviation, {}: {reason} <{source}>", deviation.in_words());
            if let Some(observed) = &deviation.observed {
                let _ = writeln!(text, "            such as: {observed}");
            }
        }
    }
}

impl DeviationReport {
    /// How often it was met, in words.
    pub(crate) fn in_words(&self) -> String {
        match self.cases {
            0 => "in no case this time".to_owned(),
            1 => "in 1 case".to_owned(),
            cases => format!("in {cases} cases"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Flow, Place, Promised, Saw, Slices, Transport};

    fn nothing() -> BTreeMap<usize, String> {
        BTreeMap::new()
    }

    #[test]
    fn a_case_that_could_not_be_judged_is_never_green() {
        let mut report = ExploreReport { planned: 2, ..ExploreReport::default() };
        report.count(Verdict::Passed, None, &nothing(), 10);
        assert_eq!(report.verdict(), Verdict::Inconclusive, "one is missing");
        report.count(Verdict::Inconclusive, Some("an agent was lost"), &nothing(), 30);
        assert_eq!((report.verdict(), report.case_ms_mean), (Verdict::Inconclusive, 20));
        report.count(Verdict::Failed, None, &nothing(), 50);
        assert_eq!(report.verdict(), Verdict::Failed);
    }

    fn known(seen: Saw, reason: &str) -> KnownDifference {
        let (at, protocol, flow, promised) =
            (Place::NodePort, Transport::Udp, Flow::Known, Promised::Answered);
        let explore =
            vec![Difference { at, protocol, flow, slices: Slices::Plain, promised, seen, by: None }];
        KnownDifference { explore, reason: reason.to_owned(), source: "https://example.org/1".to_owned() }
    }

    #[test]
    fn a_case_that_differs_as_known_is_green_and_counted_apart() {
        let all = [known(Saw::Silent, "it forgets"), known(Saw::Refused, "it is rude")];
        let mut report = ExploreReport { planned: 3, ..ExploreReport::knowing(&all) };
        let silent = |who: &str| BTreeMap::from([(0, format!("{who} got no answer"))]);
        report.count(Verdict::Passed, None, &silent("the first"), 40);
        report.count(Verdict::Passed, None, &silent("the second"), 20);
        report.count(Verdict::Passed, None, &nothing(), 30);
        assert_eq!((report.held, report.expected, report.case_ms_mean), (1, 2, 30));
        assert_eq!(report.verdict(), Verdict::Passed);
        let mut text = String::new();
        report.write(&mut text);
        for words in [
            "1 of 3 cases held, 2 differed as known, ",
            "  known deviation, in 2 cases: it forgets <https://example.org/1>\n            such as: the first got",
            "  known deviation, in no case this time: it is rude <",
        ] {
            assert!(text.contains(words), "`{words}` is missing in {text}");
        }
        // One that fails by something else shows it too, and is no less red.
        report.count(Verdict::Failed, None, &silent("the third"), 30);
        assert_eq!((report.verdict(), report.expected, report.failed), (Verdict::Failed, 2, 1));
        assert_eq!(report.deviations.iter().map(|one| one.cases).collect::<Vec<_>>(), [3, 0]);
    }
}
