//! Successions: what was allowed from when to when, for answers that are no backend's, such as the
//! records of a name; and the checker for them, of the same shape as that of calls.

use stickler_model::{Reply, Resolution};

use super::Distribution;

/// Something that allows some answers and not others.
pub trait Permit: Clone + PartialEq {
    /// What is seen.
    type Seen;

    /// Whether it is allowed.
    fn permits(&self, seen: &Self::Seen) -> bool;
}

impl Permit for Resolution {
    type Seen = Reply;

    fn permits(&self, seen: &Reply) -> bool {
        self.allows(seen).is_ok()
    }
}

/// What was allowed, from when to when.
#[derive(Clone, Debug)]
pub struct Succession<P> {
    states: Vec<State<P>>,
}

/// What a name is, from when to when.
pub type NameTimeline = Succession<Resolution>;

#[derive(Clone, Debug)]
struct State<P> {
    earliest_us: i64,
    latest_us: i64,
    permit: P,
}

impl<P: Permit> Succession<P> {
    /// On which this was allowed ever since.
    pub fn starting(permit: P) -> Self {
        Self { states: vec![State { earliest_us: i64::MIN, latest_us: i64::MIN, permit }] }
    }

    /// From some instant between these two on, this is allowed and nothing else. Changes are told
    /// in the order they happened in.
    pub fn change(&mut self, earliest_us: i64, latest_us: i64, permit: P) {
        let last = &self.states[self.states.len() - 1];
        if last.permit == permit {
            return;
        }
        let earliest_us = earliest_us.max(last.earliest_us);
        let latest_us = latest_us.max(last.latest_us).max(earliest_us);
        self.states.push(State { earliest_us, latest_us, permit });
    }

    /// What was allowed at an instant, the newest where it is in doubt.
    pub fn allowed_at(&self, at_us: i64) -> &P {
        &self.states[self.begun(at_us).saturating_sub(1)].permit
    }

    /// How often it changed.
    pub fn changes(&self) -> usize {
        self.states.len() - 1
    }

    /// How many states may have begun until an instant.
    fn begun(&self, at_us: i64) -> usize {
        self.states.partition_point(|state| state.earliest_us <= at_us)
    }

    /// The last instant of a state.
    fn end(&self, index: usize) -> i64 {
        self.states.get(index + 1).map_or(i64::MAX, |next| next.latest_us)
    }
}

/// One question and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked<S> {
    /// The index of the succession that says what is allowed here.
    pub timeline: usize,
    pub start_us: i64,
    pub end_us: i64,
    /// By how much the asker's clock may be off, either way.
    pub uncertainty_us: i64,
    pub seen: S,
}

/// A question for a name, and its reply.
pub type NameCall = Asked<Reply>;

/// What a history of questions shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings<P> {
    pub asked: usize,
    /// In the order of the questions.
    pub wrong: Vec<Wrong<P>>,
    /// How stale the answers were that nothing allowed while their question was open; without those
    /// that were never allowed before.
    pub staleness: Distribution,
}

/// An answer that was not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong<P> {
    /// Its index among the questions.
    pub call: usize,
    /// The smallest bound that would have allowed it; none if it was never allowed before.
    pub needed_us: Option<i64>,
    /// What was allowed when the answer came.
    pub allowed_then: P,
}

/// Judges every answer: was there an instant in [start - bound, end] at which it was allowed?
///
/// Looks back from the end of the question and stops at the first state that allows the answer: of
/// all that do, it is the one that ended last.
///
/// # Panics
/// If a question names a timeline that is not there.
pub fn check_names<P: Permit>(
    timelines: &[Succession<P>],
    asked: &[Asked<P::Seen>],
    bound_us: i64,
) -> Findings<P> {
    findings(timelines, asked, bound_us, |timeline, call, earliest, latest| {
        let allowing = (0..timeline.begun(latest))
            .rev()
            .find(|index| timeline.states[*index].permit.permits(&call.seen));
        allowing.map(|index| earliest.saturating_sub(timeline.end(index)).max(0))
    })
}

/// Says what [`check_names`] says, by trying every state for every question.
///
/// # Panics
/// If a question names a timeline that is not there.
pub fn check_names_slowly<P: Permit>(
    timelines: &[Succession<P>],
    asked: &[Asked<P::Seen>],
    bound_us: i64,
) -> Findings<P> {
    findings(timelines, asked, bound_us, |timeline, call, earliest, latest| {
        let states = timeline.states.iter().enumerate();
        let allowing =
            states.filter(|(_, state)| state.earliest_us <= latest && state.permit.permits(&call.seen));
        allowing.map(|(index, _)| earliest.saturating_sub(timeline.end(index)).max(0)).min()
    })
}

fn findings<P: Permit>(
    timelines: &[Succession<P>],
    asked: &[Asked<P::Seen>],
    bound_us: i64,
    needed_bound: impl Fn(&Succession<P>, &Asked<P::Seen>, i64, i64) -> Option<i64>,
) -> Findings<P> {
    let mut wrong = Vec::new();
    let mut stale = Vec::new();
    for (index, call) in asked.iter().enumerate() {
        let timeline = &timelines[call.timeline];
        let earliest = call.start_us.saturating_sub(call.uncertainty_us);
        let latest = call.end_us.saturating_add(call.uncertainty_us);
        let needed_us = needed_bound(timeline, call, earliest, latest);
        stale.extend(needed_us.filter(|needed| *needed > 0));
        if needed_us.is_none_or(|needed| needed > bound_us) {
            let allowed_then = timeline.allowed_at(latest).clone();
            wrong.push(Wrong { call: index, needed_us, allowed_then });
        }
    }
    Findings { asked: asked.len(), wrong, staleness: Distribution::of(stale) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A set of small numbers: it permits its members.
    impl Permit for u8 {
        type Seen = u32;

        fn permits(&self, seen: &u32) -> bool {
            self & (1 << seen) != 0
        }
    }

    fn asked(start_us: i64, end_us: i64, seen: u32) -> Asked<u32> {
        Asked { timeline: 0, start_us, end_us, uncertainty_us: 0, seen }
    }

    #[test]
    fn an_answer_is_as_old_as_the_last_state_that_allowed_it() {
        let mut names = Succession::starting(0b01_u8);
        names.change(100, 100, 0b10);
        names.change(200, 210, 0b01);
        for (call, needed) in [
            (asked(50, 60, 0), Some(0)),
            (asked(50, 60, 1), None),
            (asked(150, 160, 0), Some(50)),
            (asked(205, 207, 1), Some(0)),
            (asked(250, 260, 1), Some(40)),
        ] {
            let findings = check_names(&[names.clone()], std::slice::from_ref(&call), -1);
            assert_eq!(findings.wrong[0].needed_us, needed, "{call:?}");
        }
    }

    fn succession() -> impl Strategy<Value = Succession<u8>> {
        (0..8_u8, prop::collection::vec((0..8_i64, 0..6_i64, 0..8_u8), 0..12)).prop_map(|(first, changes)| {
            let mut succession = Succession::starting(first);
            let mut at = 0;
            for (step, doubt, permit) in changes {
                at += step;
                succession.change(at, at + doubt, permit);
            }
            succession
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

        /// The checker says what the slow and obviously right one says, for every bound.
        #[test]
        fn agrees_with_the_slow_checker(
            timelines in prop::collection::vec(succession(), 2),
            calls in prop::collection::vec((0..2_usize, -5..60_i64, 0..10_i64, 0..3_i64, 0..4_u32), 0..30),
            bound_us in -1..40_i64,
        ) {
            let calls: Vec<Asked<u32>> = calls
                .into_iter()
                .map(|(timeline, start_us, takes, uncertainty_us, seen)| Asked {
                    timeline,
                    start_us,
                    end_us: start_us + takes,
                    uncertainty_us,
                    seen,
                })
                .collect();
            prop_assert_eq!(
                check_names(&timelines, &calls, bound_us),
                check_names_slowly(&timelines, &calls, bound_us)
            );
        }
    }
}
