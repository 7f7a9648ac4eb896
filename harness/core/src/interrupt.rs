//! Ctrl-C: the first one ends what runs in good order, the second one at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by the first SIGINT or SIGTERM. Must be called inside a tokio runtime.
///
/// # Errors
/// If the signals cannot be listened for.
#[expect(clippy::print_stderr, reason = "whoever pressed Ctrl-C wants to know that it was heard")]
pub fn watch() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let cancel = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        next().await;
        eprintln!(
            "interrupted: cleaning up; once more to stop at once, which leaves work for `stickler heal`"
        );
        cancel.cancel();
        next().await;
        std::process::exit(3);
    });
    Ok(token)
}
