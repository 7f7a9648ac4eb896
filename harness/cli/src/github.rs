//! A run inside GitHub Actions: what did not hold is annotated, and the step has a summary.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use stickler_reports::Report;

use crate::record::Format;

/// Tells the runner, if this process is a step of a workflow.
///
/// # Errors
/// If the summary cannot be written.
pub(crate) fn tell(report: &Report, format: Format) -> anyhow::Result<()> {
    if std::env::var_os("GITHUB_ACTIONS").is_none_or(|value| value != "true") {
        return Ok(());
    }
    let annotations = stickler_reports::annotations(report);
    match format {
        Format::Pretty => crate::print(&annotations)?,
        // The runner reads both streams, and standard output is one JSON document.
        Format::Json => eprint!("{annotations}"),
    }
    let Some(path) = std::env::var_os("GITHUB_STEP_SUMMARY") else { return Ok(()) };
    let summary = stickler_reports::step_summary(report);
    let path = Path::new(&path);
    // Other steps of the same job may have written theirs before.
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let written = file.and_then(|mut file| file.write_all(summary.as_bytes()));
    written.with_context(|| format!("the summary of the step `{}` cannot be written", path.display()))
}
