//! `stickler report`: render a report again, from the journal of its run.

use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;
use stickler_reports::{Report, read_journal};

use crate::Ended;
use crate::record::Format;

/// Arguments of `stickler report`.
#[derive(Args)]
pub(crate) struct Render {
    /// The folder a run wrote to (`--report DIR`); only its `journal.jsonl` is read.
    #[arg(value_name = "DIR", default_value = "report")]
    folder: PathBuf,
    /// How to print the result on standard output.
    #[arg(long, value_enum, default_value = "pretty")]
    format: Format,
    /// Show where the time went.
    #[arg(long)]
    timings: bool,
}

impl Render {
    /// Ends as the run did, so far as its journal tells: one that was killed was interrupted.
    pub(crate) fn execute(&self) -> anyhow::Result<Ended> {
        let journal = self.folder.join("journal.jsonl");
        let records = read_journal(&journal)?;
        ensure!(
            !records.is_empty(),
            "`{}` has no events; the run was over before it began",
            journal.display()
        );
        let report = Report::of(&records);
        stickler_reports::write_report(&self.folder, &report)?;
        crate::record::show(&report, self.format, self.timings, &self.folder)?;
        Ok(crate::record::ended(&report))
    }
}
