//! Events: what a component did, told to whoever describes the object. They are written aside: nobody
//! waits for them, and when too many come at once some are lost
//! ([Event](https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/)).

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::PostParams;
use kube::{Api, Client, Resource};
use tokio::sync::mpsc;

/// How many may wait to be written.
const WAITING: usize = 1024;

/// Where a component leaves its events. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Recorder {
    component: &'static str,
    events: mpsc::Sender<Event>,
}

impl Recorder {
    /// The recorder, and the task that writes what it is told.
    pub(crate) fn new(component: &'static str, client: Client) -> (Self, impl Future<Output = ()> + Send) {
        let (events, mut waiting) = mpsc::channel::<Event>(WAITING);
        let write = async move {
            while let Some(event) = waiting.recv().await {
                let namespace = event.metadata.namespace.clone().unwrap_or_default();
                let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
                if let Err(error) = api.create(&PostParams::default(), &event).await {
                    tracing::debug!(%error, "an event could not be written");
                }
            }
        };
        (Self { component, events }, write)
    }

    pub(crate) fn normal<K: Resource<DynamicType = ()>>(&self, about: &K, reason: &str, message: String) {
        self.record(about, "Normal", reason, message);
    }

    pub(crate) fn warning<K: Resource<DynamicType = ()>>(&self, about: &K, reason: &str, message: String) {
        self.record(about, "Warning", reason, message);
    }

    fn record<K: Resource<DynamicType = ()>>(&self, about: &K, kind: &str, reason: &str, message: String) {
        let now = jiff::Timestamp::now();
        let meta = about.meta();
        let name = meta.name.clone().unwrap_or_default();
        let namespace = meta.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some(K::api_version(&()).into_owned()),
                kind: Some(K::kind(&()).into_owned()),
                namespace: meta.namespace.clone(),
                name: meta.name.clone(),
                uid: meta.uid.clone(),
                resource_version: meta.resource_version.clone(),
                ..ObjectReference::default()
            },
            type_: Some(kind.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource { component: Some(self.component.to_owned()), host: None }),
            reporting_component: Some(self.component.to_owned()),
            ..Event::default()
        };
        // Full: the work is more important than what is told of it.
        let _ = self.events.try_send(event);
    }
}
