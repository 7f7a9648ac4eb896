//! Files of known deviations: what `--expect` and [`Conformance::expecting`](crate::Conformance::expecting)
//! read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use stickler_reports::Deviation;

/// A file of known deviations of one implementation.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    /// Whose they are, for people.
    #[expect(dead_code, reason = "a file says whose deviations it lists, and must")]
    implementation: String,
    #[serde(default, rename = "deviation")]
    deviations: Vec<Deviation>,
}

/// Reads all of them together.
///
/// # Errors
/// If a file cannot be read, is not of that form, names a check that does not exist, or if a check
/// is named twice.
pub fn known_deviations(files: &[PathBuf]) -> anyhow::Result<Vec<Deviation>> {
    let known: BTreeSet<&str> = crate::all().map(|check| check.id).collect();
    let mut all: Vec<Deviation> = Vec::new();
    for file in files {
        for deviation in read_one(file)? {
            let at = format!("`{}` names the check `{}`", file.display(), deviation.check);
            if !known.contains(deviation.check.as_str()) {
                bail!("{at}, which does not exist; `stickler list` names them all");
            }
            if all.iter().any(|earlier| earlier.check == deviation.check) {
                bail!("{at}, which was named before; keep one of the entries");
            }
            if deviation.reason.trim().is_empty() || deviation.source.trim().is_empty() {
                bail!("{at} without saying why, or where that can be read; fill in `reason` and `source`");
            }
            all.push(deviation);
        }
    }
    Ok(all)
}

fn read_one(file: &Path) -> anyhow::Result<Vec<Deviation>> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("the known deviations `{}` cannot be read", file.display()))?;
    let expected: Expected = toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
        anyhow::anyhow!(
            "`{}`, line {line}: {}; a file of known deviations has `implementation = \"...\"` and, for each \
             check, `[[deviation]]` with `check`, `reason`, `source` and, if it passes now and then, \
             `sometimes = true`",
            file.display(),
            error.message()
        )
    })?;
    Ok(expected.deviations)
}
