//! Playing a chapter: its commands one after the other, each until it prints what it is to print.

use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::pattern::Bindings;
use crate::text::{Chapter, Step};

/// How often a command is given again that is to print something else after a while.
const AGAIN: Duration = Duration::from_millis(250);

/// What a command printed, on standard output and standard error together as in a terminal, and how
/// it ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) text: String,
    /// Nothing if a signal ended it.
    pub(crate) code: Option<i32>,
}

/// Plays a chapter; `while_` is how long "after a while" may be.
///
/// # Errors
/// The command, what was expected of it, and what was seen instead.
pub(crate) async fn play(
    chapter: &Chapter,
    shell: &impl AsyncFn(&Step, &[String]) -> anyhow::Result<Seen>,
    while_: Duration,
) -> anyhow::Result<()> {
    let mut known = Bindings::default();
    for step in &chapter.steps {
        let words = step.command.iter().map(|word| word.fill(&known)).collect::<anyhow::Result<Vec<_>>>();
        let words = words.map_err(|error| error.context(format!("line {}: {}", step.line, step.typed)))?;
        let deadline = Instant::now() + while_;
        let mut ticks = interval(AGAIN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        known = loop {
            ticks.tick().await;
            let seen = shell(step, &words).await;
            let seen =
                seen.map_err(|error| error.context(format!("line {}: {}", step.line, words.join(" "))))?;
            if seen.code == Some(step.exit)
                && let Some(bound) = step.expected.compare(&seen.text, &known)
            {
                break bound;
            }
            if !step.repeated || Instant::now() >= deadline {
                bail!("{}", complaint(step, &words, &seen, &known, while_));
            }
        };
    }
    Ok(())
}

fn complaint(step: &Step, words: &[String], seen: &Seen, known: &Bindings, while_: Duration) -> String {
    let code = |code: Option<i32>| code.map_or_else(|| "a signal".to_owned(), |code| code.to_string());
    let quoted = |text: &str| match text.trim_end() {
        "" => "    (nothing)\n".to_owned(),
        text => text.lines().map(|line| format!("    {line}\n")).collect(),
    };
    format!(
        "line {} of the transcript: {}{}\n  expected, with exit code {}:\n{}  seen, with exit code {}:\n{}  where {}",
        step.line,
        words.join(" "),
        if step.repeated { format!(" (again and again for {while_:?})") } else { String::new() },
        step.exit,
        quoted(&step.printed),
        code(seen.code),
        quoted(&seen.text),
        match known.in_words() {
            empty if empty.is_empty() => "no variable has a value yet".to_owned(),
            words => words,
        }
    )
}
