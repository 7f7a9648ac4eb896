//! `stickler explore`: look for a world in which a promise is broken.

use std::path::PathBuf;

use clap::Args;
use stickler::explore::Exploration;
use stickler::{Provider, Sink};
use stickler_reports::KnownDifference;

use crate::Ended;
use crate::cluster::{ClusterArgs, ReachArgs};
use crate::record::{Beginning, RecordArgs};

/// Arguments of `stickler explore`.
#[derive(Args)]
pub(crate) struct Explore {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    reach: ReachArgs,
    /// How many worlds to try, each built from nothing.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    cases: u32,
    /// How many operations each takes; after each, everything is looked at from everywhere.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    steps: u32,
    /// Decides every operation: the same seed draws the same cases; drawn if it is not given.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How many smaller sequences of operations are tried when one fails.
    #[arg(long, value_name = "N", default_value_t = Exploration::SHRINK_RUNS)]
    shrink: usize,
    #[command(flatten)]
    known: KnownArgs,
    #[command(flatten)]
    record: RecordArgs,
}

/// What explorations, and cases that are replayed, know beforehand.
#[derive(Args)]
pub(crate) struct KnownArgs {
    /// Known deviations of the implementation, a TOML file: a case that differs in nothing but what its
    /// entries with `explore` say is no failure, and is counted apart. `expected/README.md` says how; what its
    /// entries say of checks is left alone. May be given several times.
    #[arg(long = "expect", value_name = "FILE")]
    expect: Vec<PathBuf>,
}

impl KnownArgs {
    /// # Errors
    /// If a file cannot be read, or has something in it that makes no sense.
    pub(crate) fn read(&self) -> anyhow::Result<Vec<KnownDifference>> {
        stickler_suites::known_differences(&self.expect)
    }
}

impl Explore {
    pub(crate) fn execute(&self) -> anyhow::Result<Ended> {
        let known = self.known.read()?;
        // Before the folder: who asked for the impossible is left nothing to clean up.
        let provider = self.cluster.provider(0, Some(&self.reach), Some(self.record.folder()))?;
        self.record.record(async |sink| self.perform(provider.as_ref(), known, sink).await)
    }

    async fn perform(
        &self,
        provider: &dyn Provider,
        known: Vec<KnownDifference>,
        sink: &Sink,
    ) -> anyhow::Result<()> {
        let cancel = stickler::interrupt::watch()?;
        let seed = self.seed.unwrap_or_else(rand::random);
        let beginning = Beginning::of("explore", seed);
        let Some(cluster) = beginning.start(provider, &cancel, sink).await? else { return Ok(()) };
        let exploration = Exploration {
            cases: self.cases as usize,
            steps: self.steps as usize,
            seed,
            folder: self.record.folder().to_owned(),
            shrink_runs: self.shrink,
            shrink_for: Exploration::SHRINK_FOR,
            known,
            cancel,
        };
        exploration.on(&cluster, sink).await
    }
}
