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
    let changes = Changes::random(10_000);
    let (timelines, told) = timed(|| changes.timelines());
    let large = changes.called(timelines, 1_000_000);
    let (verdicts, checked) = timed(|| check(&large, BOUND_US));
    println!("1000000 calls by 10000 changes: timelines told in {told:?}, calls checked in {checked:?}");
    println!("  {} violations; stale {}", verdicts.violations.len(), verdicts.staleness);
    let (spread, measured) = timed(|| spread(&large));
    println!("  spread in {measured:?}: ready to served everywhere {}", spread.ready_to_served_everywhere);

    let changes = Changes::random(2_000);
    let small = changes.called(changes.timelines(), 20_000);
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
    if told + checked > MOST {
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

const BACKENDS: u32 = 100;
const LENGTH_US: i64 = 600_000_000;

/// The changes of eight destinations over 100 backends; at each one backend comes or goes.
struct Changes(Vec<Vec<(i64, Vec<u32>)>>);

impl Changes {
    fn random(count: usize) -> Self {
        let mut random = StdRng::seed_from_u64(1);
        let per_timeline = count / 8;
        let one_timeline = |_| {
            let mut ready: Vec<u32> = (0..BACKENDS / 2).collect();
            let change = |index| {
                let backend = random.random_range(0..BACKENDS);
                match ready.iter().position(|one| *one == backend) {
                    Some(index) if ready.len() > 1 => drop(ready.swap_remove(index)),
                    Some(_) => {}
                    None => ready.push(backend),
                }
                (LENGTH_US / per_timeline as i64 * index as i64, ready.clone())
            };
            (0..per_timeline).map(change).collect()
        };
        Self((0..8).map(one_timeline).collect())
    }

    fn timelines(&self) -> Vec<Timeline> {
        let timeline = |changes: &Vec<(i64, Vec<u32>)>| {
            let mut timeline = Timeline::starting(Allowed::answered(0..BACKENDS / 2));
            for (at, ready) in changes {
                timeline.change(at - 2_000, *at, Allowed::answered(ready.iter().copied()));
            }
            timeline
        };
        self.0.iter().map(timeline).collect()
    }

    /// Calls answered by one who was ready when they began; of some a while before, of few anybody.
    fn called(&self, timelines: Vec<Timeline>, count: usize) -> History {
        let mut random = StdRng::seed_from_u64(2);
        let one_call = |_| {
            let timeline = random.random_range(0..timelines.len());
            let start_us = random.random_range(0..LENGTH_US);
            let lag = if random.random_bool(0.1) { random.random_range(0..2_000_000) } else { 0 };
            let ready = timelines[timeline].allowed_at(start_us - lag).backends();
            let backend = match random.random_bool(0.001) {
                true => random.random_range(0..=BACKENDS),
                false => ready[random.random_range(0..ready.len())],
            };
            let end_us = start_us + random.random_range(100..20_000);
            let vantage = random.random_range(0..7);
            Call { timeline, vantage, start_us, end_us, uncertainty_us: 300, seen: Answer::By(backend) }
        };
        let calls = (0..count).map(one_call).collect();
        History { timelines, calls }
    }
}
