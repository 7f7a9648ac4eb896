//! The scheduler: gives every pending pod a node
//! ([Kubernetes Scheduler](https://kubernetes.io/docs/concepts/scheduling-eviction/kube-scheduler/)).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::{
    Binding, Node, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference, Pod, PodCondition, PodSpec,
    Taint, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::task::JoinSet;

use crate::bugs::{Bug, Bugs};
use crate::controllers::events::Recorder;
use crate::controllers::informer::{Informer, Key};
use crate::controllers::pod_state::{condition, is_active, is_finished, node_name};
use crate::controllers::queue::{Queue, Reconcile, work};

const NAME: &str = "default-scheduler";

/// The running scheduler; dropping it stops it.
pub(crate) struct Scheduler {
    _tasks: JoinSet<()>,
}

impl Scheduler {
    /// Returns at once; must be called inside a tokio runtime.
    pub(crate) fn start(client: Client, bugs: Bugs) -> Self {
        let pods = Informer::<Pod>::new();
        let nodes = Informer::<Node>::new();
        let queue = Queue::new();
        let dirty = Arc::clone(&queue);
        let others = pods.clone();
        pods.on_change(move |old, new| {
            if let Some(pod) = new.filter(|pod| is_pending(pod)) {
                dirty.add(Key::of(&pod.metadata));
            }
            // A pod that ends makes room for those that found none.
            if new.is_none_or(is_finished) && old.is_some_and(|old| node_name(old).is_some()) {
                mark_pending(&others, &dirty);
            }
        });
        let dirty = Arc::clone(&queue);
        let waiting = pods.clone();
        nodes.on_change(move |old, new| {
            // Heartbeats change nothing that matters here.
            if old.map(what_matters) != new.map(what_matters) {
                mark_pending(&waiting, &dirty);
            }
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(pods.clone().run(Api::all(client.clone())));
        tasks.spawn(nodes.clone().run(Api::all(client.clone())));
        let (recorder, writing) = Recorder::new(NAME, client.clone());
        tasks.spawn(writing);
        tasks.spawn(async move {
            tokio::join!(pods.synced(), nodes.synced());
            let placement = Placement { client, pods, nodes, recorder, assumed: Mutex::default(), bugs };
            work(Arc::new(placement), queue).await;
        });
        Self { _tasks: tasks }
    }
}

/// The pod as if it asked for no port; for [`Bug::HostPortsUncounted`] only.
fn without_ports(pod: &Pod) -> Pod {
    let mut pod = pod.clone();
    let containers = pod.spec.iter_mut().flat_map(|spec| &mut spec.containers);
    containers.for_each(|container| container.ports = None);
    pod
}

fn mark_pending(pods: &Informer<Pod>, queue: &Queue<Key>) {
    for pod in pods.all().iter().filter(|pod| is_pending(pod)) {
        queue.add(Key::of(&pod.metadata));
    }
}

/// Does it wait for this scheduler?
fn is_pending(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    node_name(pod).is_none()
        && is_active(pod)
        && spec.scheduler_name.as_deref().unwrap_or(NAME) == NAME
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
}

struct Placement {
    client: Client,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    recorder: Recorder,
    /// Pods that were given a node which the cache does not show yet.
    assumed: Mutex<BTreeMap<Key, (Arc<Pod>, String)>>,
    bugs: Bugs,
}

impl Placement {
    /// Chooses a node, and from then on counts the pod there.
    fn choose(&self, key: &Key, pod: &Arc<Pod>) -> Result<String, Unschedulable> {
        let mut assumed = self.assumed.lock().unwrap_or_else(PoisonError::into_inner);
        assumed.retain(|key, (pod, _)| {
            let cached = self.pods.get(key).filter(|cached| cached.metadata.uid == pod.metadata.uid);
            cached.is_some_and(|cached| node_name(&cached).is_none())
        });
        let all = self.pods.all();
        let mut placed: Vec<(&str, &Pod)> = all
            .iter()
            .filter(|pod| !is_finished(pod))
            .filter_map(|pod| Some((node_name(pod)?, &**pod)))
            .collect();
        placed.extend(assumed.values().map(|(pod, node)| (node.as_str(), &**pod)));
        let asking = match self.bugs.has(Bug::HostPortsUncounted) {
            true => &without_ports(pod),
            false => &**pod,
        };
        let node = choose(asking, &self.nodes.all(), &placed)?;
        assumed.insert(key.clone(), (Arc::clone(pod), node.clone()));
        Ok(node)
    }

    async fn bind(&self, key: &Key, pod: &Pod, node: &str) -> anyhow::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(key.name.clone()),
                namespace: Some(key.namespace.clone()),
                uid: pod.metadata.uid.clone(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let parameters = PostParams::default();
        let bound: kube::Result<serde_json::Value> =
            api.create_subresource("binding", &key.name, &parameters, &binding).await;
        if bound.is_err() {
            self.assumed.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        }
        bound.with_context(|| format!("pod `{key}` could not be bound to node `{node}`"))?;
        self.recorder.normal(pod, "Scheduled", format!("Successfully assigned {key} to {node}"));
        Ok(())
    }

    async fn report(&self, key: &Key, pod: &Pod, message: String) -> anyhow::Result<()> {
        let before = condition(pod, "PodScheduled");
        let is_told = before
            .is_some_and(|before| before.status == "False" && before.message.as_ref() == Some(&message));
        if is_told {
            return Ok(());
        }
        self.recorder.warning(pod, "FailedScheduling", message.clone());
        let now = Some(Time(jiff::Timestamp::now()));
        let told = PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "False".to_owned(),
            reason: Some("Unschedulable".to_owned()),
            message: Some(message),
            last_transition_time: before
                .filter(|before| before.status == "False")
                .map_or(now, |before| before.last_transition_time.clone()),
            ..PodCondition::default()
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        // Strategic: conditions are merged by their type.
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [told]}});
        api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
            .await
            .with_context(|| format!("pod `{key}` could not be told that it fits nowhere"))?;
        Ok(())
    }
}

impl Reconcile for Placement {
    type Key = Key;
    const NAME: &'static str = "scheduler";

    async fn reconcile(&self, key: Key) -> anyhow::Result<Option<Duration>> {
        let Some(pod) = self.pods.get(&key).filter(|pod| is_pending(pod)) else { return Ok(None) };
        let is_assumed = {
            let assumed = self.assumed.lock().unwrap_or_else(PoisonError::into_inner);
            assumed.get(&key).is_some_and(|(assumed, _)| assumed.metadata.uid == pod.metadata.uid)
        };
        if is_assumed {
            return Ok(None);
        }
        match self.choose(&key, &pod) {
            Ok(node) => self.bind(&key, &pod, &node).await?,
            Err(Unschedulable(message)) => self.report(&key, &pod, message).await?,
        }
        Ok(None)
    }
}

/// What the scheduler reads off a node.
fn what_matters(node: &Node) -> (&ObjectLabels, bool, Vec<Taint>, Option<String>) {
    let spec = node.spec.as_ref();
    let unschedulable = spec.and_then(|spec| spec.unschedulable).unwrap_or_default();
    (&node.metadata.labels, unschedulable, taints(node), capacity(node))
}

type ObjectLabels = Option<BTreeMap<String, String>>;

/// Why no node fits, as it is told in the pod's condition.
#[derive(Debug, PartialEq, Eq)]
struct Unschedulable(String);

/// Chooses among the nodes that fit: the one with the fewest pods of the same owner, then with the
/// fewest pods, then the first by name.
fn choose(pod: &Pod, nodes: &[Arc<Node>], placed: &[(&str, &Pod)]) -> Result<String, Unschedulable> {
    let mut reasons = BTreeMap::<&str, usize>::new();
    let mut best = None;
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let here: Vec<&Pod> = placed.iter().filter(|(on, _)| *on == name).map(|(_, pod)| *pod).collect();
        if let Err(reason) = fits(pod, node, &here) {
            *reasons.entry(reason).or_default() += 1;
            continue;
        }
        let siblings = here.iter().filter(|other| are_siblings(pod, other)).count();
        let score = (siblings, here.len(), name);
        if best.is_none_or(|best| score < best) {
            best = Some(score);
        }
    }
    match best {
        Some((_, _, name)) => Ok(name.to_owned()),
        None => Err(Unschedulable(message(nodes.len(), &reasons))),
    }
}

fn message(nodes: usize, reasons: &BTreeMap<&str, usize>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut counted: Vec<_> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    counted.sort();
    format!(
        "0/{nodes} nodes are available: {}. preemption: 0/{nodes} nodes are available: {nodes} Preemption is not helpful for scheduling.",
        counted.join(", ")
    )
}

fn are_siblings(a: &Pod, b: &Pod) -> bool {
    let owner = |pod: &Pod| {
        let mut owners = pod.metadata.owner_references.iter().flatten();
        owners.find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone())
    };
    a.metadata.namespace == b.metadata.namespace && owner(a).is_some() && owner(a) == owner(b)
}

fn fits(pod: &Pod, node: &Node, here: &[&Pod]) -> Result<(), &'static str> {
    let none = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&none);
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default();
    if unschedulable && !is_tolerated(&taint("node.kubernetes.io/unschedulable"), tolerations) {
        return Err("node(s) were unschedulable");
    }
    if taints(node).iter().any(|taint| !is_tolerated(taint, tolerations)) {
        return Err("node(s) had untolerated taint(s)");
    }
    if !is_selected(spec, node) {
        return Err("node(s) didn't match Pod's node affinity/selector");
    }
    let wanted = host_ports(pod);
    let taken: Vec<_> = here.iter().flat_map(|other| host_ports(other)).collect();
    if wanted.iter().any(|wanted| taken.iter().any(|taken| are_at_odds(wanted, taken))) {
        return Err("node(s) didn't have free ports for the requested pod ports");
    }
    if capacity(node).and_then(|pods| pods.parse::<usize>().ok()).is_some_and(|most| here.len() >= most) {
        return Err("Too many pods");
    }
    Ok(())
}

/// Taints that keep new pods off. A node that is not ready counts as tainted even before anybody has
/// written the taint down.
fn taints(node: &Node) -> Vec<Taint> {
    let mut taints: Vec<_> = written_taints(node)
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .cloned()
        .collect();
    let conditions = node.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    if ready.is_none_or(|ready| ready.status != "True") {
        taints.push(taint("node.kubernetes.io/not-ready"));
    }
    taints
}

/// The taints somebody gave the node.
pub(crate) fn written_taints(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.iter().filter_map(|spec| spec.taints.as_ref()).flatten()
}

fn taint(key: &str) -> Taint {
    Taint { key: key.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() }
}

/// [Taints and Tolerations, "Concepts"](https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/#concepts)
pub(crate) fn is_tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (key, effect) = (text(&toleration.key), text(&toleration.effect));
        (effect.is_empty() || effect == taint.effect)
            && (key.is_empty() || key == taint.key)
            && match toleration.operator.as_deref().unwrap_or("Equal") {
                "Exists" => true,
                "Equal" => !key.is_empty() && text(&toleration.value) == text(&taint.value),
                _ => false,
            }
    })
}

/// [Assigning Pods to Nodes, "Node affinity"](https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#node-affinity)
pub(crate) fn is_selected(spec: &PodSpec, node: &Node) -> bool {
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let by_labels = spec.node_selector.iter().flatten().all(|(name, value)| labels.get(name) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    // Terms are alternatives; an empty list of them selects nothing.
    by_labels
        && required.is_none_or(|required| {
            required.node_selector_terms.iter().any(|term| matches_term(term, node, labels))
        })
}

fn matches_term(term: &NodeSelectorTerm, node: &Node, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let field = |name: &str| node.metadata.name.as_ref().filter(|_| name == "metadata.name");
    // "A null or empty node selector term matches no objects."
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|wanted| matches_requirement(wanted, labels.get(&wanted.key)))
        && fields.iter().all(|wanted| matches_requirement(wanted, field(&wanted.key)))
}

fn matches_requirement(wanted: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let is_in = value.is_some_and(|value| values.contains(value));
    let number = |text: &String| text.parse::<i64>().ok();
    let bound = || Some((number(value?)?, number(values.first()?)?));
    match wanted.operator.as_str() {
        "In" => is_in,
        "NotIn" => !is_in,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => bound().is_some_and(|(value, bound)| value > bound),
        "Lt" => bound().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

fn capacity(node: &Node) -> Option<String> {
    Some(node.status.as_ref()?.allocatable.as_ref()?.get("pods")?.0.clone())
}

/// A port a pod takes on its node: protocol, number, and at which of the node's addresses.
type HostPort = (String, i32, Option<String>);

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let spec = pod.spec.iter();
    // Init containers that go on running keep their ports.
    let sidecars = spec.clone().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = spec.flat_map(|spec| &spec.containers).chain(sidecars);
    let ports = containers.filter_map(|container| container.ports.as_ref()).flatten();
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let every = |address: &&String| matches!(address.as_str(), "" | "0.0.0.0" | "::");
            Some((protocol, number, port.host_ip.as_ref().filter(|address| !every(address)).cloned()))
        })
        .collect()
}

/// Protocol and number are the same, and so is an address.
fn are_at_odds(a: &HostPort, b: &HostPort) -> bool {
    (&a.0, a.1) == (&b.0, b.1) && (a.2.is_none() || b.2.is_none() || a.2 == b.2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn node(name: &str, spec: Value) -> Arc<Node> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "size": "3"}},
                "spec": spec,
                "status": {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"pods": "110"}},
            }))
            .unwrap(),
        )
    }

    fn pod(spec: Value) -> Pod {
        let mut value = json!({"metadata": {"namespace": "ns"}, "spec": {"containers": []}});
        json_patch::merge(&mut value["spec"], &spec);
        serde_json::from_value(value).unwrap()
    }

    fn owned(uid: &str) -> Pod {
        let mut pod = pod(json!({}));
        let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": uid, "uid": uid, "controller": true}]);
        pod.metadata.owner_references = serde_json::from_value(owner).unwrap();
        pod
    }

    fn lab() -> Vec<Arc<Node>> {
        ["kube0.vm", "kube1.vm", "kube2.vm"].map(|name| node(name, json!({}))).to_vec()
    }

    #[test]
    fn filters() {
        let affinity = |operator: &str, key: &str, values: &[&str]| {
            let term = json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
            let required =
                json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}});
            json!({"affinity": {"nodeAffinity": required}})
        };
        let host = "kubernetes.io/hostname";
        let tainted = json!({"taints": [{"key": "a", "value": "b", "effect": "NoSchedule"}]});
        let tolerates = |toleration: Value| json!({"tolerations": [toleration]});
        let free = json!({});
        let selector = "node(s) didn't match Pod's node affinity/selector";
        let taint = "node(s) had untolerated taint(s)";
        // the node, the pod, what keeps it off
        let table: [(&Value, Value, Result<(), &str>); 17] = [
            (&free, json!({}), Ok(())),
            (&free, json!({"nodeSelector": {host: "kube1.vm"}}), Ok(())),
            (&free, json!({"nodeSelector": {host: "kube2.vm"}}), Err(selector)),
            (&free, affinity("In", host, &["kube0.vm", "kube1.vm"]), Ok(())),
            (&free, affinity("In", "missing", &["x"]), Err(selector)),
            (&free, affinity("NotIn", host, &["kube1.vm"]), Err(selector)),
            (&free, affinity("NotIn", "missing", &["x"]), Ok(())),
            (&free, affinity("Exists", host, &[]), Ok(())),
            (&free, affinity("DoesNotExist", host, &[]), Err(selector)),
            (&free, affinity("Gt", "size", &["2"]), Ok(())),
            (&free, affinity("Lt", "size", &["3"]), Err(selector)),
            (&tainted, json!({}), Err(taint)),
            (&tainted, tolerates(json!({"key": "a", "value": "b"})), Ok(())),
            (&tainted, tolerates(json!({"key": "a", "value": "c"})), Err(taint)),
            (&tainted, tolerates(json!({"operator": "Exists"})), Ok(())),
            (&tainted, tolerates(json!({"operator": "Exists", "effect": "NoExecute"})), Err(taint)),
            (&json!({"unschedulable": true}), json!({}), Err("node(s) were unschedulable")),
        ];
        for (on, spec, expected) in table {
            assert_eq!(fits(&pod(spec.clone()), &node("kube1.vm", on.clone()), &[]), expected, "{on} {spec}");
        }
    }

    #[test]
    fn a_host_port_is_free_once() {
        let ports = |port: u16, protocol: &str| {
            pod(json!({"containers": [{"name": "c", "ports": [
                {"containerPort": port, "hostPort": port, "protocol": protocol}]}]}))
        };
        let node = node("kube1.vm", json!({}));
        assert!(fits(&ports(80, "TCP"), &node, &[&ports(80, "TCP")]).is_err());
        assert!(fits(&ports(80, "TCP"), &node, &[&ports(80, "UDP"), &ports(81, "TCP")]).is_ok());
    }

    #[test]
    fn the_message_counts_reasons() {
        let mut unready = (*node("kube2.vm", json!({}))).clone();
        unready.status.as_mut().unwrap().conditions = None;
        let nodes = [
            node("kube0.vm", json!({"unschedulable": true})),
            node("kube1.vm", json!({"unschedulable": true})),
            Arc::new(unready),
        ];
        let Unschedulable(message) = choose(&pod(json!({})), &nodes, &[]).unwrap_err();
        assert_eq!(
            message,
            "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 node(s) were unschedulable. \
             preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
        );
        let Unschedulable(message) = choose(&pod(json!({})), &[], &[]).unwrap_err();
        assert_eq!(message, "no nodes available to schedule pods");
    }

    #[test]
    fn siblings_weigh_more_than_the_load() {
        let (a, b) = (owned("a"), owned("b"));
        let placed = [("kube0.vm", &a), ("kube1.vm", &b), ("kube1.vm", &b), ("kube2.vm", &a)];
        assert_eq!(choose(&a, &lab(), &placed), Ok("kube1.vm".to_owned()));
        assert_eq!(choose(&b, &lab(), &placed), Ok("kube0.vm".to_owned()));
    }

    proptest! {
        #[test]
        fn replicas_are_spread_evenly(count in 1..30_usize, others in prop::collection::vec(0..3_usize, 0..20)) {
            let nodes = lab();
            let stranger = owned("other");
            let replica = owned("mine");
            let name = |index: usize| nodes[index].metadata.name.clone().unwrap();
            let mut names: Vec<(String, &Pod)> = others.iter().map(|index| (name(*index), &stranger)).collect();
            for _ in 0..count {
                let placed: Vec<_> = names.iter().map(|(node, pod)| (node.as_str(), *pod)).collect();
                let node = choose(&replica, &nodes, &placed).unwrap();
                names.push((node, &replica));
            }
            let mine = |index: usize| {
                names[others.len()..].iter().filter(|(node, _)| *node == name(index)).count()
            };
            let counts = [mine(0), mine(1), mine(2)];
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        }
    }
}
