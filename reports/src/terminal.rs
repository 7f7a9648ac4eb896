//! The report for a person at a terminal: what broke first and in full, then one line per chapter,
//! then the count.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::{CheckReport, Class, Event, Record, Report, Verdict};

/// One line for an event worth watching while a run goes on; `None` for the others.
pub fn progress(record: &Record, colour: bool) -> Option<String> {
    let paint = Paint(colour);
    match &record.event {
        Event::ClusterReady { cluster } => Some(format!(
            "{} {} {}, {} nodes, ready in {} ms",
            paint.bold("cluster"),
            cluster.provider,
            cluster.version,
            cluster.nodes.len(),
            cluster.ready_ms
        )),
        Event::CheckFinished { check, verdict, reason, finding, duration_ms, .. } => {
            let mut line = format!("{} {check} ({duration_ms} ms)", paint.verdict(*verdict));
            if let Some(finding) = finding {
                let _ = write!(line, "\n      {}", finding.observed);
            } else if let Some(reason) = reason {
                let _ = write!(line, ": {reason}");
            }
            Some(line)
        }
        Event::Trouble { message } => Some(format!("{} {message}", paint.red("trouble"))),
        Event::CaseFinished {
            case,
            of,
            shrinking,
            operations,
            steps,
            verdict,
            reason,
            finding,
            duration_ms,
        } => {
            let of = shrinking.map_or_else(
                || format!("case {case} of {of}"),
                |run| format!("case {case}, smaller ({run})"),
            );
            let word = paint.verdict(*verdict);
            let mut line =
                format!("{word} {of}: {steps} of {} operations ({duration_ms} ms)", operations.len());
            if let Some(finding) = finding.as_ref().filter(|_| shrinking.is_none()) {
                let _ = write!(line, "\n      {}", finding.observed);
            } else if let Some(reason) = reason {
                let _ = write!(line, ": {reason}");
            }
            Some(line)
        }
        Event::RunStarted { .. }
        | Event::Explored { .. }
        | Event::CheckStarted { .. }
        | Event::Acted { .. }
        | Event::Called { .. }
        | Event::RunFinished { .. } => None,
    }
}

/// The whole report as text. `timings` shows where the time went.
pub fn summary(report: &Report, colour: bool, timings: bool) -> String {
    let paint = Paint(colour);
    let mut text = String::new();
    for check in report.checks.iter().filter(|check| check.verdict == Verdict::Failed) {
        broken(&mut text, check, &paint);
    }
    for check in report.checks.iter().filter(|check| check.verdict == Verdict::Inconclusive) {
        let reason = check.reason.as_deref().unwrap_or("no reason was given");
        let _ = writeln!(text, "{} {}\n    {reason}\n", paint.verdict(check.verdict), check.id);
    }
    for trouble in &report.troubles {
        let _ = writeln!(text, "{} {trouble}\n", paint.red("trouble"));
    }
    chapters(&mut text, report, &paint);
    if let Some(explore) = &report.explore {
        explore.write(&mut text);
    }
    for check in report.checks.iter().filter(|check| check.verdict == Verdict::Skipped) {
        let reason = check.reason.as_deref().unwrap_or("no reason was given");
        let _ = writeln!(text, "  skipped {}: {reason}", check.id);
    }
    if timings {
        times(&mut text, report, &paint);
    }
    last_line(&mut text, report, &paint);
    text
}

fn broken(text: &mut String, check: &CheckReport, paint: &Paint) {
    let _ = writeln!(text, "{} {}: {}", paint.verdict(check.verdict), paint.bold(&check.id), check.title);
    for (name, value) in
        [("promised", &check.promised), ("observed", &check.observed), ("see", &check.reason)]
    {
        if let Some(value) = value {
            let mut lines = value.lines();
            let _ = writeln!(text, "  {name:>9}  {}", lines.next().unwrap_or_default());
            for line in lines {
                let _ = writeln!(text, "             {line}");
            }
        }
    }
    let _ = writeln!(text, "  {:>9}  stickler run --filter {}\n", "again", check.id);
}

fn chapters(text: &mut String, report: &Report, paint: &Paint) {
    let mut chapters: BTreeMap<&str, Vec<&CheckReport>> = BTreeMap::new();
    for check in &report.checks {
        chapters.entry(&check.chapter).or_default().push(check);
    }
    let width = chapters.keys().map(|name| name.len()).max().unwrap_or_default();
    for (name, checks) in chapters {
        let dots: String = checks.iter().map(|check| paint.mark(check)).collect();
        let passed = checks.iter().filter(|check| check.verdict == Verdict::Passed).count();
        let _ = writeln!(text, "  {name:width$}  {dots}  {passed}/{}", checks.len());
    }
}

fn times(text: &mut String, report: &Report, paint: &Paint) {
    let steps = report.cluster.iter().flat_map(|cluster| &cluster.timings).chain(&report.timings);
    let _ = writeln!(text, "\n  {}", paint.bold("where the time went"));
    for timing in steps {
        let _ = writeln!(text, "  {:>9.1} ms  {}", timing.us as f64 / 1000.0, timing.step);
    }
}

fn last_line(text: &mut String, report: &Report, paint: &Paint) {
    let summary = report.summary;
    let word = match report.verdict() {
        Verdict::Passed | Verdict::Skipped => paint.green("every promise held"),
        Verdict::Failed => paint.red("a promise was broken"),
        Verdict::Inconclusive if report.interrupted => paint.yellow("interrupted"),
        Verdict::Inconclusive => paint.yellow("could not tell"),
    };
    let _ = write!(text, "\n{word}");
    if !report.checks.is_empty() {
        let _ = write!(text, ": {} passed", summary.passed);
    }
    for (count, name) in
        [(summary.failed, "failed"), (summary.inconclusive, "inconclusive"), (summary.skipped, "skipped")]
    {
        if count > 0 {
            let _ = write!(text, ", {count} {name}");
        }
    }
    let _ = write!(text, " in {:.1} s", report.duration_ms as f64 / 1000.0);
    if let Some(cluster) = &report.cluster {
        let _ = write!(
            text,
            "; {} {} with {} nodes was ready in {} ms",
            cluster.provider,
            cluster.version,
            cluster.nodes.len(),
            cluster.ready_ms
        );
    }
    let _ = writeln!(text, "; seed {}", report.seed);
}

struct Paint(bool);

impl Paint {
    fn code(&self, code: u8, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(&self, text: &str) -> String {
        self.code(1, text)
    }

    fn red(&self, text: &str) -> String {
        self.code(31, text)
    }

    fn green(&self, text: &str) -> String {
        self.code(32, text)
    }

    fn yellow(&self, text: &str) -> String {
        self.code(33, text)
    }

    fn verdict(&self, verdict: Verdict) -> String {
        match verdict {
            Verdict::Passed => self.green("passed"),
            Verdict::Failed => self.red("FAILED"),
            Verdict::Skipped => self.code(2, "skipped"),
            Verdict::Inconclusive => self.yellow("could not tell"),
        }
    }

    /// One character per check.
    fn mark(&self, check: &CheckReport) -> String {
        match (check.verdict, check.class) {
            (Verdict::Passed, Class::Promise) => self.green("●"),
            (Verdict::Passed, Class::Observation) => self.green("○"),
            (Verdict::Failed, _) => self.red("✗"),
            (Verdict::Skipped, _) => self.code(2, "–"),
            (Verdict::Inconclusive, _) => self.yellow("?"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CheckCard, Finding};
    use jiff::Timestamp;

    #[test]
    fn a_broken_promise_is_told_in_full() {
        let at = Timestamp::UNIX_EPOCH;
        let card = CheckCard { id: "vip/x".to_owned(), title: "the title".to_owned(), class: Class::Promise };
        let records = [
            Event::RunStarted {
                tool: "t".to_owned(),
                suite: "conformance".to_owned(),
                seed: 42,
                jobs: 1,
                checks: vec![card],
            },
            Event::CheckFinished {
                check: "vip/x".to_owned(),
                verdict: Verdict::Failed,
                reason: None,
                finding: Some(Finding {
                    promised: "`web` answers".to_owned(),
                    observed: "it was silent".to_owned(),
                }),
                duration_ms: 3,
                evidence: Vec::new(),
            },
            Event::RunFinished { duration_ms: 1500, interrupted: false, timings: Vec::new() },
        ]
        .map(|event| Record { at, event });
        let text = summary(&Report::of(&records), false, false);
        assert_eq!(
            text,
            "FAILED vip/x: the title\n   promised  `web` answers\n   observed  it was silent\n      \
             again  stickler run --filter vip/x\n\n  vip  ✗  0/1\n\na promise was broken: 0 passed, 1 \
             failed in 1.5 s; seed 42\n"
        );
    }
}
