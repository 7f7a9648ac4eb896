//! The report for a person at a terminal: what broke first and in full, then one line per chapter,
//! then the count.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};

use crate::chaos::{ChaosReport, DistributionReport, ViolationReport};
use crate::report::headline;
use crate::{BoundCard, CheckReport, Class, ComponentCard, Event, Record, Report, Reporter, Verdict};

/// One line per event, on standard error.
pub struct Progress {
    colour: bool,
}

impl Progress {
    /// In colours where somebody reads along.
    pub fn on_stderr() -> Self {
        Self { colour: std::io::stderr().is_terminal() }
    }
}

impl Reporter for Progress {
    fn hear(&mut self, record: &Record) {
        if let Some(line) = progress(record, self.colour) {
            // Nobody is left to be told that standard error is gone.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}

/// One line for an event worth watching while a run goes on; `None` for the others.
pub fn progress(record: &Record, colour: bool) -> Option<String> {
    let paint = Paint(colour);
    match &record.event {
        Event::ClusterReady { cluster } => {
            let mut line = format!(
                "{} {} {}, {} nodes, ready in {} ms",
                paint.bold("cluster"),
                cluster.provider,
                cluster.version,
                cluster.nodes.len(),
                cluster.ready_ms
            );
            for component in &cluster.components {
                let _ = write!(line, "\n  {}", swapped(component));
            }
            Some(line)
        }
        Event::Lacks { capability, reason } => {
            Some(format!("{} {capability}: {reason}", paint.yellow("lacking")))
        }
        Event::BoundsMeasured { bounds, trouble } => {
            let words = |card: &BoundCard| match card.measured_ms {
                Some(measured) => format!("{} {} ms (measured {measured})", card.bound, card.ms),
                None => format!("{} {} ms (not measured)", card.bound, card.ms),
            };
            let cards: Vec<String> = bounds.iter().map(words).collect();
            let trouble = trouble.as_ref().map(|trouble| format!("; {trouble}")).unwrap_or_default();
            Some(format!("{} {}{trouble}", paint.bold("bounds"), cards.join(", ")))
        }
        Event::CheckFinished { check, verdict, reason, finding, duration_ms, expected, .. } => {
            let word = match expected {
                Some(_) => paint.yellow("failed as known"),
                None => paint.verdict(*verdict),
            };
            let mut line = format!("{word} {check} ({duration_ms} ms)");
            if let Some(known) = expected {
                let _ = write!(line, ": {}", known.reason);
            } else if let Some(finding) = finding {
                let _ = write!(line, "\n      {}", finding.observed);
            } else if let Some(reason) = reason {
                let _ = write!(line, ": {reason}");
            }
            Some(line)
        }
        Event::Trouble { message } => Some(format!("{} {message}", paint.red("trouble"))),
        Event::ChaosPlanned { seed, plan } => {
            let mut line = format!("{} seed {seed}, {} faults", paint.bold("plan"), plan.len());
            for fault in plan {
                let _ = write!(line, "\n  {:>8} ms  {:18}  {}", fault.at_ms, fault.fault, fault.what);
            }
            Some(line)
        }
        Event::ClientsStarted { clients, rate } => {
            Some(format!("{} {clients}, each {rate} times a second", paint.bold("clients")))
        }
        Event::FaultInjected { fault, .. } => Some(format!("{} {fault}", paint.yellow("strikes"))),
        Event::FaultHealed { fault, trouble: None } => Some(format!("{} {fault}", paint.green("healed"))),
        Event::FaultHealed { fault, trouble: Some(trouble) } => {
            Some(format!("{} {fault}: {trouble}", paint.red("trouble")))
        }
        Event::ChaosFinished { chaos } => {
            let reason = chaos.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            Some(format!("{} chaos{reason}", paint.verdict(chaos.verdict)))
        }
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
            known,
        } => {
            let of = shrinking.map_or_else(
                || format!("case {case} of {of}"),
                |run| format!("case {case}, smaller ({run})"),
            );
            let word = match verdict {
                Verdict::Passed if !known.is_empty() => paint.yellow("differed as known"),
                _ => paint.verdict(*verdict),
            };
            let mut line =
                format!("{word} {of}: {steps} of {} operations ({duration_ms} ms)", operations.len());
            if let Some(finding) = finding.as_ref().filter(|_| shrinking.is_none()) {
                let _ = write!(line, "\n      {}", finding.observed);
            } else if let Some(reason) = reason {
                let _ = write!(line, ": {reason}");
            } else if shrinking.is_none() && !known.is_empty() {
                let _ = write!(line, ": {}", known.join("; "));
            }
            Some(line)
        }
        Event::RunStarted { .. }
        | Event::Explored { .. }
        | Event::Tabulated { .. }
        | Event::Changed { .. }
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
    for check in report.checks.iter().filter(|check| check.is_broken()) {
        broken(&mut text, check, &paint);
    }
    untold(&mut text, report, &paint);
    for trouble in &report.troubles {
        let _ = writeln!(text, "{} {trouble}\n", paint.red("trouble"));
    }
    if let Some(found) = &report.chaos {
        chaos(&mut text, found, &paint);
    }
    features(&mut text, report, &paint);
    if let Some(table) = &report.table {
        table.write(&mut text, |verdict, word| paint.as_bad_as(verdict, word));
    }
    if let Some(explore) = &report.explore {
        explore.write(&mut text);
    }
    // What is not claimed has one reason, which stands in its line.
    let is_told =
        |check: &&CheckReport| check.verdict == Verdict::Skipped && report.is_claimed(&check.chapter);
    for check in report.checks.iter().filter(is_told) {
        let reason = check.reason.as_deref().unwrap_or("no reason was given");
        let _ = writeln!(text, "  skipped {}: {reason}", check.id);
    }
    for check in &report.checks {
        if let Some(known) = &check.expected {
            let _ = writeln!(text, "  known deviation {}: {} <{}>", check.id, known.reason, known.source);
        }
    }
    if timings {
        times(&mut text, report, &paint);
    }
    for component in report.cluster.iter().flat_map(|cluster| &cluster.components) {
        let _ = writeln!(text, "  {}", swapped(component));
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

/// What could not be told. One reason is often that of many checks, and is told once for all of them.
fn untold(text: &mut String, report: &Report, paint: &Paint) {
    for untold in report.untold() {
        let verdict = paint.verdict(Verdict::Inconclusive);
        let _ = writeln!(text, "{verdict} {}\n    {}\n", untold.named(), untold.reason);
    }
}

/// What a chaos run found: violations first, then how stale answers were.
fn chaos(text: &mut String, chaos: &ChaosReport, paint: &Paint) {
    for violation in &chaos.first_violations {
        violated(text, violation, chaos, paint);
    }
    let told = chaos.first_violations.len();
    if chaos.violations > told {
        let _ = writeln!(text, "... and {} more\n", chaos.violations - told);
    }
    if let Some(reason) = &chaos.reason {
        let _ = writeln!(text, "{} chaos: {reason}\n", paint.verdict(chaos.verdict));
    }
    let _ = writeln!(
        text,
        "  {}  {} clients, each {} times a second for {:.1} s: {} calls, {} names asked, {} violations",
        paint.bold("chaos"),
        chaos.clients,
        chaos.rate,
        chaos.duration_ms as f64 / 1000.0,
        chaos.calls,
        chaos.names_asked,
        chaos.violations,
    );
    let ms = |us: i64| us as f64 / 1000.0;
    for fault in &chaos.faults {
        let _ = writeln!(
            text,
            "    {:18}  {:.1} s, {} stale answers, at most by {:.1} ms: {}",
            fault.fault,
            ms(fault.healed_us - fault.injected_us) / 1000.0,
            fault.staleness.count,
            ms(fault.staleness.max_us),
            fault.what,
        );
    }
    for (name, distribution) in [
        ("stale answers", &chaos.staleness),
        ("stale names", &chaos.name_staleness),
        ("ready to served everywhere", &chaos.ready_to_served_everywhere),
        ("removed to last served", &chaos.removed_to_last_served),
    ] {
        let DistributionReport { count, p50_us, p90_us, p99_us, max_us, .. } = distribution;
        let _ = write!(text, "    {name:26}  {count}");
        if *count > 0 {
            let [p50, p90, p99, max] = [p50_us, p90_us, p99_us, max_us].map(|us| ms(*us));
            let _ = write!(text, ": half within {p50:.1} ms, p90 {p90:.1}, p99 {p99:.1}, at most {max:.1}");
        }
        let _ = writeln!(text);
    }
    histogram(text, &chaos.staleness);
    let _ = writeln!(
        text,
        "    bounds: an answer may be {} ms old, a name's {} ms; after the last fault {} of {} ms were needed",
        chaos.staleness_bound_ms,
        chaos.name_staleness_bound_ms,
        chaos.converged_ms.map_or_else(|| "more than any".to_owned(), |took| took.to_string()),
        chaos.convergence_bound_ms,
    );
}

fn violated(text: &mut String, violation: &ViolationReport, chaos: &ChaosReport, paint: &Paint) {
    let needed = match violation.needed_ms {
        Some(needed) => format!("it was allowed until {needed} ms before"),
        None => "it was never allowed before".to_owned(),
    };
    let after = violation.after.as_ref().map(|after| format!(", after {after}")).unwrap_or_default();
    let since_us = chaos.faults.first().map_or(violation.started_us, |first| first.injected_us);
    let _ = writeln!(
        text,
        "{} {} calling {}, call {} at {:.3} s{after}\n   promised  {}\n   observed  {}; {needed}",
        paint.red("FAILED"),
        violation.vantage,
        violation.destination,
        violation.call,
        (violation.started_us - since_us) as f64 / 1e6,
        violation.allowed_then,
        violation.seen,
    );
    for line in &violation.around {
        let _ = writeln!(text, "             {line}");
    }
    let _ = writeln!(text);
}

/// The staleness of answers as bars.
fn histogram(text: &mut String, distribution: &DistributionReport) {
    let most = distribution.histogram.iter().map(|bucket| bucket.count).max().unwrap_or_default();
    for bucket in &distribution.histogram {
        let bar = "#".repeat((bucket.count * 40).div_ceil(most.max(1)));
        let _ = writeln!(
            text,
            "      up to {:>9.2} ms {:>7}  {bar}",
            bucket.up_to_us as f64 / 1000.0,
            bucket.count
        );
    }
}

/// A line for each feature: its checks, how many were kept, and how much of it that is.
fn features(text: &mut String, report: &Report, paint: &Paint) {
    let names = report.features.iter().map(|feature| feature.feature.len()).max().unwrap_or_default();
    for feature in &report.features {
        let checks = report.checks.iter().filter(|check| check.chapter == feature.feature);
        let dots: String = checks.map(|check| paint.mark(check)).collect();
        let _ = writeln!(
            text,
            "  {:names$}  {dots}  {}/{}  {}",
            feature.feature,
            feature.summary.passed,
            feature.total,
            feature.in_percent()
        );
    }
}

fn times(text: &mut String, report: &Report, paint: &Paint) {
    let steps = report.cluster.iter().flat_map(|cluster| &cluster.timings).chain(&report.timings);
    if !report.bounds.is_empty() {
        let _ =
            writeln!(text, "\n  {}", paint.bold("bounds of this run, by what was measured when it began"));
    }
    for card in &report.bounds {
        let measured = card.measured_ms.map_or_else(|| "not measured".to_owned(), |ms| format!("{ms} ms"));
        let _ = writeln!(text, "  {:>9} ms  {}: {} ({measured})", card.ms, card.bound, card.rule);
    }
    let _ = writeln!(text, "\n  {}", paint.bold("where the time went"));
    for timing in steps {
        let _ = writeln!(text, "  {:>9.1} ms  {}", timing.us as f64 / 1000.0, timing.step);
    }
}

/// A component that is not the provider's own, with all that is known of it.
fn swapped(card: &ComponentCard) -> String {
    let Some(command) = &card.command else { return format!("{} is left out", card.component) };
    let version = card.version.as_deref().unwrap_or("of a version it does not say");
    format!("{} is not ours, {version}: {command}", card.component)
}

fn last_line(text: &mut String, report: &Report, paint: &Paint) {
    let summary = report.summary;
    let word = match report.verdict() {
        Verdict::Passed | Verdict::Skipped => paint.green(headline(report)),
        Verdict::Failed => paint.red(headline(report)),
        Verdict::Inconclusive => paint.yellow(headline(report)),
    };
    let _ = write!(text, "\n{word}");
    if !report.checks.is_empty() {
        let _ = write!(text, ": {} passed", summary.passed);
    }
    for (count, name) in [
        (summary.failed, "failed"),
        (summary.expected, "failed as known"),
        (summary.inconclusive, "inconclusive"),
        (summary.skipped, "skipped"),
    ] {
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
        let word = match verdict {
            Verdict::Passed => "passed",
            Verdict::Failed => "FAILED",
            Verdict::Skipped => "skipped",
            Verdict::Inconclusive => "could not tell",
        };
        self.as_bad_as(verdict, word)
    }

    /// A word in the colour of a verdict.
    fn as_bad_as(&self, verdict: Verdict, word: &str) -> String {
        match verdict {
            Verdict::Passed => self.green(word),
            Verdict::Failed => self.red(word),
            Verdict::Skipped => self.code(2, word),
            Verdict::Inconclusive => self.yellow(word),
        }
    }

    /// One character per check.
    fn mark(&self, check: &CheckReport) -> String {
        match (check.verdict, check.class) {
            (Verdict::Passed, Class::Promise) => self.green("●"),
            (Verdict::Passed, Class::Observation) => self.green("○"),
            (Verdict::Failed, _) if check.expected.is_some() => self.yellow("≠"),
            (Verdict::Failed, _) => self.red("✗"),
            (Verdict::Skipped, _) => self.code(2, "–"),
            (Verdict::Inconclusive, _) => self.yellow("?"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CheckCard, ClusterCard, Finding};
    use jiff::Timestamp;

    #[test]
    fn one_reason_of_many_checks_is_told_once() {
        let at = Timestamp::UNIX_EPOCH;
        let ids: Vec<String> = (1..=8).map(|n| format!("vip/{n}")).collect();
        let card = |id: &String| CheckCard { id: id.clone(), title: "t".to_owned(), class: Class::Promise };
        let started = Event::RunStarted {
            tool: "t".to_owned(),
            suite: "conformance".to_owned(),
            seed: 42,
            jobs: 1,
            unclaimed: Vec::new(),
            checks: ids.iter().map(card).collect(),
        };
        let finished = ids.iter().map(|id| Event::CheckFinished {
            check: id.clone(),
            verdict: Verdict::Inconclusive,
            reason: Some(if id == "vip/2" { "its own" } else { "a part was lost" }.to_owned()),
            finding: None,
            duration_ms: 0,
            evidence: Vec::new(),
            expected: None,
        });
        let records: Vec<Record> =
            [started].into_iter().chain(finished).map(|event| Record { at, event }).collect();
        let text = summary(&Report::of(&records), false, false);
        let told = "could not tell vip/1, vip/3, vip/4, vip/5, vip/6 and 2 more\n    a part was lost\n\n\
                    could not tell vip/2\n    its own\n\n";
        assert!(text.starts_with(told), "{text}");
    }

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
                unclaimed: Vec::new(),
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
                expected: None,
            },
            Event::RunFinished { duration_ms: 1500, interrupted: false, timings: Vec::new() },
        ]
        .map(|event| Record { at, event });
        let text = summary(&Report::of(&records), false, false);
        assert_eq!(
            text,
            "FAILED vip/x: the title\n   promised  `web` answers\n   observed  it was silent\n      \
             again  stickler run --filter vip/x\n\n  vip  ✗  0/1  0 %\n\na promise was broken: 0 passed, 1 \
             failed in 1.5 s; seed 42\n"
        );
    }
    #[test]
    fn a_swapped_component_is_named_with_its_version() {
        let card = |component: &str, command: Option<&str>, version: Option<&str>| ComponentCard {
            component: component.to_owned(),
            command: command.map(str::to_owned),
            version: version.map(str::to_owned),
        };
        let cluster = ClusterCard {
            provider: "testbed".to_owned(),
            version: "v1.37.0".to_owned(),
            nodes: vec!["kube0.vm".to_owned()],
            capabilities: Vec::new(),
            ready_ms: 7,
            timings: Vec::new(),
            components: vec![
                card("proxy", Some("kube-proxy --v=1"), Some("Kubernetes v1.20.2")),
                card("dns", Some("mine"), None),
                card("scheduler", None, None),
            ],
        };
        let ready = Record { at: Timestamp::UNIX_EPOCH, event: Event::ClusterReady { cluster } };
        let lines = "  proxy is not ours, Kubernetes v1.20.2: kube-proxy --v=1\n  dns is not ours, of a version it \
                     does not say: mine\n  scheduler is left out";
        let told = progress(&ready, false).expect("it is told");
        assert_eq!(told, format!("cluster testbed v1.37.0, 1 nodes, ready in 7 ms\n{lines}"));
        let text = summary(&Report::of([&ready]), false, false);
        assert!(text.contains(lines), "{text}");
    }
}
