//! `--keep` on a cluster that is made for the run: it stands until somebody has seen enough.

use std::path::Path;

use serde_json::Value;
use tempfile::tempdir;

use crate::existing::{client, namespaces};
use crate::leftovers::{Before, Belongings, names};
use crate::program::{Running, eventually, stickler};
use crate::{Impossible, Test};

pub(crate) const TESTS: &[(&str, Test)] =
    &[("a_kept_cluster_can_be_looked_at", a_kept_cluster_can_be_looked_at)];

fn a_kept_cluster_can_be_looked_at() -> Result<(), Impossible> {
    let before = Before::look();
    let folder = tempdir().expect("a folder can be made");
    let checks = ["run", "--filter", "node-port/from-outside", "--filter", "goweb/answers-hostname"];
    let keep = ["--bug", "node-port-only-where-pod-runs", "--keep", "--format", "json"];
    let mut run = Running::start(stickler(folder.path(), &[&checks[..], &keep].concat()));
    let line = run.await_line(|line| line.contains("export KUBECONFIG="));
    let belongings = Belongings::of(run.pid());
    let (_, path) = line.split_once('=').expect("a path");
    // The report is there before anybody looks.
    assert!(names(&folder.path().join("report")).contains("index.html"));
    let line = run.await_line(|line| line.contains("kubectl get all -n "));
    assert!(line.trim_start().starts_with("node-port/from-outside "), "{line}");
    let (_, kept) = line.split_once(" -n ").expect("a namespace");
    run.await_line(|line| line == "Ctrl-C ends it; nothing stays.");

    let (runtime, client) = client(Path::new(path));
    let of_checks = |name: &String| name.starts_with("stickler-") && !name.ends_with("-agents");
    eventually("no namespace but the one that is kept", || {
        let left: Vec<String> = runtime.block_on(namespaces(&client)).into_iter().filter(of_checks).collect();
        (left == [kept]).then_some(())
    });
    let path = format!("/api/v1/namespaces/{kept}/pods");
    let get = http::Request::get(path).body(Vec::new()).expect("a request");
    let pods: Value = runtime.block_on(client.request(get)).expect("a list");
    let pods = pods["items"].as_array().expect("pods");
    assert!(!pods.is_empty() && pods.iter().all(|pod| pod["status"]["phase"] == "Running"), "{pods:#?}");

    run.signal(libc::SIGINT);
    let ended = run.end();
    assert_eq!(ended.code(), Some(1), "it ends as the run did: {ended:#?}");
    let report: Value = serde_json::from_str(&ended.stdout).expect("standard output is one JSON document");
    assert_eq!((&report["summary"]["failed"], &report["interrupted"]), (&1.into(), &false.into()));
    assert!(!names(&folder.path().join("report")).contains("kubeconfig"));
    before.is_restored(&belongings);
    Ok(())
}
