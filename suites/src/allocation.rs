//! Allocation: cluster IPs and node ports are given once, honoured when asked for, and given back.

use anyhow::Context as _;
use serde_json::{Value, json};
use stickler::action::{Action, Resource, create, delete, edit, make};
use stickler::{
    Broken, Capability, Check, Class, Held, Scene, as_promised, cluster_ip, docs, fixture, node_port,
};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "allocation/cluster-ip-in-use",
        title: "a cluster IP that another service has is refused",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/cluster-ip-allocation/")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(cluster_ip_in_use(scene)),
    },
    Check {
        id: "allocation/cluster-ip-out-of-range",
        title: "a cluster IP outside of the service range is refused",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#choosing-your-own-ip-address")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(cluster_ip_out_of_range(scene)),
    },
    Check {
        id: "allocation/cluster-ip-stays",
        title: "the cluster IP of a service cannot be changed",
        class: Class::Promise,
        promised_by: &[docs("reference/kubernetes-api/service-resources/service-v1/#ServiceSpec")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(cluster_ip_stays(scene)),
    },
    Check {
        id: "allocation/cluster-ip-again",
        title: "a service made anew may ask for the cluster IP it had, and is served there",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#choosing-your-own-ip-address")],
        needs: &[],
        // Whoever is made meanwhile may be given the address.
        exclusive: true,
        run: |scene| Box::pin(cluster_ip_again(scene)),
    },
    Check {
        id: "allocation/node-port-in-use",
        title: "a node port that another service has is refused",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#nodeport-custom-port")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(node_port_in_use(scene)),
    },
    Check {
        id: "allocation/node-port-out-of-range",
        title: "a node port outside of the range for them is refused",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#nodeport-custom-port")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(node_port_out_of_range(scene)),
    },
    Check {
        id: "allocation/node-port-given-back",
        title: "a node port is free again when its service is deleted or needs it no more",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#nodeport-custom-port"),
            docs("concepts/services-networking/service/#avoid-nodeport-collisions"),
        ],
        needs: &[],
        exclusive: true,
        run: |scene| Box::pin(node_port_given_back(scene)),
    },
    Check {
        id: "allocation/families",
        title: "a service that requires two address families is refused where it would be given one",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/dual-stack/#services")],
        needs: &[Capability::Since(21)],
        exclusive: false,
        run: |scene| Box::pin(families(scene)),
    },
];

/// "This is to avoid two Services having the same ClusterIP": one that is in use cannot be asked for.
async fn cluster_ip_in_use(scene: &mut Scene) -> Held {
    scene.when(create(fixture!("notes/goweb-svc.yaml"))).await?;
    let taken = scene.cluster_ip("goweb-svc").await?;
    let asks = service("second", json!({ "clusterIP": taken }));
    scene.refuses(asks, 422, "Invalid", "spec.clusterIPs").await
}

/// "The IP address that you choose must be a valid IPv4 or IPv6 address from within the
/// `service-cluster-ip-range` CIDR range [..]. If you try to create a Service with an invalid clusterIP
/// address value, the API server will return a 422 HTTP status code".
async fn cluster_ip_out_of_range(scene: &mut Scene) -> Held {
    // An address for documentation (RFC 5737), of nobody's range.
    let asks = service("outside", json!({ "clusterIP": "192.0.2.1" }));
    scene.refuses(asks, 422, "Invalid", "spec.clusterIPs").await
}

/// "This field may not be changed through updates unless the type field is also being changed to
/// ExternalName [..] or the type field is being changed from ExternalName".
async fn cluster_ip_stays(scene: &mut Scene) -> Held {
    scene.when(create(fixture!("notes/goweb-svc.yaml"))).await?;
    let before = scene.cluster_ip("goweb-svc").await?;
    for other in ["192.0.2.1", "None"] {
        let change = edit(Resource::Service, "goweb-svc", json!({ "spec": { "clusterIP": other } }));
        scene.refuses(change, 422, "Invalid", "spec.clusterIPs[0]").await?;
    }
    let after = scene.cluster_ip("goweb-svc").await?;
    scene.same("the cluster IP is still", &before, &after)
}

/// "You can specify your own cluster IP address as part of a Service creation request [..] for example, if
/// you already have an existing DNS entry that you wish to reuse".
async fn cluster_ip_again(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/web.yaml")).await?;
    let inside = scene.inside();
    scene.eventually(as_promised(inside.clone(), vec![cluster_ip("web")])).await?;
    let ip = scene.cluster_ip("web").await?;
    for _ in 0..2 {
        scene.when(delete(Resource::Service, "web")).await?;
        let ports = json!([{ "port": 80, "targetPort": 8000 }]);
        let again = json!({ "clusterIP": ip, "selector": { "app": "web" }, "ports": ports });
        scene.takes(service("web", again)).await?;
        let given = scene.cluster_ip("web").await?;
        scene.same("the cluster IP asked for is the one that is given", &ip, &given)?;
        scene.eventually(as_promised(inside.clone(), vec![cluster_ip("web")])).await?;
    }
    Ok(())
}

/// "you have to take care of possible port collisions yourself": the control plane either gives the port
/// "or it fails".
async fn node_port_in_use(scene: &mut Scene) -> Held {
    scene.when(service("first", json!({ "type": "NodePort" }))).await?;
    let taken = node_port_of(scene, "first").await?;
    let asks = service("second", with_node_port(taken));
    scene.refuses(asks, 422, "Invalid", "spec.ports[0].nodePort").await?;
    // Nor by a service that is there already.
    scene.when(service("third", json!({}))).await?;
    let change = edit(Resource::Service, "third", json!({ "spec": with_node_port(taken) }));
    scene.refuses(change, 422, "Invalid", "spec.ports[0].nodePort").await
}

/// "You also have to use a valid port number, one that's inside the range configured for NodePort use."
async fn node_port_out_of_range(scene: &mut Scene) -> Held {
    for outside in [1, 65_535] {
        let asks = service("outside", with_node_port(outside));
        scene.refuses(asks, 422, "Invalid", "spec.ports[0].nodePort").await?;
    }
    Ok(())
}

async fn node_port_given_back(scene: &mut Scene) -> Held {
    // Of the band that random ports are not taken from while others are free (KEP-3668).
    const PORT: i32 = 30_081;
    scene.given(fixture!("service/web.yaml")).await?;
    let everywhere = scene.vantages().everywhere();
    let selecting = |mut spec: Value| {
        spec["selector"] = json!({ "app": "web" });
        spec
    };
    scene.when(service("first", selecting(with_node_port(PORT)))).await?;
    scene.eventually(as_promised(everywhere.clone(), vec![node_port("first")])).await?;
    scene.when(delete(Resource::Service, "first")).await?;
    scene.takes(service("second", selecting(with_node_port(PORT)))).await?;
    scene.eventually(as_promised(everywhere.clone(), vec![node_port("second")])).await?;
    scene.when(edit(Resource::Service, "second", json!({ "spec": { "type": "ClusterIP" } }))).await?;
    scene.takes(service("third", selecting(with_node_port(PORT)))).await?;
    scene.eventually(as_promised(everywhere, vec![node_port("third")])).await
}

/// "`RequireDualStack`: Allocates Service `.spec.clusterIPs` from both IPv4 and IPv6 address ranges when
/// dual-stack is enabled"; "`PreferDualStack`: [..] falls back to single-stack".
async fn families(scene: &mut Scene) -> Held {
    scene.when(service("prefers", json!({ "ipFamilyPolicy": "PreferDualStack" }))).await?;
    let spec = scene.service("prefers").await?.spec.context("a service without spec")?;
    let (given, families) = (spec.cluster_ips.unwrap_or_default(), spec.ip_families.unwrap_or_default());
    scene.same("there is a cluster IP of each family", &families.len(), &given.len())?;
    let requires = service("requires", json!({ "ipFamilyPolicy": "RequireDualStack" }));
    match given.len() {
        1 => scene.refuses(requires, 422, "Invalid", "spec.ipFamilyPolicy").await,
        2 => {
            scene.when(requires).await?;
            let spec = scene.service("requires").await?.spec.unwrap_or_default();
            scene.same("there are two cluster IPs", &2, &spec.cluster_ips.unwrap_or_default().len())
        }
        other => {
            let promised = "a service that prefers two address families has one cluster IP, or two";
            Err(Broken::promise(promised, format!("it has {other}")))
        }
    }
}

/// A service of one port, unless the specification says otherwise.
fn service(name: &str, spec: Value) -> Action {
    let mut spec = spec;
    if spec["ports"].is_null() {
        spec["ports"] = json!([{ "port": 80, "targetPort": 8000 }]);
    }
    make(Resource::Service, json!({ "metadata": { "name": name }, "spec": spec }))
}

fn with_node_port(port: i32) -> Value {
    json!({ "type": "NodePort", "ports": [{ "port": 80, "targetPort": 8000, "nodePort": port }] })
}

async fn node_port_of(scene: &Scene, service: &str) -> anyhow::Result<i32> {
    let spec = scene.service(service).await?.spec;
    spec.and_then(|spec| spec.ports?.first()?.node_port).context("it has no node port")
}
