//! The world: Kubernetes API objects at one instant.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

/// The objects that decide what a Service promises, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    pub nodes: BTreeMap<String, Node>,
    pub pods: BTreeMap<ObjectKey, Pod>,
    pub services: BTreeMap<ObjectKey, Service>,
    pub endpoints: BTreeMap<ObjectKey, Endpoints>,
    pub endpoint_slices: BTreeMap<ObjectKey, EndpointSlice>,
    pub ingresses: BTreeMap<ObjectKey, Ingress>,
    pub ingress_classes: BTreeMap<String, IngressClass>,
}

impl World {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds objects, each taking the place of one of the same kind and name.
    #[must_use]
    pub fn with<T: Part>(mut self, objects: impl IntoIterator<Item = T>) -> Self {
        self.extend(objects);
        self
    }

    /// Adds one object; it takes the place of one of the same kind and name.
    pub fn insert(&mut self, object: impl Part) {
        object.put(self);
    }

    /// Reads a multi-document YAML text. Lists are opened; a kind that is no part of the model
    /// is an error, so that a misspelt kind does not go unnoticed.
    pub fn from_yaml(text: &str) -> Result<Self, WorldError> {
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(text).map_err(|error| WorldError::Yaml(error.to_string()))?;
        let mut world = Self::new();
        for (index, document) in documents.into_iter().enumerate() {
            world.insert_document(index + 1, document)?;
        }
        Ok(world)
    }

    fn insert_document(&mut self, number: usize, mut document: Value) -> Result<(), WorldError> {
        if document.is_null() {
            return Ok(());
        }
        let kind = document["kind"].as_str().unwrap_or_default().to_owned();
        if kind == "List" {
            let Value::Array(items) = document["items"].take() else {
                return Err(WorldError::ListWithoutItems { number });
            };
            return items.into_iter().try_for_each(|item| self.insert_document(number, item));
        }
        let name = document["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let wrong = |source| WorldError::Object { number, kind: kind.clone(), name: name.clone(), source };
        match kind.as_str() {
            "Node" => self.insert(serde_json::from_value::<Node>(document).map_err(wrong)?),
            "Pod" => self.insert(serde_json::from_value::<Pod>(document).map_err(wrong)?),
            "Service" => self.insert(serde_json::from_value::<Service>(document).map_err(wrong)?),
            "Endpoints" => self.insert(serde_json::from_value::<Endpoints>(document).map_err(wrong)?),
            "EndpointSlice" => self.insert(serde_json::from_value::<EndpointSlice>(document).map_err(wrong)?),
            "Ingress" => self.insert(serde_json::from_value::<Ingress>(document).map_err(wrong)?),
            "IngressClass" => self.insert(serde_json::from_value::<IngressClass>(document).map_err(wrong)?),
            _ => return Err(WorldError::Kind { number, kind }),
        }
        Ok(())
    }

    /// The node that owns an address, by its status.
    pub(crate) fn node_at(&self, address: IpAddr) -> Option<&str> {
        self.nodes
            .iter()
            .find(|(_, node)| node_addresses(node).any(|own| own == address))
            .map(|(name, _)| name.as_str())
    }
}

/// The addresses under which a node is reached: its internal and external IPs. Host names and
/// DNS names are no addresses.
pub(crate) fn node_addresses(node: &Node) -> impl Iterator<Item = IpAddr> + '_ {
    node.status
        .iter()
        .flat_map(|status| status.addresses.iter().flatten())
        .filter(|address| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"))
        .filter_map(|address| address.address.parse().ok())
}

/// A kind of object that is part of a [`World`].
pub trait Part {
    fn put(self, world: &mut World);
}

impl Part for Node {
    fn put(self, world: &mut World) {
        world.nodes.insert(self.metadata.name.clone().unwrap_or_default(), self);
    }
}

impl Part for Pod {
    fn put(self, world: &mut World) {
        world.pods.insert(ObjectKey::of(&self.metadata), self);
    }
}

impl Part for Service {
    fn put(self, world: &mut World) {
        world.services.insert(ObjectKey::of(&self.metadata), self);
    }
}

impl Part for Endpoints {
    fn put(self, world: &mut World) {
        world.endpoints.insert(ObjectKey::of(&self.metadata), self);
    }
}

impl Part for EndpointSlice {
    fn put(self, world: &mut World) {
        world.endpoint_slices.insert(ObjectKey::of(&self.metadata), self);
    }
}

impl Part for Ingress {
    fn put(self, world: &mut World) {
        world.ingresses.insert(ObjectKey::of(&self.metadata), self);
    }
}

impl Part for IngressClass {
    fn put(self, world: &mut World) {
        world.ingress_classes.insert(self.metadata.name.clone().unwrap_or_default(), self);
    }
}

impl<T: Part> Extend<T> for World {
    fn extend<I: IntoIterator<Item = T>>(&mut self, objects: I) {
        for object in objects {
            self.insert(object);
        }
    }
}

/// The name of a namespaced object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object; one without a namespace is in `default`, as for kubectl.
    pub fn of(metadata: &ObjectMeta) -> Self {
        let namespace = metadata.namespace.as_deref().unwrap_or("default");
        Self::new(namespace, metadata.name.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Reads `namespace/name`, or `name` in the namespace `default`.
impl FromStr for ObjectKey {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        Ok(Self::new(namespace, name))
    }
}

/// Why a text is not a world.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    #[error("the world is not YAML: {0}")]
    Yaml(String),
    #[error("document {number} is a list without `items`")]
    ListWithoutItems { number: usize },
    #[error(
        "document {number} is of kind `{kind}`; the model knows Node, Pod, Service, Endpoints, EndpointSlice, Ingress and IngressClass"
    )]
    Kind { number: usize, kind: String },
    #[error("document {number}, {kind} `{name}`, cannot be read")]
    Object { number: usize, kind: String, name: String, source: serde_json::Error },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_documents_and_lists() {
        let world = World::from_yaml(
            "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: kube1.vm}}
- {apiVersion: v1, kind: Pod, metadata: {name: web-0, namespace: shop}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
",
        )
        .unwrap();
        assert!(world.nodes.contains_key("kube1.vm"));
        assert!(world.pods.contains_key(&ObjectKey::new("shop", "web-0")));
        assert!(world.services.contains_key(&"web".parse().unwrap()));
    }

    #[test]
    fn says_which_document_is_wrong() {
        let error = World::from_yaml("apiVersion: v1\nkind: Sevrice\nmetadata: {name: web}\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "document 1 is of kind `Sevrice`; the model knows Node, Pod, Service, Endpoints, EndpointSlice, Ingress and IngressClass"
        );
    }
}
