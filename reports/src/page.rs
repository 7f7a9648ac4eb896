//! `index.html`: the report for people, one page that needs nothing else.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::chaos::{ChaosReport, DistributionReport, FaultReport, ViolationReport};
use crate::plot::{bars, histogram, span, strip, timeline};
use crate::report::headline;
use crate::{CheckReport, Class, ExploreReport, Report, Timing, Verdict};

const STYLE: &str = include_str!("page.css");

/// So many violations are shown at once; the others are folded away.
const VIOLATIONS_SHOWN: usize = 3;

/// The page, whole.
pub(crate) fn html(report: &Report) -> String {
    let verdict = report.verdict();
    let title = format!("{}: stickler {}", headline(report), report.suite);
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
                    (jumps(report))
                    (features(report))
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

/// A sentence of ours: what stands between backticks as code, `<https://...>` as a link.
fn prose(text: &str) -> Markup {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['`', '<']) {
        let (before, from) = rest.split_at(at);
        let close = if from.starts_with('`') { '`' } else { '>' };
        let inside = from[1..].find(close).map(|length| &from[1..=length]);
        match inside.filter(|inside| close == '`' || inside.starts_with("https://")) {
            Some(inside) => {
                parts.push(html! {
                    (before)
                    @if close == '`' { code { (inside) } } @else { (source(inside)) }
                });
                rest = &from[inside.len() + 2..];
            }
            None => {
                parts.push(html! { (before) (&from[..1]) });
                rest = &from[1..];
            }
        }
    }
    html! { @for part in &parts { (part) } (rest) }
}

/// A link where it is one.
fn source(text: &str) -> Markup {
    html! {
        @if text.starts_with("https://") { a href=(text) { (text) } } @else { (text) }
    }
}

fn header(report: &Report, verdict: Verdict) -> Markup {
    html! {
        header class=(class(verdict)) {
            h1 #verdict { (headline(report)) }
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
                div { dt { "started" } dd { time datetime=(report.started) {
                    (report.started.strftime("%Y-%m-%d %H:%M:%S UTC"))
                } } }
                div { dt { "took" } dd { (seconds(report.duration_ms)) } }
                div { dt { "by" } dd { (report.tool) } }
            }
        }
    }
}

fn counts(report: &Report) -> Markup {
    let summary = report.summary;
    let counts = [
        (summary.passed, "passed", "passed"),
        (summary.failed, "failed", "failed"),
        (summary.expected, "failed as known", "known"),
        (summary.inconclusive, "could not be told", "inconclusive"),
        (summary.skipped, "skipped", "skipped"),
    ];
    html! {
        @if !report.checks.is_empty() {
            ul.counts aria-label="Checks" {
                @for (count, name, class) in counts {
                    li class=(class) { strong data-count=(class) { (count) } " " (name) }
                }
            }
            (strip(&counts))
        }
    }
}

/// Where the trouble is, for those who came for it.
fn jumps(report: &Report) -> Markup {
    let is_trouble = |check: &&CheckReport| check.is_broken() || check.verdict == Verdict::Inconclusive;
    let mut troubled = report.checks.iter().filter(is_trouble).peekable();
    html! {
        @if troubled.peek().is_some() {
            nav #jumps aria-label="Checks that did not pass" { ul {
                @for check in troubled {
                    @let (sign, class) = mark(check);
                    li { span class=(class) aria-hidden="true" { (sign) } " " a href=(format!("#{}", check.id)) { (check.id) } }
                }
            } }
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
fn folded(id: &str, title: &str, body: Markup) -> Markup {
    html! {
        section id=(id) {
            details { summary { h2 { (title) } } (body) }
        }
    }
}

/// A table that may be wider than the screen: it scrolls by itself, by keyboard too.
fn table(label: &str, rows: Markup) -> Markup {
    html! { div.wide tabindex="0" role="region" aria-label=(label) { table { (rows) } } }
}

fn features(report: &Report) -> Markup {
    html! {
        @if !report.features.is_empty() {
            section #features {
                h2 { "Features" }
                (table("Features", html! {
                    thead { tr { th { "feature" } th { "checks" } th.number { "kept" } th.number { "percent" } } }
                    tbody {
                        @for feature in &report.features {
                            tr {
                                th scope="row" { (feature.feature) }
                                td.marks {
                                    @for check in report.checks.iter().filter(|check| check.chapter == feature.feature) {
                                        @let (sign, class) = mark(check);
                                        span class=(class) role="img"
                                            title=(format!("{} ({}): {}", check.id, class, check.title))
                                            aria-label=(format!("{} {class}", check.id)) { (sign) }
                                    }
                                }
                                td.number { (feature.summary.passed) "/" (feature.total) }
                                td.number {
                                    @if let Some(percent) = feature.percent {
                                        span.meter aria-hidden="true" { span style=(format!("width:{percent}%")) {} }
                                    }
                                    (feature.in_percent())
                                }
                            }
                        }
                    }
                }))
                p.legend { "● a promise that held, ○ an observation, ✗ broken, ≠ broken as it is known to be, ? could not be told, – skipped" }
            }
        }
    }
}

fn broken(report: &Report) -> Markup {
    let broken: Vec<_> = report.checks.iter().filter(|check| check.is_broken()).collect();
    html! {
        @if !broken.is_empty() {
            section #broken {
                h2 { "Broken promises" }
                @for check in broken {
                    article.card.failed id=(check.id) {
                        h3 { code { (check.id) } " " (check.title) }
                        dl.finding {
                            @if let Some(promised) = &check.promised { dt { "promised" } dd { (prose(promised)) } }
                            @if let Some(observed) = &check.observed { dt { "observed" } dd { (prose(observed)) } }
                            @if let Some(reason) = &check.reason { dt { "see" } dd { (prose(reason)) } }
                            dt { "again" } dd { code.again { "stickler run --filter " (check.id) " --seed " (report.seed) } }
                        }
                        (evidence(check))
                    }
                }
            }
        }
    }
}

fn evidence(check: &CheckReport) -> Markup {
    html! {
        @if !check.evidence.is_empty() {
            div.evidence {
                @for evidence in &check.evidence {
                    details { summary { (evidence.name) } pre tabindex="0" { (evidence.text) } }
                }
            }
        }
    }
}

fn untold(report: &Report) -> Markup {
    let untold: Vec<_> =
        report.checks.iter().filter(|check| check.verdict == Verdict::Inconclusive).collect();
    html! {
        @if !untold.is_empty() || !report.troubles.is_empty() {
            section #untold {
                h2 { "What could not be told" }
                @for check in untold {
                    article.card.inconclusive id=(check.id) {
                        h3 { code { (check.id) } " " (check.title) }
                        dl.finding {
                            dt { "because" } dd { (prose(check.reason.as_deref().unwrap_or("no reason was given"))) }
                            dt { "again" } dd { code.again { "stickler run --filter " (check.id) " --seed " (report.seed) } }
                        }
                        (evidence(check))
                    }
                }
                @for trouble in &report.troubles {
                    article.card.inconclusive.trouble { h3 { "Trouble" } p { (prose(trouble)) } }
                }
            }
        }
    }
}

fn explored(explore: &ExploreReport) -> Markup {
    html! {
        section #explore {
            h2 class=(class(explore.verdict())) { "Exploration" }
            p {
                (explore.in_words()) ", " (explore.steps) " operations, "
                (explore.looks) " looks, " (explore.case_ms_mean) " ms a case (at most " (explore.case_ms_max) ")"
            }
            @if let Some(failure) = &explore.failure {
                article.card.failed {
                    h3 { "Case " (failure.case) ": " (failure.operations) " of " (failure.drawn) " operations are enough" }
                    dl.finding {
                        dt { "promised" } dd { (prose(&failure.finding.promised)) }
                        dt { "observed" } dd { (prose(&failure.finding.observed)) }
                        dt { "by" } dd { pre tabindex="0" { (failure.script) } }
                        @if let Some(difference) = &failure.difference {
                            dt { "to know" } dd { code { "explore = [" (difference) "]" } }
                        }
                        @if let Some(file) = &failure.file {
                            dt { "again" } dd { code.again { "stickler replay " (file) } }
                        }
                    }
                    @if !failure.evidence.is_empty() {
                        div.evidence { @for evidence in &failure.evidence {
                            details { summary { (evidence.name) } pre tabindex="0" { (evidence.text) } }
                        } }
                    }
                }
            }
            @for reason in &explore.reasons { p { "could not tell: " (prose(reason)) } }
            @for known in &explore.deviations {
                article.card.known {
                    h3 { "Known deviation, " (known.in_words()) }
                    dl.finding {
                        dt { "known" } dd { (prose(&known.reason)) " " (source(&known.source)) }
                        @if let Some(observed) = &known.observed { dt { "observed" } dd { (prose(observed)) } }
                        @for explore in &known.explore { dt { "shows in" } dd { code { (explore) } } }
                    }
                }
            }
            @if !explore.operations.is_empty() {
                figure {
                    figcaption { "Operations" }
                    (bars(explore.operations.iter().map(|(kind, count)| (kind.clone(), *count as f64, count.to_string()))))
                }
            }
        }
    }
}

fn chaos(found: &ChaosReport) -> Markup {
    html! {
        section #chaos {
            h2 class=(class(found.verdict)) { "Chaos" }
            p {
                (found.clients) " clients, each " (found.rate) " times a second for " (seconds(found.duration_ms))
                ": " (found.calls) " calls, " (found.names_asked) " names asked, "
                strong #violations { (found.violations) } " violations"
            }
            @if let Some(reason) = &found.reason {
                article class=(format!("card {}", class(found.verdict))) { p { (prose(reason)) } }
            }
            (timeline(found))
            @if !found.faults.is_empty() { (faults(&found.faults)) }
            h3 { "How long things took" }
            (table("How long things took", html! {
                thead { tr {
                    th { "what" } th.number { "cases" } th.number { "half within" } th.number { "p90" }
                    th.number { "p99" } th.number { "at most" }
                } }
                tbody {
                    @for (name, of, _) in distributions(found) {
                        tr {
                            th scope="row" { (name) }
                            td.number { (of.count) }
                            @for value in [of.p50_us, of.p90_us, of.p99_us, of.max_us] {
                                td.number { @if of.count > 0 { (span(value)) } }
                            }
                        }
                    }
                }
            }))
            div.figures {
                @for (name, of, bound_ms) in distributions(found) {
                    @if of.count > 0 { figure { figcaption { (name) ", " (of.count) " cases" } (histogram(of, bound_ms)) } }
                }
            }
            p.legend {
                "Bounds: an answer may be " (found.staleness_bound_ms) " ms old, a name's "
                (found.name_staleness_bound_ms) " ms; everything had to be as promised "
                (found.convergence_bound_ms) " ms after the last fault, and was "
                @match found.converged_ms {
                    Some(took) => { "after " (took) " ms." }
                    None => { "not." }
                }
            }
            (violations(found))
        }
    }
}

/// What was measured, and the bound it is held to, in milliseconds; 0 where there is none.
fn distributions(found: &ChaosReport) -> [(&'static str, &DistributionReport, u64); 4] {
    [
        ("stale answers", &found.staleness, found.staleness_bound_ms),
        ("stale names", &found.name_staleness, found.name_staleness_bound_ms),
        ("ready to served everywhere", &found.ready_to_served_everywhere, 0),
        ("removed to last served", &found.removed_to_last_served, 0),
    ]
}

fn faults(faults: &[FaultReport]) -> Markup {
    let first_us = faults.iter().map(|fault| fault.injected_us).min().unwrap_or_default();
    html! {
        h3 { "Faults" }
        (table("Faults", html! {
            thead { tr {
                th { "fault" } th.number { "after" } th.number { "lasted" } th.number { "stale answers" }
                th.number { "at most by" } th { "what was done" }
            } }
            tbody {
                @for fault in faults {
                    tr {
                        th scope="row" { (fault.fault) }
                        td.number { (span(fault.injected_us - first_us)) }
                        td.number { @if fault.healed_us >= fault.injected_us { (span(fault.healed_us - fault.injected_us)) } }
                        td.number { (fault.staleness.count) }
                        td.number { @if fault.staleness.count > 0 { (span(fault.staleness.max_us)) } }
                        td.what {
                            (prose(&fault.what))
                            @if let Some(trouble) = &fault.trouble { span.inconclusive { "; trouble: " (prose(trouble)) } }
                        }
                    }
                }
            }
        }))
    }
}

fn violations(found: &ChaosReport) -> Markup {
    let (shown, others) = found.first_violations.split_at(VIOLATIONS_SHOWN.min(found.first_violations.len()));
    html! {
        @if !shown.is_empty() {
            h3 { "Violations" }
            @for violation in shown { (violated(violation)) }
            @if !others.is_empty() {
                details {
                    summary { (others.len()) " more of " (found.violations) }
                    @for violation in others { (violated(violation)) }
                }
            }
        }
    }
}

fn violated(violation: &ViolationReport) -> Markup {
    html! {
        article.card.failed.violated {
            h4 { (prose(&violation.vantage)) " calling " (prose(&violation.destination)) ", call " (violation.call) }
            dl.finding {
                dt { "promised" } dd { (prose(&violation.allowed_then)) }
                dt { "observed" } dd { (prose(&violation.seen)) }
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
                div.evidence {
                    details { summary { "calls around it" } pre tabindex="0" { (violation.around.join("\n")) } }
                }
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
                    article.card.known id=(check.id) {
                        h3 { code { (check.id) } " " (check.title) }
                        dl.finding {
                            dt { "known" } dd { (prose(&known.reason)) " " (source(&known.source)) }
                            @if let Some(observed) = &check.observed { dt { "observed" } dd { (prose(observed)) } }
                        }
                    }
                }
            }
        }
    }
}

fn skipped(report: &Report) -> Markup {
    let skipped: Vec<_> = report.checks.iter().filter(|check| check.verdict == Verdict::Skipped).collect();
    html! {
        @if !skipped.is_empty() {
            (folded("skipped", &format!("Skipped ({})", skipped.len()), html! {
                ul { @for check in &skipped {
                    li { code { (check.id) } ": " (prose(check.reason.as_deref().unwrap_or("no reason was given"))) }
                } }
            }))
        }
    }
}

fn times(report: &Report) -> Markup {
    let bar = |timing: &Timing| {
        (timing.step.clone(), timing.us as f64, span(i64::try_from(timing.us).unwrap_or(i64::MAX)))
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
        html! {
            @if !report.bounds.is_empty() {
                (table("Bounds of this run", html! {
                    thead { tr { th { "bound" } th.number { "ms" } th.number { "measured" } th { "rule" } } }
                    tbody { @for card in &report.bounds {
                        tr {
                            th scope="row" { (card.bound) }
                            td.number { (card.ms) }
                            td.number { @if let Some(measured) = card.measured_ms { (measured) } }
                            td.what { (card.rule) }
                        }
                    } }
                }))
            }
            div.figures {
                @for (name, rows) in [("Start of the cluster", steps), ("The run", run), ("The slowest checks", slowest)] {
                    @if !rows.is_empty() { figure { figcaption { (name) } (bars(rows.into_iter())) } }
                }
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
    fn what_an_exploration_knew_is_told_with_how_often_it_was_met() {
        let report = Report { explore: Some(example::explored()), ..Report::new() };
        let page = html(&report);
        for words in [
            "1 of 2 cases held, 1 differed as known, ",
            "Known deviation, in 1 case</h3>",
            "seen = &quot;silent&quot; }</code>",
            "it forgets <a href=\"https://example.org/8\"",
            "a pod got &lt;no&gt; answer",
        ] {
            assert!(page.contains(words), "`{words}` is missing in {page}");
        }
    }

    #[test]
    fn a_run_without_checks_has_a_page_too() {
        let page = html(&Report::new());
        assert!(page.contains("interrupted") && !page.contains("id=\"features\""), "{page}");
    }
}
