//! What a container wrote: lines with times, the newest few megabytes of them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::watch;

/// How much of one container's output is kept; a kubelet rotates its files at 10 MiB too
/// ([Logging Architecture, "Log rotation"](https://kubernetes.io/docs/concepts/cluster-administration/logging/#log-rotation)).
const KEPT: usize = 10 * 1024 * 1024;

/// A longer line is split, as container runtimes do.
const LONGEST_LINE: usize = 16 * 1024;

/// One line, or a part of a very long one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it was read.
    pub at: Timestamp,
    /// The text with its newline, if it had one.
    pub text: Bytes,
}

/// The output of one run of one container.
#[derive(Debug)]
pub struct Log {
    lines: Mutex<Lines>,
    /// Counts changes, so that followers can wait.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<Line>,
    bytes: usize,
    /// The number of the first line kept.
    first: u64,
    /// How many streams are still open.
    open: usize,
}

impl Log {
    /// A log that `streams` streams will be written to.
    pub(crate) fn new(streams: usize) -> Self {
        Self {
            lines: Mutex::new(Lines { open: streams, ..Lines::default() }),
            changes: watch::Sender::new(0),
        }
    }

    /// Reads one stream to its end, which is the end of every process that holds it.
    pub(crate) async fn capture(&self, mut stream: impl AsyncRead + Unpin) {
        let mut pending = Vec::new();
        let mut buffer = vec![0; 8 * 1024];
        loop {
            let read = match stream.read(&mut buffer).await {
                Ok(read) if read > 0 => read,
                _ => break,
            };
            for piece in buffer[..read].split_inclusive(|byte| *byte == b'\n') {
                pending.extend_from_slice(piece);
                if piece.ends_with(b"\n") || pending.len() >= LONGEST_LINE {
                    self.push(std::mem::take(&mut pending));
                }
            }
        }
        if !pending.is_empty() {
            self.push(pending);
        }
        self.lock().open -= 1;
        self.changed();
    }

    /// Everything from line number `from` on, and the number after the last.
    pub fn since(&self, from: u64) -> (Vec<Line>, u64) {
        let lines = self.lock();
        let skip = from.saturating_sub(lines.first) as usize;
        (lines.kept.iter().skip(skip).cloned().collect(), lines.first + lines.kept.len() as u64)
    }

    /// Waits until there is a line number `next` or more; false when there will never be one.
    pub async fn more(&self, next: u64) -> bool {
        let mut changes = self.changes.subscribe();
        loop {
            let (end, open) = {
                let lines = self.lock();
                (lines.first + lines.kept.len() as u64, lines.open)
            };
            if end > next || open == 0 {
                return end > next;
            }
            if changes.changed().await.is_err() {
                return false;
            }
        }
    }

    /// Waits until every stream was read to its end.
    pub(crate) async fn closed(&self) {
        let mut changes = self.changes.subscribe();
        while self.lock().open > 0 && changes.changed().await.is_ok() {}
    }

    fn push(&self, text: Vec<u8>) {
        let mut lines = self.lock();
        lines.bytes += text.len();
        lines.kept.push_back(Line { at: Timestamp::now(), text: text.into() });
        while lines.bytes > KEPT {
            let Some(oldest) = lines.kept.pop_front() else { break };
            lines.bytes -= oldest.text.len();
            lines.first += 1;
        }
        drop(lines);
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(log: &Log) -> Vec<String> {
        let lines = log.since(0).0;
        lines.iter().map(|line| String::from_utf8_lossy(&line.text).into_owned()).collect()
    }

    #[tokio::test]
    async fn lines_are_split_and_the_last_needs_no_newline() {
        let log = Log::new(1);
        log.capture(&b"one\ntwo\n\nthree"[..]).await;
        assert_eq!(text(&log), ["one\n", "two\n", "\n", "three"]);
        assert!(!log.more(4).await, "no line can follow the end of the only stream");
    }

    #[tokio::test]
    async fn the_oldest_lines_go_first_and_numbers_stay() {
        let log = Log::new(1);
        let line = vec![b'x'; LONGEST_LINE];
        let lines = KEPT / LONGEST_LINE + 3;
        log.capture(&line.repeat(lines)[..]).await;
        let (kept, next) = log.since(0);
        assert!(kept.len() < lines && kept.iter().map(|line| line.text.len()).sum::<usize>() <= KEPT);
        assert_eq!(log.since(next - 1).0.len(), 1);
        assert_eq!(log.since(next).0.len(), 0);
    }

    #[tokio::test]
    async fn a_follower_is_woken_by_the_next_line() {
        let log = Log::new(1);
        let (reader, writer) = tokio::io::duplex(64);
        let write = async {
            let mut writer = writer;
            tokio::io::AsyncWriteExt::write_all(&mut writer, b"hello\n").await.expect("the log reads");
        };
        let follow = async { (log.more(0).await, text(&log)) };
        let ((), (more, seen), ()) = tokio::join!(write, follow, log.capture(reader));
        assert!(more);
        assert_eq!(seen, ["hello\n"]);
    }
}
