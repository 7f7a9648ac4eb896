//! A leash: what runs in a container outlives whoever started it, unless it ends by itself when nobody
//! is heard from any more. Not everybody who goes away closes the pipe, so silence counts too.

use std::io::Read as _;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// How often whoever started it shows that it is still there.
pub(crate) const BEAT: Duration = Duration::from_secs(1);
/// After how much silence it ends: many beats, for machines can be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// What the executable must be told to become this, after the name of the multi-call program; the
/// program of pods that is to be on the leash, and its arguments, follow.
pub(crate) const NAME: &str = "leash";

/// Was this process started as the multi-call program, to be this part of it? The programs of pods are
/// the other parts.
pub(crate) fn is_started_as(part: &str) -> bool {
    let mut arguments = std::env::args_os();
    let called = arguments.next().is_some_and(|called| called.as_encoded_bytes().ends_with(b"stickler-pods"));
    called && arguments.next().is_some_and(|wanted| wanted == part)
}

/// If that is what this process was started as, runs a program of pods until standard input ends or is
/// silent for too long.
pub(crate) fn main() -> Option<ExitCode> {
    if !is_started_as(NAME) {
        return None;
    }
    let mut arguments = std::env::args_os().skip(2);
    let name = arguments.next().unwrap_or_default();
    let applet = stickler_pods::APPLETS.iter().find(|applet| name == applet.name)?;
    let (beat, beats) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stdin, mut bytes) = (std::io::stdin(), [0; 64]);
        while stdin.read(&mut bytes).is_ok_and(|count| count > 0) && beat.send(()).is_ok() {}
    });
    std::thread::spawn(move || {
        while beats.recv_timeout(PATIENCE).is_ok() {}
        std::process::exit(0);
    });
    Some((applet.run)(arguments.collect()))
}

/// The other end of the leash: holds it until this is dropped.
pub(crate) fn hold(mut input: impl AsyncWrite + Send + Unpin + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        while input.write_all(b"\n").await.is_ok() && input.flush().await.is_ok() {
            // The time between two beats: nothing else is waited for.
            let _ = timeout(BEAT, std::future::pending::<()>()).await;
        }
    }))
}
