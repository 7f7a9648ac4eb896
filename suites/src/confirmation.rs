//! Which real components confirmed a check: they were held to it, and it passed.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use stickler::Check;

/// `suites/confirmed.toml`, which `stickler compare --confirm` writes.
#[derive(Deserialize)]
struct File {
    confirmed: BTreeMap<String, Vec<String>>,
}

static CONFIRMED: LazyLock<Result<File, toml::de::Error>> =
    LazyLock::new(|| toml::from_str(include_str!("../confirmed.toml")));

/// The real components that a check held on, by name and version; none if it only held on our own.
pub fn confirmed_by(check: &Check) -> &'static [String] {
    CONFIRMED.as_ref().ok().and_then(|file| file.confirmed.get(check.id)).map_or(&[], Vec::as_slice)
}

/// What is wrong with the file; none if all is well.
pub(crate) fn mistakes() -> Vec<String> {
    match CONFIRMED.as_ref() {
        Ok(file) => {
            let unknown = file.confirmed.keys().filter(|id| !crate::all().any(|check| check.id == **id));
            unknown.map(|id| format!("suites/confirmed.toml names `{id}`, which is no check")).collect()
        }
        Err(error) => vec![format!("suites/confirmed.toml cannot be read: {error}")],
    }
}
