//! `stickler replay`: perform a saved case again, operation by operation.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use stickler::explore::{Case, replay};
use stickler::{Provider, Sink};
use stickler_reports::KnownDifference;

use crate::Ended;
use crate::cluster::{ClusterArgs, ReachArgs};
use crate::explore::KnownArgs;
use crate::record::{Beginning, RecordArgs};

/// Arguments of `stickler replay`.
#[derive(Args)]
pub(crate) struct Replay {
    /// A case that `stickler explore` saved.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    reach: ReachArgs,
    #[command(flatten)]
    known: KnownArgs,
    #[command(flatten)]
    record: RecordArgs,
}

impl Replay {
    pub(crate) fn execute(&self) -> anyhow::Result<Ended> {
        let file = self.file.display();
        let text = std::fs::read_to_string(&self.file).with_context(|| format!("`{file}` cannot be read"))?;
        let case = Case::parse(&text).with_context(|| format!("`{file}` cannot be replayed"))?;
        let known = self.known.read()?;
        let provider = self.cluster.provider(0, Some(&self.reach), Some(self.record.folder()))?;
        self.record.record(async |sink| self.perform(&case, &known, provider.as_ref(), sink).await)
    }

    async fn perform(
        &self,
        case: &Case,
        known: &[KnownDifference],
        provider: &dyn Provider,
        sink: &Sink,
    ) -> anyhow::Result<()> {
        let cancel = stickler::interrupt::watch()?;
        let beginning = Beginning::of("replay", case.seed);
        let Some(cluster) = beginning.start(provider, &cancel, sink).await? else { return Ok(()) };
        replay(case, known, &cluster, sink, &cancel).await;
        Ok(())
    }
}
