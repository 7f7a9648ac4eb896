//! One shared cache per kind: list and watch, a store of what was seen, and handlers that are told
//! what changed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// How long to wait before asking again after a watch failed: doubled from the first to the last.
const FIRST_RETRY: Duration = Duration::from_millis(10);
const LAST_RETRY: Duration = Duration::from_millis(500);

/// Namespace and name; the namespace is empty for objects of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(crate) fn of(meta: &ObjectMeta) -> Self {
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{}", self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// What an informer may hold.
pub(crate) trait Cached:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static
{
}

impl<K> Cached for K where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static
{
}

/// Called after the store changed, with the object as it was and as it is.
type Handler<K> = Box<dyn Fn(Option<&K>, Option<&K>) + Send + Sync>;

/// The cache of one kind. Cloning shares it.
pub(crate) struct Informer<K>(Arc<Shared<K>>);

struct Shared<K> {
    objects: RwLock<BTreeMap<Key, Arc<K>>>,
    handlers: RwLock<Vec<Handler<K>>>,
    /// The newest resource version that arrived.
    seen: AtomicU64,
    /// How many lists were begun, and which of them was the last to end.
    lists_begun: AtomicU64,
    list_ended: watch::Sender<u64>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Cached> Informer<K> {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            objects: RwLock::default(),
            handlers: RwLock::default(),
            seen: AtomicU64::new(0),
            lists_begun: AtomicU64::new(0),
            list_ended: watch::Sender::new(0),
        }))
    }

    /// Registers a handler; must be done before [`Self::run`], or the first objects are missed.
    pub(crate) fn on_change(&self, handler: impl Fn(Option<&K>, Option<&K>) + Send + Sync + 'static) {
        self.0.handlers.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(handler));
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.objects().get(key).cloned()
    }

    /// The objects of one namespace, by name.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let first = Key::new(namespace, "");
        self.objects()
            .range(first..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        self.objects().values().cloned().collect()
    }

    /// Resolves once the first list is in the store.
    pub(crate) async fn synced(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.0.list_ended.subscribe().wait_for(|ended| *ended > 0).await;
    }

    /// A mark to compare with [`Self::listed_since`].
    pub(super) fn lists_begun(&self) -> u64 {
        self.0.lists_begun.load(Ordering::SeqCst)
    }

    /// Did a list that began after `mark` was taken come in completely?
    pub(super) fn listed_since(&self, mark: u64) -> bool {
        *self.0.list_ended.borrow() > mark
    }

    /// Has every change up to this resource version arrived? The versions of one kind are ordered
    /// ([KEP-5504](https://github.com/kubernetes/enhancements/issues/5504)).
    pub(super) fn has_seen(&self, resource_version: u64) -> bool {
        self.0.seen.load(Ordering::SeqCst) >= resource_version
    }

    /// Lists and watches until dropped.
    pub(crate) async fn run(self, api: Api<K>) {
        let mut events = std::pin::pin!(watcher(api, watcher::Config::default()));
        let mut incoming = BTreeMap::new();
        let mut retry = FIRST_RETRY;
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => {
                    self.0.lists_begun.fetch_add(1, Ordering::SeqCst);
                    incoming.clear();
                }
                Ok(watcher::Event::InitApply(object)) => {
                    incoming.insert(Key::of(object.meta()), Arc::new(object));
                }
                Ok(watcher::Event::InitDone) => {
                    retry = FIRST_RETRY;
                    self.replace_all(std::mem::take(&mut incoming));
                }
                Ok(watcher::Event::Apply(object)) => {
                    retry = FIRST_RETRY;
                    self.apply(object);
                }
                Ok(watcher::Event::Delete(object)) => {
                    retry = FIRST_RETRY;
                    self.delete(&object);
                }
                Err(error) => {
                    tracing::debug!(kind = %K::kind(&()), %error, "the watch failed; it is tried again");
                    pause(retry).await;
                    retry = LAST_RETRY.min(retry * 2);
                }
            }
        }
    }

    fn objects(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<Key, Arc<K>>> {
        self.0.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn apply(&self, object: K) {
        let key = Key::of(object.meta());
        let version = version(object.meta());
        let new = Arc::new(object);
        let old = self.write().insert(key, Arc::clone(&new));
        self.0.seen.fetch_max(version, Ordering::SeqCst);
        self.tell(old.as_deref(), Some(&new));
    }

    pub(super) fn delete(&self, object: &K) {
        let old = self.write().remove(&Key::of(object.meta()));
        self.0.seen.fetch_max(version(object.meta()), Ordering::SeqCst);
        // The last state known to the server says more than the one last seen.
        if old.is_some() {
            self.tell(Some(object), None);
        }
    }

    pub(super) fn replace_all(&self, incoming: BTreeMap<Key, Arc<K>>) {
        let seen = incoming.values().map(|object| version(object.meta())).max().unwrap_or_default();
        let old = std::mem::replace(&mut *self.write(), incoming.clone());
        // Not the maximum of both: a server that lost its memory counts anew.
        self.0.seen.store(seen, Ordering::SeqCst);
        self.0.list_ended.send_replace(self.lists_begun().max(1));
        for (key, new) in &incoming {
            match old.get(key) {
                Some(before) if before.meta().uid != new.meta().uid => {
                    self.tell(Some(before), None);
                    self.tell(None, Some(new));
                }
                before => self.tell(before.map(Arc::as_ref), Some(new)),
            }
        }
        for (_, gone) in old.iter().filter(|(key, _)| !incoming.contains_key(key)) {
            self.tell(Some(gone), None);
        }
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<Key, Arc<K>>> {
        self.0.objects.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, old: Option<&K>, new: Option<&K>) {
        for handler in self.0.handlers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handler(old, new)));
            if told.is_err() {
                tracing::error!(kind = %K::kind(&()), "a handler panicked; its controller missed a change");
            }
        }
    }
}

/// The resource version as a number; 0 when it is none, which every cache has seen.
pub(super) fn version(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a server that is down announces its return to nobody: only asking again later finds out"
)]
async fn pause(delay: Duration) {
    tokio::time::sleep(delay).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn config_map(namespace: &str, name: &str, uid: &str, version: u64) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                namespace: Some(namespace.to_owned()),
                name: Some(name.to_owned()),
                uid: Some(uid.to_owned()),
                resource_version: Some(version.to_string()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        }
    }

    #[test]
    fn a_new_list_tells_what_came_changed_and_went() {
        let informer = Informer::<ConfigMap>::new();
        let told = Arc::new(Mutex::new(Vec::new()));
        let name = |object: Option<&ConfigMap>| {
            object.map(|object| object.metadata.uid.clone().unwrap_or_default()).unwrap_or_default()
        };
        let log = Arc::clone(&told);
        informer.on_change(move |old, new| log.lock().unwrap().push(format!("{}>{}", name(old), name(new))));
        for object in [config_map("a", "kept", "1", 1), config_map("a", "gone", "2", 2)] {
            informer.apply(object);
        }
        informer.apply(config_map("b", "remade", "3", 3));
        assert!(informer.has_seen(3) && !informer.has_seen(4));
        let list = [config_map("a", "kept", "1", 1), config_map("b", "remade", "4", 9)];
        informer.replace_all(
            list.into_iter().map(|object| (Key::of(&object.metadata), Arc::new(object))).collect(),
        );
        assert_eq!(*told.lock().unwrap(), [">1", ">2", ">3", "1>1", "3>", ">4", "2>"]);
        assert_eq!(informer.in_namespace("a").len(), 1);
        assert_eq!(informer.in_namespace("").len(), 0);
        assert!(informer.has_seen(9));
    }
}
