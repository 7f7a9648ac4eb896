//! The informers all controllers share, one per kind.

use std::future::Future;
use std::pin::Pin;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, Pod, ReplicationController, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ApiResource;
use kube::{Api, Client};

use super::informer::{Cached, Informer};

#[derive(Clone)]
pub(super) struct Caches {
    pub(super) config_maps: Informer<ConfigMap>,
    pub(super) controller_revisions: Informer<ControllerRevision>,
    pub(super) daemon_sets: Informer<DaemonSet>,
    pub(super) deployments: Informer<Deployment>,
    pub(super) endpoint_slices: Informer<EndpointSlice>,
    pub(super) endpoints: Informer<Endpoints>,
    pub(super) ingresses: Informer<Ingress>,
    pub(super) leases: Informer<Lease>,
    pub(super) namespaces: Informer<Namespace>,
    pub(super) nodes: Informer<Node>,
    pub(super) pods: Informer<Pod>,
    pub(super) replica_sets: Informer<ReplicaSet>,
    pub(super) replication_controllers: Informer<ReplicationController>,
    pub(super) secrets: Informer<Secret>,
    pub(super) service_accounts: Informer<ServiceAccount>,
    pub(super) services: Informer<Service>,
}

/// Told of every change of every kind, with the metadata before and after.
pub(super) trait Observer: Clone + Send + Sync + 'static {
    fn changed(&self, kind: &ApiResource, old: Option<&ObjectMeta>, new: Option<&ObjectMeta>);
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Caches {
    pub(super) fn new() -> Self {
        Self {
            config_maps: Informer::new(),
            controller_revisions: Informer::new(),
            daemon_sets: Informer::new(),
            deployments: Informer::new(),
            endpoint_slices: Informer::new(),
            endpoints: Informer::new(),
            ingresses: Informer::new(),
            leases: Informer::new(),
            namespaces: Informer::new(),
            nodes: Informer::new(),
            pods: Informer::new(),
            replica_sets: Informer::new(),
            replication_controllers: Informer::new(),
            secrets: Informer::new(),
            service_accounts: Informer::new(),
            services: Informer::new(),
        }
    }

    /// Subscribes to all kinds.
    pub(super) fn observe(&self, observer: &impl Observer) {
        observe(&self.config_maps, observer);
        observe(&self.controller_revisions, observer);
        observe(&self.daemon_sets, observer);
        observe(&self.deployments, observer);
        observe(&self.endpoint_slices, observer);
        observe(&self.endpoints, observer);
        observe(&self.ingresses, observer);
        observe(&self.leases, observer);
        observe(&self.namespaces, observer);
        observe(&self.nodes, observer);
        observe(&self.pods, observer);
        observe(&self.replica_sets, observer);
        observe(&self.replication_controllers, observer);
        observe(&self.secrets, observer);
        observe(&self.service_accounts, observer);
        observe(&self.services, observer);
    }

    /// One task per kind that lists and watches it.
    pub(super) fn tasks(&self, client: &Client) -> Vec<Task> {
        vec![
            task(&self.config_maps, client),
            task(&self.controller_revisions, client),
            task(&self.daemon_sets, client),
            task(&self.deployments, client),
            task(&self.endpoint_slices, client),
            task(&self.endpoints, client),
            task(&self.ingresses, client),
            task(&self.leases, client),
            task(&self.namespaces, client),
            task(&self.nodes, client),
            task(&self.pods, client),
            task(&self.replica_sets, client),
            task(&self.replication_controllers, client),
            task(&self.secrets, client),
            task(&self.service_accounts, client),
            task(&self.services, client),
        ]
    }

    /// Resolves once the kinds that decisions are made from have been listed. Others
    /// are only looked at by the garbage collector, which asks the server before it deletes anything, or
    /// make nothing happen until they are there.
    pub(super) async fn synced(&self) {
        futures::join!(
            self.config_maps.synced(),
            self.deployments.synced(),
            self.endpoint_slices.synced(),
            self.endpoints.synced(),
            self.namespaces.synced(),
            self.nodes.synced(),
            self.pods.synced(),
            self.replica_sets.synced(),
            self.service_accounts.synced(),
            self.services.synced(),
        );
    }
}

fn observe<K: Cached>(informer: &Informer<K>, observer: &impl Observer) {
    let observer = observer.clone();
    let kind = ApiResource::erase::<K>(&());
    informer.on_change(move |old, new| observer.changed(&kind, old.map(K::meta), new.map(K::meta)));
}

fn task<K: Cached>(informer: &Informer<K>, client: &Client) -> Task {
    Box::pin(informer.clone().run(Api::all(client.clone())))
}
