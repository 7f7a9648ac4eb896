//! ReplicaSets and ReplicationControllers: as many pods as wanted, no more, no fewer
//! ([ReplicaSet](https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/),
//! [ReplicationController](https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller/)).

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, ReplicationController, ReplicationControllerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::core::{Selector, SelectorExt};
use kube::{Api, Client, Resource};
use serde::Serialize;

use super::caches::Caches;
use super::events::Recorder;
use super::expectations::{Expectations, LOOK_AGAIN};
use super::informer::{Cached, Informer, Key};
use super::ownership::{Claim, adopt, claim, controlled_by, controller, disown, selector};
use super::pod_rank::first_to_go;
use super::pod_state::{Availability, availability, is_active, is_finished, is_ready, is_terminating};
use super::queue::{Queue, Reconcile};

/// How many pods one reconcile makes or deletes at most, and how many of these at once.
const BURST: usize = 500;
const AT_ONCE: usize = 16;

/// A kind whose objects ask for a number of pods that are all alike.
pub(super) trait Replicated:
    Cached + Resource<Scope = NamespaceResourceScope> + Serialize + PartialEq
{
    const CONTROLLER: &'static str;

    fn informer(caches: &Caches) -> &Informer<Self>;

    fn selector(&self) -> anyhow::Result<Option<Selector>>;

    fn replicas(&self) -> Option<i32>;

    fn template(&self) -> Option<&PodTemplateSpec>;

    fn min_ready_seconds(&self) -> Option<i32>;

    /// The object with these numbers in its status; what else stands there stays.
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

impl Replicated for ReplicaSet {
    const CONTROLLER: &'static str = "replicaset";

    fn informer(caches: &Caches) -> &Informer<Self> {
        &caches.replica_sets
    }

    fn selector(&self) -> anyhow::Result<Option<Selector>> {
        selector(&self.spec.selector)
    }

    fn replicas(&self) -> Option<i32> {
        self.spec.replicas
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.template.as_ref()
    }

    fn min_ready_seconds(&self) -> Option<i32> {
        self.spec.min_ready_seconds
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        let conditions = self.status.as_ref().and_then(|status| status.conditions.clone());
        Self { status: Some(ReplicaSetStatus { conditions, ..status }), ..self.clone() }
    }
}

impl Replicated for ReplicationController {
    const CONTROLLER: &'static str = "replicationcontroller";

    fn informer(caches: &Caches) -> &Informer<Self> {
        &caches.replication_controllers
    }

    /// "If unspecified, .spec.selector will be defaulted to" the labels of the template.
    fn selector(&self) -> anyhow::Result<Option<Selector>> {
        let given = self.spec.as_ref().and_then(|spec| spec.selector.clone()).filter(|all| !all.is_empty());
        let of_template =
            || self.template().and_then(|template| template.metadata.clone()).and_then(|meta| meta.labels);
        selector(&LabelSelector { match_labels: given.or_else(of_template), match_expressions: None })
    }

    fn replicas(&self) -> Option<i32> {
        self.spec.as_ref()?.replicas
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn min_ready_seconds(&self) -> Option<i32> {
        self.spec.as_ref()?.min_ready_seconds
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        let status = ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions: self.status.as_ref().and_then(|status| status.conditions.clone()),
        };
        Self { status: Some(status), ..self.clone() }
    }
}

/// The controller of one such kind.
pub(super) struct ReplicaSets<K> {
    client: Client,
    caches: Caches,
    recorder: Recorder,
    expectations: Expectations<Pod>,
    kind: PhantomData<K>,
}

impl<K: Replicated> ReplicaSets<K> {
    pub(super) fn new(client: Client, caches: &Caches, recorder: Recorder, queue: &Arc<Queue<Key>>) -> Self {
        let dirty = Arc::clone(queue);
        K::informer(caches).on_change(move |old, new| {
            if let Some(replica_set) = new.or(old) {
                dirty.add(Key::of(replica_set.meta()));
            }
        });
        let dirty = Arc::clone(queue);
        let replica_sets = K::informer(caches).clone();
        caches.pods.on_change(move |old, new| {
            for pod in [old, new].into_iter().flatten() {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                match controller(&pod.metadata) {
                    Some(owner) if owner.kind == K::kind(&()) => dirty.add(Key::new(namespace, &owner.name)),
                    Some(_) => {}
                    // An orphan may be adopted by whoever selects it.
                    None => {
                        let labels = pod.metadata.labels.clone().unwrap_or_default();
                        for replica_set in replica_sets.in_namespace(namespace) {
                            let wanted = replica_set.selector();
                            if matches!(wanted, Ok(Some(wanted)) if wanted.matches(&labels)) {
                                dirty.add(Key::of(replica_set.meta()));
                            }
                        }
                    }
                }
            }
        });
        Self {
            client,
            caches: caches.clone(),
            recorder,
            expectations: Expectations::new(caches.pods.clone()),
            kind: PhantomData,
        }
    }

    /// The pods that are its own, after taking in orphans and letting go of strangers.
    async fn claim(&self, replica_set: &K, pods: Vec<Arc<Pod>>) -> anyhow::Result<Vec<Arc<Pod>>> {
        let Some(wanted) = replica_set.selector()? else { return Ok(Vec::new()) };
        let namespace = replica_set.meta().namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let uid = replica_set.meta().uid.as_deref().unwrap_or_default();
        let mut mine = Vec::new();
        let mut may_adopt = None;
        for pod in pods {
            match claim(replica_set.meta(), &wanted, &pod.metadata) {
                Claim::Mine => mine.push(pod),
                Claim::NotMine => {}
                Claim::Release => {
                    gone_is_fine(disown(&api, &pod.metadata, &[uid]).await)?;
                }
                Claim::Adopt => {
                    // The cache may lag: an owner that is gone must not adopt.
                    if may_adopt.is_none() {
                        may_adopt = Some(self.still_there(replica_set).await?);
                    }
                    if may_adopt == Some(true)
                        && let Some(pod) = gone_is_fine(adopt(&api, &*pod, controlled_by(replica_set)).await)?
                    {
                        mine.push(Arc::new(pod));
                    }
                }
            }
        }
        Ok(mine)
    }

    async fn still_there(&self, replica_set: &K) -> kube::Result<bool> {
        let namespace = replica_set.meta().namespace.as_deref().unwrap_or_default();
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let live = api.get_opt(replica_set.meta().name.as_deref().unwrap_or_default()).await?;
        Ok(live.is_some_and(|live| {
            live.meta().uid == replica_set.meta().uid && live.meta().deletion_timestamp.is_none()
        }))
    }

    /// Makes or deletes pods until `active` are as many as wanted.
    async fn scale(&self, key: &Key, replica_set: &K, active: &[Arc<Pod>]) -> anyhow::Result<()> {
        let wanted = usize::try_from(wanted(replica_set)).unwrap_or_default();
        if active.len() < wanted {
            self.create(key, replica_set, (wanted - active.len()).min(BURST)).await
        } else if active.len() > wanted {
            let count = (active.len() - wanted).min(BURST);
            let related = self.related(replica_set);
            self.delete(key, replica_set, first_to_go(active.to_vec(), &related, count, Timestamp::now()))
                .await
        } else {
            Ok(())
        }
    }

    async fn create(&self, key: &Key, replica_set: &K, count: usize) -> anyhow::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let pod = new_pod(replica_set)?;
        let parameters = PostParams::default();
        let mut creations =
            futures::stream::iter(0..count).map(|_| api.create(&parameters, &pod)).buffer_unordered(AT_ONCE);
        let mut failure = None;
        while let Some(created) = creations.next().await {
            match created {
                Ok(pod) => {
                    self.expectations.written(key, &pod.metadata);
                    let name = pod.metadata.name.unwrap_or_default();
                    self.recorder.normal(replica_set, "SuccessfulCreate", format!("Created pod: {name}"));
                }
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        match failure {
            None => Ok(()),
            Some(error) => {
                // Those under way may have been made as well, and must not be made again.
                drop_after_answers(creations, |pod| self.expectations.written(key, &pod.metadata), AT_ONCE)
                    .await;
                Err(error).with_context(|| format!("no pod could be made for {} `{key}`", K::kind(&())))
            }
        }
    }

    async fn delete(&self, key: &Key, replica_set: &K, pods: Vec<Arc<Pod>>) -> anyhow::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let api = &api;
        let deleted: Vec<_> = futures::stream::iter(pods)
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
                let outcome = gone_is_fine(api.delete(name, &parameters).await);
                if outcome.is_err() {
                    self.expectations.not_deleted(key, &pod.metadata);
                } else {
                    self.recorder.normal(replica_set, "SuccessfulDelete", format!("Deleted pod: {name}"));
                }
                outcome
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for outcome in deleted {
            outcome.with_context(|| format!("a pod of {} `{key}` could not be deleted", K::kind(&())))?;
        }
        Ok(())
    }

    /// The active pods of all ReplicaSets that have the same owner as this one.
    fn related(&self, replica_set: &K) -> Vec<Arc<Pod>> {
        let namespace = replica_set.meta().namespace.as_deref().unwrap_or_default();
        let owner = controller(replica_set.meta()).map(|owner| &owner.uid);
        let siblings: Vec<_> = match owner {
            None => vec![replica_set.meta().uid.clone()],
            Some(_) => (K::informer(&self.caches).in_namespace(namespace).iter())
                .filter(|other| controller(other.meta()).map(|owner| &owner.uid) == owner)
                .map(|other| other.meta().uid.clone())
                .collect(),
        };
        let mut pods = self.caches.pods.in_namespace(namespace);
        pods.retain(|pod| {
            let owner = controller(&pod.metadata).map(|owner| owner.uid.clone());
            is_active(pod) && owner.is_some() && siblings.contains(&owner)
        });
        pods
    }

    async fn write_status(&self, replica_set: &K, status: ReplicaSetStatus) -> kube::Result<()> {
        let updated = replica_set.with_status(status);
        if updated == *replica_set {
            return Ok(());
        }
        let namespace = replica_set.meta().namespace.as_deref().unwrap_or_default();
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let name = replica_set.meta().name.as_deref().unwrap_or_default();
        gone_is_fine(api.replace_status(name, &PostParams::default(), &updated).await)?;
        Ok(())
    }
}

impl<K: Replicated> Reconcile for ReplicaSets<K> {
    type Key = Key;
    const NAME: &'static str = K::CONTROLLER;

    async fn reconcile(&self, key: Key) -> anyhow::Result<Option<Duration>> {
        let Some(replica_set) = K::informer(&self.caches).get(&key) else {
            self.expectations.forget(&key);
            return Ok(None);
        };
        // Asked before the pods are read: what is met now is in what is read next.
        let caught_up = self.expectations.are_met(&key);
        let mut pods = self.caches.pods.in_namespace(&key.namespace);
        pods.retain(|pod| !is_finished(pod));
        let mine = self.claim(&replica_set, pods).await?;
        let (terminating, active): (Vec<_>, Vec<_>) = mine.into_iter().partition(|pod| is_terminating(pod));
        let scaled = if caught_up && replica_set.meta().deletion_timestamp.is_none() {
            self.scale(&key, &replica_set, &active).await
        } else {
            Ok(())
        };
        let now = Timestamp::now();
        let (status, next) = status(&*replica_set, &active, terminating.len(), now);
        self.write_status(&replica_set, status).await?;
        scaled?;
        Ok(if caught_up { next } else { Some(LOOK_AGAIN) })
    }
}

fn wanted<K: Replicated>(replica_set: &K) -> i32 {
    replica_set.replicas().unwrap_or(1).max(0)
}

/// What is to be reported, and when the next pod becomes available by time alone.
fn status<K: Replicated>(
    replica_set: &K,
    active: &[Arc<Pod>],
    terminating: usize,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let min_ready = replica_set.min_ready_seconds().unwrap_or_default();
    let template = replica_set.template();
    let wanted: BTreeMap<String, String> = template
        .and_then(|template| template.metadata.as_ref())
        .and_then(|meta| meta.labels.clone())
        .unwrap_or_default();
    let is_fully_labeled = |pod: &Arc<Pod>| {
        let none = BTreeMap::new();
        let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
        wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
    };
    let availabilities: Vec<_> = active.iter().map(|pod| availability(pod, min_ready, now)).collect();
    let available = availabilities.iter().filter(|one| **one == Availability::Available).count();
    let next = availabilities
        .iter()
        .filter_map(|one| match one {
            Availability::After(wait) => Some(wait.unsigned_abs()),
            _ => None,
        })
        .min();
    let status = ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: Some(count(active.iter().filter(|pod| is_fully_labeled(pod)).count())),
        ready_replicas: Some(count(active.iter().filter(|pod| is_ready(pod)).count())),
        available_replicas: Some(count(available)),
        terminating_replicas: Some(count(terminating)),
        observed_generation: replica_set.meta().generation,
        conditions: None,
    };
    (status, next)
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A pod from the template.
fn new_pod<K: Replicated>(replica_set: &K) -> anyhow::Result<Pod> {
    let template = replica_set.template().cloned();
    let template = template.with_context(|| format!("a {} without template", K::kind(&())))?;
    Ok(pod_of(replica_set, template))
}

/// A pod from a template, owned by whose template it is.
pub(super) fn pod_of<K: Resource<DynamicType = ()>>(owner: &K, template: PodTemplateSpec) -> Pod {
    let PodTemplateSpec { metadata, spec } = template;
    let metadata = metadata.unwrap_or_default();
    let name = owner.meta().name.as_deref().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: owner.meta().namespace.clone(),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![controlled_by(owner)]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

/// Lets requests that were already sent come back before giving up on the rest.
pub(super) async fn drop_after_answers<T>(
    mut answers: impl futures::Stream<Item = kube::Result<T>> + Unpin,
    mut seen: impl FnMut(T),
    at_most: usize,
) {
    for _ in 0..at_most {
        match answers.next().await {
            Some(Ok(answer)) => seen(answer),
            Some(Err(_)) => {}
            None => break,
        }
    }
}

/// What was deleted by somebody else meanwhile needs no more work.
pub(super) fn gone_is_fine<T>(outcome: kube::Result<T>) -> kube::Result<Option<T>> {
    match outcome {
        Ok(answer) => Ok(Some(answer)),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn replica_set() -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "web", "uid": "1", "generation": 3},
            "spec": {"replicas": 2, "minReadySeconds": 10, "selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web", "tier": "front"}, "annotations": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "goweb"}]},
            }},
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_is_made_from_the_template() {
        let pod = serde_json::to_value(new_pod(&replica_set()).unwrap()).unwrap();
        assert_eq!(
            pod,
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "generateName": "web-", "namespace": "ns",
                    "labels": {"app": "web", "tier": "front"}, "annotations": {"a": "b"},
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "1",
                        "controller": true, "blockOwnerDeletion": true}],
                },
                "spec": {"containers": [{"name": "c", "image": "goweb"}]},
            })
        );
    }

    #[test]
    fn the_status_counts() {
        let pod = |labels: serde_json::Value, ready: &str, since: &str| {
            Arc::new(
                serde_json::from_value::<Pod>(
                    json!({"metadata": {"labels": labels}, "status": {"conditions": [
                        {"type": "Ready", "status": ready, "lastTransitionTime": since},
                    ]}}),
                )
                .unwrap(),
            )
        };
        let pods = [
            pod(json!({"app": "web", "tier": "front"}), "True", "2026-01-01T00:00:00Z"),
            pod(json!({"app": "web"}), "True", "2026-01-01T00:00:25Z"),
            pod(json!({"app": "web"}), "False", "2026-01-01T00:00:00Z"),
        ];
        let (status, next) = status(&replica_set(), &pods, 1, "2026-01-01T00:00:30Z".parse().unwrap());
        assert_eq!(
            serde_json::to_value(status).unwrap(),
            json!({"replicas": 3, "fullyLabeledReplicas": 1, "readyReplicas": 2, "availableReplicas": 1,
                "terminatingReplicas": 1, "observedGeneration": 3})
        );
        assert_eq!(next, Some(Duration::from_secs(5)));
    }
}
