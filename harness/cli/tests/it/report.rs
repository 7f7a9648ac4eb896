//! What a run prints and writes.

use serde_json::Value;
use stickler_reports::{Report, read_journal};
use tempfile::tempdir;

use crate::leftovers::{Before, Belongings, names};
use crate::program::{Running, output, stickler};
use crate::{Impossible, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("standard_output_is_one_json_document", standard_output_is_one_json_document),
    ("a_report_is_rendered_again", a_report_is_rendered_again),
    ("a_feature_that_is_not_claimed_is_skipped", a_feature_that_is_not_claimed_is_skipped),
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
    assert_eq!(
        names(&folder).into_iter().collect::<Vec<_>>(),
        ["index.html", "journal.jsonl", "junit.xml", "report.json"]
    );
    let text = std::fs::read_to_string(folder.join("report.json")).expect("report.json is there");
    let written: Report = serde_json::from_str(&text).expect("report.json is a report");
    let printed: Report = serde_json::from_value(printed).expect("what is printed is a report");
    assert_eq!(written, printed);
    let records = read_journal(&folder.join("journal.jsonl")).expect("the journal can be read");
    assert_eq!(Report::of(&records), written);
    Ok(())
}

fn a_report_is_rendered_again() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let ran = output(stickler(folder.path(), &["run", "--filter", "exec/*", "--format", "json"]));
    assert_eq!(ran.code(), Some(0), "{ran:#?}");
    let files = folder.path().join("report");
    let page = std::fs::read(files.join("index.html")).expect("a page");
    for file in ["index.html", "junit.xml", "report.json"] {
        std::fs::remove_file(files.join(file)).expect("it was written");
    }
    let again = output(stickler(folder.path(), &["report", "report", "--format", "json"]));
    assert_eq!((again.code(), &again.stdout), (Some(0), &ran.stdout), "{again:#?}");
    assert_eq!(std::fs::read(files.join("index.html")).ok(), Some(page));
    // Of a run that was killed there is what it had written.
    let journal = std::fs::read_to_string(files.join("journal.jsonl")).expect("a journal");
    let half: String = journal.lines().take(3).flat_map(|line| [line, "\n"]).collect();
    std::fs::write(files.join("journal.jsonl"), half).expect("it can be written");
    assert_eq!(output(stickler(folder.path(), &["report"])).code(), Some(3));
    let missing = output(stickler(folder.path(), &["report", "nowhere"]));
    assert_eq!(missing.code(), Some(2), "{missing:#?}");
    assert!(missing.stderr.contains("nowhere"), "{missing:#?}");
    Ok(())
}

fn a_feature_that_is_not_claimed_is_skipped() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let run = ["run", "--filter", "env/*", "--filter", "exec/*", "--filter", "vip/*"];
    let ran = output(stickler(folder.path(), &[&run[..], &["--without-feature", "env"]].concat()));
    assert_eq!(ran.code(), Some(0), "{ran:#?}");
    let report = stickler_reports::read_report(&folder.path().join("report")).expect("a report");
    let told = |feature: &stickler_reports::FeatureReport| {
        (feature.feature.clone(), feature.claimed, feature.summary.passed, feature.total, feature.percent)
    };
    let told: Vec<_> = report.features.iter().map(told).collect();
    let expected =
        [("env", false, 0, 2, None), ("exec", true, 1, 1, Some(100)), ("vip", true, 2, 2, Some(100))];
    assert_eq!(
        told,
        expected.map(|(name, claimed, kept, total, of)| (name.to_owned(), claimed, kept, total, of))
    );
    for check in report.checks.iter().filter(|check| check.chapter == "env") {
        assert_eq!(check.reason.as_deref(), Some("the feature `env` is not claimed"));
    }
    let line = |name: &str| ran.stdout.lines().find(|line| line.trim_start().starts_with(name));
    assert!(line("env ").is_some_and(|line| line.ends_with("0/2  not claimed")), "{}", ran.stdout);
    assert!(line("exec ").is_some_and(|line| line.ends_with("1/1  100 %")), "{}", ran.stdout);
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
