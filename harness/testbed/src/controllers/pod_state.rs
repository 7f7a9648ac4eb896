//! What the controllers read off a pod: ready, available, finished, which port has which number.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A condition of the pod, by type.
pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Is its `Ready` condition true?
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Has it ended for good
/// ([Pod Lifecycle, "Pod phase"](https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-phase))?
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Does it count as a replica? Finished pods and those on their way out do not.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

pub(crate) fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// When it became ready, if it is.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// Since when or until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    Available,
    /// Ready, but not for long enough yet.
    After(SignedDuration),
    NotReady,
}

/// Has it been ready for `minReadySeconds`
/// ([Deployments, "Min ready seconds"](https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#min-ready-seconds))?
pub(crate) fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    if !is_ready(pod) {
        return Availability::NotReady;
    }
    if min_ready_seconds <= 0 {
        return Availability::Available;
    }
    let Some(since) = ready_since(pod) else { return Availability::NotReady };
    let missing = SignedDuration::from_secs(min_ready_seconds.into()) - now.duration_since(since);
    if missing.is_positive() { Availability::After(missing) } else { Availability::Available }
}

/// The number a service's target port has in this pod. A name is looked up among the ports of its
/// containers, and of init containers that keep running, with the same protocol
/// ([Service, "Port definitions"](https://kubernetes.io/docs/concepts/services-networking/service/#field-spec-ports)).
pub(crate) fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let spec = pod.spec.as_ref()?;
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers.iter().chain(sidecars).find_map(|container| named_port(container, name, protocol))
}

fn named_port(container: &Container, name: &str, protocol: &str) -> Option<i32> {
    let is_it = |port: &&k8s_openapi::api::core::v1::ContainerPort| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    };
    container.ports.iter().flatten().find(is_it).map(|port| port.container_port)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn named_ports_are_found_by_name_and_protocol() {
        let pod: Pod = serde_json::from_value(json!({
            "spec": {
                "initContainers": [
                    {"name": "once", "ports": [{"name": "metrics", "containerPort": 1}]},
                    {"name": "beside", "restartPolicy": "Always", "ports": [{"name": "metrics", "containerPort": 9}]},
                ],
                "containers": [{"name": "main", "ports": [
                    {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                    {"name": "dns", "containerPort": 5353, "protocol": "TCP"},
                ]}],
            },
        }))
        .unwrap();
        let number = |value: serde_json::Value| target_port(&pod, &serde_json::from_value(value).unwrap());
        assert_eq!(number(json!({"port": 80})), Some(80));
        assert_eq!(number(json!({"port": 80, "targetPort": 8080})), Some(8080));
        assert_eq!(number(json!({"port": 80, "targetPort": "dns"})), Some(5353));
        assert_eq!(number(json!({"port": 80, "targetPort": "dns", "protocol": "UDP"})), Some(53));
        assert_eq!(number(json!({"port": 80, "targetPort": "metrics"})), Some(9));
        assert_eq!(number(json!({"port": 80, "targetPort": "nowhere"})), None);
    }

    #[test]
    fn availability_waits_for_min_ready_seconds() {
        let since: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let pod: Pod = serde_json::from_value(json!({"status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ]}}))
        .unwrap();
        let after = |seconds| since + SignedDuration::from_secs(seconds);
        assert_eq!(availability(&pod, 0, since), Availability::Available);
        assert_eq!(availability(&pod, 10, after(4)), Availability::After(SignedDuration::from_secs(6)));
        assert_eq!(availability(&pod, 10, after(10)), Availability::Available);
        assert_eq!(availability(&Pod::default(), 0, since), Availability::NotReady);
    }
}
