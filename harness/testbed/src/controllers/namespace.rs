//! Namespaces that are going away: everything in them is deleted, kind by kind, then the finalizer
//! ([Namespaces Walkthrough](https://kubernetes.io/docs/tasks/administer-cluster/namespaces/#deleting-a-namespace)).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DeleteParams, ListParams, PostParams};
use kube::{Api, Client};

use super::caches::{Caches, Observer};
use super::informer::{Informer, Key};
use super::kinds::Kind;
use super::queue::{Queue, Reconcile};
use super::replicaset::gone_is_fine;

const FINALIZER: &str = "kubernetes";

/// How soon to look again at kinds that no cache watches; pods and all other watched kinds bring the
/// namespace back when the last of them is gone.
const UNWATCHED: Duration = Duration::from_millis(200);

pub(super) struct Namespaces {
    client: Client,
    caches: Caches,
    kinds: Vec<Kind>,
}

#[derive(Clone)]
struct Departures {
    namespaces: Informer<Namespace>,
    queue: Arc<Queue<Key>>,
}

impl Observer for Departures {
    fn changed(&self, _: &ApiResource, old: Option<&ObjectMeta>, new: Option<&ObjectMeta>) {
        let (Some(gone), None) = (old, new) else { return };
        let Some(namespace) = &gone.namespace else { return };
        let key = Key::new("", namespace);
        if self.namespaces.get(&key).is_some_and(|namespace| is_ending(&namespace)) {
            self.queue.add(key);
        }
    }
}

impl Namespaces {
    pub(super) fn new(client: Client, caches: &Caches, kinds: Vec<Kind>, queue: &Arc<Queue<Key>>) -> Self {
        let dirty = Arc::clone(queue);
        caches.namespaces.on_change(move |_, new| {
            if let Some(namespace) = new.filter(|namespace| is_ending(namespace)) {
                dirty.add(Key::of(&namespace.metadata));
            }
        });
        caches.observe(&Departures { namespaces: caches.namespaces.clone(), queue: Arc::clone(queue) });
        Self { client, caches: caches.clone(), kinds }
    }

    /// How many objects of this kind are left, not counting those that it could delete at once.
    async fn empty(&self, kind: &Kind, namespace: &str) -> anyhow::Result<usize> {
        let api = kind.api(&self.client, namespace);
        let plural = &kind.resource.plural;
        let context = || format!("the `{plural}` of namespace `{namespace}` could not be deleted");
        // Asked of the server: a cache that lags would let the namespace go too early.
        let left = api.list(&ListParams::default()).await.with_context(context)?.items;
        if left.iter().all(|object| object.metadata.deletion_timestamp.is_some()) {
            return Ok(left.len());
        }
        gone_is_fine(api.delete_collection(&DeleteParams::background(), &ListParams::default()).await)
            .with_context(context)?;
        Ok(api.list(&ListParams::default()).await.with_context(context)?.items.len())
    }
}

impl Reconcile for Namespaces {
    type Key = Key;
    const NAME: &'static str = "namespace";

    async fn reconcile(&self, key: Key) -> anyhow::Result<Option<Duration>> {
        let Some(namespace) = self.caches.namespaces.get(&key).filter(|namespace| is_ending(namespace))
        else {
            return Ok(None);
        };
        let kinds = self.kinds.iter().filter(|kind| kind.namespaced);
        let left = futures::future::try_join_all(kinds.map(|kind| self.empty(kind, &key.name))).await?;
        if left.iter().sum::<usize>() > 0 {
            return Ok(Some(UNWATCHED));
        }
        let mut finalized = (*namespace).clone();
        let finalizers = finalized.spec.get_or_insert_default().finalizers.get_or_insert_default();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        let api: Api<Namespace> = Api::all(self.client.clone());
        let outcome =
            api.replace_subresource("finalize", &key.name, &PostParams::default(), &finalized).await;
        gone_is_fine(outcome).with_context(|| format!("namespace `{}` could not be finalized", key.name))?;
        Ok(None)
    }
}

/// Is it being deleted, and does it still wait for this controller?
fn is_ending(namespace: &Namespace) -> bool {
    let mut finalizers = namespace.spec.iter().filter_map(|spec| spec.finalizers.as_ref()).flatten();
    namespace.metadata.deletion_timestamp.is_some() && finalizers.any(|finalizer| finalizer == FINALIZER)
}
