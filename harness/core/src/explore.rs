//! Exploration: is there any world of services and pods, reached by any sequence of operations, in
//! which a cluster does not keep its promises?
//!
//! A reference machine draws operations that make sense; the subject carries them out
//! on a cluster; after each, the whole truth table is observed and compared with the model.
//! A sequence that breaks a promise is shrunk to the fewest operations and saved as a [`Case`].

mod case;
mod form;
mod operation;
mod reference;
mod subject;
mod table;
mod witness;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use proptest::strategy::{Strategy as _, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use stickler_reports::{
    Difference, Event, Evidence, ExploreFailure, ExploreReport, Finding, KnownDifference, Timing, Verdict,
};
use tokio_util::sync::CancellationToken;

pub use case::{CASE_SCHEMA, Case, CaseError};
pub use form::{Distribution, Form, Policy, Ports, Ranges, Reach, Selection, ServiceLabel, SliceName};
pub use operation::{Maker, Operation, ServiceName, WorkloadName};

use crate::check::Broken;
use crate::clock::now_us;
use crate::cluster::Cluster;
use crate::guard::Guard;
use crate::journal::Sink;
use crate::runner::Session;
use reference::{Ground, Plan, sequences};
use subject::{Patience, Subject};

/// What proptest draws: where a case begins, its operations, and a count of those that were performed.
type Drawn = (Plan, Vec<Operation>, Option<Arc<AtomicUsize>>);

/// What to explore, and how far.
#[derive(Clone, Debug)]
pub struct Exploration {
    pub cases: usize,
    /// How many operations a case has.
    pub steps: usize,
    /// Decides every operation: the same seed draws the same cases.
    pub seed: u64,
    /// Where a case that fails is saved.
    pub folder: PathBuf,
    /// How many sequences, and how long, may be tried to shrink one that fails.
    pub shrink_runs: usize,
    pub shrink_for: Duration,
    /// What the implementation is known to do otherwise: a case that differs in nothing else is no failure.
    pub known: Vec<KnownDifference>,
    /// Cancelled when it is to end early.
    pub cancel: CancellationToken,
}

impl Exploration {
    /// How many sequences are tried to shrink one that fails, if it is not said.
    pub const SHRINK_RUNS: usize = 60;
    /// For how long at most.
    pub const SHRINK_FOR: Duration = Duration::from_secs(180);

    /// Explores a cluster until a promise is broken or every case was tried, and tells what happened.
    /// The cluster is left running.
    ///
    /// # Errors
    /// If no operations can be drawn, or a failing case cannot be saved.
    pub async fn on(&self, cluster: &Arc<dyn Cluster>, sink: &Sink) -> anyhow::Result<()> {
        let mut expedition = Expedition::new(cluster, sink, &self.cancel, self.seed, self.cases, &self.known);
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let config = Config { failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, rng);
        let sequences = sequences(expedition.ground(), self.steps);
        for number in 1..=self.cases {
            let tree = sequences.new_tree(&mut runner);
            let mut tree = tree.map_err(|why| anyhow::anyhow!("no operations could be drawn: {why}"))?;
            let (_, operations, seen) = tree.current();
            let ended = expedition.perform(number, &operations, Try::First).await;
            if expedition.guard.token().is_cancelled() || expedition.gave_up() {
                break;
            }
            if ended.verdict == Verdict::Failed {
                if let Some(seen) = seen {
                    seen.store(ended.steps, Ordering::SeqCst);
                }
                let shrunk = self.shrink(&mut expedition, number, &mut tree, &operations, ended).await;
                self.keep(&mut expedition, number, &operations, shrunk)?;
                break;
            }
        }
        expedition.finish(sink).await;
        Ok(())
    }

    /// Looks for the fewest operations that still fail.
    async fn shrink(
        &self,
        expedition: &mut Expedition<'_>,
        number: usize,
        tree: &mut impl ValueTree<Value = Drawn>,
        operations: &[Operation],
        ended: Ended,
    ) -> Shrunk {
        let first = (operations[..ended.steps].to_vec(), ended);
        let mut hunt = Hunt {
            started: Instant::now(),
            most: self.shrink_runs,
            longest: self.shrink_for,
            number,
            runs: 0,
            tried: BTreeMap::new(),
            best: first.0.clone(),
            failing: Vec::new(),
        };
        // Many at once first, since most operations have nothing to do with it, then one by one.
        let mut size = hunt.best.len().div_ceil(2);
        while size > 0 && hunt.best.len() > 1 {
            let mut from = 0;
            while from < hunt.best.len() {
                let to = (from + size).min(hunt.best.len());
                let mut candidate = hunt.best.clone();
                candidate.drain(from..to);
                if !hunt.fails(expedition, &candidate).await {
                    from = to;
                }
            }
            size /= 2;
        }
        // What is left is made simpler the way it was drawn. Of longer sequences it is known by now
        // whether they fail: if what is left is in them.
        let mut simpler = tree.simplify();
        for _ in 0..TURNS {
            if !simpler || !hunt.goes_on(expedition) {
                break;
            }
            let (_, candidate, _) = tree.current();
            let failed = if candidate.len() > hunt.best.len() {
                is_within(&hunt.best, &candidate)
            } else {
                candidate == hunt.best || hunt.fails(expedition, &candidate).await
            };
            simpler = if failed { tree.simplify() } else { tree.complicate() };
        }
        let Hunt { started, runs, mut failing, .. } = hunt;
        // Only what fails within the full bounds counts; of equally long ones, the last is the simplest.
        failing.reverse();
        failing.sort_by_key(Vec::len);
        let mut confirmed = first;
        for smaller in failing.into_iter().take(CONFIRMED) {
            if expedition.guard.token().is_cancelled() {
                break;
            }
            let ended = expedition.perform(number, &smaller, Try::Confirming(runs)).await;
            if ended.verdict == Verdict::Failed {
                confirmed = (smaller[..ended.steps].to_vec(), ended);
                break;
            }
        }
        let (operations, ended) = confirmed;
        Shrunk { operations, ended, runs, took: started.elapsed() }
    }

    fn keep(
        &self,
        expedition: &mut Expedition<'_>,
        number: usize,
        drawn: &[Operation],
        shrunk: Shrunk,
    ) -> anyhow::Result<()> {
        let Shrunk { operations, ended, runs, took } = shrunk;
        let finding = ended.finding.context("a case that failed has no finding")?;
        let nodes = u8::try_from(expedition.nodes).unwrap_or(u8::MAX);
        let case = Case::new(nodes, self.seed, number, operations, &finding);
        let file = self.folder.join(format!("failing-{}.yaml", self.seed));
        std::fs::write(&file, case.to_yaml())
            .with_context(|| format!("the failing case cannot be saved as `{}`", file.display()))?;
        expedition.report.failure = Some(ExploreFailure {
            case: number,
            drawn: drawn.len(),
            operations: case.operations.len(),
            script: case.script(),
            finding,
            difference: ended.difference,
            file: Some(file.display().to_string()),
            shrink_runs: runs,
            shrink_ms: millis(took),
            evidence: ended.evidence,
        });
        Ok(())
    }
}

/// Performs exactly the operations of a case, and tells what happened. What differs as is `known` is no
/// failure.
pub async fn replay(
    case: &Case,
    known: &[KnownDifference],
    cluster: &Arc<dyn Cluster>,
    sink: &Sink,
    cancel: &CancellationToken,
) {
    let mut expedition = Expedition::new(cluster, sink, cancel, case.seed, 1, known);
    let ended = expedition.perform(1, &case.operations, Try::First).await;
    if let Some(finding) = ended.finding {
        let performed = Case { operations: case.operations[..ended.steps].to_vec(), ..case.clone() };
        expedition.report.failure = Some(ExploreFailure {
            case: case.case,
            drawn: case.operations.len(),
            operations: ended.steps,
            script: performed.script(),
            finding,
            difference: ended.difference,
            file: None,
            shrink_runs: 0,
            shrink_ms: 0,
            evidence: ended.evidence,
        });
    }
    expedition.finish(sink).await;
}

/// Why a case is performed.
#[derive(Clone, Copy, Debug)]
enum Try {
    First,
    /// To make a failure smaller, with less patience; the number of the try.
    Smaller(usize),
    /// To see that the smaller one fails within the full bounds too.
    Confirming(usize),
}

/// How a case ended.
struct Ended {
    verdict: Verdict,
    /// How many operations were performed, the one included that showed a failure.
    steps: usize,
    finding: Option<Finding>,
    difference: Option<Difference>,
    evidence: Vec<Evidence>,
}

/// What is to be said of a case beside how it ended.
#[derive(Default)]
struct Noted {
    /// How many operations were performed, the one included that showed a failure.
    steps: usize,
    /// Of the known differences that showed: the place in the list, and what was seen first.
    showed: BTreeMap<usize, String>,
    /// What kind of difference it failed by, if it can be said.
    difference: Option<Difference>,
}

/// The search for the fewest operations that fail.
struct Hunt {
    started: Instant,
    /// How many sequences may be tried, and for how long.
    most: usize,
    longest: Duration,
    number: usize,
    runs: usize,
    tried: BTreeMap<String, bool>,
    /// The fewest so far.
    best: Vec<Operation>,
    failing: Vec<Vec<Operation>>,
}

impl Hunt {
    fn goes_on(&self, expedition: &Expedition<'_>) -> bool {
        self.runs < self.most
            && self.started.elapsed() < self.longest
            && !expedition.guard.token().is_cancelled()
    }

    /// Whether operations make sense and still fail; if they do, they are the best so far.
    async fn fails(&mut self, expedition: &mut Expedition<'_>, operations: &[Operation]) -> bool {
        if operations.is_empty() || !self.goes_on(expedition) {
            return false;
        }
        let mut plan = Plan::initial(expedition.ground());
        for operation in operations {
            if plan.permits(operation).is_err() {
                return false;
            }
            plan = plan.after(operation);
        }
        let key = format!("{operations:?}");
        if let Some(failed) = self.tried.get(&key) {
            return *failed;
        }
        self.runs += 1;
        let ended = expedition.perform(self.number, operations, Try::Smaller(self.runs)).await;
        let failed = ended.verdict == Verdict::Failed;
        if failed {
            self.best = operations[..ended.steps].to_vec();
            self.failing.push(self.best.clone());
        }
        self.tried.insert(key, failed);
        failed
    }
}

/// Are all of these among those, in this order?
fn is_within(these: &[Operation], those: &[Operation]) -> bool {
    let mut those = those.iter();
    these.iter().all(|one| those.any(|other| other == one))
}

/// How many simpler sequences are looked at, most of which need not be performed.
const TURNS: usize = 10_000;

/// How many of the smallest failures are tried within the full bounds.
const CONFIRMED: usize = 3;

/// What a failure was shrunk to.
struct Shrunk {
    operations: Vec<Operation>,
    ended: Ended,
    runs: usize,
    took: Duration,
}

/// The planted bugs an exploration is to find: those that break what the truth table shows.
pub const FINDS: &[&str] = &[
    "no-proxy",
    "stale-endpoint",
    "node-port-only-where-pod-runs",
    "deleted-endpoint-stays",
    "unready-endpoint-stays",
    "affinity-ignored",
    "headless-includes-unready",
    "local-policy-ignored",
    "local-source-lost",
    "health-check-always-ok",
    "stale-udp-conntrack",
    "internal-policy-ignored",
    "proxy-name-ignored",
    "removed-port-served",
    "node-port-stays",
    "protocols-merged",
];

/// So many cases in a row that could not be judged: something is wrong that will not go away.
const PATIENCE: usize = 3;

/// An exploration under way on a cluster.
struct Expedition<'a> {
    cluster: &'a Arc<dyn Cluster>,
    sink: &'a Sink,
    guard: Arc<Guard>,
    session: Option<Session>,
    cases: usize,
    nodes: usize,
    known: Arc<[KnownDifference]>,
    started: Instant,
    unjudged: usize,
    report: ExploreReport,
}

impl<'a> Expedition<'a> {
    fn new(
        cluster: &'a Arc<dyn Cluster>,
        sink: &'a Sink,
        cancel: &CancellationToken,
        seed: u64,
        cases: usize,
        known: &[KnownDifference],
    ) -> Self {
        let report = ExploreReport { seed, planned: cases, ..ExploreReport::knowing(known) };
        let (nodes, started) = (cluster.card().nodes.len(), Instant::now());
        let guard = Arc::new(Guard::over(cluster, sink, cancel));
        let known = known.into();
        Self { cluster, sink, guard, session: None, cases, nodes, known, started, unjudged: 0, report }
    }

    /// What of the cluster decides which operations make sense.
    fn ground(&self) -> Ground {
        let nodes = u8::try_from(self.nodes).unwrap_or(u8::MAX);
        let kubelets = if self.cluster.disruption().is_some() { nodes } else { 0 };
        Ground { nodes, kubelets, minor: self.cluster.promises().minor }
    }

    fn gave_up(&self) -> bool {
        self.unjudged >= PATIENCE
    }

    /// Performs one case from the beginning, and tells how it ended. `which` says what for.
    async fn perform(&mut self, number: usize, operations: &[Operation], which: Try) -> Ended {
        let started = Instant::now();
        let mut noted = Noted::default();
        let performed = self.attempt(operations, which, &mut noted).await;
        let Noted { steps, showed, difference } = noted;
        let (verdict, reason, finding, evidence) = match performed {
            Ok(()) => (Verdict::Passed, None, None, Vec::new()),
            Err((Broken::Promise(finding), evidence)) => (Verdict::Failed, None, Some(*finding), evidence),
            Err((Broken::CouldNotTell(reason), evidence)) => {
                // Before the first operation, its agents are what is lost.
                if steps == 0
                    && !self.guard.token().is_cancelled()
                    && let Some(session) = self.session.take()
                {
                    session.give_back().await;
                }
                (Verdict::Inconclusive, Some(reason), None, evidence)
            }
        };
        let duration = started.elapsed();
        self.unjudged = if verdict == Verdict::Inconclusive { self.unjudged + 1 } else { 0 };
        let shrinking = match which {
            Try::First => None,
            Try::Smaller(run) | Try::Confirming(run) => Some(run),
        };
        if shrinking.is_none() {
            self.report.count(verdict, reason.as_deref(), &showed, millis(duration));
            self.report.steps += steps;
            for operation in &operations[..steps] {
                *self.report.operations.entry(operation.kind().to_owned()).or_default() += 1;
            }
        }
        self.sink.tell(Event::CaseFinished {
            case: number,
            of: self.cases,
            shrinking,
            operations: operations.iter().map(ToString::to_string).collect(),
            steps,
            verdict,
            reason,
            finding: finding.clone(),
            duration_ms: millis(duration),
            known: reasons(&self.known, showed.keys()),
        });
        Ended { verdict, steps, finding, difference, evidence }
    }

    async fn attempt(
        &mut self,
        operations: &[Operation],
        which: Try,
        noted: &mut Noted,
    ) -> Result<(), (Broken, Vec<Evidence>)> {
        let lost = |error: anyhow::Error| (Broken::from(error), Vec::new());
        let ground = self.ground();
        let session = match self.session.take() {
            Some(session) => session,
            None => Session::guarded(Arc::clone(self.cluster), self.sink.clone(), Arc::clone(&self.guard))
                .await
                .map_err(lost)?,
        };
        let guard = Arc::clone(&self.guard);
        let given_up = || Broken::CouldNotTell(guard.why());
        let session = self.session.insert(session);
        let shrinking = matches!(which, Try::Smaller(_));
        let patience = if shrinking { Patience::short } else { Patience::full };
        let plan = Plan::initial(ground);
        let known = Arc::clone(&self.known);
        let mut subject = Subject::open(session, plan.clone(), patience, known).await.map_err(lost)?;
        let mut begun = Vec::new();
        let mut held = tokio::select! {
            held = walk(&mut subject, plan, operations, &mut begun) => held,
            // What was stopped must be started again, also then.
            () = guard.token().cancelled() => Err(given_up()),
        };
        noted.steps = begun.len();
        noted.difference = subject.difference.take();
        noted.showed = std::mem::take(&mut subject.showed);
        // Agents on a node without a kubelet cannot tell what they saw.
        let healed = subject.heal().await;
        if let (Ok(()), Ok(())) = (&held, &healed) {
            held = tokio::select! {
                seen = subject.testify() => match seen {
                    Ok(None) => Ok(()),
                    Ok(Some(seen)) => {
                        noted.steps = begun.partition_point(|begun| *begun <= seen.at_us).max(1);
                        Err(Broken::Promise(Box::new(seen.finding)))
                    }
                    Err(error) => Err(error.into()),
                },
                () = guard.token().cancelled() => Err(given_up()),
            };
        }
        // Whatever was seen may be due to what is missing.
        if let (Err(Broken::Promise(_)), Some(lost)) = (&held, guard.lost()) {
            held = Err(Broken::CouldNotTell(lost));
        }
        let evidence = match &held {
            Err(_) if !shrinking && !guard.token().is_cancelled() => subject.scene.evidence().await,
            _ => Vec::new(),
        };
        self.report.looks += subject.looks;
        session.clear(subject.scene).await;
        let held = match (held, healed) {
            (Ok(()), Err(error)) => Err(Broken::from(error)),
            (held, _) => held,
        };
        held.map_err(|broken| (broken, evidence))
    }

    async fn finish(mut self, sink: &Sink) {
        if let Some(session) = &self.session {
            session.close().await;
        }
        // One that went unnoticed until now is told here.
        self.guard.lost();
        self.report.duration_ms = millis(self.started.elapsed());
        let timing = Timing { step: "exploration".to_owned(), us: self.report.duration_ms * 1000 };
        sink.tell(Event::Explored { explore: Box::new(self.report) });
        sink.tell(Event::RunFinished {
            duration_ms: millis(self.started.elapsed()),
            interrupted: self.guard.was_asked(),
            timings: vec![timing],
        });
    }
}

/// Why these differences are known; what several have in common is said once.
fn reasons<'a>(known: &[KnownDifference], places: impl Iterator<Item = &'a usize>) -> Vec<String> {
    let mut reasons: Vec<String> = Vec::new();
    for known in places.filter_map(|place| known.get(*place)) {
        if !reasons.contains(&known.reason) {
            reasons.push(known.reason.clone());
        }
    }
    reasons
}

/// Performs operations, and notes when each was begun.
async fn walk(
    subject: &mut Subject,
    mut plan: Plan,
    operations: &[Operation],
    begun: &mut Vec<i64>,
) -> Result<(), Broken> {
    subject.begin().await?;
    for operation in operations {
        if let Err(why) = plan.permits(operation) {
            return Err(Broken::CouldNotTell(format!(
                "operation {} makes no sense here: {why}",
                begun.len() + 1
            )));
        }
        begun.push(now_us());
        plan = plan.after(operation);
        subject.step(operation, plan.clone()).await?;
    }
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
