//! Liveness: a container that is not alive is started anew.

use stickler::{Check, Class, Held, Scene, docs, fixture, that};

pub(crate) const CHECKS: &[Check] = &[Check {
    id: "liveness/restarts",
    title: "a failed liveness probe restarts the container, with a fresh root",
    class: Class::Promise,
    promised_by: &[docs("concepts/workloads/pods/probes/#liveness-probe")],
    needs: &[],
    exclusive: false,
    run: |scene| Box::pin(restarts(scene)),
}];

/// "If the liveness probe fails, the kubelet kills the container, and the container is subjected to
/// its restart policy."
async fn restarts(scene: &mut Scene) -> Held {
    scene.given(fixture!("liveness/exec.yaml")).await?;
    let output = scene.exec("mortal", &["touch", "/var/trace"]).await?;
    scene.same("the command succeeds", &0, &output.code)?;
    let output = scene.exec("mortal", &["rm", "/var/alive"]).await?;
    scene.same("the command succeeds", &0, &output.code)?;
    scene
        .eventually(that("the container is restarted and runs again", |scene| {
            Box::pin(async move {
                let pods = scene.pods("app=mortal").await?;
                let status =
                    pods.first().and_then(|pod| pod.status.as_ref()?.container_statuses.as_ref()?.first());
                let Some(status) = status else { return Ok(Err("the pod has no container".to_owned())) };
                let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
                Ok(if status.restart_count > 0 && running {
                    Ok(())
                } else {
                    Err(format!("it was restarted {} times, and runs: {running}", status.restart_count))
                })
            })
        }))
        .await?;
    let output = scene.exec("mortal", &["ls", "/var/trace"]).await?;
    scene.same("a file of the container before is there", &false, &(output.code == 0))
}
