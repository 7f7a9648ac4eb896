//! The editor kubectl opens: makes one change, once.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};

/// The name under which the running program is this editor.
pub(crate) const NAME: &str = "editor-of-the-transcript";
/// The variable that says where the change is; the file goes away when it was made, because kubectl
/// opens the editor again when the object is refused.
pub(crate) const CHANGE: &str = "STICKLER_TRANSCRIPT_CHANGE";

/// Is this process the editor? Then it has done its work, and this is how it ends.
pub(crate) fn dispatch() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    let called = arguments.next()?;
    if Path::new(&called).file_name()? != NAME {
        return None;
    }
    let done =
        arguments.next_back().context("no file to edit was named").and_then(|file| edit(Path::new(&file)));
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            // Nothing else can be done about an error that cannot be written.
            let _ = writeln!(std::io::stderr(), "{NAME}: {error:#}");
            ExitCode::FAILURE
        }
    })
}

fn edit(file: &Path) -> anyhow::Result<()> {
    let change = std::env::var_os(CHANGE).with_context(|| format!("`{CHANGE}` is not set"))?;
    let diff = std::fs::read_to_string(&change).context("the change was made already, or never written")?;
    std::fs::remove_file(&change)?;
    let text = std::fs::read_to_string(file)?;
    std::fs::write(file, changed(&text, &diff)?)?;
    Ok(())
}

/// Makes a change: lines with `+` come, lines with `-` go, the others, which begin with a blank, say
/// where.
pub(crate) fn changed(text: &str, diff: &str) -> anyhow::Result<String> {
    let side = |other: char| -> Vec<&str> {
        diff.lines()
            .filter(|line| !line.starts_with(other))
            .map(|line| line.get(1..).unwrap_or_default())
            .collect()
    };
    let (old, new) = (side('+'), side('-'));
    ensure!(!old.is_empty(), "the change does not say where");
    let lines: Vec<&str> = text.lines().collect();
    let places: Vec<usize> =
        lines.windows(old.len()).enumerate().filter(|(_, lines)| *lines == old).map(|(at, _)| at).collect();
    let [at] = places[..] else {
        anyhow::bail!("the file has {} places like `{}`, not 1", places.len(), old.join("\\n"));
    };
    let lines = lines[..at].iter().chain(&new).chain(&lines[at + old.len()..]);
    Ok(lines.map(|line| format!("{line}\n")).collect())
}
