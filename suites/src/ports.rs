//! Ports: one service, several of them, by number or by name.

use k8s_openapi::api::core::v1::ContainerStatus;
use serde_json::{Value, json};
use stickler::action::{Resource, edit};
use stickler::{
    Broken, Capability, Check, Class, Held, Scene, To, as_promised, cluster_ip, docs, endpoints_mirror_pods,
    fixture, kep, node_port, that,
};
use stickler_model::{Destination, Protocol};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "ports/several",
        title: "one service exposes several ports, and each reaches its own target",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#multi-port-services")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(several(scene)),
    },
    Check {
        id: "ports/names-required",
        title: "every port of a service with several must have a name",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#multi-port-services")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(names_required(scene)),
    },
    Check {
        id: "ports/named-target",
        title: "targetPort may name a container port",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#field-spec-ports")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(named_target(scene)),
    },
    Check {
        id: "ports/renumber-freely",
        title: "a pod may change the number behind a port's name without touching the service",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#field-spec-ports")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(renumber_freely(scene)),
    },
    Check {
        id: "ports/same-number-tcp-udp",
        title: "TCP and UDP may have the same port number, each with its own traffic",
        class: Class::Promise,
        promised_by: &[docs("reference/networking/service-protocols/")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(same_number_tcp_udp(scene)),
    },
    Check {
        id: "ports/added-and-removed",
        title: "a port that is added to a service is served, one that is removed is not, and others go on",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#multi-port-services"),
            docs("reference/networking/virtual-ips/"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(added_and_removed(scene)),
    },
    Check {
        id: "ports/renumbered",
        title: "a port of a service that is given another number, or target, is served there and not where it was",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#defining-a-service"),
            docs("reference/networking/virtual-ips/"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(renumbered(scene)),
    },
    Check {
        id: "ports/one-protocol-removed",
        title: "of one number for TCP and UDP either may be taken away, and come back, without the other",
        class: Class::Promise,
        promised_by: &[
            docs("reference/networking/service-protocols/"),
            docs("concepts/services-networking/service/#type-nodeport"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(one_protocol_removed(scene)),
    },
    Check {
        id: "ports/sidecar",
        title: "the ports of a sidecar are served, by number and by name",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/workloads/pods/sidecar-containers/"),
            kep("sig-node/753-sidecar-containers"),
        ],
        needs: &[Capability::Since(29)],
        exclusive: false,
        run: |scene| Box::pin(sidecar(scene)),
    },
    Check {
        id: "ports/one-each",
        title: "a port that only one of the pods has is answered by that one only",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#multi-port-services"),
            docs("concepts/services-networking/service/#field-spec-ports"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(one_each(scene)),
    },
];

async fn several(scene: &mut Scene) -> Held {
    scene.given(fixture!("ports/several.yaml")).await?;
    let from = scene.inside();
    scene.eventually(as_promised(from, vec![cluster_ip("several")])).await?;
    reaches_target(scene, "several", &[(80, 8000), (443, 8443)]).await
}

/// "When using multiple ports for a Service, you must give all of your ports names"
async fn names_required(scene: &mut Scene) -> Held {
    scene.refused(fixture!("ports/unnamed.yaml"), 422, "Required", "spec.ports[1].name").await
}

/// "Port definitions in Pods have names, and you can reference these names in the `targetPort`
/// attribute of a Service"
async fn named_target(scene: &mut Scene) -> Held {
    scene.given(fixture!("ports/named.yaml")).await?;
    let from = scene.inside();
    scene.eventually(as_promised(from, vec![cluster_ip("named")])).await?;
    reaches_target(scene, "named", &[(80, 8000), (443, 8443)]).await
}

/// "you can change the port numbers that Pods expose in the next version of your backend software,
/// without breaking clients": two pods, one name, two numbers, both served.
async fn renumber_freely(scene: &mut Scene) -> Held {
    scene.given(fixture!("ports/renumbered.yaml")).await?;
    scene.eventually(endpoints_mirror_pods("renumbered")).await?;
    let from = scene.inside();
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("renumbered")])).await?;
    for from in from {
        scene.eventually(stickler::spreads("renumbered", from)).await?;
    }
    Ok(())
}

async fn same_number_tcp_udp(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/udp.yaml")).await?;
    let from = scene.inside();
    scene.eventually(as_promised(from, vec![cluster_ip("udp")])).await
}

/// Each of the three "valid values for the `protocol` of a port" makes a port of its own.
async fn one_protocol_removed(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/udp.yaml")).await?;
    let inside = scene.inside();
    // Nobody else is given the node port when it is free again.
    let of = |name: &str, protocol: &str| json!({ "name": name, "port": 80, "targetPort": 8000, "protocol": protocol, "nodePort": 30_075 });
    let (udp, tcp) = (of("udp", "UDP"), of("tcp", "TCP"));
    let both = vec![udp.clone(), tcp.clone()];
    let ip = scene.cluster_ip("udp").await?;
    let at = |ip: std::net::IpAddr, port: u16, protocol: Protocol| {
        To::Address(format!("the {protocol} port that was"), Destination::new(ip, port, protocol))
    };
    let steps = [
        (both.clone(), None),
        (vec![tcp], Some(Protocol::Udp)),
        (both.clone(), None),
        (vec![udp], Some(Protocol::Tcp)),
        (both, None),
    ];
    for (ports, closed) in steps {
        let spec = json!({ "spec": { "type": "NodePort", "ports": ports } });
        scene.when(edit(Resource::Service, "udp", spec)).await?;
        scene.eventually(endpoints_mirror_pods("udp")).await?;
        scene.eventually(as_promised(inside.clone(), vec![cluster_ip("udp"), node_port("udp")])).await?;
        if let Some(protocol) = closed {
            let nodes = scene.node_addresses().await?;
            let mut old: Vec<To> = nodes.iter().map(|(_, node)| at(*node, 30_075, protocol)).collect();
            old.push(at(ip, 80, protocol));
            scene.eventually(as_promised(inside.clone(), old).calls(1)).await?;
        }
    }
    Ok(())
}

/// "sidecar containers remain running" beside the pod's own, and so do their ports.
async fn sidecar(scene: &mut Scene) -> Held {
    if let Err(late) = scene.given(fixture!("ports/sidecar.yaml")).await {
        // Where the sidecar runs, nothing is to keep the other container back.
        return Err(keeps_back(scene).await?.unwrap_or(late));
    }
    scene.eventually(endpoints_mirror_pods("sidecar")).await?;
    scene.eventually(as_promised(scene.inside(), vec![cluster_ip("sidecar")])).await?;
    reaches_target(scene, "sidecar", &[(80, 9000), (81, 9000), (82, 8000)]).await
}

/// That a pod's only init container runs, and its own container waits for its end, if it is so.
async fn keeps_back(scene: &Scene) -> anyhow::Result<Option<Broken>> {
    let pods = scene.pods("app=sidecar").await?;
    let status = pods.first().and_then(|pod| pod.status.as_ref());
    let state = |statuses: Option<&Vec<ContainerStatus>>| statuses?.first()?.state.clone();
    let side = status.and_then(|status| state(status.init_container_statuses.as_ref()));
    let web = status.and_then(|status| state(status.container_statuses.as_ref()));
    let runs = side.is_some_and(|side| side.running.is_some());
    let waits = web.is_none_or(|web| web.running.is_none() && web.terminated.is_none());
    Ok((runs && waits).then(|| {
        let promised = "`web` starts beside the sidecar `side`, and does not wait for its end";
        Broken::promise(promised, "`side` runs, and `web` was not started")
    }))
}

/// "you can reference these names in the `targetPort`": who has no port of the name has none for it.
async fn one_each(scene: &mut Scene) -> Held {
    scene.given(fixture!("ports/one-each.yaml")).await?;
    scene.eventually(endpoints_mirror_pods("one-each")).await?;
    let from = scene.inside();
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("one-each")]).calls(12)).await?;
    reaches_target(scene, "one-each", &[(80, 8000), (81, 9000)]).await?;
    scene.always(as_promised(from, vec![cluster_ip("one-each")])).await
}

/// What proxies forward follows the specification as it is.
async fn added_and_removed(scene: &mut Scene) -> Held {
    scene.given(fixture!("ports/several.yaml")).await?;
    let from = scene.inside();
    let (http, https) = (port("http", 80, 8000), port("https", 443, 8443));
    for (ports, closed) in
        [(vec![http.clone()], Some(443)), (vec![http, https.clone()], None), (vec![https], Some(80))]
    {
        scene.when(edit(Resource::Service, "several", json!({ "spec": { "ports": ports } }))).await?;
        scene.eventually(endpoints_mirror_pods("several")).await?;
        scene.eventually(as_promised(from.clone(), vec![cluster_ip("several")])).await?;
        if let Some(number) = closed {
            let closed = vec![To::ClusterIpPort("several", number)];
            scene.eventually(as_promised(from.clone(), closed).calls(1)).await?;
        }
    }
    reaches_target(scene, "several", &[(443, 8443)]).await
}

async fn renumbered(scene: &mut Scene) -> Held {
    const SAME_TARGET: &[(u16, u16)] = &[(8080, 8000), (443, 8443)];
    const OTHER_TARGET: &[(u16, u16)] = &[(8080, 8443), (443, 8443)];
    scene.given(fixture!("ports/several.yaml")).await?;
    let from = scene.inside();
    scene.eventually(as_promised(from.clone(), vec![cluster_ip("several")])).await?;
    // The same target at another number, then another target at the same number.
    for (http, targets) in [(port("http", 8080, 8000), SAME_TARGET), (port("http", 8080, 8443), OTHER_TARGET)]
    {
        let ports = [http, port("https", 443, 8443)];
        scene.when(edit(Resource::Service, "several", json!({ "spec": { "ports": ports } }))).await?;
        scene.eventually(endpoints_mirror_pods("several")).await?;
        scene.eventually(as_promised(from.clone(), vec![cluster_ip("several")])).await?;
        scene.eventually(reaching_target("several", targets)).await?;
        let old = vec![To::ClusterIpPort("several", 80)];
        scene.eventually(as_promised(from.clone(), old).calls(1)).await?;
    }
    Ok(())
}

fn port(name: &str, port: u16, target: u16) -> Value {
    json!({ "name": name, "port": port, "targetPort": target })
}

/// Each port of a service arrives at its own port of the pod, as the pod tells it.
pub(crate) async fn reaches_target(
    scene: &mut Scene,
    service: &'static str,
    ports: &'static [(u16, u16)],
) -> Held {
    scene.exactly(reaching_target(service, ports)).await
}

fn reaching_target(service: &'static str, ports: &'static [(u16, u16)]) -> impl stickler::Invariant {
    that(format!("each port of `{service}` reaches its own target port"), move |scene: &Scene| {
        Box::pin(async move {
            for from in scene.inside() {
                for (port, target) in ports {
                    let reached = match scene.ports_reached(&from, service, *port).await? {
                        Ok(reached) => reached,
                        Err(seen) => return Ok(Err(seen)),
                    };
                    if reached.iter().any(|reached| reached != target) || reached.is_empty() {
                        return Ok(Err(format!(
                            "from {from}, port {port} should reach {target}, but reached {reached:?}"
                        )));
                    }
                }
            }
            Ok(Ok(()))
        })
    })
}
