//! Playing a chapter: its commands one after the other, each until it prints what it is to print.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::pattern::Bindings;
use super::text::{Chapter, Step};

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

/// Somebody who can be given commands.
pub(crate) trait Give: Sync {
    /// Gives a command and waits for its end.
    fn give<'a>(&'a self, step: &'a Step, words: &'a [String]) -> BoxFuture<'a, anyhow::Result<Seen>>;
}

/// Why a chapter was not played to its end.
#[derive(Debug)]
pub(crate) enum Stumble {
    /// A command printed something else, or ended otherwise.
    Otherwise { promised: String, observed: String },
    /// A command could not be given.
    Lost(anyhow::Error),
}

/// Plays a chapter; `while_` is how long "after a while" may be.
///
/// # Errors
/// The command, what was expected of it, and what was seen instead.
pub(crate) async fn play(chapter: &Chapter, shell: &impl Give, while_: Duration) -> Result<(), Stumble> {
    let mut known = Bindings::default();
    for step in &chapter.steps {
        let words = step.command.iter().map(|word| word.fill(&known)).collect::<anyhow::Result<Vec<_>>>();
        let words = words.map_err(|error| lost(step, &step.typed, error))?;
        let deadline = Instant::now() + while_;
        let mut ticks = interval(AGAIN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        known = loop {
            ticks.tick().await;
            let seen = shell.give(step, &words).await;
            let seen = seen.map_err(|error| lost(step, &words.join(" "), error))?;
            if seen.code == Some(step.exit)
                && let Some(bound) = step.expected.compare(&seen.text, &known)
            {
                break bound;
            }
            if !step.repeated || Instant::now() >= deadline {
                return Err(complaint(step, &words, &seen, &known, while_));
            }
        };
    }
    Ok(())
}

fn lost(step: &Step, command: &str, error: anyhow::Error) -> Stumble {
    Stumble::Lost(error.context(format!("line {}: {command}", step.line)))
}

fn complaint(step: &Step, words: &[String], seen: &Seen, known: &Bindings, while_: Duration) -> Stumble {
    let quoted = |text: &str| match text.trim_end() {
        "" => "    (nothing)".to_owned(),
        text => text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n"),
    };
    let promised = format!(
        "line {} of the transcript: {}{}\n  ends with exit code {} and prints:\n{}",
        step.line,
        words.join(" "),
        if step.repeated { format!(" (again and again for {while_:?})") } else { String::new() },
        step.exit,
        quoted(&step.printed),
    );
    let code = seen.code.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"));
    let variables = match known.in_words() {
        empty if empty.is_empty() => "no variable has a value yet".to_owned(),
        words => words,
    };
    let observed = format!("it ended with {code} and printed:\n{}\n  where {variables}", quoted(&seen.text));
    Stumble::Otherwise { promised, observed }
}
