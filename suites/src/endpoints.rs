//! Endpoints and EndpointSlices: the addresses behind a service, as objects.

use k8s_openapi::api::core::v1::Endpoints;
use kube::Api;
use stickler::action::{Resource, delete, label, scale};
use stickler::{Check, Class, Held, Scene, docs, endpoints_mirror_pods, fixture, that};

use crate::service::name_of;

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "endpoints/mirror-ready-pods",
        title: "Endpoints and EndpointSlices list IP and port of the pods behind the service",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#endpoints"),
            docs("concepts/services-networking/endpoint-slices/"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(mirror_ready_pods(scene)),
    },
    Check {
        id: "endpoints/follow-readiness",
        title: "a pod that becomes unready leaves the ready endpoints, and comes back",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/endpoint-slices/#conditions"),
            docs("concepts/workloads/pods/pod-lifecycle/#pod-readiness-gate"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(follow_readiness(scene)),
    },
    Check {
        id: "endpoints/kubernetes",
        title: "the service `kubernetes` has the API server's address",
        class: Class::Promise,
        promised_by: &[docs("tasks/run-application/access-api-from-pod/#directly-accessing-the-rest-api")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(kubernetes(scene)),
    },
];

/// "continuously scans for Pods that match its selector, and then makes any necessary updates to
/// the set of EndpointSlices for the Service"
async fn mirror_ready_pods(scene: &mut Scene) -> Held {
    scene.given(fixture!("ports/several.yaml")).await?;
    scene.eventually(endpoints_mirror_pods("several")).await?;
    scene.when(scale(Resource::ReplicaSet, "several", 5)).await?;
    scene.pods_become("app=several", 5).await?;
    scene.eventually(endpoints_mirror_pods("several")).await?;
    let pods = scene.pods("app=several").await?;
    scene.when(label(&name_of(pods.first())?, "app", "other")).await?;
    scene.when(delete(Resource::Pod, &name_of(pods.last())?)).await?;
    scene.pods_become("app=several", 5).await?;
    scene.eventually(endpoints_mirror_pods("several")).await?;
    scene.when(scale(Resource::ReplicaSet, "several", 0)).await?;
    scene.pods_become("app=several", 0).await?;
    scene.eventually(endpoints_mirror_pods("several")).await
}

async fn follow_readiness(scene: &mut Scene) -> Held {
    scene.given_running(fixture!("service/readiness-gates.yaml")).await?;
    for (pod, ready) in [("gated-0", true), ("gated-1", true), ("gated-0", false), ("gated-0", true)] {
        scene.set_gate(pod, ready).await?;
        scene.eventually(endpoints_mirror_pods("gated")).await?;
    }
    Ok(())
}

/// The addresses of `kubernetes` in `default` are where this API server listens; a pod that dials
/// its cluster IP reaches the API.
async fn kubernetes(scene: &mut Scene) -> Held {
    scene
        .eventually(that(
            "the Endpoints `kubernetes` list an address and the port of the API server",
            |scene| {
                Box::pin(async move {
                    let api: Api<Endpoints> = Api::namespaced(scene.client(), "default");
                    let endpoints = api.get("kubernetes").await?;
                    let sockets = crate::service::sockets(&endpoints);
                    if sockets.is_empty() {
                        return Ok(Err("they list none".to_owned()));
                    }
                    for socket in sockets {
                        for from in scene.vantages().pods() {
                            if let Err(seen) = scene.connects(&from, socket).await? {
                                return Ok(Err(format!("{socket}, called from {from}, was {seen}")));
                            }
                        }
                    }
                    Ok(Ok(()))
                })
            },
        ))
        .await
}
