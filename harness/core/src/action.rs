//! Actions: what a check does to a cluster, each printed as the command a person would type.

use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::manifest::{Fixture, parse};

/// Something done to the objects of a check's namespace.
#[derive(Clone, Debug)]
pub enum Action {
    /// Create every object of a manifest.
    Create(Fixture),
    /// Change fields of an object: a JSON merge patch.
    Edit { resource: Resource, name: String, patch: Value },
    /// Ask for another number of replicas.
    Scale { resource: Resource, name: String, replicas: u32 },
    /// Set a label of a pod, or take it away.
    Label { pod: String, key: &'static str, value: Option<&'static str> },
    /// Set the readiness gate of a pod.
    SetGate { pod: String, ready: bool },
    /// Delete an object.
    Delete { resource: Resource, name: String },
    /// Delete every pod a selector finds.
    DeletePods { selector: &'static str },
}

/// A resource a check acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Service,
    Pod,
    ReplicaSet,
    Deployment,
}

impl Resource {
    /// What kube calls it.
    pub(crate) fn api(self) -> ApiResource {
        match self {
            Self::Service => ApiResource::erase::<k8s_openapi::api::core::v1::Service>(&()),
            Self::Pod => ApiResource::erase::<Pod>(&()),
            Self::ReplicaSet => ApiResource::erase::<k8s_openapi::api::apps::v1::ReplicaSet>(&()),
            Self::Deployment => ApiResource::erase::<k8s_openapi::api::apps::v1::Deployment>(&()),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "service",
            Self::Pod => "pod",
            Self::ReplicaSet => "replicaset",
            Self::Deployment => "deployment",
        })
    }
}

/// Create every object of a manifest.
pub fn create(fixture: Fixture) -> Action {
    Action::Create(fixture)
}

/// Change fields of an object.
pub fn edit(resource: Resource, name: &str, patch: Value) -> Action {
    Action::Edit { resource, name: name.to_owned(), patch }
}

/// Ask for another number of replicas.
pub fn scale(resource: Resource, name: &str, replicas: u32) -> Action {
    Action::Scale { resource, name: name.to_owned(), replicas }
}

/// Set a label of a pod.
pub fn label(pod: &str, key: &'static str, value: &'static str) -> Action {
    Action::Label { pod: pod.to_owned(), key, value: Some(value) }
}

/// Take a label away from a pod.
pub fn unlabel(pod: &str, key: &'static str) -> Action {
    Action::Label { pod: pod.to_owned(), key, value: None }
}

/// Delete an object.
pub fn delete(resource: Resource, name: &str) -> Action {
    Action::Delete { resource, name: name.to_owned() }
}

/// Delete every pod a selector finds.
pub fn delete_pods(selector: &'static str) -> Action {
    Action::DeletePods { selector }
}

impl Action {
    /// Does it, in a namespace. `image` stands where a manifest says `stickler`.
    pub(crate) async fn perform(
        &self,
        client: &kube::Client,
        namespace: &str,
        image: &str,
    ) -> anyhow::Result<()> {
        let dynamic = |resource: &Resource| -> Api<DynamicObject> {
            Api::namespaced_with(client.clone(), namespace, &resource.api())
        };
        match self {
            Self::Create(fixture) => {
                for manifest in parse(fixture.path, fixture.yaml)? {
                    let api = Api::namespaced_with(client.clone(), namespace, &manifest.resource);
                    let mut object: DynamicObject = manifest.object;
                    use_image(&mut object.data, image);
                    api.create(&PostParams::default(), &object).await?;
                }
            }
            Self::Edit { resource, name, patch } => {
                dynamic(resource).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            }
            Self::Scale { resource, name, replicas } => {
                let patch = json!({ "spec": { "replicas": replicas } });
                dynamic(resource).patch_scale(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            }
            Self::Label { pod, key, value } => {
                let patch = json!({ "metadata": { "labels": { *key: value } } });
                dynamic(&Resource::Pod).patch(pod, &PatchParams::default(), &Patch::Merge(patch)).await?;
            }
            Self::SetGate { pod, ready } => {
                let patch = json!({ "status": { "conditions": [gate(*ready)] } });
                let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
                pods.patch_status(pod, &PatchParams::default(), &Patch::Strategic(patch)).await?;
            }
            Self::Delete { resource, name } => {
                dynamic(resource).delete(name, &DeleteParams::default()).await?;
            }
            Self::DeletePods { selector } => {
                let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
                pods.delete_collection(&DeleteParams::default(), &ListParams::default().labels(selector))
                    .await?;
            }
        }
        Ok(())
    }
}

/// The image of the notes' manifests, which a cluster need not be able to pull.
const NOTES_IMAGE: &str = "registry.cn-hangzhou.aliyuncs.com/orzi/goweb";

/// The condition a readiness gate of the fixtures asks for.
fn gate(ready: bool) -> Value {
    let status = if ready { "True" } else { "False" };
    json!({ "type": "stickler.dev/ready", "status": status })
}

/// Puts the cluster's own image in the place of `stickler` and of the notes' image, wherever
/// containers are described.
pub(crate) fn use_image(value: &mut Value, image: &str) {
    match value {
        Value::Object(fields) => {
            let asked = fields.get("image").and_then(Value::as_str).unwrap_or_default().to_owned();
            if asked == NOTES_IMAGE {
                fields.insert("command".to_owned(), json!(["goweb"]));
            }
            if asked == NOTES_IMAGE || asked == "stickler" {
                fields.insert("image".to_owned(), json!(image));
            }
            for value in fields.values_mut() {
                use_image(value, image);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| use_image(item, image)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(fixture) => write!(f, "kubectl create -f fixtures/{}", fixture.path),
            Self::Edit { resource, name, patch } => {
                write!(f, "kubectl patch {resource} {name} --type merge -p '{patch}'")
            }
            Self::Scale { resource, name, replicas } => {
                write!(f, "kubectl scale {resource} {name} --replicas={replicas}")
            }
            Self::Label { pod, key, value: Some(value) } => {
                write!(f, "kubectl label --overwrite pod {pod} {key}={value}")
            }
            Self::Label { pod, key, value: None } => write!(f, "kubectl label pod {pod} {key}-"),
            Self::SetGate { pod, ready } => {
                let patch = json!({ "status": { "conditions": [gate(*ready)] } });
                write!(f, "kubectl patch pod {pod} --subresource status -p '{patch}'")
            }
            Self::Delete { resource, name } => write!(f, "kubectl delete {resource} {name}"),
            Self::DeletePods { selector } => write!(f, "kubectl delete pods -l {selector}"),
        }
    }
}
