//! Nodes that fall silent: they become unknown, their pods leave the endpoints and in the end the node
//! ([Nodes, "Node controller"](https://kubernetes.io/docs/concepts/architecture/nodes/#node-controller)).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, PodCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;

use super::caches::Caches;
use super::heartbeat::BEAT;
use super::informer::Key;
use super::pod_state::{is_finished, is_ready, is_terminating, node_name};
use super::queue::{Queue, Reconcile};
use super::replicaset::gone_is_fine;

const LEASES: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// The conditions a kubelet reports.
const CONDITIONS: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];

/// How patient the control plane is with nodes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodePatience {
    /// How long a node may be silent, by the clock of the controllers' own heartbeat
    /// ([Nodes, "Node heartbeats"](https://kubernetes.io/docs/reference/node/node-status/#heartbeats)).
    /// Upstream's `--node-monitor-grace-period` is 50 s, five times what its kubelets take for a beat.
    pub(crate) silence: Duration,
    /// How long pods stay on a node that is not ready, unless they say otherwise
    /// ([Taints and Tolerations, "Taint based Evictions"](https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/#taint-based-evictions)).
    pub(crate) eviction: Duration,
    /// How long pods are kept whose node is no more.
    pub(crate) quarantine: Duration,
}

impl Default for NodePatience {
    fn default() -> Self {
        Self {
            // Four beats, and room for what follows within the few seconds a testbed has.
            silence: Duration::from_secs(2),
            eviction: Duration::from_secs(300),
            quarantine: Duration::from_secs(40),
        }
    }
}

/// When things were seen, by clocks of our own: those of nodes may be wrong.
#[derive(Default)]
struct Seen {
    /// What the clock of our own heartbeat shows.
    clock: Duration,
    /// What it showed when a node was heard.
    beat: BTreeMap<String, Duration>,
    /// Since when a node is not ready, or gone.
    trouble: BTreeMap<String, Instant>,
}

pub(super) struct NodeLifecycle {
    client: Client,
    caches: Caches,
    patience: NodePatience,
    seen: Arc<Mutex<Seen>>,
    queue: Arc<Queue<Key>>,
}

impl NodeLifecycle {
    pub(super) fn new(
        client: Client,
        caches: &Caches,
        patience: NodePatience,
        queue: &Arc<Queue<Key>>,
    ) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (dirty, beats) = (Arc::clone(queue), Arc::clone(&seen));
        caches.leases.on_change(move |old, new| {
            let Some(lease) = new.filter(|lease| lease.metadata.namespace.as_deref() == Some(LEASES)) else {
                return;
            };
            if old.is_none_or(|old| renewed(old) != renewed(lease)) {
                beat(&beats, lease.metadata.name.as_deref());
                dirty.add(Key::new("", lease.metadata.name.as_deref().unwrap_or_default()));
            }
        });
        let (dirty, beats) = (Arc::clone(queue), Arc::clone(&seen));
        caches.nodes.on_change(move |old, new| {
            if let Some(node) = new
                && old.is_none_or(|old| heartbeat(old) != heartbeat(node))
            {
                beat(&beats, node.metadata.name.as_deref());
            }
            if let Some(node) = new.or(old) {
                dirty.add(Key::of(&node.metadata));
            }
        });
        let (dirty, nodes) = (Arc::clone(queue), caches.nodes.clone());
        caches.pods.on_change(move |old, new| {
            let Some(node) = new.and_then(node_name) else { return };
            let key = Key::new("", node);
            let arrived = old.is_none_or(|old| node_name(old).is_none());
            // A pod that arrives, or says it is ready, where nothing may be ready.
            if nodes.get(&key).is_none_or(|node| readiness(&node).is_some_and(|ready| ready != "True"))
                && (arrived || new.is_some_and(is_ready))
            {
                dirty.add(key);
            }
        });
        Self { client, caches: caches.clone(), patience, seen, queue: Arc::clone(queue) }
    }

    /// To be called at every beat of the controllers' heart: finds the nodes that are silent for too
    /// long.
    pub(super) fn clock(&self) -> impl Fn() + Send + use<> {
        let (seen, queue, patience) = (Arc::clone(&self.seen), Arc::clone(&self.queue), self.patience);
        let nodes = self.caches.nodes.clone();
        move || {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.clock += BEAT;
            let now = seen.clock;
            for node in nodes.all().iter().filter(|node| readiness(node) != Some("Unknown")) {
                let name = node.metadata.name.clone().unwrap_or_default();
                if now - *seen.beat.entry(name).or_insert(now) >= patience.silence {
                    queue.add(Key::of(&node.metadata));
                }
            }
        }
    }

    fn pods_on(&self, node: &str) -> Vec<Arc<Pod>> {
        let mut pods = self.caches.pods.all();
        pods.retain(|pod| node_name(pod) == Some(node));
        pods
    }

    /// For how long this has been going on.
    fn trouble(&self, node: &str) -> Duration {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.trouble.entry(node.to_owned()).or_insert_with(Instant::now).elapsed()
    }

    fn silence(&self, node: &str) -> Duration {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = seen.clock;
        now - *seen.beat.entry(node.to_owned()).or_insert(now)
    }

    /// Says of a silent node that nothing is known about it.
    async fn give_up(&self, node: &Node) -> anyhow::Result<()> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let now = Some(Time(jiff::Timestamp::now()));
        let unknown = CONDITIONS.map(|kind| {
            let before = condition(node, kind);
            let (reason, message) = match before {
                Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
                None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
            };
            let same = before.filter(|before| before.status == "Unknown");
            NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_heartbeat_time: before.and_then(|before| before.last_heartbeat_time.clone()),
                last_transition_time: same
                    .map_or_else(|| now.clone(), |same| same.last_transition_time.clone()),
            }
        });
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "status": {"conditions": unknown},
        });
        let api: Api<Node> = Api::all(self.client.clone());
        api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
            .await
            .with_context(|| format!("node `{name}` could not be marked as unknown"))?;
        Ok(())
    }

    /// Keeps new pods off a node that is not ready, and says so to those that are there.
    async fn taint(&self, node: &Node, key: Option<&str>) -> anyhow::Result<()> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let before: Vec<Taint> =
            node.spec.iter().flat_map(|spec| spec.taints.clone().unwrap_or_default()).collect();
        let mut after = before.clone();
        after.retain(|taint| {
            Some(taint.key.as_str()) == key || ![NOT_READY, UNREACHABLE].contains(&taint.key.as_str())
        });
        for (key, effect) in key.into_iter().flat_map(|key| [(key, "NoSchedule"), (key, "NoExecute")]) {
            if !after.iter().any(|taint| taint.key == key && taint.effect == effect) {
                after.push(Taint {
                    key: key.to_owned(),
                    effect: effect.to_owned(),
                    time_added: Some(Time(jiff::Timestamp::now())),
                    value: None,
                });
            }
        }
        if after == before {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": Some(after).filter(|after| !after.is_empty())},
        });
        let api: Api<Node> = Api::all(self.client.clone());
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .with_context(|| format!("the taints of node `{name}` could not be written"))?;
        Ok(())
    }

    /// A pod of a node that is not ready is not ready either, whatever was last heard of it.
    async fn unready(&self, pod: &Pod) -> anyhow::Result<()> {
        let told = PodCondition {
            type_: "Ready".to_owned(),
            status: "False".to_owned(),
            reason: Some("NodeNotReady".to_owned()),
            last_transition_time: Some(Time(jiff::Timestamp::now())),
            ..PodCondition::default()
        };
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [told]}});
        let key = Key::of(&pod.metadata);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let written = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        gone_is_fine(written).with_context(|| format!("pod `{key}` could not be marked as not ready"))?;
        Ok(())
    }

    async fn delete(&self, pod: &Pod, parameters: DeleteParams) -> anyhow::Result<()> {
        let uid = pod.metadata.uid.clone();
        let preconditions = Some(Preconditions { uid, resource_version: None });
        let key = Key::of(&pod.metadata);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let parameters = DeleteParams { preconditions, ..parameters };
        gone_is_fine(api.delete(&key.name, &parameters).await)
            .with_context(|| format!("pod `{key}` could not be deleted"))?;
        Ok(())
    }

    /// Takes the pods of a node that is no more: no kubelet will ever say that they ended
    /// ([Pod Lifecycle, "Garbage collection of Pods"](https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-garbage-collection)).
    async fn bury(&self, node: &str) -> anyhow::Result<Option<Duration>> {
        let pods = self.pods_on(node);
        if pods.is_empty() {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.beat.remove(node);
            seen.trouble.remove(node);
            return Ok(None);
        }
        let left = self.patience.quarantine.saturating_sub(self.trouble(node));
        if !left.is_zero() {
            return Ok(Some(left));
        }
        // The cache may lag.
        let api: Api<Node> = Api::all(self.client.clone());
        if api.get_opt(node).await?.is_none() {
            for pod in pods {
                self.delete(&pod, DeleteParams::default().grace_period(0)).await?;
            }
        }
        Ok(None)
    }

    /// Deletes pods that do not bear the node's state any longer; says when the next one is due.
    async fn evict(&self, node: &str, taint: &str, pods: &[Arc<Pod>]) -> anyhow::Result<Option<Duration>> {
        let lasted = self.trouble(node);
        let mut next = None::<Duration>;
        for pod in pods.iter().filter(|pod| !is_terminating(pod)) {
            let Some(bears) = self.bears(pod, taint) else { continue };
            let left = bears.saturating_sub(lasted);
            if left.is_zero() {
                self.delete(pod, DeleteParams::default()).await?;
            } else {
                next = Some(next.map_or(left, |next| next.min(left)));
            }
        }
        Ok(next)
    }

    /// How long the pod bears the taint; nothing if for ever.
    fn bears(&self, pod: &Pod, taint: &str) -> Option<Duration> {
        let tolerations = pod.spec.iter().filter_map(|spec| spec.tolerations.as_ref()).flatten();
        let matching: Vec<_> = tolerations
            .filter(|toleration| {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                let (key, effect) = (text(&toleration.key), text(&toleration.effect));
                let is_exists = toleration.operator.as_deref() == Some("Exists");
                (effect.is_empty() || effect == "NoExecute")
                    && (key == taint && (is_exists || text(&toleration.value).is_empty())
                        || key.is_empty() && is_exists)
            })
            .collect();
        if matching.is_empty() {
            // As if the API server had written down the default toleration.
            return Some(self.patience.eviction);
        }
        let seconds = matching.iter().filter_map(|toleration| toleration.toleration_seconds);
        seconds.min().map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
    }
}

impl Reconcile for NodeLifecycle {
    type Key = Key;
    const NAME: &'static str = "nodelifecycle";

    async fn reconcile(&self, key: Key) -> anyhow::Result<Option<Duration>> {
        let Some(node) = self.caches.nodes.get(&key) else { return self.bury(&key.name).await };
        let silent = self.silence(&key.name);
        if silent >= self.patience.silence && readiness(&node) != Some("Unknown") {
            tracing::debug!(node = key.name, ?silent, "the node fell silent");
            // The event of this write brings the key back.
            self.give_up(&node).await?;
            return Ok(None);
        }
        let taint = match readiness(&node) {
            Some("False") => Some(NOT_READY),
            Some("Unknown") => Some(UNREACHABLE),
            _ => None,
        };
        self.taint(&node, taint).await?;
        match taint {
            Some(taint) => {
                let mut pods = self.pods_on(&key.name);
                pods.retain(|pod| !is_finished(pod));
                for pod in pods.iter().filter(|pod| is_ready(pod)) {
                    self.unready(pod).await?;
                }
                self.evict(&key.name, taint, &pods).await
            }
            None => {
                self.seen.lock().unwrap_or_else(PoisonError::into_inner).trouble.remove(&key.name);
                Ok(None)
            }
        }
    }
}

fn beat(seen: &Mutex<Seen>, node: Option<&str>) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let now = seen.clock;
    seen.beat.insert(node.unwrap_or_default().to_owned(), now);
}

fn renewed(lease: &Lease) -> Option<jiff::Timestamp> {
    lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0)
}

fn heartbeat(node: &Node) -> Option<jiff::Timestamp> {
    condition(node, "Ready")?.last_heartbeat_time.as_ref().map(|time| time.0)
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// The status of its condition `Ready`.
fn readiness(node: &Node) -> Option<&str> {
    condition(node, "Ready").map(|condition| condition.status.as_str())
}
