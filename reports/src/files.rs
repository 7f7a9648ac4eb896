//! The files of a report: `report.json` for programs, `junit.xml` for CI systems, `index.html` for
//! people.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::{Report, SCHEMA, junit, page};

/// A report that could not be written.
#[derive(Debug, Error)]
#[error("could not write `{path}`")]
pub struct ReportError {
    path: PathBuf,
    source: io::Error,
}

/// A report that could not be read back.
#[derive(Debug, Error)]
pub enum ReadError {
    #[error(
        "`{path}` cannot be read; `stickler run --report DIR` writes one, `stickler report DIR` makes it of the journal of a run that was killed"
    )]
    Missing { path: PathBuf, source: io::Error },
    #[error("`{path}` is no report of this version of stickler")]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("`{path}` has the schema `{schema}`; this version of stickler reads `{SCHEMA}`")]
    Schema { path: PathBuf, schema: String },
}

/// Reads the `report.json` of a folder.
///
/// # Errors
/// If there is none, or it is of another version.
pub fn read_report(folder: &Path) -> Result<Report, ReadError> {
    let path = folder.join("report.json");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(ReadError::Missing { path, source }),
    };
    // Another version's may have other fields, so it is asked for its version first.
    let parsed: Result<serde_json::Value, _> = serde_json::from_str(&text);
    let schema = parsed.iter().find_map(|report| report.get("schema")?.as_str());
    if let Some(schema) = schema.filter(|schema| *schema != SCHEMA) {
        let schema = schema.to_owned();
        return Err(ReadError::Schema { path, schema });
    }
    parsed.and_then(serde_json::from_value).map_err(|source| ReadError::Parse { path, source })
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
