//! What every command that performs something does with its events: a journal and a report are made of them,
//! something is printed, and they decide the exit status.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use stickler::{Check, Cluster, Provider, Sink};
use stickler_reports::{Event, Progress, Recording, Report, Verdict};
use tokio_util::sync::CancellationToken;

use crate::Ended;
use crate::cluster::runtime;

/// Where a command's report goes, and what is printed of it.
#[derive(Args)]
pub(crate) struct RecordArgs {
    /// Where `report.json`, `index.html`, `journal.jsonl` and whatever else is found go; the folder is made if
    /// need be.
    #[arg(long, value_name = "DIR", default_value = "report")]
    report: PathBuf,
    /// How to print the result on standard output. Progress goes to standard error.
    #[arg(long, value_enum, default_value = "pretty")]
    pub(crate) format: Format,
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

impl RecordArgs {
    /// Where the report goes.
    pub(crate) fn folder(&self) -> &Path {
        &self.report
    }

    /// Tells what is no part of the report.
    pub(crate) fn say(&self, text: &str) -> anyhow::Result<()> {
        match self.format {
            Format::Pretty => crate::print(text),
            Format::Json => {
                eprint!("{text}");
                Ok(())
            }
        }
    }

    /// Performs something that tells events, and makes the journal, the report and the exit status of them.
    pub(crate) fn record(
        &self,
        perform: impl AsyncFnOnce(&Sink) -> anyhow::Result<()>,
    ) -> anyhow::Result<Ended> {
        self.record_and(perform, async |()| Ok(()))
    }

    /// The same, and then something else, once the report is written and shown.
    pub(crate) fn record_and<T>(
        &self,
        perform: impl AsyncFnOnce(&Sink) -> anyhow::Result<T>,
        then: impl AsyncFnOnce(T) -> anyhow::Result<()>,
    ) -> anyhow::Result<Ended> {
        let recording = Recording::begin(&self.report)?;
        let mut reporters = recording.reporters();
        if !self.quiet {
            reporters.push(Box::new(Progress::on_stderr()));
        }
        let sink = Sink::new(reporters);
        let runtime = runtime()?;
        // A cluster that is kept may need it when it goes.
        let _entered = runtime.enter();
        let performed = runtime.block_on(perform(&sink));
        // Written in any case: a cluster that did not start is a result too.
        let report = recording.finish()?;
        crate::github::tell(&report, self.format)?;
        let performed = performed?;
        show(&report, self.format, self.timings, &self.report)?;
        runtime.block_on(then(performed))?;
        Ok(ended(&report))
    }
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
    /// The features that the implementation does not claim to have.
    pub(crate) unclaimed: &'a [String],
}

impl<'a> Beginning<'a> {
    /// Of a run that has no checks.
    pub(crate) fn of(suite: &'static str, seed: u64) -> Self {
        Self { suite, seed, jobs: 1, checks: &[], unclaimed: &[] }
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
            unclaimed: self.unclaimed.to_vec(),
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
