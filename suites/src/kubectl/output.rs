//! Outputs: what a command is expected to print, compared with what it printed. Tables are compared
//! column by column, everything else line by line and word by word.

use super::pattern::{Bindings, Pattern};

/// What a command is expected to print.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Output {
    parts: Vec<Part>,
    any_order: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Table {
        header: Vec<String>,
        rows: Vec<Vec<Cell>>,
    },
    Line {
        indented: bool,
        words: Vec<Cell>,
    },
    Blank,
    /// Any lines, or none.
    Rest,
}

/// A text of which its neighbours are independent. If it is a list of addresses, nobody promises
/// their order.
#[derive(Clone, Debug, PartialEq)]
struct Cell(Vec<Pattern>);

impl Output {
    /// Reads the expected lines.
    ///
    /// # Errors
    /// The number of the line at fault, from 0, and what is wrong with it.
    pub(crate) fn parse(lines: &[&str], any_order: bool) -> Result<Self, (usize, anyhow::Error)> {
        let mut parts = Vec::new();
        let mut index = 0;
        while let Some(line) = lines.get(index) {
            let start = index;
            index += 1;
            if line.trim().is_empty() {
                parts.push(Part::Blank);
            } else if line.trim() == "..." {
                parts.push(Part::Rest);
            } else if let Some(columns) = columns(line) {
                let mut rows = Vec::new();
                while let Some(row) = lines.get(index).filter(|row| !row.trim().is_empty()) {
                    let cells = cells(row, &columns).ok_or_else(|| {
                        (index, anyhow::anyhow!("the cells do not stand below the header's"))
                    })?;
                    let cells = cells.iter().map(|cell| Cell::parse(cell)).collect::<anyhow::Result<_>>();
                    rows.push(cells.map_err(|error| (index, error))?);
                    index += 1;
                }
                let header = cells(line, &columns).unwrap_or_default();
                parts.push(Part::Table { header: header.into_iter().map(str::to_owned).collect(), rows });
            } else {
                let words = line.split_whitespace().map(Cell::parse).collect::<anyhow::Result<_>>();
                let words = words.map_err(|error| (start, error))?;
                parts.push(Part::Line { indented: line.starts_with(char::is_whitespace), words });
            }
        }
        while parts.last() == Some(&Part::Blank) {
            parts.pop();
        }
        Ok(Self { parts, any_order })
    }

    /// What the variables are if this is what was printed; nothing if it is not.
    pub(crate) fn compare(&self, seen: &str, known: &Bindings) -> Option<Bindings> {
        let lines: Vec<&str> = seen.trim_end().lines().collect();
        let ways = if self.any_order {
            let rest = self.parts.contains(&Part::Rest);
            let lines: Vec<&str> = lines.into_iter().filter(|line| !line.trim().is_empty()).collect();
            let parts: Vec<&Part> =
                self.parts.iter().filter(|part| !matches!(part, Part::Rest | Part::Blank)).collect();
            let line = |part: &&Part, line: &&str, known: &Bindings| part_is_line(part, line, known);
            if parts.len() == lines.len() || rest {
                in_any_order(&parts, &lines, known, &line)
            } else {
                Vec::new()
            }
        } else {
            in_order(&self.parts, &lines, known)
        };
        ways.into_iter().next()
    }
}

impl Cell {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let items = text.split(',').map(Pattern::parse).collect::<anyhow::Result<Vec<_>>>()?;
        let address = |(item, text): (&Pattern, &str)| item.has_places() || text.matches('.').count() == 3;
        if items.len() > 1 && items.iter().zip(text.split(',')).all(address) {
            return Ok(Self(items));
        }
        Ok(Self(vec![Pattern::parse(text)?]))
    }

    fn ways(&self, seen: &str, known: &Bindings) -> Vec<Bindings> {
        if let [whole] = self.0.as_slice() {
            return whole.ways(seen, known);
        }
        let items: Vec<&str> = seen.split(',').collect();
        if items.len() != self.0.len() {
            return Vec::new();
        }
        in_any_order(&self.0, &items, known, &|pattern, item, known| pattern.ways(item, known))
    }

    fn has_places(&self) -> bool {
        self.0.iter().any(Pattern::has_places)
    }
}

fn in_order(parts: &[Part], lines: &[&str], known: &Bindings) -> Vec<Bindings> {
    let Some((part, others)) = parts.split_first() else {
        return if lines.is_empty() { vec![known.clone()] } else { Vec::new() };
    };
    match part {
        Part::Rest => {
            (0..=lines.len()).flat_map(|skipped| in_order(others, &lines[skipped..], known)).collect()
        }
        Part::Table { header, rows } => {
            let Some((first, below)) = lines.split_first() else { return Vec::new() };
            let Some(columns) =
                columns(first).filter(|columns| cells(first, columns).is_some_and(|seen| seen == *header))
            else {
                return Vec::new();
            };
            let end = below.iter().position(|line| line.trim().is_empty()).unwrap_or(below.len());
            let (below, after) = below.split_at(end);
            let Some(seen) = below.iter().map(|row| cells(row, &columns)).collect::<Option<Vec<_>>>() else {
                return Vec::new();
            };
            let ways = table(rows, &seen, known);
            ways.iter().flat_map(|known| in_order(others, after, known)).collect()
        }
        Part::Blank | Part::Line { .. } => {
            let Some((line, after)) = lines.split_first() else { return Vec::new() };
            let ways = part_is_line(part, line, known);
            ways.iter().flat_map(|known| in_order(others, after, known)).collect()
        }
    }
}

fn part_is_line(part: &Part, line: &str, known: &Bindings) -> Vec<Bindings> {
    match part {
        Part::Blank if line.trim().is_empty() => vec![known.clone()],
        Part::Line { indented, words } if *indented == line.starts_with(char::is_whitespace) => {
            row(words, &line.split_whitespace().collect::<Vec<_>>(), known)
        }
        _ => Vec::new(),
    }
}

/// Rows come in the order of their names; where the names are variables, nobody knows it.
fn table(rows: &[Vec<Cell>], seen: &[Vec<&str>], known: &Bindings) -> Vec<Bindings> {
    if rows.len() != seen.len() {
        return Vec::new();
    }
    let Some(first) = rows.first() else { return vec![known.clone()] };
    let generated = |cells: &Vec<Cell>| cells.first().is_some_and(Cell::has_places);
    let length = match rows.iter().position(|cells| !generated(cells)) {
        None => rows.len(),
        Some(0) => 1,
        Some(length) => length,
    };
    let ways = if generated(first) {
        in_any_order(&rows[..length], &seen[..length], known, &|cells, seen, known| row(cells, seen, known))
    } else {
        row(first, &seen[0], known)
    };
    ways.iter().flat_map(|known| table(&rows[length..], &seen[length..], known)).collect()
}

fn row(cells: &[Cell], seen: &[&str], known: &Bindings) -> Vec<Bindings> {
    if cells.len() != seen.len() {
        return Vec::new();
    }
    cells.iter().zip(seen).fold(vec![known.clone()], |ways, (cell, seen)| {
        ways.iter().flat_map(|known| cell.ways(seen, known)).collect()
    })
}

/// Every way to find each of the wanted among the seen, no two of them in the same.
fn in_any_order<W, S>(
    wanted: &[W],
    seen: &[S],
    known: &Bindings,
    fits: &impl Fn(&W, &S, &Bindings) -> Vec<Bindings>,
) -> Vec<Bindings>
where
    S: Clone,
{
    let Some((first, others)) = wanted.split_first() else { return vec![known.clone()] };
    let mut found = Vec::new();
    for (index, candidate) in seen.iter().enumerate() {
        for known in fits(first, candidate, known) {
            let left = [&seen[..index], &seen[index + 1..]].concat();
            found.extend(in_any_order(others, &left, &known, fits));
        }
    }
    found
}

/// Where the columns of a table begin, if the line is the header of one.
fn columns(line: &str) -> Option<Vec<usize>> {
    let shouted = |c: char| c.is_ascii_uppercase() || " -()".contains(c);
    if !line.starts_with(|c: char| c.is_ascii_uppercase())
        || !line.chars().all(shouted)
        || !line.contains("  ")
    {
        return None;
    }
    let bytes = line.as_bytes();
    let begins = |&at: &usize| bytes[at] != b' ' && (at == 0 || at >= 2 && bytes[at - 2..at] == *b"  ");
    Some((0..line.len()).filter(begins).collect())
}

/// The cells of a row, if it has blanks where columns begin. A cell may be empty.
fn cells<'a>(row: &'a str, columns: &[usize]) -> Option<Vec<&'a str>> {
    let mut cells = Vec::new();
    for (index, &start) in columns.iter().enumerate() {
        let end = columns.get(index + 1).copied().unwrap_or(row.len()).min(row.len());
        if start > 0 && start <= row.len() && row.as_bytes()[start - 1] != b' ' {
            return None;
        }
        cells.push(row.get(start.min(row.len())..end.max(start.min(row.len())))?.trim());
    }
    Some(cells)
}
