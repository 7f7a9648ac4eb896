//! Traffic policies: which endpoints a node may send to, and what becomes of the caller's address.

use std::collections::BTreeMap;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use serde_json::{Value, json};
use stickler::action::{Resource, delete_pods, edit, scale};
use stickler::protocol::{Probe, Seen};
use stickler::{
    Broken, Capability, Check, Class, Held, Scene, To, as_promised, cluster_ip, docs, endpoints_mirror_pods,
    fixture, in_words, kep, node_port, notes, spreads, that,
};

use crate::endpoint_slices::slices_of;
use crate::service::is_ready;

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "traffic-policy/local-only-local",
        title: "externalTrafficPolicy Local: a node port leads to pods of the node that was asked",
        class: Class::Promise,
        promised_by: &[docs("reference/networking/virtual-ips/#external-traffic-policy")],
        needs: &[Capability::SeveralNodes, Capability::NodesReachable],
        exclusive: false,
        run: |scene| Box::pin(local_only_local(scene)),
    },
    Check {
        id: "traffic-policy/local-drops",
        title: "externalTrafficPolicy Local: a node without pods drops what others would answer",
        class: Class::Promise,
        promised_by: &[docs("tutorials/services/source-ip/#source-ip-for-services-with-type-nodeport")],
        needs: &[Capability::SeveralNodes, Capability::NodesReachable],
        exclusive: false,
        run: |scene| Box::pin(local_drops(scene)),
    },
    Check {
        id: "traffic-policy/local-keeps-source",
        title: "externalTrafficPolicy Local: the pod sees the caller's own address",
        class: Class::Promise,
        promised_by: &[docs("tutorials/services/source-ip/#source-ip-for-services-with-type-nodeport")],
        needs: &[Capability::NodesReachable],
        exclusive: false,
        run: |scene| Box::pin(local_keeps_source(scene)),
    },
    Check {
        id: "traffic-policy/snat",
        title: "externalTrafficPolicy Cluster: the pod sees an address of the cluster instead of the caller's",
        class: Class::Observation,
        promised_by: &[
            docs("tutorials/services/source-ip/#source-ip-for-services-with-type-nodeport"),
            notes("NodePort"),
        ],
        needs: &[Capability::NodesReachable],
        exclusive: false,
        run: |scene| Box::pin(snat(scene)),
    },
    Check {
        id: "traffic-policy/internal-local",
        title: "internalTrafficPolicy Local: the cluster IP leads to pods of the caller's node, or nowhere",
        class: Class::Promise,
        promised_by: &[
            docs("reference/networking/virtual-ips/#internal-traffic-policy"),
            docs("concepts/services-networking/service-traffic-policy/"),
        ],
        needs: &[Capability::SeveralNodes, Capability::Since(22)],
        exclusive: false,
        run: |scene| Box::pin(internal_local(scene)),
    },
    Check {
        id: "traffic-policy/health-check-node-port",
        title: "the health check node port says on every node whether that node has ready pods",
        class: Class::Promise,
        promised_by: &[
            docs("tutorials/services/source-ip/#source-ip-for-services-with-type-loadbalancer"),
            kep("sig-network/1669-proxy-terminating-endpoints"),
        ],
        needs: &[Capability::SeveralNodes, Capability::NodesReachable],
        exclusive: false,
        run: |scene| Box::pin(health_check_node_port(scene)),
    },
    Check {
        id: "traffic-policy/terminating-serve",
        title: "pods that serve while they terminate are the last resort, within policy Local as well",
        class: Class::Promise,
        promised_by: &[
            docs("reference/networking/virtual-ips/#traffic-to-terminating-endpoints"),
            kep("sig-network/1669-proxy-terminating-endpoints"),
        ],
        needs: &[Capability::SeveralNodes, Capability::NodesReachable, Capability::Since(26)],
        exclusive: false,
        run: |scene| Box::pin(terminating_serve(scene)),
    },
    Check {
        id: "traffic-policy/changes-live",
        title: "policy, type and ports of a service may change while it is used",
        class: Class::Promise,
        promised_by: &[
            docs("reference/networking/virtual-ips/#traffic-policies"),
            docs("concepts/services-networking/service/#publishing-services-service-types"),
        ],
        needs: &[Capability::NodesReachable],
        exclusive: false,
        run: |scene| Box::pin(changes_live(scene)),
    },
    Check {
        id: "traffic-policy/internal-local-terminating",
        title: "internalTrafficPolicy Local: a pod of the caller's node that serves while it terminates is the last resort",
        class: Class::Promise,
        promised_by: &[
            docs("reference/networking/virtual-ips/#traffic-to-terminating-endpoints"),
            kep("sig-network/1669-proxy-terminating-endpoints"),
        ],
        needs: &[Capability::SeveralNodes, Capability::Since(26)],
        exclusive: false,
        run: |scene| Box::pin(internal_local_terminating(scene)),
    },
    Check {
        id: "traffic-policy/cluster-terminating",
        title: "externalTrafficPolicy Cluster: at every node, pods that serve while they terminate are the last resort",
        class: Class::Promise,
        promised_by: &[
            docs("reference/networking/virtual-ips/#traffic-to-terminating-endpoints"),
            kep("sig-network/1669-proxy-terminating-endpoints"),
        ],
        needs: &[Capability::Since(26)],
        exclusive: false,
        run: |scene| Box::pin(cluster_terminating(scene)),
    },
    Check {
        id: "traffic-policy/internal-local-host-network",
        title: "internalTrafficPolicy Local: pods in their node's network are of that node as well",
        class: Class::Promise,
        promised_by: &[
            docs("reference/networking/virtual-ips/#internal-traffic-policy"),
            docs("concepts/services-networking/service-traffic-policy/"),
        ],
        needs: &[Capability::HostNetwork, Capability::SeveralNodes, Capability::Since(22)],
        exclusive: false,
        run: |scene| Box::pin(internal_local_host_network(scene)),
    },
    Check {
        id: "traffic-policy/health-check-port-closes",
        title: "nobody answers at the health check port of a service that has none any more, and it may be asked for again",
        class: Class::Promise,
        promised_by: &[docs("reference/kubernetes-api/service-resources/service-v1/#ServiceSpec")],
        needs: &[Capability::NodesReachable],
        exclusive: false,
        run: |scene| Box::pin(health_check_port_closes(scene)),
    },
];

/// "`Local` to only route to ready node-local endpoints", wherever the pods are.
async fn local_only_local(scene: &mut Scene) -> Held {
    scene.given(fixture!("traffic-policy/local.yaml")).await?;
    let outside = scene.vantages().outsides();
    scene.eventually(as_promised(outside.clone(), vec![node_port("local")])).await?;
    scene.always(as_promised(outside.clone(), vec![node_port("local")]).calls(12)).await?;
    scene.when(delete_pods("app=local")).await?;
    scene.pods_become("app=local", 2).await?;
    scene.eventually(as_promised(outside, vec![node_port("local")])).await?;
    // The cluster IP is internal, and leads anywhere.
    scene.eventually(as_promised(scene.inside(), vec![cluster_ip("local")])).await
}

/// "If there are no local endpoints, packets sent to the node are dropped": not refused, so that
/// nobody takes the node for one that knows that the service is down.
async fn local_drops(scene: &mut Scene) -> Held {
    scene.given(fixture!("traffic-policy/one-pod.yaml")).await?;
    let outside = scene.vantages().outsides();
    scene.eventually(as_promised(outside.clone(), vec![node_port("local")])).await?;
    scene.always(as_promised(outside.clone(), vec![node_port("local")])).await?;
    // Pods and nodes are answered at a node that has the pod, and by nobody else at others.
    scene.eventually(as_promised(scene.inside(), vec![node_port("local")]).calls(1)).await?;
    scene.when(scale(Resource::ReplicaSet, "local", 0)).await?;
    scene.pods_become("app=local", 0).await?;
    scene.eventually(as_promised(outside, vec![node_port("local")])).await
}

/// The pod tells which address it was called from.
async fn local_keeps_source(scene: &mut Scene) -> Held {
    scene.given(fixture!("traffic-policy/one-pod.yaml")).await?;
    let outside = scene.vantages().outsides();
    scene.eventually(as_promised(outside.clone(), vec![node_port("local")])).await?;
    scene
        .exactly(that("the pod sees callers from outside at their own addresses", move |scene| {
            Box::pin(async move {
                let mut seen = 0;
                for (own, source) in sources(scene, "local").await? {
                    seen += 1;
                    if own != source {
                        return Ok(Err(format!("a caller from {own} was seen as {source}")));
                    }
                }
                Ok(if seen == 0 { Err("no call was answered".to_owned()) } else { Ok(()) })
            })
        }))
        .await
}

/// The notes: with policy Cluster "the client's IP is lost". The documentation: "packets sent to
/// Services with Type=NodePort are source NAT'd by default".
async fn snat(scene: &mut Scene) -> Held {
    scene.given(fixture!("traffic-policy/cluster.yaml")).await?;
    let outside = scene.vantages().outsides();
    scene.eventually(as_promised(outside, vec![node_port("cluster")])).await?;
    scene
        .exactly(that("the pod sees no caller from outside at its own address", move |scene| {
            Box::pin(async move {
                let sources = sources(scene, "cluster").await?;
                Ok(match sources.iter().find(|(own, source)| own == source) {
                    _ if sources.is_empty() => Err("no call was answered".to_owned()),
                    Some((own, _)) => Err(format!("a caller from {own} was seen as such")),
                    None => Ok(()),
                })
            })
        }))
        .await
}

/// The callers' addresses, and what they were seen as, of calls from outside to every node.
async fn sources(
    scene: &Scene,
    service: &'static str,
) -> anyhow::Result<Vec<(std::net::IpAddr, std::net::IpAddr)>> {
    let object = scene.service(service).await?;
    let port = object.spec.and_then(|spec| spec.ports?.first()?.node_port).context("it has no node port")?;
    let mut sources = Vec::new();
    for (node, ip) in scene.node_addresses().await? {
        let label = format!("`{service}` at {node}");
        let probe = stickler::http((ip, u16::try_from(port)?).into());
        for from in scene.vantages().outsides() {
            for outcome in scene.call(&from, &label, scene.workload(probe.clone(), 3)).await? {
                match outcome.seen {
                    Seen::Answered(answer) => {
                        let own = outcome.from.context("the agent does not say where it called from")?;
                        let source = answer.source.context("the pod does not say who called it")?;
                        sources.push((own.ip(), source.ip()));
                    }
                    Seen::CouldNotLook { error } => anyhow::bail!("{from} could not look: {error}"),
                    _ => {}
                }
            }
        }
    }
    Ok(sources)
}

/// "`Local` to only route to ready node-local endpoints. If the traffic policy is `Local` and there
/// are no node-local endpoints, the kube-proxy does not forward any traffic."
async fn internal_local(scene: &mut Scene) -> Held {
    scene.given(fixture!("traffic-policy/internal.yaml")).await?;
    let inside = scene.inside();
    scene.eventually(as_promised(inside.clone(), vec![cluster_ip("internal")])).await?;
    scene.always(as_promised(inside.clone(), vec![cluster_ip("internal")]).calls(12)).await?;
    // The node port is external, and leads anywhere.
    scene.eventually(as_promised(inside.clone(), vec![node_port("internal")])).await?;
    scene.when(delete_pods("app=internal")).await?;
    scene.pods_become("app=internal", 2).await?;
    scene.eventually(as_promised(inside.clone(), vec![cluster_ip("internal")])).await?;
    scene.when(policy("internal", json!({ "internalTrafficPolicy": "Cluster" }))).await?;
    scene.eventually(as_promised(inside, vec![cluster_ip("internal")])).await
}

fn policy(service: &str, spec: Value) -> stickler::action::Action {
    edit(Resource::Service, service, json!({ "spec": spec }))
}

/// "the health check node port [..] returns 200 on nodes with endpoints", 503 on others, and says how
/// many there are.
async fn health_check_node_port(scene: &mut Scene) -> Held {
    scene.given(fixture!("traffic-policy/health.yaml")).await?;
    scene.control(&scene.vantages().outsides()).await?;
    for replicas in [2, 1, 3, 0] {
        scene.when(scale(Resource::ReplicaSet, "health", replicas)).await?;
        scene.pods_become("app=health", replicas as usize).await?;
        scene
            .eventually(that("every node answers for its own ready pods", |scene| {
                Box::pin(health_is_told(scene, "health"))
            }))
            .await?;
    }
    Ok(())
}

async fn health_is_told(scene: &Scene, service: &str) -> anyhow::Result<Result<(), String>> {
    let spec = scene.service(service).await?.spec.unwrap_or_default();
    let Some(port) = spec.health_check_node_port else {
        return Ok(Err("the service has no health check node port".to_owned()));
    };
    let mut ready: BTreeMap<String, usize> = BTreeMap::new();
    let pods = scene.pods(&format!("app={service}")).await?;
    let stays = |pod: &&Pod| is_ready(pod) && pod.metadata.deletion_timestamp.is_none();
    for pod in pods.iter().filter(stays) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        *ready.entry(node).or_default() += 1;
    }
    for (node, ip) in scene.node_addresses().await? {
        let count = ready.get(&node).copied().unwrap_or_default();
        for from in scene.vantages().outsides() {
            let probe = Probe::Http {
                address: (ip, u16::try_from(port)?).into(),
                host: None,
                path: "/healthz".to_owned(),
                method: None,
                source_port: None,
                reuse_connection: false,
                server_name: None,
                lines: None,
            };
            let label = format!("the health check port {port} of {node}");
            for outcome in scene.call(&from, &label, scene.workload(probe, 1)).await? {
                if let Err(seen) = tells(&outcome.seen, count) {
                    return Ok(Err(format!("{label}, where {count} pods are ready, was {seen}")));
                }
            }
        }
    }
    Ok(Ok(()))
}

/// Is this the answer of a node with so many ready pods?
fn tells(seen: &Seen, count: usize) -> Result<(), String> {
    let Seen::Answered(answer) = seen else { return Err(in_words(seen)) };
    let promised = if count == 0 { 503 } else { 200 };
    let told: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    // The number is kube-proxy's own way to say it, and others need not.
    let counted = told.get("localEndpoints").is_none_or(|told| *told == json!(count));
    if answer.status == Some(promised) && counted {
        return Ok(());
    }
    let status = answer.status.unwrap_or_default();
    Err(format!("answered with {status} instead of {promised}: {}", answer.body))
}

/// "If all the endpoints [..] are terminating, then the kube-proxy will forward traffic to those
/// terminating endpoints", while health check ports already turn new connections away.
async fn terminating_serve(scene: &mut Scene) -> Held {
    scene.given(fixture!("traffic-policy/ending.yaml")).await?;
    let outside = scene.vantages().outsides();
    scene.eventually(as_promised(outside.clone(), vec![node_port("ending")])).await?;
    only_terminating_is_left(scene).await?;
    scene.eventually(as_promised(outside, vec![node_port("ending")])).await?;
    scene.eventually(as_promised(scene.inside(), vec![cluster_ip("ending")])).await?;
    scene
        .eventually(that("no node says that it has ready pods", |scene| {
            Box::pin(health_is_told(scene, "ending"))
        }))
        .await?;
    still_terminating(scene).await
}

/// Tells the only pod behind `ending` to end, and waits until that is known.
async fn only_terminating_is_left(scene: &Scene) -> Held {
    scene.when(scale(Resource::ReplicaSet, "ending", 0)).await?;
    scene
        .eventually(that("the only endpoint serves and terminates", |scene| {
            Box::pin(async move { Ok(only_serves_terminating(&slices_of(scene, "ending").await?)) })
        }))
        .await
}

/// Otherwise what was seen last was nothing special.
async fn still_terminating(scene: &Scene) -> Held {
    only_serves_terminating(&slices_of(scene, "ending").await?)
        .map_err(|seen| Broken::CouldNotTell(format!("the pod ended too early: {seen}")))
}

/// "If there are local endpoints and **all** of them are terminating, then kube-proxy will forward traffic
/// to those terminating endpoints", and on other nodes to none.
async fn internal_local_terminating(scene: &mut Scene) -> Held {
    scene.given(fixture!("traffic-policy/ending.yaml")).await?;
    scene.when(policy("ending", json!({ "internalTrafficPolicy": "Local" }))).await?;
    let inside = scene.inside();
    scene.eventually(as_promised(inside.clone(), vec![cluster_ip("ending")])).await?;
    only_terminating_is_left(scene).await?;
    scene.eventually(as_promised(inside.clone(), vec![cluster_ip("ending")])).await?;
    scene.always(as_promised(inside, vec![cluster_ip("ending")])).await?;
    still_terminating(scene).await
}

/// The same of all endpoints, where all may be chosen.
async fn cluster_terminating(scene: &mut Scene) -> Held {
    scene.given(fixture!("traffic-policy/ending.yaml")).await?;
    scene.when(policy("ending", json!({ "externalTrafficPolicy": "Cluster" }))).await?;
    let everywhere = scene.vantages().everywhere();
    scene.eventually(as_promised(everywhere.clone(), vec![node_port("ending")])).await?;
    only_terminating_is_left(scene).await?;
    scene.eventually(as_promised(everywhere.clone(), vec![node_port("ending")])).await?;
    scene.always(as_promised(everywhere, vec![node_port("ending")])).await?;
    still_terminating(scene).await
}

/// "`Local` to only route to ready node-local endpoints": each node has one, at its own address.
async fn internal_local_host_network(scene: &mut Scene) -> Held {
    scene.given(fixture!("traffic-policy/host-network.yaml")).await?;
    scene.eventually(endpoints_mirror_pods("local")).await?;
    let inside = scene.inside();
    scene.eventually(as_promised(inside.clone(), vec![cluster_ip("local")])).await?;
    scene.always(as_promised(inside.clone(), vec![cluster_ip("local")]).calls(12)).await?;
    scene.when(policy("local", json!({ "internalTrafficPolicy": "Cluster" }))).await?;
    for one in inside {
        scene.eventually(spreads("local", one)).await?;
    }
    Ok(())
}

/// "This field will be wiped when updating a Service to no longer need it (e.g. changing type)"; "If a value
/// is specified, is in-range, and is not in use, it will be used."
async fn health_check_port_closes(scene: &mut Scene) -> Held {
    const PORT: u16 = 30_076;
    scene.given(fixture!("traffic-policy/health-port.yaml")).await?;
    scene.control(&scene.vantages().outsides()).await?;
    let told = || {
        that("every node answers for its own ready pods", |scene: &Scene| {
            Box::pin(health_is_told(scene, "checked"))
        })
    };
    scene.eventually(told()).await?;
    for (change, back) in [
        (json!({ "externalTrafficPolicy": "Cluster" }), json!({ "externalTrafficPolicy": "Local" })),
        (json!({ "type": "NodePort" }), json!({ "type": "LoadBalancer" })),
    ] {
        scene.when(policy("checked", change)).await?;
        let spec = scene.service("checked").await?.spec.unwrap_or_default();
        let port = spec.health_check_node_port.filter(|port| *port != 0);
        scene.same("the health check port of a service that needs none is", &None::<i32>, &port)?;
        scene
            .eventually(that(format!("nobody answers at port {PORT} of a node"), |scene| {
                Box::pin(nobody_answers_at(scene, PORT))
            }))
            .await?;
        let mut again = back;
        again["healthCheckNodePort"] = json!(PORT);
        scene.takes(policy("checked", again)).await?;
        scene.eventually(told()).await?;
    }
    Ok(())
}

/// From outside, at this port of every node.
async fn nobody_answers_at(scene: &Scene, port: u16) -> anyhow::Result<Result<(), String>> {
    for (node, ip) in scene.node_addresses().await? {
        for from in scene.vantages().outsides() {
            let calls = scene.workload(stickler::http((ip, port).into()), 1);
            for outcome in scene.call(&from, &format!("port {port} of {node}"), calls).await? {
                match &outcome.seen {
                    Seen::CouldNotLook { error } => anyhow::bail!("{from} could not look: {error}"),
                    Seen::Answered(answer) => return Ok(Err(format!("{node} answered: {}", answer.body))),
                    _ => {}
                }
            }
        }
    }
    Ok(Ok(()))
}

fn only_serves_terminating(slices: &[EndpointSlice]) -> Result<(), String> {
    let endpoints: Vec<_> = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()).collect();
    let serves = |endpoint: &&Endpoint| {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        (conditions.ready, conditions.serving, conditions.terminating)
            == (Some(false), Some(true), Some(true))
    };
    match endpoints.iter().filter(|endpoint| serves(endpoint)).count() {
        0 => Err(format!("none of {} endpoints does", endpoints.len())),
        some if some < endpoints.len() => Err(format!("only {some} of {} endpoints do", endpoints.len())),
        _ => Ok(()),
    }
}

async fn changes_live(scene: &mut Scene) -> Held {
    scene.given(fixture!("traffic-policy/local.yaml")).await?;
    let outside = scene.vantages().outsides();
    let inside = scene.inside();
    for policy_now in ["Local", "Cluster", "Local"] {
        scene.when(policy("local", json!({ "externalTrafficPolicy": policy_now }))).await?;
        scene.eventually(as_promised(outside.clone(), vec![node_port("local")])).await?;
        scene.always(as_promised(outside.clone(), vec![node_port("local")])).await?;
    }
    // Without node ports, and with them again.
    let plain = json!({ "type": "ClusterIP", "externalTrafficPolicy": null });
    scene.when(policy("local", plain)).await?;
    scene.eventually(as_promised(inside.clone(), vec![cluster_ip("local")])).await?;
    scene.when(policy("local", json!({ "type": "NodePort" }))).await?;
    scene.eventually(as_promised(outside, vec![node_port("local")])).await?;
    // Another port, which is the only one then.
    let ports = json!([{ "port": 81, "targetPort": 8000 }]);
    scene.when(policy("local", json!({ "ports": ports }))).await?;
    scene.eventually(endpoints_mirror_pods("local")).await?;
    scene.eventually(as_promised(inside.clone(), vec![cluster_ip("local")])).await?;
    let old = vec![To::ClusterIpPort("local", 80)];
    scene.eventually(as_promised(inside, old).calls(1)).await
}
