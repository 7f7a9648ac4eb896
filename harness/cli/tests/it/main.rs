//! The binary `stickler` as people use it: started as a process, judged by what it prints, how it
//! ends, and what it leaves on the machine.

mod again;
mod bad_input;
mod binaries;
mod browser;
mod catalogue;
mod chaos;
mod compare;
mod containers;
mod doctor;
mod existing;
mod explore;
mod github;
mod image;
mod keep;
mod kubectl;
mod leftovers;
mod page;
mod program;
mod report;
mod signals;
mod table;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // What is on the machine before and after is compared, so nothing else may come and go.
    arguments.test_threads = Some(1);
    let mut trials = Vec::new();
    for (chapter, tests) in [
        ("again", again::TESTS),
        ("bad_input", bad_input::TESTS),
        ("binaries", binaries::TESTS),
        ("catalogue", catalogue::TESTS),
        ("doctor", doctor::TESTS),
        ("chaos", chaos::TESTS),
        ("containers", containers::TESTS),
        ("compare", compare::TESTS),
        ("existing", existing::TESTS),
        ("explore", explore::TESTS),
        ("github", github::TESTS),
        ("image", image::TESTS),
        ("keep", keep::TESTS),
        ("kubectl", kubectl::TESTS),
        ("page", page::TESTS),
        ("report", report::TESTS),
        ("signals", signals::TESTS),
        ("table", table::TESTS),
    ] {
        for (name, test) in tests {
            trials.push(Trial::ignorable_test(format!("{chapter}::{name}"), || perform(*test)));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A test: passed, or why it cannot be tried on this machine; a broken promise panics.
type Test = fn() -> Result<(), Impossible>;

/// Tests that take long, and of which others see the essential, are performed on request.
fn on_request() -> Result<(), Impossible> {
    match std::env::var_os("STICKLER_LONG_TESTS") {
        Some(_) => Ok(()),
        None => Err(Impossible("it takes long; STICKLER_LONG_TESTS=1 asks for it".to_owned())),
    }
}

/// What this machine lacks.
struct Impossible(String);

fn perform(test: Test) -> Result<Completion, Failed> {
    match test() {
        Ok(()) => Ok(Completion::Completed),
        Err(Impossible(reason)) => Ok(Completion::ignored_with(reason)),
    }
}
