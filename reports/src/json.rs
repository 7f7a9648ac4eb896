//! `report.json`: the report for programs.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::Report;

/// A report that could not be written.
#[derive(Debug, Error)]
#[error("could not write `{path}`")]
pub struct ReportError {
    path: PathBuf,
    source: io::Error,
}

/// Writes `report.json` into a folder; it appears whole or not at all.
pub fn write_report(folder: &Path, report: &Report) -> Result<PathBuf, ReportError> {
    let path = folder.join("report.json");
    let unfinished = folder.join("report.json.partial");
    let write = || {
        let mut text = serde_json::to_vec_pretty(report)?;
        text.push(b'\n');
        std::fs::write(&unfinished, text)?;
        std::fs::rename(&unfinished, &path)
    };
    match write() {
        Ok(()) => Ok(path),
        Err(source) => Err(ReportError { path, source }),
    }
}
