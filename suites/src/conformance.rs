//! The suite as the tests of somebody else's repository.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use libtest_mimic::{Arguments, Completion, Conclusion, Failed, Trial};
use stickler::{Check, Cluster, Ending, Provider, Session, Sink, Verdict};
use stickler_reports::{Deviation, Event, Progress, Recording, Reporter};
use tokio::runtime::Runtime;

use crate::Profile;

/// How many checks are performed at once if the command line does not say: they mostly wait.
const JOBS: usize = 6;

/// What a runner sets that starts a process for each test, as cargo-nextest does, and to what.
const EXECUTION_MODE: (&str, &str) = ("NEXTEST_EXECUTION_MODE", "process-per-test");

/// The checks as tests of a cluster, each by its id: the `main` of a test target with
/// `harness = false`, as `examples/own-cluster` has it.
///
/// All checks of a process share one cluster and its agents. The command line is that of any test:
/// a filter, `--exact`, `--skip`, `--list`, `--test-threads`, and `--nocapture`, which tells on standard
/// error what the cluster is and how each check ended. Who starts a process for each test gets a cluster
/// for each from a provider that makes one; of a cluster that exists all of them are guests at once, so
/// they have to be told to come one by one.
///
/// What is skipped, because the cluster lacks something, is shown as ignored, with the reason.
pub struct Conformance<F> {
    provider: F,
    profile: Profile,
    only: Vec<String>,
    expecting: Vec<PathBuf>,
    report: Option<PathBuf>,
    ignored: Option<String>,
}

impl<F, P> Conformance<F>
where
    F: FnOnce() -> anyhow::Result<P>,
    P: Provider + 'static,
{
    /// Of the cluster of this provider. It is asked for when a check is to be performed, before any
    /// thread exists, so that it may move the process into namespaces.
    pub fn of(provider: F) -> Self {
        let (only, expecting) = (Vec::new(), Vec::new());
        Self { provider, profile: Profile::Full, only, expecting, report: None, ignored: None }
    }

    /// The checks of one profile; otherwise every check there is.
    #[must_use]
    pub fn profile(self, profile: Profile) -> Self {
        Self { profile, ..self }
    }

    /// Of these only the checks whose ids match one of these globs, such as `service/*`.
    #[must_use]
    pub fn only(mut self, globs: &[&str]) -> Self {
        self.only.extend(globs.iter().map(|glob| (*glob).to_owned()));
        self
    }

    /// With a file of known deviations, in the form of `stickler run --expect`: these checks must fail,
    /// and their tests pass if they do.
    #[must_use]
    pub fn expecting(mut self, file: impl Into<PathBuf>) -> Self {
        self.expecting.push(file.into());
        self
    }

    /// Writes a report into this folder, as `stickler run` does; `env!("CARGO_TARGET_TMPDIR")` is one that
    /// every test target has. A process that was started for one test writes into a folder below it that
    /// is called as the check.
    #[must_use]
    pub fn report(self, folder: impl Into<PathBuf>) -> Self {
        Self { report: Some(folder.into()), ..self }
    }

    /// Shows every check as ignored, with the reason, unless the condition is met.
    #[must_use]
    pub fn ignored_unless(self, condition: bool, reason: &str) -> Self {
        Self { ignored: (!condition).then(|| reason.to_owned()), ..self }
    }

    /// Performs the checks that the command line asks for; to be called first in `main`, and how the
    /// process ends. That is 0 if all of them held or were ignored, 101 if one did not, and 2, with words
    /// on standard error, if there was nothing to hold them to.
    pub fn main(self) -> ExitCode {
        // What runs in pods of a testbed is this very program under another name.
        if let Some(code) = crate::reexec() {
            return code;
        }
        match self.perform(&Arguments::from_args()) {
            Ok(conclusion) => conclusion.exit_code(),
            Err(error) => {
                say(&format!("error: {error:#}"));
                ExitCode::from(2)
            }
        }
    }

    fn perform(self, arguments: &Arguments) -> anyhow::Result<Conclusion> {
        let mut checks = self.profile.select(&self.only)?;
        let deviations = crate::known_deviations(&self.expecting)?;
        let named = |check: &Check| !arguments.is_filtered_out(&Trial::test(check.id, || Ok(())));
        if arguments.list {
            let ignored = self.ignored.is_some();
            let trial = |check: &&Check| Trial::test(check.id, || Ok(())).with_ignored_flag(ignored);
            return Ok(libtest_mimic::run(arguments, checks.iter().map(trial).collect()));
        }
        if let Some(reason) = self.ignored {
            let trial = |check: &&Check| {
                let reason = reason.clone();
                Trial::ignorable_test(check.id, move || Ok(Completion::ignored_with(reason)))
            };
            return Ok(libtest_mimic::run(arguments, checks.iter().map(trial).collect()));
        }
        // Those that have to be alone come last, so that they keep nobody waiting.
        checks.sort_by_key(|check| check.exclusive);
        let asked: Vec<_> = checks.iter().copied().filter(|check| named(check)).collect();
        if asked.is_empty() {
            let trial = |check: &&Check| Trial::test(check.id, || Ok(()));
            return Ok(libtest_mimic::run(arguments, checks.iter().map(trial).collect()));
        }
        let provider = (self.provider)()?;
        let folder = self.report.map(|folder| folder_of(&folder, &asked));
        let run = Running::begin(&provider, &asked, deviations, folder.as_deref(), arguments)?;
        let trial = |check: &'static Check| {
            let run = Arc::clone(&run);
            Trial::ignorable_test(check.id, move || run.perform(check))
        };
        let arguments =
            Arguments { test_threads: arguments.test_threads.or(Some(JOBS)), ..arguments.clone() };
        let conclusion = libtest_mimic::run(&arguments, checks.iter().copied().map(trial).collect());
        run.end()?;
        Ok(conclusion)
    }
}

/// Where the report of these checks goes.
fn folder_of(folder: &Path, asked: &[&Check]) -> PathBuf {
    let (variable, one_each) = EXECUTION_MODE;
    match asked {
        [check] if std::env::var(variable).is_ok_and(|mode| mode == one_each) => folder.join(check.id),
        _ => folder.to_owned(),
    }
}

/// A cluster with agents on it, and the record of what was seen there.
struct Running {
    // Ended before the runtime its tasks run on.
    session: Session,
    sink: Sink,
    recording: Option<(PathBuf, Recording)>,
    deviations: Vec<Deviation>,
    interrupted: tokio_util::sync::CancellationToken,
    since: std::time::Instant,
    runtime: Runtime,
}

impl Running {
    fn begin(
        provider: &dyn Provider,
        checks: &[&'static Check],
        deviations: Vec<Deviation>,
        folder: Option<&Path>,
        arguments: &Arguments,
    ) -> anyhow::Result<Arc<Self>> {
        // Whoever installed another one before wants that one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = Runtime::new().context("no runtime can be started")?;
        let recording =
            folder.map(|folder| anyhow::Ok((folder.to_owned(), Recording::begin(folder)?))).transpose()?;
        let mut reporters: Vec<Box<dyn Reporter>> = Vec::new();
        reporters.extend(recording.iter().flat_map(|(_, recording)| recording.reporters()));
        if arguments.nocapture {
            reporters.push(Box::new(Progress::on_stderr()));
        }
        let sink = Sink::new(reporters);
        let since = std::time::Instant::now();
        sink.tell(Event::RunStarted {
            tool: format!("stickler-suites {}", env!("CARGO_PKG_VERSION")),
            suite: "conformance".to_owned(),
            seed: 0,
            jobs: arguments.test_threads.unwrap_or(JOBS),
            checks: checks.iter().map(|check| check.card()).collect(),
            unclaimed: Vec::new(),
        });
        let opening = async {
            let interrupted = stickler::interrupt::watch()?;
            let cluster = tokio::select! {
                cluster = provider.start() => cluster,
                () = interrupted.cancelled() => Err(anyhow::anyhow!("the run was interrupted")),
            };
            let name = provider.name();
            let cluster = cluster.with_context(|| format!("cluster `{name}` did not start"))?;
            sink.tell(Event::ClusterReady { cluster: cluster.card().clone() });
            let cluster: Arc<dyn Cluster> = Arc::from(cluster);
            let session = Session::open(cluster, sink.clone(), interrupted.clone());
            let session = session.await.context("no vantage could be opened")?;
            anyhow::Ok((session.expecting(deviations.clone()), interrupted))
        };
        let (session, interrupted) = match runtime.block_on(opening) {
            Ok(opened) => opened,
            Err(error) => {
                sink.tell(Event::Trouble { message: format!("{error:#}") });
                finish(&sink, since, false);
                // A cluster that did not start is a result too.
                recording.map(|(_, recording)| recording.finish()).transpose()?;
                return Err(error);
            }
        };
        Ok(Arc::new(Self { session, sink, recording, deviations, interrupted, since, runtime }))
    }

    fn perform(&self, check: &'static Check) -> Result<Completion, Failed> {
        let Ending { verdict, reason, finding } = self.runtime.block_on(self.session.perform(check));
        let reason = reason.unwrap_or_default();
        let is_known = self.deviations.iter().any(|known| known.check == check.id);
        match (verdict, finding) {
            (Verdict::Passed, _) => Ok(Completion::Completed),
            (Verdict::Skipped, _) => Ok(Completion::ignored_with(reason)),
            (Verdict::Failed, Some(_)) if is_known => Ok(Completion::Completed),
            (_, Some(finding)) => {
                Err(format!("promised: {}\nobserved: {}", finding.promised, finding.observed).into())
            }
            (Verdict::Inconclusive, None) => Err(format!("could not tell: {reason}").into()),
            (Verdict::Failed, None) => Err(reason.into()),
        }
    }

    /// Gives back what stands on the cluster, and writes the report.
    fn end(self: Arc<Self>) -> anyhow::Result<()> {
        let this = Arc::into_inner(self).context("a check is still being performed")?;
        let Self { session, sink, recording, interrupted, since, runtime, .. } = this;
        runtime.block_on(session.close());
        // A cluster of our own ends here, before the threads its tasks run on.
        drop(session);
        finish(&sink, since, interrupted.is_cancelled());
        drop(runtime);
        if let Some((folder, recording)) = recording {
            recording.finish()?;
            say(&format!("report: {}", folder.join("index.html").display()));
        }
        Ok(())
    }
}

fn finish(sink: &Sink, since: std::time::Instant, interrupted: bool) {
    let duration_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    sink.tell(Event::RunFinished { duration_ms, interrupted, timings: Vec::new() });
}

/// Nothing can be done about words that cannot be written.
fn say(words: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{words}");
}
