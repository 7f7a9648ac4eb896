//! Environment: the variables by which a container finds services.

use std::collections::BTreeMap;

use anyhow::Context as _;
use stickler::action::create;
use stickler::{Check, Class, Held, Scene, docs, fixture};
use stickler_model::{ObjectKey, environment};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "env/service-host-and-port",
        title: "containers get <NAME>_SERVICE_HOST and _PORT of the services that were there before",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#environment-variables")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(service_host_and_port(scene)),
    },
    Check {
        id: "env/fixed-at-container-start",
        title: "a service made later is not in the environment of a container that runs",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#environment-variables")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(fixed_at_container_start(scene)),
    },
];

/// "When a Pod is run on a Node, the kubelet adds a set of environment variables for each active
/// Service."
async fn service_host_and_port(scene: &mut Scene) -> Held {
    scene.when(create(fixture!("env/first.yaml"))).await?;
    scene.given(fixture!("env/pod.yaml")).await?;
    let world = scene.world().await?;
    let pod = ObjectKey { namespace: scene.namespace().to_owned(), name: "reader".to_owned() };
    let promised = environment(&world, &pod, "web").map_err(anyhow::Error::msg)?;
    let host = scene.cluster_ip("goweb-svc").await?.to_string();
    let seen = variables(scene).await?;
    scene.same("GOWEB_SVC_SERVICE_HOST is", &Some(&host), &seen.get("GOWEB_SVC_SERVICE_HOST"))?;
    scene.same("every other variable is as promised", &Vec::<String>::new(), &promised.differences(&seen))
}

/// "you must create the Service *before* the client Pods come into existence"
async fn fixed_at_container_start(scene: &mut Scene) -> Held {
    scene.given(fixture!("env/pod.yaml")).await?;
    scene.when(create(fixture!("env/later.yaml"))).await?;
    let names: Vec<String> =
        variables(scene).await?.into_keys().filter(|name| name.starts_with("MADE_LATER")).collect();
    scene.same("variables of a service made later", &Vec::<String>::new(), &names)
}

async fn variables(scene: &Scene) -> anyhow::Result<BTreeMap<String, String>> {
    let output = scene.exec("reader", &["env"]).await?;
    anyhow::ensure!(output.code == 0, "`env` ended with {}: {}", output.code, output.stderr);
    output
        .stdout
        .lines()
        .map(|line| {
            let (name, value) = line.split_once('=').with_context(|| format!("`{line}` is no variable"))?;
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}
