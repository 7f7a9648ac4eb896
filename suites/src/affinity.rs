//! Session affinity: which endpoint a returning client gets.

use anyhow::Context as _;
use stickler::action::{Resource, create, edit};
use stickler::protocol::Seen;
use stickler::{
    Check, Class, Held, Scene, To, as_promised, cluster_ip, docs, endpoints_mirror_pods, fixture, node_port,
    spreads, spreads_at, sticks, that,
};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "affinity/default-none",
        title: "sessionAffinity defaults to None, and connections spread",
        class: Class::Promise,
        promised_by: &[docs("reference/networking/virtual-ips/#session-affinity")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(default_none(scene)),
    },
    Check {
        id: "affinity/client-ip",
        title: "with ClientIP affinity, one client reaches one endpoint each time",
        class: Class::Promise,
        promised_by: &[docs("reference/networking/virtual-ips/#session-affinity")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(client_ip(scene)),
    },
    Check {
        id: "affinity/timeout",
        title: "the timeout defaults to 10800 s and may be 1 to 86400",
        class: Class::Promise,
        promised_by: &[docs("reference/networking/virtual-ips/#session-stickiness-timeout")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(timeout(scene)),
    },
    Check {
        id: "affinity/only-two-kinds",
        title: "only None and ClientIP exist, no cookies",
        class: Class::Promise,
        promised_by: &[docs("reference/kubernetes-api/service-resources/service-v1/#ServiceSpec")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(only_two_kinds(scene)),
    },
    Check {
        id: "affinity/layer-4",
        title: "services handle TCP and UDP and do not look inside: two cookies from one client reach one pod",
        class: Class::Promise,
        promised_by: &[docs("reference/networking/virtual-ips/#session-affinity")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(layer_4(scene)),
    },
    Check {
        id: "affinity/node-port",
        title: "with ClientIP affinity, one client of a node's port reaches one endpoint each time",
        class: Class::Promise,
        promised_by: &[
            docs("reference/networking/virtual-ips/#session-affinity"),
            docs("concepts/services-networking/service/#type-nodeport"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(at_node_ports(scene)),
    },
    Check {
        id: "affinity/leaves-unready",
        title: "a client with affinity goes to another endpoint when its own is not ready any more",
        class: Class::Promise,
        promised_by: &[
            docs("reference/networking/virtual-ips/#session-affinity"),
            docs("concepts/workloads/pods/probes/#readiness-probe"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(leaves_unready(scene)),
    },
];

async fn default_none(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/web.yaml")).await?;
    let affinity = scene.service("web").await?.spec.and_then(|spec| spec.session_affinity);
    scene.same("sessionAffinity is", &Some("None".to_owned()), &affinity)?;
    let from = scene.inside().into_iter().next().context("there is no place to look from")?;
    scene.eventually(spreads("web", from)).await
}

/// "connections from a particular client are passed to the same Pod each time": per destination,
/// and at node ports per node asked; never promised across them.
async fn client_ip(scene: &mut Scene) -> Held {
    scene.given(fixture!("affinity/client-ip.yaml")).await?;
    let from = scene.inside();
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("sticky")])).await?;
    scene.exactly(sticks(from.clone(), cluster_ip("sticky"))).await?;
    // It is switched off and on again on a living service.
    scene
        .when(edit(Resource::Service, "sticky", serde_json::json!({ "spec": { "sessionAffinity": "None" } })))
        .await?;
    let one = from.first().cloned().context("there is no place to look from")?;
    scene.eventually(spreads("sticky", one)).await?;
    let again = serde_json::json!({ "spec": { "sessionAffinity": "ClientIP" } });
    scene.when(edit(Resource::Service, "sticky", again)).await?;
    scene.eventually(sticks(from.clone(), cluster_ip("sticky"))).await?;
    scene.exactly(sticks(from, cluster_ip("sticky"))).await
}

/// As [`client_ip`], of calls to nodes: each node knows its own clients.
async fn at_node_ports(scene: &mut Scene) -> Held {
    scene.given(fixture!("affinity/client-ip.yaml")).await?;
    let from = scene.vantages().everywhere();
    scene.eventually(as_promised(from.clone(), vec![node_port("sticky")])).await?;
    scene.exactly(sticks(from.clone(), node_port("sticky"))).await?;
    let affinity = |kind: &str| {
        edit(Resource::Service, "sticky", serde_json::json!({"spec": {"sessionAffinity": kind}}))
    };
    scene.when(affinity("None")).await?;
    let one = from.last().cloned().context("there is no place to look from")?;
    scene.eventually(spreads_at(node_port("sticky"), one)).await?;
    scene.when(affinity("ClientIP")).await?;
    scene.eventually(sticks(from.clone(), node_port("sticky"))).await?;
    scene.exactly(sticks(from, node_port("sticky"))).await
}

/// "If the readiness probe fails, the EndpointSlice controller removes the Pod's IP address": a client that
/// was passed to it each time is passed to one of those that are left.
async fn leaves_unready(scene: &mut Scene) -> Held {
    scene.given_running(fixture!("affinity/gated.yaml")).await?;
    let from = scene.inside();
    // Everybody is led to the first, and then, though it is known, to the other.
    for (pod, ready) in
        [("gated-0", true), ("gated-1", true), ("gated-0", false), ("gated-0", true), ("gated-1", false)]
    {
        scene.set_gate(pod, ready).await?;
        scene.becomes(pod, ready).await?;
        scene.eventually(endpoints_mirror_pods("gated")).await?;
        scene.eventually(sticks(from.clone(), cluster_ip("gated"))).await?;
        scene.exactly(sticks(from.clone(), cluster_ip("gated"))).await?;
    }
    scene.always(as_promised(from, vec![cluster_ip("gated")])).await
}

async fn timeout(scene: &mut Scene) -> Held {
    scene.when(create(fixture!("affinity/client-ip.yaml"))).await?;
    let config = scene.service("sticky").await?.spec.and_then(|spec| spec.session_affinity_config);
    let seconds = config.and_then(|config| config.client_ip).and_then(|client| client.timeout_seconds);
    scene.same("the default timeout in seconds is", &Some(10800), &seconds)?;
    let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    scene.refused(fixture!("affinity/timeout-0.yaml"), 422, "Invalid", field).await?;
    scene.refused(fixture!("affinity/timeout-86401.yaml"), 422, "Invalid", field).await
}

async fn only_two_kinds(scene: &mut Scene) -> Held {
    scene.refused(fixture!("affinity/cookie.yaml"), 422, "NotSupported", "spec.sessionAffinity").await
}

async fn layer_4(scene: &mut Scene) -> Held {
    scene.given(fixture!("affinity/layer-4.yaml")).await?;
    let from = scene.vantages().pods();
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("sticky")])).await?;
    scene
        .exactly(that("requests for two hosts from one client reach the same pod", |scene| {
            Box::pin(async move {
                let address = (scene.cluster_ip("sticky").await?, 80).into();
                for from in scene.vantages().pods() {
                    let mut pods = std::collections::BTreeSet::new();
                    for host in ["one.example", "two.example", "three.example"] {
                        let probe = stickler::http_with_host(address, host);
                        for outcome in scene.call(&from, host, scene.workload(probe, 7)).await? {
                            match outcome.seen {
                                Seen::Answered(answer) => pods.extend(answer.hostname),
                                other => {
                                    return Ok(Err(format!("from {from}: {}", stickler::in_words(&other))));
                                }
                            }
                        }
                    }
                    if pods.len() != 1 {
                        return Ok(Err(format!("from {from} they reached {pods:?}")));
                    }
                }
                Ok(Ok(()))
            })
        }))
        .await?;
    // One client, one destination: UDP sticks as TCP does.
    scene.exactly(sticks(from, To::ClusterIp("sticky"))).await
}
