//! What a signal does to a run: nothing stays, and what was learned is written.

use stickler_reports::{Report, read_journal};
use tempfile::tempdir;

use crate::leftovers::{Before, Belongings, names};
use crate::program::{Running, eventually, stickler};
use crate::{Impossible, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_killed_run_leaves_nothing", a_killed_run_leaves_nothing),
    ("an_interrupted_run_writes_its_report", an_interrupted_run_writes_its_report),
    ("an_interrupted_start_writes_its_report", an_interrupted_start_writes_its_report),
];

fn a_killed_run_leaves_nothing() -> Result<(), Impossible> {
    let before = Before::look();
    let folder = tempdir().expect("a folder can be made");
    let mut run = Running::start(stickler(folder.path(), &["run"]));
    // A check that is skipped is told at once, and proves nothing.
    run.await_line(|line| line.starts_with("passed "));
    let belongings = Belongings::of(run.pid());
    assert!(belongings.processes.len() > 3 && belongings.networks.len() > 3, "{belongings:?}");
    run.signal(libc::SIGKILL);
    let ended = run.end();
    assert_eq!(ended.code(), None, "it was killed in the middle: {ended:#?}");
    before.is_restored(&belongings);
    assert_eq!(names(folder.path()).into_iter().collect::<Vec<_>>(), ["report"]);
    // What was seen until then can still be read.
    let records = read_journal(&folder.path().join("report/journal.jsonl")).expect("whole lines");
    let report = Report::of(&records);
    assert!(report.interrupted && report.summary.passed > 0, "{:?}", report.summary);
    Ok(())
}

fn an_interrupted_run_writes_its_report() -> Result<(), Impossible> {
    let before = Before::look();
    let folder = tempdir().expect("a folder can be made");
    let mut run = Running::start(stickler(folder.path(), &["run"]));
    // A check that is skipped is told at once, and proves nothing.
    run.await_line(|line| line.starts_with("passed "));
    let belongings = Belongings::of(run.pid());
    run.signal(libc::SIGINT);
    let ended = run.end();
    assert_eq!(ended.code(), Some(3), "{ended:#?}");
    before.is_restored(&belongings);
    let report = written(folder.path());
    assert!(report.interrupted);
    assert!(report.summary.passed > 0, "what passed before is in it: {:?}", report.summary);
    assert_eq!(report.summary.failed, 0, "{report:#?}");
    Ok(())
}

fn an_interrupted_start_writes_its_report() -> Result<(), Impossible> {
    let before = Before::look();
    let folder = tempdir().expect("a folder can be made");
    // A start of fifty nodes is long enough to be interrupted.
    let run = Running::start(stickler(folder.path(), &["run", "--nodes", "50"]));
    let belongings = eventually("a network of the cluster", || {
        let journal = folder.path().join("report/journal.jsonl");
        // The first event is told once signals are listened to.
        std::fs::metadata(journal).is_ok_and(|file| file.len() > 0).then(|| Belongings::of(run.pid()))
    });
    run.signal(libc::SIGINT);
    let ended = run.end();
    assert_eq!(ended.code(), Some(3), "{ended:#?}");
    before.is_restored(&belongings);
    let report = written(folder.path());
    assert!(report.interrupted && report.cluster.is_none(), "{report:#?}");
    assert_eq!(report.summary.passed, 0);
    Ok(())
}

fn written(folder: &std::path::Path) -> Report {
    let text = std::fs::read_to_string(folder.join("report/report.json")).expect("report.json is there");
    serde_json::from_str(&text).expect("report.json is a report")
}
