//! The testbed: topology and components, put together and taken apart.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use base64::Engine as _;
use futures::FutureExt as _;
use futures::future::{BoxFuture, try_join_all};
use ipnet::Ipv4Net;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use thiserror::Error;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::apiserver::{ApiServer, ApiServerConfig, KubeletDial};
use crate::bugs::{Bug, Bugs};
use crate::client::{ApiEndpoint, client};
use crate::components::{Component, Components, Replacement};
use crate::controllers::{Controllers, ControllersConfig, NodePatience};
use crate::enter::host_listener;
use crate::external::{External, Loss};
use crate::externals::{ExternalCard, Externals, Given, values};
use crate::ingress;
use crate::kernel::HostPort;
use crate::kubelet::{ForeignImage, Kubelet, KubeletConfig, PodNetwork};
use crate::load_balancer::LoadBalancer;
use crate::namespace::NetNamespace;
use crate::outside_world::OutsideWorld;
use crate::pki::{self, Credentials, KeyPems, Pki};
use crate::proxy::{Proxy, ProxyConfig};
use crate::relay::Relay;
use crate::scheduler::Scheduler;
use crate::topology::{CLUSTER_CIDR, GATEWAY, NodeNet, SERVICE_CIDR, Topology, TopologySpec};

/// What the API server says it is.
const VERSION: &str = "v1.37.0";
/// Where cluster DNS will be, as in the notes' lab.
pub(crate) const CLUSTER_DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The API server's port on the control plane node.
const API_PORT: u16 = 6443;
/// The objects cluster DNS is made of; what it may do comes first.
const DNS: [&str; 2] = [
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/dns/rbac.yaml")),
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/dns/kube-dns.yaml")),
];
/// The most a start may take, on a machine that is busy with something else.
const START: Duration = Duration::from_secs(30);
/// The same when external commands are part of it, which read files, make caches and wait in turn.
const START_OF_EXTERNALS: Duration = Duration::from_secs(300);
/// The most external commands may take to do what they are for, once they were started.
const EXTERNALS_SERVE: Duration = Duration::from_secs(60);
/// A call of a cluster IP that nobody serves yet may be left without any answer.
const FIRST_TRY: Duration = Duration::from_secs(1);
/// The most that nodes with kubelets not our own may take to be Ready, and their first pod.
const NODES_READY: Duration = Duration::from_secs(120);
/// How soon somebody who did not answer is asked again.
const AGAIN: Duration = Duration::from_millis(100);
/// The image of cluster DNS when an external command stands in for it.
const DNS_IMAGE: &str = "cluster-dns";
/// The folder of its files inside.
const DNS_DIRECTORY: &str = "/etc/cluster-dns";

/// What a testbed is made of.
#[derive(Clone, Debug)]
pub struct TestbedSpec {
    /// How many nodes, 1 to 50. The first one is the control plane's.
    pub nodes: usize,
    /// Where on the machine the API server listens: the loopback address, unless somebody else forwards
    /// to it, as a container engine does.
    pub address: IpAddr,
    /// The port of the API server there; 0 takes a free one.
    pub port: u16,
    /// What is wrong on purpose.
    pub bugs: Bugs,
    /// Is there somebody who gives addresses to services of type `LoadBalancer`?
    pub load_balancer: bool,
    /// Labels of the nodes, one after the other, beside those every node has; a node without an entry
    /// gets no more. Zones and regions stand here, as nobody but a cloud knows them.
    pub node_labels: Vec<BTreeMap<String, String>>,
    /// Which components are somebody else's.
    pub components: Components,
    /// A folder for the whole outputs of external components; made if one is started.
    pub logs: Option<PathBuf>,
    /// The images of pods, for kubelets that are not our own.
    pub images: Option<Images>,
    /// Is told what the start is at, each time it goes on.
    pub progress: Option<fn(&'static str)>,
}

/// The programs of pods, as container runtimes take them.
#[derive(Clone, Debug)]
pub struct Images {
    /// What the image is called that has the programs of pods.
    pub name: String,
    /// An archive of it, and of [`PAUSE_IMAGE`](crate::binaries::PAUSE_IMAGE).
    pub archive: Arc<[u8]>,
}

impl Default for TestbedSpec {
    fn default() -> Self {
        Self {
            nodes: 3,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            bugs: Bugs::default(),
            load_balancer: false,
            node_labels: Vec::new(),
            components: Components::default(),
            logs: None,
            images: None,
            progress: None,
        }
    }
}

/// Why a testbed did not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error(
        "port {} of {} cannot be had for the API server: {source}; name another one, or 0 for any",
        at.port(), at.ip()
    )]
    Port { at: SocketAddr, source: io::Error },
    #[error("the testbed was not up within {bound:?}; it was at: {step}")]
    TooSlow { step: &'static str, bound: Duration },
    #[error("the testbed did not start, at: {step}")]
    Failed { step: &'static str, source: anyhow::Error },
}

/// One step of the start, and how long it took.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub name: &'static str,
    pub took: Duration,
}

/// A running cluster. Nothing of it has a name on the machine, so it is gone when this is dropped
/// and also when the process is killed.
pub struct Testbed {
    // In the order they are to go away: first who acts, then what they act on.
    _proxies: Vec<Proxy>,
    // These may take a moment to notice that they are killed.
    externals: Externals,
    // Dropping a kubelet kills the processes of its pods and waits until they are gone.
    kubelets: BTreeMap<String, Mutex<Kubelet>>,
    _scheduler: Option<Scheduler>,
    _controllers: Option<Controllers>,
    apiserver: Mutex<Serving>,
    version: String,
    /// Where it listens: on the machine, in this process' own network, on the control plane's node.
    addresses: [SocketAddr; 3],
    _outside_world: OutsideWorld,
    topology: Topology,
    client: kube::Client,
    kubeconfig: String,
    kubeconfig_inside: String,
    steps: Vec<Step>,
    ready: Duration,
}

/// Who serves the API.
enum Serving {
    Own(ApiServer),
    /// An external command; connections from elsewhere are passed on to it while it runs.
    External(Option<Relay>),
}

/// Runs the part of the program that was asked for under another name: what runs inside pods is the
/// running executable itself. To be called first in every `main`; if it returns something, that is
/// how the process ends.
pub fn reexec() -> Option<ExitCode> {
    crate::kubelet::init_main()
        .or_else(crate::external::inside_main)
        .or_else(crate::cgroup::keeper_main)
        .or_else(stickler_pods::dispatch)
}

impl Testbed {
    /// Starts a cluster and waits until every node is Ready and has had an answer from the API
    /// through its cluster IP.
    ///
    /// # Errors
    /// Which step failed or took too long, and why; nothing is left behind then.
    pub async fn start(spec: TestbedSpec) -> Result<Self, StartError> {
        let mut clock = Clock::new(spec.progress);
        let bound = match spec.components.swapped().next() {
            Some(_) => START_OF_EXTERNALS,
            None => START,
        };
        match timeout(bound, Self::build(spec, &mut clock)).await {
            Ok(built) => built,
            Err(_) => Err(StartError::TooSlow { step: clock.step, bound }),
        }
    }

    async fn build(spec: TestbedSpec, clock: &mut Clock) -> Result<Self, StartError> {
        let at = SocketAddr::from((spec.address, spec.port));
        let on_host = host_listener(at).map_err(|source| StartError::Port { at, source })?;
        let built = Self::put_together(&spec, on_host, clock).await;
        built.map_err(|source| StartError::Failed { step: clock.step, source })
    }

    async fn put_together(
        spec: &TestbedSpec,
        on_host: std::net::TcpListener,
        clock: &mut Clock,
    ) -> anyhow::Result<Self> {
        clock.next("topology");
        let planned = TopologySpec { nodes: spec.nodes, load_balancer: spec.load_balancer };
        let topology = Topology::build(&planned).await?;
        let outside_world = OutsideWorld::start(&topology)?;
        let load_balancer = match topology.load_balancer() {
            Some(machine) => Some(LoadBalancer::prepare(machine).await?),
            None => None,
        };
        let control_plane = topology.nodes().first().context("a cluster needs a node")?.clone();
        let advertise = SocketAddr::from((control_plane.ip, API_PORT));

        let components = &spec.components;
        let mut externals = Externals::new(spec.logs.clone());

        clock.next("API server");
        let pki = Pki::new()?;
        let home = NetNamespace::home()?;
        let at_home = home.listen((Ipv4Addr::LOCALHOST, 0).into())?;
        let (host_address, home_address) = (on_host.local_addr()?, at_home.local_addr()?);
        let admin = pki.client("kubernetes-admin", &["system:masters"])?;
        let at_home_endpoint = ApiEndpoint { address: home_address, ca_pem: pki.ca_pem() };
        let administrator = client(home, &at_home_endpoint, &admin)?;
        let service_account_key = pki::key_pair()?;
        let apiserver = match components.replacement(Component::ApiServer) {
            None => Serving::Own(ApiServer::start(ApiServerConfig {
                pki: &pki,
                listeners: vec![on_host, at_home, control_plane.namespace.listen(advertise)?],
                advertise,
                names: vec![control_plane.name.clone()],
                service_cidr: SERVICE_CIDR,
                node_port_range: NODE_PORTS,
                kubelet_dial: dial_from(control_plane.namespace.clone()),
                version: VERSION.to_owned(),
                bugs: spec.bugs.clone(),
            })?),
            Some(replacement) => {
                let given = given_to_apiserver(&control_plane, &pki, &service_account_key)?;
                externals.start(Component::ApiServer, &control_plane, replacement, given).await?;
                let listeners = vec![on_host, at_home];
                let relay = Relay::start(listeners, &control_plane.namespace, advertise)?;
                let ready = until_ready(&administrator);
                externals.meanwhile(Component::ApiServer, EXTERNALS_SERVE, ready).await?;
                bind_controllers(&administrator).await?;
                Serving::External(Some(relay))
            }
        };
        let version = match &apiserver {
            Serving::Own(_) => VERSION.to_owned(),
            Serving::External(_) => administrator.apiserver_version().await?.git_version,
        };

        clock.next("controllers and scheduler");
        let api = ApiEndpoint { address: advertise, ca_pem: pki.ca_pem() };
        let as_component =
            |user: &str, groups: &[&str]| client(&control_plane.namespace, &api, &pki.client(user, groups)?);
        for component in [Component::Controllers, Component::Scheduler] {
            let Some(replacement) = components.replacement(component) else { continue };
            let mut given = Given::identity(component, advertise, &pki)?;
            if matches!(apiserver, Serving::External(_)) {
                given = given.with("sa.key", &service_account_key.private_pem);
            }
            externals.start(component, &control_plane, replacement, given).await?;
        }
        let for_controllers = as_component("system:kube-controller-manager", &[])?;
        let controllers = match (components.is_own(Component::Controllers), load_balancer) {
            (true, load_balancer) => Some(Controllers::start(ControllersConfig {
                client: for_controllers,
                ca_pem: pki.ca_pem(),
                bugs: spec.bugs.clone(),
                patience: NodePatience::default(),
                load_balancer,
            })),
            (false, Some(balancer)) => {
                Some(Controllers::start_providers(&for_controllers, balancer, &spec.bugs))
            }
            (false, None) => None,
        };
        let scheduler = match components.is_own(Component::Scheduler) {
            true => Some(Scheduler::start(as_component("system:kube-scheduler", &[])?, spec.bugs.clone())),
            false => None,
        };

        clock.next("kubelets and proxies");
        if let Some(replacement) = components.replacement(Component::Kubelet) {
            let images = spec.images.as_ref().context("an external kubelet needs images")?;
            let given = |node: &NodeNet| Given::node(node, advertise, &pki);
            externals.start_kubelets(topology.nodes(), replacement, &images.archive, given).await?;
        }
        let labels = |index: usize| spec.node_labels.get(index).cloned().unwrap_or_default();
        let mut starting = Vec::new();
        for (index, node) in topology.nodes().iter().enumerate() {
            starting.push(start_node(node, index == 0, labels(index), &pki, &api, spec).boxed());
        }
        let (kubelets, proxies): (Vec<Option<Kubelet>>, Vec<Option<Proxy>>) =
            externals.unless_lost(try_join_all(starting)).await?.into_iter().unzip();
        let names = topology.nodes().iter().map(|node| node.name.clone());
        if components.replacement(Component::Kubelet).is_some() {
            clock.next("nodes Ready");
            let mut waiting = Vec::new();
            for (index, node) in topology.nodes().iter().enumerate() {
                waiting.push(become_ready(&administrator, node, index == 0, labels(index)).boxed());
            }
            let ready = try_join_all(waiting).map(|ready| ready.map(drop));
            externals.meanwhile(Component::Kubelet, NODES_READY, ready).await?;
        }
        if let Some(replacement) = components.replacement(Component::Proxy) {
            for node in topology.nodes() {
                let given = Given::identity(Component::Proxy, advertise, &pki)?;
                externals.start(Component::Proxy, node, replacement, given).await?;
            }
        }

        clock.next("first answer of a cluster IP on every node");
        let proxied =
            components.is_own(Component::Proxy) || components.replacement(Component::Proxy).is_some();
        if proxied && !spec.bugs.has(Bug::NoProxy) {
            let service = first_service_address();
            let through_service = ApiEndpoint { address: service, ca_pem: pki.ca_pem() };
            let mut asking = Vec::new();
            for node in topology.nodes() {
                asking.push(first_answer(node, &through_service, &admin).boxed());
            }
            let answered = try_join_all(asking).map(|answered| answered.map(drop));
            externals.meanwhile(Component::Proxy, EXTERNALS_SERVE, answered).await?;
        }
        clock.next("cluster DNS asked for");
        if let Some(replacement) = components.replacement(Component::Dns) {
            externals.introduce(Component::Dns, &control_plane, replacement).await?;
        }
        // Whoever needs names waits for them; a cluster is ready without, as upstream's nodes are.
        if components.is_own(Component::Dns) || components.replacement(Component::Dns).is_some() {
            create_dns(&administrator, spec).await?;
        }
        if components.replacement(Component::Kubelet).is_some() && components.is_own(Component::Dns) {
            clock.next("cluster DNS answers");
            let ready = dns_ready(&administrator);
            externals.meanwhile(Component::Kubelet, NODES_READY, ready).await?;
        }
        if let (Some(replacement), Some(node)) =
            (components.replacement(Component::Ingress), topology.nodes().last())
        {
            clock.next("ingress controller");
            let image = spec.images.as_ref().filter(|_| !components.is_own(Component::Kubelet));
            let image = image.map(|images| images.name.as_str());
            for object in ingress::objects(replacement, &node.name, image)? {
                create(&administrator, &object).await?;
            }
            let given = Given::identity(Component::Ingress, advertise, &pki)?;
            externals.start(Component::Ingress, node, replacement, given).await?;
            let listens = ingress::listens(&administrator);
            externals.meanwhile(Component::Ingress, EXTERNALS_SERVE, listens).await?;
        }
        clock.done();

        Ok(Self {
            _proxies: proxies.into_iter().flatten().collect(),
            externals,
            kubelets: names
                .zip(kubelets)
                .filter_map(|(name, kubelet)| Some((name, Mutex::new(kubelet?))))
                .collect(),
            _scheduler: scheduler,
            _controllers: controllers,
            apiserver: Mutex::new(apiserver),
            version,
            addresses: [host_address, home_address, advertise],
            _outside_world: outside_world,
            client: administrator,
            kubeconfig: kubeconfig(host_address, &pki.ca_pem(), "kubernetes-admin", &admin),
            kubeconfig_inside: kubeconfig(home_address, &pki.ca_pem(), "kubernetes-admin", &admin),
            steps: std::mem::take(&mut clock.steps),
            ready: clock.started.elapsed(),
            topology,
        })
    }

    /// A client with the rights of an administrator, for this process.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// A kubeconfig for programs on this machine.
    pub fn kubeconfig(&self) -> &str {
        &self.kubeconfig
    }

    /// A kubeconfig for programs that this process starts: they live in its network, not the machine's.
    pub fn kubeconfig_inside(&self) -> &str {
        &self.kubeconfig_inside
    }

    /// A folder in memory, by a path that programs this process starts can use. It has no name on the
    /// machine and goes with the process, however that ends.
    ///
    /// # Errors
    /// If there is no memory file system to be had.
    pub fn shared_folder(&self) -> io::Result<PathBuf> {
        crate::kubelet::shared_folder()
    }

    /// What the API server says it is.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The components that external commands stand in for.
    pub fn externals(&self) -> &[ExternalCard] {
        self.externals.cards()
    }

    /// The external commands that can be stopped and started, each by its component and node.
    pub fn external_places(&self) -> Vec<(Component, String)> {
        self.externals.places().map(|(component, node)| (component, node.to_owned())).collect()
    }

    /// Waits until an external command ended though nobody stopped it, and says which have, how, and what
    /// they said last. Without such commands it waits for ever.
    pub async fn lost(&self) -> Vec<Loss> {
        self.externals.lost().await
    }

    /// Kills the external command that is a component on a node; what it has written is kept. Stopping
    /// it twice is the same as stopping it once.
    ///
    /// # Errors
    /// If there is none.
    pub async fn stop_external(&self, component: Component, node: &str) -> anyhow::Result<()> {
        if component == Component::ApiServer {
            self.externals.find(component, node)?;
            self.stop_apiserver().await;
            return Ok(());
        }
        self.externals.find(component, node)?.stop().await;
        Ok(())
    }

    /// Starts it again; it finds what it had written.
    ///
    /// # Errors
    /// If there is none, or it cannot be started any more.
    pub async fn start_external(&self, component: Component, node: &str) -> anyhow::Result<()> {
        if component == Component::ApiServer {
            self.externals.find(component, node)?;
            return self.start_apiserver().await;
        }
        Ok(self.externals.find(component, node)?.resume().await?)
    }

    /// The nodes' names.
    pub fn nodes(&self) -> Vec<String> {
        self.topology.nodes().iter().map(|node| node.name.clone()).collect()
    }

    /// How somebody on this machine starts a command in the network of one of the lab's: each machine by
    /// its name, and what the command is to be preceded by. `lan` is the LAN itself, in which every machine
    /// has a link of its name.
    pub fn doors(&self) -> Vec<(String, String)> {
        let process = std::process::id();
        let user = if crate::enter::in_user_namespace() {
            format!(" --target {process} --user --preserve-credentials")
        } else {
            String::new()
        };
        let door = |namespace: &NetNamespace| {
            format!("nsenter{user} --net=/proc/{process}/fd/{}", namespace.as_fd().as_raw_fd())
        };
        let nodes = self.topology.nodes().iter().map(|node| (node.name.clone(), door(&node.namespace)));
        let others = [("client", self.topology.client_host()), ("lan", self.topology.router())];
        nodes.chain(others.map(|(name, namespace)| (name.to_owned(), door(namespace)))).collect()
    }

    /// The machines of the lab and what is between them.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The range cluster IPs come from.
    pub fn service_cidr(&self) -> Ipv4Net {
        SERVICE_CIDR
    }

    /// The range pod addresses come from.
    pub fn cluster_cidr(&self) -> Ipv4Net {
        CLUSTER_CIDR
    }

    /// From the call of [`Testbed::start`] to a first answer on every node.
    pub fn ready(&self) -> Duration {
        self.ready
    }

    /// Where the time of the start went.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Stops the kubelet of a node as if its process had died: no heartbeat, no probes, no restarts,
    /// nobody answers on its port. The processes of its pods go on and serve. Stopping it twice is
    /// the same as stopping it once.
    ///
    /// # Errors
    /// If there is no such node.
    pub async fn stop_kubelet(&self, node: &str) -> anyhow::Result<()> {
        if let Ok(external) = self.externals.find(Component::Kubelet, node) {
            external.stop().await;
            return Ok(());
        }
        self.kubelet(node)?.lock().await.stop().await;
        Ok(())
    }

    /// Starts the kubelet of a node again: it takes up the pods it left. It says so to the API as
    /// soon as that answers.
    ///
    /// # Errors
    /// If there is no such node, or its port cannot be had.
    pub async fn start_kubelet(&self, node: &str) -> anyhow::Result<()> {
        if let Ok(external) = self.externals.find(Component::Kubelet, node) {
            return Ok(external.resume().await?);
        }
        self.kubelet(node)?.lock().await.resume()
    }

    fn kubelet(&self, node: &str) -> anyhow::Result<&Mutex<Kubelet>> {
        let known = || self.nodes().join("`, `");
        self.kubelets.get(node).with_context(|| format!("there is no node `{node}`; there are `{}`", known()))
    }

    /// Cuts a node off from all others: packets to and from it are lost without a word, and what is on it
    /// goes on. Doing it twice is the same as doing it once.
    ///
    /// # Errors
    /// If there is no such node.
    pub async fn cut_off(&self, node: &str) -> anyhow::Result<()> {
        self.topology.cut_off(self.node(node)?).await
    }

    /// Connects it again.
    ///
    /// # Errors
    /// If there is no such node.
    pub async fn reconnect(&self, node: &str) -> anyhow::Result<()> {
        self.topology.reconnect(self.node(node)?).await
    }

    fn node(&self, name: &str) -> anyhow::Result<&NodeNet> {
        let known = || self.nodes().join("`, `");
        let mut nodes = self.topology.nodes().iter();
        nodes
            .find(|node| node.name == name)
            .with_context(|| format!("there is no node `{name}`; there are `{}`", known()))
    }

    /// Stops the API server: nobody answers at its addresses, and all its connections are cut. What
    /// it knows is kept. Stopping it twice is the same as stopping it once.
    pub async fn stop_apiserver(&self) {
        match &mut *self.apiserver.lock().await {
            Serving::Own(apiserver) => apiserver.stop().await,
            Serving::External(relay) => {
                *relay = None;
                if let Ok(external) = self.external_apiserver() {
                    external.stop().await;
                }
            }
        }
    }

    /// Starts the API server again at the same addresses, with everything it knew.
    ///
    /// # Errors
    /// If an address cannot be had any more.
    pub async fn start_apiserver(&self) -> anyhow::Result<()> {
        let mut apiserver = self.apiserver.lock().await;
        let [on_host, at_home, inside] = self.addresses;
        let from_elsewhere = || -> anyhow::Result<Vec<std::net::TcpListener>> {
            Ok(vec![
                host_listener(on_host)
                    .with_context(|| format!("{on_host} of the machine cannot be had again"))?,
                NetNamespace::home()?
                    .listen(at_home)
                    .with_context(|| format!("{at_home} cannot be had again"))?,
            ])
        };
        let control_plane = self.topology.nodes().first().context("a cluster needs a node")?;
        match &mut *apiserver {
            Serving::Own(apiserver) if apiserver.is_serving() => Ok(()),
            Serving::Own(apiserver) => {
                let mut listeners = from_elsewhere()?;
                let listener = control_plane.namespace.listen(inside);
                listeners.push(listener.with_context(|| format!("{inside} cannot be had again"))?);
                apiserver.resume(listeners)
            }
            Serving::External(relay) => {
                self.external_apiserver()?.resume().await?;
                if relay.is_none() {
                    *relay = Some(Relay::start(from_elsewhere()?, &control_plane.namespace, inside)?);
                }
                Ok(())
            }
        }
    }

    fn external_apiserver(&self) -> anyhow::Result<&External> {
        let control_plane = self.topology.nodes().first().context("a cluster needs a node")?;
        self.externals.find(Component::ApiServer, &control_plane.name)
    }

    /// A command that runs one of the programs of pods, which are this executable under other names,
    /// on a machine of the lab. Its environment is empty.
    ///
    /// # Errors
    /// If there is no such machine or program.
    pub fn command(
        &self,
        machine: Machine<'_>,
        program: &str,
        arguments: &[impl AsRef<OsStr>],
    ) -> io::Result<std::process::Command> {
        let missing = |what: String| io::Error::new(io::ErrorKind::NotFound, what);
        if !stickler_pods::APPLETS.iter().any(|applet| applet.name == program) {
            return Err(missing(format!("no program of pods is called `{program}`")));
        }
        let namespace = match machine {
            Machine::Outside => self.topology.client_host(),
            Machine::Node(name) => match self.topology.nodes().iter().find(|node| node.name == name) {
                Some(node) => &node.namespace,
                None => {
                    let nodes = self.nodes().join("`, `");
                    return Err(missing(format!("no node is called `{name}`; there are `{nodes}`")));
                }
            },
        };
        let namespace = namespace.clone();
        let mut command = std::process::Command::new("/proc/self/exe");
        command.arg0(program).args(arguments).env_clear();
        #[expect(unsafe_code, reason = "the child enters the namespace between fork and exec")]
        // SAFETY: the closure makes two system calls and allocates nothing.
        unsafe {
            command.pre_exec(move || namespace.enter_for_exec());
        }
        Ok(command)
    }

    /// Starts this executable under another name on the client host: a machine of the LAN that is
    /// no part of the cluster. It ends when its standard input does.
    ///
    /// # Errors
    /// If no process can be started.
    pub fn spawn_outside(&self, program: &str, arguments: &[&str]) -> io::Result<OutsideProcess> {
        let mut command = self.command(Machine::Outside, program, arguments)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut command = Command::from(command);
        let mut child = command.kill_on_drop(true).spawn()?;
        let pipe = || io::Error::other("a pipe of the process is missing");
        let stdin = child.stdin.take().ok_or_else(pipe)?;
        let stdout = child.stdout.take().ok_or_else(pipe)?;
        Ok(OutsideProcess { stdin, stdout, child })
    }
}

/// A machine of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine<'a> {
    /// A node, by its name.
    Node(&'a str),
    /// The client host: a machine of the LAN that is no part of the cluster.
    Outside,
}

/// A process on the client host. It is killed when this is dropped.
pub struct OutsideProcess {
    pub stdin: ChildStdin,
    pub stdout: ChildStdout,
    pub child: Child,
}

/// The range node ports come from, as upstream's default.
const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;

/// The address of the service `kubernetes`.
fn first_service_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from_bits(SERVICE_CIDR.network().to_bits() + 1), 443))
}

async fn start_node(
    node: &NodeNet,
    control_plane: bool,
    labels: BTreeMap<String, String>,
    pki: &Pki,
    api: &ApiEndpoint,
    spec: &TestbedSpec,
) -> anyhow::Result<(Option<Kubelet>, Option<Proxy>)> {
    let bugs = &spec.bugs;
    let name = node.name.as_str();
    let as_kubelet = pki.client(&format!("system:node:{name}"), &["system:nodes"])?;
    let as_proxy = pki.client("system:kube-proxy", &["system:node-proxier"])?;
    let configured = KubeletConfig {
        client: client(&node.namespace, api, &as_kubelet)?,
        node_name: name.to_owned(),
        node_ip: node.ip,
        pod_cidr: node.pod_cidr,
        namespace: node.namespace.clone(),
        network: Arc::new(Wires(node.clone())),
        serving: pki.server(&[name], &[node.ip.into()])?,
        ca_pem: pki.ca_pem(),
        labels,
        control_plane,
        version: VERSION.to_owned(),
        cluster_dns: Some(CLUSTER_DNS),
        cluster_domain: "cluster.local".to_owned(),
        node_dns: GATEWAY,
        node_searches: vec!["lan".to_owned(), "vm".to_owned()],
        images: foreign_images(&spec.components),
        applets: stickler_pods::APPLETS.iter().map(|applet| applet.name.to_owned()).collect(),
        bugs: bugs.clone(),
    };
    let kubelet = async {
        match spec.components.is_own(Component::Kubelet) {
            true => anyhow::Ok(Some(Kubelet::start(configured).await?)),
            false => Ok(None),
        }
    };
    let proxy = async {
        if !spec.components.is_own(Component::Proxy) {
            return Ok(None);
        }
        let proxy = Proxy::start(ProxyConfig {
            client: client(&node.namespace, api, &as_proxy)?,
            node: node.clone(),
            cluster_cidr: CLUSTER_CIDR,
            bugs: bugs.clone(),
        })
        .await?;
        proxy.synced().await;
        anyhow::Ok(Some(proxy))
    };
    let (kubelet, proxy) = tokio::try_join!(kubelet, proxy).with_context(|| format!("node {name}"))?;
    Ok((kubelet, proxy))
}

/// Waits until a kubelet has registered its node, says of the node what its kubelet may not say, and waits
/// until it is Ready.
#[expect(clippy::disallowed_methods, reason = "the start as a whole has a bound, and says what it waits for")]
async fn become_ready(
    client: &kube::Client,
    node: &NodeNet,
    control_plane: bool,
    mut labels: BTreeMap<String, String>,
) -> anyhow::Result<()> {
    let api = Api::<Node>::all(client.clone());
    while api.get_opt(&node.name).await?.is_none() {
        tokio::time::sleep(AGAIN).await;
    }
    if control_plane {
        labels.insert("node-role.kubernetes.io/control-plane".to_owned(), String::new());
    }
    let range = node.pod_cidr.to_string();
    let patch = serde_json::json!({
        "metadata": {"labels": labels},
        "spec": {"podCIDR": range, "podCIDRs": [range]},
    });
    api.patch(&node.name, &PatchParams::default(), &Patch::Merge(patch)).await.context(node.name.clone())?;
    loop {
        let conditions = api.get(&node.name).await?.status.and_then(|status| status.conditions);
        let ready = |condition: &NodeCondition| condition.type_ == "Ready" && condition.status == "True";
        if conditions.unwrap_or_default().iter().any(ready) {
            return Ok(());
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Waits until cluster DNS is Ready. Who asks before that on a real cluster may wait for long: what was sent
/// before the proxies had their rules is lost.
#[expect(clippy::disallowed_methods, reason = "the start as a whole has a bound, and says what it waits for")]
async fn dns_ready(client: &kube::Client) -> anyhow::Result<()> {
    let api = Api::<Deployment>::namespaced(client.clone(), "kube-system");
    loop {
        let status = api.get("kube-dns").await?.status.unwrap_or_default();
        if status.ready_replicas.unwrap_or_default() > 0 {
            return Ok(());
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What the kubelets can make containers of beside the running executable.
fn foreign_images(components: &Components) -> Vec<ForeignImage> {
    let dns = components.replacement(Component::Dns);
    let image = |dns: &Replacement| ForeignImage {
        name: DNS_IMAGE.to_owned(),
        program: dns.command.program().to_owned(),
    };
    dns.map(image).into_iter().collect()
}

/// Asks the API server through the cluster IP of `kubernetes`, until it answers.
async fn first_answer(node: &NodeNet, service: &ApiEndpoint, admin: &Credentials) -> anyhow::Result<()> {
    loop {
        let ready = http::Request::get("/readyz").body(Vec::new())?;
        // A client of its own: what was asked before the rules were there, is never answered.
        let client = client(&node.namespace, service, admin)?;
        if let Ok(Ok(_)) = timeout(FIRST_TRY, client.request_text(ready)).await {
            return Ok(());
        }
        pause().await;
    }
}

/// Asks an API server until it says that it is ready.
async fn until_ready(client: &kube::Client) -> anyhow::Result<()> {
    loop {
        let ready = http::Request::get("/readyz").body(Vec::new())?;
        if client.request_text(ready).await.is_ok() {
            return Ok(());
        }
        pause().await;
    }
}

/// Between two questions to somebody who cannot be watched yet.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing says when a server is going to answer; the start is bounded"
)]
async fn pause() {
    tokio::time::sleep(AGAIN).await;
}

/// Upstream gives each controller an account of its own, and the one identity that all of them have
/// here may do next to nothing
/// ([Using RBAC Authorization, "Roles for built-in controllers"](https://kubernetes.io/docs/reference/access-authn-authz/rbac/#controller-roles)).
async fn bind_controllers(client: &kube::Client) -> anyhow::Result<()> {
    let binding = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "stickler:kube-controller-manager"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "User",
            "name": "system:kube-controller-manager",
        }],
    }))?;
    let api = Api::<ClusterRoleBinding>::all(client.clone());
    api.create(&PostParams::default(), &binding).await.context("ClusterRoleBinding of the controllers")?;
    Ok(())
}

/// What an API server is given, under the names kubeadm uses
/// ([PKI certificates and requirements](https://kubernetes.io/docs/setup/best-practices/certificates/#certificate-paths)).
fn given_to_apiserver(node: &NodeNet, pki: &Pki, key: &KeyPems) -> anyhow::Result<Given> {
    let names = [
        node.name.as_str(),
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ];
    let addresses = [node.ip.into(), first_service_address().ip(), Ipv4Addr::LOCALHOST.into()];
    Ok(Given::default()
        .with("ca.crt", pki.ca_pem())
        .with_pair("apiserver", &pki.server(&names, &addresses)?)
        .with_pair(
            "apiserver-kubelet-client",
            &pki.client("kube-apiserver-kubelet-client", &["system:masters"])?,
        )
        .with("sa.key", &key.private_pem)
        .with("sa.pub", &key.public_pem))
}

/// Creates what cluster DNS is made of: objects like any others, run by the cluster itself.
async fn create_dns(client: &kube::Client, spec: &TestbedSpec) -> anyhow::Result<()> {
    let replacement = spec.components.replacement(Component::Dns);
    let own_kubelet = spec.components.is_own(Component::Kubelet);
    let image = spec.images.as_ref().filter(|_| !own_kubelet);
    for manifest in DNS {
        let objects: Vec<DynamicObject> =
            serde_saphyr::from_multiple(manifest).context("the manifest of cluster DNS")?;
        for mut object in objects {
            let types = object.types.clone().context("an object of cluster DNS has no kind")?;
            if types.kind == "Service" && spec.bugs.has(Bug::DnsMetricsPortMissing) {
                object.data["spec"]["ports"].as_array_mut().map(Vec::pop);
            }
            if let (Some(images), Some(container)) =
                (image, object.data.pointer_mut("/spec/template/spec/containers/0"))
            {
                container["image"] = images.name.as_str().into();
            }
            if let Some(replacement) = replacement {
                if types.kind == "Deployment" {
                    create(client, &dns_files(replacement)?).await?;
                }
                swap_dns(&types.kind, &mut object.data, replacement);
            }
            create(client, &object).await?;
        }
    }
    Ok(())
}

async fn create(client: &kube::Client, object: &DynamicObject) -> anyhow::Result<()> {
    let types = object.types.clone().context("an object has no kind")?;
    let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    api.create(&PostParams::default(), object).await.with_context(|| types.kind.clone())?;
    Ok(())
}

/// The files of an external cluster DNS, as pods get files. A key has no slashes, and a ConfigMap no
/// folders.
fn dns_files(replacement: &Replacement) -> anyhow::Result<DynamicObject> {
    let values = values(Path::new(DNS_DIRECTORY));
    let files = replacement.files.iter().map(|(path, text)| (path.clone(), values.fill(text)));
    Ok(serde_json::from_value(serde_json::json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
        "data": files.collect::<BTreeMap<_, _>>(),
    }))?)
}

/// Puts an external program into the pods of cluster DNS, and lets it see what CoreDNS needs to
/// ([Customizing DNS Service](https://kubernetes.io/docs/tasks/administer-cluster/dns-custom-nameservers/)).
fn swap_dns(kind: &str, object: &mut serde_json::Value, replacement: &Replacement) {
    use serde_json::json;
    match kind {
        "ClusterRole" => {
            if let Some(rules) = object["rules"].as_array_mut() {
                let verbs = json!(["list", "watch"]);
                rules.push(json!({"apiGroups": [""], "resources": ["endpoints", "pods"], "verbs": verbs}));
            }
        }
        "Deployment" => {
            let values = values(Path::new(DNS_DIRECTORY));
            let pod = &mut object["spec"]["template"]["spec"];
            let container = &mut pod["containers"][0];
            container["image"] = json!(DNS_IMAGE);
            container["command"] = json!(replacement.command.words(&values));
            container["args"] = json!([]);
            container["volumeMounts"] =
                json!([{"name": "files", "mountPath": DNS_DIRECTORY, "readOnly": true}]);
            pod["volumes"] = json!([{"name": "files", "configMap": {"name": "kube-dns"}}]);
        }
        _ => {}
    }
}

/// Dials kubelets from the machine the API server runs on.
fn dial_from(namespace: NetNamespace) -> KubeletDial {
    Arc::new(move |address| {
        let namespace = namespace.clone();
        async move { namespace.connect(address).await }.boxed()
    })
}

/// The node's wires, as the kubelet uses them.
struct Wires(NodeNet);

impl PodNetwork for Wires {
    fn attach<'a>(&'a self, pod: &'a NetNamespace, ip: Ipv4Addr) -> BoxFuture<'a, anyhow::Result<()>> {
        self.0.attach_pod(pod, ip).boxed()
    }

    fn detach<'a>(&'a self, _: &'a NetNamespace, ip: Ipv4Addr) -> BoxFuture<'a, anyhow::Result<()>> {
        self.0.detach_pod(ip).boxed()
    }

    fn map_ports<'a>(&'a self, ip: Ipv4Addr, ports: &'a [HostPort]) -> BoxFuture<'a, anyhow::Result<()>> {
        self.0.map_ports(ip, ports).boxed()
    }

    fn unmap_ports<'a>(&'a self, ip: Ipv4Addr, ports: &'a [HostPort]) -> BoxFuture<'a, anyhow::Result<()>> {
        self.0.unmap_ports(ip, ports).boxed()
    }
}

/// A kubeconfig with one identity, as every client of Kubernetes reads it.
pub(crate) fn kubeconfig(server: SocketAddr, ca_pem: &str, user: &str, credentials: &Credentials) -> String {
    let encode = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: stickler\n  cluster:\n    server: https://{server}\n    \
         certificate-authority-data: {}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {}\n    \
         client-key-data: {}\ncontexts:\n- name: stickler\n  context:\n    cluster: stickler\n    user: \
         {user}\ncurrent-context: stickler\n",
        encode(ca_pem),
        encode(&credentials.certificate_pem),
        encode(&credentials.key_pem)
    )
}

/// Measures the steps of a start.
struct Clock {
    started: Instant,
    since: Instant,
    step: &'static str,
    steps: Vec<Step>,
    progress: Option<fn(&'static str)>,
}

impl Clock {
    fn new(progress: Option<fn(&'static str)>) -> Self {
        let now = Instant::now();
        Self { started: now, since: now, step: "the port of the API server", steps: Vec::new(), progress }
    }

    fn next(&mut self, step: &'static str) {
        self.done();
        self.step = step;
        if let Some(tell) = self.progress {
            tell(step);
        }
    }

    fn done(&mut self) {
        self.steps.push(Step { name: self.step, took: self.since.elapsed() });
        self.since = Instant::now();
    }
}
