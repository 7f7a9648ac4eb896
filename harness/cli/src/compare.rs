//! `stickler compare`: the reports of several runs side by side, check by check.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use stickler::Check;
use stickler_reports::{CheckReport, ClusterCard, Report, Verdict};
use stickler_suites::Profile;

use crate::Ended;

/// Arguments of `stickler compare`.
#[derive(Args)]
pub(crate) struct Compare {
    /// Folders that runs wrote their reports to (`--report DIR`), each with a name if that says more
    /// than what the run looked at.
    #[arg(value_name = "[NAME=]DIR", required = true)]
    folders: Vec<String>,
    /// Only the checks whose verdicts differ.
    #[arg(long)]
    differing: bool,
    /// How to print it.
    #[arg(long, value_enum, default_value = "pretty")]
    format: Format,
    /// Write down which checks held on real components, a TOML file: `stickler list` tells it.
    #[arg(long, value_name = "FILE")]
    confirm: Option<PathBuf>,
}

/// A report, and what it is called.
struct Named {
    name: String,
    folder: PathBuf,
    report: Report,
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
        ensure!(self.folders.len() > 1 || self.confirm.is_some(), "one report alone cannot be compared");
        let reports = self.folders.iter().map(|folder| named(folder)).collect::<anyhow::Result<Vec<_>>>()?;
        if let Some(file) = &self.confirm {
            confirm(file, &reports)?;
        }
        let mut rows = rows(&reports);
        let differ = rows.iter().any(|row| row.differs());
        if self.differing {
            rows.retain(Row::differs);
        }
        let text = match self.format {
            Format::Pretty => pretty(&reports, &rows),
            Format::Markdown => markdown(&reports, &rows),
            Format::Json => serde_json::to_string_pretty(&document(&reports, &rows))? + "\n",
        };
        crate::print(&text)?;
        Ok(if differ { Ended::Broken } else { Ended::Held })
    }
}

fn named(argument: &str) -> anyhow::Result<Named> {
    let (name, folder) = match argument.rsplit_once('=') {
        Some((name, folder)) => (Some(name), Path::new(folder)),
        None => (None, Path::new(argument)),
    };
    let report = stickler_reports::read_report(folder)?;
    let found = || report.cluster.as_ref().map_or_else(|| "no cluster".to_owned(), ClusterCard::in_words);
    Ok(Named { name: name.map_or_else(found, str::to_owned), folder: folder.to_owned(), report })
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
fn rows(reports: &[Named]) -> Vec<Row<'_>> {
    let mut ids: Vec<&str> = Vec::new();
    for check in reports.iter().flat_map(|named| &named.report.checks) {
        if !ids.contains(&check.id.as_str()) {
            ids.push(&check.id);
        }
    }
    let row = |id| {
        let ended = reports.iter().map(|named| named.report.checks.iter().find(|check| check.id == id));
        Row { id, ended: ended.collect() }
    };
    ids.into_iter().map(row).collect()
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

fn pretty(reports: &[Named], rows: &[Row<'_>]) -> String {
    let mut text = String::new();
    for (at, Named { name, report, .. }) in reports.iter().enumerate() {
        let _ = writeln!(
            text,
            "[{}] {}: {} in {}; seed {}",
            at + 1,
            name,
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

fn markdown(reports: &[Named], rows: &[Row<'_>]) -> String {
    let mut text = "| check |".to_owned();
    for Named { name, .. } in reports {
        let _ = write!(text, " {name} |");
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
    for Named { report, .. } in reports {
        let _ = write!(text, " {} in {} |", totals(report), seconds(report.duration_ms));
    }
    let _ = writeln!(
        text,
        "\n\n● held, ≠ failed as the implementation is known to, ✗ broken, ? could not be told, – skipped."
    );
    text
}

fn document(reports: &[Named], rows: &[Row<'_>]) -> Value {
    let report = |Named { name, folder, report }: &Named| {
        json!({
            "name": name, "folder": folder, "cluster": report.cluster, "seed": report.seed,
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
        "reports": reports.iter().map(report).collect::<Vec<_>>(),
        "checks": rows.iter().map(row).collect::<Vec<_>>(),
    })
}

/// Writes which checks held where, as far as that [confirms](confirms) them.
fn confirm(file: &Path, reports: &[Named]) -> anyhow::Result<()> {
    let mut confirmed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for Named { name, report, .. } in reports {
        let Some(cluster) = &report.cluster else { continue };
        for check in report.checks.iter().filter(|check| check.verdict == Verdict::Passed) {
            let Some(known) = stickler_suites::all().find(|known| known.id == check.id) else { continue };
            if confirms(cluster, known) {
                confirmed.entry(known.id).or_default().push(name);
            }
        }
    }
    let mut text = "# Which checks held on which real components; checks that are not here held on our own only.\n\
                    # Written by `stickler compare --confirm`, from the reports of such runs.\n\n[confirmed]\n"
        .to_owned();
    for (check, by) in confirmed {
        let by: Vec<String> = by.iter().map(|name| format!("{name:?}")).collect();
        let _ = writeln!(text, "{check:?} = [{}]", by.join(", "));
    }
    std::fs::write(file, text).with_context(|| format!("`{}` cannot be written", file.display()))
}

/// Is a check that held confirmed by something that is not ours? It is by a whole cluster that is not, and by
/// a component that stands in for ours if the check concerns it. But no cluster brings an ingress controller,
/// and where a run deployed ours, that is who decided.
fn confirms(cluster: &ClusterCard, check: &Check) -> bool {
    let others = cluster.components.iter().filter(|component| component.command.is_some());
    let mut others = others.map(|component| component.component.as_str());
    if Profile::Ingress.has(check) && !WITHOUT_CONTROLLER.contains(&check.id) {
        return others.any(|component| component == "ingress");
    }
    // In a container it is still our own.
    let whole = !["testbed", "container"].contains(&cluster.provider.as_str());
    whole || others.any(|component| concerns(component, check))
}

/// The checks of Ingresses in which nobody serves any: the API server decides.
const WITHOUT_CONTROLLER: &[&str] = &["ingress/default-class"];

/// Does a component that stands in for ours decide how a check ends?
fn concerns(component: &str, check: &Check) -> bool {
    match component {
        "proxy" => Profile::Proxy.has(check),
        "dns" => Profile::Dns.has(check),
        "controllers" => Profile::Endpoints.has(check),
        "kubelet" => Profile::Kubelet.has(check),
        // Nothing is without it.
        "apiserver" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use stickler_reports::ComponentCard;

    use super::*;

    fn cluster(provider: &str, components: &[(&str, Option<&str>)]) -> ClusterCard {
        let components = components.iter().map(|(component, command)| ComponentCard {
            component: (*component).to_owned(),
            command: command.map(str::to_owned),
            version: None,
        });
        ClusterCard {
            provider: provider.to_owned(),
            version: "v1.36.2".to_owned(),
            nodes: Vec::new(),
            capabilities: Vec::new(),
            ready_ms: 0,
            timings: Vec::new(),
            components: components.collect(),
        }
    }

    fn confirmed(cluster: &ClusterCard, id: &str) -> bool {
        confirms(cluster, stickler_suites::all().find(|check| check.id == id).expect(id))
    }

    #[test]
    fn who_does_not_decide_confirms_nothing() {
        let (ours, binaries) = (cluster("testbed", &[]), cluster("binaries", &[]));
        let proxy = cluster("testbed", &[("proxy", Some("kube-proxy"))]);
        let without = cluster("testbed", &[("proxy", None)]);
        let id = "node-port/from-outside";
        assert!(confirmed(&binaries, id) && confirmed(&proxy, id));
        assert!(!confirmed(&ours, id) && !confirmed(&without, id));
        assert!(!confirmed(&proxy, "dns/fqdn"));
    }

    #[test]
    fn ingresses_are_an_ingress_controllers_and_no_clusters() {
        let ingress = ("ingress", Some("/controller"));
        let (binaries, apiserver) =
            (cluster("binaries", &[]), cluster("testbed", &[("apiserver", Some("kube-apiserver"))]));
        for its_own in [cluster("testbed", &[ingress]), cluster("kubeconfig", &[ingress])] {
            assert!(confirmed(&its_own, "ingress/routes-host"));
        }
        for ours in [&binaries, &apiserver] {
            assert!(!confirmed(ours, "ingress/routes-host"));
            assert!(confirmed(ours, WITHOUT_CONTROLLER[0]));
        }
        assert!(!confirmed(&cluster("testbed", &[ingress]), WITHOUT_CONTROLLER[0]));
    }
}
