//! The files of a report: `report.json` for programs, `junit.xml` for CI systems, `index.html` for
//! people.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::{Report, junit, page};

/// A report that could not be written.
#[derive(Debug, Error)]
#[error("could not write `{path}`")]
pub struct ReportError {
    path: PathBuf,
    source: io::Error,
}

/// Writes a report into a folder; each file appears whole or not at all. Returns where `report.json`
/// is.
///
/// # Errors
/// Which file could not be written.
pub fn write_report(folder: &Path, report: &Report) -> Result<PathBuf, ReportError> {
    let json = serde_json::to_vec_pretty(report).map(|mut text| {
        text.push(b'\n');
        text
    });
    let path = write(folder, "report.json", json.map_err(io::Error::other))?;
    write(folder, "junit.xml", junit::xml(report).map(String::into_bytes).map_err(io::Error::other))?;
    write(folder, "index.html", Ok(page::html(report).into_bytes()))?;
    Ok(path)
}

fn write(folder: &Path, name: &str, text: io::Result<Vec<u8>>) -> Result<PathBuf, ReportError> {
    let path = folder.join(name);
    let unfinished = folder.join(format!("{name}.partial"));
    let write = |text| std::fs::write(&unfinished, text).and_then(|()| std::fs::rename(&unfinished, &path));
    match text.and_then(write) {
        Ok(()) => Ok(path),
        Err(source) => Err(ReportError { path, source }),
    }
}
