//! Which pods go first when a ReplicaSet shrinks
//! ([ReplicaSet, "Scaling a ReplicaSet"](https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#scaling-a-replicaset)).

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::pod_state::{is_ready, node_name, phase, ready_since};

/// The cost a user puts on losing a pod
/// ([ReplicaSet, "Pod deletion cost"](https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#pod-deletion-cost)).
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Picks `count` of `pods` for deletion. `related` are the pods of all ReplicaSets with the same owner:
/// a node that has many of them gives first.
pub(crate) fn first_to_go(
    pods: Vec<Arc<Pod>>,
    related: &[Arc<Pod>],
    count: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    let mut crowd = BTreeMap::<&str, usize>::new();
    for node in related.iter().filter_map(|pod| node_name(pod)) {
        *crowd.entry(node).or_default() += 1;
    }
    let mut ranked: Vec<_> = pods.into_iter().map(|pod| (Rank::of(&pod, &crowd, now), pod)).collect();
    ranked.sort_by(|(a, _), (b, _)| a.cmp(b));
    ranked.into_iter().take(count).map(|(_, pod)| pod).collect()
}

/// Smaller goes earlier; the fields stand in the order of their weight.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    assigned: bool,
    phase: u8,
    ready: bool,
    deletion_cost: i32,
    crowd: Reverse<usize>,
    ready_for: Age,
    restarts: Reverse<i32>,
    age: Age,
    uid: String,
}

impl Rank {
    fn of(pod: &Pod, crowd: &BTreeMap<&str, usize>, now: Timestamp) -> Self {
        let node = node_name(pod);
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let annotations = pod.metadata.annotations.as_ref();
        let cost = annotations.and_then(|annotations| annotations.get(DELETION_COST));
        Self {
            assigned: node.is_some(),
            phase: match phase(pod) {
                "Pending" => 0,
                "Unknown" => 1,
                _ => 2,
            },
            ready: is_ready(pod),
            deletion_cost: cost.and_then(|cost| cost.parse().ok()).unwrap_or_default(),
            crowd: Reverse(node.and_then(|node| crowd.get(node)).copied().unwrap_or_default()),
            ready_for: Age::since(ready_since(pod), now),
            restarts: Reverse(restarts(pod)),
            age: Age::since(created, now),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        }
    }
}

/// An age by its order of magnitude: pods of about the same age are told apart by their uid alone, so
/// that not always the newest goes
/// ([KEP-2185](https://github.com/kubernetes/enhancements/issues/2185)).
#[derive(Debug, PartialEq, Eq)]
struct Age(Option<u32>);

impl Age {
    fn since(then: Option<Timestamp>, now: Timestamp) -> Self {
        Self(then.map(|then| {
            let seconds = u64::try_from(now.duration_since(then).as_secs()).unwrap_or_default();
            seconds.checked_ilog2().map_or(0, |magnitude| magnitude + 1)
        }))
    }
}

impl PartialOrd for Age {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Age {
    /// Unknown first, then the younger.
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    statuses.unwrap_or_default().iter().map(|status| status.restart_count).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pod(name: &str, value: serde_json::Value) -> Arc<Pod> {
        let mut pod: Pod = serde_json::from_value(value).unwrap();
        pod.metadata.uid = Some(name.to_owned());
        pod.metadata.name = Some(name.to_owned());
        Arc::new(pod)
    }

    fn running(name: &str, node: &str, ready: bool, created: &str) -> Arc<Pod> {
        pod(
            name,
            json!({
                "metadata": {"creationTimestamp": created},
                "spec": {"nodeName": node, "containers": []},
                "status": {"phase": "Running", "conditions": [
                    {"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": created},
                ]},
            }),
        )
    }

    fn order(pods: &[Arc<Pod>]) -> Vec<String> {
        let now = "2026-01-02T00:00:00Z".parse().unwrap();
        let all = first_to_go(pods.to_vec(), pods, pods.len(), now);
        all.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect()
    }

    #[test]
    fn the_least_useful_go_first() {
        let early = "2026-01-01T00:00:00Z";
        let unassigned = pod("unassigned", json!({"status": {"phase": "Pending"}}));
        let pending = pod(
            "pending",
            json!({"spec": {"nodeName": "c", "containers": []}, "status": {"phase": "Pending"}}),
        );
        let unready = running("unready", "a", false, early);
        let old = running("old", "a", true, early);
        let young = running("young", "a", true, "2026-01-01T23:59:00Z");
        let alone = running("alone", "b", true, early);
        let mut cheap = running("cheap", "b", true, early);
        Arc::make_mut(&mut cheap).metadata.annotations =
            Some([(DELETION_COST.to_owned(), "-5".to_owned())].into());
        let pods = [alone, old, young, cheap, unready, pending, unassigned];
        assert_eq!(order(&pods), ["unassigned", "pending", "unready", "cheap", "young", "old", "alone"]);
    }

    #[test]
    fn more_restarts_go_first() {
        let with_restarts = |name: &str, restarts: i32| {
            pod(
                name,
                json!({"spec": {"nodeName": "a", "containers": []}, "status": {"phase": "Running",
                "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": restarts}]}}),
            )
        };
        assert_eq!(order(&[with_restarts("calm", 0), with_restarts("restless", 3)]), ["restless", "calm"]);
    }

    proptest! {
        #[test]
        fn the_order_in_the_cache_does_not_matter(
            pods in prop::collection::vec((0..3_u8, any::<bool>(), 0..50_u8), 0..12).prop_flat_map(|pods| {
                let pods: Vec<_> = pods
                    .iter()
                    .enumerate()
                    .map(|(i, (node, ready, minute))| {
                        let created = format!("2026-01-01T00:{minute:02}:00Z");
                        running(&format!("pod-{i}"), &format!("node-{node}"), *ready, &created)
                    })
                    .collect();
                (Just(pods.clone()), Just(pods).prop_shuffle())
            })
        ) {
            prop_assert_eq!(order(&pods.0), order(&pods.1));
        }
    }
}
