//! What may depend on what: the map in ARCHITECTURE.md, kept by a test.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Each of our crates, and those of ours it may depend on.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("stickler-reports", &[]),
    ("stickler-model", &[]),
    ("stickler-pods", &[]),
    ("stickler-testbed", &["stickler-pods"]),
    ("stickler", &["stickler-reports", "stickler-model", "stickler-pods", "stickler-testbed"]),
    ("stickler-suites", &["stickler", "stickler-model", "stickler-reports"]),
    ("stickler-cli", &["stickler", "stickler-reports", "stickler-suites"]),
    ("own-cluster", &[]),
];

#[test]
fn nobody_depends_upwards() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        MAY_DEPEND_ON.iter().map(|(name, on)| (*name, on.iter().copied().collect())).collect();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        let on = allowed.get(name).unwrap_or_else(|| panic!("`{name}` is new; add it to MAY_DEPEND_ON"));
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let dependency = (dependency["name"].as_str().expect("a name"), &dependency["kind"]);
            // What only tests use is no part of the house.
            if dependency.1.is_null() && allowed.contains_key(dependency.0) {
                assert!(
                    on.contains(dependency.0),
                    "`{name}` must not depend on `{}`; see ARCHITECTURE.md, \"What may depend on what\"",
                    dependency.0
                );
            }
        }
    }
}
