//! Histories: calls and changes with their times, and how stale each answer was.
//!
//! A [`History`] holds a [`Timeline`] for each place that is called (a class of vantages and a
//! destination): what the model allowed, from when to when. [`check`] asks of every [`Call`]: was
//! there an instant in [start - bound, end] at which the model allowed what was seen? It also
//! computes the smallest bound that would have allowed it, so a run *measures* how stale an
//! implementation gets. [`spread`] tells from the same history how long a backend that became
//! ready was not yet served everywhere, and how long one that left was served still.
//!
//! Pure: no clock, no cluster. Times are microseconds on the harness's clock. Each has an
//! uncertainty, and every doubt is for the implementation: a violation is one for any true times.

mod distribution;
mod names;
mod routes;
mod slow;
mod spread;
mod timeline;

pub use distribution::{Bucket, Distribution};
pub use names::{
    Asked, Findings, NameCall, NameTimeline, Permit, Succession, Wrong, check_names, check_names_slowly,
};
pub use routes::{Backends, NotAnAnswer};
pub use slow::check_slowly;
pub use spread::{Spread, spread};
pub use timeline::{Allowed, Answer, BackendId, Timeline};

/// Calls, and what was allowed when.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub timelines: Vec<Timeline>,
    /// In any order.
    pub calls: Vec<Call>,
}

/// One call and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The index of the timeline that says what is allowed here.
    pub timeline: usize,
    /// Who called; any numbering.
    pub vantage: u32,
    pub start_us: i64,
    pub end_us: i64,
    /// By how much the caller's clock may be off, either way.
    pub uncertainty_us: i64,
    pub seen: Answer,
}

impl Call {
    /// The earliest instant the call may have been under way at.
    pub(crate) fn earliest_us(&self) -> i64 {
        self.start_us.saturating_sub(self.uncertainty_us)
    }

    /// The latest one.
    pub(crate) fn latest_us(&self) -> i64 {
        self.end_us.saturating_add(self.uncertainty_us)
    }
}

/// What a history shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    pub calls: usize,
    /// In the order of the calls.
    pub violations: Vec<Violation>,
    /// How stale the answers were that nothing allowed while their call lasted. Answers that no
    /// bound would allow are not among them: [`Violation::needed_us`] is none there.
    pub staleness: Distribution,
}

/// A call that was answered as the model did not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its index in [`History::calls`].
    pub call: usize,
    /// The smallest bound that would have allowed it; none if it was never allowed before.
    pub needed_us: Option<i64>,
    /// What was allowed when the call ended.
    pub allowed_then: Allowed,
}

/// Judges every call of a history.
///
/// Takes n log n time in the calls and changes together: a binary search for each call among the
/// spans in which its answer was allowed.
///
/// # Panics
/// If a call names a timeline that the history does not have.
pub fn check(history: &History, bound_us: i64) -> Verdicts {
    let mut violations = Vec::new();
    let mut stale = Vec::new();
    for (index, call) in history.calls.iter().enumerate() {
        let timeline = &history.timelines[call.timeline];
        let needed_us = needed_bound(timeline, call);
        stale.extend(needed_us.filter(|needed| *needed > 0));
        if needed_us.is_none_or(|needed| needed > bound_us) {
            let allowed_then = timeline.allowed_at(call.latest_us()).clone();
            violations.push(Violation { call: index, needed_us, allowed_then });
        }
    }
    Verdicts { calls: history.calls.len(), violations, staleness: Distribution::of(stale) }
}

/// The smallest staleness bound that allows the call, 0 if its answer was allowed while it lasted.
fn needed_bound(timeline: &Timeline, call: &Call) -> Option<i64> {
    let last_allowed = timeline.last_allowed(call.seen, call.latest_us())?;
    Some(call.earliest_us().saturating_sub(last_allowed).max(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn call(start_us: i64, end_us: i64, seen: Answer) -> Call {
        Call { timeline: 0, vantage: 0, start_us, end_us, uncertainty_us: 0, seen }
    }

    fn needed(timeline: &Timeline, call: Call) -> Option<i64> {
        let history = History { timelines: vec![timeline.clone()], calls: vec![call] };
        let verdicts = check(&history, -1);
        assert_eq!(verdicts, check_slowly(&history, -1));
        verdicts.violations.first().and_then(|violation| violation.needed_us)
    }

    #[test]
    fn measures_how_stale_an_answer_is() {
        // Backend 1 and 2; then 1 alone; then nobody.
        let mut timeline = Timeline::starting(Allowed::answered([1, 2]));
        timeline.change(100, 100, Allowed::answered([1]));
        timeline.change(200, 200, Allowed::refused());
        let by = Answer::By;
        for (call, staleness) in [
            (call(50, 60, by(2)), Some(0)),
            (call(90, 150, by(2)), Some(0)),
            (call(100, 150, by(2)), Some(0)),
            (call(130, 150, by(2)), Some(30)),
            (call(250, 260, by(2)), Some(150)),
            (call(250, 260, by(1)), Some(50)),
            (call(250, 260, Answer::Refused), Some(0)),
            // What is allowed later only was never allowed.
            (call(130, 150, Answer::Refused), None),
            (call(130, 150, by(3)), None),
            (call(130, 200, Answer::Refused), Some(0)),
        ] {
            assert_eq!(needed(&timeline, call), staleness, "{call:?}");
        }
    }

    #[test]
    fn doubt_is_for_the_implementation() {
        let mut timeline = Timeline::starting(Allowed::answered([1]));
        // It happened at some time between.
        timeline.change(100, 120, Allowed::answered([2]));
        assert_eq!(needed(&timeline, call(110, 115, Answer::By(1))), Some(0));
        assert_eq!(needed(&timeline, call(110, 115, Answer::By(2))), Some(0));
        assert_eq!(needed(&timeline, call(125, 130, Answer::By(1))), Some(5));
        let off = Call { uncertainty_us: 5, ..call(125, 130, Answer::By(1)) };
        assert_eq!(needed(&timeline, off), Some(0));
        let early = Call { uncertainty_us: 5, ..call(80, 95, Answer::By(2)) };
        assert_eq!(needed(&timeline, early), Some(0));
        assert_eq!(needed(&timeline, call(80, 95, Answer::By(2))), None);
    }

    #[test]
    fn says_which_calls_prove_it() {
        let mut timeline = Timeline::starting(Allowed::answered([1, 2]));
        timeline.change(100, 100, Allowed::answered([1]));
        let calls = vec![
            call(10, 20, Answer::By(2)),
            call(110, 120, Answer::By(2)),
            call(400, 410, Answer::By(2)),
            call(420, 430, Answer::Stranger),
            call(440, 450, Answer::By(1)),
        ];
        let verdicts = check(&History { timelines: vec![timeline], calls }, 50);
        let violation = |call, needed_us| Violation { call, needed_us, allowed_then: Allowed::answered([1]) };
        assert_eq!(verdicts.violations, [violation(2, Some(300)), violation(3, None)]);
        assert_eq!((verdicts.calls, verdicts.staleness.count, verdicts.staleness.max_us), (5, 2, 300));
    }

    fn allowed() -> impl Strategy<Value = Allowed> {
        let backends = || prop::collection::btree_set(0..5_u32, 0..4);
        prop_oneof![
            4 => backends().prop_map(Allowed::answered),
            1 => backends().prop_map(Allowed::at_most),
            2 => Just(Allowed::refused()),
            1 => Just(Allowed::refused_or_silent()),
            1 => Just(Allowed::dropped()),
            1 => Just(Allowed::nobody()),
            1 => Just(Allowed::anything()),
        ]
    }

    fn answer() -> impl Strategy<Value = Answer> {
        prop_oneof![
            8 => (0..6_u32).prop_map(Answer::By),
            1 => Just(Answer::Stranger),
            2 => Just(Answer::Refused),
            1 => Just(Answer::Silent),
            1 => Just(Answer::Reset),
            1 => Just(Answer::Unreachable),
        ]
    }

    /// Few enough instants that calls and changes often meet.
    fn timeline() -> impl Strategy<Value = Timeline> {
        (allowed(), prop::collection::vec((0..8_i64, 0..6_i64, allowed()), 0..12)).prop_map(
            |(first, changes)| {
                let mut timeline = Timeline::starting(first);
                let mut at = 0;
                for (step, doubt, allowed) in changes {
                    at += step;
                    timeline.change(at, at + doubt, allowed);
                }
                timeline
            },
        )
    }

    fn history() -> impl Strategy<Value = History> {
        let call = (0..2_usize, 0..3_u32, -5..60_i64, 0..10_i64, 0..3_i64, answer()).prop_map(
            |(timeline, vantage, start_us, takes, uncertainty_us, seen)| Call {
                timeline,
                vantage,
                start_us,
                end_us: start_us + takes,
                uncertainty_us,
                seen,
            },
        );
        (prop::collection::vec(timeline(), 2), prop::collection::vec(call, 0..30))
            .prop_map(|(timelines, calls)| History { timelines, calls })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

        /// The checker says what the slow and obviously right one says, for every bound.
        #[test]
        fn agrees_with_the_slow_checker(history in history(), bound_us in 0..40_i64) {
            prop_assert_eq!(check(&history, bound_us), check_slowly(&history, bound_us));
        }

        /// A call is in violation exactly of the bounds below the one it needs.
        #[test]
        fn the_needed_bound_is_the_least(history in history()) {
            for violation in check(&history, 0).violations {
                let is_violated = |bound_us| {
                    check(&history, bound_us).violations.iter().any(|other| other.call == violation.call)
                };
                match violation.needed_us {
                    Some(needed) => prop_assert!(!is_violated(needed) && is_violated(needed - 1)),
                    None => prop_assert!(is_violated(i64::MAX)),
                }
            }
        }
    }
}
