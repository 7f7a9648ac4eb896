//! The truth table: what every place saw at every destination, beside what was promised there; as data,
//! for a terminal, and for the page.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use crate::Verdict;

/// The section `table` of a report: every vantage against every destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableReport {
    /// Where the objects were; `NS` in the names of rows.
    pub namespace: String,
    pub columns: Vec<ColumnReport>,
    /// Those of one subject follow each other.
    pub rows: Vec<RowReport>,
    /// What is missing, each with the reason.
    pub remarks: Vec<String>,
    /// How many calls were made, names that were asked for included.
    pub calls: u64,
    /// From the first question to the last comparison.
    pub duration_us: u64,
    /// From the last change of the world to the moment this table was begun.
    pub waited_ms: u64,
}

/// A place calls start from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnReport {
    /// What stands above the column: `p1`.
    pub id: String,
    pub vantage: String,
}

/// A destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowReport {
    /// What it belongs to, mostly a service.
    pub subject: String,
    /// What of the subject: `cluster IP, port 80/TCP`.
    pub destination: String,
    /// Where that is: an address and port, a name, a URL.
    pub address: String,
    /// One for each column.
    pub cells: Vec<CellReport>,
}

/// What one place saw at one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellReport {
    pub verdict: CellVerdict,
    /// Somebody answered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub answered: bool,
    /// The set of what is allowed, and who promised it; in a cell that was not asked, why not.
    pub promised: String,
    /// What was seen, and how often.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub seen: BTreeMap<String, u64>,
    /// How that differs, or why it could not be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// How a cell compares with what was promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CellVerdict {
    /// The question makes no sense from there.
    #[default]
    NotAsked,
    /// Anything may happen, so nothing was looked at.
    NotPromised,
    AsPromised,
    CouldNotTell,
    Differs,
}

impl CellReport {
    /// One character, and the word for it.
    fn mark(&self) -> (&'static str, &'static str) {
        match self.verdict {
            CellVerdict::NotAsked => ("·", "not asked"),
            CellVerdict::NotPromised => ("–", "not promised"),
            CellVerdict::AsPromised if self.answered => ("●", "answered as promised"),
            CellVerdict::AsPromised => ("○", "not answered, as promised"),
            CellVerdict::CouldNotTell => ("?", "could not tell"),
            CellVerdict::Differs => ("✗", "differs"),
        }
    }

    fn class(&self) -> &'static str {
        match self.verdict {
            CellVerdict::NotAsked | CellVerdict::NotPromised => "skipped",
            CellVerdict::AsPromised => "passed",
            CellVerdict::CouldNotTell => "inconclusive",
            CellVerdict::Differs => "failed",
        }
    }

    /// What went wrong, whoever it was that answered.
    fn kind(&self) -> String {
        let what = self.why.as_deref().unwrap_or_default().split(';').next().unwrap_or_default();
        // Names stand in every second part.
        what.split('`').step_by(2).collect()
    }
}

/// What the marks mean.
const LEGEND: &str = "● answered as promised, ○ not answered, as promised, ✗ differs, ? could not be told, \
                      – not promised, · not asked";

/// How many differences are told in full; the rest is in `report.json`.
const TOLD: usize = 20;

/// Cells of one row that are wrong in the same way.
struct Difference<'a> {
    row: &'a RowReport,
    columns: Vec<&'a ColumnReport>,
    /// The first of them.
    cell: &'a CellReport,
    /// What all of them saw, and how often.
    seen: BTreeMap<&'a str, u64>,
}

impl Difference<'_> {
    fn places(&self) -> String {
        self.columns.iter().map(|column| column.vantage.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn observed(&self) -> String {
        let words = |(seen, count): (&&str, &u64)| format!("{count}x {seen}");
        let seen = self.seen.iter().map(words).collect::<Vec<_>>().join(", ");
        match (self.cell.why.as_deref(), seen) {
            (Some(why), seen) if seen.is_empty() => why.to_owned(),
            (Some(why), seen) => format!("{why} ({seen})"),
            (None, seen) => seen,
        }
    }
}

impl TableReport {
    /// How many cells have this verdict.
    pub fn count(&self, verdict: CellVerdict) -> usize {
        self.cells().filter(|cell| cell.verdict == verdict).count()
    }

    /// Every cell, row by row.
    pub fn cells(&self) -> impl Iterator<Item = &CellReport> {
        self.rows.iter().flat_map(|row| &row.cells)
    }

    /// The worst of all cells. A table in which nothing could be compared shows nothing.
    pub fn verdict(&self) -> Verdict {
        match self.cells().map(|cell| cell.verdict).max() {
            Some(CellVerdict::Differs) => Verdict::Failed,
            Some(CellVerdict::AsPromised) => Verdict::Passed,
            _ => Verdict::Inconclusive,
        }
    }

    /// How it went, in one line: for those who have room for no more.
    pub fn in_words(&self) -> String {
        format!(
            "{} destinations x {} vantages = {} cells, {} calls in {:.2} s: {} as promised, {} differ, {} could \
             not be told, {} not promised, {} not asked",
            self.rows.len(),
            self.columns.len(),
            self.rows.len() * self.columns.len(),
            self.calls,
            self.duration_us as f64 / 1e6,
            self.count(CellVerdict::AsPromised),
            self.count(CellVerdict::Differs),
            self.count(CellVerdict::CouldNotTell),
            self.count(CellVerdict::NotPromised),
            self.count(CellVerdict::NotAsked),
        )
    }

    /// How long the cluster had time to follow.
    fn age(&self) -> String {
        format!("begun {:.1} s after the last change of its objects", self.waited_ms as f64 / 1000.0)
    }

    /// What differs or could not be told, in the order of the rows; in each, places that saw the same are
    /// one.
    fn differences(&self) -> Vec<Difference<'_>> {
        let mut differences: Vec<Difference<'_>> = Vec::new();
        for row in &self.rows {
            let first = differences.len();
            for (column, cell) in self.columns.iter().zip(&row.cells) {
                if cell.verdict < CellVerdict::CouldNotTell {
                    continue;
                }
                let is_same = |known: &Difference<'_>| {
                    known.cell.verdict == cell.verdict
                        && known.cell.promised == cell.promised
                        && known.cell.kind() == cell.kind()
                };
                let known = differences[first..].iter().position(is_same).map(|index| first + index);
                let index = known.unwrap_or(differences.len());
                if known.is_none() {
                    differences.push(Difference { row, columns: Vec::new(), cell, seen: BTreeMap::new() });
                }
                let difference = &mut differences[index];
                difference.columns.push(column);
                for (seen, count) in &cell.seen {
                    *difference.seen.entry(seen).or_default() += count;
                }
            }
        }
        differences
    }

    /// The table for a terminal: every letter has one width, and no mark needs a colour.
    pub(crate) fn write(&self, text: &mut String, paint: impl Fn(Verdict, &str) -> String) {
        let width = |of: fn(&RowReport) -> &str| {
            self.rows.iter().map(|row| of(row).chars().count()).max().unwrap_or_default()
        };
        let (subjects, destinations) = (width(|row| &row.subject), width(|row| &row.destination));
        let _ = write!(text, "  {:subjects$}  {:destinations$} ", "", "");
        for column in &self.columns {
            let _ = write!(text, " {:>3}", column.id);
        }
        let _ = writeln!(text);
        let mut before = "";
        for row in &self.rows {
            let subject = if row.subject == before { "" } else { &row.subject };
            before = &row.subject;
            let _ = write!(text, "  {subject:subjects$}  {:destinations$} ", row.destination);
            for cell in &row.cells {
                let (mark, _) = cell.mark();
                let mark = match cell.verdict {
                    CellVerdict::Differs => paint(Verdict::Failed, mark),
                    CellVerdict::CouldNotTell => paint(Verdict::Inconclusive, mark),
                    _ => mark.to_owned(),
                };
                let _ = write!(text, "   {mark}");
            }
            let _ = writeln!(text);
        }
        let _ = writeln!(text, "\n  {LEGEND}");
        let _ = writeln!(text, "  NS is namespace {}", self.namespace);
        for column in &self.columns {
            let _ = writeln!(text, "  {:>3} {}", column.id, column.vantage);
        }
        for remark in &self.remarks {
            let _ = writeln!(text, "  {remark}");
        }
        let differences = self.differences();
        for difference in differences.iter().take(TOLD) {
            let Difference { row, cell, .. } = difference;
            let (verdict, word) = match cell.verdict {
                CellVerdict::Differs => (Verdict::Failed, "FAILED"),
                _ => (Verdict::Inconclusive, "could not tell"),
            };
            let _ = writeln!(text, "\n{} {}, {}", paint(verdict, word), row.subject, row.destination);
            for (name, value) in [
                ("promised", &cell.promised),
                ("seen", &difference.observed()),
                ("from", &difference.places()),
                ("to", &row.address),
            ] {
                if !value.is_empty() {
                    let _ = writeln!(text, "  {name:>9}  {value}");
                }
            }
        }
        if differences.len() > TOLD {
            let _ = writeln!(text, "\n... and {} more, all of them in report.json", differences.len() - TOLD);
        }
        let _ = writeln!(text, "\n  {}", self.in_words());
        let _ = writeln!(text, "  {}", self.age());
    }

    /// The table for the page.
    pub(crate) fn html(&self) -> Markup {
        html! {
            section #table {
                h2 { "The truth table" }
                p { (self.in_words()) "; " (self.age()) }
                div.wide tabindex="0" role="region" aria-label="The truth table" { table.truth {
                    thead { tr {
                        th { "of" } th { "destination" }
                        @for column in &self.columns { th title=(column.vantage) { (column.id) } }
                    } }
                    tbody {
                        @for row in &self.rows {
                            tr {
                                th scope="row" { (row.subject) }
                                th scope="row" title=(row.address) { (row.destination) }
                                @for (column, cell) in self.columns.iter().zip(&row.cells) {
                                    @let (mark, word) = cell.mark();
                                    td class=(cell.class()) {
                                        span role="img" title=(format!("{word}, from {}: {}", column.vantage, cell.promised))
                                            aria-label=(format!("{}: {word}", column.id)) { (mark) }
                                    }
                                }
                            }
                        }
                    }
                } }
                p.legend { (LEGEND) ". NS is namespace " (self.namespace) "." }
                p.legend {
                    @for (at, column) in self.columns.iter().enumerate() {
                        @if at > 0 { ", " }
                        b { (column.id) } " " (column.vantage)
                    }
                }
                @for remark in &self.remarks { p.legend { (remark) } }
                @let differences = self.differences();
                @for difference in differences.iter().take(TOLD) {
                    div.card class=(difference.cell.class()) {
                        h3 { (difference.row.subject) ", " (difference.row.destination) }
                        dl.finding {
                            dt { "promised" } dd { (difference.cell.promised) }
                            dt { "seen" } dd { (difference.observed()) }
                            dt { "from" } dd { (difference.places()) }
                            dt { "to" } dd { (difference.row.address) }
                        }
                    }
                }
                @if differences.len() > TOLD {
                    p { "... and " (differences.len() - TOLD) " more, all of them in report.json" }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(verdict: CellVerdict, answered: bool) -> CellReport {
        CellReport { verdict, answered, promised: "answered by `web-0`".to_owned(), ..CellReport::default() }
    }

    fn differs(seen: &str) -> CellReport {
        CellReport {
            seen: BTreeMap::from([(seen.to_owned(), 3)]),
            why: Some(format!("was {seen}; ready endpoints of `web` are `web-0`")),
            ..cell(CellVerdict::Differs, false)
        }
    }

    fn table() -> TableReport {
        let column =
            |id: &str, vantage: &str| ColumnReport { id: id.to_owned(), vantage: vantage.to_owned() };
        let row = |destination: &str, cells: Vec<CellReport>| RowReport {
            subject: "web".to_owned(),
            destination: destination.to_owned(),
            address: "10.96.0.7:80/TCP".to_owned(),
            cells,
        };
        TableReport {
            namespace: "shop".to_owned(),
            columns: vec![
                column("p1", "a pod on kube0"),
                column("n1", "node kube0"),
                column("out", "outside"),
            ],
            rows: vec![
                row(
                    "cluster IP, port 80/TCP",
                    vec![differs("refused"), differs("refused"), cell(CellVerdict::NotPromised, false)],
                ),
                row(
                    "unused port 81/TCP",
                    vec![
                        cell(CellVerdict::AsPromised, false),
                        cell(CellVerdict::AsPromised, true),
                        cell(CellVerdict::NotAsked, false),
                    ],
                ),
            ],
            remarks: vec!["load balancers: there is none".to_owned()],
            calls: 9,
            duration_us: 612_000,
            waited_ms: 5,
        }
    }

    #[test]
    fn what_differs_is_marked_and_told_once_for_all_places_that_saw_the_same() {
        let mut text = String::new();
        table().write(&mut text, |_, word| word.to_owned());
        assert!(text.starts_with(concat!(
            "                                 p1  n1 out\n",
            "  web  cluster IP, port 80/TCP    ✗   ✗   –\n",
            "       unused port 81/TCP         ○   ●   ·\n",
        )));
        assert!(text.contains(concat!(
            "FAILED web, cluster IP, port 80/TCP\n",
            "   promised  answered by `web-0`\n",
            "       seen  was refused; ready endpoints of `web` are `web-0` (6x refused)\n",
            "       from  a pod on kube0, node kube0\n",
            "         to  10.96.0.7:80/TCP\n",
        )));
        assert_eq!(text.matches("FAILED").count(), 1, "{text}");
        assert!(
            text.contains(
                "2 destinations x 3 vantages = 6 cells, 9 calls in 0.61 s: 2 as promised, 2 differ"
            )
        );
        assert!(text.contains("load balancers: there is none"));
    }

    #[test]
    fn what_was_answered_by_different_strangers_is_one_difference() {
        let mut table = table();
        table.rows[0].cells[0].why = Some("was answered by `a`; nobody may answer".to_owned());
        table.rows[0].cells[1].why = Some("was answered by `b`; nobody may answer".to_owned());
        assert_eq!(table.differences().len(), 1);
        table.rows[0].cells[1].why = Some("got no answer; ready endpoints of `web` are `web-0`".to_owned());
        assert_eq!(table.differences().len(), 2);
    }

    #[test]
    fn the_worst_cell_decides_and_an_empty_table_is_never_green() {
        let of = |cells: &[CellVerdict]| {
            let cells = cells.iter().map(|verdict| cell(*verdict, false)).collect();
            let row = RowReport {
                subject: String::new(),
                destination: String::new(),
                address: String::new(),
                cells,
            };
            TableReport { rows: vec![row], ..TableReport::default() }.verdict()
        };
        use CellVerdict::{AsPromised, CouldNotTell, Differs, NotAsked, NotPromised};
        assert_eq!(of(&[AsPromised, NotPromised, NotAsked]), Verdict::Passed);
        assert_eq!(of(&[AsPromised, CouldNotTell]), Verdict::Inconclusive);
        assert_eq!(of(&[Differs, CouldNotTell, AsPromised]), Verdict::Failed);
        assert_eq!(of(&[]), Verdict::Inconclusive);
        assert_eq!(of(&[NotPromised, NotAsked]), Verdict::Inconclusive);
    }

    #[test]
    fn the_page_has_every_cell_with_its_words() {
        let page = table().html().into_string();
        assert_eq!(page.matches("role=\"img\"").count(), 6);
        assert_eq!(page.matches("aria-label=\"p1: differs\"").count(), 1);
        assert!(page.contains("<dd>a pod on kube0, node kube0</dd>"), "{page}");
    }
}
