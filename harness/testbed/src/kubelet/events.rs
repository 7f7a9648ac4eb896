//! Events: what happened to the pods of this node, told to whoever runs `kubectl describe`
//! ([Event API](https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/)).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::mpsc;

use super::status::time;

/// More than this many at once, and the rest is forgotten: a pod is more important than its story.
const BACKLOG: usize = 512;
/// After this many different ones the count of repetitions begins again.
const REMEMBERED: usize = 1024;

/// Whether somebody should worry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Normal,
    Warning,
}

/// Takes events and returns at once.
#[derive(Clone, Debug)]
pub(crate) struct Events(mpsc::Sender<Told>);

#[derive(Debug)]
struct Told {
    about: ObjectReference,
    tone: Tone,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

impl Events {
    /// The second half is to be run with [`Teller::tell`].
    pub(crate) fn new(client: Client, node: &str) -> (Self, Teller) {
        let (sender, told) = mpsc::channel(BACKLOG);
        (Self(sender), Teller { told, client, node: node.to_owned(), known: BTreeMap::new() })
    }

    /// Tells about a pod, or about one container of it.
    pub(crate) fn tell(
        &self,
        pod: &Pod,
        container: Option<&str>,
        tone: Tone,
        reason: &'static str,
        message: String,
    ) {
        let about = ObjectReference {
            kind: Some("Pod".to_owned()),
            api_version: Some("v1".to_owned()),
            namespace: pod.namespace(),
            name: pod.metadata.name.clone(),
            uid: pod.uid(),
            resource_version: pod.resource_version(),
            field_path: container.map(|name| field_path(pod, name)),
        };
        if self.0.try_send(Told { about, tone, reason, message, at: Timestamp::now() }).is_err() {
            tracing::debug!(pod = pod.name_any(), reason, "an event is lost");
        }
    }
}

fn field_path(pod: &Pod, container: &str) -> String {
    let mut inits = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let list = if inits.any(|init| init.name == container) { "initContainers" } else { "containers" };
    format!("spec.{list}{{{container}}}")
}

/// Writes the events to the API, one after the other.
pub(crate) struct Teller {
    told: mpsc::Receiver<Told>,
    client: Client,
    node: String,
    /// Name and count of what was told already.
    known: BTreeMap<(String, String, &'static str, String), (String, i32)>,
}

impl Teller {
    /// Runs until the last [`Events`] is dropped.
    pub(crate) async fn tell(mut self) {
        while let Some(told) = self.told.recv().await {
            if let Err(error) = self.write(told).await {
                tracing::debug!(%error, "cannot write an event");
            }
        }
    }

    async fn write(&mut self, told: Told) -> Result<(), kube::Error> {
        let Told { about, tone, reason, message, at } = told;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &text(&about.namespace));
        let key = (text(&about.uid), text(&about.field_path), reason, message.clone());
        // The same again is counted, not repeated.
        if let Some((name, count)) = self.known.get_mut(&key) {
            *count += 1;
            let again = serde_json::json!({ "count": count, "lastTimestamp": time(at) });
            match api.patch(name, &PatchParams::default(), &Patch::Merge(again)).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                patched => return patched.map(drop),
            }
        }
        let mut event = Event {
            involved_object: about,
            type_: Some(format!("{tone:?}")),
            reason: Some(reason.to_owned()),
            message: Some(message),
            count: Some(1),
            first_timestamp: Some(time(at)),
            last_timestamp: Some(time(at)),
            source: Some(EventSource {
                component: Some("kubelet".to_owned()),
                host: Some(self.node.clone()),
            }),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node.clone()),
            ..Event::default()
        };
        let name = format!("{}.{:016x}", text(&event.involved_object.name), rand::random::<u64>());
        event.metadata.name = Some(name.clone());
        event.metadata.namespace.clone_from(&event.involved_object.namespace);
        api.create(&PostParams::default(), &event).await?;
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(key, (name, 1));
        Ok(())
    }
}
