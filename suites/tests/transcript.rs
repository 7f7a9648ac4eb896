//! The notes as a transcript: every command of `transcript/notes.md` is given to a real kubectl and a
//! testbed, and must print what the text says.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = stickler_suites::reexec() {
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

    use anyhow::Context as _;
    use libtest_mimic::{Arguments, Completion, Failed, Trial};
    use stickler::providers::TestbedProvider;
    use stickler::{Broken, Provider as _};
    use stickler_suites::transcript::{Chapter, NAMESPACE, chapters, kubectl_minor, perform};
    use tokio::runtime::Runtime;

    /// The most "after a while" may be. The notes' readiness probes look every ten seconds.
    const WHILE: Duration = Duration::from_secs(40);
    /// The kubectl the text is read for where there is none: its commands are listed all the same.
    const USUAL_KUBECTL: u32 = 32;

    pub(crate) fn main() -> ExitCode {
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
        let provider = Arc::new(TestbedProvider::enter(3, 0, [].into_iter().collect())?);
        let kubectl = kubectl_minor();
        let minor = kubectl.as_ref().copied().unwrap_or(USUAL_KUBECTL);
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            anyhow::bail!("another cryptography provider is installed already");
        }
        let runtime = Arc::new(Runtime::new()?);
        let trial = |chapter: Chapter| {
            let name = format!(
                "notes::{}",
                chapter.title.to_lowercase().replace(|c: char| !c.is_alphanumeric(), "_")
            );
            let (runtime, provider) = (Arc::clone(&runtime), Arc::clone(&provider));
            let kubectl = kubectl.clone();
            Trial::ignorable_test(name, move || match kubectl {
                Ok(_) => runtime.block_on(play(&provider, &chapter)),
                Err(reason) => Ok(Completion::ignored_with(reason)),
            })
        };
        Ok(chapters(minor, NAMESPACE)?.into_iter().map(trial).collect())
    }

    /// Every chapter has a cluster of its own: some of what the notes use a cluster has only once.
    async fn play(provider: &TestbedProvider, chapter: &Chapter) -> Result<Completion, Failed> {
        let played = async {
            let cluster = provider.start().await?;
            let terminal = cluster.terminal().context("nothing can be typed on this cluster")?;
            perform(terminal, chapter, WHILE).await
        };
        match played.await {
            Ok(()) => Ok(Completion::Completed),
            Err(Broken::Promise(finding)) => {
                Err(format!("promised: {}\nobserved: {}", finding.promised, finding.observed).into())
            }
            Err(Broken::CouldNotTell(reason)) => Err(reason.into()),
        }
    }
}
