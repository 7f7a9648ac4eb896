//! Services: one stable address for a changing set of pods.

use std::net::SocketAddr;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Endpoints, Pod};
use serde_json::json;
use stickler::action::{Resource, create, delete, delete_pods, edit, label, make, scale};
use stickler::{
    Broken, Check, Class, Held, Scene, To, Vantage, as_promised, cluster_ip, docs, endpoints_mirror_pods,
    fixture, kep, node_port, spreads, spreads_at, that,
};
use stickler_model::ObjectKey;

use crate::ports::reaches_target;

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "service/selects-by-label",
        title: "a service picks its pods by label selector",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#services-in-kubernetes")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(selects_by_label(scene)),
    },
    Check {
        id: "service/address-never-changes",
        title: "IP and port stay while the service lives, whatever its pods do",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#services-in-kubernetes")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(address_never_changes(scene)),
    },
    Check {
        id: "service/pods-come-and-go",
        title: "pods may be created and removed at any time; clients need not know them",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/"),
            docs("concepts/workloads/pods/pod-lifecycle/#pod-termination"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(pods_come_and_go(scene)),
    },
    Check {
        id: "service/spreads-connections",
        title: "connections are routed to any of the ready pods",
        class: Class::Promise,
        promised_by: &[docs("reference/networking/virtual-ips/")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(spreads_connections(scene)),
    },
    Check {
        id: "service/port-maps-to-target-port",
        title: "80 on the service reaches 8000 on the pod",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#defining-a-service")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(port_maps_to_target_port(scene)),
    },
    Check {
        id: "service/target-port-defaults",
        title: "targetPort defaults to port",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#field-spec-ports")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(target_port_defaults(scene)),
    },
    Check {
        id: "service/from-node",
        title: "every node can reach the service by its cluster IP",
        class: Class::Promise,
        promised_by: &[docs("reference/networking/virtual-ips/")],
        needs: &[stickler::Capability::HostNetwork],
        exclusive: false,
        run: |scene| Box::pin(from_node(scene)),
    },
    Check {
        id: "service/from-pod",
        title: "a pod on every node can reach the service, its own back end included",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#type-clusterip"),
            docs(
                "tasks/debug/debug-application/debug-service/#a-pod-fails-to-reach-itself-via-the-service-ip",
            ),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(from_pod(scene)),
    },
    Check {
        id: "service/only-ready-pods-answer",
        title: "a pod that is not ready gets no connection",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/workloads/pods/probes/#readiness-probe"),
            docs("concepts/workloads/pods/pod-lifecycle/#pod-readiness-gate"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(only_ready_pods_answer(scene)),
    },
    Check {
        id: "service/refused-without-endpoints",
        title: "a service without endpoints refuses connections",
        class: Class::Promise,
        promised_by: &[docs("reference/networking/virtual-ips/")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(refused_without_endpoints(scene)),
    },
    Check {
        id: "service/deleted-is-gone",
        title: "the address of a deleted service leads nowhere",
        class: Class::Promise,
        promised_by: &[docs("reference/networking/virtual-ips/")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(deleted_is_gone(scene)),
    },
    Check {
        id: "service/udp",
        title: "a UDP service reaches its ready pods, also after they were replaced",
        class: Class::Promise,
        promised_by: &[docs("reference/networking/service-protocols/#protocol-udp")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(udp(scene)),
    },
    Check {
        id: "service/udp-endpoint-replaced",
        title: "a UDP client that keeps its port reaches the pods of now, not those of before",
        class: Class::Promise,
        promised_by: &[
            docs("reference/networking/service-protocols/#protocol-udp"),
            docs("reference/networking/virtual-ips/"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(udp_endpoint_replaced(scene)),
    },
    Check {
        id: "service/udp-endpoint-appears",
        title: "a UDP client that sent while there was no pod reaches the first one that comes",
        class: Class::Promise,
        promised_by: &[
            docs("reference/networking/service-protocols/#protocol-udp"),
            docs("reference/networking/virtual-ips/"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(udp_endpoint_appears(scene)),
    },
    Check {
        id: "service/terminating-gets-none",
        title: "a pod that terminates gets no new connection while others are ready, though it still serves",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/endpoint-slices/#conditions"),
            kep("sig-network/1669-proxy-terminating-endpoints"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(terminating_gets_none(scene)),
    },
    Check {
        id: "service/publish-not-ready",
        title: "publishNotReadyAddresses: pods that are not ready get connections as well",
        class: Class::Promise,
        promised_by: &[docs("reference/kubernetes-api/service-resources/service-v1/#ServiceSpec")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(publish_not_ready(scene)),
    },
    Check {
        id: "service/other-proxy",
        title: "the cluster's proxy leaves a service alone whose label names another proxy",
        class: Class::Promise,
        promised_by: &[
            docs("reference/labels-annotations-taints/#servicekubernetesioservice-proxy-name"),
            kep("sig-network/2447-Make-kube-proxy-service-abstraction-optional"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(other_proxy(scene)),
    },
    Check {
        id: "service/headless-label",
        title: "the cluster's proxy leaves endpoints alone that are labelled as those of a headless service",
        class: Class::Promise,
        promised_by: &[
            docs("reference/labels-annotations-taints/#servicekubernetesioheadless"),
            docs("concepts/services-networking/service/#headless-services"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(headless_label(scene)),
    },
    Check {
        id: "service/daemon-set",
        title: "a service leads to the pods of a DaemonSet, one on every node",
        class: Class::Promise,
        promised_by: &[docs("concepts/workloads/controllers/daemonset/#communicating-with-daemon-pods")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(daemon_set(scene)),
    },
    Check {
        id: "service/replication-controller",
        title: "a service leads to the pods of a ReplicationController, however many there are",
        class: Class::Promise,
        promised_by: &[docs("concepts/workloads/controllers/replicationcontroller/")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(replication_controller(scene)),
    },
    Check {
        id: "service/listed",
        title: "`get svc` shows TYPE ClusterIP, EXTERNAL-IP <none>, 80/TCP",
        class: Class::Promise,
        promised_by: &[docs("reference/using-api/api-concepts/#receiving-resources-as-tables")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(listed(scene)),
    },
    Check {
        id: "service/host-network-endpoints",
        title: "pods in their node's network are served like others, on their own node too",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#services-in-kubernetes"),
            docs("reference/networking/virtual-ips/"),
        ],
        needs: &[stickler::Capability::HostNetwork],
        exclusive: false,
        run: |scene| Box::pin(host_network_endpoints(scene)),
    },
    Check {
        id: "service/finished-pods-leave",
        title: "a pod that has ended is no endpoint any more, though it is still there",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/workloads/pods/pod-lifecycle/#pod-phase"),
            docs("reference/networking/virtual-ips/"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(finished_pods_leave(scene)),
    },
    Check {
        id: "service/finished-pods-unpublished",
        title: "publishNotReadyAddresses: pods that have ended are not published either",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/workloads/pods/pod-lifecycle/#pod-phase"),
            docs("reference/kubernetes-api/service-resources/service-v1/#ServiceSpec"),
        ],
        needs: &[stickler::Capability::Since(25)],
        exclusive: false,
        run: |scene| Box::pin(finished_pods_unpublished(scene)),
    },
    Check {
        id: "service/same-selector",
        title: "of two services with the same pods one goes on when the other is deleted",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#services-in-kubernetes"),
            docs("concepts/services-networking/service/#defining-a-service"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(same_selector(scene)),
    },
    Check {
        id: "service/hairpin-everywhere",
        title: "a back end reaches itself and its siblings, by node port and over UDP as well",
        class: Class::Promise,
        promised_by: &[
            docs(
                "tasks/debug/debug-application/debug-service/#a-pod-fails-to-reach-itself-via-the-service-ip",
            ),
            docs("concepts/services-networking/service/#type-nodeport"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(hairpin_everywhere(scene)),
    },
    Check {
        id: "service/publish-not-ready-terminating",
        title: "publishNotReadyAddresses: pods that terminate get connections beside those that are ready",
        class: Class::Promise,
        promised_by: &[docs("reference/kubernetes-api/service-resources/service-v1/#ServiceSpec")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(publish_not_ready_terminating(scene)),
    },
];

/// "The set of Pods targeted by a Service is usually determined by a selector that you define"
async fn selects_by_label(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/web.yaml")).await?;
    let from = scene.inside();
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("web")])).await?;

    let out = name_of(scene.pods("app=web").await?.first())?;
    scene.when(label(&out, "app", "other")).await?;
    // Its ReplicaSet lets go of it and makes another one.
    scene.pods_become("app=web", 3).await?;
    scene.eventually(endpoints_mirror_pods("web")).await?;
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("web")])).await?;

    scene.when(edit(Resource::Service, "web", json!({ "spec": { "selector": { "app": "other" } } }))).await?;
    scene.eventually(endpoints_mirror_pods("web")).await?;
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("web")])).await?;
    scene.always(as_promised(from, vec![cluster_ip("web")])).await
}

/// "each Service object defines a logical set of endpoints ... along with a policy about how to
/// make those pods accessible": the address is the Service's, not the pods'.
async fn address_never_changes(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/web.yaml")).await?;
    let address = scene.cluster_ip("web").await?;
    let from = scene.inside();
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("web")])).await?;

    scene.when(delete_pods("app=web")).await?;
    scene.pods_become("app=web", 3).await?;
    scene.when(scale(Resource::ReplicaSet, "web", 0)).await?;
    scene.pods_become("app=web", 0).await?;
    scene.when(scale(Resource::ReplicaSet, "web", 2)).await?;
    scene.pods_become("app=web", 2).await?;

    scene.same("the cluster IP stays while the service lives", &address, &scene.cluster_ip("web").await?)?;
    scene.eventually(as_promised(from, vec![cluster_ip("web")])).await
}

/// Pods are ephemeral; the Service is there so that "clients ... do not need to be aware" of it. The
/// pods go on serving for two seconds after they were told to end, longer than a change takes to be
/// everywhere, so no failure can be put down to staleness.
async fn pods_come_and_go(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/rolling.yaml")).await?;
    let from = scene.inside();
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("rolling")])).await?;
    scene
        .served_throughout(from, "rolling", async |scene: &Scene| {
            let restart =
                json!({ "spec": { "template": { "metadata": { "annotations": { "restarted": "once" } } } } });
            scene.when(edit(Resource::Deployment, "rolling", restart)).await?;
            scene.rolled_out("rolling").await
        })
        .await
}

/// "selects a backend" for each connection, "by default ... at random": every ready one gets some.
async fn spreads_connections(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/web.yaml")).await?;
    for from in scene.inside() {
        scene.eventually(spreads("web", from)).await?;
    }
    Ok(())
}

async fn port_maps_to_target_port(scene: &mut Scene) -> Held {
    scene.given(fixture!("notes/goweb-rs.yaml")).await?;
    scene.when(create(fixture!("notes/goweb-svc.yaml"))).await?;
    let from = scene.inside();
    scene.eventually(as_promised(from, vec![cluster_ip("goweb-svc")])).await?;
    reaches_target(scene, "goweb-svc", &[(80, 8000)]).await
}

/// "By default and for convenience, the `targetPort` is set to the same value as the `port` field."
async fn target_port_defaults(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/target-port-defaults.yaml")).await?;
    let from = scene.inside();
    scene.eventually(as_promised(from, vec![cluster_ip("direct")])).await?;
    reaches_target(scene, "direct", &[(8000, 8000)]).await
}

async fn from_node(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/web.yaml")).await?;
    let from = scene.vantages().hosts();
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("web")])).await?;
    scene.always(as_promised(from, vec![cluster_ip("web")])).await
}

async fn from_pod(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/hairpin.yaml")).await?;
    let pods = scene.pods("app=mirror").await?;
    let name = name_of(pods.first())?;
    let backend = Vantage::Backend(ObjectKey { namespace: scene.namespace().to_owned(), name });
    let mut from = scene.vantages().pods();
    from.push(backend);
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("mirror")])).await?;
    scene.always(as_promised(from, vec![cluster_ip("mirror")])).await
}

/// "The EndpointSlice controller removes the Pod's IP address from the EndpointSlices of all
/// Services that match the Pod" when it is not ready.
async fn only_ready_pods_answer(scene: &mut Scene) -> Held {
    scene.given_running(fixture!("service/readiness-gates.yaml")).await?;
    let from = scene.inside();
    // Nobody is ready, then one, then both, then the other one only.
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("gated")])).await?;
    for (pod, ready) in [("gated-0", true), ("gated-1", true), ("gated-0", false)] {
        scene.set_gate(pod, ready).await?;
        // Before, what was promised until then may still be so.
        scene.becomes(pod, ready).await?;
        scene.eventually(as_promised(from.clone(), vec![cluster_ip("gated")]).calls(12)).await?;
        scene.always(as_promised(from.clone(), vec![cluster_ip("gated")]).calls(12)).await?;
    }
    Ok(())
}

async fn refused_without_endpoints(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/web.yaml")).await?;
    let from = scene.inside();
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("web")])).await?;
    scene.when(scale(Resource::ReplicaSet, "web", 0)).await?;
    scene.pods_become("app=web", 0).await?;
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("web")])).await?;
    scene.always(as_promised(from, vec![cluster_ip("web")])).await
}

async fn deleted_is_gone(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/web.yaml")).await?;
    let from = scene.inside();
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("web")])).await?;
    let ip = scene.cluster_ip("web").await?;
    let gone = To::Address("the deleted `web`".to_owned(), stickler_model::Destination::tcp(ip, 80));
    scene.when(delete(Resource::Service, "web")).await?;
    scene.eventually(as_promised(from, vec![gone])).await
}

async fn udp(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/udp.yaml")).await?;
    let from = scene.inside();
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("udp")])).await?;
    scene.when(delete_pods("app=udp")).await?;
    scene.pods_become("app=udp", 2).await?;
    scene.eventually(as_promised(from, vec![cluster_ip("udp")])).await
}

/// "kube-proxy ... captures traffic to the Service's `clusterIP` and `port`, and redirects it to one
/// of the Service's set of endpoints": the set as it is, whatever a flow was redirected to before. UDP
/// has no end of a connection, so a client that keeps its port is one flow for as long as it sends.
async fn udp_endpoint_replaced(scene: &mut Scene) -> Held {
    const PORT: u16 = 26_001;
    scene.given(fixture!("service/udp-flow.yaml")).await?;
    let from = scene.inside();
    let flow = || as_promised(from.clone(), vec![cluster_ip("flow")]).with_source_port(PORT);
    scene.eventually(flow()).await?;
    // The pod of before lives on, and would answer.
    scene
        .while_sending(&from, cluster_ip("flow"), PORT, async |scene: &Scene| selects(scene, "green").await)
        .await?;
    scene.eventually(endpoints_mirror_pods("flow")).await?;
    scene.eventually(flow()).await?;
    scene.always(flow()).await?;
    // The pod of before is gone, and nobody would answer.
    scene
        .while_sending(&from, cluster_ip("flow"), PORT, async |scene: &Scene| {
            scene.when(delete_pods("colour=green")).await?;
            scene.pods_become("colour=green", 1).await?;
            Ok(())
        })
        .await?;
    scene.eventually(endpoints_mirror_pods("flow")).await?;
    scene.eventually(flow()).await?;
    scene.always(flow()).await
}

async fn udp_endpoint_appears(scene: &mut Scene) -> Held {
    const PORT: u16 = 26_002;
    scene.given(fixture!("service/udp-flow.yaml")).await?;
    let from = scene.inside();
    let flow = || as_promised(from.clone(), vec![cluster_ip("flow")]).with_source_port(PORT);
    // First somebody, then nobody: the flow must not go on to the pod of before either.
    scene.eventually(flow()).await?;
    scene
        .while_sending(&from, cluster_ip("flow"), PORT, async |scene: &Scene| selects(scene, "none").await)
        .await?;
    scene.eventually(endpoints_mirror_pods("flow")).await?;
    scene.eventually(flow()).await?;
    scene
        .while_sending(&from, cluster_ip("flow"), PORT, async |scene: &Scene| selects(scene, "blue").await)
        .await?;
    scene.eventually(endpoints_mirror_pods("flow")).await?;
    scene.eventually(flow()).await?;
    scene.always(flow()).await
}

/// Turns the service `flow` to the pods of a colour.
async fn selects(scene: &Scene, colour: &str) -> Result<(), Broken> {
    scene.when(edit(Resource::Service, "flow", json!({ "spec": { "selector": { "colour": colour } } }))).await
}

/// "`ready` [..] for pods [..] `false`" once they terminate: they are the last resort, and there are others.
async fn terminating_gets_none(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/ending.yaml")).await?;
    let from = scene.inside();
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("ending")])).await?;
    let name = name_of(scene.pods("app=ending").await?.first())?;
    scene.when(delete(Resource::Pod, &name)).await?;
    scene.eventually(endpoints_mirror_pods("ending")).await?;
    let calls = || as_promised(from.clone(), vec![cluster_ip("ending")]).calls(12);
    scene.eventually(calls()).await?;
    scene.always(calls()).await?;
    still_ending(scene, &name).await
}

/// "any agent which deals with endpoints for this Service should disregard any indications of
/// ready/not-ready".
async fn publish_not_ready(scene: &mut Scene) -> Held {
    scene.given_running(fixture!("service/readiness-gates.yaml")).await?;
    scene.set_gate("gated-0", true).await?;
    scene.becomes("gated-0", true).await?;
    let from = scene.inside();
    for publish in [true, false, true] {
        let spec = json!({ "spec": { "publishNotReadyAddresses": publish } });
        scene.when(edit(Resource::Service, "gated", spec)).await?;
        scene.eventually(endpoints_mirror_pods("gated")).await?;
        scene.eventually(as_promised(from.clone(), vec![cluster_ip("gated")]).calls(12)).await?;
        let one = from.first().cloned().context("there is no place to look from")?;
        scene.eventually(spreads("gated", one)).await?;
    }
    Ok(())
}

/// The same of a pod that terminates: as long as it serves it gets its share, at node ports too.
async fn publish_not_ready_terminating(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/ending.yaml")).await?;
    let spec = json!({ "type": "NodePort", "publishNotReadyAddresses": true });
    scene.when(edit(Resource::Service, "ending", json!({ "spec": spec }))).await?;
    let from = scene.inside();
    let name = name_of(scene.pods("app=ending").await?.first())?;
    scene.when(delete(Resource::Pod, &name)).await?;
    scene.eventually(endpoints_mirror_pods("ending")).await?;
    let both = || vec![cluster_ip("ending"), node_port("ending")];
    scene.eventually(as_promised(from.clone(), both())).await?;
    let one = from.first().cloned().context("there is no place to look from")?;
    for to in both() {
        scene.eventually(spreads_at(to, one.clone())).await?;
    }
    still_ending(scene, &name).await?;
    // Without, it is left to end in peace.
    let spec = json!({ "spec": { "publishNotReadyAddresses": false } });
    scene.when(edit(Resource::Service, "ending", spec)).await?;
    scene.eventually(endpoints_mirror_pods("ending")).await?;
    scene.eventually(as_promised(from, both()).calls(12)).await?;
    still_ending(scene, &name).await
}

/// Does a pod that was told to end still serve? Otherwise what was seen last was nothing special.
async fn still_ending(scene: &Scene, name: &str) -> Held {
    let pods = scene.pods("app=ending").await?;
    let still = pods.iter().any(|pod| {
        pod.metadata.name.as_deref() == Some(name)
            && is_ready(pod)
            && pod.metadata.deletion_timestamp.is_some()
    });
    if still { Ok(()) } else { Err(Broken::CouldNotTell("the pod ended too early".to_owned())) }
}

/// "The kube-proxy has this label for custom proxy, which delegates service control to custom proxy."
/// Nobody answers at the cluster IP while the label is there, though there are endpoints.
async fn other_proxy(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/web.yaml")).await?;
    let from = scene.inside();
    for value in [None, Some("suites.stickler.dev"), None] {
        let labels =
            json!({ "metadata": { "labels": { "service.kubernetes.io/service-proxy-name": value } } });
        scene.when(edit(Resource::Service, "web", labels)).await?;
        scene.eventually(endpoints_mirror_pods("web")).await?;
        scene.eventually(as_promised(from.clone(), vec![cluster_ip("web")])).await?;
        if value.is_some() {
            scene.always(as_promised(from.clone(), vec![cluster_ip("web")])).await?;
        }
    }
    Ok(())
}

/// "The control plane adds this label to an Endpoints object when the owning Service is headless", and
/// "kube-proxy does not handle these Services". The slice is made by hand: the control plane's own it would
/// put right.
async fn headless_label(scene: &mut Scene) -> Held {
    scene.given(fixture!("endpoints/without-selector.yaml")).await?;
    let from = scene.inside();
    let pods = scene.pods("app=made").await?;
    let ips = pods.iter().filter_map(|pod| pod.status.as_ref()?.pod_ip.clone());
    let endpoints: Vec<_> = ips.map(|ip| json!({ "addresses": [ip] })).collect();
    let labels = json!({ "kubernetes.io/service-name": "made" });
    let slice = json!({
        "metadata": { "name": "made-by-hand", "labels": labels }, "addressType": "IPv4",
        "endpoints": endpoints, "ports": [{ "name": "", "port": 8000, "protocol": "TCP" }],
    });
    scene.when(make(Resource::EndpointSlice, slice)).await?;
    for value in [None, Some(""), None] {
        let labels = json!({ "metadata": { "labels": { "service.kubernetes.io/headless": value } } });
        scene.when(edit(Resource::EndpointSlice, "made-by-hand", labels)).await?;
        scene.eventually(as_promised(from.clone(), vec![cluster_ip("made")])).await?;
        scene.always(as_promised(from.clone(), vec![cluster_ip("made")])).await?;
    }
    Ok(())
}

/// "Create a service with the same Pod selector, and use the service to reach a daemon on a random node."
async fn daemon_set(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/daemon-set.yaml")).await?;
    scene.eventually(endpoints_mirror_pods("daemon")).await?;
    let from = scene.inside();
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("daemon")])).await?;
    let one = from.first().cloned().context("there is no place to look from")?;
    scene.eventually(spreads("daemon", one)).await?;
    scene.when(delete_pods("app=daemon")).await?;
    scene.pods_become("app=daemon", scene.vantages().nodes().len()).await?;
    scene.eventually(endpoints_mirror_pods("daemon")).await?;
    scene.eventually(as_promised(from, vec![cluster_ip("daemon")])).await
}

/// "Multiple ReplicationControllers can sit behind a single service"; one will do, and its number changes.
async fn replication_controller(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/replication-controller.yaml")).await?;
    let from = scene.inside();
    for replicas in [3, 0, 1] {
        scene.when(scale(Resource::ReplicationController, "old", replicas)).await?;
        scene.pods_become("app=old", replicas as usize).await?;
        scene.eventually(endpoints_mirror_pods("old")).await?;
        scene.eventually(as_promised(from.clone(), vec![cluster_ip("old")])).await?;
    }
    Ok(())
}

/// "Each Service object defines a logical set of endpoints (usually these endpoints are Pods)", wherever
/// these are: at the addresses of their nodes, one on each.
async fn host_network_endpoints(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/host-network.yaml")).await?;
    scene.eventually(endpoints_mirror_pods("host")).await?;
    let both = || vec![cluster_ip("host"), node_port("host")];
    scene.eventually(as_promised(scene.inside(), vec![cluster_ip("host")])).await?;
    scene.eventually(as_promised(scene.vantages().everywhere(), vec![node_port("host")])).await?;
    for to in both() {
        // A pod and its node, so that one of the back ends is the caller's own node.
        for from in [scene.vantages().pods(), scene.vantages().hosts()] {
            let one = from.into_iter().next().context("there is no place to look from")?;
            scene.eventually(spreads_at(to.clone(), one)).await?;
        }
    }
    Ok(())
}

/// "All containers in the Pod have terminated", in success or in failure, and will not run again: nobody
/// is there who could answer, and the address may be another's soon.
async fn finished_pods_leave(scene: &mut Scene) -> Held {
    finish(scene, false).await
}

async fn finished_pods_unpublished(scene: &mut Scene) -> Held {
    finish(scene, true).await
}

async fn finish(scene: &mut Scene, publish: bool) -> Held {
    scene.given(fixture!("service/finished.yaml")).await?;
    let spec = json!({ "spec": { "publishNotReadyAddresses": publish } });
    scene.when(edit(Resource::Service, "finished", spec)).await?;
    let from = scene.inside();
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("finished")])).await?;
    for (pod, signal) in [("succeeds", "TERM"), ("fails", "QUIT")] {
        // It ends the container's first process, and the command may end with it: the phase says it all.
        let _ = scene.exec(pod, &["kill", "-s", signal, "1"]).await;
    }
    scene
        .eventually(that("both pods have ended, one in success and one in failure", |scene| {
            Box::pin(async move {
                let pods = scene.pods("app=finished").await?;
                let phases = pods.iter().map(|pod| pod.status.as_ref()?.phase.as_deref());
                let phases: Vec<&str> = phases.flatten().collect();
                Ok(if phases == ["Failed", "Succeeded"] { Ok(()) } else { Err(format!("{phases:?}")) })
            })
        }))
        .await?;
    scene.eventually(endpoints_mirror_pods("finished")).await?;
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("finished")])).await?;
    scene.always(as_promised(from, vec![cluster_ip("finished")])).await
}

/// "The set of Pods targeted by a Service" is its own, whoever else targets them.
async fn same_selector(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/same-selector.yaml")).await?;
    let from = scene.inside();
    let both = vec![cluster_ip("one"), cluster_ip("other")];
    scene.eventually(as_promised(from.clone(), both)).await?;
    let ip = scene.cluster_ip("one").await?;
    let gone = To::Address("the deleted `one`".to_owned(), stickler_model::Destination::tcp(ip, 80));
    scene
        .served_throughout(from.clone(), "other", async |scene: &Scene| {
            scene.when(delete(Resource::Service, "one")).await?;
            scene.eventually(as_promised(scene.inside(), vec![gone])).await
        })
        .await?;
    scene.eventually(endpoints_mirror_pods("other")).await?;
    for one in from {
        scene.eventually(spreads("other", one)).await?;
    }
    Ok(())
}

/// "A Pod fails to reach itself via the Service IP" where "the network is not properly configured for
/// \"hairpin\" traffic": each of two back ends is led to itself as often as to the other.
async fn hairpin_everywhere(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/siblings.yaml")).await?;
    for pod in scene.pods("app=sibling").await? {
        let name = name_of(Some(&pod))?;
        let backend = Vantage::Backend(ObjectKey { namespace: scene.namespace().to_owned(), name });
        for to in [cluster_ip("sibling"), node_port("sibling")] {
            scene.eventually(spreads_at(to, backend.clone())).await?;
        }
    }
    Ok(())
}

async fn listed(scene: &mut Scene) -> Held {
    scene.when(create(fixture!("notes/goweb-svc.yaml"))).await?;
    let ip = scene.cluster_ip("goweb-svc").await?.to_string();
    let row = scene
        .table_row("services", "goweb-svc", &["Name", "Type", "Cluster-IP", "External-IP", "Port(s)"])
        .await?;
    let expected = ["goweb-svc", "ClusterIP", &ip, "<none>", "80/TCP"].map(str::to_owned).to_vec();
    scene.same("the table shows the service as `kubectl get svc` prints it", &expected, &row)
}

/// The name of an object that has to be there.
pub(crate) fn name_of(pod: Option<&Pod>) -> Result<String, Broken> {
    Ok(pod.and_then(|pod| pod.metadata.name.clone()).context("there is no such pod")?)
}

/// Does a pod say that it is Ready?
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    })
}

/// Every address of an Endpoints object with every port.
pub(crate) fn sockets(endpoints: &Endpoints) -> Vec<SocketAddr> {
    let mut sockets = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        for address in subset.addresses.iter().flatten() {
            for port in subset.ports.iter().flatten() {
                let (Ok(ip), Ok(port)) = (address.ip.parse(), u16::try_from(port.port)) else { continue };
                sockets.push(SocketAddr::new(ip, port));
            }
        }
    }
    sockets
}
