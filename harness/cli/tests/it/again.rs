//! `--failed-from`: what did not hold in an earlier run, once more.

use std::fs;
use std::path::Path;

use stickler_reports::{Report, Verdict};
use tempfile::tempdir;

use crate::leftovers::names;
use crate::program::{output, stickler};
use crate::{Impossible, Test};

pub(crate) const TESTS: &[(&str, Test)] =
    &[("only_what_did_not_hold_is_performed_again", only_what_did_not_hold_is_performed_again)];

/// The first of these fails with this bug, the second does not.
const BUG: &str = "node-port-only-where-pod-runs";
const BROKEN: &str = "node-port/from-outside";
const WHOLE: &str = "goweb/answers-hostname";

fn only_what_did_not_hold_is_performed_again() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let folder = folder.path();
    let run = |arguments: &[&str]| output(stickler(folder, &[&["run"], arguments].concat()));
    let first = run(&["--filter", BROKEN, "--filter", WHOLE, "--bug", BUG, "--report", "first"]);
    assert_eq!(first.code(), Some(1), "{first:#?}");
    let ids = |report: &Report| report.checks.iter().map(|check| check.id.clone()).collect::<Vec<_>>();

    let second = run(&["--failed-from", "first", "--report", "second"]);
    assert_eq!(second.code(), Some(0), "{second:#?}");
    let report = written(folder, "second");
    assert_eq!((ids(&report), report.summary.passed), (vec![BROKEN.to_owned()], 1));

    // Nothing failed any more: no cluster is brought up, and no report written.
    let third = run(&["--failed-from", "second", "--report", "third"]);
    assert_eq!((third.code(), third.stderr.as_str()), (Some(0), ""), "{third:#?}");
    assert!(third.stdout.contains("`second` passed or was skipped: nothing to do"), "{third:#?}");
    assert!(!names(folder).contains("third"));

    // What could not be told is looked at again; what failed as it is known to is not.
    let mut report = written(folder, "first");
    for check in &mut report.checks {
        let known = stickler_reports::Deviation {
            check: check.id.clone(),
            reason: "it is known".to_owned(),
            source: "https://example.org/1".to_owned(),
            sometimes: false,
        };
        match check.id.as_str() {
            BROKEN => check.expected = Some(known),
            _ => check.verdict = Verdict::Inconclusive,
        }
    }
    let text = serde_json::to_string(&report).expect("JSON");
    fs::write(folder.join("first/report.json"), text).expect("it can be written");
    let untold = run(&["--failed-from", "first", "--report", "untold"]);
    assert_eq!(untold.code(), Some(0), "{untold:#?}");
    assert_eq!(ids(&written(folder, "untold")), [WHOLE]);
    Ok(())
}

fn written(folder: &Path, report: &str) -> Report {
    stickler_reports::read_report(&folder.join(report)).expect("a report")
}
