//! Node ports: the same port on every node.

use serde_json::json;
use stickler::action::{Resource, create, edit, scale};
use stickler::{
    Capability, Check, Class, Held, Scene, To, as_promised, cluster_ip, docs, fixture, node_port, spreads_at,
};
use stickler_model::{Destination, Protocol};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "node-port/every-node",
        title: "every node opens the same port and forwards it to the service",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#type-nodeport")],
        needs: &[Capability::SeveralNodes],
        // A cluster has a port once. This one is of the band that random ports are not taken from
        // while others are free (KEP-3668), unlike the notes' 31234.
        exclusive: true,
        run: |scene| Box::pin(every_node(scene)),
    },
    Check {
        id: "node-port/from-outside",
        title: "a host outside the cluster reaches the service at every node's address",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#type-nodeport")],
        needs: &[Capability::NodesReachable],
        exclusive: false,
        run: |scene| Box::pin(from_outside(scene)),
    },
    Check {
        id: "node-port/cluster-ip-too",
        title: "a node port service also has its cluster IP and port",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#publishing-services-service-types")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(cluster_ip_too(scene)),
    },
    Check {
        id: "node-port/refused-without-endpoints",
        title: "a node port without endpoints is refused on every node",
        class: Class::Promise,
        promised_by: &[docs("reference/networking/virtual-ips/")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(refused_without_endpoints(scene)),
    },
    Check {
        id: "node-port/same-number-tcp-udp",
        title: "a service with one port number for TCP and UDP is reached by both at its node ports",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#type-nodeport"),
            docs("reference/networking/service-protocols/"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(same_number_tcp_udp(scene)),
    },
    Check {
        id: "node-port/spreads",
        title: "connections to every node's port, TCP and UDP, are routed to any of the ready pods",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#type-nodeport"),
            docs("reference/networking/virtual-ips/"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(spreads_connections(scene)),
    },
];

/// The node ports of a service on every node, as they are now.
pub(crate) async fn addresses(scene: &Scene, service: &str) -> anyhow::Result<Vec<To>> {
    let spec = scene.service(service).await?.spec.unwrap_or_default();
    let mut addresses = Vec::new();
    for (node, ip) in scene.node_addresses().await? {
        for port in spec.ports.iter().flatten() {
            let protocol: Protocol = port.protocol.as_deref().unwrap_or("TCP").parse()?;
            let number = u16::try_from(port.node_port.unwrap_or_default())?;
            let label = format!("the node port that `{service}` had at {node}");
            addresses.push(To::Address(label, Destination::new(ip, number, protocol)));
        }
    }
    Ok(addresses)
}

/// "Every node in the cluster configures itself to listen on that assigned port and to forward
/// traffic to one of the ready endpoints associated with that Service"
async fn every_node(scene: &mut Scene) -> Held {
    scene.given(fixture!("notes/goweb-rs.yaml")).await?;
    scene.when(create(fixture!("node-port/fixed.yaml"))).await?;
    let service = scene.service("goweb-nodeport").await?;
    let port = service.spec.and_then(|spec| spec.ports?.first()?.node_port);
    scene.same("the node port asked for is the one that is given", &Some(30080), &port)?;
    let from = scene.vantages().everywhere();
    scene.eventually(as_promised(from.clone(), vec![node_port("goweb-nodeport")])).await?;
    scene.always(as_promised(from, vec![node_port("goweb-nodeport")])).await
}

async fn from_outside(scene: &mut Scene) -> Held {
    scene.given(fixture!("node-port/web.yaml")).await?;
    let from = scene.vantages().outsides();
    scene.eventually(as_promised(from.clone(), vec![node_port("web")])).await?;
    scene.when(scale(Resource::ReplicaSet, "web", 1)).await?;
    scene.pods_become("app=web", 1).await?;
    // One pod on one node: the others forward.
    scene.eventually(as_promised(from.clone(), vec![node_port("web")])).await?;
    scene.always(as_promised(from, vec![node_port("web")])).await
}

/// "To make the node port available, Kubernetes sets up a cluster IP address, the same as if you
/// had requested a Service of `type: ClusterIP`"
async fn cluster_ip_too(scene: &mut Scene) -> Held {
    scene.given(fixture!("node-port/web.yaml")).await?;
    let from = scene.inside();
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("web"), node_port("web")])).await?;
    scene.always(as_promised(from, vec![cluster_ip("web")])).await
}

async fn refused_without_endpoints(scene: &mut Scene) -> Held {
    scene.given(fixture!("node-port/web.yaml")).await?;
    let from = scene.vantages().everywhere();
    scene.eventually(as_promised(from.clone(), vec![node_port("web")])).await?;
    scene.when(scale(Resource::ReplicaSet, "web", 0)).await?;
    scene.pods_become("app=web", 0).await?;
    scene.eventually(as_promised(from, vec![node_port("web")])).await
}

/// "Every node in the cluster configures itself to listen on that assigned port", for each protocol.
async fn same_number_tcp_udp(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/udp.yaml")).await?;
    scene.when(edit(Resource::Service, "udp", json!({ "spec": { "type": "NodePort" } }))).await?;
    let everywhere = scene.vantages().everywhere();
    scene.eventually(as_promised(everywhere.clone(), vec![node_port("udp")])).await?;
    scene.eventually(as_promised(scene.inside(), vec![cluster_ip("udp")])).await?;
    scene.always(as_promised(everywhere, vec![node_port("udp")])).await
}

/// "to forward traffic to one of the ready endpoints associated with that Service": wherever they are.
async fn spreads_connections(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/udp.yaml")).await?;
    scene.when(edit(Resource::Service, "udp", json!({ "spec": { "type": "NodePort" } }))).await?;
    let vantages = scene.vantages();
    let first_of_each = [vantages.pods(), vantages.hosts(), vantages.outsides()];
    for from in first_of_each.into_iter().filter_map(|of_a_kind| of_a_kind.into_iter().next()) {
        scene.eventually(spreads_at(node_port("udp"), from)).await?;
    }
    Ok(())
}
