//! Headless services: names whose answer is the pods themselves.

use anyhow::Context as _;
use serde_json::json;
use stickler::action::{Resource, edit};
use stickler::{
    Check, Class, Held, Scene, dns_specification, docs, endpoints_mirror_pods, fixture, resolve_as_promised,
};
use stickler_model::RecordType;

use crate::dns::reverse_name;

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "headless/no-cluster-ip",
        title: "clusterIP None: none is allocated",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/service/#headless-services")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(no_cluster_ip(scene)),
    },
    Check {
        id: "headless/pod-ips",
        title: "DNS answers with exactly the addresses of the ready pods",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/dns-pod-service/#a-aaaa-records")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(pod_ips(scene)),
    },
    Check {
        id: "headless/none-ready",
        title: "none ready: no address",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/dns-pod-service/#a-aaaa-records")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(none_ready(scene)),
    },
    Check {
        id: "headless/follows-readiness",
        title: "a pod that becomes ready or unready enters or leaves the answer",
        class: Class::Promise,
        promised_by: &[docs("concepts/services-networking/dns-pod-service/#a-aaaa-records")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(follows_readiness(scene)),
    },
    Check {
        id: "headless/publish-not-ready",
        title: "publishNotReadyAddresses: all pods, ready or not",
        class: Class::Promise,
        promised_by: &[docs("reference/kubernetes-api/service-resources/service-v1/#ServiceSpec")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(publish_not_ready(scene)),
    },
    Check {
        id: "headless/srv",
        title: "a named port has an SRV record for each ready pod, each named port its own",
        class: Class::Promise,
        promised_by: &[
            dns_specification("242---srv-records"),
            docs("concepts/services-networking/dns-pod-service/#srv-records"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(srv(scene)),
    },
    Check {
        id: "headless/pod-hostname",
        title: "<hostname>.<subdomain> is the addresses of the ready pods that are called so",
        class: Class::Promise,
        promised_by: &[
            dns_specification("241---aaaaa-records"),
            docs("concepts/services-networking/dns-pod-service/#pod-hostname-and-subdomain-field"),
        ],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(pod_hostname(scene)),
    },
    Check {
        id: "headless/ptr",
        title: "the name of a ready pod's address is <hostname>.<subdomain>",
        class: Class::Promise,
        promised_by: &[dns_specification("243---ptr-records")],
        needs: &[],
        exclusive: false,
        run: |scene| Box::pin(ptr(scene)),
    },
];

async fn no_cluster_ip(scene: &mut Scene) -> Held {
    scene.given_running(fixture!("headless/gated.yaml")).await?;
    let ip = scene.service("head").await?.spec.and_then(|spec| spec.cluster_ip);
    scene.same("the cluster IP is", &Some("None".to_owned()), &ip)
}

/// "this resolves to the set of IPs of all of the Pods selected by the Service": those that are
/// ready.
async fn pod_ips(scene: &mut Scene) -> Held {
    scene.given_running(fixture!("headless/gated.yaml")).await?;
    for pod in ["head-0", "head-1", "head-2"] {
        scene.set_gate(pod, true).await?;
    }
    scene.pods_become("app=head", 3).await?;
    answers_exactly(scene).await
}

async fn none_ready(scene: &mut Scene) -> Held {
    scene.given_running(fixture!("headless/gated.yaml")).await?;
    answers_exactly(scene).await
}

async fn follows_readiness(scene: &mut Scene) -> Held {
    scene.given_running(fixture!("headless/gated.yaml")).await?;
    for (pod, ready) in
        [("head-0", true), ("head-2", true), ("head-0", false), ("head-2", false), ("head-1", true)]
    {
        scene.set_gate(pod, ready).await?;
        scene.becomes(pod, ready).await?;
        answers_exactly(scene).await?;
    }
    Ok(())
}

async fn publish_not_ready(scene: &mut Scene) -> Held {
    scene.given_running(fixture!("headless/gated.yaml")).await?;
    scene.set_gate("head-0", true).await?;
    scene.becomes("head-0", true).await?;
    for publish in [true, false, true] {
        scene
            .when(edit(Resource::Service, "head", json!({ "spec": { "publishNotReadyAddresses": publish } })))
            .await?;
        scene.eventually(endpoints_mirror_pods("head")).await?;
        answers_exactly(scene).await?;
    }
    Ok(())
}

/// "if there are **N** ready endpoints and the Service defines **M** named ports, there will be **N** x **M**
/// `SRV` RRs for the Service".
async fn srv(scene: &mut Scene) -> Held {
    scene.given_running(fixture!("headless/srv.yaml")).await?;
    let name = |port: &str| format!("_{port}._tcp.head.{}.svc.cluster.local", scene.namespace());
    let names = vec![name("http"), name("https"), name("gopher")];
    let from = scene.vantages().pods();
    for (pod, ready) in [("head-0", true), ("head-1", true), ("head-0", false)] {
        scene.set_gate(pod, ready).await?;
        scene.becomes(pod, ready).await?;
        scene.eventually(endpoints_mirror_pods("head")).await?;
        scene.eventually(resolve_as_promised(from.clone(), RecordType::Srv, names.clone())).await?;
    }
    Ok(())
}

/// "There must also be an `A` record of the following form for each ready endpoint with hostname [..]. If
/// there are multiple IPv4 addresses for a given hostname, then there must be one such `A` record returned
/// for each IP."
async fn pod_hostname(scene: &mut Scene) -> Held {
    scene.given_running(fixture!("headless/host-names.yaml")).await?;
    let name = |host: &str| format!("{host}.head.{}.svc.cluster.local", scene.namespace());
    let names = vec![name("one"), name("both"), name("head")];
    let from = scene.vantages().pods();
    for (pod, ready) in
        [("single", true), ("first", true), ("second", true), ("first", false), ("single", false)]
    {
        scene.set_gate(pod, ready).await?;
        scene.becomes(pod, ready).await?;
        scene.eventually(endpoints_mirror_pods("head")).await?;
        scene.eventually(resolve_as_promised(from.clone(), RecordType::A, names.clone())).await?;
    }
    Ok(())
}

/// "Given a ready endpoint with hostname [..] and IPv4 address [..], a `PTR` record [..] must exist."
async fn ptr(scene: &mut Scene) -> Held {
    scene.given_running(fixture!("headless/host-names.yaml")).await?;
    for pod in ["single", "first", "second"] {
        scene.set_gate(pod, true).await?;
    }
    let pods = scene.pods_become("app=head", 3).await?;
    let address = |pod: &k8s_openapi::api::core::v1::Pod| pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok();
    let names: Option<Vec<String>> = pods.iter().map(|pod| address(pod).map(reverse_name)).collect();
    let names = names.context("a ready pod has no address")?;
    scene.eventually(endpoints_mirror_pods("head")).await?;
    scene.eventually(resolve_as_promised(scene.vantages().pods(), RecordType::Ptr, names)).await
}

/// The answer is exactly the promised set, from a pod on every node.
async fn answers_exactly(scene: &mut Scene) -> Held {
    let name = format!("head.{}.svc.cluster.local", scene.namespace());
    let from = scene.vantages().pods();
    scene.eventually(resolve_as_promised(from, RecordType::A, vec![name])).await
}
