//! Strikes: faults as they are done to the cluster, and undone.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::Config;
use serde_json::json;
use stickler_model::ObjectKey;
use stickler_reports::Event;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::plan::{Act, Fault, GATED, Plan, REPLICAS, Strike};
use crate::Scene;
use crate::action::{Resource, delete, edit, scale};
use crate::check::Broken;
use crate::chronicle::Recording;
use crate::clock::now_us;
use crate::wait;

/// The pods of the Deployment.
const DEPLOYED: &str = "made=by-deployment";
/// What their readiness probe looks for.
const READY_FILE: &str = "/state/ready";

/// A fault that struck.
#[derive(Clone, Debug)]
pub(super) struct Struck {
    pub(super) fault: Fault,
    pub(super) injected_us: i64,
    pub(super) healed_us: i64,
    /// What was done to whom.
    pub(super) what: Vec<String>,
    pub(super) trouble: Option<String>,
}

/// Lets every fault of a plan strike, one after the other, and heals each, also when it went wrong
/// or the run is cancelled: then no other one strikes.
pub(super) async fn all(
    scene: &Scene,
    plan: &Plan,
    recording: &Recording,
    cancel: &CancellationToken,
) -> Vec<Struck> {
    let started = Instant::now();
    let mut struck = Vec::new();
    for strike in &plan.strikes {
        if until(started + strike.at, cancel).await.is_err() {
            break;
        }
        struck.push(one(scene, strike, recording, cancel).await);
    }
    struck
}

/// The run is to end.
struct Cancelled;

async fn until(when: Instant, cancel: &CancellationToken) -> Result<(), Cancelled> {
    match timeout_at(when, cancel.cancelled()).await {
        Ok(()) => Err(Cancelled),
        Err(_) => Ok(()),
    }
}

async fn one(scene: &Scene, strike: &Strike, recording: &Recording, cancel: &CancellationToken) -> Struck {
    let fault = strike.fault;
    scene.sink.tell(Event::FaultInjected { fault: fault.name().to_owned(), what: strike.to_string() });
    let mut struck = Struck { fault, injected_us: now_us(), healed_us: 0, what: Vec::new(), trouble: None };
    let started = Instant::now();
    // Steps that had to wait move what follows them.
    let mut late = Duration::ZERO;
    let mut cancelled = false;
    for step in &strike.steps {
        if until(started + step.after + late, cancel).await.is_err() {
            cancelled = true;
            break;
        }
        let began = Instant::now();
        match act(scene, step.act, recording).await {
            Ok(what) => struck.what.extend(what),
            Err(broken) => {
                struck.trouble = Some(format!("could not {}: {}", step.act, in_words(broken)));
                break;
            }
        }
        if step.act == Act::AwaitRollout {
            late += began.elapsed();
        }
    }
    if !cancelled && struck.trouble.is_none() {
        let _ = until(started + strike.takes + late, cancel).await;
    }
    if let Err(broken) = undo(scene, strike).await {
        let trouble = format!("could not heal it: {}", in_words(broken));
        struck.trouble =
            Some(struck.trouble.map_or_else(|| trouble.clone(), |first| format!("{first}; {trouble}")));
    }
    struck.healed_us = now_us();
    scene.sink.tell(Event::FaultHealed { fault: fault.name().to_owned(), trouble: struck.trouble.clone() });
    struck
}

/// Does one step, and says to whom.
async fn act(scene: &Scene, act: Act, recording: &Recording) -> Result<Option<String>, Broken> {
    Ok(Some(match act {
        Act::DeletePod { pick } => {
            let pod = picked(scene, pick).await?;
            scene.when(delete(Resource::Pod, &pod)).await?;
            format!("pod `{pod}` deleted")
        }
        Act::KillContainer { pick } => {
            let pod = least_restarted(scene, pick).await?;
            kill(scene, &pod, recording).await?;
            format!("container of pod `{pod}` killed")
        }
        Act::Gate { pod, ready } => {
            let pod = format!("gated-{pod}");
            scene.set_gate(&pod, ready).await?;
            format!("pod `{pod}` {}", if ready { "ready" } else { "unready" })
        }
        Act::Unready { pick } => {
            let pod = picked(scene, pick).await?;
            succeeds(scene, &pod, &["rm", "-f", READY_FILE]).await?;
            format!("pod `{pod}` unready for its probe")
        }
        Act::Roll => {
            let patch = json!({ "spec": { "template": { "metadata": { "annotations": {
                "stickler.dev/rolled": now_us().to_string(),
            } } } } });
            scene.when(edit(Resource::Deployment, "web", patch)).await?;
            "deployment `web` rolled".to_owned()
        }
        Act::Scale { replicas } => {
            scene.when(scale(Resource::Deployment, "web", replicas)).await?;
            format!("deployment `web` at {replicas} replicas")
        }
        Act::AwaitRollout => {
            rolled_out(scene).await?;
            all_ready(scene, DEPLOYED, REPLICAS as usize).await?;
            return Ok(None);
        }
    }))
}

/// Undoes what a strike did, as far as it does not heal by itself.
async fn undo(scene: &Scene, strike: &Strike) -> Result<(), Broken> {
    match strike.fault {
        Fault::ReadinessFlapping => ready(scene).await,
        Fault::ScaleStorm => scene.when(scale(Resource::Deployment, "web", REPLICAS)).await,
        Fault::PodDeleted | Fault::ContainerKilled | Fault::RollingUpdate => Ok(()),
    }
}

/// Brings everything back to how it was before the first fault, whatever has happened since, and
/// waits until all pods are ready.
pub(super) async fn mend(scene: &Scene) -> Result<(), Broken> {
    scene.when(scale(Resource::Deployment, "web", REPLICAS)).await?;
    ready(scene).await?;
    rolled_out(scene).await?;
    all_ready(scene, "app=web", REPLICAS as usize + GATED).await
}

/// Waits until so many pods are there, all of them ready, aside from those on their way out. That a
/// Deployment is rolled out does not say so: its status may still be that of other pods.
async fn all_ready(scene: &Scene, selector: &str, wanted: usize) -> Result<(), Broken> {
    let what = format!("{wanted} pods `{selector}` to be ready");
    scene.is_waiting_for(&what);
    let done = |pods: &[Pod]| {
        let staying = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let states: Vec<Result<(), String>> = staying.map(wait::pod_ready).collect();
        match states.iter().find_map(|state| state.clone().err()) {
            Some(why) => Err(why),
            None if states.len() == wanted => Ok(()),
            None => Err(format!("{} pods instead of {wanted}", states.len())),
        }
    };
    // A container that was killed twice is started again after a back-off of ten seconds.
    let bound = scene.bounds().pods_ready;
    Ok(wait::until(scene.api::<Pod>(), Config::default().labels(selector), &what, bound, done).await?)
}

/// Waits until the Deployment is rolled out, which may have to replace one pod after the other.
async fn rolled_out(scene: &Scene) -> Result<(), Broken> {
    scene.rolled_out_within("web", scene.bounds().pods_ready * REPLICAS).await
}

/// Makes every pod ready that was made unready.
async fn ready(scene: &Scene) -> Result<(), Broken> {
    for pod in 0..GATED {
        scene.set_gate(&format!("gated-{pod}"), true).await?;
    }
    for pod in scene.pods(DEPLOYED).await? {
        let status = pod.status.as_ref();
        let runs = wait::pod_running(&pod).is_ok() && pod.metadata.deletion_timestamp.is_none();
        let name = pod.metadata.name.clone().unwrap_or_default();
        if !runs || status.is_none() || wait::pod_ready(&pod).is_ok() {
            continue;
        }
        let touched = succeeds(scene, &name, &["touch", READY_FILE]).await;
        if touched.is_err() && still_there(scene, &name).await? {
            touched?;
        }
    }
    Ok(())
}

/// Is the pod there, and not on its way out?
async fn still_there(scene: &Scene, name: &str) -> Result<bool, Broken> {
    let pods = scene.pods(DEPLOYED).await?;
    let mut staying = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(staying.any(|pod| pod.metadata.name.as_deref() == Some(name) && wait::pod_running(pod).is_ok()))
}

/// One of the Deployment's pods that are ready.
async fn picked(scene: &Scene, pick: usize) -> Result<String, Broken> {
    let ready = ready_pods(scene).await?;
    match ready.len() {
        0 => Err(Broken::CouldNotTell("no pod of the deployment is ready".to_owned())),
        count => Ok(ready.into_iter().nth(pick % count).map(|(name, _)| name).unwrap_or_default()),
    }
}

/// One of those among them whose container was restarted least: it is started again at once.
async fn least_restarted(scene: &Scene, pick: usize) -> Result<String, Broken> {
    let mut ready = ready_pods(scene).await?;
    let least = ready.iter().map(|(_, restarts)| *restarts).min().unwrap_or_default();
    ready.retain(|(_, restarts)| *restarts == least);
    match ready.len() {
        0 => Err(Broken::CouldNotTell("no pod of the deployment is ready".to_owned())),
        count => Ok(ready.into_iter().nth(pick % count).map(|(name, _)| name).unwrap_or_default()),
    }
}

/// The Deployment's pods that are ready, by name, each with how often its container was restarted.
async fn ready_pods(scene: &Scene) -> Result<Vec<(String, i32)>, Broken> {
    let pods = scene.pods(DEPLOYED).await?;
    let ready = pods.iter().filter(|pod| wait::pod_ready(pod).is_ok());
    let mut ready: Vec<(String, i32)> =
        ready.map(|pod| (pod.metadata.name.clone().unwrap_or_default(), restarts(pod))).collect();
    ready.sort();
    Ok(ready)
}

fn restarts(pod: &Pod) -> i32 {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    containers.map(|container| container.restart_count).sum()
}

/// Ends the main process of a pod's container, and waits until its kubelet says so.
async fn kill(scene: &Scene, pod: &str, recording: &Recording) -> Result<(), Broken> {
    let before =
        restarts(&wait::within(scene.bounds().request, "get the pod", scene.api::<Pod>().get(pod)).await?);
    recording.crashed(ObjectKey::new(scene.namespace(), pod));
    // The stream may end with the container, before it could say how the command ended.
    let executed = scene.exec(pod, &["kill", "-QUIT", "1"]).await;
    let what = format!("the container of pod `{pod}` to be started again");
    let config = Config::default().fields(&format!("metadata.name={pod}"));
    let done = |pods: &[Pod]| match pods.first() {
        Some(pod) if restarts(pod) > before => Ok(()),
        Some(_) => Err("it was not".to_owned()),
        None => Err("the pod is gone".to_owned()),
    };
    let restarted = wait::until(scene.api::<Pod>(), config, &what, scene.bounds().pods_ready, done).await;
    restarted.map_err(|error| {
        let why = match executed {
            Ok(output) => format!("`kill` ended with {}: {}", output.code, output.stderr.trim()),
            Err(error) => format!("{error:#}"),
        };
        Broken::CouldNotTell(format!("{error:#} ({why})"))
    })
}

async fn succeeds(scene: &Scene, pod: &str, command: &[&str]) -> Result<(), Broken> {
    let output = scene.exec(pod, command).await?;
    if output.code == 0 {
        return Ok(());
    }
    let (command, stderr) = (command.join(" "), output.stderr.trim());
    Err(Broken::CouldNotTell(format!("`{command}` in pod `{pod}` ended with {}: {stderr}", output.code)))
}

/// What went wrong.
pub(super) fn in_words(broken: Broken) -> String {
    match broken {
        Broken::Promise(finding) => format!("{}; but {}", finding.promised, finding.observed),
        Broken::CouldNotTell(why) => why,
    }
}
