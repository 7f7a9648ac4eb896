//! Endpoints and EndpointSlices: the addresses behind a service, as objects.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use stickler::action::{Resource, delete, edit, label, make, make_endpoints, scale};
use stickler::{
    Check, Class, Held, Scene, as_promised, cluster_ip, docs, endpoints_mirror_pods, fixture, that,
};

use crate::endpoint_slices::slices_of;
use crate::ports::reaches_target;
use crate::service::{name_of, sockets};

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
        title: "the service `kubernetes` leads to the API server, at its cluster IP too",
        class: Class::Promise,
        promised_by: &[docs("tasks/run-application/access-api-from-pod/#directly-accessing-the-rest-api")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(kubernetes(scene)),
    },
    Check {
        id: "endpoints/none-without-selector",
        title: "for a service without selector no endpoints are made, and calls are refused",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#services-without-selectors")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(none_without_selector(scene)),
    },
    Check {
        id: "endpoints/manual",
        title: "Endpoints made by hand for a service without selector are served like selected pods",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#services-without-selectors"),
            docs("concepts/services-networking/endpoint-slices/#endpointslice-mirroring"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(manual(scene)),
    },
    Check {
        id: "endpoints/manual-same-name",
        title: "Endpoints made by hand belong to the service of the same name and to no other",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#services-without-selectors")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(manual_same_name(scene)),
    },
    Check {
        id: "endpoints/mirrored-in-step",
        title: "the mirror of Endpoints made by hand follows every edit of them",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/endpoint-slices/#endpointslice-mirroring")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(mirrored_in_step(scene)),
    },
    Check {
        id: "endpoints/several-subsets",
        title: "all subsets of Endpoints made by hand are served, also with one and the same address",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/endpoint-slices/#endpointslice-mirroring")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(several_subsets(scene)),
    },
    Check {
        id: "endpoints/skip-mirror",
        title: "Endpoints whose label asks not to be mirrored are not",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/endpoint-slices/#endpointslice-mirroring")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(skip_mirror(scene)),
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
        // Before, what was promised until then may still be so.
        scene.becomes(pod, ready).await?;
        scene.eventually(endpoints_mirror_pods("gated")).await?;
    }
    Ok(())
}

/// The addresses of `kubernetes` in `default` are where this API server listens, in its Endpoints as in its
/// EndpointSlices; a pod that dials them, or its cluster IP, reaches the API.
async fn kubernetes(scene: &mut Scene) -> Held {
    scene
        .eventually(that("`kubernetes` in `default` leads every pod to the API server", |scene| {
            Box::pin(async move {
                let client = || scene.client();
                let endpoints = Api::<Endpoints>::namespaced(client(), "default").get("kubernetes").await?;
                let listed: BTreeSet<SocketAddr> = sockets(&endpoints).into_iter().collect();
                let of_service = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
                let slices = Api::<EndpointSlice>::namespaced(client(), "default").list(&of_service).await?;
                let sliced: BTreeSet<SocketAddr> = slices.items.iter().flat_map(ready_sockets).collect();
                if listed.is_empty() || listed != sliced {
                    return Ok(Err(format!("its Endpoints list {listed:?}, its EndpointSlices {sliced:?}")));
                }
                let service = Api::<Service>::namespaced(client(), "default").get("kubernetes").await?;
                let spec = service.spec.unwrap_or_default();
                let ip = spec.cluster_ip.as_deref().unwrap_or_default().parse()?;
                let ports = spec.ports.iter().flatten().map(|port| u16::try_from(port.port));
                let at: Result<Vec<SocketAddr>, _> =
                    ports.map(|port| port.map(|port| SocketAddr::new(ip, port))).collect();
                for socket in listed.into_iter().chain(at?) {
                    for from in scene.vantages().pods() {
                        if let Err(seen) = scene.connects(&from, socket).await? {
                            return Ok(Err(format!("{socket}, called from {from}, was {seen}")));
                        }
                    }
                }
                Ok(Ok(()))
            })
        }))
        .await
}

/// Every ready address of a slice with every port.
fn ready_sockets(slice: &EndpointSlice) -> Vec<SocketAddr> {
    let mut sockets = Vec::new();
    for endpoint in slice.endpoints.iter().flatten() {
        let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
        for address in endpoint.addresses.iter().filter(|_| ready.unwrap_or(true)) {
            for port in slice.ports.iter().flatten().filter_map(|port| port.port) {
                let (Ok(ip), Ok(port)) = (address.parse(), u16::try_from(port)) else { continue };
                sockets.push(SocketAddr::new(ip, port));
            }
        }
    }
    sockets
}

/// "Because this Service has no selector, the corresponding EndpointSlice objects are not created
/// automatically." Those of another service, made later, show that somebody is at work.
async fn none_without_selector(scene: &mut Scene) -> Held {
    scene.given(fixture!("endpoints/without-selector.yaml")).await?;
    scene.eventually(endpoints_mirror_pods("selecting")).await?;
    let none = || {
        that("neither Endpoints nor EndpointSlices of `made` are there", |scene: &Scene| {
            Box::pin(async move {
                let world = scene.world().await?;
                let of_service = |labels: Option<&std::collections::BTreeMap<String, String>>| {
                    labels.is_some_and(|labels| {
                        labels.get("kubernetes.io/service-name").is_some_and(|name| name == "made")
                    })
                };
                let ours = |namespace: &str| namespace == scene.namespace();
                if world.endpoints.keys().any(|key| ours(&key.namespace) && key.name == "made") {
                    return Ok(Err("there are Endpoints `made`".to_owned()));
                }
                let mut slices = world.endpoint_slices.iter();
                Ok(
                    match slices.find(|(key, slice)| {
                        ours(&key.namespace) && of_service(slice.metadata.labels.as_ref())
                    }) {
                        Some((key, _)) => Err(format!("there is the EndpointSlice `{}`", key.name)),
                        None => Ok(()),
                    },
                )
            })
        })
    };
    scene.always(none()).await?;
    scene.eventually(as_promised(scene.inside(), vec![cluster_ip("made")])).await
}

/// "Accessing a Service without a selector works the same as if it had a selector." The addresses are
/// those of pods of this check's own.
async fn manual(scene: &mut Scene) -> Held {
    scene.given(fixture!("endpoints/without-selector.yaml")).await?;
    let inside = scene.inside();
    let ips = own_pods(scene).await?;
    scene.when(make_endpoints("made", &ips, 8000)).await?;
    scene.eventually(endpoints_mirror_pods("made")).await?;
    scene.eventually(as_promised(inside.clone(), vec![cluster_ip("made")])).await?;
    for from in inside.iter().take(1).cloned() {
        scene.eventually(stickler::spreads("made", from)).await?;
    }
    // Nobody but who makes them changes them.
    scene.always(as_promised(inside.clone(), vec![cluster_ip("made")])).await?;
    scene.when(delete(Resource::Endpoints, "made")).await?;
    scene.eventually(endpoints_mirror_pods("made")).await?;
    scene.eventually(as_promised(inside.clone(), vec![cluster_ip("made")])).await?;
    scene.when(make_endpoints("made", &ips[..1], 8000)).await?;
    scene.eventually(as_promised(inside, vec![cluster_ip("made")])).await
}

/// The notes: the name is what connects the two.
async fn manual_same_name(scene: &mut Scene) -> Held {
    scene.given(fixture!("endpoints/without-selector.yaml")).await?;
    let ips = own_pods(scene).await?;
    scene.when(make_endpoints("other", &ips, 8000)).await?;
    // `other` is answered, `made` is not.
    let both = vec![cluster_ip("other"), cluster_ip("made")];
    scene.eventually(as_promised(scene.inside(), both.clone())).await?;
    scene.always(as_promised(scene.inside(), both)).await
}

/// "The control plane mirrors each Endpoints resource to as many EndpointSlices as necessary": whatever
/// becomes of the Endpoints becomes of the mirror, and of the traffic.
async fn mirrored_in_step(scene: &mut Scene) -> Held {
    scene.given(fixture!("endpoints/two-numbers.yaml")).await?;
    let inside = scene.inside();
    let ips = own_pods(scene).await?;
    let addresses = |ips: &[IpAddr]| ips.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<Value>>();
    let (one, other) = (addresses(&ips[..1]), addresses(&ips[1..]));
    let (low, high) = (json!([{ "port": 8000 }]), json!([{ "port": 9000 }]));
    scene.when(make_endpoints("made", &ips, 8000)).await?;
    scene.eventually(endpoints_mirror_pods("made")).await?;
    for subset in [
        json!({ "addresses": one, "ports": low }),
        json!({ "addresses": other, "ports": low }),
        json!({ "addresses": other, "notReadyAddresses": one, "ports": low }),
        json!({ "addresses": other, "ports": high }),
        json!({ "addresses": addresses(&ips), "ports": high }),
    ] {
        scene.when(edit(Resource::Endpoints, "made", json!({ "subsets": [subset] }))).await?;
        scene.eventually(endpoints_mirror_pods("made")).await?;
        scene.eventually(as_promised(inside.clone(), vec![cluster_ip("made")]).calls(12)).await?;
    }
    scene.when(edit(Resource::Endpoints, "made", json!({ "subsets": [] }))).await?;
    scene.eventually(endpoints_mirror_pods("made")).await?;
    scene.eventually(as_promised(inside, vec![cluster_ip("made")])).await
}

async fn several_subsets(scene: &mut Scene) -> Held {
    scene.given(fixture!("endpoint-slices/two-ports.yaml")).await?;
    let ips = own_pods(scene).await?;
    let subset = |name: &str, port: u16| {
        let addresses: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
        json!({ "addresses": addresses, "ports": [{ "name": name, "port": port }] })
    };
    let subsets = [subset("first", 8000), subset("second", 9000)];
    scene
        .when(make(Resource::Endpoints, json!({ "metadata": { "name": "made" }, "subsets": subsets })))
        .await?;
    scene.eventually(endpoints_mirror_pods("made")).await?;
    scene.eventually(as_promised(scene.inside(), vec![cluster_ip("made")])).await?;
    reaches_target(scene, "made", &[(80, 8000), (81, 9000)]).await
}

/// "unless [..] the Endpoints resource has a `endpointslice.kubernetes.io/skip-mirror` label set to
/// `true`". Others, made later, are mirrored: so somebody is at work.
async fn skip_mirror(scene: &mut Scene) -> Held {
    scene.given(fixture!("endpoints/without-selector.yaml")).await?;
    let ips = own_pods(scene).await?;
    let addresses: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
    let labels = json!({ "endpointslice.kubernetes.io/skip-mirror": "true" });
    let skipped = json!({
        "metadata": { "name": "made", "labels": labels },
        "subsets": [{ "addresses": addresses, "ports": [{ "port": 8000 }] }],
    });
    scene.when(make(Resource::Endpoints, skipped)).await?;
    scene.when(make_endpoints("other", &ips, 8000)).await?;
    scene.eventually(endpoints_mirror_pods("other")).await?;
    let both = vec![cluster_ip("other"), cluster_ip("made")];
    scene.eventually(as_promised(scene.inside(), both.clone())).await?;
    scene
        .always(that("there are no EndpointSlices of `made`", |scene| {
            Box::pin(async move {
                let slices = slices_of(scene, "made").await?;
                Ok(if slices.is_empty() { Ok(()) } else { Err(format!("there are {}", slices.len())) })
            })
        }))
        .await?;
    scene.always(as_promised(scene.inside(), both)).await
}

async fn own_pods(scene: &Scene) -> anyhow::Result<Vec<IpAddr>> {
    let pods = scene.pods("app=made").await?;
    let ips = pods.iter().filter_map(|pod| pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok());
    Ok(ips.collect())
}
