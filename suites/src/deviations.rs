//! Files of known deviations: what `--expect` and [`Conformance::expecting`](crate::Conformance::expecting)
//! read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use stickler_reports::{Deviation, Difference, Flow, KnownDifference, Place, Transport};

/// A file of known deviations of one implementation.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    /// Whose they are, for people.
    #[expect(dead_code, reason = "a file says whose deviations it lists, and must")]
    implementation: String,
    #[serde(default, rename = "deviation")]
    deviations: Vec<Entry>,
}

/// What shows a deviation: a check that fails, differences that explorations see, or both.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    check: Option<String>,
    explore: Option<Vec<Difference>>,
    reason: String,
    source: String,
    #[serde(default)]
    sometimes: bool,
}

/// Reads the checks that are known to fail, of all files together.
///
/// # Errors
/// If a file cannot be read, is not of that form, names a check that does not exist or a difference that
/// cannot be, or if something is named twice.
pub fn known_deviations(files: &[PathBuf]) -> anyhow::Result<Vec<Deviation>> {
    let deviation = |Entry { check, reason, source, sometimes, .. }: Entry| {
        Some(Deviation { check: check?, reason, source, sometimes })
    };
    Ok(read(files)?.into_iter().filter_map(deviation).collect())
}

/// Reads the differences that explorations are known to see, of all files together.
///
/// # Errors
/// As [`known_deviations`].
pub fn known_differences(files: &[PathBuf]) -> anyhow::Result<Vec<KnownDifference>> {
    let difference = |Entry { explore, reason, source, .. }: Entry| {
        Some(KnownDifference { explore: explore?, reason, source })
    };
    Ok(read(files)?.into_iter().filter_map(difference).collect())
}

fn read(files: &[PathBuf]) -> anyhow::Result<Vec<Entry>> {
    let known: BTreeSet<&str> = crate::all().map(|check| check.id).collect();
    let mut all: Vec<Entry> = Vec::new();
    for file in files {
        for entry in read_one(file)? {
            let file = file.display();
            let at = match (&entry.check, &entry.explore) {
                (Some(check), _) => format!("`{file}` names the check `{check}`"),
                (None, Some(explore)) => {
                    let first = explore.first().map(|first| format!(" `{first}`")).unwrap_or_default();
                    format!("`{file}` names the difference{first}")
                }
                (None, None) => bail!(
                    "`{file}` has a deviation that names neither a check nor a difference; give it `check`, \
                     `explore` or both"
                ),
            };
            if let Some(check) = &entry.check {
                if !known.contains(check.as_str()) {
                    bail!("{at}, which does not exist; `stickler list` names them all");
                }
                if all.iter().any(|earlier| earlier.check.as_ref() == Some(check)) {
                    bail!("{at}, which was named before; keep one of the entries");
                }
            } else if entry.sometimes {
                bail!(
                    "{at}, which nobody expects to show each time; `sometimes` is for checks, leave it out"
                );
            }
            if entry.explore.as_ref().is_some_and(Vec::is_empty) {
                bail!("`{file}` has an empty list `explore`; leave it out if explorations do not see it");
            }
            for explore in entry.explore.iter().flatten() {
                if let Some(why) = cannot_be(explore) {
                    bail!("`{file}` names the difference `{explore}`, which cannot be: {why}");
                }
                let covers =
                    |earlier: &Entry| earlier.explore.iter().flatten().any(|one| one.covers(explore));
                if let Some(earlier) = all.iter().find(|earlier| covers(earlier)) {
                    let because = &earlier.reason;
                    bail!(
                        "`{file}` names the difference `{explore}`, which an earlier entry covers (\"{because}\"); \
                         keep one of them, or put the narrower one first"
                    );
                }
            }
            if entry.reason.trim().is_empty() || entry.source.trim().is_empty() {
                bail!("{at} without saying why, or where that can be read; fill in `reason` and `source`");
            }
            all.push(entry);
        }
    }
    Ok(all)
}

/// Why explorations cannot see such a difference.
fn cannot_be(difference: &Difference) -> Option<&'static str> {
    if difference.by.as_ref().is_some_and(|by| by.trim().is_empty()) {
        return Some("`by` is empty; leave it out if it does not matter who promised it");
    }
    if difference.flow == Flow::Known && difference.protocol != Transport::Udp {
        return Some("only flows of UDP are looked at again");
    }
    (difference.flow == Flow::Known && difference.at == Place::Pod)
        .then_some("only flows to services are looked at again")
}

fn read_one(file: &Path) -> anyhow::Result<Vec<Entry>> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("the known deviations `{}` cannot be read", file.display()))?;
    let expected: Expected = toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
        anyhow::anyhow!(
            "`{}`, line {line}: {}; a file of known deviations has `implementation = \"...\"` and, for each, \
             `[[deviation]]` with `check`, `explore = [{{ at, protocol, flow, promised, seen, by }}, ...]` or both, \
             `reason`, `source` and, if the check passes now and then, `sometimes = true`",
            file.display(),
            error.message()
        )
    })?;
    Ok(expected.deviations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_that_are_there_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../expected");
        let mut read = 0;
        for entry in std::fs::read_dir(&folder).expect("the folder") {
            let path = entry.expect("an entry").path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            // Each is for itself: two may be of two parts of one implementation.
            let files = [path];
            let checks = known_deviations(&files).unwrap_or_else(|why| panic!("{why:#}"));
            let differences = known_differences(&files).unwrap_or_else(|why| panic!("{why:#}"));
            assert!(!checks.is_empty() || !differences.is_empty(), "{files:?} lists nothing");
            read += 1;
        }
        assert!(read > 0, "there is no file in {}", folder.display());
    }
}
