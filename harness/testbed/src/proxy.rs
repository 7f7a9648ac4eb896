//! The built-in service proxy of one node: what services and endpoint slices say, as packet rules.

mod dataplane;
mod desired;
mod health;

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Resource, ResourceExt as _};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use dataplane::Wrong;
pub use dataplane::{At, Backends, Dataplane, Desired, Endpoint, Frontend, Protocol};

use crate::bugs::{Bug, Bugs};
use crate::topology::NodeNet;
use desired::{Memory, Place, desired};
use health::{Health, HealthServers, health_checks};

/// The label that says where a node is
/// ([well-known labels](https://kubernetes.io/docs/reference/labels-annotations-taints/#topologykubernetesiozone)).
const ZONE: &str = "topology.kubernetes.io/zone";
/// How soon a failed change of the kernel's rules is tried again.
const RETRY: Duration = Duration::from_millis(200);

pub(crate) struct ProxyConfig {
    /// As which, and from where, the proxy reads the API.
    pub(crate) client: kube::Client,
    pub(crate) node: NodeNet,
    /// Callers from here keep their source address at cluster IPs.
    pub(crate) cluster_cidr: Ipv4Net,
    pub(crate) bugs: Bugs,
}

/// A running proxy. Dropping it stops it; as with kube-proxy, its rules stay.
pub(crate) struct Proxy {
    synced: watch::Receiver<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Prepares the node's rules, then follows the API in the background.
    pub(crate) async fn start(config: ProxyConfig) -> anyhow::Result<Self> {
        let mut dataplane = Dataplane::open(&config.node.namespace, config.cluster_cidr)?;
        dataplane.wrong = Wrong {
            keeps_flows: config.bugs.has(Bug::StaleUdpConntrack),
            keeps_flows_of_deleted: config.bugs.has(Bug::UdpDeletedServiceStays),
            loses_sources: config.bugs.has(Bug::LocalSourceLost),
            returns_to_gone: config.bugs.has(Bug::AffinityToUnready),
            forgets_hairpins: config.bugs.has(Bug::HairpinBroken),
        };
        let (announce, synced) = watch::channel(false);
        if config.bugs.has(Bug::NoProxy) {
            announce.send_replace(true);
            let task = tokio::spawn(pending());
            return Ok(Self { synced, _task: AbortOnDropHandle::new(task) });
        }
        dataplane.prepare().await?;
        let health = Arc::new(Health::default());
        let mut servers = HealthServers::start(&config.node.namespace, &health)?;
        servers.keeps_ports = config.bugs.has(Bug::HealthCheckPortStays);
        let task = tokio::spawn(follow(config, dataplane, servers, health, announce));
        Ok(Self { synced, _task: AbortOnDropHandle::new(task) })
    }

    /// Waits until the rules are those of a complete reading of the API, once.
    pub(crate) async fn synced(&self) {
        // The sender lives as long as the task, and the task as long as `self`, unless it panicked:
        // then there is nothing left to wait for.
        let _ = self.synced.clone().wait_for(|synced| *synced).await;
    }
}

async fn follow(
    config: ProxyConfig,
    mut dataplane: Dataplane,
    mut servers: HealthServers,
    health: Arc<Health>,
    announce: watch::Sender<bool>,
) {
    let mut services = Mirror::<Service>::new(&config.client);
    let mut slices = Mirror::<EndpointSlice>::new(&config.client);
    let own = watcher::Config::default().fields(&format!("metadata.name={}", config.node.name));
    let mut nodes = Mirror::<Node>::of(&config.client, own);
    let mut place = Place { node: config.node.name.clone(), zone: None, address: Some(config.node.ip) };
    let mut memory = Memory::default();
    let mut retry = tokio::time::interval(RETRY);
    retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut outdated = false;
    loop {
        tokio::select! {
            changed = services.next() => outdated |= changed,
            changed = slices.next() => outdated |= changed,
            _ = nodes.next() => {}
            _ = retry.tick(), if outdated => {}
        }
        // Whatever has arrived already belongs to the same change.
        while let Some(changed) = services.next().now_or_never() {
            outdated |= changed;
        }
        while let Some(changed) = slices.next().now_or_never() {
            outdated |= changed;
        }
        let node = nodes.objects.values().next();
        health.node_is(node);
        let zone = node.and_then(|node| node.labels().get(ZONE).cloned());
        // A node changes with each of its heartbeats; its zone hardly ever does.
        outdated |= zone != place.zone;
        place.zone = zone;
        if !outdated {
            continue;
        }
        health.outdated();
        if !(services.complete && slices.complete && nodes.complete) {
            continue;
        }
        let wanted =
            desired(services.objects.values(), slices.objects.values(), &place, &config.bugs, &mut memory);
        let checks = health_checks(
            services.objects.values(),
            slices.objects.values().collect::<Vec<_>>(),
            &place.node,
            &config.bugs,
        );
        if let Err(error) = dataplane.apply(&wanted).await {
            warn!(node = config.node.name, "proxy rules not applied, will write all anew: {error:#}");
            retry.reset();
            continue;
        }
        debug!(node = config.node.name, frontends = wanted.frontends.len(), "proxy rules applied");
        health.updated();
        announce.send_replace(true);
        match servers.apply(checks) {
            Ok(()) => outdated = false,
            // One port that cannot be had says nothing about the rules.
            Err(error) => {
                warn!(
                    node = config.node.name,
                    "not every health check port is served, will retry: {error:#}"
                );
                retry.reset();
            }
        }
    }
}

/// All objects of a kind, kept current by a watch.
struct Mirror<K> {
    events: BoxStream<'static, watcher::Result<Event<K>>>,
    objects: BTreeMap<(String, String), K>,
    /// A listing that is not complete yet.
    listing: BTreeMap<(String, String), K>,
    complete: bool,
}

impl<K> Mirror<K>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    fn new(client: &kube::Client) -> Self {
        Self::of(client, watcher::Config::default())
    }

    fn of(client: &kube::Client, which: watcher::Config) -> Self {
        let events = watcher(Api::<K>::all(client.clone()), which).backoff(Patience::default());
        Self { events: events.boxed(), objects: BTreeMap::new(), listing: BTreeMap::new(), complete: false }
    }

    /// Takes one event in; answers whether the objects changed.
    async fn next(&mut self) -> bool {
        let Some(event) = self.events.next().await else {
            // A watch never ends by itself; without this arm its end would be a busy loop.
            return pending().await;
        };
        match event {
            Ok(Event::Init) => self.listing.clear(),
            Ok(Event::InitApply(object)) => {
                self.listing.insert(name_of(&object), object);
            }
            Ok(Event::InitDone) => {
                self.objects = std::mem::take(&mut self.listing);
                self.complete = true;
                return true;
            }
            Ok(Event::Apply(object)) => {
                self.objects.insert(name_of(&object), object);
                return true;
            }
            Ok(Event::Delete(object)) => return self.objects.remove(&name_of(&object)).is_some(),
            Err(error) => warn!("the proxy's watch of {} was interrupted: {error}", K::plural(&())),
        }
        false
    }
}

/// How long to wait before an interrupted watch is tried again: a client's default would leave the
/// node without news for the better part of a second after the first failure.
#[derive(Default)]
pub(crate) struct Patience {
    failures: u32,
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        const FIRST: Duration = Duration::from_millis(50);
        const MOST_DOUBLINGS: u32 = 5;
        let wait = FIRST * 2_u32.pow(self.failures.min(MOST_DOUBLINGS));
        self.failures = self.failures.saturating_add(1);
        Some(wait)
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

fn name_of<K: Resource<DynamicType = ()>>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::Full;
    use serde_json::{Value, json};

    /// An API server that gives these answers in turn, and then none any more.
    fn scripted(answers: Vec<String>) -> kube::Client {
        let answers = Arc::new(std::sync::Mutex::new(answers.into_iter()));
        let service = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            let answer = answers.lock().ok().and_then(|mut answers| answers.next());
            async move {
                match answer {
                    Some(body) => {
                        Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(body))))
                    }
                    None => pending().await,
                }
            }
        });
        kube::Client::new(service, "default")
    }

    fn service(name: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default", "resourceVersion": "5"},
        })
    }

    fn list(names: &[&str]) -> String {
        let items: Vec<Value> = names.iter().map(|name| service(name)).collect();
        json!({"apiVersion": "v1", "kind": "ServiceList", "metadata": {"resourceVersion": "4"}, "items": items})
            .to_string()
    }

    fn watched(events: &[(&str, Value)]) -> String {
        events.iter().map(|(kind, object)| format!("{}\n", json!({"type": kind, "object": object}))).collect()
    }

    async fn seen(mirror: &mut Mirror<Service>, wanted: &[&str]) {
        let reached = async {
            while mirror.objects.keys().map(|(_, name)| name.as_str()).ne(wanted.iter().copied()) {
                mirror.next().await;
            }
        };
        let reached = tokio::time::timeout(Duration::from_secs(5), reached).await.is_ok();
        assert!(reached, "the mirror shows {:?}, not {wanted:?}", mirror.objects.keys());
    }

    #[tokio::test]
    async fn a_mirror_follows_changes_and_relists_when_the_watch_is_too_old() {
        let gone = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired",
            "message": "too old resource version", "code": 410,
        });
        let client = scripted(vec![
            list(&["a", "b"]),
            watched(&[("ADDED", service("c")), ("DELETED", service("a"))]),
            watched(&[("ERROR", gone)]),
            list(&["d"]),
        ]);
        let mut mirror = Mirror::new(&client);
        assert!(!mirror.complete);
        seen(&mut mirror, &["a", "b"]).await;
        assert!(mirror.complete);
        seen(&mut mirror, &["a", "b", "c"]).await;
        seen(&mut mirror, &["b", "c"]).await;
        seen(&mut mirror, &["d"]).await;
    }

    #[test]
    fn patience_grows_to_a_bound_and_starts_anew_after_success() {
        let mut patience = Patience::default();
        let waits: Vec<u128> = patience.by_ref().take(8).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 1600, 1600]);
        patience.reset();
        assert_eq!(patience.next(), Some(Duration::from_millis(50)));
    }
}
