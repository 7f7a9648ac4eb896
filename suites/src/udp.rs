//! UDP: a client that keeps its port is one flow for as long as it sends, and everything about its
//! service may change meanwhile.

use std::net::SocketAddr;

use serde_json::{Value, json};
use stickler::action::{Resource, delete, delete_pods, edit};
use stickler::protocol::{Probe, Seen};
use stickler::{
    Capability, Check, Class, Held, Scene, To, as_promised, cluster_ip, docs, endpoints_mirror_pods, fixture,
    in_words, node_port, that,
};
use stickler_model::{Destination, Protocol};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "udp/deleted-service-stops",
        title: "a UDP client that keeps its port is not answered any more once the service is deleted",
        class: Class::Promise,
        promised_by: &[
            docs("reference/networking/service-protocols/#protocol-udp"),
            docs("reference/networking/virtual-ips/"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(deleted_service_stops(scene)),
    },
    Check {
        id: "udp/target-port-changes",
        title: "a UDP client that keeps its port reaches the target port of now",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#field-spec-ports"),
            docs("reference/networking/service-protocols/#protocol-udp"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(target_port_changes(scene)),
    },
    Check {
        id: "udp/port-renumbered",
        title: "a UDP client that keeps its port is answered at the service's new port, not at the old one",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#defining-a-service"),
            docs("reference/networking/service-protocols/#protocol-udp"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(port_renumbered(scene)),
    },
    Check {
        id: "udp/node-port-endpoint-replaced",
        title: "a UDP client outside that keeps its port reaches the pods of now at every node",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#type-nodeport"),
            docs("reference/networking/service-protocols/#protocol-udp"),
        ],
        needs: &[Capability::NodesReachable],
        exclusive: false,
        run: |scene| Box::pin(node_port_endpoint_replaced(scene)),
    },
    Check {
        id: "udp/node-port-closed",
        title: "a UDP client outside that keeps its port is not answered any more once the node port is gone",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#type-nodeport"),
            docs("reference/networking/service-protocols/#protocol-udp"),
        ],
        needs: &[Capability::NodesReachable],
        exclusive: false,
        run: |scene| Box::pin(node_port_closed(scene)),
    },
    Check {
        id: "udp/internal-local-endpoint-replaced",
        title: "internalTrafficPolicy Local: a UDP client that keeps its port reaches its node's pods of now",
        class: Class::Promise,
        promised_by: &[
            docs("reference/networking/virtual-ips/#internal-traffic-policy"),
            docs("reference/networking/service-protocols/#protocol-udp"),
        ],
        needs: &[Capability::SeveralNodes, Capability::Since(22)],
        exclusive: false,
        run: |scene| Box::pin(internal_local_endpoint_replaced(scene)),
    },
];

/// Who knows that a service is gone must not be sent to its pods; its address may be another's soon.
async fn deleted_service_stops(scene: &mut Scene) -> Held {
    const PORT: u16 = 26_101;
    scene.given(fixture!("udp/flow.yaml")).await?;
    let from = scene.inside();
    let flow = as_promised(from.clone(), vec![cluster_ip("flow")]).with_source_port(PORT);
    scene.eventually(flow).await?;
    let ip = scene.cluster_ip("flow").await?;
    let gone = To::Address("the deleted `flow`".to_owned(), Destination::new(ip, 80, Protocol::Udp));
    scene
        .while_sending(&from, cluster_ip("flow"), PORT, async |scene: &Scene| {
            scene.when(delete(Resource::Service, "flow")).await
        })
        .await?;
    let nobody = || as_promised(from.clone(), vec![gone.clone()]).with_source_port(PORT);
    scene.eventually(nobody()).await?;
    scene.always(nobody()).await
}

async fn target_port_changes(scene: &mut Scene) -> Held {
    const PORT: u16 = 26_201;
    scene.given(fixture!("udp/flow.yaml")).await?;
    let from = scene.inside();
    let flow = || as_promised(from.clone(), vec![cluster_ip("flow")]).with_source_port(PORT);
    scene.eventually(flow()).await?;
    scene
        .while_sending(&from, cluster_ip("flow"), PORT, async |scene: &Scene| {
            ports(scene, json!([{ "port": 80, "targetPort": 9000, "protocol": "UDP" }])).await
        })
        .await?;
    scene.eventually(endpoints_mirror_pods("flow")).await?;
    let address = SocketAddr::new(scene.cluster_ip("flow").await?, 80);
    scene
        .eventually(that("datagrams to `flow` arrive at port 9000 of its pod", |scene| {
            Box::pin(arrive_at(scene, address, PORT, 9000))
        }))
        .await?;
    scene.always(flow()).await
}

/// Do all datagrams from this port arrive at that port of a pod?
async fn arrive_at(
    scene: &Scene,
    address: SocketAddr,
    source_port: u16,
    target: u16,
) -> anyhow::Result<Result<(), String>> {
    for vantage in &scene.inside() {
        let probe = Probe::Udp {
            address,
            payload: "{index}".to_owned(),
            source_port: Some(source_port),
            keep_socket: true,
        };
        let workload = stickler::protocol::Workload { concurrency: 1, ..scene.workload(probe, 3) };
        for outcome in scene.call(vantage, &address.to_string(), workload).await? {
            match outcome.seen {
                Seen::Answered(answer) if answer.port == Some(target) => {}
                Seen::Answered(answer) => {
                    return Ok(Err(format!("from {vantage} they arrived at port {:?}", answer.port)));
                }
                Seen::CouldNotLook { error } => anyhow::bail!("{vantage} could not look: {error}"),
                other => return Ok(Err(format!("from {vantage} one was {}", in_words(&other)))),
            }
        }
    }
    Ok(Ok(()))
}

async fn port_renumbered(scene: &mut Scene) -> Held {
    const PORT: u16 = 26_301;
    scene.given(fixture!("udp/flow.yaml")).await?;
    let from = scene.inside();
    let flow = || as_promised(from.clone(), vec![cluster_ip("flow")]).with_source_port(PORT);
    scene.eventually(flow()).await?;
    let ip = scene.cluster_ip("flow").await?;
    scene
        .while_sending(&from, cluster_ip("flow"), PORT, async |scene: &Scene| {
            ports(scene, json!([{ "port": 81, "targetPort": 8000, "protocol": "UDP" }])).await
        })
        .await?;
    let old = To::Address("the old port of `flow`".to_owned(), Destination::new(ip, 80, Protocol::Udp));
    let nobody = || as_promised(from.clone(), vec![old.clone()]).with_source_port(PORT);
    scene.eventually(flow()).await?;
    scene.eventually(nobody()).await?;
    scene.always(nobody()).await
}

async fn node_port_endpoint_replaced(scene: &mut Scene) -> Held {
    const PORT: u16 = 26_401;
    scene.given(fixture!("udp/flow.yaml")).await?;
    let from = scene.vantages().outsides();
    let flow = || as_promised(from.clone(), vec![node_port("flow")]).with_source_port(PORT);
    scene.eventually(flow()).await?;
    // The pod of before lives on, and would answer.
    scene
        .while_sending(&from, node_port("flow"), PORT, async |scene: &Scene| selects(scene, "green").await)
        .await?;
    scene.eventually(endpoints_mirror_pods("flow")).await?;
    scene.eventually(flow()).await?;
    scene.always(flow()).await?;
    // The pod of before is gone, and nobody would answer.
    scene
        .while_sending(&from, node_port("flow"), PORT, async |scene: &Scene| {
            scene.when(delete_pods("colour=green")).await?;
            scene.pods_become("colour=green", 1).await?;
            Ok(())
        })
        .await?;
    scene.eventually(endpoints_mirror_pods("flow")).await?;
    scene.eventually(flow()).await?;
    scene.always(flow()).await
}

async fn node_port_closed(scene: &mut Scene) -> Held {
    const PORT: u16 = 26_501;
    scene.given(fixture!("udp/flow.yaml")).await?;
    // Nobody else is given it when it is free again.
    let fixed = json!([{ "port": 80, "targetPort": 8000, "protocol": "UDP", "nodePort": 30_071 }]);
    ports(scene, fixed).await?;
    let from = scene.vantages().outsides();
    scene.eventually(as_promised(from.clone(), vec![node_port("flow")]).with_source_port(PORT)).await?;
    let closed = crate::node_port::addresses(scene, "flow").await?;
    scene
        .while_sending(&from, node_port("flow"), PORT, async |scene: &Scene| {
            let ports = json!([{ "port": 80, "targetPort": 8000, "protocol": "UDP" }]);
            let spec = json!({ "type": "ClusterIP", "ports": ports });
            scene.when(edit(Resource::Service, "flow", json!({ "spec": spec }))).await
        })
        .await?;
    let nobody = || as_promised(from.clone(), closed.clone()).with_source_port(PORT);
    scene.eventually(nobody()).await?;
    scene.always(nobody()).await?;
    // Inside it is served as ever.
    scene.eventually(as_promised(scene.inside(), vec![cluster_ip("flow")])).await
}

async fn internal_local_endpoint_replaced(scene: &mut Scene) -> Held {
    const PORT: u16 = 26_601;
    scene.given(fixture!("udp/flow.yaml")).await?;
    let local = json!({ "spec": { "internalTrafficPolicy": "Local" } });
    scene.when(edit(Resource::Service, "flow", local)).await?;
    let from = scene.inside();
    // Where a flow leads that began before the policy was everywhere, nobody promises.
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("flow")])).await?;
    let flow = || as_promised(from.clone(), vec![cluster_ip("flow")]).with_source_port(PORT);
    scene.eventually(flow()).await?;
    for colour in ["green", "blue"] {
        scene
            .while_sending(&from, cluster_ip("flow"), PORT, async |scene: &Scene| {
                selects(scene, colour).await
            })
            .await?;
        scene.eventually(endpoints_mirror_pods("flow")).await?;
        scene.eventually(flow()).await?;
        scene.always(flow()).await?;
    }
    Ok(())
}

/// Turns the service `flow` to the pods of a colour.
async fn selects(scene: &Scene, colour: &str) -> Result<(), stickler::Broken> {
    scene.when(edit(Resource::Service, "flow", json!({ "spec": { "selector": { "colour": colour } } }))).await
}

async fn ports(scene: &Scene, ports: Value) -> Result<(), stickler::Broken> {
    scene.when(edit(Resource::Service, "flow", json!({ "spec": { "ports": ports } }))).await
}
