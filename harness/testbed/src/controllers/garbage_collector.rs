//! Garbage collection: what nobody owns any more is deleted
//! ([Garbage Collection, "Owners and dependents"](https://kubernetes.io/docs/concepts/architecture/garbage-collection/#owners-dependents)).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::{ApiResource, DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use serde_json::json;

use super::caches::{Caches, Observer};
use super::expectations::LOOK_AGAIN;
use super::kinds::Kind;
use super::ownership::disown;
use super::queue::{Queue, Reconcile};
use super::replicaset::gone_is_fine;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

pub(super) struct GarbageCollector {
    client: Client,
    kinds: Vec<Kind>,
    graph: Arc<Mutex<Graph>>,
    queue: Arc<Queue<String>>,
}

/// All objects, by uid, and who names whom as owner.
#[derive(Default)]
struct Graph {
    objects: BTreeMap<String, Object>,
    dependents: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Clone)]
struct Object {
    kind: ApiResource,
    meta: ObjectMeta,
}

/// What is to be done about an object, by its owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// It exists, and stays.
    Solid,
    /// It exists no more, or another has its name now.
    Gone,
    /// It waits for its dependents to be deleted first.
    Waiting,
}

impl Graph {
    /// Takes a change in; returns whom it concerns.
    fn change(
        &mut self,
        kind: &ApiResource,
        old: Option<&ObjectMeta>,
        new: Option<&ObjectMeta>,
    ) -> BTreeSet<String> {
        let mut concerned = BTreeSet::new();
        let Some(uid) = new.or(old).and_then(|meta| meta.uid.clone()) else { return concerned };
        let before = self.objects.remove(&uid);
        for owner in before.iter().flat_map(|object| owners(&object.meta)) {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(&uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
            // An owner that waits for its dependents may go now.
            if self.objects.get(&owner.uid).is_some_and(|owner| waits(&owner.meta)) {
                concerned.insert(owner.uid.clone());
            }
        }
        let Some(meta) = new else {
            concerned.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
            return concerned;
        };
        for owner in owners(meta) {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
            if self.objects.get(&owner.uid).is_none_or(|owner| waits(&owner.meta)) {
                concerned.insert(uid.clone());
            }
        }
        if waits(meta) || (meta.deletion_timestamp.is_some() && has_finalizer(meta, ORPHAN)) {
            concerned.insert(uid.clone());
        }
        self.objects.insert(uid, Object { kind: kind.clone(), meta: meta.clone() });
        concerned
    }

    fn dependents(&self, uid: &str) -> Vec<Object> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.objects.get(uid)).cloned().collect()
    }
}

#[derive(Clone)]
struct Watcher {
    graph: Arc<Mutex<Graph>>,
    queue: Arc<Queue<String>>,
}

impl Observer for Watcher {
    fn changed(&self, kind: &ApiResource, old: Option<&ObjectMeta>, new: Option<&ObjectMeta>) {
        let concerned = self.graph.lock().unwrap_or_else(PoisonError::into_inner).change(kind, old, new);
        for uid in concerned {
            self.queue.add(uid);
        }
    }
}

impl GarbageCollector {
    /// The keys are uids.
    pub(super) fn new(client: Client, caches: &Caches, kinds: Vec<Kind>, queue: &Arc<Queue<String>>) -> Self {
        let graph = Arc::default();
        caches.observe(&Watcher { graph: Arc::clone(&graph), queue: Arc::clone(queue) });
        Self { client, kinds, graph, queue: Arc::clone(queue) }
    }

    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kind(&self, resource: &ApiResource) -> anyhow::Result<&Kind> {
        let found = self.kinds.iter().find(|kind| {
            kind.resource.kind == resource.kind && kind.resource.api_version == resource.api_version
        });
        found.with_context(|| format!("the kind `{}` is not known to the garbage collector", resource.kind))
    }

    /// The owner as the server has it now: caches of different kinds run ahead of each other.
    async fn look_up(&self, owner: &OwnerReference, namespace: &str) -> anyhow::Result<Owner> {
        let kind = self
            .kinds
            .iter()
            .find(|kind| kind.resource.kind == owner.kind && kind.resource.api_version == owner.api_version);
        // Of an unknown kind nobody can say that it is gone.
        let Some(kind) = kind else { return Ok(Owner::Solid) };
        let live = kind.api(&self.client, namespace).get_opt(&owner.name).await?;
        Ok(match live.filter(|live| live.metadata.uid.as_ref() == Some(&owner.uid)) {
            None => Owner::Gone,
            Some(live) if waits(&live.metadata) => Owner::Waiting,
            Some(_) => Owner::Solid,
        })
    }

    /// Deletes the object if all its owners are gone.
    async fn collect(&self, uid: &str, object: &Object) -> anyhow::Result<Option<Duration>> {
        let kind = self.kind(&object.kind)?;
        let namespace = object.meta.namespace.as_deref().unwrap_or_default();
        let name = object.meta.name.as_deref().unwrap_or_default();
        let api = kind.api(&self.client, namespace);
        let live = api.get_opt(name).await?.map(|live| live.metadata);
        let Some(meta) = live.filter(|meta| meta.uid.as_deref() == Some(uid)) else { return Ok(None) };
        if meta.deletion_timestamp.is_some() || owners(&meta).next().is_none() {
            return Ok(None);
        }
        let mut by_state = BTreeMap::<&str, Owner>::new();
        for owner in owners(&meta) {
            by_state.insert(&owner.uid, self.look_up(owner, namespace).await?);
        }
        if by_state.values().any(|owner| *owner == Owner::Solid) {
            let lost: Vec<_> =
                by_state.iter().filter(|(_, owner)| **owner != Owner::Solid).map(|(uid, _)| *uid).collect();
            if !lost.is_empty() {
                gone_is_fine(disown(&api, &meta, &lost).await)?;
            }
            // If an owner is not in the graph yet, its deletion could be missed: it is looked up again.
            let unseen = {
                let graph = self.graph();
                owners(&meta).any(|owner| {
                    !graph.objects.contains_key(&owner.uid)
                        && self.kinds.iter().any(|kind| kind.resource.kind == owner.kind)
                })
            };
            return Ok(unseen.then_some(LOOK_AGAIN));
        }
        let has_dependents = !self.graph().dependents(uid).is_empty();
        let waiting = by_state.values().any(|owner| *owner == Owner::Waiting);
        let policy = if waiting && has_dependents {
            PropagationPolicy::Foreground
        } else if has_finalizer(&meta, ORPHAN) {
            PropagationPolicy::Orphan
        } else if has_finalizer(&meta, FOREGROUND) {
            PropagationPolicy::Foreground
        } else {
            PropagationPolicy::Background
        };
        let parameters = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions { uid: meta.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        gone_is_fine(api.delete(name, &parameters).await)
            .with_context(|| format!("`{namespace}/{name}`, whose owners are gone, could not be deleted"))?;
        Ok(None)
    }

    /// An owner deleted in the foreground goes after the last dependent that blocks it
    /// ([Garbage Collection, "Foreground cascading deletion"](https://kubernetes.io/docs/concepts/architecture/garbage-collection/#foreground-deletion)).
    async fn wait_for_dependents(&self, uid: &str, object: &Object) -> anyhow::Result<Option<Duration>> {
        let mut blocking = self.graph().dependents(uid);
        blocking.retain(|dependent| {
            owners(&dependent.meta).any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
        });
        if blocking.is_empty() {
            self.remove_finalizer(object, FOREGROUND).await?;
        }
        for dependent in blocking {
            if dependent.meta.deletion_timestamp.is_none()
                && let Some(uid) = dependent.meta.uid
            {
                self.queue.add(uid);
            }
        }
        Ok(None)
    }

    /// The dependents lose the reference and stay
    /// ([Garbage Collection, "Orphaned dependents"](https://kubernetes.io/docs/concepts/architecture/garbage-collection/#orphaned-dependents)).
    async fn orphan(&self, uid: &str, object: &Object) -> anyhow::Result<Option<Duration>> {
        let dependents = self.graph().dependents(uid);
        for dependent in dependents {
            let namespace = dependent.meta.namespace.as_deref().unwrap_or_default();
            let api = self.kind(&dependent.kind)?.api(&self.client, namespace);
            gone_is_fine(disown(&api, &dependent.meta, &[uid]).await)?;
        }
        self.remove_finalizer(object, ORPHAN).await?;
        Ok(None)
    }

    async fn remove_finalizer(&self, object: &Object, finalizer: &str) -> anyhow::Result<()> {
        let Object { kind, meta } = object;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let mut finalizers = meta.finalizers.clone().unwrap_or_default();
        finalizers.retain(|one| one != finalizer);
        let patch = json!({"metadata": {
            "uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": finalizers,
        }});
        let api = self.kind(kind)?.api(&self.client, namespace);
        let name = meta.name.as_deref().unwrap_or_default();
        let outcome = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        gone_is_fine(outcome).with_context(|| {
            format!("the finalizer `{finalizer}` could not be removed from `{namespace}/{name}`")
        })?;
        Ok(())
    }
}

impl Reconcile for GarbageCollector {
    type Key = String;
    const NAME: &'static str = "garbage collector";

    async fn reconcile(&self, uid: String) -> anyhow::Result<Option<Duration>> {
        let Some(object) = self.graph().objects.get(&uid).cloned() else { return Ok(None) };
        if waits(&object.meta) {
            return self.wait_for_dependents(&uid, &object).await;
        }
        if object.meta.deletion_timestamp.is_some() {
            return match has_finalizer(&object.meta, ORPHAN) {
                true => self.orphan(&uid, &object).await,
                false => Ok(None),
            };
        }
        self.collect(&uid, &object).await
    }
}

fn owners(meta: &ObjectMeta) -> impl Iterator<Item = &OwnerReference> {
    meta.owner_references.iter().flatten()
}

fn has_finalizer(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|one| one == finalizer)
}

/// Is it being deleted, after its dependents?
fn waits(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && has_finalizer(meta, FOREGROUND)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn meta(uid: &str, owner: Option<&str>, waits: bool) -> ObjectMeta {
        let then = waits.then_some("2026-01-01T00:00:00Z");
        let owners: Vec<_> = owner
            .iter()
            .map(|uid| json!({"apiVersion": "v1", "kind": "Pod", "name": uid, "uid": uid}))
            .collect();
        serde_json::from_value(json!({
            "uid": uid, "ownerReferences": owners, "deletionTimestamp": then,
            "finalizers": if waits { vec![FOREGROUND] } else { Vec::new() },
        }))
        .unwrap()
    }

    #[test]
    fn an_event_concerns_dependents_and_waiting_owners() {
        let pods = ApiResource::erase::<Pod>(&());
        let mut graph = Graph::default();
        let mut change = |old: Option<&ObjectMeta>, new: Option<&ObjectMeta>| -> Vec<String> {
            graph.change(&pods, old, new).into_iter().collect()
        };
        let (owner, dependent) = (meta("owner", None, false), meta("dependent", Some("owner"), false));
        assert_eq!(change(None, Some(&dependent)), ["dependent"], "its owner is not known yet");
        assert_eq!(change(None, Some(&owner)), [""; 0]);
        assert_eq!(change(Some(&dependent), Some(&dependent)), [""; 0]);
        let waiting = meta("owner", None, true);
        assert_eq!(change(Some(&owner), Some(&waiting)), ["owner"]);
        assert_eq!(change(Some(&dependent), None), ["owner"]);
        assert_eq!(change(None, Some(&dependent)), ["dependent", "owner"][..1]);
        assert_eq!(change(Some(&waiting), None), ["dependent"]);
        assert_eq!(change(Some(&dependent), None), [""; 0]);
        assert!(graph.objects.is_empty() && graph.dependents.is_empty());
    }
}
