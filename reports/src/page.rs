//! `index.html`: the report for people, one page that needs nothing else.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::chaos::{ChaosReport, DistributionReport, ViolationReport};
use crate::{CheckReport, Class, ExploreReport, Report, Timing, Verdict};

const STYLE: &str = include_str!("page.css");

/// The page, whole.
pub(crate) fn html(report: &Report) -> String {
    let verdict = report.verdict();
    let title = format!("{}: stickler {}", headline(report, verdict), report.suite);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                // A page that asks nobody for anything, not even for an icon.
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#content" { "To the content" }
                (header(report, verdict))
                main #content {
                    (counts(report))
                    @if !report.checks.is_empty() { (chapters(report)) }
                    (broken(report))
                    (untold(report))
                    @if let Some(table) = &report.table { (table.html()) }
                    @if let Some(explore) = &report.explore { (explored(explore)) }
                    @if let Some(found) = &report.chaos { (chaos(found)) }
                    (deviations(report))
                    (skipped(report))
                    (times(report))
                }
            }
        }
    };
    page.into_string()
}

fn headline(report: &Report, verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed | Verdict::Skipped if report.summary.expected > 0 => {
            "every promise held, known deviations aside"
        }
        Verdict::Passed | Verdict::Skipped => "every promise held",
        Verdict::Failed => "a promise was broken",
        Verdict::Inconclusive if report.interrupted => "interrupted",
        Verdict::Inconclusive => "could not tell",
    }
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "failed",
        Verdict::Skipped => "skipped",
        Verdict::Inconclusive => "inconclusive",
    }
}

fn seconds(ms: u64) -> String {
    format!("{:.1} s", ms as f64 / 1000.0)
}

fn millis(us: i64) -> String {
    format!("{:.1} ms", us as f64 / 1000.0)
}

fn header(report: &Report, verdict: Verdict) -> Markup {
    html! {
        header class=(class(verdict)) {
            h1 #verdict { (headline(report, verdict)) }
            dl {
                @if let Some(cluster) = &report.cluster {
                    div { dt { "cluster" } dd { (cluster.provider) " " (cluster.version) } }
                    div { dt { "nodes" } dd { (cluster.nodes.len()) } }
                    @for component in &cluster.components {
                        div {
                            dt { (component.component) }
                            dd title=[component.command.as_ref()] { (component.in_words()) }
                        }
                    }
                    div { dt { "ready in" } dd { (cluster.ready_ms) " ms" } }
                }
                div { dt { "suite" } dd { (report.suite) } }
                div { dt { "seed" } dd { code { (report.seed) } } }
                div { dt { "started" } dd { time datetime=(report.started) { (report.started) } } }
                div { dt { "took" } dd { (seconds(report.duration_ms)) } }
                div { dt { "by" } dd { (report.tool) } }
            }
        }
    }
}

fn counts(report: &Report) -> Markup {
    let summary = report.summary;
    html! {
        @if !report.checks.is_empty() {
            ul.counts aria-label="Checks" {
                @for (count, name, class) in [
                    (summary.passed, "passed", "passed"),
                    (summary.failed, "failed", "failed"),
                    (summary.expected, "failed as known", "known"),
                    (summary.inconclusive, "could not be told", "inconclusive"),
                    (summary.skipped, "skipped", "skipped"),
                ] {
                    li class=(class) { strong data-count=(class) { (count) } " " (name) }
                }
            }
        }
    }
}

fn mark(check: &CheckReport) -> (&'static str, &'static str) {
    match (check.verdict, check.class) {
        (Verdict::Passed, Class::Promise) => ("●", "passed"),
        (Verdict::Passed, Class::Observation) => ("○", "passed"),
        (Verdict::Failed, _) if check.expected.is_some() => ("≠", "known"),
        (Verdict::Failed, _) => ("✗", "failed"),
        (Verdict::Skipped, _) => ("–", "skipped"),
        (Verdict::Inconclusive, _) => ("?", "inconclusive"),
    }
}

/// A section that is folded away, and opens by keyboard as by mouse.
fn folded(id: &str, title: &str, open: bool, body: Markup) -> Markup {
    html! {
        section id=(id) {
            details open[open] { summary { h2 { (title) } } (body) }
        }
    }
}

fn chapters(report: &Report) -> Markup {
    let mut names: Vec<&str> = report.checks.iter().map(|check| check.chapter.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    html! {
        section #chapters {
            h2 { "Chapters" }
            div.wide { table {
                thead { tr { th { "chapter" } th { "checks" } th.number { "held" } } }
                tbody {
                    @for name in names {
                        @let checks: Vec<_> =
                            report.checks.iter().filter(|check| check.chapter == name).collect();
                        @let held = checks.iter().filter(|check| check.verdict == Verdict::Passed).count();
                        tr {
                            th scope="row" { (name) }
                            td.marks {
                                @for check in &checks {
                                    @let (sign, class) = mark(check);
                                    span class=(class) role="img"
                                        title=(format!("{} ({}): {}", check.id, class, check.title))
                                        aria-label=(format!("{} {class}", check.id)) { (sign) }
                                }
                            }
                            td.number { (held) "/" (checks.len()) }
                        }
                    }
                }
            } }
            p.legend { "● a promise that held, ○ an observation, ✗ broken, ≠ broken as it is known to be, ? could not be told, – skipped" }
        }
    }
}

fn broken(report: &Report) -> Markup {
    html! {
        @for check in report.checks.iter().filter(|check| check.is_broken()) {
            section.card.failed id=(check.id) {
                h2 { code { (check.id) } " " (check.title) }
                dl.finding {
                    @if let Some(promised) = &check.promised { dt { "promised" } dd { (promised) } }
                    @if let Some(observed) = &check.observed { dt { "observed" } dd { (observed) } }
                    @if let Some(reason) = &check.reason { dt { "see" } dd { (reason) } }
                    dt { "again" } dd { code { "stickler run --filter " (check.id) " --seed " (report.seed) } }
                }
                (evidence(check))
            }
        }
    }
}

fn evidence(check: &CheckReport) -> Markup {
    html! {
        @for evidence in &check.evidence {
            details { summary { (evidence.name) } pre { (evidence.text) } }
        }
    }
}

fn untold(report: &Report) -> Markup {
    let untold = || report.checks.iter().filter(|check| check.verdict == Verdict::Inconclusive);
    html! {
        @for check in untold() {
            section.card.inconclusive id=(check.id) {
                h2 { code { (check.id) } " could not be told" }
                p { (check.reason.as_deref().unwrap_or("no reason was given")) }
                (evidence(check))
            }
        }
        @for trouble in &report.troubles {
            section.card.inconclusive { h2 { "Trouble" } pre { (trouble) } }
        }
    }
}

fn explored(explore: &ExploreReport) -> Markup {
    html! {
        section #explore class=(class(explore.verdict())) {
            h2 { "Exploration" }
            p {
                (explore.held) " of " (explore.planned) " cases held, " (explore.steps) " operations, "
                (explore.looks) " looks, " (explore.case_ms_mean) " ms a case (at most " (explore.case_ms_max) ")"
            }
            @if let Some(failure) = &explore.failure {
                dl.finding {
                    dt { "promised" } dd { (failure.finding.promised) }
                    dt { "observed" } dd { (failure.finding.observed) }
                    dt { "by" } dd { pre { (failure.script) } }
                    @if let Some(file) = &failure.file {
                        dt { "again" } dd { code { "stickler replay " (file) } }
                    }
                }
            }
            @for reason in &explore.reasons { p { "could not tell: " (reason) } }
            @if !explore.operations.is_empty() {
                (bars(explore.operations.iter().map(|(kind, count)| (kind.clone(), *count as f64, count.to_string()))))
            }
        }
    }
}

fn chaos(found: &ChaosReport) -> Markup {
    html! {
        section #chaos class=(class(found.verdict)) {
            h2 { "Chaos" }
            p {
                (found.clients) " clients, each " (found.rate) " times a second for " (seconds(found.duration_ms))
                ": " (found.calls) " calls, " (found.names_asked) " names asked, " (found.violations) " violations"
            }
            @if let Some(reason) = &found.reason { p { (reason) } }
            (timeline(found))
            div.wide { table {
                thead { tr {
                    th { "how long" } th.number { "cases" } th.number { "half within" } th.number { "p90" }
                    th.number { "p99" } th.number { "at most" }
                } }
                tbody {
                    @for (name, of) in [
                        ("stale answers", &found.staleness),
                        ("stale names", &found.name_staleness),
                        ("ready to served everywhere", &found.ready_to_served_everywhere),
                        ("removed to last served", &found.removed_to_last_served),
                    ] {
                        tr {
                            th scope="row" { (name) }
                            td.number { (of.count) }
                            @for value in [of.p50_us, of.p90_us, of.p99_us, of.max_us] {
                                td.number { @if of.count > 0 { (millis(value)) } }
                            }
                        }
                    }
                }
            } }
            @for (name, of) in [
                ("How stale answers were", &found.staleness),
                ("From removed to last served", &found.removed_to_last_served),
                ("From ready to served everywhere", &found.ready_to_served_everywhere),
            ] {
                @if of.count > 0 { figure { figcaption { (name) } (histogram(of)) } }
            }
            @for violation in &found.first_violations { (violated(violation)) }
            p.legend {
                "Bounds: an answer may be " (found.staleness_bound_ms) " ms old, a name's "
                (found.name_staleness_bound_ms) " ms; everything had to be as promised "
                (found.convergence_bound_ms) " ms after the last fault."
            }
        }
    }
}

fn violated(violation: &ViolationReport) -> Markup {
    html! {
        div.card.failed {
            h3 { (violation.vantage) " calling " (violation.destination) ", call " (violation.call) }
            dl.finding {
                dt { "promised" } dd { (violation.allowed_then) }
                dt { "observed" } dd { (violation.seen) }
                dt { "bound" }
                dd {
                    @match violation.needed_ms {
                        Some(needed) => { "it was allowed until " (needed) " ms before" }
                        None => { "it was never allowed before" }
                    }
                }
                @if let Some(after) = &violation.after { dt { "after" } dd { (after) } }
            }
            @if !violation.around.is_empty() {
                details { summary { "calls around it" } pre { (violation.around.join("\n")) } }
            }
        }
    }
}

/// Faults as shaded stretches, violations as marks, from the first fault to the last.
fn timeline(found: &ChaosReport) -> Markup {
    let Some(from) = found.faults.iter().map(|fault| fault.injected_us).min() else { return html! {} };
    let violations = || found.first_violations.iter();
    let ends = found.faults.iter().map(|fault| fault.healed_us);
    let to = ends.chain(violations().map(|violation| violation.ended_us)).max().unwrap_or(from);
    let span = (to - from).max(1) as f64;
    let x = |us: i64| 1000.0 * (us - from) as f64 / span;
    let row = 18;
    let height = row * found.faults.len() + row;
    html! {
        figure {
            figcaption { "Faults over " (millis(to - from)) ", violations marked" }
            svg viewBox=(format!("0 0 1000 {height}")) role="img" aria-label="Timeline of faults and violations" {
                @for (at, fault) in found.faults.iter().enumerate() {
                    @let (left, right) = (x(fault.injected_us), x(fault.healed_us));
                    g {
                        title { (fault.fault) ": " (fault.what) }
                        rect.fault x=(left) y="0" width=((right - left).max(1.0)) height=(height) {}
                        @let anchor = if left > 700.0 { "end" } else { "start" };
                        text x=(left) y=(row * at + 13) text-anchor=(anchor) { (fault.fault) }
                    }
                }
                @for violation in violations() {
                    line.violation x1=(x(violation.started_us)) x2=(x(violation.started_us)) y1="0" y2=(height) {
                        title { (violation.seen) }
                    }
                }
            }
        }
    }
}

fn histogram(of: &DistributionReport) -> Markup {
    bars(of.histogram.iter().map(|bucket| {
        (format!("up to {}", millis(bucket.up_to_us)), bucket.count as f64, bucket.count.to_string())
    }))
}

/// Bars with a name before and a value behind them.
fn bars(rows: impl Iterator<Item = (String, f64, String)>) -> Markup {
    let rows: Vec<_> = rows.collect();
    let most = rows.iter().map(|(_, size, _)| *size).fold(f64::MIN_POSITIVE, f64::max);
    let height = 20 * rows.len();
    html! {
        svg.bars viewBox=(format!("0 0 1000 {height}")) role="img"
            aria-label=(rows.iter().map(|(name, _, value)| format!("{name}: {value}")).collect::<Vec<_>>().join("; "))
        {
            @for (at, (name, size, value)) in rows.iter().enumerate() {
                text x="290" y=(20 * at + 15) text-anchor="end" { (name) }
                rect.bar x="300" y=(20 * at + 3) width=((580.0 * size / most).max(1.0)) height="14" {}
                text x=(310.0 + 580.0 * size / most) y=(20 * at + 15) { (value) }
            }
        }
    }
}

fn deviations(report: &Report) -> Markup {
    let known =
        || report.checks.iter().filter_map(|check| check.expected.as_ref().map(|known| (check, known)));
    html! {
        @if known().next().is_some() {
            section #deviations {
                h2 { "Known deviations" }
                @for (check, known) in known() {
                    div.card.known {
                        h3 { code { (check.id) } " " (check.title) }
                        p { (known.reason) " " (source(&known.source)) }
                        @if let Some(observed) = &check.observed { p { "observed: " (observed) } }
                    }
                }
            }
        }
    }
}

/// A link where it is one.
fn source(text: &str) -> Markup {
    html! {
        @if text.starts_with("https://") { a href=(text) { (text) } } @else { (text) }
    }
}

fn skipped(report: &Report) -> Markup {
    let skipped: Vec<_> = report.checks.iter().filter(|check| check.verdict == Verdict::Skipped).collect();
    html! {
        @if !skipped.is_empty() {
            (folded("skipped", &format!("Skipped ({})", skipped.len()), false, html! {
                ul { @for check in &skipped {
                    li { code { (check.id) } ": " (check.reason.as_deref().unwrap_or("no reason was given")) }
                } }
            }))
        }
    }
}

fn times(report: &Report) -> Markup {
    let bar = |timing: &Timing| {
        (timing.step.clone(), timing.us as f64, millis(i64::try_from(timing.us).unwrap_or(i64::MAX)))
    };
    let steps: Vec<_> = report.cluster.iter().flat_map(|cluster| &cluster.timings).map(bar).collect();
    let run: Vec<_> = report.timings.iter().map(bar).collect();
    let mut slowest: Vec<&CheckReport> = report.checks.iter().collect();
    slowest.sort_by_key(|check| std::cmp::Reverse(check.duration_ms));
    let slowest = slowest.into_iter().filter(|check| check.duration_ms > 0).take(15);
    let slowest: Vec<_> = slowest
        .map(|check| (check.id.clone(), check.duration_ms as f64, seconds(check.duration_ms)))
        .collect();
    folded(
        "times",
        "Where the time went",
        false,
        html! {
            @for (name, rows) in [("Start of the cluster", steps), ("The run", run), ("The slowest checks", slowest)] {
                @if !rows.is_empty() { figure { figcaption { (name) } (bars(rows.into_iter())) } }
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    #[test]
    fn the_page_says_what_the_report_says_and_asks_nobody() {
        let report = example::report();
        let page = html(&report);
        for words in [
            "a promise was broken",
            "Kubernetes v1.20.2",
            "<strong data-count=\"failed\">1</strong>",
            "<strong data-count=\"known\">1</strong>",
            "it was &lt;silent&gt; &amp; slow",
            "stickler run --filter vip/broken --seed 42",
            "an agent was lost",
            "it forgets",
            "href=\"https://example.org/7\"",
            "answered by web-gone",
            "it was allowed until 7 ms before",
        ] {
            assert!(page.contains(words), "`{words}` is missing");
        }
        for asks in ["<script", "src=", "@import", "url("] {
            assert!(!page.contains(asks), "the page has `{asks}`");
        }
    }

    #[test]
    fn a_run_without_checks_has_a_page_too() {
        let page = html(&Report::new());
        assert!(page.contains("interrupted") && !page.contains("id=\"chapters\""), "{page}");
    }
}
