//! The slow checker: tries every state of the timeline for every call.

use super::{Call, Distribution, History, Timeline, Verdicts, Violation};

/// Says what [`check`](super::check) says, by trying everything: the property tests hold the one
/// against the other, the benchmark compares their times.
///
/// # Panics
/// If a call names a timeline that the history does not have.
pub fn check_slowly(history: &History, bound_us: i64) -> Verdicts {
    let needed: Vec<Option<i64>> =
        history.calls.iter().map(|call| needed_bound(&history.timelines[call.timeline], call)).collect();
    let is_violated = |needed: &Option<i64>| needed.is_none_or(|needed| needed > bound_us);
    Verdicts {
        calls: history.calls.len(),
        violations: (history.calls.iter().zip(&needed).enumerate())
            .filter(|(_, (_, needed))| is_violated(needed))
            .map(|(index, (call, needed_us))| Violation {
                call: index,
                needed_us: *needed_us,
                allowed_then: history.timelines[call.timeline].allowed_at(call.latest_us()).clone(),
            })
            .collect(),
        staleness: Distribution::of(needed.into_iter().flatten().filter(|needed| *needed > 0).collect()),
    }
}

/// The least over all states that allow the answer and began before the call was over.
fn needed_bound(timeline: &Timeline, call: &Call) -> Option<i64> {
    let allowing =
        timeline.states().filter(|(from, _, allowed)| *from <= call.latest_us() && allowed.allows(call.seen));
    allowing.map(|(_, to, _)| call.earliest_us().saturating_sub(to).max(0)).min()
}
