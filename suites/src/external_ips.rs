//! External IPs: addresses a service is given by hand.

use serde_json::json;
use stickler::action::{Resource, edit};
use stickler::{Check, Class, Held, Scene, To, as_promised, cluster_ip, docs, fixture};
use stickler_model::Destination;

pub(crate) const CHECKS: &[Check] = &[Check {
    id: "external-ips/served",
    title: "traffic that comes to a node for an external IP and the port of a service is answered by it",
    class: Class::Promise,
    promised_by: &[docs("concepts/services-networking/service/#external-ips")],
    needs: &[],
    // The port is the nodes' own, and a cluster has it once.
    exclusive: true,
    run: |scene| Box::pin(served(scene)),
}];

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
    let at = |(node, ip): &(String, std::net::IpAddr)| {
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
