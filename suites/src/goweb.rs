//! goweb: the server of the notes, which says who it is.

use anyhow::Context as _;
use stickler::action::create;
use stickler::{Capability, Check, Class, Held, Scene, answers, docs, fixture, notes};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "goweb/answers-hostname",
        title: "the image listens on 8000 and answers `this is <hostname>`",
        class: Class::Promise,
        promised_by: &[docs("concepts/workloads/pods/#pod-networking"), notes("准备镜像")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(answers_hostname(scene)),
    },
    Check {
        id: "goweb/docker",
        title: "the same image under docker: port 8001 leads to 8000, the hostname is the container's id",
        class: Class::Observation,
        promised_by: &[notes("运行镜像,本地8001映射到容器的8000")],
        needs: &[Capability::ContainerEngine],
        exclusive: false,
        run: |scene| Box::pin(docker(scene)),
    },
];

/// "containers within the Pod see the system hostname as being the same as the configured `name`
/// for the Pod"
async fn answers_hostname(scene: &mut Scene) -> Held {
    scene.when(create(fixture!("notes/goweb-rs.yaml"))).await?;
    let pods = scene.pods_become("app=goweb", 2).await?;
    for pod in pods {
        let name = pod.metadata.name.context("a pod without a name")?;
        let ip = pod.status.and_then(|status| status.pod_ip).context("a ready pod without an address")?;
        let address = format!("{ip}:8000").parse().context("a pod's address is an address")?;
        for from in scene.vantages().pods() {
            scene.eventually(answers(from, address, format!("this is {name}\n"))).await?;
        }
    }
    Ok(())
}

/// In the notes port 8001 of the machine leads to port 8000 of the container, and the answer names the
/// container, whose host name is the beginning of its id.
async fn docker(scene: &mut Scene) -> Held {
    let container = scene.docker_run("goweb", 8001, 8000).await?;
    scene.eventually(container.says(format!("this is {}\n", container.hostname()))).await
}
