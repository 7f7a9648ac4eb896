//! What GitHub Actions shows of a run: an annotation for each check that did not hold, and a summary
//! of the step in Markdown.

use std::fmt::Write as _;

use crate::report::{Untold, headline};
use crate::{CheckReport, Report, Verdict};

/// The runner refuses a summary of more than a megabyte; a table of so many rows, each cut to so many
/// characters, is far from that.
const ROWS: usize = 200;
const CELL: usize = 1_000;

/// A line for each check that failed, unless as it is known to, and for each reason for which something
/// could not be told, as [workflow
/// commands](https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands).
pub fn annotations(report: &Report) -> String {
    let mut text = String::new();
    for trouble in troubles(report) {
        let _ = writeln!(text, "::error title={}::{}", property(&trouble.title), data(&trouble.message));
    }
    text
}

/// Something that keeps a run from being green.
struct Trouble {
    title: String,
    message: String,
    /// The command that shows it again.
    again: Option<String>,
}

fn troubles(report: &Report) -> Vec<Trouble> {
    let again =
        |check: &CheckReport| Some(format!("stickler run --filter {} --seed {}", check.id, report.seed));
    let broken = |check: &CheckReport| {
        let message = match (&check.promised, &check.observed) {
            (Some(promised), Some(observed)) => format!("promised: {promised}\nobserved: {observed}"),
            _ => check.reason.clone().unwrap_or_else(|| "no reason was given".to_owned()),
        };
        Trouble { title: check.id.clone(), message, again: again(check) }
    };
    // A page shows ten annotations of a step: what many checks have in common is one of them.
    let untold = |untold: Untold<'_>| Trouble {
        title: untold.named(),
        message: format!("could not tell: {}", untold.reason),
        again: untold.checks.first().and_then(|check| again(check)),
    };
    let mut troubles: Vec<Trouble> =
        report.checks.iter().filter(|check| check.is_broken()).map(broken).collect();
    troubles.extend(report.untold().into_iter().map(untold));
    if let Some(chaos) = report.chaos.as_ref().filter(|chaos| chaos.verdict != Verdict::Passed) {
        let reason = chaos.reason.clone();
        let reason = reason.unwrap_or_else(|| format!("{} of {} calls", chaos.violations, chaos.calls));
        let first = chaos.first_violations.first().map(|first| {
            format!(
                "\npromised: {}\nobserved: {} calling {}: {}",
                first.allowed_then, first.vantage, first.destination, first.seen
            )
        });
        let again = Some(format!("stickler chaos --seed {}", report.seed));
        let message = reason + &first.unwrap_or_default();
        troubles.push(Trouble { title: "chaos".to_owned(), message, again });
    }
    if let Some(table) = report.table.as_ref().filter(|table| table.verdict() != Verdict::Passed) {
        let again = Some("stickler table".to_owned());
        troubles.push(Trouble { title: "table".to_owned(), message: table.in_words(), again });
    }
    if let Some(explore) = report.explore.as_ref().filter(|explore| explore.verdict() != Verdict::Passed) {
        let message = match &explore.failure {
            Some(failure) => format!(
                "promised: {}\nobserved: {}\n{}",
                failure.finding.promised, failure.finding.observed, failure.script
            ),
            None => format!("could not tell: {}", explore.reasons.join("; ")),
        };
        let file = explore.failure.as_ref().and_then(|failure| failure.file.as_ref());
        let again = file.map(|file| format!("stickler replay {file}"));
        troubles.push(Trouble { title: "explore".to_owned(), message, again });
    }
    let of_run =
        |message: &String| Trouble { title: "stickler".to_owned(), message: message.clone(), again: None };
    troubles.extend(report.troubles.iter().map(of_run));
    troubles
}

/// The message of a workflow command, which is one line.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// A property of one, which a comma or a colon would end.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// The run as Markdown: numbers, what did not hold and how to see it again, and every feature.
pub fn step_summary(report: &Report) -> String {
    let summary = report.summary;
    let sign = match report.verdict() {
        Verdict::Passed | Verdict::Skipped => "✅",
        Verdict::Failed => "❌",
        Verdict::Inconclusive => "❔",
    };
    let mut text = format!("## {sign} stickler {}: {}\n\n", report.suite, headline(report));
    if let Some(cluster) = &report.cluster {
        let _ = write!(text, "{}, {} nodes; ", cell(&cluster.in_words()), cluster.nodes.len());
    }
    let _ = write!(text, "seed {}; {:.1} s\n\n", report.seed, report.duration_ms as f64 / 1000.0);
    if !report.checks.is_empty() {
        let _ = writeln!(
            text,
            "| passed | failed | failed as known | could not be told | skipped |\n| ---: | ---: | ---: | ---: | ---: \
             |\n| {} | {} | {} | {} | {} |\n",
            summary.passed, summary.failed, summary.expected, summary.inconclusive, summary.skipped
        );
    }
    if let Some(explore) = &report.explore {
        let _ = writeln!(text, "{}\n", explore.in_words());
        if explore.deviations.iter().any(|known| known.cases > 0) {
            let _ = writeln!(text, "| known deviation | met | such as |\n| --- | --- | --- |");
        }
        for known in explore.deviations.iter().filter(|known| known.cases > 0) {
            let observed = known.observed.as_deref().unwrap_or_default();
            let why = format!("{} <{}>", known.reason, known.source);
            let _ = writeln!(text, "| {} | {} | {} |", cell(&why), known.in_words(), cell(observed));
        }
        text.push('\n');
    }
    let troubles = troubles(report);
    if !troubles.is_empty() {
        let _ = writeln!(text, "| what did not hold | why | again |\n| --- | --- | --- |");
        for trouble in troubles.iter().take(ROWS) {
            let again = trouble.again.as_ref().map(|again| format!("`{again}`")).unwrap_or_default();
            let _ = writeln!(text, "| {} | {} | {again} |", cell(&trouble.title), cell(&trouble.message));
        }
        if troubles.len() > ROWS {
            let _ = writeln!(text, "\n{} more are in the report.", troubles.len() - ROWS);
        }
        text.push('\n');
    }
    if !report.features.is_empty() {
        let _ = writeln!(
            text,
            "<details><summary>Features</summary>\n\n| feature | kept | percent |\n| --- | ---: | ---: |"
        );
        for feature in &report.features {
            let _ = writeln!(
                text,
                "| {} | {}/{} | {} |",
                cell(&feature.feature),
                feature.summary.passed,
                feature.total,
                feature.in_percent()
            );
        }
        text.push_str("\n</details>\n");
    }
    text
}

/// A cell of a table, in which nothing is taken for markup.
fn cell(text: &str) -> String {
    let mut cell = String::new();
    for (at, letter) in text.chars().enumerate() {
        match letter {
            _ if at == CELL => {
                cell.push('…');
                break;
            }
            '\n' => cell.push_str("<br>"),
            '\r' => {}
            '&' => cell.push_str("&amp;"),
            '<' => cell.push_str("&lt;"),
            '>' => cell.push_str("&gt;"),
            '|' | '\\' | '*' | '_' | '[' | ']' | '#' | '~' => {
                cell.push('\\');
                cell.push(letter);
            }
            _ => cell.push(letter),
        }
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Class, example};

    #[test]
    fn a_line_is_a_command_and_nothing_in_it_is_another() {
        let mut report = example::report();
        let broken = report.checks.iter_mut().find(|check| check.id == "vip/broken").expect("it is there");
        broken.observed = Some("100% gone\r\n::warning::not, a: command".to_owned());
        broken.id = "vip/one,two:three".to_owned();
        let text = annotations(&report);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "::error title=vip/one%2Ctwo%3Athree::promised: `web` answers%0Aobserved: 100%25 gone%0D%0A::warning::not, \
             a: command"
        );
        assert_eq!(lines[1], "::error title=vip/untold::could not tell: an agent was lost");
        assert!(lines[2].starts_with("::error title=chaos::"), "{text}");
        assert!(lines[2].ends_with("observed: a pod calling `web`: answered by web-gone"), "{text}");
        assert_eq!(lines.len(), 3, "a known deviation is no trouble: {text}");
    }

    #[test]
    fn one_reason_of_many_checks_is_one_annotation() {
        let mut report = example::report();
        let untold =
            report.checks.iter().find(|check| check.id == "vip/untold").expect("it is there").clone();
        let more = |number| CheckReport { id: format!("vip/untold-{number}"), ..untold.clone() };
        report.checks.extend((1..=6).map(more));
        report.checks.push(CheckReport { reason: Some("its own".to_owned()), ..more(7) });
        let text = annotations(&report);
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("untold")).collect();
        let many = "::error title=vip/untold%2C vip/untold-1%2C vip/untold-2%2C vip/untold-3%2C vip/untold-4 and 2 \
                    more::could not tell: an agent was lost";
        assert_eq!(lines, [many, "::error title=vip/untold-7::could not tell: its own"]);
        let again = "| could not tell: an agent was lost | `stickler run --filter vip/untold --seed 42` |";
        assert!(step_summary(&report).contains(again), "{}", step_summary(&report));
    }

    #[test]
    fn a_summary_of_an_exploration_has_a_row_for_each_known_deviation_it_met() {
        let mut report = Report { explore: Some(example::explored()), interrupted: false, ..Report::new() };
        report.suite = "explore".to_owned();
        let text = step_summary(&report);
        assert!(
            text.starts_with("## ✅ stickler explore: every promise held, known deviations aside\n"),
            "{text}"
        );
        assert!(
            text.contains("1 of 2 cases held, 1 differed as known\n\n| known deviation | met | such as |\n"),
            "{text}"
        );
        let row = "| it forgets &lt;https://example.org/8&gt; | in 1 case | a pod got &lt;no&gt; answer |\n";
        assert!(text.contains(row), "{text}");
        assert!(!text.contains("rude"), "what was not met has no row: {text}");
        assert_eq!(annotations(&report), "");
    }

    #[test]
    fn a_summary_has_a_row_for_each_trouble_and_no_markup_of_others() {
        let mut report = example::report();
        let text = step_summary(&report);
        assert!(text.starts_with("## ❌ stickler conformance: a promise was broken\n"), "{text}");
        assert!(text.contains("| 1 | 1 | 1 | 1 | 0 |"), "{text}");
        assert!(
            text.contains(
                "| vip/broken | promised: `web` answers<br>observed: it was &lt;silent&gt; &amp; slow | `stickler run \
                 --filter vip/broken --seed 42` |"
            ),
            "{text}"
        );
        assert!(text.contains("| affinity | 1/2 | 50 % |"), "{text}");
        let broken =
            report.checks.iter().find(|check| check.id == "vip/broken").expect("it is there").clone();
        let many = |number| CheckReport {
            id: format!("vip/broken-{number}"),
            class: Class::Promise,
            observed: Some("|<b>".repeat(5_000)),
            ..broken.clone()
        };
        report.checks = (0..1_000).map(many).collect();
        let text = step_summary(&report);
        assert!(text.len() < 1024 * 1024, "{} bytes", text.len());
        // One more for chaos.
        assert!(text.contains("801 more are in the report") && !text.contains("<b>"));
    }
}
