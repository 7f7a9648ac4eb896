//! The catalogue of checks, of fixtures and of planted bugs fits together.

use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn ids_are_unique_and_stand_in_their_chapter() {
    let mistakes = stickler_suites::mistakes_in_the_catalogue();
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
}

#[test]
fn every_chapter_is_listed() {
    let listed: BTreeSet<String> =
        stickler_suites::CHAPTERS.iter().map(|(chapter, _)| chapter.replace('-', "_")).collect();
    for file in files(&root().join("suites/src"), "rs") {
        assert!(
            ["confirmation", "conformance", "deviations", "lib", "profile", "table"].contains(&file.as_str())
                || listed.contains(&file),
            "suites/src/{file}.rs is not in CHAPTERS; add `mod {file};` and a line to it in suites/src/lib.rs"
        );
    }
}

#[test]
fn every_fixture_of_a_check_is_used() {
    let sources: String = files(&root().join("suites/src"), "rs")
        .iter()
        .map(|file| {
            std::fs::read_to_string(root().join(format!("suites/src/{file}.rs"))).expect("a source file")
        })
        .collect();
    for folder in
        ["service", "ports", "node-port", "affinity", "env", "readiness", "liveness", "headless", "table"]
    {
        for file in files(&root().join("fixtures").join(folder), "yaml") {
            let path = format!("{folder}/{file}.yaml");
            assert!(sources.contains(&path), "no check uses fixtures/{path}; delete it");
        }
    }
}

#[test]
fn every_manifest_can_be_read() {
    let fixtures = root().join("fixtures");
    for entry in std::fs::read_dir(&fixtures).expect("the fixtures") {
        let folder = entry.expect("an entry").path();
        // Programs, and what stands in for components: no manifests.
        if !folder.is_dir() || folder.ends_with("pods") || folder.ends_with("components") {
            continue;
        }
        for file in files(&folder, "yaml") {
            let path = folder.join(format!("{file}.yaml"));
            let text = std::fs::read_to_string(&path).expect("a manifest");
            stickler::manifest::parse(&path.display().to_string(), &text)
                .expect("a manifest that can be read");
        }
    }
}

/// Of an address that somebody wrote down the model promises an answer only where its pod says that it
/// listens; checks of such addresses would take a refusal for an answer, and go on too early.
#[test]
fn pods_that_are_written_down_by_hand_name_their_ports() {
    for path in ["endpoints/two-numbers.yaml", "endpoint-slices/two-ports.yaml"] {
        let text = std::fs::read_to_string(root().join("fixtures").join(path)).expect("a manifest");
        let objects = stickler::manifest::parse(path, &text).expect("objects");
        let mut containers = 0;
        for object in objects {
            let spec = &object.object.data["spec"];
            let pod = if spec["template"].is_object() { &spec["template"]["spec"] } else { spec };
            for container in pod["containers"].as_array().into_iter().flatten() {
                let listens = container["command"][2].as_str().expect("numbers of ports");
                let named: Vec<String> = container["ports"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|port| port["containerPort"].to_string())
                    .collect();
                assert_eq!(named.join(","), listens, "{path}");
                containers += 1;
            }
        }
        assert_eq!(containers, 1, "{path}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn bugs_name_checks_that_exist() {
    let ids: BTreeSet<&str> = stickler_suites::all().map(|check| check.id).collect();
    let mut names = BTreeSet::new();
    for card in stickler::providers::bugs::all() {
        assert!(names.insert(card.id), "two bugs are called `{}`", card.id);
        assert!(!card.caught_by.is_empty(), "bug `{}` names no check that catches it", card.id);
        for check in card.caught_by {
            assert!(ids.contains(check), "bug `{}` names the check `{check}`, which does not exist", card.id);
        }
    }
}

/// The checks that no planted bug makes fail, so that nothing shows that they can, and why that may be so.
/// Whoever plants the bug takes it out.
#[cfg(target_os = "linux")]
const UNPROVEN: &[(&str, &str)] = &[
    (
        "env/fixed-at-container-start",
        "the environment of a process is the kernel's, and no kubelet is known that changed one",
    ),
    (
        "goweb/answers-hostname",
        "with a wrong host name every answer would be a stranger's, and every check would fail",
    ),
    ("goweb/docker", "containers are the engine's, which is nobody's to make wrong here"),
];

#[cfg(target_os = "linux")]
#[test]
fn checks_that_no_bug_makes_fail_have_a_reason() {
    let proven: BTreeSet<&str> =
        stickler::providers::bugs::all().flat_map(|card| card.caught_by).copied().collect();
    let unproven: BTreeSet<&str> =
        stickler_suites::all().map(|check| check.id).filter(|id| !proven.contains(id)).collect();
    let known: BTreeSet<&str> = UNPROVEN.iter().map(|(id, _)| *id).collect();
    let new: Vec<_> = unproven.difference(&known).collect();
    assert!(
        new.is_empty(),
        "no planted bug makes {new:?} fail; plant one in bugs.rs, or say in UNPROVEN why there is none"
    );
    let old: Vec<_> = known.difference(&unproven).collect();
    assert!(old.is_empty(), "{old:?} are proven, or gone; take them out of UNPROVEN");
    assert!(UNPROVEN.iter().all(|(_, reason)| reason.contains(' ')), "a reason is a sentence");
}

fn files(folder: &Path, extension: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(!names.is_empty(), "{} holds nothing", folder.display());
    names
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}
