//! Do the checks notice anything? Every bug that can be planted is, one at a time, and one of the
//! checks that are to catch it must. That nothing else fails takes a whole run for each bug, minutes
//! all in all: `cargo test --test sensitivity -- --ignored`.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = stickler_suites::reexec() {
        return code;
    }
    #[cfg(target_os = "linux")]
    return planted::main();
    #[cfg(not(target_os = "linux"))]
    return ExitCode::SUCCESS;
}

#[cfg(target_os = "linux")]
mod planted {
    use std::process::ExitCode;
    use std::sync::{Arc, Mutex, PoisonError};

    use libtest_mimic::{Arguments, Failed, Trial};
    use stickler::providers::TestbedProvider;
    use stickler::providers::bugs::{self, BugCard};
    use stickler::{Cluster, Provider as _, Run, Sink, Verdict};
    use stickler_reports::{Event, Record, Report, Reporter};
    use tokio::runtime::Runtime;
    use tokio_util::sync::CancellationToken;

    pub(crate) fn main() -> ExitCode {
        let arguments = Arguments::from_args();
        if let Err(error) = TestbedProvider::enter(3, 0, [].into_iter().collect()) {
            let trial = Trial::test("bugs", move || Err(Failed::from(error.to_string())));
            return libtest_mimic::run(&arguments, vec![trial]).exit_code();
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        let noticed = |card: &'static BugCard| {
            Trial::test(format!("bug/{}", card.id), move || caught(card, Extent::First))
        };
        let nothing_else = |card: &'static BugCard| {
            let name = format!("bug/{}/nothing-else", card.id);
            Trial::test(name, move || caught(card, Extent::Whole)).with_ignored_flag(true)
        };
        let trials = bugs::all().map(noticed).chain(bugs::all().map(nothing_else)).collect();
        // A check that is to fail spends its time waiting, so several testbeds may at once. Where
        // nothing else may fail, one is enough for the machine.
        let threads = if arguments.ignored || arguments.include_ignored { 1 } else { 3 };
        let arguments = Arguments { test_threads: Some(threads), ..arguments };
        libtest_mimic::run(&arguments, trials).exit_code()
    }

    /// How much is run with a bug planted.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Extent {
        /// The checks that are to catch it, until one has.
        First,
        /// Everything.
        Whole,
    }

    fn caught(card: &BugCard, extent: Extent) -> Result<(), Failed> {
        let report =
            Runtime::new()?.block_on(run_with(card, extent)).map_err(|error| format!("{error:#}"))?;
        let failed: Vec<_> = report.checks.iter().filter(|check| check.verdict == Verdict::Failed).collect();
        if failed.is_empty() {
            return Err(format!("no check noticed `{}`: {}", card.id, card.title).into());
        }
        for check in &report.checks {
            match check.verdict {
                Verdict::Failed if !card.caught_by.contains(&check.id.as_str()) => {
                    let observed = check.observed.as_deref().unwrap_or_default();
                    return Err(format!(
                        "`{}` failed, but is not in `caught_by` of `{}`; add it if this is right: {observed}",
                        check.id, card.id
                    )
                    .into());
                }
                Verdict::Failed => {
                    let told = [&check.promised, &check.observed];
                    if told.iter().any(|text| text.as_deref().unwrap_or_default().is_empty()) {
                        return Err(format!(
                            "`{}` does not say what was promised and what was seen",
                            check.id
                        )
                        .into());
                    }
                }
                // What the bug takes down may not be there to be asked.
                Verdict::Inconclusive if card.caught_by.contains(&check.id.as_str()) => {}
                Verdict::Inconclusive => {
                    let reason = check.reason.as_deref().unwrap_or_default();
                    return Err(format!("`{}` could not tell: {reason}", check.id).into());
                }
                Verdict::Passed | Verdict::Skipped => {}
            }
        }
        Ok(())
    }

    async fn run_with(card: &BugCard, extent: Extent) -> anyhow::Result<Report> {
        let provider = TestbedProvider::enter(3, 0, [card.bug].into_iter().collect())?;
        // Without one, whoever needs it would be skipped.
        let provider = provider.with_load_balancer(true);
        let cluster: Arc<dyn Cluster> = Arc::from(provider.start().await?);
        let report = Arc::new(Mutex::new(Report::new()));
        let cancel = CancellationToken::new();
        let mut reporters: Vec<Box<dyn Reporter>> = vec![Box::new(Into(Arc::clone(&report)))];
        let mut checks: Vec<_> = stickler_suites::all().collect();
        if extent == Extent::First {
            checks.retain(|check| card.caught_by.contains(&check.id));
            // A bug that everything notices needs no more than these.
            checks.truncate(JOBS);
            reporters.push(Box::new(AtFirstFailure(cancel.clone())));
        }
        let sink = Sink::new(reporters);
        sink.tell(Event::RunStarted {
            unclaimed: Vec::new(),
            tool: "sensitivity".to_owned(),
            suite: "conformance".to_owned(),
            seed: 1,
            jobs: JOBS,
            checks: checks.iter().map(|check| check.card()).collect(),
        });
        Run {
            checks,
            seed: 1,
            jobs: JOBS,
            deviations: Vec::new(),
            unclaimed: Vec::new(),
            keep: false,
            cancel,
        }
        .on(&cluster, &sink)
        .await;
        let report = report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(report)
    }

    /// Checks that fail spend their time waiting, so many may at once.
    const JOBS: usize = 12;

    struct Into(Arc<Mutex<Report>>);

    /// Ends the run when a check has failed.
    struct AtFirstFailure(CancellationToken);

    impl Reporter for AtFirstFailure {
        fn hear(&mut self, record: &Record) {
            if matches!(&record.event, Event::CheckFinished { verdict: Verdict::Failed, .. }) {
                self.0.cancel();
            }
        }
    }

    impl Reporter for Into {
        fn hear(&mut self, record: &Record) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).hear(record);
        }
    }
}
