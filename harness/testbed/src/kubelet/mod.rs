//! A kubelet: runs the pods that are bound to its node as processes, and says how they are.

mod address;
pub(crate) mod container;
mod environment;
mod events;
mod exec;
mod host_port;
mod image;
pub(crate) mod init;
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
pub(crate) mod spawn;
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
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch_api};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::bugs::Bugs;
use crate::kernel::HostPort;
use crate::namespace::NetNamespace;
use crate::pki::Credentials;
use crate::proxy::Patience;
use address::Addresses;
use events::Events;
use node::Node;
use records::Records;
use resolver::Resolver;
use server::Server;
use services::Services;
use worker::{Wanted, Worker};

pub use container::{Container, ContainerSpec, ExecSpec, Runtime, Session, Terminal};
pub(crate) use image::ForeignImage;
use image::Images;
pub use image::shared_objects;
pub use init::{Mount, StartFailure, init_main};
pub use log::{Line, Log};
pub use sandbox::Sandbox;
pub(crate) use spawn::shared_folder;
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
    /// Programs of this machine that containers may be made of.
    pub(crate) images: Vec<ForeignImage>,
    /// What is wrong on purpose.
    pub(crate) bugs: Bugs,
}

/// A kubelet, running or stopped. Dropping it ends its tasks and every process of its pods.
pub(crate) struct Kubelet {
    node: Arc<Node>,
    serving: Credentials,
    ca_pem: String,
    /// What it knows of services, and what it tells; nobody can see whether these two are running.
    _background: JoinSet<()>,
    active: Option<Active>,
    /// Pods nobody looks after, by uid: the kubelet is stopped.
    asleep: BTreeMap<String, Worker>,
}

/// What runs while the kubelet does.
struct Active {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    /// Returns the pods it leaves to themselves.
    pods: AbortOnDropHandle<BTreeMap<String, Worker>>,
}

impl Kubelet {
    /// Registers the node and starts to run its pods. When this returns the node is `Ready`.
    pub(crate) async fn start(config: KubeletConfig) -> anyhow::Result<Self> {
        let applets: Vec<&str> = config.applets.iter().map(String::as_str).collect();
        let (events, teller) = Events::new(config.client.clone(), &config.node_name);
        let (services, follow_services) = Services::follow(&config.client, config.bugs.clone());
        let node = Arc::new(Node {
            runtime: Runtime::new(&applets),
            addresses: Addresses::new(config.pod_cidr),
            records: Records::default(),
            events,
            bugs: config.bugs.clone(),
            client: config.client,
            name: config.node_name,
            ip: config.node_ip,
            pod_cidr: config.pod_cidr,
            namespace: config.namespace,
            network: config.network,
            labels: config.labels,
            control_plane: config.control_plane,
            version: config.version,
            images: Images { foreign: config.images },
            resolver: Resolver {
                cluster: config.cluster_dns,
                cluster_domain: config.cluster_domain,
                node: config.node_dns,
                node_searches: config.node_searches,
                bugs: config.bugs,
            },
            services,
        });
        let mut background = JoinSet::new();
        background.spawn(teller.tell());
        background.spawn(follow_services);
        let (serving, ca_pem) = (config.serving, config.ca_pem);
        let asleep = BTreeMap::new();
        let mut kubelet = Self { node, serving, ca_pem, _background: background, active: None, asleep };
        let server = Server::listen(&kubelet.node, &kubelet.serving, &kubelet.ca_pem)?;
        let registered = kubelet.node.register().await;
        let object = registered.with_context(|| format!("cannot register node `{}`", kubelet.node.name))?;
        kubelet.run(server, futures::future::ready(object));
        Ok(kubelet)
    }

    /// Stops as if the process had died, except that pods keep what they have: their processes, their
    /// addresses, their files.
    pub(crate) async fn stop(&mut self) {
        let Some(Active { stop, mut tasks, pods }) = self.active.take() else { return };
        stop.cancel();
        tasks.shutdown().await;
        // What a worker had begun it ends; each of its steps has a bound.
        match pods.await {
            Ok(asleep) => self.asleep = asleep,
            Err(error) => tracing::error!(%error, node = self.node.name, "the pods of the node are lost"),
        }
    }

    /// Starts again and takes up the pods that were left, as soon as the API answers.
    pub(crate) fn resume(&mut self) -> anyhow::Result<()> {
        if self.active.is_some() {
            return Ok(());
        }
        let server = Server::listen(&self.node, &self.serving, &self.ca_pem)?;
        let node = Arc::clone(&self.node);
        self.run(server, async move { node.register_patiently().await });
        Ok(())
    }

    fn run(&mut self, server: Server, registering: impl Future<Output = NodeObject> + Send + 'static) {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(server.serve(Arc::clone(&self.node), stop.clone()));
        // The node first: while it is taken for dead, nothing on it may be ready.
        let registered = CancellationToken::new();
        let (node, done) = (Arc::clone(&self.node), registered.clone());
        tasks.spawn(async move {
            let object = registering.await;
            done.cancel();
            node.beat(object).await;
        });
        let pods = Pods {
            node: Arc::clone(&self.node),
            workers: JoinSet::new(),
            wanted: BTreeMap::new(),
            asleep: std::mem::take(&mut self.asleep),
            stop: stop.clone(),
        };
        let pods = AbortOnDropHandle::new(tokio::spawn(pods.run(registered)));
        self.active = Some(Active { stop, tasks, pods });
    }

    /// How many processes of pods there are.
    #[cfg(test)]
    pub(crate) fn processes(&self) -> usize {
        self.node.runtime.alive()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        // Tasks end with what holds them.
        self.active = None;
        self.node.runtime.shutdown();
    }
}

/// The pods bound to the node, with one worker for each.
struct Pods {
    node: Arc<Node>,
    workers: JoinSet<Option<Worker>>,
    /// By uid: a new pod of the same name is another pod.
    wanted: BTreeMap<String, watch::Sender<Wanted>>,
    /// Those that were left alone, and about which nothing was heard since.
    asleep: BTreeMap<String, Worker>,
    stop: CancellationToken,
}

impl Pods {
    /// Looks after them until stopped, and returns those that are left alone then.
    async fn run(mut self, registered: CancellationToken) -> BTreeMap<String, Worker> {
        let stop = self.stop.clone();
        let ours = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node.name));
        let api = Api::<Pod>::all(self.node.client.clone());
        tokio::select! {
            () = async {
                registered.cancelled().await;
                let events = watch_api(api, ours).backoff(Patience::default());
                let complain = |error: &watcher::Error| tracing::debug!(%error, "cannot watch pods, trying again");
                self.follow(events.inspect_err(complain)).await;
            } => {}
            () = stop.cancelled() => {}
        }
        while let Some(worker) = self.workers.join_next().await {
            if let Ok(Some(worker)) = worker {
                self.asleep.insert(worker.uid(), worker);
            }
        }
        self.asleep
    }

    async fn follow(&mut self, events: impl futures::Stream<Item = watcher::Result<Event<Pod>>>) {
        let mut events = std::pin::pin!(events);
        let mut listed = Vec::new();
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                Some(done) = self.workers.join_next() => {
                    // Only who was stopped gives its worker back, and that may be seen here before the
                    // stop itself is.
                    let Ok(Some(worker)) = done else { continue };
                    self.asleep.insert(worker.uid(), worker);
                    return;
                }
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
                    for worker in std::mem::take(&mut self.asleep).into_values() {
                        let (_, gone) = watch::channel(Wanted::Gone);
                        self.work(Some(worker), gone);
                    }
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
                let asleep = self.asleep.remove(&uid);
                if asleep.is_none() {
                    self.node.records.know(&pod);
                }
                let (sender, wanted) = watch::channel(Wanted::Present(pod));
                self.wanted.insert(uid, sender);
                self.work(asleep, wanted);
            }
        }
    }

    fn work(&mut self, asleep: Option<Worker>, wanted: watch::Receiver<Wanted>) {
        self.workers.spawn(worker::run(Arc::clone(&self.node), asleep, wanted, self.stop.clone()));
    }

    fn gone(&mut self, uid: &str) {
        if let Some(wanted) = self.wanted.remove(uid) {
            wanted.send_replace(Wanted::Gone);
        }
    }
}

#[cfg(test)]
mod tests;
