//! The notes as a transcript: every command of `transcript/notes.md` is given to a real kubectl and a
//! testbed, and must print what the text says.

#[cfg(target_os = "linux")]
mod editor;
#[cfg(target_os = "linux")]
mod output;
#[cfg(target_os = "linux")]
mod pattern;
#[cfg(target_os = "linux")]
mod play;
#[cfg(target_os = "linux")]
mod proofs;
#[cfg(target_os = "linux")]
mod shell;
#[cfg(target_os = "linux")]
mod text;

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = stickler::reexec() {
        return code;
    }
    #[cfg(target_os = "linux")]
    return on_testbed::main();
    #[cfg(not(target_os = "linux"))]
    return ExitCode::SUCCESS;
}

#[cfg(target_os = "linux")]
mod on_testbed {
    use std::process::ExitCode;
    use std::sync::Arc;
    use std::time::Duration;

    use libtest_mimic::{Arguments, Completion, Failed, Trial};
    use stickler_testbed::{Testbed, TestbedSpec};
    use tokio::runtime::Runtime;

    use crate::play::play;
    use crate::shell::{Shell, kubectl_minor};
    use crate::text::{Chapter, Text};
    use crate::{editor, proofs};

    const NOTES: &str = include_str!("../../transcript/notes.md");
    /// The most "after a while" may be. The notes' readiness probes look every ten seconds.
    const WHILE: Duration = Duration::from_secs(40);
    /// The kubectl the text is read for where there is none: its commands are listed all the same.
    const USUAL_KUBECTL: u32 = 32;

    pub(crate) fn main() -> ExitCode {
        if let Some(code) = editor::dispatch() {
            return code;
        }
        let mut arguments = Arguments::from_args();
        // Chapters wait for probes more than they compute.
        arguments.test_threads = arguments.test_threads.or(Some(4));
        match trials() {
            Ok(trials) => libtest_mimic::run(&arguments, trials).exit_code(),
            Err(error) => {
                use std::io::Write as _;
                // Nothing else can be done about an error that cannot be written.
                let _ = writeln!(std::io::stderr(), "error: {error:#}");
                ExitCode::from(2)
            }
        }
    }

    fn trials() -> anyhow::Result<Vec<Trial>> {
        stickler_testbed::enter::enter()?;
        let kubectl = kubectl_minor();
        let text = Text::parse(NOTES, kubectl.as_ref().copied().unwrap_or(USUAL_KUBECTL))?;
        let mut trials: Vec<Trial> = proofs::TESTS
            .iter()
            .map(|(name, test)| {
                Trial::test(format!("proofs::{name}"), move || {
                    test();
                    Ok(())
                })
            })
            .collect();
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            anyhow::bail!("another cryptography provider is installed already");
        }
        let runtime = Arc::new(Runtime::new()?);
        for chapter in text.chapters.into_iter().filter(|chapter| !chapter.steps.is_empty()) {
            let name = format!(
                "notes::{}",
                chapter.title.to_lowercase().replace(|c: char| !c.is_alphanumeric(), "_")
            );
            let (runtime, kubectl) = (Arc::clone(&runtime), kubectl.clone());
            trials.push(Trial::ignorable_test(name, move || match kubectl {
                Ok(_) => perform(&runtime, &chapter),
                Err(reason) => Ok(Completion::ignored_with(reason)),
            }));
        }
        Ok(trials)
    }

    /// Every chapter has a cluster of its own: the notes use the namespace `default`.
    fn perform(runtime: &Runtime, chapter: &Chapter) -> Result<Completion, Failed> {
        let testbed = runtime.block_on(Testbed::start(TestbedSpec::default()));
        let testbed = testbed.map_err(|error| error.to_string())?;
        let played = Shell::open(&testbed).and_then(|shell| {
            runtime.block_on(play(chapter, &async |step, words| shell.give(step, words).await, WHILE))
        });
        played.map_err(|error| format!("{error:#}"))?;
        Ok(Completion::Completed)
    }
}
