//! Our scheduler, in the place of the testbed's own.

use std::process::ExitCode;

use stickler_suites::Conformance;

fn main() -> ExitCode {
    Conformance::of(testbed)
        .ignored_unless(cfg!(target_os = "linux"), "the testbed needs Linux")
        .only(&["service/s*", "service/daemon-set", "host-port/*"])
        .expecting("expected.toml")
        .report(REPORT)
        .main()
}

const REPORT: &str = env!("CARGO_TARGET_TMPDIR");

#[cfg(target_os = "linux")]
fn testbed() -> anyhow::Result<stickler::providers::TestbedProvider> {
    let scheduler = concat!("'", env!("CARGO_BIN_EXE_own-scheduler"), "' --kubeconfig={kubeconfig}");
    Ok(stickler::providers::TestbedProvider::of_nodes(3)?.with("scheduler", scheduler)?.with_logs(REPORT))
}

#[cfg(not(target_os = "linux"))]
fn testbed() -> anyhow::Result<stickler::providers::KubeconfigProvider> {
    anyhow::bail!("the testbed needs Linux")
}
