//! Changes of the world: one object put or gone, or a container that crashed.

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stickler_model::{ObjectKey, Part, World};

use super::Crashed;

/// Something that happened to the world.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// It happened at some instant from this one on, in microseconds on the harness's clock.
    pub earliest_us: i64,
    /// And not after this one.
    pub latest_us: i64,
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// An object is there, or there in another form.
    Put(Object),
    /// An object is gone; this is how it was last.
    Gone(Object),
    /// The main process of this pod's container was ended by force.
    Crashed(ObjectKey),
}

/// An object that is part of the world, without what the model never asks for: who manages which
/// field, resourceVersions, and when conditions were probed last.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Node(Box<Node>),
    Pod(Box<Pod>),
    Service(Box<Service>),
    Endpoints(Box<Endpoints>),
    EndpointSlice(Box<EndpointSlice>),
}

impl What {
    /// This object is gone.
    pub fn gone(object: &Object) -> Self {
        Self::Gone(object.clone())
    }
}

impl Change {
    pub(super) fn apply(&self, world: &mut World, crashed: &mut Crashed) {
        match &self.what {
            What::Put(object) => {
                if let Object::Pod(pod) = object {
                    let key = ObjectKey::of(&pod.metadata);
                    let serves_again = |restarts: &i32| restart_count(pod) > *restarts && is_ready(pod);
                    if crashed.get(&key).is_some_and(serves_again) {
                        crashed.remove(&key);
                    }
                }
                object.clone().put(world);
            }
            What::Gone(object) => {
                if let Object::Pod(pod) = object {
                    crashed.remove(&ObjectKey::of(&pod.metadata));
                }
                object.take_from(world);
            }
            What::Crashed(key) => {
                if let Some(pod) = world.pods.get(key) {
                    crashed.insert(key.clone(), restart_count(pod));
                }
            }
        }
    }

    /// Whether a route or a name may depend on it. The control plane's own copies of endpoints are
    /// what is to be checked and nothing to go by, as long as their service selects its pods.
    pub(super) fn concerns_routes(&self, world: &World) -> bool {
        let service = match &self.what {
            What::Put(object) | What::Gone(object) => match object {
                Object::Node(_) | Object::Pod(_) | Object::Service(_) => return true,
                Object::Endpoints(endpoints) => ObjectKey::of(&endpoints.metadata),
                Object::EndpointSlice(slice) => {
                    let labels = slice.metadata.labels.as_ref();
                    let name = labels.and_then(|labels| labels.get("kubernetes.io/service-name"));
                    let Some(name) = name else { return true };
                    ObjectKey { name: name.clone(), ..ObjectKey::of(&slice.metadata) }
                }
            },
            What::Crashed(_) => return true,
        };
        let is_copy = match &self.what {
            What::Put(Object::EndpointSlice(slice)) | What::Gone(Object::EndpointSlice(slice)) => {
                is_managed(&slice.metadata)
            }
            _ => true,
        };
        let spec = world.services.get(&service).and_then(|service| service.spec.as_ref());
        let selects = spec.is_some_and(|spec| spec.selector.as_ref().is_some_and(|all| !all.is_empty()));
        !(selects && is_copy)
    }
}

/// Does a controller of the control plane manage this slice?
fn is_managed(metadata: &ObjectMeta) -> bool {
    let manager = "endpointslice.kubernetes.io/managed-by";
    let labels = metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(manager)).is_some_and(|by| by.ends_with(".k8s.io"))
}

impl Object {
    /// Its name; nodes have no namespace.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::of(self.metadata())
    }

    pub(super) fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Node(object) => &object.metadata,
            Self::Pod(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::Endpoints(object) => &object.metadata,
            Self::EndpointSlice(object) => &object.metadata,
        }
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Node(object) => &mut object.metadata,
            Self::Pod(object) => &mut object.metadata,
            Self::Service(object) => &mut object.metadata,
            Self::Endpoints(object) => &mut object.metadata,
            Self::EndpointSlice(object) => &mut object.metadata,
        }
    }

    fn put(self, world: &mut World) {
        match self {
            Self::Node(object) => object.put(world),
            Self::Pod(object) => object.put(world),
            Self::Service(object) => object.put(world),
            Self::Endpoints(object) => object.put(world),
            Self::EndpointSlice(object) => object.put(world),
        }
    }

    fn take_from(&self, world: &mut World) {
        let key = self.key();
        match self {
            Self::Node(_) => drop(world.nodes.remove(&key.name)),
            Self::Pod(_) => drop(world.pods.remove(&key)),
            Self::Service(_) => drop(world.services.remove(&key)),
            Self::Endpoints(_) => drop(world.endpoints.remove(&key)),
            Self::EndpointSlice(_) => drop(world.endpoint_slices.remove(&key)),
        }
    }

    /// Without what changes all the time and decides nothing.
    #[must_use]
    pub(super) fn trimmed(mut self) -> Self {
        let metadata = self.metadata_mut();
        metadata.managed_fields = None;
        metadata.resource_version = None;
        metadata.generation = None;
        match &mut self {
            Self::Node(node) => {
                if let Some(status) = &mut node.status {
                    status.images = None;
                    for condition in status.conditions.iter_mut().flatten() {
                        condition.last_heartbeat_time = None;
                        condition.last_transition_time = None;
                        condition.message = None;
                    }
                }
            }
            Self::Pod(pod) => {
                if let Some(status) = &mut pod.status {
                    status.observed_generation = None;
                    for condition in status.conditions.iter_mut().flatten() {
                        condition.last_probe_time = None;
                        condition.last_transition_time = None;
                        condition.message = None;
                        condition.observed_generation = None;
                    }
                    for container in status.container_statuses.iter_mut().flatten() {
                        container.state = None;
                        container.last_state = None;
                    }
                }
            }
            Self::Endpoints(endpoints) => {
                if let Some(annotations) = &mut endpoints.metadata.annotations {
                    annotations.remove("endpoints.kubernetes.io/last-change-trigger-time");
                }
            }
            Self::Service(_) | Self::EndpointSlice(_) => {}
        }
        self
    }
}

macro_rules! object_from {
    ($($kind:ident),*) => {$(
        impl From<$kind> for Object {
            fn from(object: $kind) -> Self {
                Self::$kind(Box::new(object))
            }
        }
    )*};
}

object_from!(Node, Pod, Service, Endpoints, EndpointSlice);

/// How often the containers of a pod were restarted, all together.
fn restart_count(pod: &Pod) -> i32 {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    containers.map(|container| container.restart_count).sum()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
