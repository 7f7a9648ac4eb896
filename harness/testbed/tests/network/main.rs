//! The lab's network, tried with real packets. Needs root or user namespaces, and the whole process
//! must live in the lab, hence a main of its own.

mod lab;
mod proxy;
mod topology;

use std::future::Future;

use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let arguments = Arguments::from_args();
    if !arguments.list
        && let Err(error) = stickler_testbed::enter::enter()
    {
        panic!("{error}");
    }
    let trials = [topology::trials(), proxy::trials()].into_iter().flatten().collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// One test, on a runtime of its own.
fn trial<F>(name: &'static str, test: fn() -> F) -> Trial
where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    Trial::test(name, move || {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(test()).map_err(|error| Failed::from(format!("{error:#}")))
    })
}
