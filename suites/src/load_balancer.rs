//! Load balancers: what a service of that type has without anybody who provides one, and with somebody.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use stickler::action::{Resource, delete, delete_pods, edit, make};
use stickler::protocol::Seen;
use stickler::{
    Capability, Check, Class, Held, Scene, Vantage, as_promised, cluster_ip, docs, fixture, in_words, kep,
    load_balancer, node_port, notes, that,
};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "load-balancer/extends-node-port",
        title: "a service of type LoadBalancer has a node port, and waits for its address if nobody gives one",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#loadbalancer"), notes("LoadBalancer")],
        needs: &[Capability::NodesReachable],
        exclusive: false,
        run: |scene| Box::pin(extends_node_port(scene)),
    },
    Check {
        id: "load-balancer/no-node-ports",
        title: "allocateLoadBalancerNodePorts false: no node port is allocated, until it is asked for",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#load-balancer-nodeport-allocation"),
            kep("sig-network/1864-disable-lb-node-ports"),
        ],
        needs: &[Capability::Since(24)],
        exclusive: false,
        run: |scene| Box::pin(no_node_ports(scene)),
    },
    Check {
        id: "load-balancer/reached",
        title: "the address a load balancer gives is answered by the service, from outside and from inside",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#loadbalancer")],
        needs: &[Capability::LoadBalancer],
        exclusive: false,
        run: |scene| Box::pin(reached(scene)),
    },
    Check {
        id: "load-balancer/source-ranges",
        title: "loadBalancerSourceRanges: who is in none of the ranges is not answered",
        class: Class::Promise,
        promised_by: &[docs("reference/kubernetes-api/service-resources/service-v1/#ServiceSpec")],
        needs: &[Capability::LoadBalancer, Capability::NodesReachable],
        exclusive: false,
        run: |scene| Box::pin(source_ranges(scene)),
    },
    Check {
        id: "load-balancer/nodes-with-pods",
        title: "externalTrafficPolicy Local: only nodes with ready pods get connections, wherever the pods are",
        class: Class::Promise,
        promised_by: &[
            docs(
                "tasks/access-application-cluster/create-external-load-balancer/#preserving-the-client-source-ip",
            ),
            docs("tutorials/services/source-ip/#source-ip-for-services-with-type-loadbalancer"),
        ],
        needs: &[Capability::LoadBalancer, Capability::NodesReachable, Capability::SeveralNodes],
        exclusive: false,
        run: |scene| Box::pin(nodes_with_pods(scene)),
    },
    Check {
        id: "load-balancer/given-back",
        title: "a load balancer goes with its service, and with the type",
        class: Class::Promise,
        promised_by: &[docs(
            "tasks/access-application-cluster/create-external-load-balancer/#garbage-collecting-load-balancers",
        )],
        needs: &[Capability::LoadBalancer, Capability::NodesReachable],
        exclusive: false,
        run: |scene| Box::pin(given_back(scene)),
    },
    Check {
        id: "load-balancer/other-class",
        title: "a service whose loadBalancerClass names somebody else gets no address of the default provider",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#load-balancer-class")],
        needs: &[Capability::LoadBalancer, Capability::Since(24)],
        exclusive: false,
        run: |scene| Box::pin(other_class(scene)),
    },
    Check {
        id: "load-balancer/rolling-update",
        title: "while pods are replaced, every call of the load balancer is answered",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#loadbalancer"),
            docs("concepts/workloads/pods/pod-lifecycle/#pod-termination"),
        ],
        needs: &[Capability::LoadBalancer, Capability::NodesReachable],
        exclusive: false,
        run: |scene| Box::pin(rolling_update(scene)),
    },
    Check {
        id: "load-balancer/rolling-update-local",
        title: "externalTrafficPolicy Local: while pods are replaced, every call of the load balancer is answered",
        class: Class::Promise,
        promised_by: &[
            docs("reference/networking/virtual-ips/#traffic-to-terminating-endpoints"),
            kep("sig-network/1669-proxy-terminating-endpoints"),
        ],
        needs: &[Capability::LoadBalancer, Capability::NodesReachable, Capability::Since(26)],
        exclusive: false,
        run: |scene| Box::pin(rolling_update_local(scene)),
    },
    Check {
        id: "load-balancer/port-changes",
        title: "a load balancer follows the port of its service, and does not serve the one it had",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/services-networking/service/#loadbalancer"),
            docs("concepts/services-networking/service/#defining-a-service"),
        ],
        needs: &[Capability::LoadBalancer, Capability::NodesReachable],
        exclusive: false,
        run: |scene| Box::pin(port_changes(scene)),
    },
];

/// "Kubernetes typically starts off by making the changes that are equivalent to you requesting a
/// Service of `type: NodePort`"
async fn extends_node_port(scene: &mut Scene) -> Held {
    scene.given(fixture!("load-balancer/balanced.yaml")).await?;
    let everywhere = scene.vantages().everywhere();
    scene.eventually(as_promised(everywhere.clone(), vec![node_port("balanced")])).await?;
    scene.eventually(as_promised(scene.inside(), vec![cluster_ip("balanced")])).await?;
    scene
        .eventually(that("EXTERNAL-IP is what the status says, and <pending> before", |scene| {
            Box::pin(async move {
                let cells = scene.table_row("services", "balanced", &["Type", "External-IP"]).await?;
                let [kind, shown] = cells.as_slice() else { anyhow::bail!("two columns were asked for") };
                let points = published(&scene.service("balanced").await?);
                let promised = points.first().map_or("<pending>", String::as_str);
                if kind == "LoadBalancer" && shown.split(',').next() == Some(promised) {
                    return Ok(Ok(()));
                }
                Ok(Err(format!("type `{kind}`, EXTERNAL-IP `{shown}`, with `{promised}` to be shown")))
            })
        }))
        .await?;
    scene.always(as_promised(everywhere, vec![node_port("balanced")])).await
}

/// "You can optionally disable node port allocation for a Service of `type: LoadBalancer`, by setting
/// the field `spec.allocateLoadBalancerNodePorts` to `false`."
async fn no_node_ports(scene: &mut Scene) -> Held {
    let ports = json!([{ "port": 80, "targetPort": 8000 }]);
    let spec = json!({
        "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
        "selector": { "app": "balanced" }, "ports": ports,
    });
    scene.when(make(Resource::Service, json!({ "metadata": { "name": "bare" }, "spec": spec }))).await?;
    let given = node_ports(&scene.service("bare").await?);
    scene.same("the node ports are", &Vec::<i32>::new(), &given)?;
    let asked = json!({ "spec": { "allocateLoadBalancerNodePorts": true } });
    scene.when(edit(Resource::Service, "bare", asked)).await?;
    let given = node_ports(&scene.service("bare").await?);
    scene.same("of its one port, so many have a node port", &1, &given.len())
}

async fn reached(scene: &mut Scene) -> Held {
    scene.given(fixture!("load-balancer/balanced.yaml")).await?;
    let everywhere = scene.vantages().everywhere();
    scene.eventually(as_promised(everywhere.clone(), vec![load_balancer("balanced")])).await?;
    scene.always(as_promised(everywhere.clone(), vec![load_balancer("balanced")])).await?;
    scene.when(delete_pods("app=balanced")).await?;
    scene.pods_become("app=balanced", 2).await?;
    scene.eventually(as_promised(everywhere, vec![load_balancer("balanced")])).await
}

/// "While the actual Pods that compose the backend set may change, the frontend clients should not need to be
/// aware of that". The pods go on serving for longer than a change takes to be everywhere.
async fn rolling_update(scene: &mut Scene) -> Held {
    scene.given(fixture!("service/rolling.yaml")).await?;
    let spec = json!({ "spec": { "type": "LoadBalancer" } });
    scene.when(edit(Resource::Service, "rolling", spec)).await?;
    served_while_replaced(scene, async |scene: &Scene| {
        restart(scene).await?;
        // Nobody is called any more who is gone by then.
        scene.pods_become("app=rolling", 3).await?;
        Ok(())
    })
    .await
}

/// "Routing traffic to terminating endpoints ensures that Node's that are scaling down Pods can gracefully
/// receive and drain traffic to those terminating Pods", and that "the external load balancer should have seen
/// the node's health check failing" by the time they end: of several nodes one has a pod, and then another.
async fn rolling_update_local(scene: &mut Scene) -> Held {
    scene.given(fixture!("load-balancer/rolling.yaml")).await?;
    served_while_replaced(scene, async |scene: &Scene| restart(scene).await).await
}

async fn restart(scene: &Scene) -> Held {
    let restart =
        json!({ "spec": { "template": { "metadata": { "annotations": { "restarted": "once" } } } } });
    scene.when(edit(Resource::Deployment, "rolling", restart)).await?;
    scene.rolled_out("rolling").await
}

async fn served_while_replaced(scene: &Scene, meanwhile: impl AsyncFnOnce(&Scene) -> Held) -> Held {
    let served = || {
        that("every call of the load balancer from outside is answered", |scene: &Scene| {
            // Of connections that are spread over three nodes, as good as none misses one of them.
            Box::pin(answers_at(scene, "rolling", 48, true))
        })
    };
    scene.eventually(served()).await?;
    scene.always(served()).await?;
    let outside = scene.vantages().outsides();
    scene.served_throughout_at(outside, load_balancer("rolling"), "rolling", meanwhile).await
}

async fn port_changes(scene: &mut Scene) -> Held {
    scene.given(fixture!("load-balancer/balanced.yaml")).await?;
    let everywhere = scene.vantages().everywhere();
    scene.eventually(as_promised(everywhere.clone(), vec![load_balancer("balanced")])).await?;
    let before = first_address(scene, "balanced").await?.context("it has no address")?;
    let ports = json!([{ "port": 81, "targetPort": 8000 }]);
    scene.when(edit(Resource::Service, "balanced", json!({ "spec": { "ports": ports } }))).await?;
    scene.eventually(as_promised(everywhere.clone(), vec![load_balancer("balanced")])).await?;
    scene
        .eventually(that(format!("nobody answers at {before}"), move |scene| {
            Box::pin(nobody_answers_to(scene, scene.vantages().everywhere(), before))
        }))
        .await?;
    scene.always(as_promised(everywhere, vec![load_balancer("balanced")])).await
}

/// "traffic through the cloud-provider load-balancer will be restricted to the specified client IPs".
async fn source_ranges(scene: &mut Scene) -> Held {
    scene.given(fixture!("load-balancer/balanced.yaml")).await?;
    let outside = scene.vantages().outsides();
    scene.eventually(as_promised(outside.clone(), vec![load_balancer("balanced")])).await?;
    let own = callers(scene).await?;
    let ours: Vec<String> =
        own.iter().map(|ip| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })).collect();
    // Networks for documentation (RFC 5737), of nobody who calls here.
    for (ranges, admitted) in [
        (json!(["192.0.2.0/24"]), false),
        (json!(ours), true),
        (json!(["192.0.2.0/24", "198.51.100.0/24"]), false),
        (Value::Null, true),
    ] {
        let spec = json!({ "spec": { "loadBalancerSourceRanges": ranges } });
        scene.when(edit(Resource::Service, "balanced", spec)).await?;
        let promise = format!(
            "with the ranges {ranges}, callers from {own:?} are {}answered",
            if admitted { "" } else { "not " }
        );
        scene
            .eventually(that(promise, move |scene| Box::pin(answers_at(scene, "balanced", 3, admitted))))
            .await?;
    }
    Ok(())
}

/// The addresses that calls from outside come from.
async fn callers(scene: &Scene) -> anyhow::Result<Vec<IpAddr>> {
    let address = first_address(scene, "balanced").await?.context("it has no address")?;
    let mut own = Vec::new();
    for from in scene.vantages().outsides() {
        let calls = scene.workload(stickler::http(address), 1);
        for outcome in scene.call(&from, "the load balancer of `balanced`", calls).await? {
            own.extend(outcome.from.map(|from| from.ip()));
        }
    }
    Ok(own)
}

/// Are all calls from outside answered, or none?
async fn answers_at(
    scene: &Scene,
    service: &str,
    calls: u64,
    admitted: bool,
) -> anyhow::Result<Result<(), String>> {
    let Some(address) = first_address(scene, service).await? else {
        return Ok(Err("it has no address".to_owned()));
    };
    for from in scene.vantages().outsides() {
        let calls = scene.workload(stickler::http(address), calls);
        for outcome in scene.call(&from, &format!("the load balancer ({address})"), calls).await? {
            if let Seen::CouldNotLook { error } = &outcome.seen {
                anyhow::bail!("{from} could not look: {error}");
            }
            if matches!(outcome.seen, Seen::Answered(_)) != admitted {
                return Ok(Err(format!("a call from {from} was {}", in_words(&outcome.seen))));
            }
        }
    }
    Ok(Ok(()))
}

/// "nodes without Service endpoints remove themselves from the list of nodes eligible for load balanced
/// traffic by deliberately failing health checks".
async fn nodes_with_pods(scene: &mut Scene) -> Held {
    scene.given(fixture!("load-balancer/local.yaml")).await?;
    scene.control(&scene.vantages().outsides()).await?;
    for _ in 0..2 {
        let served = || {
            that("every call from outside is answered by the pod, which sees who called", |scene| {
                Box::pin(served_with_source(scene))
            })
        };
        scene.eventually(served()).await?;
        scene.always(served()).await?;
        // The next one may be on another node.
        scene.when(delete_pods("app=local")).await?;
        scene.pods_become("app=local", 1).await?;
    }
    Ok(())
}

async fn served_with_source(scene: &Scene) -> anyhow::Result<Result<(), String>> {
    let Some(address) = first_address(scene, "local").await? else {
        return Ok(Err("it has no address".to_owned()));
    };
    let pods = scene.pods("app=local").await?;
    for from in scene.vantages().outsides() {
        // Of connections that are spread over three nodes, as good as none misses one of them.
        let calls = scene.workload(stickler::http(address), 48);
        for outcome in scene.call(&from, &format!("the load balancer ({address})"), calls).await? {
            match &outcome.seen {
                Seen::Answered(answer) => {
                    let ours = pods.iter().any(|pod| pod.metadata.name == answer.hostname);
                    let (seen, own) = (answer.source.map(|at| at.ip()), outcome.from.map(|at| at.ip()));
                    if !ours || seen != own {
                        let by = in_words(&outcome.seen);
                        return Ok(Err(format!("a call from {own:?} was {by}, which saw {seen:?}")));
                    }
                }
                Seen::CouldNotLook { error } => anyhow::bail!("{from} could not look: {error}"),
                other => return Ok(Err(format!("a call from {from} was {}", in_words(other)))),
            }
        }
    }
    Ok(Ok(()))
}

/// "the deletion of the associated load balancer resources" happens "before the Service resource is
/// deleted", and the finalizer "will only be removed after".
async fn given_back(scene: &mut Scene) -> Held {
    scene.given(fixture!("load-balancer/balanced.yaml")).await?;
    let outside = scene.vantages().outsides();
    scene.eventually(as_promised(outside.clone(), vec![load_balancer("balanced")])).await?;
    let before = first_address(scene, "balanced").await?.context("it has no address")?;
    scene.when(edit(Resource::Service, "balanced", json!({ "spec": { "type": "NodePort" } }))).await?;
    scene
        .eventually(that("the service shows no address of a load balancer any more", |scene| {
            Box::pin(async move {
                let points = published(&scene.service("balanced").await?);
                Ok(if points.is_empty() { Ok(()) } else { Err(format!("it shows {points:?}")) })
            })
        }))
        .await?;
    scene
        .eventually(that(format!("nobody answers at {before}"), move |scene| {
            Box::pin(nobody_answers(scene, before))
        }))
        .await?;
    // Once more, and this time the service goes.
    scene.when(edit(Resource::Service, "balanced", json!({ "spec": { "type": "LoadBalancer" } }))).await?;
    scene.eventually(as_promised(outside, vec![load_balancer("balanced")])).await?;
    let before = first_address(scene, "balanced").await?.context("it has no address")?;
    scene.when(delete(Resource::Service, "balanced")).await?;
    scene
        .eventually(that("the deleted service is gone", |scene| {
            Box::pin(async move {
                let found = scene.api::<Service>().get_opt("balanced").await?;
                Ok(found.map_or(Ok(()), |service| {
                    Err(format!("it waits for its finalizers {:?}", service.metadata.finalizers))
                }))
            })
        }))
        .await?;
    scene
        .eventually(that(format!("nobody answers at {before}"), move |scene| {
            Box::pin(nobody_answers(scene, before))
        }))
        .await
}

/// Nobody of this check: the address may be somebody else's by now.
async fn nobody_answers(scene: &Scene, address: SocketAddr) -> anyhow::Result<Result<(), String>> {
    nobody_answers_to(scene, scene.vantages().outsides(), address).await
}

async fn nobody_answers_to(
    scene: &Scene,
    from: Vec<Vantage>,
    address: SocketAddr,
) -> anyhow::Result<Result<(), String>> {
    let pods = scene.pods("app=balanced").await?;
    for from in from {
        let calls = scene.workload(stickler::http(address), 3);
        for outcome in scene.call(&from, &format!("the address that was ({address})"), calls).await? {
            match &outcome.seen {
                Seen::CouldNotLook { error } => anyhow::bail!("{from} could not look: {error}"),
                Seen::Answered(answer) if pods.iter().any(|pod| pod.metadata.name == answer.hostname) => {
                    return Ok(Err(format!("a call from {from} was {}", in_words(&outcome.seen))));
                }
                _ => {}
            }
        }
    }
    Ok(Ok(()))
}

/// "Any default load balancer implementation (for example, the one provided by the cloud provider) will
/// ignore Services that have this field set."
async fn other_class(scene: &mut Scene) -> Held {
    let ports = json!([{ "port": 80, "targetPort": 8000 }]);
    let spec = json!({
        "type": "LoadBalancer", "loadBalancerClass": "suites.stickler.dev/nobody",
        "selector": { "app": "balanced" }, "ports": ports,
    });
    scene.when(make(Resource::Service, json!({ "metadata": { "name": "theirs" }, "spec": spec }))).await?;
    // One that is the default provider's is asked for later, and served.
    scene.given(fixture!("load-balancer/balanced.yaml")).await?;
    scene.eventually(as_promised(scene.inside(), vec![load_balancer("balanced")])).await?;
    scene
        .always(that("nobody gives an address to a service of another class", |scene| {
            Box::pin(async move {
                let points = published(&scene.service("theirs").await?);
                Ok(if points.is_empty() { Ok(()) } else { Err(format!("it shows {points:?}")) })
            })
        }))
        .await?;
    let field = "spec.loadBalancerClass";
    let change = json!({ "spec": { "loadBalancerClass": "suites.stickler.dev/other" } });
    scene.refuses(edit(Resource::Service, "theirs", change), 422, "Invalid", field).await
}

/// What a load balancer published in the status of a service: addresses, or names.
fn published(service: &Service) -> Vec<String> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let points = balancer.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    points.filter_map(|point| point.ip.clone().or_else(|| point.hostname.clone())).collect()
}

/// The first address and port of a service's load balancer.
async fn first_address(scene: &Scene, service: &str) -> anyhow::Result<Option<SocketAddr>> {
    let service = scene.service(service).await?;
    let port = service.spec.as_ref().and_then(|spec| spec.ports.as_ref()?.first()).map(|port| port.port);
    let port = u16::try_from(port.unwrap_or_default())?;
    let ip = published(&service).iter().find_map(|point| point.parse::<IpAddr>().ok());
    Ok(ip.map(|ip| SocketAddr::new(ip, port)))
}

fn node_ports(service: &Service) -> Vec<i32> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.filter_map(|port| port.node_port).filter(|port| *port != 0).collect()
}
