//! Logs as a kubelet hands them out: from where on, how much, with times or without.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use jiff::{SignedDuration, Timestamp};

use super::log::{Line, Log};

/// What somebody wants to see of a log (the fields of `PodLogOptions`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) follow: bool,
    pub(crate) previous: bool,
    timestamps: bool,
    tail: Option<usize>,
    since: Option<Timestamp>,
    limit: Option<usize>,
}

impl Wish {
    pub(crate) fn parse(query: &[(String, String)]) -> Result<Self, String> {
        let mut wish = Self::default();
        for (name, value) in query {
            let bad = || format!("invalid value `{value}` for `{name}`");
            let number = || value.parse::<u32>().map_err(|_| bad());
            match name.as_str() {
                "follow" => wish.follow = truth(value),
                "previous" => wish.previous = truth(value),
                "timestamps" => wish.timestamps = truth(value),
                "tailLines" => wish.tail = Some(number()? as usize),
                "limitBytes" => wish.limit = Some(number()? as usize),
                "sinceSeconds" => {
                    wish.since = Some(Timestamp::now() - SignedDuration::from_secs(number()?.into()));
                }
                "sinceTime" => wish.since = Some(value.parse().map_err(|_| bad())?),
                // Others may be added to the API; leaving them out is what it did before.
                _ => {}
            }
        }
        Ok(wish)
    }

    /// The lines that are wanted of those already there.
    fn select(&self, mut lines: Vec<Line>) -> Vec<Line> {
        lines.retain(|line| self.since.is_none_or(|since| line.at >= since));
        if let Some(tail) = self.tail {
            lines.drain(..lines.len().saturating_sub(tail));
        }
        lines
    }

    fn print(&self, lines: &[Line]) -> Bytes {
        let mut text = BytesMut::new();
        for line in lines {
            if self.timestamps {
                text.extend_from_slice(line.at.strftime("%Y-%m-%dT%H:%M:%S.%9fZ ").to_string().as_bytes());
            }
            text.extend_from_slice(&line.text);
        }
        text.freeze()
    }
}

/// A query parameter without value means yes, as in `?follow`.
pub(crate) fn truth(value: &str) -> bool {
    matches!(value, "" | "true" | "True" | "TRUE" | "t" | "T" | "1")
}

/// What is there, and if it is to be followed, what comes until the container ends.
pub(crate) fn stream(log: Arc<Log>, wish: Wish) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let left = wish.limit.unwrap_or(usize::MAX);
    futures::stream::unfold(Some((0, left)), move |state| {
        let (log, wish) = (Arc::clone(&log), wish.clone());
        async move {
            let (from, left) = state?;
            let first = from == 0;
            if left == 0 {
                return None;
            }
            let more = first || (wish.follow && log.more(from).await);
            if !more {
                return None;
            }
            let (lines, next) = log.since(from);
            let mut text = wish.print(&if first { wish.select(lines) } else { lines });
            text.truncate(left);
            let left = left - text.len();
            // Number 0 means the beginning, so an empty log that is followed starts there again.
            let next = (next > 0 || (wish.follow && log.more(0).await)).then_some((next, left));
            Some((Ok(text), next))
        }
    })
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    async fn log(text: &str) -> Arc<Log> {
        let log = Log::new(1);
        log.capture(text.as_bytes()).await;
        Arc::new(log)
    }

    async fn printed(log: &Arc<Log>, query: &[(&str, &str)]) -> String {
        let query: Vec<_> = query.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let wish = Wish::parse(&query).expect("a good query");
        let parts: Vec<_> =
            stream(Arc::clone(log), wish).map(|part| part.unwrap_or_default()).collect().await;
        String::from_utf8(parts.concat()).expect("text")
    }

    #[tokio::test]
    async fn parts_of_a_log() {
        let log = log("one\ntwo\nthree\n").await;
        assert_eq!(printed(&log, &[]).await, "one\ntwo\nthree\n");
        assert_eq!(printed(&log, &[("tailLines", "2")]).await, "two\nthree\n");
        assert_eq!(printed(&log, &[("tailLines", "0")]).await, "");
        assert_eq!(printed(&log, &[("limitBytes", "5")]).await, "one\nt");
        assert_eq!(printed(&log, &[("sinceSeconds", "60")]).await, "one\ntwo\nthree\n");
        assert_eq!(printed(&log, &[("sinceTime", "2999-01-01T00:00:00Z")]).await, "");
        assert_eq!(printed(&log, &[("follow", "true"), ("tailLines", "1")]).await, "three\n");
        assert!(Wish::parse(&[("tailLines".into(), "-1".into())]).is_err());
    }

    #[tokio::test]
    async fn times_have_nine_digits_and_come_first() {
        let text = printed(&log("one\n").await, &[("timestamps", "true")]).await;
        let (time, rest) = text.split_once(' ').expect("a time");
        assert_eq!((time.len(), rest), ("2026-01-02T03:04:05.123456789Z".len(), "one\n"), "{text}");
        time.parse::<Timestamp>().expect("RFC 3339");
    }

    #[tokio::test]
    async fn following_an_empty_log_brings_the_first_line() {
        let log = Arc::new(Log::new(1));
        let (reader, mut writer) = tokio::io::duplex(64);
        let reading = {
            let log = Arc::clone(&log);
            tokio::spawn(async move { log.capture(reader).await })
        };
        let mut parts = Box::pin(stream(log, Wish { follow: true, ..Wish::default() }));
        let write = async {
            tokio::io::AsyncWriteExt::write_all(&mut writer, b"hello\n").await.expect("the log reads");
            tokio::io::AsyncWriteExt::shutdown(&mut writer).await.expect("the log reads");
        };
        let read = async {
            let mut all = Vec::new();
            while let Some(Ok(part)) = parts.next().await {
                all.extend_from_slice(&part);
            }
            all
        };
        let ((), all) = tokio::join!(write, read);
        assert_eq!(all, b"hello\n");
        reading.await.expect("the reader ends");
    }
}
