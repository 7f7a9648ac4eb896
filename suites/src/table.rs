//! The world of `stickler table`: a service of every kind, so that the truth table has something of everything.

use std::net::IpAddr;

use anyhow::Context as _;
use futures::future::try_join_all;
use serde_json::json;
use stickler::action::{Resource, create, edit, make, make_endpoints};
use stickler::truth::Truth;
use stickler::{Broken, Capability, Held, Scene, as_promised, cluster_ip, fixture, node_port};

/// Makes it in a scene's namespace. One port is there before and removed, and the table knows of it.
///
/// # Errors
/// What was refused, or which pod does not run.
pub async fn table_world(scene: &Scene, truth: &mut Truth) -> Held {
    // The controller need not wait for pods, nor they for it.
    let (controller, pods) = tokio::join!(scene.given_controller(), async {
        tokio::try_join!(
            scene.given(fixture!("table/pods.yaml")),
            scene.given_running(fixture!("table/unready.yaml")),
            scene.when(create(fixture!("table/services.yaml"))),
        )
    });
    pods?;
    let shrunk = vec![cluster_ip("shrunk"), node_port("shrunk")];
    // A cluster that does not serve it at all is what the table is to show.
    match scene.eventually(as_promised(scene.vantages().everywhere(), shrunk)).await {
        Err(Broken::Promise(_)) => truth.remark("`shrunk` was not served before one of its ports went"),
        held => held?,
    }
    truth.learn(scene).await?;
    let ports = scene.service("shrunk").await?.spec.and_then(|spec| spec.ports).unwrap_or_default();
    let kept: Vec<_> = ports.into_iter().filter(|port| port.name.as_deref() == Some("kept")).collect();
    scene.when(edit(Resource::Service, "shrunk", json!({ "spec": { "ports": kept } }))).await?;

    let addresses = try_join_all(["app=web", "app=local"].map(|selector| addresses(scene, selector))).await?;
    scene.when(make_endpoints("by-hand", &addresses.concat(), 8000)).await?;
    let endpoints: Vec<_> = addresses.concat().iter().map(|ip| json!({ "addresses": [ip] })).collect();
    let slice = json!({
        "metadata": { "name": "sliced", "labels": { "kubernetes.io/service-name": "sliced" } },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{ "name": "", "port": 8000, "protocol": "TCP" }],
    });
    scene.when(make(Resource::EndpointSlice, slice)).await?;
    let leads_to = format!("web.{}.svc.{}", scene.namespace(), scene.cluster_domain());
    scene.when(edit(Resource::Service, "alias", json!({ "spec": { "externalName": leads_to } }))).await?;
    // Until then calls from nodes went out to look for it (kubernetes/kubernetes#96296).
    if scene.has(Capability::Since(21)) {
        scene.when(create(fixture!("table/external.yaml"))).await?;
    } else {
        truth.remark("no external IP: nodes route it into the cluster since Kubernetes 1.21");
    }
    match controller {
        Ok(_) => scene.when(create(fixture!("table/ingress.yaml"))).await,
        Err(Broken::CouldNotTell(why)) => {
            truth.remark(format!("no hosts and paths: {why}"));
            Ok(())
        }
        Err(broken) => Err(broken),
    }
}

async fn addresses(scene: &Scene, selector: &str) -> anyhow::Result<Vec<IpAddr>> {
    let pods = scene.pods(selector).await?;
    let ips = pods.iter().map(|pod| {
        let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
        ip.with_context(|| format!("a pod `{selector}` has no address"))?.parse().context("it is no address")
    });
    ips.collect()
}
