//! `stickler list`, and the help.

use serde_json::Value;
use tempfile::tempdir;

use crate::program::{output, stickler};
use crate::{Impossible, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("checks_are_listed_with_what_promises_them", checks_are_listed_with_what_promises_them),
    ("every_statement_of_the_notes_is_a_check", every_statement_of_the_notes_is_a_check),
    ("bugs_are_listed_with_the_checks_that_catch_them", bugs_are_listed_with_the_checks_that_catch_them),
    ("a_list_may_be_cut_short", a_list_may_be_cut_short),
    ("help_names_every_command_and_exit_status", help_names_every_command_and_exit_status),
];

/// What the notes this project started from say, and what is promised next to it: an id for each
/// statement.
const NOTES: &[&str] = &[
    "goweb/answers-hostname",
    "goweb/docker",
    "service/selects-by-label",
    "service/address-never-changes",
    "service/pods-come-and-go",
    "service/spreads-connections",
    "service/port-maps-to-target-port",
    "service/target-port-defaults",
    "service/from-node",
    "service/from-pod",
    "service/listed",
    "exec/runs-a-command",
    "affinity/default-none",
    "affinity/client-ip",
    "affinity/timeout",
    "affinity/only-two-kinds",
    "affinity/layer-4",
    "ports/several",
    "ports/names-required",
    "ports/named-target",
    "ports/renumber-freely",
    "env/service-host-and-port",
    "env/fixed-at-container-start",
    "dns/kube-dns-service",
    "dns/resolv-conf",
    "dns/fqdn",
    "dns/short-names",
    "vip/no-ping",
    "endpoints/mirror-ready-pods",
    "endpoints/kubernetes",
    "endpoints/none-without-selector",
    "endpoints/manual",
    "endpoints/manual-same-name",
    "external-name/cname",
    "external-name/no-cluster-ip",
    "node-port/every-node",
    "node-port/cluster-ip-too",
    "load-balancer/extends-node-port",
    "traffic-policy/local-only-local",
    "traffic-policy/local-drops",
    "traffic-policy/snat",
    "traffic-policy/local-keeps-source",
    "external-ips/served",
    "ingress/controller-needed",
    "ingress/address-published",
    "ingress/routes-host",
    "ingress/several-paths",
    "ingress/several-hosts",
    "ingress/straight-to-pods",
    "ingress/old-api-version",
    "ingress/tls",
    "readiness/unready-not-in-endpoints",
    "readiness/touch-makes-ready",
    "readiness/never-restarts",
    "readiness/probe-kinds",
    "liveness/restarts",
    "headless/no-cluster-ip",
    "headless/pod-ips",
    "headless/none-ready",
    "headless/follows-readiness",
    "headless/publish-not-ready",
    "kubectl/transcript",
];

fn list(arguments: &[&str]) -> Vec<Value> {
    let folder = tempdir().expect("a folder can be made");
    let listed = output(stickler(folder.path(), arguments));
    assert_eq!((listed.code(), listed.stderr.as_str()), (Some(0), ""));
    serde_json::from_str(&listed.stdout).expect("one JSON array")
}

fn checks_are_listed_with_what_promises_them() -> Result<(), Impossible> {
    let rows = list(&["list", "--format", "json"]);
    let known_needs: Vec<String> =
        stickler::Capability::ALL.iter().map(|capability| capability.name().into_owned()).collect();
    let is_profile =
        |name: &String| stickler_suites::Profile::ALL.iter().any(|profile| profile.name() == name);
    for row in &rows {
        let id = row["id"].as_str().expect("an id");
        assert!(
            id.split_once('/').is_some_and(|(chapter, name)| !chapter.is_empty() && !name.is_empty()),
            "{id}"
        );
        assert!(row["title"].as_str().is_some_and(|title| !title.is_empty()), "{row}");
        assert!(matches!(row["class"].as_str(), Some("promise" | "observation")), "{row}");
        let sources = row["promised_by"].as_array().expect("a list of sources");
        let known = |source: &str| source.starts_with("https://") || source.starts_with("notes: ");
        assert!(sources.iter().all(|source| source.as_str().is_some_and(known)), "{row}");
        assert!(row["class"] != "promise" || !sources.is_empty(), "a promise has a source: {row}");
        assert!(row["unproven"].is_boolean(), "{row}");
        assert!(row["exclusive"].is_boolean(), "{row}");
        let words = |field: &str| {
            let words = row[field].as_array().unwrap_or_else(|| panic!("{field} is a list: {row}"));
            words.iter().map(|word| word.as_str().expect("a word").to_owned()).collect::<Vec<_>>()
        };
        for need in words("needs") {
            let is_known = known_needs.contains(&need) || need.starts_with("kubernetes-1.");
            assert!(is_known, "{need}: {row}");
        }
        let profiles = words("profile");
        assert!(profiles.contains(&"full".to_owned()) && profiles.iter().all(is_profile), "{row}");
        if row["confirmed_by"] != "only ours" {
            let confirmed = words("confirmed_by");
            assert!(!confirmed.is_empty() && !confirmed.iter().any(String::is_empty), "{row}");
        }
    }
    Ok(())
}

fn every_statement_of_the_notes_is_a_check() -> Result<(), Impossible> {
    let rows = list(&["list", "--format", "json"]);
    assert!(rows.len() >= 150, "{} checks", rows.len());
    let is_listed = |id: &&&str| rows.iter().any(|row| row["id"] == **id);
    let missing: Vec<_> = NOTES.iter().filter(|id| !is_listed(id)).collect();
    assert!(missing.is_empty(), "the notes say it, and no check does: {missing:?}");
    Ok(())
}

fn bugs_are_listed_with_the_checks_that_catch_them() -> Result<(), Impossible> {
    let checks = list(&["list", "--format", "json"]);
    let rows = list(&["list", "--bugs", "--format", "json"]);
    assert!(!rows.is_empty());
    for row in &rows {
        for field in ["id", "title", "component", "seen_in"] {
            assert!(row[field].as_str().is_some_and(|text| !text.is_empty()), "{field} of {row}");
        }
        for caught_by in row["caught_by"].as_array().expect("a list of checks") {
            let check = checks.iter().find(|check| check["id"] == *caught_by).expect("a check");
            assert_eq!(check["unproven"], false, "a bug makes {caught_by} fail");
        }
    }
    let unproven = checks.iter().filter(|check| check["unproven"] == true).count();
    let folder = tempdir().expect("a folder can be made");
    let pretty = output(stickler(folder.path(), &["list"]));
    assert_eq!(pretty.stdout.matches("(unproven: ").count(), unproven, "{}", pretty.stdout);
    Ok(())
}

fn a_list_may_be_cut_short() -> Result<(), Impossible> {
    use std::process::Stdio;
    let folder = tempdir().expect("a folder can be made");
    // The reader is gone before the first line is written, as with `stickler list | head -0`.
    let (reader, writer) = std::io::pipe().expect("a pipe can be made");
    drop(reader);
    let mut command = stickler(folder.path(), &["list"]);
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn().expect("it starts");
    drop(command);
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    assert!(ended.status.success(), "{:?}", ended.status);
    Ok(())
}

fn help_names_every_command_and_exit_status() -> Result<(), Impossible> {
    let folder = tempdir().expect("a folder can be made");
    let help = output(stickler(folder.path(), &["--help"]));
    assert_eq!(help.code(), Some(0));
    for word in ["run", "list", "up", "--filter", "--cluster", "--bug", "--report", "Exit status"] {
        assert!(help.stdout.contains(word), "{word} is missing:\n{}", help.stdout);
    }
    Ok(())
}
