//! Our scheduler, in the place of the testbed's own.

use std::process::ExitCode;

use stickler::providers::TestbedProvider;
use stickler_suites::Conformance;

fn main() -> ExitCode {
    let scheduler = concat!("'", env!("CARGO_BIN_EXE_own-scheduler"), "' --kubeconfig={kubeconfig}");
    let report = env!("CARGO_TARGET_TMPDIR");
    Conformance::of(|| Ok(TestbedProvider::of_nodes(3)?.with("scheduler", scheduler)?.with_logs(report)))
        .only(&["service/s*", "service/daemon-set", "host-port/*"])
        .expecting("expected.toml")
        .report(report)
        .main()
}
