//! `stickler compare`: the reports of several runs side by side, check by check.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use stickler_reports::{CheckReport, Report, Verdict};

use crate::Ended;

/// Arguments of `stickler compare`.
#[derive(Args)]
pub(crate) struct Compare {
    /// Folders that runs wrote their reports to (`--report DIR`).
    #[arg(value_name = "DIR", required = true, num_args = 2..)]
    folders: Vec<PathBuf>,
    /// Only the checks whose verdicts differ.
    #[arg(long)]
    differing: bool,
    /// How to print it.
    #[arg(long, value_enum, default_value = "pretty")]
    format: Format,
}

/// How a comparison is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Pretty,
    /// A table for a page of documentation.
    Markdown,
    /// One JSON document.
    Json,
}

impl Compare {
    /// Held if every check ended alike in all reports.
    pub(crate) fn execute(&self) -> anyhow::Result<Ended> {
        let reports = self.folders.iter().map(|folder| read(folder)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut rows = rows(&reports);
        let differ = rows.iter().any(|row| row.differs());
        if self.differing {
            rows.retain(Row::differs);
        }
        let text = match self.format {
            Format::Pretty => pretty(&reports, &rows),
            Format::Markdown => markdown(&reports, &rows),
            Format::Json => serde_json::to_string_pretty(&document(&self.folders, &reports, &rows))? + "\n",
        };
        crate::print(&text)?;
        Ok(if differ { Ended::Broken } else { Ended::Held })
    }
}

fn read(folder: &Path) -> anyhow::Result<Report> {
    let path = folder.join("report.json");
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!("`{}` cannot be read; `stickler run --report DIR` writes one", path.display())
    })?;
    let report: Report = serde_json::from_str(&text)
        .with_context(|| format!("`{}` is no report of this version of stickler", path.display()))?;
    ensure!(
        report.schema == stickler_reports::SCHEMA,
        "`{}` has the schema `{}`; this version of stickler reads `{}`",
        path.display(),
        report.schema,
        stickler_reports::SCHEMA
    );
    Ok(report)
}

/// One check, and how it ended in each report; `None` where it was not asked for.
struct Row<'a> {
    id: &'a str,
    ended: Vec<Option<&'a CheckReport>>,
}

impl Row<'_> {
    /// A check that one run skipped or was not asked for says nothing about a difference.
    fn differs(&self) -> bool {
        let mut verdicts =
            self.ended.iter().flatten().map(|check| word(check)).filter(|word| *word != SKIPPED);
        let first = verdicts.next();
        verdicts.any(|verdict| Some(verdict) != first)
    }
}

const SKIPPED: &str = "skipped";

fn word(check: &CheckReport) -> &'static str {
    match check.verdict {
        Verdict::Passed => "passed",
        Verdict::Failed if check.expected.is_some() => "failed as known",
        Verdict::Failed => "failed",
        Verdict::Skipped => SKIPPED,
        Verdict::Inconclusive => "could not tell",
    }
}

/// Every check of any report, in the order of the first report that has it.
fn rows(reports: &[Report]) -> Vec<Row<'_>> {
    let mut ids: Vec<&str> = Vec::new();
    for check in reports.iter().flat_map(|report| &report.checks) {
        if !ids.contains(&check.id.as_str()) {
            ids.push(&check.id);
        }
    }
    let row = |id| {
        let find = |report: &'_ Report| report.checks.iter().position(|check| check.id == id);
        let ended = reports.iter().map(|report| find(report).map(|at| &report.checks[at])).collect();
        Row { id, ended }
    };
    ids.into_iter().map(row).collect()
}

/// What the run looked at.
fn label(report: &Report) -> String {
    match &report.cluster {
        Some(cluster) => format!("{} {}", cluster.provider, cluster.version),
        None => "no cluster".to_owned(),
    }
}

fn seconds(ms: u64) -> String {
    format!("{:.1} s", ms as f64 / 1000.0)
}

fn totals(report: &Report) -> String {
    let summary = report.summary;
    let mut text = format!("{} passed", summary.passed);
    for (count, name) in [
        (summary.failed, "failed"),
        (summary.expected, "failed as known"),
        (summary.inconclusive, "could not tell"),
        (summary.skipped, "skipped"),
    ] {
        if count > 0 {
            let _ = write!(text, ", {count} {name}");
        }
    }
    text
}

fn pretty(reports: &[Report], rows: &[Row<'_>]) -> String {
    let mut text = String::new();
    for (at, report) in reports.iter().enumerate() {
        let _ = writeln!(
            text,
            "[{}] {}: {} in {}; seed {}",
            at + 1,
            label(report),
            totals(report),
            seconds(report.duration_ms),
            report.seed
        );
    }
    let _ = writeln!(text);
    let width = rows.iter().map(|row| row.id.len()).max().unwrap_or_default();
    for row in rows {
        let _ = write!(text, "{} {:width$}", if row.differs() { "!" } else { " " }, row.id);
        for (at, check) in row.ended.iter().enumerate() {
            let ended = check.map_or_else(
                || "not asked for".to_owned(),
                |check| format!("{} ({} ms)", word(check), check.duration_ms),
            );
            let _ = write!(text, "  [{}] {ended:24}", at + 1);
        }
        let _ = writeln!(text);
        for (at, check) in row.ended.iter().enumerate().filter(|_| row.differs()) {
            let Some(check) = check.filter(|check| check.verdict != Verdict::Passed) else { continue };
            let known = check.expected.as_ref().map(|known| &known.reason);
            let why = known.or(check.observed.as_ref()).or(check.reason.as_ref());
            if let Some(why) = why {
                let _ = writeln!(text, "      [{}] {why}", at + 1);
            }
        }
    }
    let differing = rows.iter().filter(|row| row.differs()).count();
    let _ = writeln!(text, "\n{differing} of {} checks differ", rows.len());
    text
}

fn markdown(reports: &[Report], rows: &[Row<'_>]) -> String {
    let mut text = "| check |".to_owned();
    for report in reports {
        let _ = write!(text, " {} |", label(report));
    }
    let _ = write!(text, "\n| --- |{}\n", " --- |".repeat(reports.len()));
    let mark = |check: &CheckReport| match check.verdict {
        Verdict::Passed => "●",
        Verdict::Failed if check.expected.is_some() => "≠",
        Verdict::Failed => "✗",
        Verdict::Skipped => "–",
        Verdict::Inconclusive => "?",
    };
    for row in rows {
        let _ = write!(text, "| `{}` |", row.id);
        for check in &row.ended {
            let _ = match check {
                Some(check) if check.verdict == Verdict::Skipped => write!(text, " – |"),
                Some(check) => write!(text, " {} {} |", mark(check), seconds(check.duration_ms)),
                None => write!(text, " |"),
            };
        }
        let _ = writeln!(text);
    }
    let _ = write!(text, "| all |");
    for report in reports {
        let _ = write!(text, " {} in {} |", totals(report), seconds(report.duration_ms));
    }
    let _ = writeln!(
        text,
        "\n\n● held, ≠ failed as the implementation is known to, ✗ broken, ? could not be told, – skipped."
    );
    text
}

fn document(folders: &[PathBuf], reports: &[Report], rows: &[Row<'_>]) -> Value {
    let report = |(folder, report): (&PathBuf, &Report)| {
        json!({
            "folder": folder, "cluster": report.cluster, "seed": report.seed,
            "duration_ms": report.duration_ms, "summary": report.summary,
        })
    };
    let ended = |check: &Option<&CheckReport>| {
        check.map(|check| {
            json!({
                "verdict": check.verdict, "expected": check.expected, "duration_ms": check.duration_ms,
                "observed": check.observed, "reason": check.reason,
            })
        })
    };
    let row = |row: &Row<'_>| {
        let ended: Vec<_> = row.ended.iter().map(ended).collect();
        json!({"id": row.id, "differs": row.differs(), "ended": ended})
    };
    json!({
        "reports": folders.iter().zip(reports).map(report).collect::<Vec<_>>(),
        "checks": rows.iter().map(row).collect::<Vec<_>>(),
    })
}
