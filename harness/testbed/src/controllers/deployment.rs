//! Deployments: one ReplicaSet per pod template, rolled from the old to the new
//! ([Deployments](https://kubernetes.io/docs/concepts/workloads/controllers/deployment/)).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::SelectorExt;
use kube::{Api, Client};
use serde_json::json;

use super::caches::Caches;
use super::deployment_status::{self, Newest, is_complete, spec_replicas};
use super::events::Recorder;
use super::informer::Key;
use super::ownership::{Claim, adopt, claim, controlled_by, controller, disown, selector};
use super::pod_state::is_finished;
use super::queue::{Queue, Reconcile};
use super::replicaset::gone_is_fine;
use super::rollout::{Limits, Size};

const HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a Deployment that are about itself and are not handed down.
const NOT_INHERITED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
];

pub(super) struct Deployments {
    client: Client,
    caches: Caches,
    recorder: Recorder,
}

/// One Deployment being worked on, with clients for its namespace.
struct Work {
    deployment: Deployment,
    spec: DeploymentSpec,
    limits: Limits,
    deployments: Api<Deployment>,
    api: Api<ReplicaSet>,
    /// Its ReplicaSets, oldest first.
    all: Vec<Arc<ReplicaSet>>,
    happened: Newest,
    recorder: Recorder,
}

impl Deployments {
    pub(super) fn new(client: Client, caches: &Caches, recorder: Recorder, queue: &Arc<Queue<Key>>) -> Self {
        let dirty = Arc::clone(queue);
        caches.deployments.on_change(move |old, new| {
            if let Some(deployment) = new.or(old) {
                dirty.add(Key::of(&deployment.metadata));
            }
        });
        let dirty = Arc::clone(queue);
        let deployments = caches.deployments.clone();
        caches.replica_sets.on_change(move |old, new| {
            for replica_set in [old, new].into_iter().flatten() {
                let namespace = replica_set.metadata.namespace.as_deref().unwrap_or_default();
                match controller(&replica_set.metadata) {
                    Some(owner) if owner.kind == "Deployment" => dirty.add(Key::new(namespace, &owner.name)),
                    Some(_) => {}
                    None => {
                        let labels = replica_set.metadata.labels.clone().unwrap_or_default();
                        for deployment in deployments.in_namespace(namespace) {
                            let wanted = selector(&deployment.spec.selector);
                            if matches!(wanted, Ok(Some(wanted)) if wanted.matches(&labels)) {
                                dirty.add(Key::of(&deployment.metadata));
                            }
                        }
                    }
                }
            }
        });
        // The strategy Recreate waits for the last old pod to be gone.
        let dirty = Arc::clone(queue);
        let replica_sets = caches.replica_sets.clone();
        caches.pods.on_change(move |old, new| {
            let (Some(pod), None) = (old, new) else { return };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let Some(owner) = controller(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet") else {
                return;
            };
            if let Some(replica_set) = replica_sets.get(&Key::new(namespace, &owner.name))
                && let Some(owner) = controller(&replica_set.metadata)
            {
                dirty.add(Key::new(namespace, &owner.name));
            }
        });
        Self { client, caches: caches.clone(), recorder }
    }

    async fn claim(
        &self,
        deployment: &Deployment,
        api: &Api<ReplicaSet>,
    ) -> anyhow::Result<Vec<Arc<ReplicaSet>>> {
        let Some(wanted) = selector(&deployment.spec.selector)? else { return Ok(Vec::new()) };
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let mut mine = Vec::new();
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        for replica_set in self.caches.replica_sets.in_namespace(namespace) {
            match claim(&deployment.metadata, &wanted, &replica_set.metadata) {
                Claim::Mine => mine.push(replica_set),
                Claim::NotMine => {}
                Claim::Release => {
                    gone_is_fine(disown(api, &replica_set.metadata, &[uid]).await)?;
                }
                Claim::Adopt => {
                    let live = Api::<Deployment>::namespaced(self.client.clone(), namespace)
                        .get_opt(deployment.metadata.name.as_deref().unwrap_or_default())
                        .await?;
                    let stays = live.is_some_and(|live| {
                        live.metadata.uid == deployment.metadata.uid
                            && live.metadata.deletion_timestamp.is_none()
                    });
                    if stays
                        && let Some(adopted) =
                            gone_is_fine(adopt(api, &*replica_set, controlled_by(deployment)).await)?
                    {
                        mine.push(Arc::new(adopted));
                    }
                }
            }
        }
        mine.sort_by_key(|one| {
            (one.metadata.creation_timestamp.as_ref().map(|time| time.0), one.metadata.name.clone())
        });
        Ok(mine)
    }

    /// Does any pod of the old ReplicaSets still run, or shut down?
    fn old_pods_remain(&self, work: &Work, newest: Option<&ReplicaSet>) -> bool {
        let namespace = work.deployment.metadata.namespace.as_deref().unwrap_or_default();
        let old: Vec<_> = work
            .all
            .iter()
            .map(|one| one.metadata.uid.clone())
            .filter(|uid| Some(uid) != newest.map(|newest| &newest.metadata.uid))
            .collect();
        self.caches.pods.in_namespace(namespace).iter().any(|pod| {
            let owner = controller(&pod.metadata).map(|owner| owner.uid.clone());
            !is_finished(pod) && owner.is_some() && old.contains(&owner)
        })
    }

    /// The strategy `Recreate`: nothing new before everything old is gone.
    async fn recreate(&self, work: &mut Work) -> anyhow::Result<()> {
        let newest = work.newest(Create::No).await?;
        for old in work.old(newest.as_deref()) {
            work.scale(&old, 0).await?;
        }
        if self.old_pods_remain(work, newest.as_deref()) {
            return Ok(());
        }
        if let Some(newest) = work.newest(Create::Yes).await? {
            work.scale(&newest, work.limits.desired).await?;
        }
        Ok(())
    }
}

impl Reconcile for Deployments {
    type Key = Key;
    const NAME: &'static str = "deployment";

    async fn reconcile(&self, key: Key) -> anyhow::Result<Option<Duration>> {
        let Some(deployment) = self.caches.deployments.get(&key) else { return Ok(None) };
        let spec = deployment.spec.clone();
        let api = Api::namespaced(self.client.clone(), &key.namespace);
        let all = self.claim(&deployment, &api).await?;
        let mut work = Work {
            limits: limits(&spec),
            deployment: (*deployment).clone(),
            spec,
            deployments: Api::namespaced(self.client.clone(), &key.namespace),
            api,
            all,
            happened: Newest::Absent,
            recorder: self.recorder.clone(),
        };
        let outcome = if work.deployment.metadata.deletion_timestamp.is_some() {
            Ok(())
        } else if work.spec.paused == Some(true) || work.was_scaled() {
            work.spread().await
        } else if work.is_recreate() {
            self.recreate(&mut work).await
        } else {
            work.roll().await
        };
        let next = work.write_status().await?;
        outcome?;
        work.clean_up().await?;
        Ok(next)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Create {
    Yes,
    No,
}

impl Work {
    fn is_recreate(&self) -> bool {
        self.spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
    }

    /// Was the Deployment scaled since its ReplicaSets were last sized?
    fn was_scaled(&self) -> bool {
        self.all.iter().filter(|one| spec_replicas(one) > 0).any(|one| {
            number(&one.metadata, DESIRED_REPLICAS).is_some_and(|desired| desired != self.limits.desired)
        })
    }

    fn current(&self) -> Option<Arc<ReplicaSet>> {
        let is_current = |one: &&Arc<ReplicaSet>| {
            let template = one.spec.template.as_ref();
            template.is_some_and(|template| same_template(template, &self.spec.template))
        };
        self.all.iter().find(is_current).cloned()
    }

    fn old(&self, newest: Option<&ReplicaSet>) -> Vec<Arc<ReplicaSet>> {
        let newest = newest.map(|newest| &newest.metadata.uid);
        self.all.iter().filter(|one| Some(&one.metadata.uid) != newest).cloned().collect()
    }

    /// The ReplicaSet of the current template, with its revision and annotations brought up to date.
    async fn newest(&mut self, create: Create) -> anyhow::Result<Option<Arc<ReplicaSet>>> {
        let current = self.current();
        let revision = 1 + self
            .old(current.as_deref())
            .iter()
            .filter_map(|one| number(&one.metadata, REVISION))
            .max()
            .unwrap_or_default();
        let found = match current {
            Some(current) => {
                if self.happened == Newest::Absent {
                    self.happened = Newest::Found;
                }
                self.refresh(current, revision).await?
            }
            None if create == Create::No => return Ok(None),
            None => match self.create(revision).await? {
                Some(created) => created,
                None => return Ok(None),
            },
        };
        self.write_revision(revision.max(number(&found.metadata, REVISION).unwrap_or_default())).await?;
        Ok(Some(found))
    }

    async fn refresh(&mut self, current: Arc<ReplicaSet>, revision: i32) -> anyhow::Result<Arc<ReplicaSet>> {
        let before = current.metadata.annotations.clone().unwrap_or_default();
        let mut after = before.clone();
        after.extend(self.inherited());
        if number(&current.metadata, REVISION).unwrap_or_default() < revision {
            // A template that came back takes a new number and remembers its old ones.
            if let Some(old) = before.get(REVISION) {
                let history = before.get(REVISION_HISTORY).map(|history| format!("{history},{old}"));
                after.insert(REVISION_HISTORY.to_owned(), history.unwrap_or_else(|| old.clone()));
            }
            after.insert(REVISION.to_owned(), revision.to_string());
        }
        let min_ready = self.spec.min_ready_seconds.unwrap_or_default();
        let is_min_ready = current.spec.min_ready_seconds.unwrap_or_default();
        if after == before && min_ready == is_min_ready {
            return Ok(current);
        }
        let patch = json!({
            "metadata": {"resourceVersion": current.metadata.resource_version, "annotations": after},
            "spec": {"minReadySeconds": min_ready},
        });
        self.patch(&current, patch).await
    }

    async fn create(&mut self, revision: i32) -> anyhow::Result<Option<Arc<ReplicaSet>>> {
        let collisions = self.deployment.status.as_ref().and_then(|status| status.collision_count);
        let hash = template_hash(&self.spec.template, collisions)?;
        let total = self.all.iter().map(|one| spec_replicas(one)).sum();
        let replicas = if self.is_recreate() { self.limits.desired } else { self.limits.grown(0, total) };
        let mut wanted = new_replica_set(&self.deployment, &self.spec, &hash, replicas);
        let mut annotations = self.inherited();
        annotations.insert(REVISION.to_owned(), revision.to_string());
        annotations.extend(self.sizes());
        wanted.metadata.annotations = Some(annotations);
        let created = match self.api.create(&PostParams::default(), &wanted).await {
            Ok(created) => created,
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                let name = wanted.metadata.name.as_deref().unwrap_or_default();
                let Some(existing) = self.api.get_opt(name).await? else { return Ok(None) };
                let template = existing.spec.template.as_ref();
                let mine = controller(&existing.metadata).map(|owner| &owner.uid)
                    == self.deployment.metadata.uid.as_ref();
                if !(mine && template.is_some_and(|one| same_template(one, &self.spec.template))) {
                    // Another template has the same hash: salt it and try again.
                    let status = self.deployment.status.get_or_insert_default();
                    status.collision_count = Some(status.collision_count.unwrap_or_default() + 1);
                    let name = self.deployment.metadata.name.clone().unwrap_or_default();
                    let parameters = PostParams::default();
                    self.deployment =
                        self.deployments.replace_status(&name, &parameters, &self.deployment).await?;
                    return Ok(None);
                }
                existing
            }
            Err(error) => return Err(error).context("the new ReplicaSet could not be made"),
        };
        if replicas > 0 {
            self.tell_scaled(&created, 0, replicas);
        }
        self.happened = Newest::Created;
        let created = Arc::new(created);
        self.all.push(Arc::clone(&created));
        Ok(Some(created))
    }

    /// The strategy `RollingUpdate`: one step, up first; the next event brings the next step.
    async fn roll(&mut self) -> anyhow::Result<()> {
        let Some(newest) = self.newest(Create::Yes).await? else { return Ok(()) };
        let total = self.all.iter().map(|one| spec_replicas(one)).sum();
        let grown = self.limits.grown(spec_replicas(&newest), total);
        if grown != spec_replicas(&newest) {
            return self.scale(&newest, grown).await;
        }
        let old = self.old(Some(&newest));
        let sizes: Vec<_> = old.iter().map(|one| size(one)).collect();
        for (old, replicas) in old.iter().zip(self.limits.shrunk(size(&newest), &sizes)) {
            self.scale(old, replicas).await?;
        }
        // Also when nothing changes: the annotations say what the sizes were meant for.
        self.scale(&newest, spec_replicas(&newest)).await
    }

    /// Carries a new size of the Deployment, and nothing else, to its ReplicaSets.
    async fn spread(&mut self) -> anyhow::Result<()> {
        let newest = self.newest(Create::No).await?;
        let active: Vec<_> = self.all.iter().filter(|one| spec_replicas(one) > 0).cloned().collect();
        let only = match active.as_slice() {
            [] => newest.clone().or_else(|| self.all.last().cloned()),
            [only] => Some(Arc::clone(only)),
            _ => None,
        };
        if let Some(only) = only {
            return self.scale(&only, self.limits.desired).await;
        }
        let saturated = newest.as_ref().filter(|newest| {
            spec_replicas(newest) == self.limits.desired
                && number(&newest.metadata, DESIRED_REPLICAS) == Some(self.limits.desired)
                && size(newest).available == self.limits.desired
        });
        if let Some(newest) = saturated {
            for old in self.old(Some(newest)) {
                self.scale(&old, 0).await?;
            }
            return Ok(());
        }
        if self.is_recreate() {
            return Ok(());
        }
        let before = active.iter().find_map(|one| number(&one.metadata, MAX_REPLICAS));
        let before = before
            .or_else(|| self.deployment.status.as_ref().and_then(|status| status.replicas))
            .unwrap_or_default();
        let sizes: Vec<_> = active.iter().map(|one| spec_replicas(one)).collect();
        for (one, replicas) in active.iter().zip(self.limits.in_proportion(&sizes, before)) {
            self.scale(one, replicas).await?;
        }
        Ok(())
    }

    async fn scale(&mut self, replica_set: &Arc<ReplicaSet>, replicas: i32) -> anyhow::Result<()> {
        let has = replica_set.metadata.annotations.clone().unwrap_or_default();
        let sizes = self.sizes();
        let is_noted = sizes.iter().all(|(name, value)| has.get(name) == Some(value));
        // An empty ReplicaSet stays as it is: what it was meant for matters to nobody.
        if spec_replicas(replica_set) == replicas && (is_noted || replicas == 0) {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"resourceVersion": replica_set.metadata.resource_version, "annotations": sizes},
            "spec": {"replicas": replicas},
        });
        self.patch(replica_set, patch).await?;
        if spec_replicas(replica_set) != replicas {
            self.tell_scaled(replica_set, spec_replicas(replica_set), replicas);
        }
        Ok(())
    }

    fn tell_scaled(&self, replica_set: &ReplicaSet, from: i32, to: i32) {
        let name = replica_set.metadata.name.as_deref().unwrap_or_default();
        let way = if to > from { "up" } else { "down" };
        let message = format!("Scaled {way} replica set {name} from {from} to {to}");
        self.recorder.normal(&self.deployment, "ScalingReplicaSet", message);
    }

    async fn patch(
        &mut self,
        replica_set: &Arc<ReplicaSet>,
        patch: serde_json::Value,
    ) -> anyhow::Result<Arc<ReplicaSet>> {
        let name = replica_set.metadata.name.as_deref().unwrap_or_default();
        let patched = self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        let patched = Arc::new(patched);
        if let Some(one) = self.all.iter_mut().find(|one| one.metadata.uid == patched.metadata.uid) {
            *one = Arc::clone(&patched);
        }
        Ok(patched)
    }

    async fn write_revision(&mut self, revision: i32) -> anyhow::Result<()> {
        if number(&self.deployment.metadata, REVISION) == Some(revision) {
            return Ok(());
        }
        let patch = json!({"metadata": {
            "resourceVersion": self.deployment.metadata.resource_version,
            "annotations": {REVISION: revision.to_string()},
        }});
        let name = self.deployment.metadata.name.clone().unwrap_or_default();
        self.deployment =
            self.deployments.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    async fn write_status(&mut self) -> anyhow::Result<Option<Duration>> {
        let newest = self.current();
        let (status, next) = deployment_status::status(
            &self.deployment,
            self.limits,
            &self.all,
            newest.as_deref(),
            self.happened,
            Timestamp::now(),
        );
        if self.deployment.status.as_ref() == Some(&status) {
            return Ok(next);
        }
        let name = self.deployment.metadata.name.clone().unwrap_or_default();
        self.deployment.status = Some(status);
        let outcome = self.deployments.replace_status(&name, &PostParams::default(), &self.deployment).await;
        if let Some(updated) = gone_is_fine(outcome)? {
            self.deployment = updated;
        }
        Ok(next)
    }

    /// Once complete, old ReplicaSets beyond the history limit go
    /// ([Deployments, "Clean up Policy"](https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#clean-up-policy)).
    async fn clean_up(&self) -> anyhow::Result<()> {
        let none = DeploymentStatus::default();
        let status = self.deployment.status.as_ref().unwrap_or(&none);
        if self.deployment.metadata.deletion_timestamp.is_some() || !is_complete(status, self.limits.desired)
        {
            return Ok(());
        }
        let keep = usize::try_from(self.spec.revision_history_limit.unwrap_or(10)).unwrap_or_default();
        let mut empty = self.old(self.current().as_deref());
        empty.retain(|one| one.metadata.deletion_timestamp.is_none());
        empty.sort_by_key(|one| number(&one.metadata, REVISION));
        let too_many = empty.len().saturating_sub(keep);
        for old in empty.iter().take(too_many) {
            let is_empty = spec_replicas(old) == 0
                && old.status.as_ref().is_none_or(|status| status.replicas == 0)
                && old.status.as_ref().and_then(|status| status.observed_generation)
                    >= old.metadata.generation;
            if is_empty {
                let name = old.metadata.name.as_deref().unwrap_or_default();
                gone_is_fine(self.api.delete(name, &DeleteParams::background()).await)?;
            }
        }
        Ok(())
    }

    /// What every ReplicaSet notes of the size it belongs to.
    fn sizes(&self) -> BTreeMap<String, String> {
        [
            (DESIRED_REPLICAS.to_owned(), self.limits.desired.to_string()),
            (MAX_REPLICAS.to_owned(), self.limits.most().to_string()),
        ]
        .into()
    }

    fn inherited(&self) -> BTreeMap<String, String> {
        let mut annotations = self.deployment.metadata.annotations.clone().unwrap_or_default();
        annotations.retain(|name, _| !NOT_INHERITED.contains(&name.as_str()));
        annotations
    }
}

fn limits(spec: &DeploymentSpec) -> Limits {
    let desired = spec.replicas.unwrap_or(1).max(0);
    let strategy = spec.strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
        return Limits::recreate(desired);
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    Limits::new(
        desired,
        rolling.and_then(|rolling| rolling.max_surge.as_ref()),
        rolling.and_then(|rolling| rolling.max_unavailable.as_ref()),
    )
}

fn size(replica_set: &ReplicaSet) -> Size {
    let available = replica_set.status.as_ref().and_then(|status| status.available_replicas);
    Size { replicas: spec_replicas(replica_set), available: available.unwrap_or_default() }
}

fn number(meta: &ObjectMeta, annotation: &str) -> Option<i32> {
    meta.annotations.as_ref()?.get(annotation)?.parse().ok()
}

/// Are both the same but for the hash label?
fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    without_hash(a) == without_hash(b)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let metadata = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut metadata.labels {
        labels.remove(HASH);
    }
    metadata.creation_timestamp = None;
    template
}

/// Names the template. The letters are those of generated names: no vowels, no words.
pub(super) fn template_hash(
    template: &PodTemplateSpec,
    collisions: Option<i32>,
) -> serde_json::Result<String> {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut bytes = serde_json::to_vec(&without_hash(template))?;
    if let Some(collisions) = collisions {
        bytes.extend(collisions.to_le_bytes());
    }
    // FNV-1a, 32 bits.
    let hash =
        bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    let letter = |byte: u8| char::from(LETTERS[usize::from(byte) % LETTERS.len()]);
    Ok(hash.to_string().bytes().map(letter).collect())
}

fn new_replica_set(deployment: &Deployment, spec: &DeploymentSpec, hash: &str, replicas: i32) -> ReplicaSet {
    let with_hash = |labels: Option<BTreeMap<String, String>>| {
        let mut labels = labels.unwrap_or_default();
        labels.insert(HASH.to_owned(), hash.to_owned());
        Some(labels)
    };
    let mut template = spec.template.clone();
    let metadata = template.metadata.get_or_insert_default();
    metadata.labels = with_hash(metadata.labels.take());
    let labels = metadata.labels.clone();
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels,
            owner_references: Some(vec![controlled_by(deployment)]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector: LabelSelector {
                match_labels: with_hash(spec.selector.match_labels.clone()),
                match_expressions: spec.selector.match_expressions.clone(),
            },
            template: Some(template),
        },
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment() -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "web", "uid": "1"},
            "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "goweb"}]},
            }},
        }))
        .unwrap()
    }

    #[test]
    fn a_replica_set_carries_the_hash_everywhere() {
        let deployment = deployment();
        let spec = deployment.spec.clone();
        let hash = template_hash(&spec.template, None).unwrap();
        let made = new_replica_set(&deployment, &spec, &hash, 3);
        assert_eq!(made.metadata.name.as_deref(), Some(format!("web-{hash}").as_str()));
        let of = made.spec;
        let template = of.template.unwrap();
        let labels = Some([("app".to_owned(), "web".to_owned()), (HASH.to_owned(), hash.clone())].into());
        assert_eq!(made.metadata.labels, labels);
        assert_eq!(of.selector.match_labels, labels);
        assert_eq!(template.metadata.as_ref().unwrap().labels, labels);
        assert!(same_template(&template, &spec.template));
        assert_eq!(template_hash(&template, None).unwrap(), hash, "the label is no part of what it hashes");
    }

    #[test]
    fn another_template_or_a_collision_gives_another_hash() {
        let template = deployment().spec.template;
        let mut other = template.clone();
        other.spec.as_mut().unwrap().containers[0].image = Some("goweb:2".to_owned());
        let hash = template_hash(&template, None).unwrap();
        assert!(!same_template(&template, &other));
        assert_ne!(template_hash(&other, None).unwrap(), hash);
        assert_ne!(template_hash(&template, Some(1)).unwrap(), hash);
    }
}
