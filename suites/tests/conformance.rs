//! Every check as a test, on a testbed: what `cargo test` shows of the suites.

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    if let Some(code) = stickler_suites::reexec() {
        return code;
    }
    let arguments = Arguments::from_args();
    #[cfg(target_os = "linux")]
    let trials = on_testbed::trials();
    #[cfg(not(target_os = "linux"))]
    let trials: Result<Vec<libtest_mimic::Trial>, String> = Ok(stickler_suites::all()
        .map(|check| {
            let ignored = || Ok(libtest_mimic::Completion::ignored_with("the testbed needs Linux"));
            libtest_mimic::Trial::ignorable_test(check.id, ignored)
        })
        .collect());
    match trials {
        Ok(trials) => libtest_mimic::run(&arguments, trials).exit_code(),
        Err(error) => {
            use std::io::Write as _;
            // Nothing else can be done about an error that cannot be written.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::from(2)
        }
    }
}

#[cfg(target_os = "linux")]
mod on_testbed {
    use std::sync::Arc;

    use libtest_mimic::{Completion, Failed, Trial};
    use stickler::providers::TestbedProvider;
    use stickler::{Capability, Check, Cluster, Provider as _, Session, Sink, Verdict};
    use tokio::runtime::Runtime;
    use tokio::sync::OnceCell;
    use tokio_util::sync::CancellationToken;

    /// A testbed for many checks, started by the first that needs it.
    struct Bed {
        // Ended before the runtime its tasks run on.
        session: OnceCell<Session>,
        runtime: Runtime,
        provider: TestbedProvider,
    }

    /// One testbed is as the notes' lab, where nobody serves load balancers; those checks that need
    /// somebody who does have another one.
    pub(crate) fn trials() -> Result<Vec<Trial>, String> {
        let provider =
            TestbedProvider::enter(3, 0, [].into_iter().collect()).map_err(|error| error.to_string())?;
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            return Err("another cryptography provider is installed already".to_owned());
        }
        let bed = |load_balancer| -> Result<Arc<Bed>, String> {
            let runtime = Runtime::new().map_err(|error| error.to_string())?;
            let provider = provider.clone().with_load_balancer(load_balancer);
            Ok(Arc::new(Bed { session: OnceCell::new(), runtime, provider }))
        };
        let (lab, balanced) = (bed(false)?, bed(true)?);
        let trial = |check: &'static Check, bed: &Arc<Bed>, name: String| {
            let bed = Arc::clone(bed);
            Trial::ignorable_test(name, move || bed.perform(check))
        };
        let mut trials = Vec::new();
        for check in stickler_suites::all() {
            let needs_one = check.needs.contains(&Capability::LoadBalancer);
            trials.push(trial(check, if needs_one { &balanced } else { &lab }, check.id.to_owned()));
            // The rest of its chapter holds with a load balancer as well.
            if check.chapter() == "load-balancer" && !needs_one {
                trials.push(trial(check, &balanced, format!("{}/with-one", check.id)));
            }
        }
        Ok(trials)
    }

    impl Bed {
        fn perform(&self, check: &'static Check) -> Result<Completion, Failed> {
            let ending = self.runtime.block_on(async {
                let session = self
                    .session
                    .get_or_try_init(|| self.open())
                    .await
                    .map_err(|error| format!("{error:#}"))?;
                Ok::<_, String>(session.perform(check).await)
            })?;
            match (ending.verdict, ending.finding) {
                (Verdict::Passed, _) => Ok(Completion::Completed),
                (Verdict::Skipped, _) => Ok(Completion::ignored_with(ending.reason.unwrap_or_default())),
                (_, Some(finding)) => {
                    Err(format!("promised: {}\nobserved: {}", finding.promised, finding.observed).into())
                }
                (verdict, None) => Err(format!("{verdict:?}: {}", ending.reason.unwrap_or_default()).into()),
            }
        }

        async fn open(&self) -> anyhow::Result<Session> {
            let cluster: Arc<dyn Cluster> = Arc::from(self.provider.start().await?);
            Session::open(cluster, Sink::new(Vec::new()), CancellationToken::new()).await
        }
    }
}
