//! A kubelet: runs the pods that are bound to its node as processes, and says how they are.

mod address;
mod container;
mod environment;
mod events;
mod exec;
mod host_port;
mod image;
mod init;
mod log;
mod node;
mod output;
mod preparation;
mod probe;
mod records;
mod resolver;
mod sandbox;
mod server;
mod services;
mod spawn;
mod status;
mod stopping;
mod volumes;
mod worker;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Context as _;
use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch_api};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::bugs::Bugs;
use crate::kernel::HostPort;
use crate::namespace::NetNamespace;
use crate::pki::Credentials;
use address::Addresses;
use events::Events;
use node::Node;
use records::Records;
use resolver::Resolver;
use server::Server;
use services::Services;
use worker::Wanted;

pub use container::{Container, ContainerSpec, ExecSpec, Runtime, Session, Terminal};
pub use init::{Mount, StartFailure, init_main};
pub use log::{Line, Log};
pub use sandbox::Sandbox;
pub use spawn::{Child, Children, Exit};

/// Connects pods to the node's network; what a CNI plugin does on a real node.
pub(crate) trait PodNetwork: Send + Sync {
    /// Gives the pod's namespace an interface with this address, and the node a route to it.
    fn attach<'a>(&'a self, pod: &'a NetNamespace, ip: Ipv4Addr) -> BoxFuture<'a, anyhow::Result<()>>;

    /// Takes both away again.
    fn detach<'a>(&'a self, pod: &'a NetNamespace, ip: Ipv4Addr) -> BoxFuture<'a, anyhow::Result<()>>;

    /// Lets ports of the node lead to the pod with this address.
    fn map_ports<'a>(&'a self, ip: Ipv4Addr, ports: &'a [HostPort]) -> BoxFuture<'a, anyhow::Result<()>>;

    /// Takes them back.
    fn unmap_ports<'a>(&'a self, ip: Ipv4Addr, ports: &'a [HostPort]) -> BoxFuture<'a, anyhow::Result<()>>;
}

/// What a kubelet is told when it starts.
pub(crate) struct KubeletConfig {
    /// Talks to the API server as `system:node:NAME`.
    pub(crate) client: Client,
    pub(crate) node_name: String,
    pub(crate) node_ip: Ipv4Addr,
    pub(crate) pod_cidr: Ipv4Net,
    /// The node's own network namespace.
    pub(crate) namespace: NetNamespace,
    pub(crate) network: Arc<dyn PodNetwork>,
    /// For the node's name and address.
    pub(crate) serving: Credentials,
    /// Who vouches for the clients of the kubelet's own server.
    pub(crate) ca_pem: String,
    /// Labels beside those every kubelet sets.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) control_plane: bool,
    /// The version it claims, `v1.37.0`.
    pub(crate) version: String,
    pub(crate) cluster_dns: Option<Ipv4Addr>,
    pub(crate) cluster_domain: String,
    /// Whom the node itself asks for names, and where it looks for short ones.
    pub(crate) node_dns: Ipv4Addr,
    pub(crate) node_searches: Vec<String>,
    /// Names under which the running executable behaves as another program.
    pub(crate) applets: Vec<String>,
    /// What is wrong on purpose.
    pub(crate) bugs: Bugs,
}

/// A running kubelet. Dropping it ends its tasks and every process of its pods.
pub(crate) struct Kubelet {
    node: Arc<Node>,
    tasks: JoinSet<()>,
}

impl Kubelet {
    /// Registers the node and starts to run its pods. When this returns the node is `Ready`.
    pub(crate) async fn start(config: KubeletConfig) -> anyhow::Result<Self> {
        let applets: Vec<&str> = config.applets.iter().map(String::as_str).collect();
        let (events, teller) = Events::new(config.client.clone(), &config.node_name);
        let (services, follow_services) = Services::follow(&config.client);
        let node = Arc::new(Node {
            runtime: Runtime::new(&applets),
            addresses: Addresses::new(config.pod_cidr),
            records: Records::default(),
            events,
            bugs: config.bugs,
            client: config.client,
            name: config.node_name,
            ip: config.node_ip,
            pod_cidr: config.pod_cidr,
            namespace: config.namespace,
            network: config.network,
            labels: config.labels,
            control_plane: config.control_plane,
            version: config.version,
            resolver: Resolver {
                cluster: config.cluster_dns,
                cluster_domain: config.cluster_domain,
                node: config.node_dns,
                node_searches: config.node_searches,
            },
            services,
        });
        let server = Server::listen(&node, &config.serving, &config.ca_pem)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(teller.tell());
        tasks.spawn(follow_services);
        tasks.spawn(server.serve(Arc::clone(&node)));
        tasks.spawn(run_pods(Arc::clone(&node)));
        let registered = node.register().await;
        let object = registered.with_context(|| format!("cannot register node `{}`", node.name))?;
        tasks.spawn(Arc::clone(&node).beat(object));
        Ok(Self { node, tasks })
    }

    /// How many processes of pods there are.
    #[cfg(test)]
    pub(crate) fn processes(&self) -> usize {
        self.node.runtime.alive()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.tasks.abort_all();
        self.node.runtime.shutdown();
    }
}

/// Follows the pods bound to the node and keeps one worker for each.
async fn run_pods(node: Arc<Node>) {
    let pods = Pods { node: Arc::clone(&node), workers: JoinSet::new(), wanted: BTreeMap::new() };
    let ours = watcher::Config::default().fields(&format!("spec.nodeName={}", node.name));
    let events = watch_api(Api::<Pod>::all(node.client.clone()), ours).default_backoff();
    pods.follow(events.inspect_err(|error| tracing::debug!(%error, "cannot watch pods, trying again"))).await;
}

struct Pods {
    node: Arc<Node>,
    workers: JoinSet<()>,
    /// By uid: a new pod of the same name is another pod.
    wanted: BTreeMap<String, watch::Sender<Wanted>>,
}

impl Pods {
    async fn follow(mut self, events: impl futures::Stream<Item = watcher::Result<Event<Pod>>>) {
        let mut events = std::pin::pin!(events);
        let mut listed = Vec::new();
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                // Done with its pod; nothing is left to know.
                Some(_) = self.workers.join_next() => continue,
            };
            match event {
                Some(Ok(Event::Init)) => listed.clear(),
                Some(Ok(Event::InitApply(pod))) => {
                    listed.extend(pod.uid());
                    self.apply(pod);
                }
                Some(Ok(Event::InitDone)) => {
                    // Whatever went away while we could not look.
                    let gone: Vec<_> =
                        self.wanted.keys().filter(|uid| !listed.contains(uid)).cloned().collect();
                    gone.iter().for_each(|uid| self.gone(uid));
                }
                Some(Ok(Event::Apply(pod))) => self.apply(pod),
                Some(Ok(Event::Delete(pod))) => self.gone(&pod.uid().unwrap_or_default()),
                Some(Err(_)) => {}
                None => return,
            }
        }
    }

    fn apply(&mut self, pod: Pod) {
        let Some(uid) = pod.uid() else { return };
        let pod = Arc::new(pod);
        match self.wanted.get(&uid) {
            Some(wanted) => {
                wanted.send_replace(Wanted::Present(pod));
            }
            None => {
                self.node.records.know(&pod);
                let (sender, wanted) = watch::channel(Wanted::Present(pod));
                self.wanted.insert(uid, sender);
                self.workers.spawn(worker::run(Arc::clone(&self.node), wanted));
            }
        }
    }

    fn gone(&mut self, uid: &str) {
        if let Some(wanted) = self.wanted.remove(uid) {
            wanted.send_replace(Wanted::Gone);
        }
    }
}

#[cfg(test)]
mod tests;
