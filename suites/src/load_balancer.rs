//! Load balancers: what a service of that type is without anybody who provides one.

use anyhow::Context as _;
use stickler::{
    Capability, Check, Class, Held, Scene, as_promised, cluster_ip, docs, fixture, node_port, notes, that,
};

pub(crate) const CHECKS: &[Check] = &[Check {
    id: "load-balancer/extends-node-port",
    title: "a service of type LoadBalancer has a node port, and waits for its address if nobody gives one",
    class: Class::Promise,
    promised_by: &[docs("concepts/services-networking/service/#loadbalancer"), notes("LoadBalancer")],
    needs: &[Capability::NodesReachable],
    exclusive: false,
    run: |scene| Box::pin(extends_node_port(scene)),
}];

/// "Kubernetes typically starts off by making the changes that are equivalent to you requesting a
/// Service of `type: NodePort`"
async fn extends_node_port(scene: &mut Scene) -> Held {
    scene.given(fixture!("load-balancer/balanced.yaml")).await?;
    let everywhere = scene.vantages().everywhere();
    scene.eventually(as_promised(everywhere.clone(), vec![node_port("balanced")])).await?;
    scene.eventually(as_promised(scene.inside(), vec![cluster_ip("balanced")])).await?;
    scene
        .eventually(that("EXTERNAL-IP is what the status says, and <pending> before", |scene| {
            Box::pin(async move {
                let cells = scene.table_row("services", "balanced", &["Type", "External-IP"]).await?;
                let [kind, shown] = cells.as_slice() else { anyhow::bail!("two columns were asked for") };
                let status = scene.service("balanced").await?.status.context("a service without status")?;
                let ingress = status.load_balancer.and_then(|balancer| balancer.ingress).unwrap_or_default();
                let first = ingress
                    .first()
                    .and_then(|ingress| ingress.ip.clone().or_else(|| ingress.hostname.clone()));
                let promised = first.as_deref().unwrap_or("<pending>");
                if kind == "LoadBalancer" && shown.split(',').next() == Some(promised) {
                    return Ok(Ok(()));
                }
                Ok(Err(format!("type `{kind}`, EXTERNAL-IP `{shown}`, with `{promised}` to be shown")))
            })
        }))
        .await?;
    scene.always(as_promised(everywhere, vec![node_port("balanced")])).await
}
