//! The controllers: tokio tasks, each a Kubernetes client like any other, that bring what is towards
//! what is wanted ([Controllers](https://kubernetes.io/docs/concepts/architecture/controller/)).
//!
//! An event only marks a key dirty. A worker per controller drains its dirty keys and decides from
//! the shared caches, whatever the events were; what it wrote itself it waits to see before it decides
//! about the same key again.

mod caches;
mod daemonset;
mod daemonset_history;
mod daemonset_plan;
mod deployment;
mod deployment_status;
mod endpoints;
mod endpointslice;
mod endpointslice_mirroring;
pub(crate) mod events;
mod expectations;
mod garbage_collector;
mod heartbeat;
mod hints;
pub(crate) mod informer;
mod kinds;
mod load_balancer;
mod namespace;
mod node_lifecycle;
mod ownership;
mod pod_rank;
pub(crate) mod pod_state;
pub(crate) mod queue;
mod replicaset;
mod rollout;
mod service_account;
mod service_selection;
mod slice_plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use kube::Client;
use tokio::task::JoinSet;

use self::caches::Caches;
use self::events::Recorder;
pub(crate) use self::node_lifecycle::NodePatience;
use self::queue::{Queue, Reconcile, work};
use crate::bugs::Bugs;
use crate::load_balancer::LoadBalancer;

/// The running controllers; dropping them stops all.
pub(crate) struct Controllers {
    _tasks: JoinSet<()>,
}

pub(crate) struct ControllersConfig {
    pub(crate) client: Client,
    /// The cluster's authority, for the ConfigMap `kube-root-ca.crt` of every namespace.
    pub(crate) ca_pem: String,
    pub(crate) bugs: Bugs,
    pub(crate) patience: NodePatience,
    /// Who serves services of type `LoadBalancer`; without, they wait.
    pub(crate) load_balancer: Option<LoadBalancer>,
}

impl Controllers {
    /// Returns at once; must be called inside a tokio runtime.
    pub(crate) fn start(config: ControllersConfig) -> Self {
        let ControllersConfig { client, ca_pem, bugs, patience, load_balancer } = config;
        tracing::debug!(?bugs, "the controllers start");
        let caches = Caches::new();
        let mut tasks = JoinSet::new();
        // Handlers are registered before the first list, so that nothing is missed.
        let queue = Queue::new();
        let (recorder, writing) = Recorder::new("deployment-controller", client.clone());
        tasks.spawn(writing);
        let controller = deployment::Deployments::new(client.clone(), &caches, recorder, &queue);
        spawn(&mut tasks, &caches, controller, queue);
        let queue = Queue::new();
        let (recorder, writing) = Recorder::new("replicaset-controller", client.clone());
        tasks.spawn(writing);
        let controller =
            replicaset::ReplicaSets::<ReplicaSet>::new(client.clone(), &caches, recorder, &queue);
        spawn(&mut tasks, &caches, controller, queue);
        let queue = Queue::new();
        let (recorder, writing) = Recorder::new("replication-controller", client.clone());
        tasks.spawn(writing);
        let controller =
            replicaset::ReplicaSets::<ReplicationController>::new(client.clone(), &caches, recorder, &queue);
        spawn(&mut tasks, &caches, controller, queue);
        let queue = Queue::new();
        let (recorder, writing) = Recorder::new("daemonset-controller", client.clone());
        tasks.spawn(writing);
        let controller = daemonset::DaemonSets::new(client.clone(), &caches, recorder, &queue);
        spawn(&mut tasks, &caches, controller, queue);
        let queue = Queue::new();
        let controller = endpoints::EndpointsOfServices::new(client.clone(), &caches, &bugs, &queue);
        spawn(&mut tasks, &caches, controller, queue);
        let queue = Queue::new();
        let controller = endpointslice::SlicesOfServices::new(client.clone(), &caches, &bugs, &queue);
        spawn(&mut tasks, &caches, controller, queue);
        let queue = Queue::new();
        let controller =
            endpointslice_mirroring::MirroredEndpoints::new(client.clone(), &caches, &bugs, &queue);
        spawn(&mut tasks, &caches, controller, queue);
        let queue = Queue::new();
        let controller = service_account::ServiceAccounts::new(client.clone(), &caches, ca_pem, &queue);
        spawn(&mut tasks, &caches, controller, queue);
        let queue = Queue::new();
        let controller = namespace::Namespaces::new(client.clone(), &caches, kinds::all(), &queue);
        spawn(&mut tasks, &caches, controller, queue);
        let queue = Queue::new();
        let controller =
            garbage_collector::GarbageCollector::new(client.clone(), &caches, kinds::all(), &queue);
        spawn(&mut tasks, &caches, controller, queue);
        let queue = Queue::new();
        let controller = node_lifecycle::NodeLifecycle::new(client.clone(), &caches, patience, &queue);
        let heart = heartbeat::Heart::new(client.clone(), &caches);
        tasks.spawn(heart.beat(controller.clock()));
        spawn(&mut tasks, &caches, controller, queue);
        if let Some(balancer) = load_balancer {
            balance(&mut tasks, &caches, &client, balancer, &bugs);
        }
        for task in caches.tasks(&client) {
            tasks.spawn(task);
        }
        Self { _tasks: tasks }
    }

    /// Only what the provider of the machines brings along: a load balancer's controller. Other
    /// controllers are somebody else's.
    pub(crate) fn start_providers(client: &Client, balancer: LoadBalancer, bugs: &Bugs) -> Self {
        let caches = Caches::new();
        let mut tasks = JoinSet::new();
        balance(&mut tasks, &caches, client, balancer, bugs);
        for task in caches.tasks(client) {
            tasks.spawn(task);
        }
        Self { _tasks: tasks }
    }
}

fn balance(tasks: &mut JoinSet<()>, caches: &Caches, client: &Client, balancer: LoadBalancer, bugs: &Bugs) {
    let queue = Queue::new();
    let (recorder, writing) = Recorder::new("service-controller", client.clone());
    tasks.spawn(writing);
    let controller =
        load_balancer::LoadBalancers::new(client.clone(), caches, recorder, balancer, bugs, &queue);
    spawn(tasks, caches, controller, queue);
}

fn spawn<R: Reconcile>(tasks: &mut JoinSet<()>, caches: &Caches, controller: R, queue: Arc<Queue<R::Key>>) {
    let caches = caches.clone();
    tasks.spawn(async move {
        caches.synced().await;
        work(Arc::new(controller), queue).await;
    });
}
