//! External IPs: addresses a service is given by hand.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;
use stickler::action::{Resource, edit};
use stickler::{Capability, Check, Class, Held, Scene, To, as_promised, cluster_ip, docs, fixture};
use stickler_model::Destination;

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "external-ips/served",
        title: "traffic that comes to a node for an external IP and the port of a service is answered by it",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#external-ips")],
        needs: &[],
        // The port is the nodes' own, and a cluster has it once.
        exclusive: true,
        run: |scene| Box::pin(served(scene)),
    },
    Check {
        id: "external-ips/foreign-address",
        title: "pods and nodes reach a service at an external IP that is nobody's address",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#external-ips")],
        // Until then calls from nodes went out to look for it (kubernetes/kubernetes#96296).
        needs: &[Capability::Since(21)],
        exclusive: false,
        run: |scene| Box::pin(foreign_address(scene)),
    },
];

/// "traffic that ingresses into the cluster with the external IP (as destination IP) and the port
/// matching that Service"; the nodes' own addresses are certain to come to them.
async fn served(scene: &mut Scene) -> Held {
    const PORT: u16 = 8085;
    scene.given(fixture!("external-ips/external.yaml")).await?;
    scene.eventually(as_promised(scene.inside(), vec![cluster_ip("external")])).await?;
    let nodes = scene.node_addresses().await?;
    let ips: Vec<String> = nodes.iter().map(|(_, ip)| ip.to_string()).collect();
    let given = |ips: &[String]| edit(Resource::Service, "external", json!({"spec": {"externalIPs": ips}}));
    scene.when(given(&ips)).await?;
    let at = |(node, ip): &(String, IpAddr)| {
        To::Address(format!("the external IP of `external` at {node}"), Destination::tcp(*ip, PORT))
    };
    let all: Vec<To> = nodes.iter().map(at).collect();
    let everywhere = scene.vantages().everywhere();
    scene.eventually(as_promised(everywhere.clone(), all.clone())).await?;
    scene.always(as_promised(everywhere.clone(), all)).await?;
    // Only at the addresses it has.
    scene.when(given(&ips[..1])).await?;
    scene.eventually(as_promised(everywhere, nodes[..1].iter().map(at).collect())).await
}

/// What starts in the cluster has come to a node: "rules and routes that Kubernetes has configured ensure that
/// the traffic is routed to one of the endpoints for that Service". The address is of a network for
/// documentation (RFC 5737), and is called only while the service has it.
async fn foreign_address(scene: &mut Scene) -> Held {
    const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 85));
    scene.given(fixture!("external-ips/external.yaml")).await?;
    let inside = scene.inside();
    scene.eventually(as_promised(inside.clone(), vec![cluster_ip("external")])).await?;
    let given = edit(Resource::Service, "external", json!({ "spec": { "externalIPs": [IP] } }));
    scene.when(given).await?;
    let foreign =
        || vec![To::Address("the external IP of `external`".to_owned(), Destination::tcp(IP, 8085))];
    scene.eventually(as_promised(inside.clone(), foreign())).await?;
    scene.always(as_promised(inside, foreign())).await
}
