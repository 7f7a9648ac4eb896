//! How fast the testbed is, and how large: `cargo bench -p stickler-testbed` prints it, with the words of
//! the command line as a filter. `cargo test` does the same with as little of everything as there can be,
//! and looks only whether something was measured.
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

mod figures;
mod pods;
mod propagation;
mod rules;
mod start;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use futures::future::BoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};

use crate::figures::Figure;

/// How much of everything.
struct Effort {
    /// Clusters that are started.
    starts: usize,
    /// Pods that are created one after the other, and then together.
    pods: usize,
    /// Numbers of Services.
    services: &'static [usize],
    /// At least so many builds of all rules for each of them.
    builds: usize,
    /// Changes of one endpoint.
    changes: usize,
    /// Services that are there besides the one that changes.
    others: &'static [usize],
}

const MUCH: Effort = Effort {
    starts: 15,
    pods: 20,
    services: &[10, 100, 1_000, 5_000],
    builds: 3,
    changes: 25,
    others: &[0, 1_000],
};

const LITTLE: Effort =
    Effort { starts: 1, pods: 2, services: &[1, 10], builds: 1, changes: 2, others: &[0, 3] };

type Measure = fn(&'static Effort) -> BoxFuture<'static, anyhow::Result<Vec<Figure>>>;

const MEASURES: [(&str, Measure); 4] = [
    ("start", |effort| Box::pin(start::measure(effort))),
    ("rules", |effort| Box::pin(rules::measure(effort))),
    ("pods", |effort| Box::pin(pods::measure(effort))),
    ("propagation", |effort| Box::pin(propagation::measure(effort))),
];

fn main() -> ExitCode {
    if let Some(code) = stickler_testbed::reexec() {
        return code;
    }
    let arguments = Arguments::from_args();
    if !arguments.list {
        if let Err(error) = stickler_testbed::enter::enter() {
            panic!("{error}");
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    // What cargo adds to the arguments of benchmarks.
    if arguments.bench && !arguments.list {
        return print(arguments.filter.as_deref());
    }
    let trials = MEASURES.iter().map(|(name, measure)| Trial::test(*name, || try_out(*measure)));
    libtest_mimic::run(&Arguments { test_threads: Some(1), ..arguments }, trials.collect()).exit_code()
}

fn print(filter: Option<&str>) -> ExitCode {
    let cores = std::thread::available_parallelism().map_or_else(|_| "?".to_owned(), |n| n.to_string());
    println!("cores: {cores}; each number: median, where half of them lie, where all of them lie");
    let mut ending = ExitCode::SUCCESS;
    for (name, measure) in MEASURES {
        if filter.is_some_and(|filter| !name.contains(filter)) {
            continue;
        }
        let begun = Instant::now();
        let measured = runtime().and_then(|runtime| runtime.block_on(measure(&MUCH)));
        match measured {
            Ok(figures) => {
                println!("\n{name}, measured in {:.1} s", begun.elapsed().as_secs_f64());
                for figure in figures {
                    println!("  {figure}");
                    if figure.is_too_much() {
                        ending = ExitCode::FAILURE;
                    }
                }
            }
            Err(error) => {
                println!("\n{name}: {error:#}");
                ending = ExitCode::FAILURE;
            }
        }
    }
    ending
}

/// Something was measured, and it can be printed.
fn try_out(measure: Measure) -> Result<(), Failed> {
    let tried = || {
        let figures = runtime()?.block_on(measure(&LITTLE))?;
        ensure!(!figures.is_empty(), "nothing was measured");
        for figure in &figures {
            ensure!(figure.is_plausible(), "no measurement can be: {figure}");
        }
        anyhow::Ok(())
    };
    tried().map_err(|error| Failed::from(format!("{error:#}")))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    built.context("no runtime can be started")
}
