//! What a run found: events as they happen, the journal that keeps them, and the reports that are
//! read from it. Depends on nothing of the rest of the house; the runner knows reporters only as
//! sinks of [`Event`]s.

mod chaos;
mod deviation;
mod difference;
mod event;
#[cfg(test)]
mod example;
mod explore;
mod files;
mod github;
mod journal;
mod junit;
mod page;
mod plot;
mod recording;
mod report;
mod table;
mod terminal;

pub use chaos::{BucketReport, ChaosReport, DistributionReport, FaultReport, PlannedFault, ViolationReport};
pub use deviation::Deviation;
pub use difference::{Difference, Flow, KnownDifference, Place, Promised, Saw, Slices, Transport};
pub use event::{
    BoundCard, Call, CheckCard, Class, ClusterCard, ComponentCard, Event, Evidence, Finding, Record, Timing,
    Verdict,
};
pub use explore::{DeviationReport, ExploreFailure, ExploreReport};
pub use files::{ReadError, ReportError, read_report, write_report};
pub use github::{annotations, step_summary};
pub use journal::{Journal, JournalError, read_journal};
pub use recording::{Recording, RecordingError};
pub use report::{CheckReport, ClusterReport, FeatureReport, Report, SCHEMA, Summary};
pub use table::{CellReport, CellVerdict, ColumnReport, RowReport, TableReport};
pub use terminal::{Progress, progress, summary};

/// Somebody who listens to a run.
pub trait Reporter: Send {
    /// Called once per event, in the order the events happened.
    fn hear(&mut self, record: &Record);
}
