//! `UPSTREAM.md`, the table of upstream's tests and of the checks that stand for them, fits the catalogue.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What stands above the columns of every table.
const COLUMNS: [&str; 3] = ["upstream test", "our checks", "remarks"];

/// How the remark of a test begins that no check stands for.
const REASONS: [&str; 3] = ["not yet: ", "not promised: ", "out of scope: "];

/// One test of upstream's.
struct Row {
    line: usize,
    test: String,
    /// As it is written.
    checks: String,
    remark: String,
}

impl Row {
    /// The ids of the checks that stand for it.
    fn ids(&self) -> Vec<&str> {
        if self.checks == "-" {
            return Vec::new();
        }
        let id = |word| bare(word).unwrap_or_else(|| panic!("{self}: `{word}` is no id in backticks"));
        let ids: Vec<&str> = self.checks.split_whitespace().map(id).collect();
        assert!(!ids.is_empty(), "{self}: a test without checks has `-` in the second column");
        ids
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UPSTREAM.md:{}, \"{}\"", self.line, self.test)
    }
}

#[test]
fn every_id_is_a_check() {
    let known: BTreeSet<&str> = stickler_suites::all().map(|check| check.id).collect();
    for row in rows() {
        let ids = row.ids();
        for id in &ids {
            assert!(known.contains(id), "{row}: there is no check `{id}`; see `stickler list`");
        }
        let different: BTreeSet<&str> = ids.iter().copied().collect();
        assert_eq!(different.len(), ids.len(), "{row} names a check twice");
    }
}

#[test]
fn what_has_no_check_has_a_reason() {
    for row in rows() {
        let has_reason = REASONS.iter().any(|reason| row.remark.starts_with(reason));
        if row.ids().is_empty() {
            assert!(has_reason, "{row} has no check, so its remark begins with one of {REASONS:?}");
        } else {
            assert!(!has_reason, "{row} has checks; what they leave out begins with `partly: `");
        }
    }
}

#[test]
fn no_upstream_test_stands_in_it_twice() {
    let mut lines = BTreeMap::new();
    for row in rows() {
        assert!(!row.test.is_empty(), "{row} has no name");
        if let Some(before) = lines.insert(row.test.clone(), row.line) {
            panic!("{row} stands in line {before} as well");
        }
    }
}

#[test]
fn every_section_has_one_table() {
    let text = text();
    let sections = text.lines().filter(|line| line.starts_with("## ")).count();
    let tables = tables(&text).filter(|(_, cells)| *cells == COLUMNS).count();
    assert_eq!(tables, sections, "each `## ` of UPSTREAM.md has one table, and its columns are {COLUMNS:?}");
}

/// Every row of every table.
fn rows() -> Vec<Row> {
    let text = text();
    let is_row = |cells: &[&str; 3]| *cells != COLUMNS && !cells.iter().all(|cell| *cell == "---");
    let rows: Vec<Row> = tables(&text)
        .filter(|(_, cells)| is_row(cells))
        .map(|(line, [test, checks, remark])| Row {
            line,
            test: test.to_owned(),
            checks: checks.to_owned(),
            remark: remark.to_owned(),
        })
        .collect();
    assert!(!rows.is_empty(), "UPSTREAM.md has no rows");
    rows
}

/// Every line of a table: its number and its cells.
fn tables(text: &str) -> impl Iterator<Item = (usize, [&str; 3])> {
    (1..).zip(text.lines()).filter(|(_, line)| line.starts_with('|')).map(|(number, line)| {
        let inner = line.strip_prefix('|').and_then(|line| line.strip_suffix('|'));
        let cells: Vec<&str> = inner.unwrap_or_default().split('|').map(str::trim).collect();
        let count = cells.len();
        let cells = cells.try_into();
        (number, cells.unwrap_or_else(|_| panic!("UPSTREAM.md:{number}: {count} cells instead of three")))
    })
}

/// What stands between backticks.
fn bare(word: &str) -> Option<&str> {
    word.strip_prefix('`')?.strip_suffix('`')
}

fn text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("UPSTREAM.md");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
