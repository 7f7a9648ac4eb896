//! What an exploration found.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::{Evidence, Finding, Verdict};

/// The section `explore` of a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExploreReport {
    pub seed: u64,
    /// How many cases were to be tried.
    pub planned: usize,
    pub held: usize,
    pub failed: usize,
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
    /// Where the case was saved.
    pub file: Option<String>,
    pub shrink_runs: usize,
    pub shrink_ms: u64,
    pub evidence: Vec<Evidence>,
}

impl ExploreReport {
    /// Counts a case.
    pub fn count(&mut self, verdict: Verdict, reason: Option<&str>, duration_ms: u64) {
        let before = (self.held + self.failed + self.inconclusive) as u64;
        self.case_ms_mean = (self.case_ms_mean * before + duration_ms) / (before + 1);
        self.case_ms_max = self.case_ms_max.max(duration_ms);
        match verdict {
            Verdict::Passed | Verdict::Skipped => self.held += 1,
            Verdict::Failed => self.failed += 1,
            Verdict::Inconclusive => self.inconclusive += 1,
        }
        self.reasons.extend(reason.map(str::to_owned));
    }

    /// The worst of all cases; fewer than were planned are inconclusive, unless one failed.
    pub fn verdict(&self) -> Verdict {
        if self.failure.is_some() || self.failed > 0 {
            Verdict::Failed
        } else if self.inconclusive > 0 || self.held < self.planned {
            Verdict::Inconclusive
        } else {
            Verdict::Passed
        }
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
            "  explored  {} of {} cases held, {} operations, {} looks, {} ms a case (at most {})",
            self.held, self.planned, self.steps, self.looks, self.case_ms_mean, self.case_ms_max
        );
        let kinds: Vec<String> =
            self.operations.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        if !kinds.is_empty() {
            let _ = writeln!(text, "            {}", kinds.join(", "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_that_could_not_be_judged_is_never_green() {
        let mut report = ExploreReport { planned: 2, ..ExploreReport::default() };
        report.count(Verdict::Passed, None, 10);
        assert_eq!(report.verdict(), Verdict::Inconclusive, "one is missing");
        report.count(Verdict::Inconclusive, Some("an agent was lost"), 30);
        assert_eq!((report.verdict(), report.case_ms_mean), (Verdict::Inconclusive, 20));
        report.count(Verdict::Failed, None, 50);
        assert_eq!(report.verdict(), Verdict::Failed);
    }
}
