//! The versioned store: every object, one counter for all of them, and the recent past of each
//! resource for those who watch.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;

use super::json::text;
use super::resources::Resource;

/// How many changes of one resource are remembered; who asks for older ones gets 410.
const HISTORY: usize = 4096;

/// Where an object lies within its resource. Sorts as upstream's keys do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// One version of an object. It never changes; its JSON text is made once, for all readers.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) value: Value,
    pub(crate) version: u64,
    json: OnceLock<Bytes>,
}

impl Object {
    fn new(mut value: Value, version: u64) -> Arc<Self> {
        value["metadata"]["resourceVersion"] = Value::String(version.to_string());
        Arc::new(Self { value, version, json: OnceLock::new() })
    }

    pub(crate) fn json(&self) -> &Bytes {
        self.json.get_or_init(|| Bytes::from(self.value.to_string()))
    }

    pub(crate) fn key(&self) -> Key {
        Key::new(text(&self.value, "/metadata/namespace"), text(&self.value, "/metadata/name"))
    }
}

/// One change: what is there now and what was there before. Both are kept, since a selector may
/// match only one of them.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) version: u64,
    /// The new object, or for a deletion the last one, at the version of its deletion.
    pub(crate) object: Arc<Object>,
    pub(crate) previous: Option<Arc<Object>>,
    pub(crate) deleted: bool,
}

/// All objects of one resource and its recent changes.
struct Shelf {
    objects: BTreeMap<Key, Arc<Object>>,
    history: VecDeque<Arc<Change>>,
    /// The newest change that was forgotten.
    forgotten: u64,
    /// Tells watchers that the history grew.
    news: watch::Sender<u64>,
}

impl Default for Shelf {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), history: VecDeque::new(), forgotten: 0, news: watch::Sender::new(0) }
    }
}

type ShelfId = (&'static str, &'static str);

struct Inner {
    version: u64,
    shelves: BTreeMap<ShelfId, Shelf>,
}

/// The past asked for is no longer remembered.
#[derive(Debug)]
pub(crate) struct Forgotten {
    pub(crate) oldest: u64,
}

/// The store itself. Every access is short and never waits for anything but other accesses.
pub(crate) struct Store(Mutex<Inner>);

impl Store {
    pub(crate) fn new() -> Self {
        // Version 0 means "any" to clients, so no object may ever have it.
        Self(Mutex::new(Inner { version: 1, shelves: BTreeMap::new() }))
    }

    /// Starts a transaction: nobody else reads or writes until it is dropped.
    pub(crate) fn transaction(&self) -> Transaction<'_> {
        Transaction { inner: self.0.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// Exclusive access to the store.
pub(crate) struct Transaction<'a> {
    inner: MutexGuard<'a, Inner>,
}

impl Transaction<'_> {
    /// The version of the newest change to anything.
    pub(crate) fn version(&self) -> u64 {
        self.inner.version
    }

    /// The version of the newest change to a resource; 0 if nothing of it was ever written.
    pub(crate) fn newest(&self, resource: &Resource) -> u64 {
        self.inner.shelves.get(&resource.id()).map_or(0, |shelf| *shelf.news.borrow())
    }

    pub(crate) fn get(&self, resource: &Resource, key: &Key) -> Option<&Arc<Object>> {
        self.inner.shelves.get(&resource.id())?.objects.get(key)
    }

    /// All objects of a resource, of one namespace if one is given.
    pub(crate) fn list<'b>(
        &'b self,
        resource: &Resource,
        namespace: Option<&'b str>,
    ) -> impl Iterator<Item = &'b Arc<Object>> + use<'b> {
        let objects = self.inner.shelves.get(&resource.id()).map(|shelf| &shelf.objects);
        objects.into_iter().flat_map(move |objects| {
            let from = Key::new(namespace.unwrap_or_default(), "");
            objects
                .range(from..)
                .take_while(move |(key, _)| namespace.is_none_or(|namespace| key.namespace == namespace))
                .map(|(_, object)| object)
        })
    }

    /// All objects as they were at an earlier version, made by undoing what came later.
    pub(crate) fn list_at(
        &self,
        resource: &Resource,
        version: u64,
    ) -> Result<BTreeMap<Key, Arc<Object>>, Forgotten> {
        let Some(shelf) = self.inner.shelves.get(&resource.id()) else { return Ok(BTreeMap::new()) };
        if version < shelf.forgotten {
            return Err(Forgotten { oldest: shelf.forgotten });
        }
        let mut objects = shelf.objects.clone();
        for change in shelf.history.iter().rev().take_while(|change| change.version > version) {
            match &change.previous {
                Some(previous) => objects.insert(change.object.key(), Arc::clone(previous)),
                None => objects.remove(&change.object.key()),
            };
        }
        Ok(objects)
    }

    /// Writes an object and returns it as it is now.
    pub(crate) fn put(&mut self, resource: &Resource, key: Key, value: Value) -> Arc<Object> {
        self.inner.version += 1;
        let version = self.inner.version;
        let object = Object::new(value, version);
        let shelf = self.inner.shelves.entry(resource.id()).or_default();
        let previous = shelf.objects.insert(key, Arc::clone(&object));
        shelf.remember(Change { version, object: Arc::clone(&object), previous, deleted: false });
        object
    }

    /// Removes an object and returns its last state, if it was there.
    pub(crate) fn remove(&mut self, resource: &Resource, key: &Key, last: Value) -> Option<Arc<Object>> {
        let shelf = self.inner.shelves.get_mut(&resource.id())?;
        let previous = shelf.objects.remove(key)?;
        self.inner.version += 1;
        let version = self.inner.version;
        let object = Object::new(last, version);
        let shelf = self.inner.shelves.get_mut(&resource.id())?;
        shelf.remember(Change {
            version,
            object: Arc::clone(&object),
            previous: Some(previous),
            deleted: true,
        });
        Some(object)
    }

    /// What an object would look like if it were written; for dry runs.
    pub(crate) fn pretend(&self, mut value: Value, version: Option<u64>) -> Arc<Object> {
        let object = Object::new(std::mem::take(&mut value), version.unwrap_or_default());
        match version {
            Some(_) => object,
            None => {
                let mut value = object.value.clone();
                if let Some(metadata) = value["metadata"].as_object_mut() {
                    metadata.remove("resourceVersion");
                }
                Arc::new(Object { value, version: 0, json: OnceLock::new() })
            }
        }
    }

    /// The changes after a version, oldest first.
    pub(crate) fn changes(&self, resource: &Resource, after: u64) -> Result<Vec<Arc<Change>>, Forgotten> {
        let Some(shelf) = self.inner.shelves.get(&resource.id()) else { return Ok(Vec::new()) };
        if after < shelf.forgotten {
            return Err(Forgotten { oldest: shelf.forgotten });
        }
        let start = shelf.history.partition_point(|change| change.version <= after);
        Ok(shelf.history.range(start..).map(Arc::clone).collect())
    }

    /// Tells of every change to a resource from now on.
    pub(crate) fn subscribe(&mut self, resource: &Resource) -> watch::Receiver<u64> {
        self.inner.shelves.entry(resource.id()).or_default().news.subscribe()
    }
}

impl Shelf {
    fn remember(&mut self, change: Change) {
        let version = change.version;
        self.history.push_back(Arc::new(change));
        if self.history.len() > HISTORY
            && let Some(oldest) = self.history.pop_front()
        {
            self.forgotten = oldest.version;
        }
        self.news.send_replace(version);
    }
}
