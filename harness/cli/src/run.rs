//! `stickler run`: check every promise, and report.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use stickler::{Check, Cluster, Provider, Sink};
use stickler_reports::{Deviation, Event, Progress, Recording, Report, Verdict};
use stickler_suites::Profile;
use tokio_util::sync::CancellationToken;

use crate::Ended;
use crate::cluster::{ClusterArgs, ReachArgs, runtime};

/// Arguments of `stickler run`.
#[derive(Args)]
pub(crate) struct Run {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    reach: ReachArgs,
    /// Only checks whose id matches, such as `service/*`. May be given several times.
    #[arg(long = "filter", value_name = "GLOB")]
    filters: Vec<String>,
    /// Only the checks that concern one component, for those who build it.
    #[arg(long, value_name = "NAME", default_value = "full", value_parser = profile)]
    profile: Profile,
    /// Known deviations of the implementation, a TOML file: these checks must fail, and the run stays
    /// green if they do. `expected/` has some. May be given several times.
    #[arg(long = "expect", value_name = "FILE")]
    expect: Vec<PathBuf>,
    /// Decides what is left to chance, such as the order of the checks; drawn if it is not given.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How many checks may run at once.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u8).range(1..))]
    jobs: u8,
    /// Where `report.json` and `journal.jsonl` go; the folder is made if need be.
    #[arg(long, value_name = "DIR", default_value = "report")]
    report: PathBuf,
    /// How to print the result on standard output. Progress goes to standard error.
    #[arg(long, value_enum, default_value = "pretty")]
    format: Format,
    /// Show where the time went.
    #[arg(long)]
    timings: bool,
    /// No progress on standard error.
    #[arg(short, long)]
    quiet: bool,
}

/// How a result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Pretty,
    /// One JSON document.
    Json,
}

impl Run {
    pub(crate) fn execute(&self) -> anyhow::Result<Ended> {
        let checks = self.profile.select(&self.filters).context("`--filter`")?;
        let deviations = stickler_suites::known_deviations(&self.expect)?;
        // Before the folder: who asked for the impossible is left nothing to clean up.
        let provider = self.cluster.provider(0, Some(&self.reach), Some(&self.report))?;
        record(&self.report, self.quiet, self.format, self.timings, async |sink| {
            self.perform(provider.as_ref(), checks, deviations, sink).await
        })
    }

    async fn perform(
        &self,
        provider: &dyn Provider,
        checks: Vec<&'static Check>,
        deviations: Vec<Deviation>,
        sink: &Sink,
    ) -> anyhow::Result<()> {
        let cancel = stickler::interrupt::watch()?;
        let seed = self.seed.unwrap_or_else(rand::random);
        let jobs = usize::from(self.jobs);
        let beginning = Beginning { suite: "conformance", seed, jobs, checks: &checks };
        let Some(cluster) = beginning.start(provider, &cancel, sink).await? else { return Ok(()) };
        stickler::Run { checks, seed, jobs, deviations, cancel }.on(&cluster, sink).await;
        Ok(())
    }
}

/// Performs something that tells events, and makes the journal, the report and the exit status of
/// them.
pub(crate) fn record(
    folder: &Path,
    quiet: bool,
    format: Format,
    timings: bool,
    perform: impl AsyncFnOnce(&Sink) -> anyhow::Result<()>,
) -> anyhow::Result<Ended> {
    let recording = Recording::begin(folder)?;
    let mut reporters = recording.reporters();
    if !quiet {
        reporters.push(Box::new(Progress::on_stderr()));
    }
    let sink = Sink::new(reporters);
    let runtime = runtime()?;
    let performed = runtime.block_on(perform(&sink));
    drop(runtime);
    // Written in any case: a cluster that did not start is a result too.
    let report = recording.finish()?;
    performed?;
    show(&report, format, timings, folder)?;
    Ok(ended(&report))
}

/// Prints a report on standard output.
pub(crate) fn show(report: &Report, format: Format, timings: bool, folder: &Path) -> anyhow::Result<()> {
    match format {
        Format::Json => crate::print(&(serde_json::to_string_pretty(report)? + "\n")),
        Format::Pretty => {
            let text = stickler_reports::summary(report, std::io::stdout().is_terminal(), timings);
            crate::print(&format!("{text}report: {}\n", folder.join("index.html").display()))
        }
    }
}

/// How the run of a report ended.
pub(crate) fn ended(report: &Report) -> Ended {
    match report.verdict() {
        _ if report.interrupted => Ended::Interrupted,
        Verdict::Passed | Verdict::Skipped => Ended::Held,
        Verdict::Failed | Verdict::Inconclusive => Ended::Broken,
    }
}

/// What is told of a run when it begins.
pub(crate) struct Beginning<'a> {
    pub(crate) suite: &'static str,
    pub(crate) seed: u64,
    /// How many checks may run at once.
    pub(crate) jobs: usize,
    pub(crate) checks: &'a [&'static Check],
}

impl<'a> Beginning<'a> {
    /// Of a run that has no checks.
    pub(crate) fn of(suite: &'static str, seed: u64) -> Self {
        Self { suite, seed, jobs: 1, checks: &[] }
    }

    /// Tells it, and starts a cluster; `None` if the run was interrupted meanwhile.
    pub(crate) async fn start(
        &self,
        provider: &dyn Provider,
        cancel: &CancellationToken,
        sink: &Sink,
    ) -> anyhow::Result<Option<Arc<dyn Cluster>>> {
        sink.tell(Event::RunStarted {
            tool: format!("stickler {}", env!("CARGO_PKG_VERSION")),
            suite: self.suite.to_owned(),
            seed: self.seed,
            jobs: self.jobs,
            checks: self.checks.iter().map(|check| check.card()).collect(),
        });
        let started = tokio::select! {
            started = provider.start() => started,
            () = cancel.cancelled() => {
                sink.tell(Event::RunFinished { duration_ms: 0, interrupted: true, timings: Vec::new() });
                return Ok(None);
            }
        };
        match started {
            Ok(cluster) => {
                sink.tell(Event::ClusterReady { cluster: cluster.card().clone() });
                Ok(Some(Arc::from(cluster)))
            }
            Err(error) => {
                sink.tell(Event::Trouble { message: format!("the cluster did not start: {error:#}") });
                sink.tell(Event::RunFinished { duration_ms: 0, interrupted: false, timings: Vec::new() });
                Err(error.context(format!("cluster `{}` did not start", provider.name())))
            }
        }
    }
}

/// A profile by its name.
fn profile(name: &str) -> Result<Profile, String> {
    let known = || Profile::ALL.iter().map(|profile| profile.name()).collect::<Vec<_>>().join(", ");
    let named = Profile::ALL.iter().copied().find(|profile| profile.name() == name);
    named.ok_or_else(|| format!("the profiles are: {}", known()))
}
