//! A work queue per controller: events only mark keys dirty, and a worker drains them, never the same
//! key twice at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Display;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a key rests after it failed: doubled from the first to the last.
const FIRST_RETRY: Duration = Duration::from_millis(5);
const LAST_RETRY: Duration = Duration::from_secs(1);

/// How many keys of one controller are worked on at once.
const WORKERS: usize = 16;

/// What brings one key from its actual to its desired state.
pub(crate) trait Reconcile: Send + Sync + 'static {
    type Key: Clone + Ord + Display + Send + 'static;

    /// The controller's name in logs.
    const NAME: &'static str;

    /// Reconciles one key; `Some(delay)` asks to look again then, if no event comes before.
    fn reconcile(&self, key: Self::Key) -> impl Future<Output = anyhow::Result<Option<Duration>>> + Send;
}

/// The dirty keys of one controller.
pub(crate) struct Queue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

struct State<K> {
    /// Keys that want work; those not running stand in `order` too.
    dirty: BTreeSet<K>,
    order: VecDeque<K>,
    running: BTreeSet<K>,
    later: BTreeMap<K, Instant>,
    failures: BTreeMap<K, u32>,
}

impl<K: Clone + Ord> Queue<K> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                dirty: BTreeSet::new(),
                order: VecDeque::new(),
                running: BTreeSet::new(),
                later: BTreeMap::new(),
                failures: BTreeMap::new(),
            }),
            changed: Notify::new(),
        })
    }

    /// Marks a key dirty.
    pub(crate) fn add(&self, key: K) {
        if self.state().add(key) {
            self.changed.notify_one();
        }
    }

    fn take(&self) -> Option<K> {
        let mut state = self.state();
        let now = Instant::now();
        let due: Vec<K> =
            state.later.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            state.later.remove(&key);
            state.add(key);
        }
        let key = state.order.pop_front()?;
        state.dirty.remove(&key);
        state.running.insert(key.clone());
        Some(key)
    }

    fn next_due(&self) -> Option<Instant> {
        self.state().later.values().min().copied()
    }

    /// Ends the work on a key. After a failure it comes back by itself, later each time.
    fn finish(&self, key: K, outcome: Result<Option<Duration>, Failed>) {
        let mut state = self.state();
        state.running.remove(&key);
        if state.dirty.contains(&key) {
            state.order.push_back(key.clone());
        }
        let delay = match outcome {
            Ok(delay) => {
                state.failures.remove(&key);
                delay
            }
            Err(Failed) => {
                let failures = state.failures.entry(key.clone()).or_default();
                *failures += 1;
                Some(LAST_RETRY.min(FIRST_RETRY * 2_u32.saturating_pow(*failures - 1)))
            }
        };
        match delay {
            Some(delay) => state.later.insert(key, Instant::now() + delay),
            None => state.later.remove(&key),
        };
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Ord> State<K> {
    fn add(&mut self, key: K) -> bool {
        let new = self.dirty.insert(key.clone());
        if new && !self.running.contains(&key) {
            self.order.push_back(key);
        }
        new
    }
}

struct Failed;

/// Works until dropped. A reconcile that fails or panics costs its own key a delay and nothing else.
pub(crate) async fn work<R: Reconcile>(reconciler: Arc<R>, queue: Arc<Queue<R::Key>>) {
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < WORKERS {
            let Some(key) = queue.take() else { break };
            running.push(attempt(&*reconciler, key));
        }
        let due = queue.next_due();
        tokio::select! {
            Some((key, outcome)) = running.next() => queue.finish(key, outcome),
            () = queue.changed.notified() => {}
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
}

async fn attempt<R: Reconcile>(reconciler: &R, key: R::Key) -> (R::Key, Result<Option<Duration>, Failed>) {
    let outcome = match AssertUnwindSafe(reconciler.reconcile(key.clone())).catch_unwind().await {
        Ok(Ok(delay)) => Ok(delay),
        Ok(Err(error)) => match verdict(&error) {
            Verdict::Over => {
                tracing::debug!(controller = R::NAME, %key, "given up: {error:#}");
                Ok(None)
            }
            Verdict::Stale => {
                tracing::debug!(controller = R::NAME, %key, "tried again: {error:#}");
                Err(Failed)
            }
            Verdict::Wrong => {
                tracing::warn!(controller = R::NAME, %key, "tried again: {error:#}");
                Err(Failed)
            }
        },
        Err(_) => {
            tracing::error!(controller = R::NAME, %key, "the reconcile panicked; it is tried again");
            Err(Failed)
        }
    };
    (key, outcome)
}

enum Verdict {
    /// Nothing is left to be done: the namespace is going away.
    Over,
    /// The cache was behind; an everyday thing.
    Stale,
    Wrong,
}

fn verdict(error: &anyhow::Error) -> Verdict {
    let status = error.chain().find_map(|cause| match cause.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => Some(status),
        _ => None,
    });
    let Some(status) = status else { return Verdict::Wrong };
    let ending = status
        .details
        .iter()
        .flat_map(|details| &details.causes)
        .any(|cause| cause.reason == "NamespaceTerminating");
    match status.code {
        403 if ending => Verdict::Over,
        404 | 409 => Verdict::Stale,
        _ => Verdict::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    struct Script {
        calls: Mutex<Vec<String>>,
        failures_left: AtomicU32,
        done: Notify,
    }

    impl Reconcile for Script {
        type Key = String;
        const NAME: &'static str = "script";

        async fn reconcile(&self, key: String) -> anyhow::Result<Option<Duration>> {
            self.calls.lock().unwrap().push(key.clone());
            let failing = self
                .failures_left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                .ok();
            match (key.as_str(), failing) {
                ("panics", Some(_)) => panic!("on purpose"),
                ("fails", Some(_)) => anyhow::bail!("on purpose"),
                _ => self.done.notify_one(),
            }
            Ok(None)
        }
    }

    async fn calls_until_done(key: &str, failures: u32) -> usize {
        let script = Arc::new(Script {
            calls: Mutex::default(),
            failures_left: AtomicU32::new(failures),
            done: Notify::new(),
        });
        let queue = Queue::new();
        queue.add(key.to_owned());
        let worker = tokio::spawn(work(Arc::clone(&script), queue));
        tokio::time::timeout(Duration::from_secs(10), script.done.notified())
            .await
            .expect("it is tried again");
        worker.abort();
        script.calls.lock().unwrap().len()
    }

    #[tokio::test]
    async fn failures_and_panics_are_tried_again() {
        assert_eq!(calls_until_done("fails", 3).await, 4);
        assert_eq!(calls_until_done("panics", 2).await, 3);
    }

    #[tokio::test]
    async fn a_key_is_never_worked_on_twice_at_once_and_never_lost() {
        let queue = Queue::new();
        queue.add(1);
        queue.add(1);
        queue.add(2);
        assert_eq!(queue.take(), Some(1));
        queue.add(1);
        assert_eq!(queue.take(), Some(2));
        assert_eq!(queue.take(), None);
        queue.finish(1, Ok(None));
        assert_eq!(queue.take(), Some(1));
        queue.finish(1, Ok(None));
        assert_eq!(queue.take(), None);
    }
}
