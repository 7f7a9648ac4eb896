//! A run inside GitHub Actions.

use std::fs;
use std::process::Command;

use serde_json::Value;
use tempfile::tempdir;

use crate::program::{output, stickler};
use crate::{Impossible, Test};

pub(crate) const TESTS: &[(&str, Test)] =
    &[("what_did_not_hold_is_annotated", what_did_not_hold_is_annotated)];

const BROKEN: &str = "node-port/from-outside";

fn what_did_not_hold_is_annotated() -> Result<(), Impossible> {
    crate::on_request()?;
    let folder = tempdir().expect("a folder can be made");
    let folder = folder.path();
    let arguments = ["run", "--filter", BROKEN, "--bug", "node-port-only-where-pod-runs", "--seed", "7"];
    let run = |more: &[&str]| stickler(folder, &[&arguments[..], more].concat());
    let there = |mut command: Command| {
        command.env("GITHUB_ACTIONS", "true").env("GITHUB_STEP_SUMMARY", folder.join("summary.md"));
        output(command)
    };
    fs::write(folder.join("summary.md"), "of another command\n").expect("it can be written");
    let ran = there(run(&[]));
    assert_eq!(ran.code(), Some(1), "{ran:#?}");
    let annotated: Vec<&str> = ran.stdout.lines().filter(|line| line.starts_with("::")).collect();
    let [line] = annotated[..] else { panic!("one check is broken: {ran:#?}") };
    let said = line.strip_prefix("::error title=node-port/from-outside::promised: ").expect(line);
    let (promised, observed) = said.split_once("%0Aobserved: ").expect(line);
    assert!(promised.contains("is answered by") && observed.contains("was refused"), "{line}");
    let summary = fs::read_to_string(folder.join("summary.md")).expect("it is there");
    let ours = summary.strip_prefix("of another command\n").expect("others' is kept");
    for words in [
        "## ❌ stickler conformance: a promise was broken",
        "| 0 | 1 | 0 | 0 | 0 |",
        "| node-port/from-outside | promised: ",
        "`stickler run --filter node-port/from-outside --seed 7`",
        "| node-port | 0/1 | 0 % |",
    ] {
        assert!(ours.contains(words), "`{words}` is missing:\n{ours}");
    }

    // Standard output stays one document.
    let ran = there(run(&["--format", "json", "--quiet"]));
    let document: Value = serde_json::from_str(&ran.stdout).expect("standard output is one JSON document");
    assert_eq!(document["summary"]["failed"], 1);
    assert!(ran.stderr.starts_with("::error title=node-port/from-outside::promised: "), "{ran:#?}");
    let summary = fs::read_to_string(folder.join("summary.md")).expect("it is there");
    assert_eq!(summary.matches("## ").count(), 2, "{summary}");

    // Elsewhere nobody reads them.
    let ran = output(run(&[]));
    assert!(!ran.stdout.contains("::error") && !ran.stderr.contains("::error"), "{ran:#?}");
    Ok(())
}
