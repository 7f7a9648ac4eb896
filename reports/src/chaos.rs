//! What a chaos run found, as the report has it.

use serde::{Deserialize, Serialize};

use crate::Verdict;

/// One fault of a plan, before it strikes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFault {
    pub fault: String,
    /// When it strikes, after the first one may.
    pub at_ms: u64,
    /// What it does, in words.
    pub what: String,
}

/// One fault that struck.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultReport {
    pub fault: String,
    /// What was done, and to whom.
    pub what: String,
    /// Microseconds since the UNIX epoch, on the harness's clock.
    pub injected_us: i64,
    pub healed_us: i64,
    /// What went wrong with it, if something did.
    pub trouble: Option<String>,
    /// Answers that were stale and came between this fault and the next one.
    pub staleness: DistributionReport,
}

/// The result of a chaos run; by default one that could not be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChaosReport {
    pub verdict: Verdict,
    /// Why it is not green.
    pub reason: Option<String>,
    pub seed: u64,
    /// Calls each client begins per second.
    pub rate: u32,
    /// From the first call to the last.
    pub duration_ms: u64,
    /// How old an answer may be.
    pub staleness_bound_ms: u64,
    /// How old a name's answer may be.
    pub name_staleness_bound_ms: u64,
    pub clients: usize,
    pub calls: usize,
    pub names_asked: usize,
    /// Calls that were not made for the caller's own trouble.
    pub could_not_look: u64,
    /// Versions of the objects.
    pub changes: usize,
    pub faults: Vec<FaultReport>,
    pub violations: usize,
    /// The first of them in full.
    pub first_violations: Vec<ViolationReport>,
    /// How old the answers were that nothing allowed while their call lasted.
    pub staleness: DistributionReport,
    pub name_staleness: DistributionReport,
    /// From the instant a backend was ready to its first answer at the place that had it last.
    pub ready_to_served_everywhere: DistributionReport,
    /// Backends that were never seen everywhere while they were ready.
    pub not_served_everywhere: usize,
    /// From the instant a backend left to the last call it answered.
    pub removed_to_last_served: DistributionReport,
    /// From the last pod ready again to everything as promised; none if it did not come to that.
    pub converged_ms: Option<u64>,
    pub convergence_bound_ms: u64,
    /// The longest it took the API server to answer one small request.
    pub slowest_answer_ms: u64,
}

/// One broken promise of a chaos run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViolationReport {
    pub vantage: String,
    pub destination: String,
    /// Which call of the client it was, counted from 0 as in the agent's results.
    pub call: usize,
    /// Microseconds since the UNIX epoch, on the harness's clock; each may be off by `within_us`.
    pub started_us: i64,
    pub ended_us: i64,
    pub within_us: i64,
    pub seen: String,
    /// What was allowed when the call ended.
    pub allowed_then: String,
    /// The smallest bound that would have allowed it; none if it was never allowed before.
    pub needed_ms: Option<u64>,
    /// The fault that had struck last.
    pub after: Option<String>,
    /// The client's calls before and after it, with their times.
    pub around: Vec<String>,
}

/// How long something took, over many cases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DistributionReport {
    pub count: usize,
    pub p50_us: i64,
    pub p90_us: i64,
    pub p99_us: i64,
    pub max_us: i64,
    pub histogram: Vec<BucketReport>,
}

/// The cases that took up to a time, and longer than the bucket before says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketReport {
    pub up_to_us: i64,
    pub count: usize,
}

impl Default for ChaosReport {
    fn default() -> Self {
        Self {
            verdict: Verdict::Inconclusive,
            reason: None,
            seed: 0,
            rate: 0,
            duration_ms: 0,
            staleness_bound_ms: 0,
            name_staleness_bound_ms: 0,
            clients: 0,
            calls: 0,
            names_asked: 0,
            could_not_look: 0,
            changes: 0,
            faults: Vec::new(),
            violations: 0,
            first_violations: Vec::new(),
            staleness: DistributionReport::default(),
            name_staleness: DistributionReport::default(),
            ready_to_served_everywhere: DistributionReport::default(),
            not_served_everywhere: 0,
            removed_to_last_served: DistributionReport::default(),
            converged_ms: None,
            convergence_bound_ms: 0,
            slowest_answer_ms: 0,
        }
    }
}
