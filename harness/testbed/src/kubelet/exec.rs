//! Processes in containers for clients far away: streams and exit code over a WebSocket.
//!
//! Each message begins with the number of its channel
//! ([KEP-4006](https://github.com/kubernetes/enhancements/tree/master/keps/sig-api-machinery/4006-transition-spdy-to-websockets)).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::container::{Container, ExecSpec, Session, Terminal};
use super::init::StartFailure;
use super::node::Node;
use super::output::truth;
use crate::bugs::Bug;

/// In order of preference: version 5 can close standard input, version 4 cannot.
pub(crate) const PROTOCOLS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Only in version 5: the next byte is the channel that ends.
const CLOSE: u8 = 255;

/// How long to wait for more output of a process that has ended; a child it left may hold the pipe.
const REST: Duration = Duration::from_secs(1);
/// How long a client may take to say goodbye after the verdict.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the query of an exec request asks for.
pub(crate) fn parse(query: &[(String, String)]) -> Result<ExecSpec, String> {
    let mut spec = ExecSpec::default();
    for (name, value) in query {
        match name.as_str() {
            "command" => spec.command.push(value.clone()),
            "input" | "stdin" => spec.stdin = truth(value),
            "output" | "stdout" => spec.stdout = truth(value),
            "error" | "stderr" => spec.stderr = truth(value),
            "tty" => spec.terminal = truth(value),
            _ => {}
        }
    }
    if spec.command.is_empty() {
        return Err("you must specify at least 1 command".to_owned());
    }
    if !(spec.stdin || spec.stdout || spec.stderr) {
        return Err("you must specify at least 1 of stdin, stdout, stderr".to_owned());
    }
    // A terminal has one output.
    spec.stderr &= !spec.terminal;
    Ok(spec)
}

/// Starts the process and serves its streams until it ends, the client leaves, or they are cut.
pub(crate) async fn run(
    node: Arc<Node>,
    container: Container,
    spec: ExecSpec,
    socket: WebSocket,
    cut: CancellationToken,
) {
    let versioned = socket.protocol().and_then(|protocol| protocol.to_str().ok()) == Some(PROTOCOLS[0]);
    let command = spec.command.clone();
    let (mut to_client, from_client) = socket.split();
    let mut listening;
    let verdict = match node.runtime.exec(&container, spec).await {
        Ok(mut session) => {
            let process = session.process.clone();
            let (stdin, terminal) = (session.stdin.take(), session.terminal.take());
            listening = tokio::spawn(listen(from_client, stdin, terminal, versioned));
            let served = tokio::select! {
                served = serve(session, &mut to_client, &mut listening) => served,
                () = cut.cancelled() => None,
            };
            let served = served.map(|code| match code {
                _ if node.bugs.has(Bug::ExecLosesExitCode) => verdict(0, &command),
                code => verdict(code, &command),
            });
            if served.is_none() {
                // Nobody is there any more who would want it to go on.
                let _ = process.signal(libc::SIGKILL);
                process.wait().await;
            }
            served
        }
        Err(failure) => {
            listening = tokio::spawn(listen(from_client, None, None, versioned));
            Some(not_started(&failure))
        }
    };
    if cut.is_cancelled() {
        // A dead kubelet says no goodbye.
        return listening.abort();
    }
    if let Some(verdict) = verdict {
        let _ = to_client.send(message(ERROR, verdict.to_string().as_bytes())).await;
    }
    // Clients of Kubernetes take any other code, and none, for a connection that broke.
    let frame = CloseFrame { code: close_code::NORMAL, reason: "".into() };
    let _ = to_client.send(Message::Close(Some(frame))).await;
    // What the client still sends must be read: a connection that is closed over it is reset, and
    // the reset may overtake the verdict.
    if !listening.is_finished() && timeout(FAREWELL, &mut listening).await.is_err() {
        listening.abort();
    }
}

/// The exit code, or none when the client left first.
async fn serve(
    session: Session,
    to_client: &mut SplitSink<WebSocket, Message>,
    mut listening: &mut JoinHandle<()>,
) -> Option<i32> {
    let Session { process, stdout, stderr, .. } = session;
    let (sender, mut messages) = mpsc::channel(16);
    let pumps: Vec<_> = [(STDOUT, stdout), (STDERR, stderr)]
        .into_iter()
        .filter_map(|(channel, stream)| stream.map(|stream| pump(channel, stream, sender.clone())))
        .map(tokio::spawn)
        .collect();
    drop(sender);
    let mut ended = std::pin::pin!(process.wait());
    let exit = loop {
        tokio::select! {
            exit = &mut ended => break exit,
            Some(message) = messages.recv() => {
                if to_client.send(message).await.is_err() {
                    return None;
                }
            }
            _ = &mut listening => return None,
        }
    };
    while let Ok(Some(message)) = timeout(REST, messages.recv()).await {
        if to_client.send(message).await.is_err() {
            break;
        }
    }
    pumps.iter().for_each(JoinHandle::abort);
    Some(exit.code())
}

async fn pump(channel: u8, mut stream: pipe::Receiver, messages: mpsc::Sender<Message>) {
    let mut buffer = vec![0; 16 * 1024];
    // The end of a terminal shows as an error.
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        if messages.send(message(channel, &buffer[..read])).await.is_err() {
            return;
        }
    }
}

/// Passes on what the client sends, and ends when the client leaves.
async fn listen(
    mut from_client: SplitStream<WebSocket>,
    mut stdin: Option<pipe::Sender>,
    terminal: Option<Terminal>,
    versioned: bool,
) {
    while let Some(Ok(received)) = from_client.next().await {
        let data = match received {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        match data.split_first() {
            Some((&STDIN, input)) => {
                let write = match &mut stdin {
                    Some(stdin) => stdin.write_all(input).await,
                    None => Ok(()),
                };
                if write.is_err() {
                    // The process does not read any more; its end is near or it does not care.
                    stdin = None;
                }
            }
            Some((&RESIZE, size)) => {
                if let (Some(terminal), Ok(size)) = (&terminal, serde_json::from_slice::<Size>(size)) {
                    let _ = terminal.resize(size.width, size.height);
                }
            }
            Some((&CLOSE, [STDIN])) if versioned => stdin = None,
            _ => {}
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

fn message(channel: u8, data: &[u8]) -> Message {
    Message::Binary([&[channel], data].concat().into())
}

fn verdict(code: i32, command: &[String]) -> Value {
    if code == 0 {
        return json!({ "metadata": {}, "status": "Success" });
    }
    let command = command.join(" ");
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!(
            "command terminated with non-zero exit code: error executing command [{command}], exit code {code}"
        ),
        "reason": "NonZeroExitCode",
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
}

fn not_started(failure: &StartFailure) -> Value {
    let message = format!(
        "failed to exec in container: OCI runtime exec failed: exec failed: unable to start container process: {failure}"
    );
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {message}"),
        "reason": "InternalError",
        "details": { "causes": [{ "message": message }] },
        "code": 500,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Vec<(String, String)> {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn a_request_needs_a_command_and_a_stream() {
        let spec = parse(&query("command=echo&command=a b&input=1&output=1&error=1&tty=1")).expect("good");
        assert_eq!(spec.command, ["echo", "a b"]);
        assert!(spec.stdin && spec.stdout && spec.terminal && !spec.stderr);
        assert!(parse(&query("output=1")).is_err());
        assert!(parse(&query("command=echo&output=0")).is_err());
    }

    #[test]
    fn the_exit_code_is_a_cause() {
        assert_eq!(verdict(0, &[])["status"], "Success");
        let failure = verdict(42, &["exit".to_owned()]);
        assert_eq!(failure["reason"], "NonZeroExitCode");
        assert_eq!(failure["details"]["causes"][0], json!({ "reason": "ExitCode", "message": "42" }));
    }
}
