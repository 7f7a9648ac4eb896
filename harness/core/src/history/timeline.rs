//! Timelines: what the model allows at one destination, from when to when.

use std::fmt;
use std::sync::Arc;

/// A backend, by a small number: the answers of each are found by it.
pub type BackendId = u32;

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    By(BackendId),
    /// Somebody who is no backend of any destination.
    Stranger,
    Refused,
    /// No answer within the caller's time.
    Silent,
    Reset,
    Unreachable,
}

/// What may come of a call at one instant.
#[derive(Clone, PartialEq, Eq)]
pub struct Allowed {
    /// Sorted, each once.
    backends: Arc<[BackendId]>,
    otherwise: Otherwise,
}

/// What may come of it besides an answer by one of the backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Otherwise {
    Nothing,
    Refused,
    RefusedOrSilent,
    Silent,
    AnyFailure,
    Anything,
}

impl Allowed {
    /// An answer by one of these.
    pub fn answered(by: impl IntoIterator<Item = BackendId>) -> Self {
        Self::new(by, Otherwise::Nothing)
    }

    /// An answer by one of these, or any failure.
    pub fn at_most(by: impl IntoIterator<Item = BackendId>) -> Self {
        Self::new(by, Otherwise::AnyFailure)
    }

    pub fn refused() -> Self {
        Self::new([], Otherwise::Refused)
    }

    /// As [`Allowed::refused`] where nothing promises that the refusal arrives: over UDP, and from kernels that
    /// send one host a few a second.
    pub fn refused_or_silent() -> Self {
        Self::new([], Otherwise::RefusedOrSilent)
    }

    pub fn dropped() -> Self {
        Self::new([], Otherwise::Silent)
    }

    /// Any failure, no answer.
    pub fn nobody() -> Self {
        Self::at_most([])
    }

    pub fn anything() -> Self {
        Self::new([], Otherwise::Anything)
    }

    fn new(by: impl IntoIterator<Item = BackendId>, otherwise: Otherwise) -> Self {
        let mut backends: Vec<BackendId> = by.into_iter().collect();
        backends.sort_unstable();
        backends.dedup();
        Self { backends: backends.into(), otherwise }
    }

    /// The backends that may answer, sorted; empty where anybody may.
    pub fn backends(&self) -> &[BackendId] {
        &self.backends
    }

    /// What may come of a call besides an answer by one of the backends, in words.
    pub fn otherwise(&self) -> Option<&'static str> {
        match self.otherwise {
            Otherwise::Nothing => None,
            Otherwise::Refused => Some("a refusal"),
            Otherwise::RefusedOrSilent => Some("a refusal or silence"),
            Otherwise::Silent => Some("silence"),
            Otherwise::AnyFailure => Some("any failure"),
            Otherwise::Anything => Some("anything"),
        }
    }

    pub fn allows(&self, seen: Answer) -> bool {
        match (seen, self.otherwise) {
            (_, Otherwise::Anything) => true,
            (Answer::By(backend), _) => self.backends.binary_search(&backend).is_ok(),
            (Answer::Stranger, _) => false,
            (_, Otherwise::AnyFailure) => true,
            (Answer::Refused, otherwise) => {
                matches!(otherwise, Otherwise::Refused | Otherwise::RefusedOrSilent)
            }
            (Answer::Silent, otherwise) => {
                matches!(otherwise, Otherwise::Silent | Otherwise::RefusedOrSilent)
            }
            (Answer::Reset | Answer::Unreachable, _) => false,
        }
    }

    /// Every answer this allows that needs no other: what [`Timeline`] keeps spans of.
    fn lanes(&self) -> impl Iterator<Item = usize> + '_ {
        let others = [Answer::Stranger, Answer::Refused, Answer::Silent, Answer::Reset, Answer::Unreachable];
        // Where anything is allowed, any backend is: `Stranger` stands for it.
        let by = self.backends.iter().map(|backend| lane(Answer::By(*backend)));
        others.into_iter().filter(|other| self.allows(*other)).map(lane).chain(by)
    }
}

impl fmt::Debug for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} or {:?}", self.backends, self.otherwise)
    }
}

/// What is allowed at one destination, seen from one class of vantages, as time goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    states: Vec<State>,
    /// For each answer (see [`lane`]) the spans in which it was allowed: sorted, apart from each
    /// other, both ends included.
    lanes: Vec<Vec<Span>>,
}

/// What was allowed from a change to the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    /// The change happened at some instant from the first to the second.
    earliest_us: i64,
    latest_us: i64,
    allowed: Allowed,
}

/// A stretch of time; a change happened neither before the first nor after the last instant of
/// its doubt, so spans begin and end as widely as possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from_us: i64,
    /// [`i64::MAX`] while it lasts.
    pub(crate) to_us: i64,
    /// When it was sure to have begun: [`i64::MIN`] if it always was.
    pub(crate) surely_from_us: i64,
}

impl Timeline {
    /// A timeline on which this was allowed ever since.
    pub fn starting(allowed: Allowed) -> Self {
        let mut timeline = Self { states: Vec::new(), lanes: Vec::new() };
        timeline.begin(State { earliest_us: i64::MIN, latest_us: i64::MIN, allowed });
        timeline
    }

    /// From some instant between these two on, this is allowed and nothing else. Changes are told
    /// in the order they happened in, which narrows a doubt that reaches before the last change.
    pub fn change(&mut self, earliest_us: i64, latest_us: i64, allowed: Allowed) {
        let last = self.last();
        if last.allowed == allowed {
            return;
        }
        let earliest_us = earliest_us.max(last.earliest_us);
        let latest_us = latest_us.max(last.latest_us).max(earliest_us);
        let ended: Vec<usize> = last.allowed.lanes().collect();
        for lane in ended {
            if let Some(span) = self.lanes[lane].last_mut() {
                span.to_us = latest_us;
            }
        }
        self.begin(State { earliest_us, latest_us, allowed });
    }

    /// What was allowed at an instant, the newest where it is in doubt.
    pub fn allowed_at(&self, at_us: i64) -> &Allowed {
        let begun = self.states.partition_point(|state| state.earliest_us <= at_us);
        &self.states[begun.saturating_sub(1)].allowed
    }

    /// How often it changed.
    pub fn changes(&self) -> usize {
        self.states.len() - 1
    }

    /// The last instant up to `until_us` at which an answer was allowed.
    pub(crate) fn last_allowed(&self, seen: Answer, until_us: i64) -> Option<i64> {
        let last = |answer| {
            let spans = self.spans(answer);
            let begun = spans.partition_point(|span| span.from_us <= until_us);
            spans[..begun].last().map(|span| span.to_us.min(until_us))
        };
        last(seen).max(last(Answer::Stranger))
    }

    /// The spans in which an answer was allowed by name, sorted and apart from each other.
    pub(crate) fn spans(&self, answer: Answer) -> &[Span] {
        self.lanes.get(lane(answer)).map_or(&[], Vec::as_slice)
    }

    /// The backends that were ever allowed by name.
    pub(crate) fn backends(&self) -> impl Iterator<Item = BackendId> + '_ {
        let ids = 0..self.lanes.len().saturating_sub(OTHERS);
        ids.filter_map(|id| BackendId::try_from(id).ok()).filter(|id| !self.spans(Answer::By(*id)).is_empty())
    }

    /// Every state as (earliest begin, latest end, what was allowed), for a checker that looks at each.
    pub(crate) fn states(&self) -> impl Iterator<Item = (i64, i64, &Allowed)> {
        self.states.iter().enumerate().map(|(index, state)| {
            let end = self.states.get(index + 1).map_or(i64::MAX, |next| next.latest_us);
            (state.earliest_us, end, &state.allowed)
        })
    }

    fn begin(&mut self, state: State) {
        for lane in state.allowed.lanes() {
            if self.lanes.len() <= lane {
                self.lanes.resize_with(lane + 1, Vec::new);
            }
            let begun = Span { from_us: state.earliest_us, to_us: i64::MAX, surely_from_us: state.latest_us };
            match self.lanes[lane].last_mut() {
                // It was allowed until this very change, or until one that may not be over yet.
                Some(last) if last.to_us >= begun.from_us => last.to_us = i64::MAX,
                _ => self.lanes[lane].push(begun),
            }
        }
        self.states.push(state);
    }

    fn last(&self) -> &State {
        &self.states[self.states.len() - 1]
    }
}

/// How many answers are no backend's.
const OTHERS: usize = 5;

/// The place of an answer's spans. Ids of backends are small, so a vector serves as the map.
fn lane(answer: Answer) -> usize {
    match answer {
        Answer::Stranger => 0,
        Answer::Refused => 1,
        Answer::Silent => 2,
        Answer::Reset => 3,
        Answer::Unreachable => 4,
        Answer::By(backend) => OTHERS + backend as usize,
    }
}
