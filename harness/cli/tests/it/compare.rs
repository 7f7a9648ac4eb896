//! Reports side by side, and known deviations.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::tempdir;

use crate::program::{Ended, output, stickler};
use crate::{Impossible, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_known_deviation_must_show", a_known_deviation_must_show),
    ("reports_side_by_side", reports_side_by_side),
];

/// It makes the first of these checks fail, and not the second.
const BUG: &str = "node-port-only-where-pod-runs";
const BROKEN: &str = "node-port/from-outside";
const WHOLE: &str = "goweb/answers-hostname";

fn run(folder: &Path, report: &str, more: &[&str]) -> Ended {
    let mut arguments = vec!["run", "--filter", BROKEN, "--filter", WHOLE, "--report", report];
    arguments.extend(more);
    output(stickler(folder, &arguments))
}

/// Writes a file of known deviations that lists these checks.
fn expected(folder: &Path, checks: &[(&str, bool)]) {
    let mut text = "implementation = \"one of our own\"\n".to_owned();
    for (check, sometimes) in checks {
        text += &format!(
            "[[deviation]]\ncheck = \"{check}\"\nreason = \"only nodes with pods listen\"\nsource = \
             \"https://example.org/1\"\nsometimes = {sometimes}\n"
        );
    }
    fs::write(folder.join("known.toml"), text).expect("it can be written");
}

fn a_known_deviation_must_show() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let folder = folder.path();
    let known = ["--expect", "known.toml"];

    expected(folder, &[(BROKEN, false)]);
    let ran = run(folder, "known", &[&known[..], &["--bug", BUG, "--format", "json"]].concat());
    assert_eq!(ran.code(), Some(0), "{ran:#?}");
    let report: Value = serde_json::from_str(&ran.stdout).expect("one JSON document");
    assert_eq!((&report["summary"]["expected"], &report["summary"]["failed"]), (&1.into(), &0.into()));
    let check = &report["checks"].as_array().expect("checks").iter().find(|check| check["id"] == BROKEN);
    assert_eq!(check.expect("the check")["expected"]["reason"], "only nodes with pods listen");

    // Whoever was mended is told so, and is not green.
    let ran = run(folder, "mended", &known);
    assert_eq!(ran.code(), Some(1), "{ran:#?}");
    assert!(ran.stdout.contains("it passed, although"), "{ran:#?}");

    // What shows now and then may pass or fail; what is not listed must hold.
    expected(folder, &[(BROKEN, true)]);
    assert_eq!(run(folder, "sometimes", &known).code(), Some(0));
    expected(folder, &[(WHOLE, true)]);
    let ran = run(folder, "unlisted", &[&known[..], &["--bug", BUG]].concat());
    assert_eq!(ran.code(), Some(1), "{ran:#?}");

    for (text, words) in [
        (
            "implementation = \"x\"\n[[deviation]]\ncheck = \"no/such\"\nreason = \"r\"\nsource = \"s\"",
            "`no/such`",
        ),
        (
            "implementation = \"x\"\n[[deviation]]\ncheck = \"vip/no-ping\"\nreason = \"\"\nsource = \"s\"",
            "reason",
        ),
        ("[[deviation]]\ncheck = \"vip/no-ping\"", "implementation"),
        ("implementation = ", "line 1"),
    ] {
        fs::write(folder.join("known.toml"), text).expect("it can be written");
        let ran = run(folder, "refused", &known);
        assert_eq!(ran.code(), Some(2), "{text}: {ran:#?}");
        assert!(ran.stderr.contains("known.toml") && ran.stderr.contains(words), "{text}: {ran:#?}");
    }
    Ok(())
}

fn reports_side_by_side() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let folder = folder.path();
    assert_eq!(run(folder, "whole", &[]).code(), Some(0));
    assert_eq!(run(folder, "broken", &["--bug", BUG]).code(), Some(1));
    let compare = |more: &[&str]| output(stickler(folder, &[&["compare", "whole"], more].concat()));

    let same = compare(&["whole"]);
    assert_eq!(same.code(), Some(0), "{same:#?}");
    assert!(same.stdout.contains("0 of 2 checks differ"), "{same:#?}");

    let other = compare(&["broken"]);
    assert_eq!(other.code(), Some(1), "{other:#?}");
    assert!(other.stdout.contains("! node-port/from-outside"), "{other:#?}");
    assert!(other.stdout.contains("1 of 2 checks differ"), "{other:#?}");

    let table = compare(&["broken", "--format", "markdown", "--differing"]).stdout;
    assert!(table.contains("| `node-port/from-outside` | ● ") && table.contains("| ✗ "), "{table}");
    assert!(!table.contains(WHOLE), "{table}");

    let document = compare(&["broken", "--format", "json"]).stdout;
    let document: Value = serde_json::from_str(&document).expect("one JSON document");
    assert_eq!(document["reports"].as_array().map(Vec::len), Some(2));
    let differing = document["checks"].as_array().into_iter().flatten().filter(|row| row["differs"] == true);
    assert_eq!(differing.map(|row| row["id"].clone()).collect::<Vec<_>>(), [BROKEN]);

    let missing = compare(&["nowhere"]);
    assert_eq!(missing.code(), Some(2), "{missing:#?}");
    assert!(missing.stderr.contains("nowhere") && missing.stderr.contains("--report"), "{missing:#?}");
    Ok(())
}
