//! DaemonSets: a pod on every node that fits
//! ([DaemonSet](https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/)).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    Toleration,
};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::core::SelectorExt;
use kube::{Api, Client};

use super::caches::Caches;
use super::daemonset_history;
use super::daemonset_plan::{Limits, OnNode, Plan, plan};
use super::deployment::template_hash;
use super::events::Recorder;
use super::expectations::{Expectations, LOOK_AGAIN};
use super::informer::Key;
use super::ownership::{Claim, adopt, claim, controlled_by, controller, disown, selector};
use super::pod_state::{Availability, availability, is_ready, is_terminating, phase};
use super::queue::{Queue, Reconcile};
use super::replicaset::{drop_after_answers, gone_is_fine, pod_of};
use crate::scheduler::{is_selected, is_tolerated, written_taints};

/// Names the template a pod was made from.
pub(super) const HASH: &str = "controller-revision-hash";
/// How many requests are under way at once.
const AT_ONCE: usize = 16;
const NODE_FIELD: &str = "metadata.name";
/// What every pod of a DaemonSet tolerates
/// ([DaemonSet, "Taints and tolerations"](https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/#taints-and-tolerations)).
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// And those that use the network of their node.
const TOLERATED_BY_HOST_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

pub(super) struct DaemonSets {
    client: Client,
    caches: Caches,
    recorder: Recorder,
    expectations: Expectations<Pod>,
}

impl DaemonSets {
    pub(super) fn new(client: Client, caches: &Caches, recorder: Recorder, queue: &Arc<Queue<Key>>) -> Self {
        let dirty = Arc::clone(queue);
        caches.daemon_sets.on_change(move |old, new| {
            if let Some(daemon_set) = new.or(old) {
                dirty.add(Key::of(&daemon_set.metadata));
            }
        });
        let dirty = Arc::clone(queue);
        let daemon_sets = caches.daemon_sets.clone();
        caches.pods.on_change(move |old, new| {
            for pod in [old, new].into_iter().flatten() {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                match controller(&pod.metadata) {
                    Some(owner) if owner.kind == "DaemonSet" => dirty.add(Key::new(namespace, &owner.name)),
                    Some(_) => {}
                    None => {
                        let labels = pod.metadata.labels.clone().unwrap_or_default();
                        for daemon_set in daemon_sets.in_namespace(namespace) {
                            let wanted = selector(&daemon_set.spec.selector);
                            if matches!(wanted, Ok(Some(wanted)) if wanted.matches(&labels)) {
                                dirty.add(Key::of(&daemon_set.metadata));
                            }
                        }
                    }
                }
            }
        });
        let dirty = Arc::clone(queue);
        let daemon_sets = caches.daemon_sets.clone();
        caches.nodes.on_change(move |old, new| {
            if old.map(what_matters) != new.map(what_matters) {
                for daemon_set in daemon_sets.all() {
                    dirty.add(Key::of(&daemon_set.metadata));
                }
            }
        });
        Self {
            client,
            caches: caches.clone(),
            recorder,
            expectations: Expectations::new(caches.pods.clone()),
        }
    }

    /// The pods that are its own, after taking in orphans and letting go of strangers.
    async fn claim(&self, key: &Key, daemon_set: &DaemonSet) -> anyhow::Result<Vec<Arc<Pod>>> {
        let Some(wanted) = selector(&daemon_set.spec.selector)? else { return Ok(Vec::new()) };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let uid = daemon_set.metadata.uid.as_deref().unwrap_or_default();
        let mut mine = Vec::new();
        for pod in self.caches.pods.in_namespace(&key.namespace) {
            match claim(&daemon_set.metadata, &wanted, &pod.metadata) {
                Claim::Mine => mine.push(pod),
                Claim::NotMine => {}
                Claim::Release => {
                    gone_is_fine(disown(&api, &pod.metadata, &[uid]).await)?;
                }
                Claim::Adopt => {
                    // The cache may lag: an owner that is gone must not adopt.
                    let live = Api::<DaemonSet>::namespaced(self.client.clone(), &key.namespace)
                        .get_opt(&key.name)
                        .await?;
                    let stays = live.is_some_and(|live| {
                        live.metadata.uid == daemon_set.metadata.uid
                            && live.metadata.deletion_timestamp.is_none()
                    });
                    if stays
                        && let Some(pod) = gone_is_fine(adopt(&api, &*pod, controlled_by(daemon_set)).await)?
                    {
                        mine.push(Arc::new(pod));
                    }
                }
            }
        }
        Ok(mine)
    }

    async fn carry_out(&self, key: &Key, daemon_set: &DaemonSet, plan: Plan) -> anyhow::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let (api, hash) = (&api, template_hash(&daemon_set.spec.template, collisions(daemon_set))?);
        let deleted: Vec<_> = futures::stream::iter(plan.delete)
            .map(|pod| async move {
                self.expectations.deleted(key, &pod.metadata);
                let parameters = DeleteParams {
                    preconditions: Some(Preconditions {
                        uid: pod.metadata.uid.clone(),
                        resource_version: None,
                    }),
                    ..DeleteParams::default()
                };
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                if phase(&pod) == "Failed" {
                    let message = format!("Found failed daemon pod {key} on node, will try to kill it");
                    self.recorder.warning(daemon_set, "FailedDaemonPod", message);
                }
                let outcome = gone_is_fine(api.delete(name, &parameters).await);
                match &outcome {
                    Err(_) => self.expectations.not_deleted(key, &pod.metadata),
                    Ok(_) => {
                        let message = format!("Deleted pod: {name}");
                        self.recorder.normal(daemon_set, "SuccessfulDelete", message);
                    }
                }
                outcome
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for outcome in deleted {
            outcome.with_context(|| format!("a pod of DaemonSet `{key}` could not be deleted"))?;
        }
        let parameters = &PostParams::default();
        let pods: Vec<Pod> = plan.create.iter().map(|node| new_pod(daemon_set, node, &hash)).collect();
        let mut creations = futures::stream::iter(pods)
            .map(|pod| async move { api.create(parameters, &pod).await })
            .buffer_unordered(AT_ONCE);
        while let Some(created) = creations.next().await {
            match created {
                Ok(pod) => {
                    self.expectations.written(key, &pod.metadata);
                    let name = pod.metadata.name.unwrap_or_default();
                    self.recorder.normal(daemon_set, "SuccessfulCreate", format!("Created pod: {name}"));
                }
                Err(error) => {
                    // Those under way may have been made as well, and must not be made again.
                    let seen = |pod: Pod| self.expectations.written(key, &pod.metadata);
                    drop_after_answers(creations, seen, AT_ONCE).await;
                    return Err(error).with_context(|| format!("no pod could be made for DaemonSet `{key}`"));
                }
            }
        }
        Ok(())
    }

    async fn write_status(&self, daemon_set: &DaemonSet, status: DaemonSetStatus) -> kube::Result<()> {
        if daemon_set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let namespace = daemon_set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<DaemonSet> = Api::namespaced(self.client.clone(), namespace);
        let name = daemon_set.metadata.name.as_deref().unwrap_or_default();
        let updated = DaemonSet { status: Some(status), ..daemon_set.clone() };
        gone_is_fine(api.replace_status(name, &PostParams::default(), &updated).await)?;
        Ok(())
    }
}

impl Reconcile for DaemonSets {
    type Key = Key;
    const NAME: &'static str = "daemonset";

    async fn reconcile(&self, key: Key) -> anyhow::Result<Option<Duration>> {
        let Some(daemon_set) = self.caches.daemon_sets.get(&key) else {
            self.expectations.forget(&key);
            return Ok(None);
        };
        // Asked before the pods are read: what is met now is in what is read next.
        let caught_up = self.expectations.are_met(&key);
        let nodes = self.caches.nodes.all();
        let mine = self.claim(&key, &daemon_set).await?;
        if daemon_set.metadata.deletion_timestamp.is_none() {
            let hash = template_hash(&daemon_set.spec.template, collisions(&daemon_set))?;
            let labels = mine.iter().filter_map(|pod| pod.metadata.labels.as_ref()?.get(HASH).cloned());
            let in_use: Vec<String> = labels.collect();
            let revisions = self.caches.controller_revisions.in_namespace(&key.namespace);
            let step = daemonset_history::step(&daemon_set, &hash, &in_use, &revisions)?;
            daemonset_history::carry_out(&self.client, &key.namespace, step).await?;
        }
        let now = Timestamp::now();
        let (places, next) = places(&daemon_set, &nodes, &mine, now)?;
        let done = if caught_up && daemon_set.metadata.deletion_timestamp.is_none() {
            let limits = Limits::new(
                daemon_set.spec.update_strategy.as_ref(),
                places.iter().filter(|place| place.wanted).count(),
            );
            self.carry_out(&key, &daemon_set, plan(&places, limits)).await
        } else {
            Ok(())
        };
        self.write_status(&daemon_set, status(&daemon_set, &places)).await?;
        done?;
        Ok(if caught_up { next } else { Some(LOOK_AGAIN) })
    }
}

fn collisions(daemon_set: &DaemonSet) -> Option<i32> {
    daemon_set.status.as_ref().and_then(|status| status.collision_count)
}

/// What of a node decides whether a pod belongs there.
fn what_matters(
    node: &Node,
) -> (Option<BTreeMap<String, String>>, Option<k8s_openapi::api::core::v1::NodeSpec>) {
    (node.metadata.labels.clone(), node.spec.clone())
}

/// Every node with the DaemonSet's pods there, and when the next pod becomes available by time alone.
fn places(
    daemon_set: &DaemonSet,
    nodes: &[Arc<Node>],
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> anyhow::Result<(Vec<OnNode>, Option<Duration>)> {
    let hash = template_hash(&daemon_set.spec.template, collisions(daemon_set))?;
    let min_ready = daemon_set.spec.min_ready_seconds.unwrap_or_default();
    let mut next: Option<Duration> = None;
    let mut by_node = BTreeMap::<&str, Vec<_>>::new();
    for pod in pods {
        let availability = availability(pod, min_ready, now);
        if let Availability::After(wait) = availability {
            let wait = wait.unsigned_abs();
            next = Some(next.map_or(wait, |next| next.min(wait)));
        }
        by_node.entry(meant_for(pod).unwrap_or_default()).or_default().push(super::daemonset_plan::OwnPod {
            is_new: pod.metadata.labels.as_ref().and_then(|labels| labels.get(HASH)) == Some(&hash),
            is_available: availability == Availability::Available && !is_terminating(pod),
            pod: Arc::clone(pod),
        });
    }
    let mut template = daemon_set.spec.template.spec.clone().unwrap_or_default();
    tolerate(&mut template);
    let mut places = Vec::new();
    for node in nodes {
        let name = node.metadata.name.clone().unwrap_or_default();
        let (wanted, may_stay) = belongs(&template, node);
        let pods = by_node.remove(name.as_str()).unwrap_or_default();
        places.push(OnNode { name, wanted, may_stay, pods });
    }
    // Their nodes are gone: so may they.
    for (name, pods) in by_node {
        places.push(OnNode { name: name.to_owned(), wanted: false, may_stay: false, pods });
    }
    Ok((places, next))
}

/// Should a pod be on this node, and may one that is there stay?
fn belongs(template: &PodSpec, node: &Node) -> (bool, bool) {
    let name_fits = template.node_name.as_ref().is_none_or(|name| Some(name) == node.metadata.name.as_ref());
    if !name_fits || !is_selected(template, node) {
        return (false, false);
    }
    let tolerations = template.tolerations.as_deref().unwrap_or_default();
    let tolerates = |effects: &[&str]| {
        written_taints(node)
            .filter(|taint| effects.contains(&taint.effect.as_str()))
            .all(|taint| is_tolerated(taint, tolerations))
    };
    (tolerates(&["NoSchedule", "NoExecute"]), tolerates(&["NoExecute"]))
}

/// The node the pod is on, or was made for.
fn meant_for(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        return Some(node);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let mut fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let field = fields.find(|field| field.key == NODE_FIELD)?;
    field.values.as_ref()?.first().map(String::as_str)
}

fn tolerate(spec: &mut PodSpec) {
    let host_network = spec.host_network == Some(true);
    let tolerations = spec.tolerations.get_or_insert_default();
    let by_network = host_network.then_some(TOLERATED_BY_HOST_NETWORK);
    for (key, effect) in TOLERATED.into_iter().chain(by_network) {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
}

/// "The DaemonSet controller creates a Pod for each eligible node and adds the `spec.affinity.nodeAffinity`
/// field of the Pod to match the target host."
fn new_pod(daemon_set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let mut pod = pod_of(daemon_set, daemon_set.spec.template.clone());
    pod.metadata.labels.get_or_insert_default().insert(HASH.to_owned(), hash.to_owned());
    let spec = pod.spec.get_or_insert_default();
    tolerate(spec);
    let affinity = spec.affinity.get_or_insert_with(Affinity::default);
    let affinity = affinity.node_affinity.get_or_insert_with(NodeAffinity::default);
    let required = &mut affinity.required_during_scheduling_ignored_during_execution;
    let this_node = vec![NodeSelectorRequirement {
        key: NODE_FIELD.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    }];
    match required
        .as_mut()
        .map(|required| &mut required.node_selector_terms)
        .filter(|terms| !terms.is_empty())
    {
        Some(terms) => {
            for term in terms {
                term.match_fields = Some(this_node.clone());
            }
        }
        None => {
            let term = NodeSelectorTerm { match_fields: Some(this_node), ..NodeSelectorTerm::default() };
            *required = Some(NodeSelector { node_selector_terms: vec![term] });
        }
    }
    pod
}

fn status(daemon_set: &DaemonSet, places: &[OnNode]) -> DaemonSetStatus {
    let mut status = DaemonSetStatus {
        observed_generation: daemon_set.metadata.generation,
        collision_count: collisions(daemon_set),
        conditions: daemon_set.status.as_ref().and_then(|status| status.conditions.clone()),
        ..DaemonSetStatus::default()
    };
    let (mut available, mut updated) = (0, 0);
    for place in places {
        // The oldest counts, as upstream: with a surge there may be two for a while.
        let mut there: Vec<_> =
            place.pods.iter().filter(|own| !super::pod_state::is_finished(&own.pod)).collect();
        there.sort_by_key(|own| (is_ready(&own.pod), own.pod.metadata.creation_timestamp.clone()));
        match (place.wanted, there.is_empty()) {
            (true, true) => status.desired_number_scheduled += 1,
            (true, false) => {
                status.desired_number_scheduled += 1;
                status.current_number_scheduled += 1;
                status.number_ready += i32::from(there.iter().any(|own| is_ready(&own.pod)));
                available += i32::from(there.iter().any(|own| own.is_available));
                updated += i32::from(there.iter().any(|own| own.is_new));
            }
            (false, false) => status.number_misscheduled += 1,
            (false, true) => {}
        }
    }
    let some = |number: i32| Some(number).filter(|number| *number > 0);
    status.updated_number_scheduled = some(updated);
    status.number_available = some(available);
    status.number_unavailable = some(status.desired_number_scheduled - available);
    status
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn daemon_set(spec: Value) -> DaemonSet {
        let mut value = json!({
            "metadata": {"namespace": "ns", "name": "proxy", "uid": "1", "generation": 2},
            "spec": {"selector": {"matchLabels": {"app": "proxy"}}, "template": {
                "metadata": {"labels": {"app": "proxy"}}, "spec": {"containers": []}}},
        });
        json_patch::merge(&mut value["spec"]["template"]["spec"], &spec);
        serde_json::from_value(value).unwrap()
    }

    fn node(name: &str, labels: Value, taints: Value) -> Arc<Node> {
        let node = json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}});
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn wanted_on(spec: Value, nodes: &[Arc<Node>]) -> Vec<String> {
        let (places, _) = places(&daemon_set(spec), nodes, &[], Timestamp::now()).unwrap();
        places.into_iter().filter(|place| place.wanted).map(|place| place.name).collect()
    }

    #[test]
    fn nodes_are_chosen_by_selector_and_taints() {
        let taint =
            |effect: &str| json!([{"key": "node-role.kubernetes.io/control-plane", "effect": effect}]);
        let nodes = [
            node("kube0", json!({}), taint("NoSchedule")),
            node("kube1", json!({"disk": "ssd"}), json!([])),
            node(
                "kube2",
                json!({}),
                json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]),
            ),
        ];
        assert_eq!(wanted_on(json!({}), &nodes), ["kube1", "kube2"]);
        assert_eq!(
            wanted_on(json!({"tolerations": [{"operator": "Exists"}]}), &nodes),
            ["kube0", "kube1", "kube2"]
        );
        assert_eq!(wanted_on(json!({"nodeSelector": {"disk": "ssd"}}), &nodes), ["kube1"]);
        assert_eq!(wanted_on(json!({"nodeName": "kube2"}), &nodes), ["kube2"]);
        let plain = PodSpec::default();
        assert_eq!(belongs(&plain, &nodes[0]), (false, true), "what is there stays");
        assert_eq!(belongs(&plain, &node("x", json!({}), taint("NoExecute"))), (false, false));
    }

    #[test]
    fn a_pod_is_bound_to_its_node_by_affinity() {
        let pod = new_pod(&daemon_set(json!({"hostNetwork": true})), "kube1", "abc");
        assert_eq!(meant_for(&pod), Some("kube1"));
        let value = serde_json::to_value(&pod).unwrap();
        assert_eq!(value["metadata"]["labels"], json!({"app": "proxy", HASH: "abc"}));
        assert_eq!(value["metadata"]["generateName"], "proxy-");
        assert_eq!(value["metadata"]["ownerReferences"][0]["kind"], "DaemonSet");
        assert_eq!(value["spec"]["tolerations"].as_array().unwrap().len(), 7);
        let mut terms = daemon_set(json!({"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "disk", "operator": "Exists"}]},
        ]}}}}));
        terms.spec.template.metadata = None;
        let pod = serde_json::to_value(new_pod(&terms, "kube1", "abc")).unwrap();
        let term = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            ["nodeSelectorTerms"][0];
        assert_eq!(term["matchExpressions"][0]["key"], "disk");
        assert_eq!(term["matchFields"][0]["values"], json!(["kube1"]));
    }

    #[test]
    fn the_status_counts_nodes() {
        let daemon_set = daemon_set(json!({"nodeSelector": {"disk": "ssd"}}));
        let hash = template_hash(&daemon_set.spec.template, None).unwrap();
        let pod = |node: &str, hash: &str, ready: &str| -> Arc<Pod> {
            let conditions =
                json!([{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
            Arc::new(
                serde_json::from_value(json!({
                    "metadata": {"name": node, "labels": {HASH: hash}},
                    "spec": {"nodeName": node, "containers": []},
                    "status": {"phase": "Running", "conditions": conditions},
                }))
                .unwrap(),
            )
        };
        let ssd = || json!({"disk": "ssd"});
        let nodes = [("a", ssd()), ("b", ssd()), ("c", ssd()), ("d", json!({}))]
            .map(|(name, labels)| node(name, labels, json!([])));
        let pods = [
            pod("a", &hash, "True"),
            pod("b", "old", "False"),
            pod("d", &hash, "True"),
            pod("gone", &hash, "True"),
        ];
        let (places, _) = places(&daemon_set, &nodes, &pods, Timestamp::now()).unwrap();
        assert_eq!(
            serde_json::to_value(status(&daemon_set, &places)).unwrap(),
            json!({"desiredNumberScheduled": 3, "currentNumberScheduled": 2, "numberMisscheduled": 2, "numberReady": 1,
                "updatedNumberScheduled": 1, "numberAvailable": 1, "numberUnavailable": 2, "observedGeneration": 2})
        );
    }
}
