//! Session affinity: whether the answers a client got over time kept it with one backend.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::citation::{self, Citation};

/// One answered call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    pub start_us: i64,
    pub end_us: i64,
    /// The client as services know it: its address.
    pub client: String,
    /// The address and port it called; of a node port, the node's.
    pub destination: String,
    pub backend: String,
}

/// From this instant on, these backends may answer, the same behind every destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    pub from_us: i64,
    pub backends: BTreeSet<String>,
}

/// Where stickiness is promised.
pub const AFFINITY_RULE: Citation = citation::AFFINITY;

/// Says which answers broke the promise that "connections from a particular client are passed to
/// the same Pod each time"; each is one readable sentence, client first.
///
/// For each client and destination: a client may move only if its backend was not among the
/// members at some instant from `bound` before its last answer to the end of the new one, or if
/// more than `timeout` has passed since the first answer of its present stay. That answers renew
/// the stay is not promised ("the maximum session sticky time",
/// [Virtual IPs, "Session stickiness timeout"](https://kubernetes.io/docs/reference/networking/virtual-ips/#session-stickiness-timeout)).
/// Calls that overlap may be answered by different backends, if no answer had come before.
/// Without any members, nobody is taken to have left.
pub fn affinity_breaches(
    timeout: Duration,
    bound: Duration,
    turns: &[Turn],
    members: &[Members],
) -> Vec<String> {
    let mut by_stay: BTreeMap<(&str, &str), Vec<&Turn>> = BTreeMap::new();
    for turn in turns {
        by_stay.entry((&turn.client, &turn.destination)).or_default().push(turn);
    }
    let mut members: Vec<&Members> = members.iter().collect();
    members.sort_by_key(|members| members.from_us);
    let judge = Judge { timeout_us: micros(timeout), bound_us: micros(bound), members };
    by_stay.into_values().flat_map(|turns| judge.breaches(turns)).collect()
}

struct Judge<'a> {
    timeout_us: i64,
    bound_us: i64,
    members: Vec<&'a Members>,
}

impl Judge<'_> {
    /// Of the answers of one client at one destination.
    fn breaches(&self, mut turns: Vec<&Turn>) -> Vec<String> {
        turns.sort_by_key(|turn| (turn.start_us, turn.end_us));
        let mut breaches = Vec::new();
        // The answers since the client was last allowed to move.
        let mut stay: Vec<&Turn> = Vec::new();
        for turn in turns {
            let before = stay.iter().filter(|other| other.end_us <= turn.start_us);
            let Some(last) = before.max_by_key(|other| other.end_us).copied() else {
                stay.push(turn);
                continue;
            };
            // Calls under way together with the last one may have found another backend.
            let beside = |other: &&&Turn| other.end_us >= last.start_us && other.start_us <= last.end_us;
            let keeps = stay.iter().filter(beside).any(|other| other.backend == turn.backend);
            let age_us = stay.first().map_or(0, |first| turn.end_us.saturating_sub(first.start_us));
            if keeps {
                // Only those that calls may still be beside of matter, and the first for its time.
                if stay.len() > 64 {
                    stay.drain(1..stay.len() - 32);
                }
            } else {
                let from_us = last.start_us.saturating_sub(self.bound_us);
                if age_us <= self.timeout_us && !self.left(&last.backend, from_us, turn.end_us) {
                    breaches.push(format!(
                        "`{}` was answered by `{}` at `{}`; {} ms before it was by `{}`, which did not leave, \
                         and {} s of stickiness were not over",
                        turn.client,
                        turn.backend,
                        turn.destination,
                        (turn.start_us - last.start_us) / 1_000,
                        last.backend,
                        self.timeout_us / 1_000_000,
                    ));
                }
                stay.clear();
            }
            stay.push(turn);
        }
        breaches
    }

    /// Whether a backend was away at some instant.
    fn left(&self, backend: &str, from_us: i64, to_us: i64) -> bool {
        let begun = self.members.partition_point(|members| members.from_us <= from_us);
        let first = begun.saturating_sub(1);
        self.members[first..]
            .iter()
            .take_while(|members| members.from_us <= to_us)
            .any(|members| !members.backends.contains(backend))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
