//! How long pods take to be ready, and how much memory they take.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use kube::runtime::wait::await_condition;
use serde_json::json;
use stickler_testbed::{Testbed, TestbedSpec};
use tokio::time::timeout;

use crate::Effort;
use crate::figures::Figure;

/// The most one pod may take to be ready; in practice it is milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn measure(effort: &'static Effort) -> anyhow::Result<Vec<Figure>> {
    let testbed = Testbed::start(TestbedSpec::default()).await?;
    let pods: Api<Pod> = Api::namespaced(testbed.client(), "default");
    // The first pod finds everything cold.
    start(&pods, "first".to_owned()).await?;
    let (own, others) = (memory_of_itself()?, memory_of_pods()?);
    let mut one_by_one = Vec::new();
    for number in 0..effort.pods {
        one_by_one.push(start(&pods, format!("single-{number}")).await?);
    }
    let begun = Instant::now();
    try_join_all((0..effort.pods).map(|number| start(&pods, format!("burst-{number}")))).await?;
    let together = begun.elapsed();
    let count = (2 * effort.pods) as u64;
    let grown = memory_of_itself()?.saturating_sub(own) / count;
    let mut after = memory_of_pods()?;
    after.retain(|process, _| !others.contains_key(process));
    let per_pod = |part: fn(&Memory) -> u64| after.values().map(part).sum::<u64>() / count;

    let all = format!("{} pods at once, created to all ready", effort.pods);
    Ok(vec![
        Figure::times("a pod, created to Ready", &one_by_one),
        Figure::times(all, &[together]),
        Figure::ratio("  one after the other, times at once", &[one_by_one.iter().sum()], &[together]),
        Figure::bytes("memory per pod, its processes' own", &[per_pod(|memory| memory.private)]),
        Figure::bytes("  with their share of what they share", &[per_pod(|memory| memory.proportional)]),
        Figure::bytes("  and what this process, the whole cluster, grew by", &[grown]),
    ])
}

/// Creates a pod and waits until it is ready; returns how long that took.
async fn start(pods: &Api<Pod>, name: String) -> anyhow::Result<Duration> {
    let pod = json!({
        "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "goweb", "image": "goweb"}]},
    });
    let pod: Pod = serde_json::from_value(pod)?;
    let began = Instant::now();
    pods.create(&PostParams::default(), &pod).await?;
    let ready = timeout(PATIENCE, await_condition(pods.clone(), &name, is_ready)).await;
    ready.with_context(|| format!("pod {name} was not ready within {PATIENCE:?}"))??;
    Ok(began.elapsed())
}

fn is_ready(pod: Option<&Pod>) -> bool {
    let conditions = pod.and_then(|pod| pod.status.as_ref()?.conditions.as_ref());
    conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True")
}

/// What one process takes, in bytes.
struct Memory {
    /// What nobody else has.
    private: u64,
    /// That, and of what several have its share.
    proportional: u64,
}

/// Of each process that descends from this one.
fn memory_of_pods() -> anyhow::Result<BTreeMap<u32, Memory>> {
    let mut parents = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(process) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        // A process may be gone by now.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{process}/stat")) else { continue };
        // The name of the program stands in brackets and may have blanks.
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<u32>().ok());
        parents.insert(process, parent.context("/proc shows a process without a parent")?);
    }
    let mut family = BTreeSet::from([std::process::id()]);
    loop {
        let children = parents.iter().filter(|(_, parent)| family.contains(parent)).map(|(child, _)| *child);
        let grown: BTreeSet<u32> = children.chain(family.iter().copied()).collect();
        if grown == family {
            break;
        }
        family = grown;
    }
    family.remove(&std::process::id());
    let mut memory = BTreeMap::new();
    for process in family {
        let path = format!("/proc/{process}/smaps_rollup");
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let private =
                    ["Private_Clean:", "Private_Dirty:"].iter().map(|field| kibibytes(&text, field));
                let private = private.sum::<Option<u64>>().context("no private memory")? << 10;
                let proportional = kibibytes(&text, "Pss:").context("no proportional memory")? << 10;
                memory.insert(process, Memory { private, proportional });
            }
            // It is gone, or has ended and nobody was told yet.
            Err(error) if [Some(libc::ENOENT), Some(libc::ESRCH)].contains(&error.raw_os_error()) => {}
            Err(error) => return Err(error).context(path),
        }
    }
    Ok(memory)
}

/// Without the program itself, of which each further process takes a share.
fn memory_of_itself() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    Ok(kibibytes(&text, "Anonymous:").context("no anonymous memory")? << 10)
}

fn kibibytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}
