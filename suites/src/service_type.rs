//! Service types: what a service has, and how it is reached, when its type changes while it lives.

use anyhow::Context as _;
use serde_json::{Value, json};
use stickler::action::{Resource, edit};
use stickler::{
    Check, Class, Held, Scene, To, as_promised, cluster_ip, docs, fixture, node_port, resolve_as_promised,
};
use stickler_model::{Destination, RecordType};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "service-type/to-external-name-and-back",
        title: "a service that becomes an ExternalName gives its cluster IP back, and gets one when it returns",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#externalname"),
            docs("reference/kubernetes-api/service-resources/service-v1/#ServiceSpec"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(to_external_name_and_back(scene)),
    },
    Check {
        id: "service-type/external-name-to-node-port",
        title: "an ExternalName that becomes a NodePort is reached at its cluster IP and on every node",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#publishing-services-service-types")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(external_name_to_node_port(scene)),
    },
    Check {
        id: "service-type/node-port-and-back",
        title: "a service that is a NodePort no more is not reached at its node port, and else as before",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#type-nodeport")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(node_port_and_back(scene)),
    },
    Check {
        id: "service-type/load-balancer-and-back",
        title: "a NodePort that becomes a LoadBalancer keeps its port, and what the type added goes with it",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#loadbalancer"),
            docs("reference/kubernetes-api/service-resources/service-v1/#ServiceSpec"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(load_balancer_and_back(scene)),
    },
];

/// A type is the whole of how a service is reached: "`type` [..] ExternalName maps the Service to the
/// contents of the `externalName` field"; "the mapping configures your cluster's DNS server".
async fn to_external_name_and_back(scene: &mut Scene) -> Held {
    scene.given(fixture!("service-type/web.yaml")).await?;
    let (inside, pods) = (scene.inside(), scene.vantages().pods());
    scene.eventually(as_promised(inside.clone(), vec![cluster_ip("web")])).await?;
    let name = format!("web.{}.svc.cluster.local", scene.namespace());
    let resolved = |kind| resolve_as_promised(pods.clone(), kind, vec![name.clone()]);
    scene.eventually(resolved(RecordType::A)).await?;
    for _ in 0..2 {
        let ip = scene.cluster_ip("web").await?;
        let given_up = To::Address("the cluster IP that `web` had".to_owned(), Destination::tcp(ip, 80));
        becomes(scene, "web", json!({ "type": "ExternalName", "externalName": "www.example.com" })).await?;
        let spec = scene.service("web").await?.spec.unwrap_or_default();
        scene.same("the cluster IP is", "", spec.cluster_ip.as_deref().unwrap_or_default())?;
        scene.eventually(as_promised(inside.clone(), vec![given_up])).await?;
        scene.eventually(resolved(RecordType::Cname)).await?;
        becomes(scene, "web", json!({ "type": "ClusterIP", "externalName": null })).await?;
        scene.eventually(as_promised(inside.clone(), vec![cluster_ip("web")])).await?;
        scene.eventually(resolved(RecordType::A)).await?;
    }
    scene.always(as_promised(inside, vec![cluster_ip("web")])).await
}

async fn external_name_to_node_port(scene: &mut Scene) -> Held {
    scene.given(fixture!("service-type/web.yaml")).await?;
    let spec = json!({
        "type": "NodePort", "externalName": null, "selector": { "app": "web" }, "ports": ports(Some(30_072)),
    });
    becomes(scene, "alias", spec).await?;
    let everywhere = scene.vantages().everywhere();
    scene.eventually(as_promised(everywhere.clone(), vec![node_port("alias")])).await?;
    scene.eventually(as_promised(scene.inside(), vec![cluster_ip("alias")])).await?;
    // And back: nobody answers where it was.
    let closed = crate::node_port::addresses(scene, "alias").await?;
    let name = json!({ "type": "ExternalName", "externalName": "www.example.com", "ports": ports(None) });
    becomes(scene, "alias", name).await?;
    scene.eventually(as_promised(everywhere, closed)).await
}

async fn node_port_and_back(scene: &mut Scene) -> Held {
    scene.given(fixture!("service-type/web.yaml")).await?;
    let (everywhere, inside) = (scene.vantages().everywhere(), scene.inside());
    let ip = scene.cluster_ip("web").await?;
    for _ in 0..2 {
        becomes(scene, "web", json!({ "type": "NodePort", "ports": ports(Some(30_073)) })).await?;
        scene.eventually(as_promised(everywhere.clone(), vec![node_port("web")])).await?;
        let closed = crate::node_port::addresses(scene, "web").await?;
        becomes(scene, "web", json!({ "type": "ClusterIP", "ports": ports(None) })).await?;
        scene.eventually(as_promised(everywhere.clone(), closed)).await?;
        scene.eventually(as_promised(inside.clone(), vec![cluster_ip("web")])).await?;
    }
    scene.same("the cluster IP stays", &ip, &scene.cluster_ip("web").await?)
}

/// "Kubernetes typically starts off by making the changes that are equivalent to you requesting a Service
/// of `type: NodePort`": what is there already is kept.
async fn load_balancer_and_back(scene: &mut Scene) -> Held {
    scene.given(fixture!("service-type/web.yaml")).await?;
    let (everywhere, inside) = (scene.vantages().everywhere(), scene.inside());
    becomes(scene, "web", json!({ "type": "NodePort", "ports": ports(Some(30_074)) })).await?;
    let port = node_port_of(scene).await?;
    becomes(scene, "web", json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local" })).await?;
    scene.same("the node port stays", &port, &node_port_of(scene).await?)?;
    let spec = scene.service("web").await?.spec.unwrap_or_default();
    let health_check = spec.health_check_node_port.filter(|port| *port != 0);
    health_check.context("a LoadBalancer of policy Local has no healthCheckNodePort")?;
    scene.eventually(as_promised(everywhere.clone(), vec![node_port("web")])).await?;
    becomes(scene, "web", json!({ "type": "NodePort", "externalTrafficPolicy": "Cluster" })).await?;
    let spec = scene.service("web").await?.spec.unwrap_or_default();
    scene.same(
        "the health check port is gone",
        &None,
        &spec.health_check_node_port.filter(|port| *port != 0),
    )?;
    scene.same("the node port stays", &port, &node_port_of(scene).await?)?;
    scene.eventually(as_promised(everywhere.clone(), vec![node_port("web")])).await?;
    let closed = crate::node_port::addresses(scene, "web").await?;
    let plain = json!({ "type": "ClusterIP", "externalTrafficPolicy": null, "ports": ports(None) });
    becomes(scene, "web", plain).await?;
    scene.eventually(as_promised(everywhere, closed)).await?;
    scene.eventually(as_promised(inside, vec![cluster_ip("web")])).await
}

/// The port of the service; where it has a node port, one of the band that random ports are not taken
/// from while others are free (KEP-3668): nobody else is given it when it is free again.
fn ports(node_port: Option<u16>) -> Value {
    json!([{ "port": 80, "targetPort": 8000, "nodePort": node_port }])
}

async fn becomes(scene: &Scene, service: &str, spec: Value) -> Held {
    scene.takes(edit(Resource::Service, service, json!({ "spec": spec }))).await
}

async fn node_port_of(scene: &Scene) -> anyhow::Result<Option<i32>> {
    Ok(scene.service("web").await?.spec.and_then(|spec| spec.ports?.first()?.node_port))
}
