//! Runs checks: each in a namespace of its own, several at once, those that need something of
//! which the cluster has only one alone at the end.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{Api, DeleteParams, ListParams};
use kube::runtime::watcher::Config;
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use stickler_reports::{Class, Event, Evidence, Finding, Timing};
use tokio::sync::RwLock;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::Scene;
use crate::check::{Broken, Check, Verdict};
use crate::cluster::Cluster;
use crate::controller::{InUse, Standing};
use crate::journal::Sink;
use crate::vantage::{Vantages, create_namespace};
use crate::wait;

/// What to run, and how.
pub struct Run {
    pub checks: Vec<&'static Check>,
    /// Decides everything that is left to chance, such as the order of the checks.
    pub seed: u64,
    /// How many checks may run at once.
    pub jobs: usize,
    /// Cancelled when the run is to end early: what runs is given up, the report is still written.
    pub cancel: CancellationToken,
}

impl Run {
    /// Runs every check on a cluster and tells what happened. The cluster is left running.
    pub async fn on(self, cluster: &Arc<dyn Cluster>, sink: &Sink) {
        let started = Instant::now();
        let opened = tokio::select! {
            opened = Session::open(Arc::clone(cluster), sink.clone(), self.cancel.clone()) => opened,
            () = self.cancel.cancelled() => return self.finish(sink, started, Vec::new()),
        };
        let session = match opened {
            Ok(session) => session,
            Err(error) => {
                sink.tell(Event::Trouble { message: format!("no vantage could be opened: {error:#}") });
                return self.finish(sink, started, Vec::new());
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
        session.close().await;
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
    }

    fn finish(&self, sink: &Sink, started: Instant, timings: Vec<Timing>) {
        sink.tell(Event::RunFinished {
            duration_ms: millis(started),
            interrupted: self.cancel.is_cancelled(),
            timings,
        });
    }
}

/// Agents that stand ready on a cluster, and checks that are performed one by one or at once.
pub struct Session {
    cluster: Arc<dyn Cluster>,
    vantages: Arc<Vantages>,
    sink: Sink,
    run: String,
    cancel: CancellationToken,
    /// Held by one check alone if it is exclusive, by all others together.
    cluster_wide: RwLock<()>,
    performed: AtomicUsize,
    /// The ingress controller of the run, from when a check first needs one.
    ingress: Arc<Standing>,
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
    /// If the agents' namespace or pods are refused.
    pub async fn open(
        cluster: Arc<dyn Cluster>,
        sink: Sink,
        cancel: CancellationToken,
    ) -> anyhow::Result<Self> {
        let run = format!("{:06x}", run_id());
        let vantages = Arc::new(Vantages::open(cluster.as_ref(), &run).await?);
        let cluster_wide = RwLock::new(());
        let (performed, ingress) = (AtomicUsize::new(0), Arc::new(Standing::of_run(&run)));
        Ok(Self { cluster, vantages, sink, run, cancel, cluster_wide, performed, ingress })
    }

    /// Performs one check, in a namespace of its own; several may be performed at once.
    pub async fn perform(&self, check: &'static Check) -> Ending {
        let (capabilities, promises) = (self.cluster.capabilities(), self.cluster.promises());
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
        if self.cancel.is_cancelled() {
            return self.not_run(check, Verdict::Inconclusive, "the run was interrupted before it started");
        }
        self.perform_now(check).await
    }

    /// Sets a scene for something else than a check: a namespace of its own, to be given back by
    /// [`Session::clear`].
    pub(crate) async fn stage(&self, chapter: &'static str) -> anyhow::Result<Scene> {
        let number = self.performed.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("stickler-{}-{chapter}-{number}", self.run);
        create_namespace(&self.cluster.client(), &namespace, &self.run, self.cluster.bounds().request)
            .await?;
        Ok(Scene {
            check: chapter,
            namespace,
            cluster: Arc::clone(&self.cluster),
            vantages: Arc::clone(&self.vantages),
            sink: self.sink.clone(),
            waiting_for: Arc::default(),
            calls: Mutex::default(),
            controlled: Mutex::default(),
            ingress: InUse::new(Arc::clone(&self.ingress)),
        })
    }

    /// Gives a scene back, on every cluster: many follow each other, and all would stay.
    pub(crate) async fn clear(&self, scene: Scene) {
        self.vantages.forget(&scene.namespace);
        self.delete(&scene.namespace).await;
    }

    /// Gives back what stands on the cluster, in any case, and waits until it is gone: others may
    /// need the ports that agents on nodes have.
    pub(crate) async fn give_back(&self) {
        let given_back = async {
            self.ingress.give_back(&self.cluster.client()).await?;
            self.vantages.close().await?;
            let api = Api::<Pod>::namespaced(self.cluster.client(), self.vantages.namespace());
            let gone =
                |pods: &[Pod]| if pods.is_empty() { Ok(()) } else { Err(format!("{} pods", pods.len())) };
            let bound = self.cluster.bounds().pods_ready;
            wait::until(api, Config::default(), "the agents to be gone", bound, gone).await
        };
        if let Err(error) = given_back.await {
            tracing::warn!("the agents are still there: {error:#}");
        }
    }

    /// Gives back what stands on the cluster, unless the cluster goes away anyway.
    pub async fn close(&self) {
        if self.cluster.is_ephemeral() {
            return;
        }
        let ended = [self.vantages.close().await, self.ingress.give_back(&self.cluster.client()).await];
        for error in ended.into_iter().filter_map(Result::err) {
            self.sink.tell(Event::Trouble { message: format!("{error:#}") });
        }
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
        });
    }

    async fn perform_now(&self, check: &'static Check) -> Ending {
        let started = Instant::now();
        let number = self.performed.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("stickler-{}-{}-{number}", self.run, check.chapter());
        self.sink.tell(Event::CheckStarted { check: check.id.to_owned(), namespace: namespace.clone() });
        let waiting_for = Arc::new(Mutex::new("its namespace".to_owned()));
        let mut scene = Scene {
            check: check.id,
            namespace: namespace.clone(),
            cluster: Arc::clone(&self.cluster),
            vantages: Arc::clone(&self.vantages),
            sink: self.sink.clone(),
            waiting_for: Arc::clone(&waiting_for),
            calls: Mutex::new(VecDeque::new()),
            controlled: Mutex::default(),
            ingress: InUse::new(Arc::clone(&self.ingress)),
        };
        let bounds = self.cluster.bounds();
        let body = async {
            create_namespace(&self.cluster.client(), &namespace, &self.run, bounds.request).await?;
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
            () = self.cancel.cancelled() => Err(Broken::CouldNotTell("the run was interrupted".to_owned())),
        };
        let duration_ms = millis(started);
        let evidence =
            if held.is_err() && !self.cancel.is_cancelled() { scene.evidence().await } else { Vec::new() };
        let (verdict, reason, finding) = match held {
            Ok(()) => (Verdict::Passed, None, None),
            Err(Broken::CouldNotTell(reason)) => (Verdict::Inconclusive, Some(reason), None),
            // What nobody promised is told, but breaks nothing, except where we built it ourselves.
            Err(Broken::Promise(finding))
                if check.class == Class::Observation && !self.cluster.is_ephemeral() =>
            {
                let reason = format!("otherwise than in the notes: {}", finding.observed);
                (Verdict::Passed, Some(reason), Some(*finding))
            }
            Err(Broken::Promise(finding)) => {
                (Verdict::Failed, Some(format!("namespace {namespace}")), Some(*finding))
            }
        };
        let ending = Ending { verdict, reason, finding };
        self.ended(check, &ending, duration_ms, evidence);
        self.vantages.forget(&namespace);
        if !self.cluster.is_ephemeral() {
            self.delete(&namespace).await;
        } else if scene.ingress.controller().is_some() {
            // The namespace stays, but the run's controller must not serve its hosts to others.
            self.withdraw(&namespace).await;
        }
        ending
    }

    /// Deletes a namespace's Ingresses.
    async fn withdraw(&self, namespace: &str) {
        let api = Api::<Ingress>::namespaced(self.cluster.client(), namespace);
        if let Err(error) = api.delete_collection(&DeleteParams::default(), &ListParams::default()).await {
            let message = format!("could not delete the Ingresses of namespace `{namespace}`: {error}");
            self.sink.tell(Event::Trouble { message });
        }
    }

    async fn delete(&self, namespace: &str) {
        let api = Api::<Namespace>::all(self.cluster.client());
        if let Err(error) = api.delete(namespace, &DeleteParams::default()).await {
            let message = format!("could not delete the namespace `{namespace}`: {error}");
            self.sink.tell(Event::Trouble { message });
        }
    }
}

/// A number that keeps runs on one cluster apart; not from the seed, which may be the same.
fn run_id() -> u32 {
    rand::random::<u32>() & 0x00ff_ffff
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without words".to_owned())
}
