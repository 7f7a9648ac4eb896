//! A run as it is recorded in a folder: its journal while it lasts, its report in the end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

use crate::{Journal, JournalError, Record, Report, ReportError, Reporter, write_report};

/// Why a run could not be recorded.
#[derive(Debug, Error)]
pub enum RecordingError {
    #[error("the report's folder `{folder}` cannot be made")]
    Folder { folder: PathBuf, source: io::Error },
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Report(#[from] ReportError),
}

/// The folder of one run, from its first event to its report.
pub struct Recording {
    folder: PathBuf,
    journal: Shared<Journal>,
    report: Shared<Report>,
}

impl Recording {
    /// Makes the folder if need be, and starts the journal there; an older one is replaced.
    ///
    /// # Errors
    /// If either cannot be written.
    pub fn begin(folder: &Path) -> Result<Self, RecordingError> {
        std::fs::create_dir_all(folder)
            .map_err(|source| RecordingError::Folder { folder: folder.to_owned(), source })?;
        let journal = Shared::new(Journal::create(&folder.join("journal.jsonl"))?);
        Ok(Self { folder: folder.to_owned(), journal, report: Shared::new(Report::default()) })
    }

    /// Who is to hear every event of the run.
    pub fn reporters(&self) -> Vec<Box<dyn Reporter>> {
        vec![Box::new(self.journal.clone()), Box::new(self.report.clone())]
    }

    /// Ends the journal, writes the report beside it and returns it. What is told later is not in them.
    ///
    /// # Errors
    /// If an event did not reach the journal, or the report cannot be written.
    pub fn finish(self) -> Result<Report, RecordingError> {
        if let Some(journal) = self.journal.take() {
            journal.finish()?;
        }
        let report = self.report.take().unwrap_or_default();
        write_report(&self.folder, &report)?;
        Ok(report)
    }
}

/// A reporter that is wanted back after the run.
struct Shared<R>(Arc<Mutex<Option<R>>>);

impl<R> Shared<R> {
    fn new(reporter: R) -> Self {
        Self(Arc::new(Mutex::new(Some(reporter))))
    }

    fn take(&self) -> Option<R> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<R> Clone for Shared<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R: Reporter> Reporter for Shared<R> {
    fn hear(&mut self, record: &Record) {
        if let Some(reporter) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            reporter.hear(record);
        }
    }
}
