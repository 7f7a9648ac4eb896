//! `junit.xml`: the report for CI systems, a test suite per chapter.

use std::time::Duration;

use quick_junit::{NonSuccessKind, Report as Junit, TestCase, TestCaseStatus, TestSuite};

use crate::{CheckReport, Report, Verdict};

/// The report as JUnit XML. What could not be told is an *error*, a broken promise a *failure*; a
/// known deviation counts as *skipped*, with its reason, as JUnit has no word for it.
pub(crate) fn xml(report: &Report) -> Result<String, quick_junit::SerializeError> {
    let mut junit = Junit::new("stickler");
    junit.set_time(Duration::from_millis(report.duration_ms));
    let mut chapters: Vec<&str> = report.checks.iter().map(|check| check.chapter.as_str()).collect();
    chapters.dedup();
    for chapter in chapters {
        let mut suite = suite(report, chapter);
        for check in report.checks.iter().filter(|check| check.chapter == chapter) {
            suite.add_test_case(case(check));
        }
        junit.add_test_suite(suite);
    }
    let mut whole = suite(report, "run");
    if let Some(chaos) = &report.chaos {
        let words = || format!("{} violations in {} calls", chaos.violations, chaos.calls);
        let reason = chaos.reason.clone().unwrap_or_else(words);
        let first = chaos.first_violations.first();
        let detail = first.map(|first| format!("promised: {}\nobserved: {}", first.allowed_then, first.seen));
        whole.add_test_case(named("chaos", chaos.verdict, &reason, detail, chaos.duration_ms));
    }
    if let Some(explore) = &report.explore {
        let reason = explore.reasons.first().cloned().unwrap_or_else(|| "a case failed".to_owned());
        let detail = explore.failure.as_ref().map(|failure| {
            let finding = &failure.finding;
            format!("promised: {}\nobserved: {}\n{}", finding.promised, finding.observed, failure.script)
        });
        whole.add_test_case(named("explore", explore.verdict(), &reason, detail, explore.duration_ms));
        for known in explore.deviations.iter().filter(|known| known.cases > 0) {
            let reason =
                format!("known deviation, {}: {} <{}>", known.in_words(), known.reason, known.source);
            let detail = known.observed.as_ref().map(|observed| format!("observed: {observed}"));
            // Its reason is the only name it has.
            let name = format!("explore: {}", known.reason);
            whole.add_test_case(named(&name, Verdict::Skipped, &reason, detail, 0));
        }
    }
    if let Some(table) = &report.table {
        let took = table.duration_us / 1000;
        whole.add_test_case(named("table", table.verdict(), &table.in_words(), None, took));
    }
    for trouble in &report.troubles {
        whole.add_test_case(named("trouble", Verdict::Inconclusive, trouble, None, 0));
    }
    if report.interrupted {
        whole.add_test_case(named("interrupted", Verdict::Inconclusive, "the run was interrupted", None, 0));
    }
    if !whole.test_cases.is_empty() {
        junit.add_test_suite(whole);
    }
    junit.to_string()
}

/// An empty suite that says what was looked at.
fn suite(report: &Report, name: &str) -> TestSuite {
    let mut suite = TestSuite::new(name);
    suite.add_property(("seed", report.seed.to_string().as_str()));
    suite.add_property(("tool", report.tool.as_str()));
    if let Some(cluster) = &report.cluster {
        suite.add_property(("cluster", cluster.provider.as_str()));
        suite.add_property(("version", cluster.version.as_str()));
        suite.add_property(("nodes", cluster.nodes.join(",").as_str()));
    }
    suite
}

fn case(check: &CheckReport) -> TestCase {
    let known =
        check.expected.as_ref().map(|known| format!("known deviation: {} <{}>", known.reason, known.source));
    let (verdict, reason) = match known {
        Some(known) => (Verdict::Skipped, known),
        None => (check.verdict, check.reason.clone().unwrap_or_default()),
    };
    let detail = check.promised.as_ref().zip(check.observed.as_ref()).map(|(promised, observed)| {
        format!(
            "promised: {promised}\nobserved: {observed}\nsee: {reason}\nagain: stickler run --filter {}",
            check.id
        )
    });
    let reason = match &check.observed {
        Some(observed) if verdict == Verdict::Failed => observed,
        _ => &reason,
    };
    let mut case = named(&check.id, verdict, reason, detail, check.duration_ms);
    case.set_classname(check.chapter.as_str());
    case
}

fn named(name: &str, verdict: Verdict, reason: &str, detail: Option<String>, duration_ms: u64) -> TestCase {
    let mut status = match verdict {
        Verdict::Passed => TestCaseStatus::success(),
        Verdict::Skipped => TestCaseStatus::skipped(),
        Verdict::Failed => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Verdict::Inconclusive => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    if verdict != Verdict::Passed {
        status.set_message(reason);
        if let Some(detail) = detail {
            status.set_description(detail);
        }
    }
    let mut case = TestCase::new(name, status);
    case.set_time(Duration::from_millis(duration_ms));
    case
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    #[test]
    fn an_exploration_is_a_test_case_and_so_is_what_it_knew_and_met() {
        let report = Report { explore: Some(example::explored()), interrupted: false, ..Report::new() };
        let read = Junit::deserialize_from_str(&xml(&report).unwrap()).unwrap();
        let cases: Vec<_> = read.test_suites.iter().flat_map(|suite| &suite.test_cases).collect();
        let [explore, known] = &cases[..] else { panic!("{cases:?}") };
        assert!(matches!(explore.status, TestCaseStatus::Success { .. }), "{explore:?}");
        assert_eq!(known.name.as_str(), "explore: it forgets");
        let TestCaseStatus::Skipped { message, .. } = &known.status else { panic!("{known:?}") };
        let words = "known deviation, in 1 case: it forgets <https://example.org/8>";
        assert_eq!(message.as_ref().map(|text| text.as_str()), Some(words));
    }

    #[test]
    fn every_check_is_a_test_case_of_its_chapter() {
        let report = example::report();
        let read = Junit::deserialize_from_str(&xml(&report).unwrap()).unwrap();
        let suites: Vec<&str> = read.test_suites.iter().map(|suite| suite.name.as_str()).collect();
        assert_eq!(suites, ["affinity", "vip", "run"]);
        assert_eq!((read.tests, read.failures, read.errors), (6, 2, 2));
        let cases: Vec<_> = read.test_suites.iter().flat_map(|suite| &suite.test_cases).collect();
        let status = |name: &str| {
            let case = cases.iter().find(|case| case.name.as_str() == name).expect("the case");
            &case.status
        };
        assert!(matches!(status("affinity/held"), TestCaseStatus::Success { .. }));
        assert!(matches!(status("affinity/known"), TestCaseStatus::Skipped { .. }));
        let TestCaseStatus::NonSuccess { kind, message, description, .. } = status("vip/broken") else {
            panic!("it is broken")
        };
        assert_eq!(*kind, NonSuccessKind::Failure);
        assert_eq!(message.as_ref().map(|text| text.as_str()), Some("it was <silent> & slow"));
        assert!(description.as_ref().is_some_and(|text| text.as_str().contains("--filter vip/broken")));
        let TestCaseStatus::NonSuccess { kind, .. } = status("vip/untold") else { panic!("it is not green") };
        assert_eq!(*kind, NonSuccessKind::Error);
    }
}
