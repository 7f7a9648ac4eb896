//! What [`affinity_breaches`] says of the answers a client got.

use std::time::Duration;

use stickler_model::{Members, Turn, affinity_breaches};

/// Answers as (start, end, backend), in seconds, of one client at one destination.
fn turns(answers: &[(i64, i64, &str)]) -> Vec<Turn> {
    let turn = |(start, end, backend): &(i64, i64, &str)| Turn {
        start_us: start * 1_000_000,
        end_us: end * 1_000_000,
        client: "10.244.2.9".to_owned(),
        destination: "10.96.0.20:80".to_owned(),
        backend: (*backend).to_owned(),
    };
    answers.iter().map(turn).collect()
}

fn members(changes: &[(i64, &[&str])]) -> Vec<Members> {
    let at = |(from, backends): &(i64, &[&str])| Members {
        from_us: from * 1_000_000,
        backends: backends.iter().map(|name| (*name).to_owned()).collect(),
    };
    changes.iter().map(at).collect()
}

fn breaches(answers: &[(i64, i64, &str)], changes: &[(i64, &[&str])]) -> usize {
    let (timeout, bound) = (Duration::from_secs(100), Duration::from_secs(2));
    affinity_breaches(timeout, bound, &turns(answers), &members(changes)).len()
}

#[test]
fn a_client_stays_unless_it_must_or_may_go() {
    let both: &[(i64, &[&str])] = &[(0, &["a", "b"])];
    assert_eq!(breaches(&[(1, 2, "a"), (3, 4, "a"), (90, 91, "a")], both), 0);
    assert_eq!(breaches(&[(1, 2, "a"), (3, 4, "b")], both), 1);
    assert_eq!(breaches(&[(1, 2, "a"), (3, 4, "b"), (5, 6, "a")], both), 2);
    // The timeout is over, counted from the first answer: renewal is not promised.
    assert_eq!(breaches(&[(1, 2, "a"), (90, 91, "a"), (110, 111, "b")], both), 0);
    assert_eq!(breaches(&[(1, 2, "a"), (90, 91, "a"), (95, 96, "b")], both), 1);
}

#[test]
fn it_may_go_when_its_backend_left() {
    let left: &[(i64, &[&str])] = &[(0, &["a", "b"]), (10, &["b"]), (20, &["a", "b"])];
    assert_eq!(breaches(&[(1, 2, "a"), (12, 13, "b")], left), 0);
    // It was away only in between, and is back.
    assert_eq!(breaches(&[(1, 2, "a"), (30, 31, "b")], left), 0);
    // What is seen late still counts, within the bound.
    assert_eq!(breaches(&[(21, 22, "a"), (23, 24, "b")], left), 0);
    assert_eq!(breaches(&[(23, 24, "a"), (25, 26, "b")], left), 1);
    // Another's leaving is no reason.
    assert_eq!(breaches(&[(1, 2, "b"), (12, 13, "a")], left), 1);
}

#[test]
fn calls_at_the_same_time_may_differ_only_at_first() {
    let both: &[(i64, &[&str])] = &[(0, &["a", "b"])];
    assert_eq!(breaches(&[(1, 5, "a"), (2, 4, "b"), (6, 7, "a"), (8, 9, "a")], both), 0);
    assert_eq!(breaches(&[(1, 2, "a"), (3, 6, "a"), (4, 5, "b")], both), 1);
}

#[test]
fn clients_and_destinations_are_apart_and_named() {
    let mut all = turns(&[(1, 2, "a"), (3, 4, "b"), (5, 6, "b")]);
    all[1].client = "10.244.2.10".to_owned();
    all[2].destination = "10.96.0.20:81".to_owned();
    let judge =
        |turns: &[Turn]| affinity_breaches(Duration::from_secs(100), Duration::from_secs(2), turns, &[]);
    assert_eq!(judge(&all), Vec::<String>::new());
    assert_eq!(
        judge(&turns(&[(1, 2, "a"), (3, 4, "b")])),
        ["`10.244.2.9` was answered by `b` at `10.96.0.20:80`; 2000 ms before it was by `a`, which did not \
             leave, and 100 s of stickiness were not over"]
    );
}
