//! EndpointSlices: how endpoints are portioned, who manages the portions, and what is made of those that
//! others make.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice};
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use stickler::action::{Resource, create, delete, edit, make, scale};
use stickler::{
    Broken, Capability, Check, Class, Held, Scene, as_promised, cluster_ip, docs, endpoints_mirror_pods,
    fixture, kep, spreads, that,
};

use crate::ports::reaches_target;

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "endpoint-slices/at-most-100",
        title: "of more than a hundred pods, no slice lists more than a hundred",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/endpoint-slices/")],
        needs: &[Capability::SeveralNodes],
        exclusive: false,
        run: |scene| Box::pin(at_most_100(scene)),
    },
    Check {
        id: "endpoint-slices/few-change",
        title: "a pod that changes changes the slice it is in, and no other",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/endpoint-slices/#distribution-of-endpointslices"),
            kep("sig-network/0752-endpointslices"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(few_change(scene)),
    },
    Check {
        id: "endpoint-slices/put-right",
        title: "slices of the control plane are put right when somebody edits or deletes them",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/endpoint-slices/#management")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(put_right(scene)),
    },
    Check {
        id: "endpoint-slices/managed-by",
        title: "slices say whose they are and who manages them",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/endpoint-slices/#management"),
            docs("concepts/services-networking/endpoint-slices/#ownership"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(managed_by(scene)),
    },
    Check {
        id: "endpoint-slices/topology",
        title: "an endpoint says on which node it is, and in which zone that node is",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/endpoint-slices/#topology")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(topology(scene)),
    },
    Check {
        id: "endpoint-slices/several-by-hand",
        title: "the endpoints of all slices made by hand for a service are served",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#services-without-selectors"),
            docs("concepts/services-networking/endpoint-slices/#distribution-of-endpointslices"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(several_by_hand(scene)),
    },
    Check {
        id: "endpoint-slices/a-port-each",
        title: "slices with a port each serve the ports of a service, at one and the same address",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/endpoint-slices/#endpointslice-api")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(a_port_each(scene)),
    },
    Check {
        id: "endpoint-slices/same-address-twice",
        title: "an endpoint may stand in two slices, and move from one to the other while it is called",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/endpoint-slices/#duplicate-endpoints")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(same_address_twice(scene)),
    },
    Check {
        id: "endpoint-slices/own-manager",
        title: "the control plane leaves slices alone that somebody else manages, and they are served",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/endpoint-slices/#management")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(own_manager(scene)),
    },
    Check {
        id: "endpoint-slices/conditions",
        title: "of endpoints made by hand those are served that say that they are ready, or say nothing",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/endpoint-slices/#conditions")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(conditions(scene)),
    },
    Check {
        id: "endpoint-slices/same-zone-hints",
        title: "trafficDistribution that prefers the zone: each endpoint is meant for its own",
        class: Class::Promise,
        promised_by: &[
            docs("reference/networking/virtual-ips/#traffic-distribution"),
            kep("sig-network/4444-service-traffic-distribution"),
        ],
        needs: &[Capability::Since(31), Capability::Zones],
        exclusive: false,
        run: |scene| Box::pin(same_zone_hints(scene)),
    },
    Check {
        id: "endpoint-slices/same-node-hints",
        title: "trafficDistribution PreferSameNode: each endpoint is meant for its own node",
        class: Class::Promise,
        promised_by: &[
            docs("reference/networking/virtual-ips/#traffic-distribution"),
            kep("sig-network/3015-prefer-same-node"),
        ],
        needs: &[Capability::Since(35)],
        exclusive: false,
        run: |scene| Box::pin(same_node_hints(scene)),
    },
    Check {
        id: "endpoint-slices/gone-with-service",
        title: "EndpointSlices, and Endpoints, go with the service they are of",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/endpoint-slices/#ownership"),
            docs("concepts/architecture/garbage-collection/#owners-dependents"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(gone_with_service(scene)),
    },
];

/// "By default, the control plane creates and manages EndpointSlices to have no more than 100
/// endpoints each."
async fn at_most_100(scene: &mut Scene) -> Held {
    const MOST: usize = 100;
    scene.given_addressed(fixture!("endpoint-slices/many.yaml")).await?;
    scene
        .eventually(that("the slices of `many` list all 101 pods, and none more than 100", |scene| {
            Box::pin(async move {
                let slices = slices_of(scene, "many").await?;
                let lengths: Vec<usize> = slices.iter().map(|slice| endpoints(slice).count()).collect();
                let pods: BTreeSet<String> = slices.iter().flat_map(endpoints).filter_map(pod_of).collect();
                if pods.len() == MOST + 1 && lengths.iter().all(|length| *length <= MOST) {
                    return Ok(Ok(()));
                }
                Ok(Err(format!("slices of {lengths:?} endpoints list {} pods", pods.len())))
            })
        }))
        .await?;
    // They do not fit into one any more, whatever becomes of them.
    scene.when(scale(Resource::ReplicaSet, "many", 0)).await
}

/// "Iterate through existing EndpointSlices, remove endpoints that are no longer desired and update
/// matching endpoints that have changed": others are not written.
async fn few_change(scene: &mut Scene) -> Held {
    scene.given_running(fixture!("endpoint-slices/groups.yaml")).await?;
    for pod in ["old-0", "old-1", "new-0"] {
        scene.set_gate(pod, true).await?;
    }
    scene.pods_become("app=groups", 3).await?;
    scene.eventually(endpoints_mirror_pods("groups")).await?;
    for (pod, ready) in [("old-0", false), ("new-0", false), ("old-1", false), ("new-0", true)] {
        let before = slices_of(scene, "groups").await?;
        scene.set_gate(pod, ready).await?;
        // Before the kubelet has seen it, nothing has changed that slices show, and the next round would
        // meet what becomes of this one.
        scene.becomes(pod, ready).await?;
        scene.eventually(endpoints_mirror_pods("groups")).await?;
        let others =
            before.iter().filter(|slice| !endpoints(slice).any(|it| pod_of(it).as_deref() == Some(pod)));
        let versions: BTreeMap<String, String> = others.map(name_and_version).collect();
        if versions.is_empty() {
            let why = "pods with different numbers behind one port name are in one slice";
            return Err(Broken::CouldNotTell(why.to_owned()));
        }
        scene
            .exactly(that(format!("only slices with pod `{pod}` were written"), move |scene| {
                let versions = versions.clone();
                Box::pin(async move {
                    let after: BTreeMap<String, String> =
                        slices_of(scene, "groups").await?.iter().map(name_and_version).collect();
                    let written = versions.iter().find(|(name, version)| after.get(*name) != Some(*version));
                    Ok(match written {
                        Some((name, version)) => Err(format!(
                            "slice `{name}` without it went from version {version} to {:?}",
                            after.get(name)
                        )),
                        None => Ok(()),
                    })
                })
            }))
            .await?;
    }
    Ok(())
}

/// "Most often, the control plane (specifically, the endpoint slice controller) creates and manages
/// EndpointSlice objects."
async fn put_right(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/web.yaml")).await?;
    scene.eventually(endpoints_mirror_pods("web")).await?;
    let inside = scene.inside();
    scene.eventually(as_promised(inside.clone(), vec![cluster_ip("web")])).await?;

    let name = name_of(slices_of(scene, "web").await?.first())?;
    scene.when(edit(Resource::EndpointSlice, &name, json!({ "endpoints": [] }))).await?;
    scene.eventually(endpoints_mirror_pods("web")).await?;
    let name = name_of(slices_of(scene, "web").await?.first())?;
    scene.when(edit(Resource::EndpointSlice, &name, json!({ "ports": [] }))).await?;
    scene.eventually(endpoints_mirror_pods("web")).await?;
    for slice in slices_of(scene, "web").await? {
        scene.when(delete(Resource::EndpointSlice, &name_of(Some(&slice))?)).await?;
    }
    scene.eventually(endpoints_mirror_pods("web")).await?;
    scene.eventually(as_promised(inside, vec![cluster_ip("web")])).await
}

/// "The endpoint slice controller sets `endpointslice-controller.k8s.io` as the value for this label";
/// "ownership is indicated by an owner reference on each EndpointSlice as well as a
/// `kubernetes.io/service-name` label".
async fn managed_by(scene: &mut Scene) -> Held {
    scene.given(fixture!("endpoints/two-numbers.yaml")).await?;
    let pods = own_pods(scene).await?;
    let ips: Vec<IpAddr> = pods.iter().map(|pod| pod.ip).collect();
    scene.when(stickler::action::make_endpoints("made", &ips, 8000)).await?;
    scene.when(create(fixture!("service/web.yaml"))).await?;
    scene.pods_become("app=web", 3).await?;
    for (service, manager, owner) in [
        ("web", "endpointslice-controller.k8s.io", "Service"),
        ("made", "endpointslicemirroring-controller.k8s.io", "Endpoints"),
    ] {
        scene.eventually(endpoints_mirror_pods(service)).await?;
        scene
            .eventually(that(format!("the slices of `{service}` are managed by `{manager}`"), move |scene| {
                Box::pin(async move {
                    let slices = slices_of(scene, service).await?;
                    if slices.is_empty() {
                        return Ok(Err("it has no slices".to_owned()));
                    }
                    for slice in &slices {
                        let labels = slice.metadata.labels.clone().unwrap_or_default();
                        let said = labels.get("endpointslice.kubernetes.io/managed-by");
                        let owners = slice.metadata.owner_references.clone().unwrap_or_default();
                        let owned = owners
                            .iter()
                            .any(|of| of.kind == owner && of.name == service && of.controller == Some(true));
                        if said.map(String::as_str) != Some(manager) || !owned {
                            let name = slice.metadata.name.clone().unwrap_or_default();
                            return Ok(Err(format!(
                                "`{name}` names the manager {said:?} and the owners {owners:?}"
                            )));
                        }
                    }
                    Ok(Ok(()))
                })
            }))
            .await?;
    }
    Ok(())
}

/// "The topology information includes the location of the endpoint and information about the
/// corresponding Node and zone": `nodeName` and `zone`.
async fn topology(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/web.yaml")).await?;
    scene.eventually(endpoints_mirror_pods("web")).await?;
    scene
        .eventually(that("every endpoint of `web` names its pod's node and that node's zone", |scene| {
            Box::pin(async move {
                let zones = zones(scene).await?;
                let nodes: BTreeMap<String, String> = scene
                    .pods("app=web")
                    .await?
                    .into_iter()
                    .filter_map(|pod| Some((pod.metadata.name?, pod.spec?.node_name?)))
                    .collect();
                let slices = slices_of(scene, "web").await?;
                for endpoint in slices.iter().flat_map(endpoints) {
                    let pod = pod_of(endpoint).unwrap_or_default();
                    let node = nodes.get(&pod);
                    let zone = node.and_then(|node| zones.get(node));
                    if endpoint.node_name.as_ref() != node || endpoint.zone.as_ref() != zone {
                        return Ok(Err(format!(
                            "the endpoint of `{pod}` names node {:?} and zone {:?} instead of {node:?} and {zone:?}",
                            endpoint.node_name, endpoint.zone
                        )));
                    }
                }
                Ok(if slices.is_empty() { Err("it has no slices".to_owned()) } else { Ok(()) })
            })
        }))
        .await
}

/// A service's endpoints are those of all its slices, made by whomever.
async fn several_by_hand(scene: &mut Scene) -> Held {
    scene.given(fixture!("endpoints/two-numbers.yaml")).await?;
    for (index, pod) in own_pods(scene).await?.iter().enumerate() {
        scene.when(make(Resource::EndpointSlice, slice(&format!("made-{index}"), &[pod.ready()]))).await?;
    }
    let inside = scene.inside();
    scene.eventually(as_promised(inside.clone(), vec![cluster_ip("made")])).await?;
    for from in inside.iter().take(1).cloned() {
        scene.eventually(spreads("made", from)).await?;
    }
    scene.when(delete(Resource::EndpointSlice, "made-0")).await?;
    scene.eventually(as_promised(inside.clone(), vec![cluster_ip("made")]).calls(12)).await?;
    scene.when(delete(Resource::EndpointSlice, "made-1")).await?;
    scene.eventually(as_promised(inside, vec![cluster_ip("made")])).await
}

async fn a_port_each(scene: &mut Scene) -> Held {
    scene.given(fixture!("endpoint-slices/two-ports.yaml")).await?;
    let pods = own_pods(scene).await?;
    let pod = pods.first().context("there is no pod")?;
    for (name, number) in [("first", 8000), ("second", 9000)] {
        let mut slice = slice(&format!("made-{name}"), &[pod.ready()]);
        slice["ports"] = json!([{ "name": name, "port": number, "protocol": "TCP" }]);
        scene.when(make(Resource::EndpointSlice, slice)).await?;
    }
    scene.eventually(as_promised(scene.inside(), vec![cluster_ip("made")])).await?;
    reaches_target(scene, "made", &[(80, 8000), (81, 9000)]).await
}

/// "endpoints may be represented in more than one EndpointSlice at the same time. This naturally occurs
/// because changes to different EndpointSlice objects can arrive at the Kubernetes client watch / cache
/// at different times."
async fn same_address_twice(scene: &mut Scene) -> Held {
    scene.given(fixture!("endpoints/two-numbers.yaml")).await?;
    let pods = own_pods(scene).await?;
    let all: Vec<Value> = pods.iter().map(OwnPod::ready).collect();
    scene.when(make(Resource::EndpointSlice, slice("made-a", &all))).await?;
    let inside = scene.inside();
    scene.eventually(as_promised(inside.clone(), vec![cluster_ip("made")])).await?;
    scene
        .served_throughout(scene.vantages().pods(), "made", async |scene: &Scene| {
            for (come, gone) in [("made-b", "made-a"), ("made-c", "made-b")] {
                scene.when(make(Resource::EndpointSlice, slice(come, &all))).await?;
                scene.always(as_promised(inside.clone(), vec![cluster_ip("made")]).calls(1)).await?;
                scene.when(delete(Resource::EndpointSlice, gone)).await?;
                scene.always(as_promised(inside.clone(), vec![cluster_ip("made")]).calls(1)).await?;
            }
            Ok(())
        })
        .await?;
    for from in inside.iter().take(1).cloned() {
        scene.eventually(spreads("made", from)).await?;
    }
    // Once it stands nowhere, it is gone.
    scene.when(make(Resource::EndpointSlice, slice("made-d", &all[..1]))).await?;
    scene.when(delete(Resource::EndpointSlice, "made-c")).await?;
    scene.eventually(as_promised(inside, vec![cluster_ip("made")]).calls(12)).await
}

/// "To ensure that multiple entities can manage EndpointSlices without interfering with each other,
/// Kubernetes defines the label `endpointslice.kubernetes.io/managed-by`".
async fn own_manager(scene: &mut Scene) -> Held {
    scene.given(fixture!("endpoints/without-selector.yaml")).await?;
    scene.eventually(endpoints_mirror_pods("selecting")).await?;
    let pods = own_pods(scene).await?;
    for service in ["made", "selecting"] {
        let mut slice = slice(&format!("{service}-own"), &[pods.first().context("there is no pod")?.ready()]);
        slice["metadata"]["labels"]["kubernetes.io/service-name"] = json!(service);
        scene.when(make(Resource::EndpointSlice, slice)).await?;
    }
    let made = own_versions(scene).await?;
    // The control plane has something to do for both services.
    for service in ["made", "selecting"] {
        let labels = json!({ "metadata": { "labels": { "touched": "once" } } });
        scene.when(edit(Resource::Service, service, labels)).await?;
    }
    scene.when(scale(Resource::ReplicaSet, "made", 3)).await?;
    scene.pods_become("app=made", 3).await?;
    scene.eventually(endpoints_mirror_pods("selecting")).await?;
    scene
        .always(that("the slices of another manager are as they were made", move |scene| {
            let made = made.clone();
            Box::pin(async move {
                let now = own_versions(scene).await?;
                Ok(if now == made { Ok(()) } else { Err(format!("they were {made:?} and are {now:?}")) })
            })
        }))
        .await?;
    scene.eventually(as_promised(scene.inside(), vec![cluster_ip("made"), cluster_ip("selecting")])).await
}

/// Name, uid and version of the slices that are ours.
async fn own_versions(scene: &Scene) -> anyhow::Result<Vec<(String, String, String)>> {
    let ours = ListParams::default().labels(&format!("endpointslice.kubernetes.io/managed-by={MANAGER}"));
    let slices = scene.api::<EndpointSlice>().list(&ours).await.context("list the EndpointSlices")?;
    let version = |slice: EndpointSlice| {
        let metadata = slice.metadata;
        Some((metadata.name?, metadata.uid?, metadata.resource_version?))
    };
    Ok(slices.items.into_iter().filter_map(version).collect())
}

/// "The `ready` condition is essentially a shortcut for checking `serving` and not `terminating`"; not
/// to know it is to take it for true (API reference).
async fn conditions(scene: &mut Scene) -> Held {
    scene.given(fixture!("endpoints/two-numbers.yaml")).await?;
    let pods = own_pods(scene).await?;
    let said = |conditions: [Value; 2]| -> Vec<Value> {
        pods.iter().zip(conditions).map(|(pod, conditions)| pod.with(&conditions)).collect()
    };
    let (yes, no) = (json!({ "ready": true }), json!({ "ready": false }));
    let ending = json!({ "ready": false, "serving": true, "terminating": true });
    let ended = json!({ "ready": false, "serving": false, "terminating": true });
    let inside = scene.inside();
    scene.when(make(Resource::EndpointSlice, slice("made-0", &said([yes.clone(), no.clone()])))).await?;
    scene.eventually(as_promised(inside.clone(), vec![cluster_ip("made")]).calls(12)).await?;
    for conditions in [
        [no.clone(), yes.clone()],
        [json!({}), no.clone()],
        [ending.clone(), yes.clone()],
        [ending, no.clone()],
        [ended, no.clone()],
        [yes, no],
    ] {
        let endpoints = json!({ "endpoints": said(conditions) });
        scene.when(edit(Resource::EndpointSlice, "made-0", endpoints)).await?;
        scene.eventually(as_promised(inside.clone(), vec![cluster_ip("made")]).calls(12)).await?;
    }
    Ok(())
}

/// "`PreferClose`: this is an older alias for PreferSameZone": the control plane says for which zone each
/// endpoint is; that routing follows is a preference.
async fn same_zone_hints(scene: &mut Scene) -> Held {
    scene.given(fixture!("endpoint-slices/distributed.yaml")).await?;
    distributed(scene, Some("PreferClose"), |endpoint, hints| {
        let zone = endpoint.zone.clone().unwrap_or_default();
        let zones = hints.for_zones.iter().flatten().map(|hint| hint.name.clone());
        said("zone", &zone, zones.collect())
    })
    .await?;
    distributed(scene, None, |_, hints| {
        let zones: Vec<&String> = hints.for_zones.iter().flatten().map(|hint| &hint.name).collect();
        if zones.is_empty() {
            Ok(())
        } else {
            Err(format!("is for the zones {zones:?}, though none is preferred"))
        }
    })
    .await
}

/// "`PreferSameNode`: prioritizes routing traffic to endpoints on the same node as the client."
async fn same_node_hints(scene: &mut Scene) -> Held {
    scene.given(fixture!("endpoint-slices/distributed.yaml")).await?;
    distributed(scene, Some("PreferSameNode"), |endpoint, hints| {
        let node = endpoint.node_name.clone().unwrap_or_default();
        let nodes = hints.for_nodes.iter().flatten().map(|hint| hint.name.clone());
        said("node", &node, nodes.collect())
    })
    .await
}

fn said(what: &str, own: &str, hinted: Vec<String>) -> Result<(), String> {
    if hinted == [own] { Ok(()) } else { Err(format!("is on {what} `{own}`, and for {hinted:?}")) }
}

/// With this distribution the hints of every endpoint are as they must be, and its pods are called as ever.
async fn distributed(
    scene: &mut Scene,
    preference: Option<&'static str>,
    are_right: fn(&Endpoint, &EndpointHints) -> Result<(), String>,
) -> Held {
    let spec = json!({ "spec": { "trafficDistribution": preference } });
    scene.when(edit(Resource::Service, "near", spec)).await?;
    let promise =
        format!("with trafficDistribution {preference:?} every endpoint is meant for whom it has to be");
    scene
        .eventually(that(promise, move |scene| {
            Box::pin(async move {
                let slices = slices_of(scene, "near").await?;
                for endpoint in slices.iter().flat_map(endpoints) {
                    let hints = endpoint.hints.clone().unwrap_or_default();
                    if let Err(why) = are_right(endpoint, &hints) {
                        return Ok(Err(format!("`{}` {why}", pod_of(endpoint).unwrap_or_default())));
                    }
                }
                let count = slices.iter().flat_map(endpoints).count();
                let nodes = scene.vantages().nodes().len();
                Ok(if count < nodes {
                    Err(format!("there are {count} endpoints, and {nodes} nodes"))
                } else {
                    Ok(())
                })
            })
        }))
        .await?;
    scene.eventually(as_promised(scene.inside(), vec![cluster_ip("near")])).await
}

/// Who manages the slices that checks make.
const MANAGER: &str = "suites.stickler.dev";

/// A pod that hand-made slices lead to.
pub(crate) struct OwnPod {
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    node: String,
}

impl OwnPod {
    /// As an endpoint that is ready.
    fn ready(&self) -> Value {
        self.with(&json!({ "ready": true }))
    }

    /// As an endpoint in these conditions.
    fn with(&self, conditions: &Value) -> Value {
        json!({
            "addresses": [self.ip], "conditions": conditions, "nodeName": self.node,
            "targetRef": { "kind": "Pod", "name": self.name },
        })
    }
}

/// The pods `app=made` of the check.
pub(crate) async fn own_pods(scene: &Scene) -> anyhow::Result<Vec<OwnPod>> {
    let own = |pod: Pod| {
        let ip = pod.status?.pod_ip?.parse().ok()?;
        Some(OwnPod { name: pod.metadata.name?, ip, node: pod.spec?.node_name? })
    };
    Ok(scene.pods("app=made").await?.into_iter().filter_map(own).collect())
}

/// A slice of the service `made` with these endpoints, at port 8000.
fn slice(name: &str, endpoints: &[Value]) -> Value {
    let is_ipv6 = endpoints.iter().any(|endpoint| endpoint["addresses"][0].to_string().contains(':'));
    json!({
        "metadata": { "name": name, "labels": {
            "kubernetes.io/service-name": "made",
            "endpointslice.kubernetes.io/managed-by": MANAGER,
        } },
        "addressType": if is_ipv6 { "IPv6" } else { "IPv4" },
        "ports": [{ "name": "", "port": 8000, "protocol": "TCP" }],
        "endpoints": endpoints,
    })
}

/// "EndpointSlices are owned by the Service that the endpoint slice object tracks endpoints for": so they go when
/// it does, and nobody finds pods behind a name that is somebody else's later.
async fn gone_with_service(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/web.yaml")).await?;
    scene.eventually(endpoints_mirror_pods("web")).await?;
    scene.when(delete(Resource::Service, "web")).await?;
    scene
        .eventually(that("neither EndpointSlices nor Endpoints of `web` are left", |scene| {
            Box::pin(async move {
                let slices = slices_of(scene, "web").await?.len();
                let endpoints = scene.api::<Endpoints>().get_opt("web").await?.is_some();
                let left = format!("{slices} slices, and {} Endpoints", if endpoints { "the" } else { "no" });
                Ok(if slices == 0 && !endpoints { Ok(()) } else { Err(left) })
            })
        }))
        .await
}

/// The slices of a service.
pub(crate) async fn slices_of(scene: &Scene, service: &str) -> anyhow::Result<Vec<EndpointSlice>> {
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    Ok(scene.api::<EndpointSlice>().list(&of_service).await.context("list the EndpointSlices")?.items)
}

pub(crate) fn endpoints(slice: &EndpointSlice) -> impl Iterator<Item = &Endpoint> {
    slice.endpoints.iter().flatten()
}

/// The name of the pod an endpoint is.
fn pod_of(endpoint: &Endpoint) -> Option<String> {
    endpoint.target_ref.as_ref().and_then(|target| target.name.clone())
}

fn name_of(slice: Option<&EndpointSlice>) -> Result<String, Broken> {
    Ok(slice.and_then(|slice| slice.metadata.name.clone()).context("there is no slice")?)
}

fn name_and_version(slice: &EndpointSlice) -> (String, String) {
    let metadata = &slice.metadata;
    (metadata.name.clone().unwrap_or_default(), metadata.resource_version.clone().unwrap_or_default())
}

/// The zone of every node that says it.
async fn zones(scene: &Scene) -> anyhow::Result<BTreeMap<String, String>> {
    let nodes =
        Api::<Node>::all(scene.client()).list(&ListParams::default()).await.context("list the nodes")?;
    let zone = |node: Node| {
        let zone = node.metadata.labels?.get("topology.kubernetes.io/zone")?.clone();
        Some((node.metadata.name?, zone))
    };
    Ok(nodes.items.into_iter().filter_map(zone).collect())
}
