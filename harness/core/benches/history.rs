//! How long the history checker takes: 1 million calls by 10 thousand changes, in under 2 seconds;
//! and how many times longer the slow one takes, on a smaller history.
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use stickler::history::{Allowed, Answer, Call, History, Timeline, check, check_slowly, spread};

const BOUND_US: i64 = 1_000_000;
const MOST: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let (large, built) = timed(|| history(1_000_000, 10_000));
    println!("1000000 calls by 10000 changes: made in {built:?}");
    let (verdicts, checked) = timed(|| check(&large, BOUND_US));
    println!(
        "  checked in {checked:?}: {} violations; stale {}",
        verdicts.violations.len(),
        verdicts.staleness
    );
    let (spread, measured) = timed(|| spread(&large));
    println!("  spread in {measured:?}: ready to served everywhere {}", spread.ready_to_served_everywhere);

    let small = history(20_000, 2_000);
    let (fast, fast_took) = timed(|| check(&small, BOUND_US));
    let (slow, slow_took) = timed(|| check_slowly(&small, BOUND_US));
    let ratio = slow_took.as_secs_f64() / fast_took.as_secs_f64();
    println!(
        "20000 calls by 2000 changes: {fast_took:?}, the slow checker {slow_took:?}, {ratio:.0} times as long"
    );
    if fast != slow {
        println!("the two checkers differ");
        return ExitCode::FAILURE;
    }
    if checked > MOST {
        println!("too slow: {MOST:?} is the most");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let result = work();
    (result, started.elapsed())
}

/// Eight destinations over 100 backends; at every change one backend comes or goes. Calls are
/// answered by one who was ready when they began, now and then by anybody.
fn history(calls: usize, changes: usize) -> History {
    const DESTINATIONS: usize = 8;
    const BACKENDS: u32 = 100;
    const LENGTH_US: i64 = 600_000_000;
    let mut random = StdRng::seed_from_u64(1);
    let per_timeline = changes / DESTINATIONS;
    let timelines: Vec<Timeline> = (0..DESTINATIONS)
        .map(|_| {
            let mut ready: Vec<u32> = (0..BACKENDS / 2).collect();
            let mut timeline = Timeline::starting(Allowed::answered(ready.iter().copied()));
            for change in 0..per_timeline {
                let backend = random.random_range(0..BACKENDS);
                match ready.iter().position(|one| *one == backend) {
                    Some(index) if ready.len() > 1 => drop(ready.swap_remove(index)),
                    Some(_) => {}
                    None => ready.push(backend),
                }
                let at = LENGTH_US / per_timeline as i64 * (change as i64 + 1);
                timeline.change(at - 2_000, at, Allowed::answered(ready.iter().copied()));
            }
            timeline
        })
        .collect();
    let calls = (0..calls)
        .map(|_| {
            let timeline = random.random_range(0..DESTINATIONS);
            let start_us = random.random_range(0..LENGTH_US);
            let lag = if random.random_bool(0.1) { random.random_range(0..2_000_000) } else { 0 };
            let ready = timelines[timeline].allowed_at(start_us - lag).backends();
            let backend = if random.random_bool(0.001) {
                random.random_range(0..BACKENDS + 1)
            } else {
                ready[random.random_range(0..ready.len())]
            };
            let end_us = start_us + random.random_range(100..20_000);
            let vantage = random.random_range(0..7);
            Call { timeline, vantage, start_us, end_us, uncertainty_us: 300, seen: Answer::By(backend) }
        })
        .collect();
    History { timelines, calls }
}
