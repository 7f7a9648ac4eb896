//! The versioned store: every object, one counter for all of them, and the recent past of each
//! resource for those who watch.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;

use super::json::text;
use super::limits;
use super::resources::Resource;

/// Where an object lies within its resource. Sorts as the paths of upstream's store do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn path(&self) -> impl Iterator<Item = u8> {
        self.namespace.bytes().chain([b'/']).chain(self.name.bytes())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.path().cmp(other.path())
    }
}

/// One version of an object. It never changes; its JSON text is made once, for all readers.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) value: Value,
    pub(crate) version: u64,
    json: Bytes,
}

impl Object {
    fn new(mut value: Value, version: u64) -> Arc<Self> {
        value["metadata"]["resourceVersion"] = Value::String(version.to_string());
        Self::exactly(value, version)
    }

    fn exactly(value: Value, version: u64) -> Arc<Self> {
        let json = Bytes::from(value.to_string());
        Arc::new(Self { value, version, json })
    }

    pub(crate) fn json(&self) -> &Bytes {
        &self.json
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
    /// How much JSON the changes are.
    remembered: usize,
    /// The newest change that was forgotten.
    forgotten: u64,
    /// Tells watchers that the history grew.
    news: watch::Sender<u64>,
}

impl Default for Shelf {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            remembered: 0,
            forgotten: 0,
            news: watch::Sender::new(0),
        }
    }
}

type ShelfId = (&'static str, &'static str);

struct Inner {
    version: u64,
    /// How much JSON all objects are.
    stored: usize,
    shelves: BTreeMap<ShelfId, Shelf>,
}

/// The past asked for is no longer remembered.
#[derive(Debug)]
pub(crate) struct Forgotten {
    pub(crate) oldest: u64,
}

/// An object cannot be stored.
#[derive(Debug)]
pub(crate) enum NoRoom {
    /// It alone is too large.
    TooLarge(usize),
    /// The store is full.
    Full,
}

/// The store itself. Every access is short and never waits for anything but other accesses.
pub(crate) struct Store(Mutex<Inner>);

impl Store {
    pub(crate) fn new() -> Self {
        // Version 0 means "any" to clients, so no object may ever have it.
        Self(Mutex::new(Inner { version: 1, stored: 0, shelves: BTreeMap::new() }))
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
    pub(crate) fn put(&mut self, resource: &Resource, key: Key, value: Value) -> Result<Arc<Object>, NoRoom> {
        let version = self.inner.version + 1;
        let object = Object::new(value, version);
        let (new, old) = (object.json.len(), self.get(resource, &key).map_or(0, |old| old.json.len()));
        if new > limits::OBJECT {
            return Err(NoRoom::TooLarge(new));
        }
        // What shrinks is always welcome, and a mark or a state can be written to what is there.
        let small = old > 0 && new < old + limits::SMALL;
        let limit = if small { limits::STORE + limits::STORE / 8 } else { limits::STORE };
        if new > old && self.inner.stored + new - old > limit {
            return Err(NoRoom::Full);
        }
        self.inner.stored = self.inner.stored + new - old;
        self.inner.version = version;
        let shelf = self.inner.shelves.entry(resource.id()).or_default();
        let previous = shelf.objects.insert(key, Arc::clone(&object));
        shelf.remember(Change { version, object: Arc::clone(&object), previous, deleted: false });
        Ok(object)
    }

    /// Removes an object and returns its last state, if it was there.
    pub(crate) fn remove(&mut self, resource: &Resource, key: &Key, last: Value) -> Option<Arc<Object>> {
        let shelf = self.inner.shelves.get_mut(&resource.id())?;
        let previous = shelf.objects.remove(key)?;
        self.inner.stored -= previous.json.len();
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
                Object::exactly(value, 0)
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
        self.remembered += change.object.json.len();
        self.history.push_back(Arc::new(change));
        // The newest is always remembered.
        while self.history.len() > limits::HISTORY
            || (self.remembered > limits::HISTORY_BYTES && self.history.len() > 1)
        {
            let Some(oldest) = self.history.pop_front() else { break };
            self.remembered -= oldest.object.json.len();
            self.forgotten = oldest.version;
        }
        self.news.send_replace(version);
    }
}
