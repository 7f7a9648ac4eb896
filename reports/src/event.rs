//! The events of a run: the only bridge between the runner and everything that reports.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Deviation;
use crate::chaos::{ChaosReport, PlannedFault};

/// An event and when it happened, by the clock of the harness.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub at: Timestamp,
    pub event: Event,
}

/// Something that happened during a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Event {
    /// The first event of every run.
    RunStarted {
        tool: String,
        suite: String,
        seed: u64,
        jobs: usize,
        checks: Vec<CheckCard>,
        /// The features, which are chapters of checks, that the implementation does not claim to have.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        unclaimed: Vec<String>,
    },
    /// A cluster is up.
    ClusterReady { cluster: ClusterCard },
    /// The cluster lacks something that such clusters mostly can, as was found when it was tried.
    Lacks { capability: String, reason: String },
    /// How fast the cluster is, and the bounds that follow from it; `trouble` says what could not be
    /// measured.
    BoundsMeasured { bounds: Vec<BoundCard>, trouble: Option<String> },
    /// A check began, in a namespace of its own.
    CheckStarted { check: String, namespace: String },
    /// A check changed the cluster: what a person would have typed.
    Acted { check: String, action: String },
    /// Calls made from one vantage to one destination; `outcomes` counts what was seen.
    Called { check: String, call: Call },
    /// A check ended.
    CheckFinished {
        check: String,
        verdict: Verdict,
        reason: Option<String>,
        finding: Option<Finding>,
        duration_ms: u64,
        evidence: Vec<Evidence>,
        /// It failed, and is known to do so on this implementation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expected: Option<Deviation>,
    },
    /// Which faults will strike when; all of it comes from the seed.
    ChaosPlanned { seed: u64, plan: Vec<PlannedFault> },
    /// Clients call by themselves from now on.
    ClientsStarted { clients: usize, rate: u32 },
    /// A fault strikes.
    FaultInjected { fault: String, what: String },
    /// A fault is undone.
    FaultHealed { fault: String, trouble: Option<String> },
    /// An object changed, between two instants on the harness's clock in microseconds.
    Changed { earliest_us: i64, latest_us: i64, change: String },
    /// What a chaos run found.
    ChaosFinished { chaos: Box<ChaosReport> },
    /// A case of an exploration ended; `shrinking` numbers the tries to make a failure smaller.
    CaseFinished {
        case: usize,
        of: usize,
        shrinking: Option<usize>,
        operations: Vec<String>,
        /// How many of them were performed.
        steps: usize,
        verdict: Verdict,
        reason: Option<String>,
        finding: Option<Finding>,
        duration_ms: u64,
        /// The reasons of the known differences that it showed; if it passed, it showed no others.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        known: Vec<String>,
    },
    /// What an exploration found, all in all.
    Explored { explore: Box<crate::ExploreReport> },
    /// What every place saw at every destination, beside what was promised there.
    Tabulated { table: Box<crate::TableReport> },
    /// Something went wrong that belongs to no check.
    Trouble { message: String },
    /// The last event of a run that could still write.
    RunFinished { duration_ms: u64, interrupted: bool, timings: Vec<Timing> },
}

/// What is known of a check before it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckCard {
    pub id: String,
    pub title: String,
    pub class: Class,
}

/// Is it promised, or only seen?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Upstream Kubernetes promises it; the check cites where.
    Promise,
    /// An implementation is free; reported, and red only where it is expected.
    Observation,
}

/// The cluster a run looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterCard {
    pub provider: String,
    /// The API server's `gitVersion`.
    pub version: String,
    pub nodes: Vec<String>,
    pub capabilities: Vec<String>,
    /// Milliseconds from the start to all nodes Ready and a first answer by a cluster IP.
    pub ready_ms: u64,
    pub timings: Vec<Timing>,
    /// What is not the provider's own: components that external commands stand in for, or nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<ComponentCard>,
}

/// A component that is somebody else's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentCard {
    pub component: String,
    /// Its command line; none if it was left out.
    pub command: Option<String>,
    /// What the program says its version is, if it does.
    pub version: Option<String>,
}

impl ComponentCard {
    /// What stands in for ours: its version, else its command line.
    pub fn in_words(&self) -> &str {
        self.version.as_deref().or(self.command.as_deref()).unwrap_or("left out")
    }
}

impl ClusterCard {
    /// What it is, in one line: provider and version, and the components that are somebody else's.
    pub fn in_words(&self) -> String {
        let mut words = format!("{} {}", self.provider, self.version);
        for component in &self.components {
            words += &format!(", {}: {}", component.component, component.in_words());
        }
        words
    }
}

/// How long something may take in this run, and what that follows from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundCard {
    pub bound: String,
    pub ms: u64,
    /// What was measured, if it could be.
    pub measured_ms: Option<u64>,
    /// How the bound follows from that, within a floor and a ceiling.
    pub rule: String,
}

/// How long one step took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    pub step: String,
    pub us: u64,
}

/// Calls of one kind from one vantage to one destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    pub vantage: String,
    pub destination: String,
    /// Microseconds since the UNIX epoch: the first call's start, the last one's end.
    pub started_us: u64,
    pub finished_us: u64,
    /// What was seen, and how often.
    pub outcomes: BTreeMap<String, u64>,
}

/// How a check ended. Ordered by how bad it is: the worst one is the run's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything that was promised was seen.
    Passed,
    /// Not run; the reason names what is missing.
    Skipped,
    /// It could not be told; the reason says what went wrong. Never green.
    Inconclusive,
    /// A promise was broken.
    Failed,
}

/// A broken promise, in two sentences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub promised: String,
    pub observed: String,
}

/// Something that was saved when a check did not pass: a name and its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub name: String,
    pub text: String,
}
