//! Readiness: who is ready gets traffic, who is not is left in peace.

use anyhow::Context as _;
use stickler::{
    Check, Class, Held, Scene, as_promised, cluster_ip, docs, endpoints_mirror_pods, fixture, that,
};

use crate::service::name_of;

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "readiness/unready-not-in-endpoints",
        title: "a pod that fails its readiness probe is not in Endpoints and gets no traffic",
        class: Class::Promise,
        promised_by: &[docs("concepts/workloads/pods/probes/#readiness-probe")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(unready_not_in_endpoints(scene)),
    },
    Check {
        id: "readiness/touch-makes-ready",
        title: "what makes the probe succeed brings the pod in, and what makes it fail takes it out",
        class: Class::Promise,
        promised_by: &[docs(
            "tasks/configure-pod-container/configure-liveness-readiness-startup-probes/#define-readiness-probes",
        )],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(touch_makes_ready(scene)),
    },
    Check {
        id: "readiness/never-restarts",
        title: "an unready pod is neither killed nor restarted",
        class: Class::Promise,
        promised_by: &[docs("concepts/workloads/pods/pod-lifecycle/#types-of-probe")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(never_restarts(scene)),
    },
    Check {
        id: "readiness/probe-kinds",
        title: "exec, httpGet and tcpSocket probes decide readiness",
        class: Class::Promise,
        promised_by: &[docs("concepts/workloads/pods/probes/#check-mechanisms")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(probe_kinds(scene)),
    },
];

async fn unready_not_in_endpoints(scene: &mut Scene) -> Held {
    scene.given_running(fixture!("readiness/exec.yaml")).await?;
    let from = scene.inside();
    scene.eventually(endpoints_mirror_pods("gate")).await?;
    scene.exactly(no_pod_is_ready()).await?;
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("gate")])).await?;
    scene.always(as_promised(from, vec![cluster_ip("gate")])).await
}

async fn touch_makes_ready(scene: &mut Scene) -> Held {
    scene.given_running(fixture!("readiness/exec.yaml")).await?;
    let from = scene.inside();
    let pod = name_of(scene.pods("app=gate").await?.first())?;
    for (command, ready) in [("touch", true), ("rm", false)] {
        let output = scene.exec(&pod, &[command, "/var/ready"]).await?;
        scene.same("the command succeeds", &0, &output.code)?;
        scene.becomes(&pod, ready).await?;
        scene.eventually(endpoints_mirror_pods("gate")).await?;
        scene.eventually(as_promised(from.clone(), vec![cluster_ip("gate")]).calls(8)).await?;
    }
    Ok(())
}

/// "Unlike liveness probes, a failed readiness probe" does not restart anything: the pod is taken
/// out of the endpoints, no more.
async fn never_restarts(scene: &mut Scene) -> Held {
    scene.given_running(fixture!("readiness/exec.yaml")).await?;
    scene.probed("gate").await?;
    scene.always(no_pod_is_ready()).await?;
    for pod in scene.pods("app=gate").await? {
        let statuses =
            pod.status.and_then(|status| status.container_statuses).context("a pod without a status")?;
        let restarts: i32 = statuses.iter().map(|status| status.restart_count).sum();
        scene.same("an unready pod's containers were restarted as often as", &0, &restarts)?;
    }
    Ok(())
}

async fn probe_kinds(scene: &mut Scene) -> Held {
    scene.given_running(fixture!("readiness/kinds.yaml")).await?;
    scene.pods_become("probe=good", 3).await?;
    for pod in scene.pods("probe=bad").await? {
        scene.same("a pod whose probe fails is ready", &false, &crate::service::is_ready(&pod))?;
    }
    scene.eventually(endpoints_mirror_pods("kinds")).await?;
    let from = scene.inside();
    scene.eventually(as_promised(from, vec![cluster_ip("kinds")]).calls(8)).await
}

fn no_pod_is_ready() -> impl stickler::Invariant {
    that("no pod whose probe fails is ready", |scene| {
        Box::pin(async move {
            let pods = scene.pods("app=gate").await?;
            let ready: Vec<_> = pods.iter().filter(|pod| crate::service::is_ready(pod)).collect();
            Ok(match ready.first() {
                Some(pod) => Err(format!("pod `{}` is", pod.metadata.name.as_deref().unwrap_or_default())),
                None => Ok(()),
            })
        })
    })
}
