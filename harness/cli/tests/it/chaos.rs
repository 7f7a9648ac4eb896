//! Chaos runs: green on a cluster that keeps its promises, red with the calls that prove it on one
//! that does not, and in good order when they are interrupted.

use stickler_reports::{ChaosReport, Report, Verdict, read_journal};
use tempfile::tempdir;

use crate::leftovers::{Before, Belongings, names};
use crate::program::{Ended, Running, output, stickler};
use crate::{Impossible, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_seed_decides_the_plan", a_seed_decides_the_plan),
    ("a_short_run_is_green_and_tells_how_stale_answers_were", a_short_run_is_green),
    ("a_deleted_endpoint_that_stays_is_proven_by_calls", a_deleted_endpoint_that_stays_is_proven_by_calls),
    ("a_stale_endpoint_is_proven_by_calls", a_stale_endpoint_is_proven_by_calls),
    ("an_interrupted_run_heals_and_writes_its_report", an_interrupted_run_heals_and_writes_its_report),
];

fn a_seed_decides_the_plan() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let plan = |seed: &str| {
        let ended = output(stickler(folder.path(), &["chaos", "--plan", "--seed", seed, "--duration", "2m"]));
        assert_eq!(ended.code(), Some(0), "{ended:#?}");
        ended.stdout
    };
    assert_eq!(plan("1"), plan("1"));
    assert_ne!(plan("1"), plan("2"));
    assert!(plan("1").lines().count() > 10);
    assert!(names(folder.path()).is_empty(), "a plan leaves nothing");
    Ok(())
}

fn a_short_run_is_green() -> Result<(), Impossible> {
    let before = Before::look();
    let folder = tempdir().expect("a folder can be made");
    let faults = "pod-deleted,container-killed,readiness-flapping";
    let arguments = ["chaos", "--duration", "8s", "--seed", "1", "--faults", faults, "--report", "out"];
    let mut run = Running::start(stickler(folder.path(), &arguments));
    run.await_line(|line| line.starts_with("strikes "));
    let belongings = Belongings::of(run.pid());
    let ended = run.end();
    before.is_restored(&belongings);
    let (report, chaos) = written(folder.path(), &ended);
    assert_eq!(ended.code(), Some(0), "{ended:#?}");
    assert_eq!((report.verdict(), chaos.verdict, chaos.violations), (Verdict::Passed, Verdict::Passed, 0));
    assert!(chaos.calls > 500 && chaos.names_asked > 50, "{chaos:#?}");
    assert!(chaos.faults.len() >= 3 && chaos.faults.iter().all(|fault| fault.healed_us > fault.injected_us));
    assert!(chaos.ready_to_served_everywhere.count > 0, "pods became ready: {chaos:#?}");
    assert!(chaos.removed_to_last_served.count > 0, "pods left: {chaos:#?}");
    for distribution in [&chaos.staleness, &chaos.name_staleness, &chaos.removed_to_last_served] {
        let counted: usize = distribution.histogram.iter().map(|bucket| bucket.count).sum();
        assert_eq!(counted, distribution.count);
    }
    assert!(chaos.staleness.max_us <= 1000 * i64::try_from(chaos.staleness_bound_ms).expect("it fits"));
    assert!(chaos.converged_ms.is_some_and(|took| took <= chaos.convergence_bound_ms));
    for told in ["stale answers", "removed to last served", "every promise held"] {
        assert!(ended.stdout.contains(told), "{}", ended.stdout);
    }
    Ok(())
}

fn a_deleted_endpoint_that_stays_is_proven_by_calls() -> Result<(), Impossible> {
    // After the last time the Deployment is scaled down nothing else happens to its pods.
    proven_by_calls("deleted-endpoint-stays", "scale-storm")
}

fn a_stale_endpoint_is_proven_by_calls() -> Result<(), Impossible> {
    crate::on_request()?;
    // At last the pod is unready for longer than an answer may be old.
    proven_by_calls("stale-endpoint", "readiness-flapping")
}

fn proven_by_calls(bug: &str, fault: &str) -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let arguments =
        ["chaos", "--duration", "1s", "--seed", "1", "--faults", fault, "--bug", bug, "--report", "out"];
    let ended = output(stickler(folder.path(), &arguments));
    let (report, chaos) = written(folder.path(), &ended);
    assert_eq!(ended.code(), Some(1), "{ended:#?}");
    assert_eq!((report.verdict(), chaos.verdict), (Verdict::Failed, Verdict::Failed));
    assert!(chaos.violations > 0 && !chaos.first_violations.is_empty(), "{chaos:#?}");
    for violation in &chaos.first_violations {
        assert_eq!(violation.after.as_deref(), Some(fault), "{violation:#?}");
        assert!(violation.ended_us >= violation.started_us && !violation.around.is_empty());
        let call = format!("call {} at", violation.call);
        assert!(ended.stdout.contains(&call), "`{call}` is not in:\n{}", ended.stdout);
        if let Some(needed_ms) = violation.needed_ms {
            assert!(needed_ms >= chaos.staleness_bound_ms, "{violation:#?}");
        }
    }
    let is_stale =
        |violation: &stickler_reports::ViolationReport| violation.seen.starts_with("answered by `");
    assert!(chaos.first_violations.iter().any(is_stale), "{:#?}", chaos.first_violations);
    Ok(())
}

fn an_interrupted_run_heals_and_writes_its_report() -> Result<(), Impossible> {
    let before = Before::look();
    let folder = tempdir().expect("a folder can be made");
    let arguments =
        ["chaos", "--duration", "10m", "--seed", "1", "--faults", "scale-storm", "--report", "out"];
    let mut run = Running::start(stickler(folder.path(), &arguments));
    run.await_line(|line| line.starts_with("strikes "));
    let belongings = Belongings::of(run.pid());
    run.signal(libc::SIGINT);
    let ended = run.end();
    before.is_restored(&belongings);
    let (report, chaos) = written(folder.path(), &ended);
    assert_eq!(ended.code(), Some(3), "{ended:#?}");
    assert!(report.interrupted && report.verdict() == Verdict::Inconclusive, "{report:#?}");
    assert!(ended.stderr.contains("healed scale-storm"), "{}", ended.stderr);
    assert!(chaos.faults.iter().all(|fault| fault.healed_us > 0), "{chaos:#?}");
    assert_eq!(chaos.verdict, Verdict::Inconclusive);
    Ok(())
}

/// The report of a run, which is also what its journal adds up to.
fn written(folder: &std::path::Path, ended: &Ended) -> (Report, ChaosReport) {
    let folder = folder.join("out");
    let text = std::fs::read_to_string(folder.join("report.json")).unwrap_or_else(|_| panic!("{ended:#?}"));
    let report: Report = serde_json::from_str(&text).expect("report.json is a report");
    let records = read_journal(&folder.join("journal.jsonl")).expect("the journal can be read");
    assert_eq!(Report::of(&records), report);
    let chaos = report.chaos.clone().unwrap_or_else(|| panic!("no chaos in the report: {ended:#?}"));
    (report, chaos)
}
