//! Actions: what a check does to a cluster, each printed as the command a person would type.

use std::fmt;
use std::net::IpAddr;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Secret};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use stickler_pods::versions::read_old_ingress;

use crate::claim::labels;
use crate::image::Image;
use crate::manifest::{Fixture, Manifest, parse};

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
    /// Create an object that no manifest can hold, since something in it was only just learnt.
    Make { resource: Resource, object: Value },
    /// Create Endpoints by hand: these addresses, with one port.
    MakeEndpoints { name: String, addresses: Vec<IpAddr>, port: u16 },
    /// Keep a certificate and its key, both PEM, in a Secret: a new one, or in the place of what is
    /// in it.
    KeepCertificate { secret: String, certificate: String, key: String, replace: bool },
}

/// What stands in the place of names that manifests cannot know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local<'a> {
    /// Instead of the image `stickler`, and of the notes'.
    pub(crate) image: Image<'a>,
    /// Instead of the IngressClass `stickler`, and of none.
    pub(crate) class: Option<&'a str>,
    /// Which run it is: what it makes outside of namespaces is found by its labels.
    pub(crate) run: &'a str,
}

/// A resource a check acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Service,
    Pod,
    ReplicaSet,
    ReplicationController,
    Deployment,
    Endpoints,
    EndpointSlice,
    Ingress,
    IngressClass,
}

impl Resource {
    /// What kube calls it.
    pub(crate) fn api(self) -> ApiResource {
        match self {
            Self::Service => ApiResource::erase::<k8s_openapi::api::core::v1::Service>(&()),
            Self::Pod => ApiResource::erase::<Pod>(&()),
            Self::ReplicaSet => ApiResource::erase::<k8s_openapi::api::apps::v1::ReplicaSet>(&()),
            Self::ReplicationController => {
                ApiResource::erase::<k8s_openapi::api::core::v1::ReplicationController>(&())
            }
            Self::Deployment => ApiResource::erase::<k8s_openapi::api::apps::v1::Deployment>(&()),
            Self::Endpoints => ApiResource::erase::<Endpoints>(&()),
            Self::EndpointSlice => ApiResource::erase::<EndpointSlice>(&()),
            Self::Ingress => ApiResource::erase::<Ingress>(&()),
            Self::IngressClass => ApiResource::erase::<IngressClass>(&()),
        }
    }

    /// Is it in no namespace?
    fn is_of_the_cluster(self) -> bool {
        self == Self::IngressClass
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "service",
            Self::Pod => "pod",
            Self::ReplicaSet => "replicaset",
            Self::ReplicationController => "replicationcontroller",
            Self::Deployment => "deployment",
            Self::Endpoints => "endpoints",
            Self::EndpointSlice => "endpointslice",
            Self::Ingress => "ingress",
            Self::IngressClass => "ingressclass",
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

/// Create an object whose kind is `resource`; its `apiVersion` and `kind` need not be said.
pub fn make(resource: Resource, object: Value) -> Action {
    Action::Make { resource, object }
}

/// Create Endpoints by hand: these addresses, with one TCP port.
pub fn make_endpoints(name: &str, addresses: &[IpAddr], port: u16) -> Action {
    Action::MakeEndpoints { name: name.to_owned(), addresses: addresses.to_vec(), port }
}

/// Keep a certificate and its key in a new Secret of the type `kubernetes.io/tls`.
pub fn create_certificate(secret: &str, certificate: &str, key: &str) -> Action {
    keep_certificate(secret, certificate, key, false)
}

/// Put another certificate and key in the place of those a Secret holds.
pub fn replace_certificate(secret: &str, certificate: &str, key: &str) -> Action {
    keep_certificate(secret, certificate, key, true)
}

fn keep_certificate(secret: &str, certificate: &str, key: &str, replace: bool) -> Action {
    let (secret, certificate, key) = (secret.to_owned(), certificate.to_owned(), key.to_owned());
    Action::KeepCertificate { secret, certificate, key, replace }
}

impl Action {
    /// Does it, in a namespace; returns what was done otherwise than it was asked for.
    pub(crate) async fn perform(
        &self,
        client: &kube::Client,
        namespace: &str,
        local: Local<'_>,
    ) -> anyhow::Result<Vec<String>> {
        let mut remarks = Vec::new();
        let dynamic = |resource: &Resource| -> Api<DynamicObject> {
            if resource.is_of_the_cluster() {
                return Api::all_with(client.clone(), &resource.api());
            }
            Api::namespaced_with(client.clone(), namespace, &resource.api())
        };
        match self {
            Self::Create(fixture) => {
                for manifest in parse(fixture.path, fixture.yaml)? {
                    let mut manifest = manifest;
                    local.image.put_in_object(&mut manifest.object)?;
                    if let Some(class) = local.class.filter(|_| manifest.resource.kind == "Ingress") {
                        use_class(&mut manifest.object, class);
                    }
                    remarks.extend(create_in(client, namespace, manifest).await?);
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
            Self::Make { resource, object } => {
                let mut object = typed(*resource, object);
                local.image.put_in(&mut object);
                let mut object: DynamicObject = serde_json::from_value(object)?;
                if resource.is_of_the_cluster() {
                    object.metadata.labels.get_or_insert_default().extend(labels(local.run));
                }
                dynamic(resource).create(&PostParams::default(), &object).await?;
            }
            Self::MakeEndpoints { name, addresses, port } => {
                let made = serde_json::from_value(endpoints(name, addresses, *port))?;
                let api: Api<Endpoints> = Api::namespaced(client.clone(), namespace);
                api.create(&PostParams::default(), &made).await?;
            }
            Self::KeepCertificate { secret, certificate, key, replace } => {
                let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
                let bytes = |pem: &String| ByteString(pem.clone().into_bytes());
                let data = [("tls.crt".to_owned(), bytes(certificate)), ("tls.key".to_owned(), bytes(key))];
                let mut object = Secret {
                    data: Some(data.into()),
                    type_: Some("kubernetes.io/tls".to_owned()),
                    ..Secret::default()
                };
                if *replace {
                    secrets.patch(secret, &PatchParams::default(), &Patch::Merge(&object)).await?;
                } else {
                    object.metadata.name = Some(secret.clone());
                    secrets.create(&PostParams::default(), &object).await?;
                }
            }
        }
        Ok(remarks)
    }
}

/// Creates an object. An Ingress of a version that is not served any more is created as one of
/// `networking.k8s.io/v1`, and that is told.
async fn create_in(
    client: &kube::Client,
    namespace: &str,
    manifest: Manifest,
) -> anyhow::Result<Option<String>> {
    let Manifest { resource, object } = manifest;
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let Err(refused) = api.create(&PostParams::default(), &object).await else { return Ok(None) };
    let is_old = resource.kind == "Ingress" && resource.version == "v1beta1";
    let is_unknown = matches!(&refused, kube::Error::Api(status) if status.code == 404);
    if !(is_old && is_unknown) {
        return Err(refused.into());
    }
    let api: Api<Ingress> = Api::namespaced(client.clone(), namespace);
    api.create(&PostParams::default(), &modern_ingress(&object)?).await?;
    let old = &resource.api_version;
    Ok(Some(format!("{old} is not served here: the Ingress was created as networking.k8s.io/v1")))
}

/// An Ingress of `v1beta1` as one of `v1`
/// ([Deprecated API Migration Guide](https://kubernetes.io/docs/reference/using-api/deprecation-guide/#ingress-v122)).
pub(crate) fn modern_ingress(old: &DynamicObject) -> anyhow::Result<Ingress> {
    let mut whole = json!({ "spec": old.data["spec"] });
    read_old_ingress(&mut whole);
    let spec = serde_json::from_value(whole["spec"].take())?;
    Ok(Ingress { metadata: old.metadata.clone(), spec, status: None })
}

/// Names the class in an Ingress that says `stickler`, or nothing.
pub(crate) fn use_class(ingress: &mut DynamicObject, class: &str) {
    let named = &ingress.data["spec"]["ingressClassName"];
    if named.is_null() || named == "stickler" {
        ingress.data["spec"]["ingressClassName"] = json!(class);
    }
}

/// The condition a readiness gate of the fixtures asks for.
fn gate(ready: bool) -> Value {
    let status = if ready { "True" } else { "False" };
    json!({ "type": "stickler.dev/ready", "status": status })
}

/// The object with its kind.
fn typed(resource: Resource, object: &Value) -> Value {
    let kind = resource.api();
    let mut object = object.clone();
    object["apiVersion"] = json!(kind.api_version);
    object["kind"] = json!(kind.kind);
    object
}

fn endpoints(name: &str, addresses: &[IpAddr], port: u16) -> Value {
    let addresses: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": { "name": name },
        "subsets": [{ "addresses": addresses, "ports": [{ "port": port }] }],
    })
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
            Self::Make { resource, object } => {
                write!(f, "kubectl create -f - <<< '{}'", typed(*resource, object))
            }
            Self::MakeEndpoints { name, addresses, port } => {
                write!(f, "kubectl create -f - <<< '{}'", endpoints(name, addresses, *port))
            }
            Self::KeepCertificate { secret, replace, .. } => {
                write!(f, "kubectl create secret tls {secret} --cert=tls.crt --key=tls.key")?;
                if *replace {
                    f.write_str(" --dry-run=client -o yaml | kubectl replace -f -")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::modern_ingress;
    use crate::manifest::parse;

    #[test]
    fn an_old_ingress_says_the_same_in_the_new_form() {
        let yaml = "apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: {name: a}\nspec:\n  backend: \
                    {serviceName: rest, servicePort: web}\n  rules:\n  - host: h\n    http: {paths: [{path: /, \
                    backend: {serviceName: s, servicePort: 80}}]}\n";
        let old = parse("x.yaml", yaml).expect("an object").remove(0).object;
        let spec = modern_ingress(&old).expect("an Ingress").spec.expect("a spec");
        let default = spec.default_backend.and_then(|backend| backend.service).expect("a default");
        assert_eq!(
            (default.name.as_str(), default.port.expect("a port").name.as_deref()),
            ("rest", Some("web"))
        );
        let path = spec.rules.expect("rules")[0].http.clone().expect("paths").paths.remove(0);
        assert_eq!(path.path_type, "ImplementationSpecific");
        let service = path.backend.service.expect("a service");
        assert_eq!((service.name.as_str(), service.port.expect("a port").number), ("s", Some(80)));
    }
}
