//! Runs checks: each in a namespace of its own, several at once, those that need something of
//! which the cluster has only one alone at the end.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _};
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use stickler_reports::{Class, Deviation, Event, Evidence, Finding, Timing};
use tokio::sync::RwLock;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::Scene;
use crate::check::{Broken, Check, Verdict};
use crate::cluster::Cluster;
use crate::guard::Guard;
use crate::journal::Sink;
use crate::stay::Stay;

/// What to run, and how.
pub struct Run {
    pub checks: Vec<&'static Check>,
    /// Decides everything that is left to chance, such as the order of the checks.
    pub seed: u64,
    /// How many checks may run at once.
    pub jobs: usize,
    /// What the implementation is known to do otherwise: these checks must fail.
    pub deviations: Vec<Deviation>,
    /// The features, which are chapters of checks, that the implementation does not claim to have.
    pub unclaimed: Vec<String>,
    /// Leave the namespaces of checks that failed or could not be told, so that somebody may look.
    pub keep: bool,
    /// Cancelled when the run is to end early: what runs is given up, the report is still written.
    pub cancel: CancellationToken,
}

impl Run {
    /// Runs every check on a cluster and tells what happened. The cluster is left running. Returns what
    /// was kept on it; of a run that was interrupted nothing is.
    pub async fn on(self, cluster: &Arc<dyn Cluster>, sink: &Sink) -> Vec<Kept> {
        let started = Instant::now();
        let session = match Session::open(Arc::clone(cluster), sink.clone(), self.cancel.clone()).await {
            Ok(session) => {
                session.expecting(self.deviations.clone()).without(self.unclaimed.clone()).keeping(self.keep)
            }
            Err(error) => {
                if !self.cancel.is_cancelled() {
                    sink.tell(Event::Trouble { message: format!("no vantage could be opened: {error:#}") });
                }
                self.finish(sink, started, Vec::new());
                return Vec::new();
            }
        };
        let opened_in = started.elapsed();

        let mut checks = self.checks.clone();
        checks.shuffle(&mut rand::rngs::StdRng::seed_from_u64(self.seed));
        // Those that have to be alone come last, so that they keep nobody waiting.
        let (alone, together): (Vec<_>, Vec<_>) = checks.into_iter().partition(|check| check.exclusive);
        let perform = async |check| {
            session.perform(check).await;
        };
        futures::stream::iter(together).for_each_concurrent(self.jobs.max(1), perform).await;
        let together_in = started.elapsed();
        futures::stream::iter(alone).for_each(perform).await;
        let alone_in = started.elapsed();
        if self.cancel.is_cancelled() {
            session.keep_nothing();
        }
        session.close().await;
        // One that went unnoticed until now is told here.
        session.guard.lost();
        let timing = |step: &str, from: Duration, to: Duration| Timing {
            step: step.to_owned(),
            us: u64::try_from((to - from).as_micros()).unwrap_or(u64::MAX),
        };
        let timings = vec![
            timing("agents asked for", Duration::ZERO, opened_in),
            timing("checks, several at once", opened_in, together_in),
            timing("checks, one at a time", together_in, alone_in),
            timing("namespaces given back", alone_in, started.elapsed()),
        ];
        self.finish(sink, started, timings);
        session.kept()
    }

    fn finish(&self, sink: &Sink, started: Instant, timings: Vec<Timing>) {
        sink.tell(Event::RunFinished {
            duration_ms: millis(started),
            interrupted: self.cancel.is_cancelled(),
            timings,
        });
    }
}

/// What was left where it was when a check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub check: &'static str,
    pub namespace: String,
}

/// Agents that stand ready on a cluster, and checks that are performed one by one or at once.
pub struct Session {
    stay: Stay,
    sink: Sink,
    guard: Arc<Guard>,
    /// Held by one check alone if it is exclusive, by all others together.
    cluster_wide: RwLock<()>,
    performed: AtomicUsize,
    /// What the implementation is known to do otherwise.
    deviations: Vec<Deviation>,
    /// The chapters whose checks are skipped, for the implementation does not claim to pass them.
    unclaimed: Vec<String>,
    /// What was kept until now; none if nothing is to be.
    kept: Option<Mutex<Vec<Kept>>>,
}

/// How a check ended.
#[derive(Clone, Debug)]
pub struct Ending {
    pub verdict: Verdict,
    pub reason: Option<String>,
    pub finding: Option<Finding>,
}

impl Session {
    /// Creates the agents. What they see is told to `sink`; when `cancel` is cancelled, checks that
    /// run are given up.
    ///
    /// # Errors
    /// If the agents' namespace or pods are refused, or it was cancelled; nothing stays then.
    pub async fn open(
        cluster: Arc<dyn Cluster>,
        sink: Sink,
        cancel: CancellationToken,
    ) -> anyhow::Result<Self> {
        let guard = Arc::new(Guard::over(&cluster, &sink, &cancel));
        Self::guarded(cluster, sink, guard).await
    }

    /// The same, for somebody who watches the cluster already.
    pub(crate) async fn guarded(
        cluster: Arc<dyn Cluster>,
        sink: Sink,
        guard: Arc<Guard>,
    ) -> anyhow::Result<Self> {
        let stay = Stay::begin(cluster, &sink, guard.token()).await;
        // What ended it early says more than that it was ended.
        let stay = stay.map_err(|error| guard.lost().map_or(error, anyhow::Error::msg))?;
        let (cluster_wide, performed) = (RwLock::new(()), AtomicUsize::new(0));
        let (deviations, unclaimed, kept) = (Vec::new(), Vec::new(), None);
        Ok(Self { stay, sink, guard, cluster_wide, performed, deviations, unclaimed, kept })
    }

    /// Expects these checks to fail. One that passes all the same is told as broken, for then either
    /// the implementation was mended or the check does not notice any more.
    #[must_use]
    pub fn expecting(mut self, deviations: Vec<Deviation>) -> Self {
        self.deviations = deviations;
        self
    }

    /// Skips the checks of these features, which are chapters: the implementation does not claim to have
    /// them.
    #[must_use]
    pub fn without(mut self, features: Vec<String>) -> Self {
        self.unclaimed = features;
        self
    }

    /// Keeps, if so, the namespaces of checks that fail, unless as they are known to, or cannot be told.
    #[must_use]
    pub fn keeping(mut self, keep: bool) -> Self {
        self.kept = keep.then(Mutex::default);
        self
    }

    /// What was kept until now.
    pub fn kept(&self) -> Vec<Kept> {
        let kept =
            self.kept.iter().flat_map(|kept| kept.lock().unwrap_or_else(PoisonError::into_inner).clone());
        kept.collect()
    }

    fn keep_nothing(&self) {
        if let Some(kept) = &self.kept {
            kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        self.stay.keep_nothing();
    }

    /// Performs one check, in a namespace of its own; several may be performed at once.
    pub async fn perform(&self, check: &'static Check) -> Ending {
        if self.unclaimed.iter().any(|feature| feature == check.chapter()) {
            let reason = format!("the feature `{}` is not claimed", check.chapter());
            return self.not_run(check, Verdict::Skipped, &reason);
        }
        let (capabilities, promises) = (self.stay.cluster.capabilities(), self.stay.cluster.promises());
        let lacking = check.needs.iter().find(|need| !need.is_met(capabilities, promises));
        if let Some(lacking) = lacking {
            return self.not_run(check, Verdict::Skipped, &lacking.lacking());
        }
        let _together;
        let _alone;
        if check.exclusive {
            _alone = self.cluster_wide.write().await;
        } else {
            _together = self.cluster_wide.read().await;
        }
        if let Some(lost) = self.guard.lost() {
            return self.not_run(check, Verdict::Inconclusive, &lost);
        }
        if self.guard.was_asked() {
            return self.not_run(check, Verdict::Inconclusive, "the run was interrupted before it started");
        }
        self.perform_now(check).await
    }

    /// Sets a scene for something else than a check: a namespace of its own, to be given back by
    /// [`Session::clear`].
    pub(crate) async fn stage(&self, chapter: &'static str) -> anyhow::Result<Scene> {
        let number = self.performed.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("stickler-{}-{chapter}-{number}", self.stay.run());
        self.stay.create_namespace(&namespace).await?;
        Ok(self.stay.scene(chapter, namespace))
    }

    /// Gives a scene back, on every cluster: many follow each other, and all would stay.
    pub(crate) async fn clear(&self, scene: Scene) {
        self.stay.clear(&scene.namespace).await;
    }

    /// Gives back what stands on the cluster, in any case, and waits until it is gone: others may
    /// need the ports that agents on nodes have.
    pub async fn give_back(&self) {
        if let Err(error) = self.stay.give_back().await {
            tracing::warn!("the agents are still there: {error:#}");
        }
    }

    /// Gives back what stands on the cluster, unless the cluster goes away anyway.
    pub async fn close(&self) {
        self.stay.end().await;
    }

    fn not_run(&self, check: &Check, verdict: Verdict, reason: &str) -> Ending {
        let ending = Ending { verdict, reason: Some(reason.to_owned()), finding: None };
        self.ended(check, &ending, 0, Vec::new());
        ending
    }

    fn ended(&self, check: &Check, ending: &Ending, duration_ms: u64, evidence: Vec<Evidence>) {
        self.sink.tell(Event::CheckFinished {
            check: check.id.to_owned(),
            verdict: ending.verdict,
            reason: ending.reason.clone(),
            finding: ending.finding.clone(),
            duration_ms,
            evidence,
            expected: self
                .known(check)
                .filter(|_| ending.verdict == Verdict::Failed && ending.finding.is_some())
                .cloned(),
        });
    }

    fn known(&self, check: &Check) -> Option<&Deviation> {
        self.deviations.iter().find(|known| known.check == check.id)
    }

    async fn perform_now(&self, check: &'static Check) -> Ending {
        let started = Instant::now();
        let number = self.performed.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("stickler-{}-{}-{number}", self.stay.run(), check.chapter());
        self.sink.tell(Event::CheckStarted { check: check.id.to_owned(), namespace: namespace.clone() });
        let mut scene = self.stay.scene(check.id, namespace.clone());
        scene.is_waiting_for("its namespace");
        let waiting_for = Arc::clone(&scene.waiting_for);
        let cluster = &self.stay.cluster;
        let bounds = cluster.bounds();
        let body = async {
            self.stay.create_namespace(&namespace).await?;
            (check.run)(&mut scene).await
        };
        let body = AssertUnwindSafe(timeout(bounds.check, body)).catch_unwind();
        let held = tokio::select! {
            held = body => match held {
                Ok(Ok(held)) => held,
                Ok(Err(_)) => {
                    let waiting_for = waiting_for.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    Err(Broken::CouldNotTell(format!(
                        "not done within {:?}; it was waiting for: {waiting_for}",
                        bounds.check
                    )))
                }
                Err(panic) => Err(Broken::CouldNotTell(format!("the check panicked: {}", words_of(&*panic)))),
            },
            () = self.guard.token().cancelled() => Err(Broken::CouldNotTell(self.guard.why())),
        };
        // Whatever was seen may be due to what is missing.
        let held = match (held, self.guard.lost()) {
            (Err(Broken::Promise(_)), Some(lost)) => Err(Broken::CouldNotTell(lost)),
            (held, _) => held,
        };
        let duration_ms = millis(started);
        let evidence = if held.is_err() && !self.guard.token().is_cancelled() {
            scene.evidence().await
        } else {
            Vec::new()
        };
        let (verdict, reason, finding) = match held {
            Ok(()) => match self.known(check).filter(|known| !known.sometimes) {
                Some(known) => (Verdict::Failed, Some(passed_although(known)), None),
                None => (Verdict::Passed, None, None),
            },
            Err(Broken::CouldNotTell(reason)) => (Verdict::Inconclusive, Some(reason), None),
            // What nobody promised is told, but breaks nothing, except where we built it ourselves.
            Err(Broken::Promise(finding)) if check.class == Class::Observation && !cluster.is_ephemeral() => {
                let reason = format!("otherwise than in the notes: {}", finding.observed);
                (Verdict::Passed, Some(reason), Some(*finding))
            }
            Err(Broken::Promise(finding)) => {
                (Verdict::Failed, Some(format!("namespace {namespace}")), Some(*finding))
            }
        };
        let ending = Ending { verdict, reason, finding };
        self.ended(check, &ending, duration_ms, evidence);
        let is_known = ending.finding.is_some() && self.known(check).is_some();
        let is_of_interest = matches!(verdict, Verdict::Failed | Verdict::Inconclusive) && !is_known;
        match &self.kept {
            Some(kept) if is_of_interest => {
                self.stay.keep(&scene);
                let kept_now = Kept { check: check.id, namespace };
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(kept_now);
            }
            // Nodes have room for so many pods, and balancers for so many addresses.
            _ => self.stay.clear(&namespace).await,
        }
        ending
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// What is said of a check that passed and should not have.
fn passed_although(known: &Deviation) -> String {
    format!(
        "it passed, although this implementation is known to fail it: {} <{}>; if it was mended, take the \
         entry out of the file of known deviations",
        known.reason, known.source
    )
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without words".to_owned())
}
