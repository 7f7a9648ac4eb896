//! What a controller did but has not seen yet: until its cache shows it, it must not decide again, or
//! it would make the same pods twice.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::informer::{Cached, Informer, Key, version};

/// How soon to look again when nothing seems to come: a change may hide in a gap between two watches.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Writes that the cache of one kind has yet to show, by the key that made them.
pub(crate) struct Expectations<K> {
    informer: Informer<K>,
    awaited: Mutex<BTreeMap<Key, Vec<Awaited>>>,
}

struct Awaited {
    object: Key,
    uid: Option<String>,
    what: What,
    lists_begun: u64,
}

enum What {
    Written { version: u64 },
    Deleted,
}

impl<K: Cached> Expectations<K> {
    pub(crate) fn new(informer: Informer<K>) -> Self {
        Self { informer, awaited: Mutex::default() }
    }

    /// `owner` created or updated this object; `meta` is from the server's answer.
    pub(crate) fn written(&self, owner: &Key, meta: &ObjectMeta) {
        self.await_(owner, meta, What::Written { version: version(meta) });
    }

    /// `owner` asked for this object to be deleted.
    pub(crate) fn deleted(&self, owner: &Key, meta: &ObjectMeta) {
        self.await_(owner, meta, What::Deleted);
    }

    /// The request to delete it failed: nothing will come.
    pub(crate) fn not_deleted(&self, owner: &Key, meta: &ObjectMeta) {
        let mut all = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(list) = all.get_mut(owner) {
            list.retain(|awaited| !(matches!(awaited.what, What::Deleted) && awaited.uid == meta.uid));
        }
    }

    /// Does the cache show everything `owner` did?
    pub(crate) fn are_met(&self, owner: &Key) -> bool {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(list) = awaited.get_mut(owner) else { return true };
        list.retain(|awaited| !self.is_met(awaited));
        let met = list.is_empty();
        if met {
            awaited.remove(owner);
        }
        met
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, owner: &Key) {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner).remove(owner);
    }

    fn await_(&self, owner: &Key, meta: &ObjectMeta, what: What) {
        let awaited = Awaited {
            object: Key::of(meta),
            uid: meta.uid.clone(),
            what,
            lists_begun: self.informer.lists_begun(),
        };
        let mut all = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(owner.clone()).or_default().push(awaited);
    }

    fn is_met(&self, awaited: &Awaited) -> bool {
        if self.informer.listed_since(awaited.lists_begun) {
            return true;
        }
        let cached = self.informer.get(&awaited.object);
        let cached = cached.as_ref().map(|object| object.meta()).filter(|meta| meta.uid == awaited.uid);
        match awaited.what {
            What::Written { version: written } => {
                self.informer.has_seen(written) || cached.is_some_and(|meta| version(meta) >= written)
            }
            What::Deleted => cached.is_none_or(|meta| meta.deletion_timestamp.is_some()),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn pod(name: &str, version: u64) -> Pod {
        let metadata = ObjectMeta {
            namespace: Some("ns".to_owned()),
            name: Some(name.to_owned()),
            uid: Some(format!("uid-{name}")),
            resource_version: Some(version.to_string()),
            ..ObjectMeta::default()
        };
        Pod { metadata, ..Pod::default() }
    }

    #[test]
    fn a_write_is_awaited_until_it_or_something_later_is_seen() {
        let pods = Informer::new();
        let expectations = Expectations::new(pods.clone());
        let owner = Key::new("ns", "rs");
        assert!(expectations.are_met(&owner));
        expectations.written(&owner, &pod("a", 5).metadata);
        assert!(!expectations.are_met(&owner));
        pods.apply(pod("other", 4));
        assert!(!expectations.are_met(&owner), "an earlier change proves nothing");
        pods.apply(pod("a", 5));
        assert!(expectations.are_met(&owner));
        // Made, seen and gone again before the answer to the request arrived.
        pods.delete(&pod("a", 7));
        expectations.written(&owner, &pod("b", 6).metadata);
        assert!(expectations.are_met(&owner));
    }

    #[test]
    fn a_deletion_is_awaited_until_the_pod_is_terminating_or_gone() {
        let pods = Informer::new();
        let expectations = Expectations::new(pods.clone());
        let owner = Key::new("ns", "rs");
        let mut doomed = pod("a", 1);
        pods.apply(doomed.clone());
        expectations.deleted(&owner, &doomed.metadata);
        assert!(!expectations.are_met(&owner));
        doomed.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::now()));
        pods.apply(doomed);
        assert!(expectations.are_met(&owner));
    }

    #[test]
    fn a_whole_list_settles_what_a_gap_in_the_watch_hid() {
        let pods = Informer::<Pod>::new();
        let expectations = Expectations::new(pods.clone());
        let owner = Key::new("ns", "rs");
        expectations.written(&owner, &pod("a", 5).metadata);
        assert!(!expectations.are_met(&owner));
        pods.replace_all(BTreeMap::new());
        assert!(expectations.are_met(&owner));
    }
}
