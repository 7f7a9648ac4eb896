//! UDP: a client that keeps its port is one flow for as long as it sends, and everything about its
//! service may change meanwhile.

use std::net::SocketAddr;

use anyhow::Context as _;
use serde_json::{Value, json};
use stickler::action::{Resource, delete, delete_pods, edit, make};
use stickler::protocol::{Probe, Seen};
use stickler::{
    Capability, Check, Class, Held, Scene, To, Vantage, as_promised, cluster_ip, docs, endpoints_mirror_pods,
    fixture, in_words, node_port, that,
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
    Check {
        id: "udp/unready-becomes-ready",
        title: "a UDP client that sent while the only pod was not ready reaches it once it is",
        class: Class::Promise,
        promised_by: &[
            docs("reference/networking/service-protocols/#protocol-udp"),
            docs("concepts/workloads/pods/probes/#readiness-probe"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(unready_becomes_ready(scene)),
    },
    Check {
        id: "udp/node-port-target-changes",
        title: "a UDP client outside that keeps its port reaches the target port of now at every node",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#field-spec-ports"),
            docs("concepts/services-networking/service/#type-nodeport"),
        ],
        needs: &[Capability::NodesReachable],
        exclusive: false,
        run: |scene| Box::pin(node_port_target_changes(scene)),
    },
    Check {
        id: "udp/address-reused",
        title: "a UDP client that keeps its port reaches the pods of the service that has the address now",
        class: Class::Promise,
        promised_by: &[
            docs("reference/networking/service-protocols/#protocol-udp"),
            docs("concepts/services-networking/service/#choosing-your-own-ip-address"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(address_reused(scene)),
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
    scene.eventually(arriving_at(from.clone(), vec![address], PORT, 9000)).await?;
    scene.always(flow()).await
}

/// As [`target_port_changes`], of calls to nodes.
async fn node_port_target_changes(scene: &mut Scene) -> Held {
    const PORT: u16 = 26_701;
    scene.given(fixture!("udp/flow.yaml")).await?;
    let from = scene.vantages().outsides();
    let flow = || as_promised(from.clone(), vec![node_port("flow")]).with_source_port(PORT);
    scene.eventually(flow()).await?;
    let spec = scene.service("flow").await?.spec;
    let number = spec.and_then(|spec| spec.ports?.first()?.node_port).context("it has no node port")?;
    scene
        .while_sending(&from, node_port("flow"), PORT, async |scene: &Scene| {
            let port = json!({ "port": 80, "targetPort": 9000, "protocol": "UDP", "nodePort": number });
            ports(scene, json!([port])).await
        })
        .await?;
    scene.eventually(endpoints_mirror_pods("flow")).await?;
    let number = u16::try_from(number).context("the node port")?;
    let nodes = scene.node_addresses().await?;
    let addresses = nodes.iter().map(|(_, ip)| SocketAddr::new(*ip, number)).collect();
    scene.eventually(arriving_at(from.clone(), addresses, PORT, 9000)).await?;
    scene.always(flow()).await
}

/// While a client sends, the only pod becomes ready: what was refused until then is answered.
async fn unready_becomes_ready(scene: &mut Scene) -> Held {
    const PORT: u16 = 26_801;
    scene.given_running(fixture!("udp/gated.yaml")).await?;
    let from = scene.inside();
    let flow = || as_promised(from.clone(), vec![cluster_ip("gated")]).with_source_port(PORT);
    scene.eventually(flow()).await?;
    scene
        .while_sending(&from, cluster_ip("gated"), PORT, async |scene: &Scene| {
            scene.set_gate("gated", true).await?;
            scene.becomes("gated", true).await
        })
        .await?;
    scene.eventually(endpoints_mirror_pods("gated")).await?;
    scene.eventually(flow()).await?;
    scene.always(flow()).await
}

/// "You can specify your own cluster IP address": whose it was before is nothing to those who call now.
async fn address_reused(scene: &mut Scene) -> Held {
    const PORT: u16 = 26_901;
    scene.given(fixture!("udp/flow.yaml")).await?;
    let from = scene.inside();
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("flow")]).with_source_port(PORT)).await?;
    let ip = scene.cluster_ip("flow").await?;
    scene
        .while_sending(&from, cluster_ip("flow"), PORT, async |scene: &Scene| {
            scene.when(delete(Resource::Service, "flow")).await?;
            let ports = json!([{ "port": 80, "targetPort": 8000, "protocol": "UDP" }]);
            let spec = json!({ "clusterIP": ip, "selector": { "colour": "green" }, "ports": ports });
            scene
                .when(make(Resource::Service, json!({ "metadata": { "name": "heir" }, "spec": spec })))
                .await?;
            scene.eventually(endpoints_mirror_pods("heir")).await
        })
        .await?;
    let flow = || as_promised(from.clone(), vec![cluster_ip("heir")]).with_source_port(PORT);
    scene.eventually(flow()).await?;
    scene.always(flow()).await
}

/// All datagrams from a port arrive at one port of pods; to several addresses, each is sent from a port of its
/// own, counted from this one, as by [`stickler::AsPromised::with_source_port`].
fn arriving_at(
    from: Vec<Vantage>,
    addresses: Vec<SocketAddr>,
    source_port: u16,
    target: u16,
) -> impl stickler::Invariant {
    that(format!("datagrams arrive at port {target} of pods"), move |scene: &Scene| {
        let (from, addresses) = (from.clone(), addresses.clone());
        Box::pin(async move {
            for vantage in &from {
                for (port, address) in (source_port..).zip(&addresses) {
                    if let Err(seen) = arrive_at(scene, vantage, *address, port, target).await? {
                        return Ok(Err(seen));
                    }
                }
            }
            Ok(Ok(()))
        })
    })
}

async fn arrive_at(
    scene: &Scene,
    vantage: &Vantage,
    address: SocketAddr,
    source_port: u16,
    target: u16,
) -> anyhow::Result<Result<(), String>> {
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
