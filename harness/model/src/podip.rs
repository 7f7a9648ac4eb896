//! Pod addresses: a connection straight to a pod, without any service.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use crate::citation;
use crate::endpoints::is_ready;
use crate::ports;
use crate::route::{Backend, Route, Scene, Source, pod_at};
use crate::{Conditions, Endpoint};

/// A destination that is the address of a pod with a network of its own; nothing if it is none.
///
/// [The Kubernetes network model](https://kubernetes.io/docs/concepts/services-networking/#the-kubernetes-network-model):
/// "Pods can communicate with each other directly, without the use of proxies or address
/// translation (NAT)"; agents on a node reach the pods on that node. The model knows that a
/// container listens where the pod is ready and names the port; elsewhere it only knows that
/// nobody else may answer.
pub(crate) fn route(scene: &Scene<'_>) -> Option<Route> {
    let destination = scene.destination;
    let key = pod_at(scene.world, destination.socket())?;
    let pod = scene.world.pods.get(key)?;
    if scene.client.is_outside() {
        let why = format!("the address of pod `{}` is for clients within the cluster", key.name);
        return Some(Route::NotPromised { why, rule: citation::NETWORK_MODEL });
    }
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let is_reached = scene.client.pod.is_some() || scene.client.node == node.as_deref();
    let conditions = Conditions { ready: true, serving: true, terminating: false };
    let endpoint = Endpoint {
        address: destination.address,
        port: Some(destination.port),
        pod: Some(key.clone()),
        node,
        conditions,
    };
    let by: BTreeSet<Backend> = Backend::of(scene.world, &endpoint).into_iter().collect();
    let rule = citation::NETWORK_MODEL;
    let doubt = if !is_reached {
        Some(format!("a node is promised to reach its own pods only, and pod `{}` is on another", key.name))
    } else {
        why_silent(scene, pod).map(|why| format!("pod `{}` {why}", key.name))
    };
    Some(match doubt {
        Some(why) => Route::AtMost { by, why, rule },
        None => Route::Answered {
            by,
            // Of a node's several addresses any may be used.
            source: if scene.client.pod.is_some() { Source::Kept } else { Source::NotPromised },
            affinity: None,
            why: format!("the pods at `{}`", destination.address),
            rule,
        },
    })
}

/// Why a pod may not answer on the port.
fn why_silent(scene: &Scene<'_>, pod: &Pod) -> Option<String> {
    let destination = scene.destination;
    if !is_ready(pod) {
        return Some("is not ready".to_owned());
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Some("is being deleted".to_owned());
    }
    (!ports::declares(pod, destination.port, destination.protocol))
        .then(|| format!("names no port {}/{}", destination.port, destination.protocol))
}
