//! Spreads: how long after a backend became ready it was served everywhere, and how long after it
//! left it was served still.

use std::collections::{BTreeMap, BTreeSet};

use super::timeline::Span;
use super::{Answer, BackendId, Distribution, History};

/// How changes spread, measured by who answered. A backend is seen to be served only when it is
/// chosen: with few calls, the times are those between the calls rather than the changes'.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// From the instant a backend was ready to the end of the first call it answered, at the
    /// place where that took longest: over all backends that every vantage saw that called.
    pub ready_to_served_everywhere: Distribution,
    /// Backends that became ready and were not seen by every vantage that called until they left
    /// or the history ended.
    pub not_served_everywhere: usize,
    /// From the instant a backend left to the start of the last call it answered; 0 if it answered
    /// none: over all backends that left.
    pub removed_to_last_served: Distribution,
}

/// Measures how changes spread.
///
/// # Panics
/// If a call names a timeline that the history does not have.
pub fn spread(history: &History) -> Spread {
    let mut first_served: BTreeMap<(Stay, u32), i64> = BTreeMap::new();
    let mut last_served: BTreeMap<Stay, i64> = BTreeMap::new();
    let mut starts: BTreeMap<(usize, u32), Vec<i64>> = BTreeMap::new();
    for call in &history.calls {
        starts.entry((call.timeline, call.vantage)).or_default().push(call.start_us);
        let Answer::By(backend) = call.seen else {
            continue;
        };
        let spans = history.timelines[call.timeline].spans(call.seen);
        let begun = spans.partition_point(|span| span.from_us <= call.latest_us());
        let Some(index) = begun.checked_sub(1) else {
            continue;
        };
        let stay = Stay { timeline: call.timeline, backend, index };
        if call.earliest_us() > spans[index].to_us {
            let last = last_served.entry(stay).or_insert(call.start_us);
            *last = call.start_us.max(*last);
        } else {
            let first = first_served.entry((stay, call.vantage)).or_insert(call.end_us);
            *first = call.end_us.min(*first);
        }
    }
    starts.values_mut().for_each(|starts| starts.sort_unstable());

    let mut everywhere = Vec::new();
    let mut lingered = Vec::new();
    let mut not_served_everywhere = 0;
    for (timeline, line) in history.timelines.iter().enumerate() {
        for backend in line.backends() {
            for (index, span) in line.spans(Answer::By(backend)).iter().enumerate() {
                let stay = Stay { timeline, backend, index };
                if span.to_us < i64::MAX {
                    lingered.push(last_served.get(&stay).map_or(0, |last| last - span.to_us));
                }
                if span.from_us == i64::MIN {
                    continue;
                }
                let callers = callers_within(&starts, timeline, *span);
                let firsts: Vec<i64> = (callers.iter())
                    .filter_map(|vantage| first_served.get(&(stay, *vantage)).copied())
                    .collect();
                match firsts.iter().max() {
                    Some(slowest) if firsts.len() == callers.len() => {
                        everywhere.push((slowest - span.surely_from_us).max(0));
                    }
                    _ => not_served_everywhere += usize::from(!callers.is_empty()),
                }
            }
        }
    }
    Spread {
        ready_to_served_everywhere: Distribution::of(everywhere),
        not_served_everywhere,
        removed_to_last_served: Distribution::of(lingered),
    }
}

/// One backend's time behind one destination, from becoming ready to leaving.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Stay {
    timeline: usize,
    backend: BackendId,
    /// Which of its spans.
    index: usize,
}

/// The vantages that began a call in a span.
fn callers_within(starts: &BTreeMap<(usize, u32), Vec<i64>>, timeline: usize, span: Span) -> BTreeSet<u32> {
    starts
        .range((timeline, 0)..=(timeline, u32::MAX))
        .filter(|(_, starts)| {
            let first = starts.partition_point(|start| *start < span.from_us);
            starts.get(first).is_some_and(|start| *start <= span.to_us)
        })
        .map(|((_, vantage), _)| *vantage)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Allowed, Call, Timeline};
    use super::*;

    fn answered(vantage: u32, start_us: i64, backend: BackendId) -> Call {
        let seen = Answer::By(backend);
        Call { timeline: 0, vantage, start_us, end_us: start_us + 10, uncertainty_us: 0, seen }
    }

    fn timeline() -> Timeline {
        let mut timeline = Timeline::starting(Allowed::answered([1]));
        timeline.change(1_000, 1_000, Allowed::answered([1, 2]));
        timeline.change(2_000, 2_000, Allowed::answered([2]));
        timeline
    }

    #[test]
    fn takes_the_slowest_vantage_for_ready_and_the_last_call_for_removed() {
        let calls = vec![
            answered(0, 1_100, 2),
            answered(1, 1_050, 1),
            answered(1, 1_400, 2),
            answered(0, 2_300, 1),
            answered(1, 2_100, 1),
            answered(0, 2_400, 2),
        ];
        let spread = spread(&History { timelines: vec![timeline()], calls });
        assert_eq!(spread.ready_to_served_everywhere, Distribution::of(vec![410]));
        assert_eq!(spread.removed_to_last_served, Distribution::of(vec![300]));
        assert_eq!(spread.not_served_everywhere, 0);
    }

    #[test]
    fn counts_who_was_never_served_somewhere() {
        let calls = vec![answered(0, 1_100, 2), answered(1, 1_200, 1)];
        let spread = spread(&History { timelines: vec![timeline()], calls });
        assert_eq!(spread.not_served_everywhere, 1);
        assert_eq!(spread.ready_to_served_everywhere.count, 0);
        // It left, and answered no more.
        assert_eq!(spread.removed_to_last_served, Distribution::of(vec![0]));
    }

    #[test]
    fn one_that_comes_back_is_a_new_one() {
        let mut timeline = timeline();
        timeline.change(3_000, 3_000, Allowed::answered([1, 2]));
        let calls = vec![answered(0, 1_100, 2), answered(0, 2_500, 1), answered(0, 3_500, 1)];
        let spread = spread(&History { timelines: vec![timeline], calls });
        assert_eq!(spread.removed_to_last_served, Distribution::of(vec![500]));
        assert_eq!(spread.ready_to_served_everywhere, Distribution::of(vec![110, 510]));
    }
}
