//! A cluster of ours that exists, if OWN_CLUSTER names its kubeconfig.

use std::path::Path;
use std::process::ExitCode;

use stickler::providers::KubeconfigProvider;
use stickler_suites::{Conformance, Profile};

fn main() -> ExitCode {
    let kubeconfig = std::env::var("OWN_CLUSTER").ok();
    let file = kubeconfig.as_deref().map(Path::new);
    let image = std::env::var("OWN_CLUSTER_IMAGE").unwrap_or_else(|_| "stickler-pods".to_owned());
    Conformance::of(|| KubeconfigProvider::read(file, None, image))
        .ignored_unless(file.is_some(), "OWN_CLUSTER names no kubeconfig")
        .profile(Profile::Service)
        .report(concat!(env!("CARGO_TARGET_TMPDIR"), "/existing"))
        .main()
}
