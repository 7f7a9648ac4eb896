//! What a run prints and writes.

use serde_json::Value;
use stickler_reports::{Report, read_journal};
use tempfile::tempdir;

use crate::leftovers::{Before, Belongings, names};
use crate::program::{Running, output, stickler};
use crate::{Impossible, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("standard_output_is_one_json_document", standard_output_is_one_json_document),
    ("three_runs_in_a_row_leave_nothing", three_runs_in_a_row_leave_nothing),
];

fn standard_output_is_one_json_document() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let arguments = ["run", "--filter", "service/*", "--format", "json", "--seed", "7", "--report", "out"];
    let ran = output(stickler(folder.path(), &arguments));
    assert_eq!(ran.code(), Some(0), "{ran:#?}");
    let printed: Value = serde_json::from_str(&ran.stdout).expect("standard output is one JSON document");
    let passed = printed["summary"]["passed"].as_u64().expect("it counts what passed");
    let checks = printed["checks"].as_array().expect("it lists the checks");
    assert_eq!(usize::try_from(passed).ok(), Some(checks.len()), "{}", printed["summary"]);
    assert_eq!((printed["seed"].as_u64(), printed["interrupted"].as_bool()), (Some(7), Some(false)));
    for check in checks {
        let id = check["id"].as_str().expect("an id");
        assert!(ran.stderr.contains(id), "no progress of {id} on standard error:\n{}", ran.stderr);
    }
    let folder = folder.path().join("out");
    assert_eq!(names(&folder).into_iter().collect::<Vec<_>>(), ["index.html", "journal.jsonl", "junit.xml", "report.json"]);
    let text = std::fs::read_to_string(folder.join("report.json")).expect("report.json is there");
    let written: Report = serde_json::from_str(&text).expect("report.json is a report");
    let printed: Report = serde_json::from_value(printed).expect("what is printed is a report");
    assert_eq!(written, printed);
    let records = read_journal(&folder.join("journal.jsonl")).expect("the journal can be read");
    assert_eq!(Report::of(&records), written);
    Ok(())
}

fn three_runs_in_a_row_leave_nothing() -> Result<(), Impossible> {
    let before = Before::look();
    let folder = tempdir().expect("a folder can be made");
    for _ in 0..3 {
        let mut run = Running::start(stickler(folder.path(), &["run", "--filter", "service/*"]));
        run.await_line(|line| line.contains("service/"));
        let belongings = Belongings::of(run.pid());
        let ended = run.end();
        assert_eq!(ended.code(), Some(0), "{ended:#?}");
        before.is_restored(&belongings);
        assert_eq!(names(folder.path()).into_iter().collect::<Vec<_>>(), ["report"]);
    }
    Ok(())
}
