//! Recordings: the watches that follow the objects, and the marker that dates what they bring.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures::TryStreamExt as _;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Config, Event};
use serde::de::DeserializeOwned;
use serde_json::json;
use stickler_model::{ObjectKey, World};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::Chronicle;
use super::version::{Change, Object, What};
use crate::clock::now_us;

/// How often the marker is patched: the doubt about when a change happened is about that.
const MARK_EVERY: Duration = Duration::from_millis(100);

/// Between two attempts to watch again after an error.
const WATCH_AGAIN: Duration = Duration::from_millis(50);

/// Follows nodes and the objects of some namespaces, until it is dropped.
pub struct Recording {
    log: Arc<Mutex<Log>>,
    /// Counts what has arrived.
    news: watch::Receiver<u64>,
    sources: Vec<Source>,
    marker: Marker,
    bound: Duration,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// One set of objects that is followed.
#[derive(Clone)]
struct Source {
    number: usize,
    kind: Kind,
    /// None of nodes.
    namespace: Option<String>,
    client: kube::Client,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Node,
    Pod,
    Service,
    Endpoints,
    EndpointSlice,
}

/// What has arrived so far.
#[derive(Default)]
struct Log {
    opened_us: i64,
    /// When the last first list was in; 0 before.
    since_us: i64,
    listed: BTreeSet<usize>,
    start: Vec<Object>,
    entries: Vec<Entry>,
    live: BTreeMap<(usize, ObjectKey), Live>,
    /// When each source last brought something.
    arrived: BTreeMap<usize, i64>,
    markers: Vec<Mark>,
    crashes: Vec<(i64, ObjectKey)>,
    gaps: Vec<String>,
    unordered: bool,
}

/// An object as it is now, as far as is known.
struct Live {
    version: String,
    object: Object,
}

/// A change, as it arrived.
struct Entry {
    /// The resourceVersion, if it is a number.
    version: Option<u64>,
    arrived_us: i64,
    /// When the same source had brought something before.
    before_us: i64,
    what: What,
}

/// One patch of the marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    sent_us: i64,
    answered_us: i64,
    version: u64,
}

impl Recording {
    /// Begins to follow nodes, and services, pods, endpoints and slices of these namespaces; returns
    /// when all of them are listed. The marker is kept in the first of them. `bound` is how long one
    /// request may take.
    ///
    /// # Errors
    /// If the marker cannot be made or the objects are not listed within the bound.
    pub async fn open(client: &kube::Client, namespaces: &[&str], bound: Duration) -> anyhow::Result<Self> {
        let home = *namespaces.first().context("a chronicle needs a namespace")?;
        let log = Arc::new(Mutex::new(Log { opened_us: now_us(), ..Log::default() }));
        let marker = Marker::create(client, home, bound).await?;
        // Everything that arrives from here on happened after this one.
        marker.mark(&log).await?;

        let names: BTreeSet<&str> = namespaces.iter().copied().collect();
        let mut sources = vec![(Kind::Node, None)];
        for namespace in names {
            let kinds = [Kind::Pod, Kind::Service, Kind::Endpoints, Kind::EndpointSlice];
            sources.extend(kinds.map(|kind| (kind, Some(namespace.to_owned()))));
        }
        let numbered = sources.into_iter().enumerate();
        let sources: Vec<Source> = numbered
            .map(|(number, (kind, namespace))| Source { number, kind, namespace, client: client.clone() })
            .collect();
        let (tell, news) = watch::channel(0);
        let mut tasks = Vec::new();
        for source in sources.iter().cloned() {
            let (log, tell) = (Arc::clone(&log), tell.clone());
            tasks.push(AbortOnDropHandle::new(tokio::spawn(source.follow(log, tell))));
        }
        let marking = {
            let (marker, log) = (marker.clone(), Arc::clone(&log));
            async move {
                let mut ticks = interval(MARK_EVERY);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    // Without a mark, the doubt grows until there is one again.
                    if let Err(error) = marker.mark(&log).await {
                        tracing::debug!("no mark: {error:#}");
                    }
                }
            }
        };
        tasks.push(AbortOnDropHandle::new(tokio::spawn(marking)));

        let recording = Self { log, news, sources, marker, bound, _tasks: tasks };
        let count = recording.sources.len();
        let all = |log: &Log| {
            let missing = count - log.listed.len();
            if missing == 0 { Ok(()) } else { Err(format!("{missing} of {count} lists are missing")) }
        };
        recording.until("the objects to be listed", all).await?;
        recording.log().since_us = now_us();
        Ok(recording)
    }

    /// Tells that the container of this pod is about to be ended by force: from now on, until it is
    /// ready again, what is routed to it may fail. To be called before it is done, so that no call
    /// comes in between.
    pub fn crashed(&self, pod: ObjectKey) {
        self.log().crashes.push((now_us(), pod));
    }

    /// Waits until everything that happened before is recorded.
    ///
    /// # Errors
    /// If the API server does not answer, or the watches stay behind it.
    pub async fn settle(&self) -> anyhow::Result<()> {
        let listing = try_join_all(self.sources.iter().map(Source::list));
        let lists = timeout(self.bound, listing).await;
        let lists = lists.map_err(|_| anyhow!("no list of the objects within {:?}", self.bound))??;
        let caught_up = |log: &Log| {
            for (source, list) in self.sources.iter().zip(&lists) {
                log.has_caught_up(source, list)?;
            }
            Ok(())
        };
        self.until("the watches to catch up with the lists", caught_up).await?;
        // Of what is recorded, everything gets a mark after it.
        self.marker.mark(&self.log).await
    }

    /// What is recorded, up to now.
    ///
    /// # Errors
    /// As [`Recording::settle`], which it begins with.
    pub async fn chronicle(&self) -> anyhow::Result<Chronicle> {
        let until_us = now_us();
        self.settle().await?;
        Ok(self.log().chronicle(until_us))
    }

    /// Ends it, and takes the marker away.
    ///
    /// # Errors
    /// If the marker is there still.
    pub async fn close(self) -> anyhow::Result<()> {
        self.marker.delete().await
    }

    async fn until(&self, what: &str, done: impl Fn(&Log) -> Result<(), String>) -> anyhow::Result<()> {
        let mut news = self.news.clone();
        let waiting = async {
            loop {
                news.mark_unchanged();
                if done(&self.log()).is_ok() {
                    return;
                }
                if news.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = timeout(self.bound, waiting).await;
        done(&self.log()).map_err(|last| anyhow!("waited {:?} for {what}; last seen: {last}", self.bound))
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ConfigMap that is patched.
#[derive(Clone)]
struct Marker {
    api: Api<ConfigMap>,
    name: String,
    bound: Duration,
}

impl Marker {
    async fn create(client: &kube::Client, namespace: &str, bound: Duration) -> anyhow::Result<Self> {
        let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
        let made: ConfigMap = serde_json::from_value(json!({
            "metadata": { "generateName": "stickler-marker-" },
        }))?;
        let params = PostParams::default();
        let creating = timeout(bound, api.create(&params, &made)).await;
        let made = creating
            .map_err(|_| anyhow!("no answer within {bound:?}"))
            .and_then(|made| Ok(made?))
            .with_context(|| format!("could not create a marker in namespace `{namespace}`"))?;
        let name = made.metadata.name.context("the marker got no name")?;
        Ok(Self { api, name, bound })
    }

    /// Patches it once, and writes down what that tells.
    async fn mark(&self, log: &Mutex<Log>) -> anyhow::Result<()> {
        let sent_us = now_us();
        let patch = Patch::Merge(json!({ "data": { "sent": sent_us.to_string() } }));
        let patching =
            timeout(self.bound, async { self.api.patch(&self.name, &PatchParams::default(), &patch).await });
        let marked = patching
            .await
            .map_err(|_| anyhow!("no answer within {:?}", self.bound))
            .and_then(|marked| Ok(marked?))
            .with_context(|| format!("could not patch the marker `{}`", self.name))?;
        let answered_us = now_us();
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        match marked.metadata.resource_version.as_deref().map(str::parse) {
            Some(Ok(version)) => log.markers.push(Mark { sent_us, answered_us, version }),
            _ => log.unordered = true,
        }
        Ok(())
    }

    async fn delete(&self) -> anyhow::Result<()> {
        let deleting = timeout(self.bound, self.api.delete(&self.name, &DeleteParams::default())).await;
        deleting
            .map_err(|_| anyhow!("no answer within {:?}", self.bound))
            .and_then(|deleted| Ok(deleted?))
            .with_context(|| format!("could not delete the marker `{}`", self.name))?;
        Ok(())
    }
}

impl Source {
    /// Follows it for ever.
    async fn follow(self, log: Arc<Mutex<Log>>, tell: watch::Sender<u64>) {
        let (client, namespace) = (self.client.clone(), self.namespace.clone());
        let space = namespace.as_deref().unwrap_or_default();
        match self.kind {
            Kind::Node => self.follow_in(Api::<Node>::all(client), log, tell).await,
            Kind::Pod => self.follow_in(Api::<Pod>::namespaced(client, space), log, tell).await,
            Kind::Service => self.follow_in(Api::<Service>::namespaced(client, space), log, tell).await,
            Kind::Endpoints => self.follow_in(Api::<Endpoints>::namespaced(client, space), log, tell).await,
            Kind::EndpointSlice => {
                self.follow_in(Api::<EndpointSlice>::namespaced(client, space), log, tell).await;
            }
        }
    }

    async fn follow_in<K>(&self, api: Api<K>, log: Arc<Mutex<Log>>, tell: watch::Sender<u64>)
    where
        K: kube::Resource + Clone + DeserializeOwned + Debug + Send + Into<Object> + 'static,
        K::DynamicType: Clone,
    {
        let mut events = Box::pin(watcher::watcher(api, Config::default()));
        let mut listing: Vec<K> = Vec::new();
        let mut again = interval(WATCH_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = match events.try_next().await {
                Ok(Some(event)) => event,
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(source = ?self.kind, "the watch failed: {error}");
                    again.tick().await;
                    continue;
                }
            };
            let arrived_us = now_us();
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                Event::Init => listing.clear(),
                Event::InitApply(object) => {
                    listing.push(object);
                    continue;
                }
                Event::InitDone => {
                    let list = std::mem::take(&mut listing).into_iter().map(Into::into).collect();
                    log.list(self, list, arrived_us);
                }
                Event::Apply(object) => log.put(self.number, object.into(), arrived_us),
                Event::Delete(object) => log.gone(self.number, object.into(), arrived_us),
            }
            drop(log);
            tell.send_modify(|count| *count += 1);
        }
    }

    /// What there is now.
    async fn list(&self) -> anyhow::Result<Listed> {
        let client = self.client.clone();
        let space = self.namespace.as_deref().unwrap_or_default();
        match self.kind {
            Kind::Node => list_in(Api::<Node>::all(client)).await,
            Kind::Pod => list_in(Api::<Pod>::namespaced(client, space)).await,
            Kind::Service => list_in(Api::<Service>::namespaced(client, space)).await,
            Kind::Endpoints => list_in(Api::<Endpoints>::namespaced(client, space)).await,
            Kind::EndpointSlice => list_in(Api::<EndpointSlice>::namespaced(client, space)).await,
        }
        .with_context(|| format!("could not list {self}"))
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} objects", self.kind)?;
        self.namespace.iter().try_for_each(|namespace| write!(f, " of namespace `{namespace}`"))
    }
}

/// A list: its resourceVersion, and each object's.
struct Listed {
    version: Option<u64>,
    objects: BTreeMap<ObjectKey, String>,
}

async fn list_in<K>(api: Api<K>) -> anyhow::Result<Listed>
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Into<Object>,
{
    let list = api.list(&ListParams::default()).await?;
    let version = |object: K| {
        let version = object.meta().resource_version.clone().unwrap_or_default();
        let object: Object = object.into();
        (object.key(), version)
    };
    let at = list.metadata.resource_version.and_then(|version| version.parse().ok());
    Ok(Listed { version: at, objects: list.items.into_iter().map(version).collect() })
}

impl Log {
    /// A whole list: the first one, or one after a watch that could not be taken up again.
    fn list(&mut self, source: &Source, list: Vec<Object>, arrived_us: i64) {
        let number = source.number;
        if self.listed.insert(number) {
            for object in list {
                let version = version_of(&object);
                let object = object.trimmed();
                self.live.insert((number, object.key()), Live { version, object: object.clone() });
                self.start.push(object);
            }
            self.arrived.insert(number, arrived_us);
            return;
        }
        self.gaps.push(format!("{source} had to be listed anew: versions in between may be missing"));
        let keys: BTreeSet<ObjectKey> = list.iter().map(Object::key).collect();
        let gone: Vec<Object> = (self.live.iter())
            .filter(|((of, key), _)| *of == number && !keys.contains(key))
            .map(|(_, live)| live.object.clone())
            .collect();
        gone.into_iter().for_each(|object| self.gone(number, object, arrived_us));
        list.into_iter().for_each(|object| self.put(number, object, arrived_us));
    }

    fn put(&mut self, source: usize, object: Object, arrived_us: i64) {
        let version = version_of(&object);
        let object = object.trimmed();
        let place = (source, object.key());
        let known = self.live.get(&place);
        if known.is_some_and(|known| known.version == version) {
            return;
        }
        let is_new = known.is_none_or(|known| known.object != object);
        let number = self.number(&version);
        self.live.insert(place, Live { version, object: object.clone() });
        self.push(source, number, arrived_us, is_new.then_some(What::Put(object)));
    }

    fn gone(&mut self, source: usize, object: Object, arrived_us: i64) {
        let version = version_of(&object);
        let number = self.number(&version);
        let object = object.trimmed();
        if self.live.remove(&(source, object.key())).is_some() {
            self.push(source, number, arrived_us, Some(What::Gone(object)));
        }
    }

    fn push(&mut self, source: usize, version: Option<u64>, arrived_us: i64, what: Option<What>) {
        let before_us = self.arrived.insert(source, arrived_us).unwrap_or(self.opened_us);
        if let Some(what) = what {
            self.entries.push(Entry { version, arrived_us, before_us, what });
        }
    }

    fn number(&mut self, version: &str) -> Option<u64> {
        let number = version.parse().ok();
        self.unordered |= number.is_none() && !version.is_empty();
        // An object that a new list no longer has is gone since its last version at the earliest.
        number.or_else(|| self.entries.last().and_then(|last| last.version))
    }

    fn has_caught_up(&self, source: &Source, list: &Listed) -> Result<(), String> {
        for (key, listed) in &list.objects {
            let known = self.live.get(&(source.number, key.clone()));
            let is_there = known.is_some_and(|known| match (known.version.parse::<u64>(), listed.parse()) {
                (Ok(known), Ok(listed)) => known >= listed,
                _ => known.version == *listed,
            });
            // What was listed and deleted since then has its end recorded, newer than the list.
            let is_gone = known.is_none() && self.ended_after(key, listed);
            if !is_there && !is_gone {
                return Err(format!("`{key}` of {source} is older than in the list"));
            }
        }
        let stale = self.live.iter().find(|((number, key), live)| {
            // One that is newer than the list was created after it.
            let is_newer = live.version.parse().is_ok_and(|version: u64| list.version < Some(version));
            *number == source.number && !list.objects.contains_key(key) && !is_newer
        });
        match stale {
            Some(((_, key), _)) => Err(format!("`{key}` of {source} is gone, and still known")),
            None => Ok(()),
        }
    }

    fn ended_after(&self, key: &ObjectKey, listed: &str) -> bool {
        let listed: Option<u64> = listed.parse().ok();
        let ends = self.entries.iter().rev().filter(|entry| matches!(&entry.what, What::Gone(_)));
        ends.into_iter().any(|entry| match &entry.what {
            What::Gone(object) => object.key() == *key && (listed.is_none() || entry.version >= listed),
            _ => false,
        })
    }

    fn chronicle(&self, until_us: i64) -> Chronicle {
        let mut start = World::new();
        for object in &self.start {
            let first =
                Change { earliest_us: i64::MIN, latest_us: i64::MIN, what: What::Put(object.clone()) };
            first.apply(&mut start, &mut super::Crashed::new());
        }
        let mut doubts = Vec::new();
        if self.unordered {
            doubts.push(
                "resourceVersions are no numbers here: changes are dated by the arrival of their events"
                    .to_owned(),
            );
        }
        let answers = self.markers.iter().map(|mark| mark.answered_us - mark.sent_us);
        let slowest_answer_us = answers.max().unwrap_or_default();
        let mut changes = self.dated();
        for (at_us, pod) in &self.crashes {
            insert_crash(&mut changes, *at_us, pod);
        }
        Chronicle {
            since_us: self.since_us,
            until_us,
            start,
            changes,
            gaps: self.gaps.clone(),
            doubts,
            slowest_answer_us,
        }
    }

    /// Every change with its interval, in the order they happened in.
    fn dated(&self) -> Vec<Change> {
        let mut entries: Vec<&Entry> = self.entries.iter().collect();
        let mut changes: Vec<Change> = if self.unordered {
            let dated = |entry: &Entry| Change {
                earliest_us: entry.before_us,
                latest_us: entry.arrived_us,
                what: entry.what.clone(),
            };
            entries.into_iter().map(dated).collect()
        } else {
            entries.sort_by_key(|entry| entry.version);
            let dated = |entry: &&Entry| {
                let version = entry.version.unwrap_or_default();
                let next = self.markers.partition_point(|mark| mark.version < version);
                let before = next.checked_sub(1).and_then(|index| self.markers.get(index));
                let after = self.markers.get(next);
                Change {
                    earliest_us: before.map_or(self.opened_us, |mark| mark.sent_us),
                    latest_us: after.map_or(i64::MAX, |mark| mark.answered_us).min(entry.arrived_us),
                    what: entry.what.clone(),
                }
            };
            entries.iter().map(dated).collect()
        };
        // What comes later did not happen earlier, and what came earlier happened before it.
        let mut earliest_us = i64::MIN;
        for change in &mut changes {
            earliest_us = earliest_us.max(change.earliest_us);
            change.earliest_us = earliest_us;
        }
        let mut latest_us = i64::MAX;
        for change in changes.iter_mut().rev() {
            latest_us = latest_us.min(change.latest_us);
            change.latest_us = latest_us;
        }
        changes
    }
}

/// Puts a crash among the changes, as early as it may have happened among them: what is in doubt
/// is excused.
fn insert_crash(changes: &mut Vec<Change>, at_us: i64, pod: &ObjectKey) {
    let place = changes.partition_point(|change| change.latest_us < at_us);
    let next = changes.get(place).map_or(at_us, |next| next.earliest_us);
    let earliest_us = at_us.min(next);
    changes.insert(place, Change { earliest_us, latest_us: at_us, what: What::Crashed(pod.clone()) });
}

fn version_of(object: &Object) -> String {
    object.metadata().resource_version.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, version: &str, phase: &str) -> Object {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": "x", "resourceVersion": version },
            "status": { "phase": phase },
        }))
        .expect("a pod");
        pod.into()
    }

    fn log() -> Log {
        let mut log = Log { opened_us: 5, ..Log::default() };
        for (sent_us, version) in [(10, 10), (110, 20), (210, 30)] {
            log.markers.push(Mark { sent_us, answered_us: sent_us + 5, version });
        }
        log
    }

    fn intervals(log: &Log) -> Vec<(i64, i64)> {
        log.chronicle(0).changes.iter().map(|change| (change.earliest_us, change.latest_us)).collect()
    }

    #[test]
    fn markers_date_what_arrives_late() {
        let mut log = log();
        log.put(0, pod("a", "15", "Pending"), 400);
        log.put(0, pod("a", "25", "Running"), 401);
        log.put(0, pod("a", "35", "Failed"), 402);
        assert_eq!(intervals(&log), [(10, 115), (110, 215), (210, 402)]);
    }

    #[test]
    fn an_arrival_dates_it_too_and_the_order_is_that_of_versions() {
        let mut log = log();
        log.put(1, pod("b", "18", "Pending"), 60);
        // Another watch, slower.
        log.put(0, pod("a", "15", "Pending"), 90);
        let chronicle = log.chronicle(0);
        let names = chronicle.changes.iter().map(|change| match &change.what {
            What::Put(object) => object.key().name,
            _ => String::new(),
        });
        assert_eq!(names.collect::<Vec<_>>(), ["a", "b"]);
        // What happened before something that had arrived at 60 happened before 60.
        assert_eq!(intervals(&log), [(10, 60), (10, 60)]);
    }

    #[test]
    fn what_decides_nothing_makes_no_version() {
        let mut log = log();
        log.put(0, pod("a", "15", "Running"), 50);
        log.put(0, pod("a", "16", "Running"), 60);
        log.gone(0, pod("a", "17", "Running"), 70);
        assert_eq!(log.chronicle(0).changes.len(), 2);
    }

    #[test]
    fn without_numbers_arrivals_date_it() {
        let mut log = log();
        log.put(0, pod("a", "x1", "Pending"), 50);
        log.put(0, pod("a", "x2", "Running"), 70);
        assert_eq!(intervals(&log), [(5, 50), (50, 70)]);
        assert_eq!(log.chronicle(0).doubts.len(), 1);
    }

    #[test]
    fn a_new_list_is_a_gap() {
        let source = |client| Source { number: 0, kind: Kind::Pod, namespace: Some("x".to_owned()), client };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let config = kube::Config::new("http://127.0.0.1:1".parse().expect("an address"));
            let source = source(kube::Client::try_from(config).expect("a client"));
            let mut log = log();
            log.list(&source, vec![pod("a", "11", "Running"), pod("b", "12", "Running")], 20);
            assert!(log.chronicle(0).gaps.is_empty() && log.chronicle(0).changes.is_empty());
            log.list(&source, vec![pod("a", "25", "Failed")], 300);
            let chronicle = log.chronicle(0);
            assert_eq!((chronicle.gaps.len(), chronicle.changes.len()), (1, 2));
            assert_eq!(chronicle.start.pods.len(), 2);
            assert_eq!(chronicle.last().pods.len(), 1);
        });
    }

    #[test]
    fn the_watch_has_caught_up_when_it_knows_all_that_is_listed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let config = kube::Config::new("http://127.0.0.1:1".parse().expect("an address"));
            let client = kube::Client::try_from(config).expect("a client");
            let source = Source { number: 0, kind: Kind::Pod, namespace: Some("x".to_owned()), client };
            let list = |entries: &[(&str, &str)]| {
                let objects =
                    entries.iter().map(|(name, version)| (ObjectKey::new("x", *name), (*version).to_owned()));
                Listed { version: Some(17), objects: objects.collect() }
            };
            let mut log = log();
            log.put(0, pod("a", "15", "Running"), 50);
            assert!(log.has_caught_up(&source, &list(&[("a", "15")])).is_ok());
            assert!(log.has_caught_up(&source, &list(&[("a", "14")])).is_ok(), "it is ahead");
            assert!(log.has_caught_up(&source, &list(&[("a", "16")])).is_err());
            assert!(log.has_caught_up(&source, &list(&[("a", "15"), ("b", "16")])).is_err());
            assert!(log.has_caught_up(&source, &list(&[])).is_err(), "`a` was deleted");
            log.gone(0, pod("a", "18", "Running"), 60);
            assert!(log.has_caught_up(&source, &list(&[])).is_ok());
            assert!(log.has_caught_up(&source, &list(&[("a", "16")])).is_ok(), "deleted after the list");
        });
    }

    #[test]
    fn a_crash_is_put_before_what_may_have_come_after_it() {
        let mut log = log();
        log.put(0, pod("a", "11", "Pending"), 20);
        log.put(0, pod("a", "15", "Running"), 90);
        log.put(0, pod("a", "25", "Failed"), 300);
        log.crashes.push((100, ObjectKey::new("x", "a")));
        let changes = log.chronicle(0).changes;
        assert!(matches!(changes[2].what, What::Crashed(_)));
        assert_eq!((changes[2].earliest_us, changes[2].latest_us), (100, 100));
        assert_eq!(changes[3].earliest_us, 110);
    }
}
