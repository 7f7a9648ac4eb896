//! Which services an event concerns: those that select the pod, before or after the change.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};

use super::caches::Caches;
use super::informer::Key;
use super::pod_state::{is_finished, is_ready, is_terminating};
use super::queue::Queue;
use crate::bugs::{Bug, Bugs};

/// Marks services dirty when they or their pods change.
pub(super) fn mark_services(caches: &Caches, bugs: &Bugs, queue: &Arc<Queue<Key>>) {
    let dirty = Arc::clone(queue);
    caches.services.on_change(move |old, new| {
        if let Some(service) = new.or(old) {
            dirty.add(Key::of(&service.metadata));
        }
    });
    let dirty = Arc::clone(queue);
    let services = caches.services.clone();
    let misses_deletions = bugs.has(Bug::DeletedEndpointStays);
    let misses_unready = bugs.has(Bug::UnreadyEndpointStays);
    caches.pods.on_change(move |old, new| {
        if misses_deletions && new.is_none_or(is_terminating) {
            return;
        }
        if misses_unready && old.is_some_and(is_ready) && new.is_some_and(|pod| !is_ready(pod)) {
            return;
        }
        let Some(namespace) = new.or(old).and_then(|pod| pod.metadata.namespace.as_deref()) else { return };
        for service in services.in_namespace(namespace) {
            if [old, new].into_iter().flatten().any(|pod| selects(&service, pod)) {
                dirty.add(Key::of(&service.metadata));
            }
        }
    });
}

/// Does the service have this pod's labels as its selector? A service without selector selects none.
pub(super) fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(wanted) = selector(service) else { return false };
    let none = BTreeMap::new();
    let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

pub(super) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    service.spec.as_ref()?.selector.as_ref().filter(|selector| !selector.is_empty())
}

/// The pods of a service that may be among its endpoints: not finished, and with an address.
pub(super) fn pods_of(caches: &Caches, bugs: &Bugs, service: &Service) -> Vec<Arc<Pod>> {
    let mut pods = caches.pods.in_namespace(service.metadata.namespace.as_deref().unwrap_or_default());
    let has_ended = |pod: &Pod| is_finished(pod) && !bugs.has(Bug::FinishedPodsStay);
    pods.retain(|pod| selects(service, pod) && !has_ended(pod) && !addresses(pod).is_empty());
    if bugs.has(Bug::SidecarPortsMissing) {
        pods.iter_mut().for_each(forget_sidecars);
    }
    pods
}

fn forget_sidecars(pod: &mut Arc<Pod>) {
    if let Some(spec) = &mut Arc::make_mut(pod).spec {
        spec.init_containers = None;
    }
}

/// All addresses of the pod, the primary one first.
pub(super) fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all: Vec<_> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    if all.is_empty() { status.pod_ip.as_deref().into_iter().collect() } else { all }
}

/// The pod's address in this family, `IPv4` or `IPv6`.
pub(super) fn address_in<'a>(pod: &'a Pod, family: &str) -> Option<&'a str> {
    addresses(pod).into_iter().find(|address| address.contains(':') == (family == "IPv6"))
}

/// The address families of the service, the primary one first.
pub(super) fn families(service: &Service) -> Vec<String> {
    let spec = service.spec.as_ref();
    match spec.and_then(|spec| spec.ip_families.clone()) {
        Some(families) if !families.is_empty() => families,
        _ => {
            let address = spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
            vec![if address.contains(':') { "IPv6".to_owned() } else { "IPv4".to_owned() }]
        }
    }
}

/// Has it no cluster address of its own
/// ([Service, "Headless Services"](https://kubernetes.io/docs/concepts/services-networking/service/#headless-services))?
pub(super) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

pub(super) fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or_default()
}

/// The name DNS gives the pod below the service
/// ([DNS for Services and Pods, "Pod's hostname and subdomain fields"](https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-hostname-and-subdomain-field)).
pub(super) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let is_below = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname.clone().filter(|hostname| is_below && !hostname.is_empty())
}
