//! What one client may ask for, and what all of them together: no request makes the server's memory
//! grow without a bound, and no slow client holds what others need.
//!
//! Together: objects take at most [`STORE`], the past of each kind [`HISTORY_BYTES`], bodies on their way
//! in [`BODIES`], and answers on their way out [`ANSWERS`]. A watch holds at most [`CHUNK`] and one event.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::status::{Result, Status};

/// Larger requests are refused, as upstream does.
pub(crate) const BODY: usize = 3 << 20;
/// Larger objects are refused: etcd takes no larger ones.
pub(crate) const OBJECT: usize = 3 << 19;
/// All objects together, as JSON.
pub(crate) const STORE: usize = if cfg!(test) { 16 << 20 } else { 256 << 20 };
/// An object may grow by less when the store is full: a deletion has to be marked.
pub(crate) const SMALL: usize = 4 << 10;
/// How many changes of one resource are remembered, and how much JSON they may be; who asks for older
/// ones gets 410.
pub(crate) const HISTORY: usize = 4096;
pub(crate) const HISTORY_BYTES: usize = 16 << 20;
/// Bodies that are being received.
pub(crate) const BODIES: usize = 64 << 20;
/// Answers that are being sent, watches aside.
pub(crate) const ANSWERS: usize = 256 << 20;
/// How much a watch makes ready before somebody takes it.
pub(crate) const CHUNK: usize = 64 << 10;
/// Connections at a time; more are closed at once.
pub(crate) const CONNECTIONS: usize = 4096;
/// Streams on one connection of HTTP/2.
pub(crate) const STREAMS: u32 = 250;
/// How deep an object may be nested: what clients read JSON with takes no more.
pub(crate) const DEPTH: usize = 100;
/// Steps of one JSON patch, and what its copies may come to, both as upstream.
pub(crate) const PATCH_STEPS: usize = 10_000;
pub(crate) const PATCH_COPIES: usize = BODY;
/// How many comparisons it may take to merge a list by its elements' names.
pub(crate) const COMPARISONS: usize = 4_000_000;

/// Tests do not wait for long.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 30 });
/// How long a client may take to say hello.
pub(crate) const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long it may take to send the head of a request, or to say nothing between two of them.
pub(crate) const HEAD_TIME: Duration = PATIENCE;
/// How long it may take to send the body.
pub(crate) const BODY_TIME: Duration = PATIENCE;
/// A connection of HTTP/2 is asked for a sign of life after as long.
pub(crate) const QUIET_TIME: Duration = Duration::from_secs(30);

/// What a permit of a budget stands for.
const UNIT: usize = 16 << 10;

/// What all requests share.
pub(crate) struct Budgets {
    pub(crate) connections: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

impl Budgets {
    pub(crate) fn new() -> Self {
        Self {
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            bodies: Arc::new(Semaphore::new(BODIES / UNIT)),
            answers: Arc::new(Semaphore::new(ANSWERS / UNIT)),
        }
    }

    /// Room for the body of one request, which grows with it.
    pub(crate) fn body(&self) -> Room {
        Room { budget: Arc::clone(&self.bodies), held: Vec::new(), used: 0 }
    }

    /// The answer, counted until it is sent.
    pub(crate) fn answer(&self, answer: Bytes) -> Result<axum::body::Body> {
        Ok(match self.room_for(&answer)? {
            Some(permit) => axum::body::Body::new(Counted { answer, _permit: permit }),
            None => answer.into(),
        })
    }

    /// What an answer takes of all there may be; small ones take nothing, since clients live on them.
    pub(crate) fn room_for(&self, answer: &Bytes) -> Result<Option<OwnedSemaphorePermit>> {
        let units = u32::try_from(answer.len() / UNIT).unwrap_or(u32::MAX);
        if units == 0 {
            return Ok(None);
        }
        let permit = Arc::clone(&self.answers).try_acquire_many_owned(units).map_err(|_| {
            Status::too_many_requests("too many large answers are being read slowly: try again later")
        })?;
        Ok(Some(permit))
    }
}

/// What one request takes of a budget.
pub(crate) struct Room {
    budget: Arc<Semaphore>,
    held: Vec<OwnedSemaphorePermit>,
    used: usize,
}

impl Room {
    pub(crate) fn take(&mut self, bytes: usize) -> Result<()> {
        self.used += bytes;
        let needed = self.used.div_ceil(UNIT).saturating_sub(self.held.iter().map(permits).sum());
        let Ok(needed) = u32::try_from(needed) else { return Err(Status::too_large(BODY)) };
        if needed == 0 {
            return Ok(());
        }
        let permit = Arc::clone(&self.budget).try_acquire_many_owned(needed).map_err(|_| {
            Status::too_many_requests("too many large requests are being received: try again later")
        })?;
        self.held.push(permit);
        Ok(())
    }
}

fn permits(permit: &OwnedSemaphorePermit) -> usize {
    permit.num_permits()
}

/// An answer and its place in the budget.
struct Counted {
    answer: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<std::result::Result<Frame<Bytes>, Self::Error>>> {
        if self.answer.is_empty() {
            return std::task::Poll::Ready(None);
        }
        let length = self.answer.len().min(CHUNK);
        let part = self.answer.split_to(length);
        std::task::Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.answer.len() as u64)
    }
}

/// Is the value nested deeper than clients can read?
pub(crate) fn is_too_deep(value: &Value) -> bool {
    fn deeper(value: &Value, left: usize) -> bool {
        match value {
            Value::Array(list) => left == 0 || list.iter().any(|value| deeper(value, left - 1)),
            Value::Object(map) => left == 0 || map.values().any(|value| deeper(value, left - 1)),
            _ => false,
        }
    }
    deeper(value, DEPTH)
}

/// About how much JSON a value is; never less than a quarter of it.
pub(crate) fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(list) => list.iter().map(|value| size(value) + 1).sum::<usize>() + 2,
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + 4 + size(value)).sum::<usize>() + 2,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_budget_is_given_back() {
        let budgets = Budgets::new();
        let mut rooms: Vec<Room> = Vec::new();
        for _ in 0..BODIES / BODY {
            let mut room = budgets.body();
            room.take(BODY).unwrap();
            rooms.push(room);
        }
        let mut one_more = budgets.body();
        assert_eq!(one_more.take(BODY).unwrap_err().code, 429);
        rooms.pop();
        let mut one_more = budgets.body();
        one_more.take(BODY - 1).unwrap();
        one_more.take(1).unwrap();
        let answer = |length: usize| budgets.answer(Bytes::from(vec![b' '; length]));
        let first = answer(ANSWERS).unwrap();
        assert_eq!(answer(UNIT).unwrap_err().code, 429);
        assert!(answer(UNIT - 1).is_ok(), "small answers always go out");
        drop(first);
        assert!(answer(ANSWERS).is_ok());
    }

    #[test]
    fn depth_and_size_are_measured() {
        let mut value = json!(1);
        for _ in 0..DEPTH {
            value = json!([value]);
        }
        assert!(!is_too_deep(&value));
        assert!(is_too_deep(&json!({"a": value})));
        let value = json!({"key": "text", "list": [1, 22, null]});
        assert!(size(&value) >= value.to_string().len() / 4);
    }
}
