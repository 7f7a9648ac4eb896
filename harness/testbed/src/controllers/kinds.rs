//! The kinds the testbed serves, as the namespace controller and the garbage collector need them.

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, Pod, ReplicationController, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client};

/// A kind, and whether its objects live in namespaces.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
}

impl Kind {
    /// A client for its objects in this namespace, or in the cluster.
    pub(crate) fn api(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        if self.namespaced {
            Api::namespaced_with(client.clone(), namespace, &self.resource)
        } else {
            Api::all_with(client.clone(), &self.resource)
        }
    }
}

pub(crate) fn all() -> Vec<Kind> {
    let namespaced = |resource| Kind { resource, namespaced: true };
    let of_the_cluster = |resource| Kind { resource, namespaced: false };
    vec![
        of_the_cluster(ApiResource::erase::<Namespace>(&())),
        of_the_cluster(ApiResource::erase::<Node>(&())),
        namespaced(ApiResource::erase::<Deployment>(&())),
        namespaced(ApiResource::erase::<DaemonSet>(&())),
        namespaced(ApiResource::erase::<ControllerRevision>(&())),
        namespaced(ApiResource::erase::<ReplicaSet>(&())),
        namespaced(ApiResource::erase::<ReplicationController>(&())),
        namespaced(ApiResource::erase::<Pod>(&())),
        namespaced(ApiResource::erase::<Service>(&())),
        namespaced(ApiResource::erase::<Ingress>(&())),
        namespaced(ApiResource::erase::<Endpoints>(&())),
        namespaced(ApiResource::erase::<EndpointSlice>(&())),
        namespaced(ApiResource::erase::<ServiceAccount>(&())),
        namespaced(ApiResource::erase::<Secret>(&())),
        namespaced(ApiResource::erase::<ConfigMap>(&())),
        namespaced(ApiResource::erase::<Lease>(&())),
        namespaced(ApiResource::erase::<Event>(&())),
        of_the_cluster(ApiResource::erase::<ClusterRole>(&())),
        of_the_cluster(ApiResource::erase::<ClusterRoleBinding>(&())),
        namespaced(ApiResource::erase::<Role>(&())),
        namespaced(ApiResource::erase::<RoleBinding>(&())),
    ]
}
