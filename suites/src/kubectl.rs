//! kubectl: a walk through Services at a terminal, every command with what it prints.

mod editor;
mod output;
mod pattern;
mod play;
#[cfg(test)]
mod proofs;
mod shell;
mod text;

use std::time::Duration;

use anyhow::Context as _;
use stickler::{Broken, Capability, Check, Class, Held, Scene, Terminal, notes};

pub(crate) use editor::dispatch as editor;
use play::{Stumble, play};
use shell::Shell;
pub use shell::kubectl_minor;
pub use text::Chapter;
use text::Text;

pub(crate) const CHECKS: &[Check] = &[Check {
    id: "kubectl/transcript",
    title: "an unmodified kubectl prints what the notes show: create, get, describe, exec, edit, delete",
    class: Class::Observation,
    promised_by: &[notes("every command, as suites/transcript/notes.md has them")],
    needs: &[Capability::NotesLab, Capability::Kubectl],
    exclusive: false,
    run: |scene| Box::pin(transcript(scene)),
}];

const NOTES: &str = include_str!("../transcript/notes.md");

/// The namespace the text is written for.
pub const NAMESPACE: &str = "default";

/// The chapters of the check. Others take longer, because their probes look every ten seconds, or change
/// what a cluster has only one of, such as a fixed node port: all are played as tests, each on a cluster
/// of its own.
const CORE: [&str; 3] = ["A service", "Session affinity", "Endpoints"];

/// The chapters, as they are for one minor version of kubectl and in one namespace.
///
/// # Errors
/// What is wrong with the text, and in which line.
pub fn chapters(kubectl: u32, namespace: &str) -> anyhow::Result<Vec<Chapter>> {
    let text = Text::parse(NOTES, kubectl, namespace)?;
    Ok(text.chapters.into_iter().filter(|chapter| !chapter.steps.is_empty()).collect())
}

/// Plays a chapter in its namespace, which must be empty; `after_a_while` is how long that may be.
///
/// # Errors
/// The first command that printed something else.
pub async fn perform(terminal: &dyn Terminal, chapter: &Chapter, after_a_while: Duration) -> Held {
    let shell = Shell::open(terminal, &chapter.namespace, &Text::files(NOTES)?).await?;
    let played = play(chapter, &shell, after_a_while).await;
    played.map_err(|stumble| match stumble {
        Stumble::Otherwise { promised, observed } => Broken::promise(promised, observed),
        Stumble::Lost(error) => error.into(),
    })
}

/// The core chapters, each in a namespace of its own.
async fn transcript(scene: &mut Scene) -> Held {
    let kubectl = kubectl_minor().map_err(anyhow::Error::msg)?;
    for (number, title) in CORE.into_iter().enumerate() {
        let namespace = scene.another_namespace(&number.to_string()).await?;
        let chapter = Text::parse(&only(title), kubectl, &namespace)?.chapters.pop();
        let chapter = chapter.with_context(|| format!("no chapter is called `{title}`"))?;
        perform(scene.terminal()?, &chapter, scene.bounds().pods_ready).await?;
    }
    Ok(())
}

/// The text without its other chapters; lines keep their numbers.
fn only(title: &str) -> String {
    let mut inside = false;
    let lines = NOTES.lines().map(|line| {
        if let Some(heading) = line.strip_prefix("## ") {
            inside = heading == title;
        }
        if inside { format!("{line}\n") } else { "\n".to_owned() }
    });
    lines.collect()
}
