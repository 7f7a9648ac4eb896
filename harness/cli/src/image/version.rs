//! Which version of the programs of pods an executable has: whatever its architecture, so it is not asked
//! but read.

use anyhow::bail;
use memchr::memmem;
use stickler::PODS_VERSION;

use super::elf::Architecture;

/// How a version begins, and what stands before its last word: the number of its sources, in hexadecimal.
const NAME: &[u8] = b"stickler-pods ";
const SOURCES: &[u8] = b" of sources ";
const NUMBER: usize = 16;
/// The most that stands between them.
const PACKAGE: usize = 32;

/// Insists on the programs that this one was made with: what the harness asks of them, and how, changes.
///
/// # Errors
/// What it is instead, and how to build another.
pub(super) fn insist_on_ours(content: &[u8], architecture: Architecture) -> anyhow::Result<()> {
    if memmem::find(content, PODS_VERSION.as_bytes()).is_some() {
        return Ok(());
    }
    let is = match found(content) {
        Some(version) => format!("it is `{version}`"),
        None => "it does not say which version it is".to_owned(),
    };
    bail!(
        "{is}, and `{PODS_VERSION}` is needed; build it from the sources of this program, with \
         `RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --package stickler-pods --target \
         {}-unknown-linux-gnu`",
        architecture.rust()
    )
}

/// The version an executable says it is.
fn found(content: &[u8]) -> Option<&str> {
    memmem::find_iter(content, SOURCES).find_map(|at| {
        let end = at + SOURCES.len() + NUMBER;
        let number = content.get(at + SOURCES.len()..end)?;
        let before = at.saturating_sub(PACKAGE + NAME.len());
        let begin = before + memmem::rfind(content.get(before..at)?, NAME)?;
        let is_version = number.iter().all(u8::is_ascii_hexdigit);
        is_version.then(|| str::from_utf8(&content[begin..end]).ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_wherever_it_stands() {
        let other = "stickler-pods 0.0.9 of sources 0123456789abcdef";
        let among =
            |version: &str| [b"\x7fELF of sources of nothing\0", version.as_bytes(), b" more"].concat();
        let insist =
            |content: &[u8]| insist_on_ours(content, Architecture::Arm64).map_err(|no| no.to_string());
        insist(&among(PODS_VERSION)).expect("its own");
        let error = insist(&among(other)).expect_err("another");
        assert!(error.starts_with(&format!("it is `{other}`, and `{PODS_VERSION}` is needed")), "{error}");
        assert!(error.contains("--target aarch64-unknown-linux-gnu"), "{error}");
        for none in [&b""[..], &among("stickler-pods 0.0.9"), b" of sources 0123456789abcdef"] {
            let error = insist(none).expect_err("none");
            assert!(error.starts_with("it does not say which version it is, and `"), "{error}");
        }
    }
}
