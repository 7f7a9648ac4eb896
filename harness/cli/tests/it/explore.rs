//! Exploration and replay: what they find, print and save.

use std::fs;

use stickler_reports::{Report, Saw, Verdict};
use tempfile::tempdir;

use crate::program::{Running, output, stickler};
use crate::{Impossible, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_cluster_that_keeps_its_promises_is_green", a_cluster_that_keeps_its_promises_is_green),
    ("the_bugs_it_is_to_find_can_be_planted", the_bugs_it_is_to_find_can_be_planted),
    ("a_planted_bug_is_found_shrunk_and_replayed", a_planted_bug_is_found_shrunk_and_replayed),
    ("a_case_of_the_first_version_is_replayed", a_case_of_the_first_version_is_replayed),
    ("what_is_known_ends_nothing_and_hides_nothing", what_is_known_ends_nothing_and_hides_nothing),
    ("an_interrupted_exploration_says_so", an_interrupted_exploration_says_so),
];

fn a_cluster_that_keeps_its_promises_is_green() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let arguments = ["explore", "--cases", "2", "--steps", "5", "--seed", "1", "--format", "json"];
    let explored = output(stickler(folder.path(), &arguments));
    assert_eq!(explored.code(), Some(0), "{explored:#?}");
    let report: Report = serde_json::from_str(&explored.stdout).expect("one JSON document");
    assert_eq!(report.verdict(), Verdict::Passed);
    let explore = report.explore.expect("it has a section about the exploration");
    assert_eq!((explore.seed, explore.held, explore.steps, explore.failure), (1, 2, 10, None));
    assert_eq!(explore.operations.values().sum::<usize>(), 10);
    assert!(explore.looks > 0, "nothing was looked at");
    assert!(explored.stderr.contains("case 2 of 2"), "{}", explored.stderr);
    Ok(())
}

/// The whole matrix takes minutes; one row of it is tried below.
fn the_bugs_it_is_to_find_can_be_planted() -> Result<(), Impossible> {
    for bug in stickler::explore::FINDS {
        assert!(stickler::providers::bugs::all().any(|card| card.id == *bug), "there is no bug `{bug}`");
    }
    Ok(())
}

fn a_planted_bug_is_found_shrunk_and_replayed() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let bug = ["--bug", "node-port-only-where-pod-runs"];
    let explore = ["explore", "--cases", "60", "--seed", "1", "--shrink", "4", "--report", "out"];
    let explored = output(stickler(folder.path(), &[explore.as_slice(), &bug].concat()));
    assert_eq!(explored.code(), Some(1), "{explored:#?}");
    let file = "out/failing-1.yaml";
    for words in ["promised", "observed", "kubectl create", "stickler replay out/failing-1.yaml"] {
        assert!(explored.stdout.contains(words), "`{words}` is missing in {}", explored.stdout);
    }
    let text = fs::read_to_string(folder.path().join("out/report.json")).expect("a report");
    let report: Report = serde_json::from_str(&text).expect("report.json is a report");
    let failure = report.explore.and_then(|explore| explore.failure).expect("a failure");
    assert!(failure.operations <= 6, "{failure:#?}");
    let saved = fs::read_to_string(folder.path().join(file)).expect("the case is saved");
    assert!(saved.contains("stickler.case/v2"), "{saved}");

    let replay = ["replay", file, "--report", "again"];
    let again = output(stickler(folder.path(), &[replay.as_slice(), &bug].concat()));
    assert_eq!(again.code(), Some(1), "{again:#?}");
    let without = output(stickler(folder.path(), &replay));
    assert_eq!(without.code(), Some(0), "{without:#?}");
    Ok(())
}

/// As a program wrote it that knew less of services.
fn a_case_of_the_first_version_is_replayed() -> Result<(), Impossible> {
    const CASE: &str = "
schema: stickler.case/v1
nodes: 3
seed: 1
case: 1
operations:
- create-service:
    service: one
    of: web
    reach: NodePort
    sticky: false
    publish: false
promised: a node port on every node
observed: it was refused
";
    let folder = tempdir().expect("a folder can be made");
    fs::write(folder.path().join("first.yaml"), CASE).expect("the case is written");
    let replay = ["replay", "first.yaml", "--report", "again"];
    let bug = ["--bug", "node-port-only-where-pod-runs"];
    let failed = output(stickler(folder.path(), &[replay.as_slice(), &bug].concat()));
    assert_eq!(failed.code(), Some(1), "{failed:#?}");
    let held = output(stickler(folder.path(), &replay));
    assert_eq!(held.code(), Some(0), "{held:#?}");
    Ok(())
}

fn what_is_known_ends_nothing_and_hides_nothing() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let refused = |more: &str| {
        format!(
            "[[deviation]]\nexplore = [{{ at = \"node-port\", promised = \"answered\", seen = \"refused\", {more} }}]\n\
             reason = \"only nodes with pods listen\"\nsource = \"https://example.org/1\"\n"
        )
    };
    let (tcp, udp) = (refused("protocol = \"TCP\""), refused("protocol = \"UDP\""));
    let flow = refused("protocol = \"UDP\", flow = \"known\"");
    let other = refused("protocol = \"TCP\"").replace("node-port", "external-ip");
    let known = format!("implementation = \"one of our own\"\n{tcp}{udp}{flow}{other}");
    fs::write(folder.path().join("known.toml"), known).expect("it can be written");
    let explored = |more: &[&str]| {
        let explore = ["explore", "--cases", "2", "--steps", "2", "--seed", "3", "--shrink", "0"];
        let known = ["--bug", "node-port-only-where-pod-runs", "--expect", "known.toml", "--format", "json"];
        let ended = output(stickler(folder.path(), &[&explore[..], &known, more].concat()));
        let report: Report = serde_json::from_str(&ended.stdout).expect("one JSON document");
        (report.explore.expect("it explored"), ended.code(), ended.stderr)
    };
    let (found, code, told) = explored(&[]);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!((found.held + found.expected, found.steps, found.failure), (2, 4, None));
    assert!(
        found.expected > 0 && told.contains("differed as known case 1 of 2: 2 of 2 operations"),
        "{told}"
    );
    let met: Vec<bool> = found.deviations.iter().map(|known| known.cases > 0).collect();
    assert_eq!((met[1], met[3]), (true, false), "{:?}", found.deviations);

    let (found, code, told) = explored(&["--bug", "affinity-ignored"]);
    assert_eq!(code, Some(1), "{told}");
    let failure = found.failure.expect("a failure");
    let difference = failure.difference.expect("it is a difference that could be known");
    assert_eq!(difference.seen, Saw::Several, "{difference}");
    assert!(failure.finding.observed.contains("differ as known"), "{:?}", failure.finding);
    Ok(())
}

fn an_interrupted_exploration_says_so() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let mut explore = Running::start(stickler(folder.path(), &["explore", "--cases", "1000", "--seed", "3"]));
    explore.await_line(|line| line.contains("case 1 of 1000"));
    explore.signal(libc::SIGINT);
    let ended = explore.end();
    assert_eq!(ended.code(), Some(3), "{ended:#?}");
    assert!(ended.stdout.contains("interrupted"), "{ended:#?}");
    Ok(())
}
