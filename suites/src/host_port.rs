//! Host ports: a port of one node that leads to one pod.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use stickler::action::{Action, Resource, delete, make};
use stickler::protocol::{Probe, Seen};
use stickler::{Broken, Capability, Check, Class, Held, Scene, Vantage, docs, in_words, that};

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "host-port/leads-to-its-pod",
        title: "a host port leads to its pod; others with the same number on another address or protocol do not clash",
        class: Class::Promise,
        promised_by: &[
            docs("concepts/configuration/overview/#services"),
            docs("reference/kubernetes-api/workload-resources/pod-v1/#ports"),
        ],
        needs: &[Capability::HostNetwork],
        // A node has its ports once.
        exclusive: true,
        run: |scene| Box::pin(leads_to_its_pod(scene)),
    },
    Check {
        id: "host-port/one-pod-at-a-time",
        title: "a pod that wants a host port that is taken waits until it is given back",
        class: Class::Promise,
        promised_by: &[docs("concepts/configuration/overview/#services")],
        needs: &[],
        exclusive: true,
        run: |scene| Box::pin(one_pod_at_a_time(scene)),
    },
];

/// "each <`hostIP`, `hostPort`, `protocol`> combination must be unique": three pods on one node that differ
/// in one of them each.
async fn leads_to_its_pod(scene: &mut Scene) -> Held {
    const PORT: u16 = 8091;
    let (node, ip) = scene.node_addresses().await?.into_iter().next().context("no node has an address")?;
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    for (name, ip, protocol) in
        [("on-loopback", loopback, "TCP"), ("on-node", ip, "TCP"), ("datagrams", ip, "UDP")]
    {
        let port = json!({ "containerPort": 8000, "hostPort": PORT, "hostIP": ip, "protocol": protocol });
        scene.when(pod(name, &node, &port)).await?;
    }
    // That one of them does not come up is the clash.
    scene.pods_become("app=host-port", 3).await.map_err(|broken| match broken {
        Broken::CouldNotTell(why) => {
            let promised = "three pods run on one node whose host ports differ in address or protocol";
            Broken::promise(promised, why)
        }
        promise @ Broken::Promise(_) => promise,
    })?;
    // Nobody but the node itself can call its loopback address, and not every node can.
    let (address, from) = (SocketAddr::new(ip, PORT), Vantage::Node(node));
    scene
        .eventually(that(
            format!("{address} leads to one pod for TCP, and to another for UDP"),
            move |scene| {
                let from = from.clone();
                Box::pin(async move {
                    let probes =
                        [(stickler::http(address), "on-node"), (stickler::udp(address), "datagrams")];
                    for (probe, name) in probes {
                        if let Err(seen) = answered_by(scene, &from, probe, name).await? {
                            return Ok(Err(format!("the host port {address} of pod `{name}` was {seen}")));
                        }
                    }
                    Ok(Ok(()))
                })
            },
        ))
        .await
}

async fn answered_by(
    scene: &Scene,
    from: &Vantage,
    probe: Probe,
    name: &str,
) -> anyhow::Result<Result<(), String>> {
    for outcome in scene.call(from, &format!("the host port of `{name}`"), scene.workload(probe, 3)).await? {
        match &outcome.seen {
            Seen::Answered(answer) if answer.hostname.as_deref() == Some(name) => {}
            Seen::CouldNotLook { error } => anyhow::bail!("{from} could not look: {error}"),
            other => return Ok(Err(in_words(other))),
        }
    }
    Ok(Ok(()))
}

/// "When you bind a Pod to a `hostPort`, it limits the number of places the Pod can be scheduled".
async fn one_pod_at_a_time(scene: &mut Scene) -> Held {
    const PORT: u16 = 8092;
    let (node, _) = scene.node_addresses().await?.into_iter().next().context("no node has an address")?;
    let port = json!({ "containerPort": 8000, "hostPort": PORT });
    scene.when(pod("first", &node, &port)).await?;
    scene.becomes("first", true).await?;
    scene.when(pod("second", &node, &port)).await?;
    scene
        .eventually(that("the second pod is said to be unschedulable", |scene| {
            Box::pin(async move {
                let pod = scene.api::<Pod>().get("second").await?;
                let status = pod.status.unwrap_or_default();
                let scheduled = status.conditions.unwrap_or_default();
                let scheduled = scheduled.iter().find(|condition| condition.type_ == "PodScheduled");
                let why = scheduled.and_then(|condition| condition.reason.clone());
                Ok(match (pod.spec.and_then(|spec| spec.node_name), why.as_deref()) {
                    (None, Some("Unschedulable")) => Ok(()),
                    (node, why) => Err(format!("it is on node {node:?}, PodScheduled says {why:?}")),
                })
            })
        }))
        .await?;
    scene.when(delete(Resource::Pod, "first")).await?;
    scene.becomes("second", true).await
}

/// A pod with one host port that has to be on this node, and is put there by the scheduler.
fn pod(name: &str, node: &str, port: &Value) -> Action {
    let names = json!({ "key": "metadata.name", "operator": "In", "values": [node] });
    let terms = json!([{ "matchFields": [names] }]);
    let required = json!({ "nodeSelectorTerms": terms });
    let command = json!(["goweb", "--http", "8000", "--udp", "8000"]);
    make(
        Resource::Pod,
        json!({
            "metadata": { "name": name, "labels": { "app": "host-port" } },
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "tolerations": [{ "operator": "Exists" }],
                "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": required } },
                "containers": [{ "name": "web", "image": "stickler", "command": command, "ports": [port] }],
            },
        }),
    )
}
