//! The testbed: topology and components, put together and taken apart.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::unix::process::CommandExt as _;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use base64::Engine as _;
use futures::FutureExt as _;
use futures::future::{BoxFuture, try_join_all};
use ipnet::Ipv4Net;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, PostParams};
use thiserror::Error;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::apiserver::{ApiServer, ApiServerConfig, KubeletDial};
use crate::bugs::{Bug, Bugs};
use crate::client::{ApiEndpoint, client};
use crate::controllers::{Controllers, ControllersConfig, NodePatience};
use crate::enter::host_listener;
use crate::kernel::HostPort;
use crate::kubelet::{Kubelet, KubeletConfig, PodNetwork};
use crate::load_balancer::LoadBalancer;
use crate::namespace::NetNamespace;
use crate::outside_world::OutsideWorld;
use crate::pki::{Credentials, Pki};
use crate::proxy::{Proxy, ProxyConfig};
use crate::scheduler::Scheduler;
use crate::topology::{CLUSTER_CIDR, GATEWAY, NodeNet, SERVICE_CIDR, Topology, TopologySpec};

/// What the API server says it is.
const VERSION: &str = "v1.37.0";
/// Where cluster DNS will be, as in the notes' lab.
const CLUSTER_DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The API server's port on the control plane node.
const API_PORT: u16 = 6443;
/// The objects cluster DNS is made of; what it may do comes first.
const DNS: [&str; 2] = [
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/dns/rbac.yaml")),
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/dns/kube-dns.yaml")),
];
/// The most a start may take, on a machine that is busy with something else.
const START: Duration = Duration::from_secs(30);

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
    #[error("the testbed was not up within {START:?}; it was at: {step}")]
    TooSlow { step: &'static str },
    #[error("the testbed did not start, at: {step}: {source:#}")]
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
    // Dropping a kubelet kills the processes of its pods and waits until they are gone.
    kubelets: BTreeMap<String, Mutex<Kubelet>>,
    _scheduler: Scheduler,
    _controllers: Controllers,
    apiserver: Mutex<ApiServer>,
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

/// Runs the part of the program that was asked for under another name: what runs inside pods is the
/// running executable itself. To be called first in every `main`; if it returns something, that is
/// how the process ends.
pub fn reexec() -> Option<ExitCode> {
    crate::kubelet::init_main().or_else(stickler_pods::dispatch)
}

impl Testbed {
    /// Starts a cluster and waits until every node is Ready and has had an answer from the API
    /// through its cluster IP.
    ///
    /// # Errors
    /// Which step failed or took too long, and why; nothing is left behind then.
    pub async fn start(spec: TestbedSpec) -> Result<Self, StartError> {
        let mut clock = Clock::new();
        match timeout(START, Self::build(spec, &mut clock)).await {
            Ok(built) => built,
            Err(_) => Err(StartError::TooSlow { step: clock.step }),
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

        clock.next("API server");
        let pki = Pki::new()?;
        let home = NetNamespace::home()?;
        let at_home = home.listen((Ipv4Addr::LOCALHOST, 0).into())?;
        let (host_address, home_address) = (on_host.local_addr()?, at_home.local_addr()?);
        let inside = control_plane.namespace.listen(advertise)?;
        let apiserver = ApiServer::start(ApiServerConfig {
            pki: &pki,
            listeners: vec![on_host, at_home, inside],
            advertise,
            names: vec![control_plane.name.clone()],
            service_cidr: SERVICE_CIDR,
            node_port_range: NODE_PORTS,
            kubelet_dial: dial_from(control_plane.namespace.clone()),
            version: VERSION.to_owned(),
            bugs: spec.bugs.clone(),
        })?;

        clock.next("controllers and scheduler");
        let api = ApiEndpoint { address: advertise, ca_pem: pki.ca_pem() };
        let as_component =
            |user: &str, groups: &[&str]| client(&control_plane.namespace, &api, &pki.client(user, groups)?);
        let controllers = Controllers::start(ControllersConfig {
            client: as_component("system:kube-controller-manager", &[])?,
            ca_pem: pki.ca_pem(),
            bugs: spec.bugs.clone(),
            patience: NodePatience::default(),
            load_balancer,
        });
        let scheduler = Scheduler::start(as_component("system:kube-scheduler", &[])?);

        clock.next("kubelets and proxies");
        let mut starting = Vec::new();
        for (index, node) in topology.nodes().iter().enumerate() {
            let labels = spec.node_labels.get(index).cloned().unwrap_or_default();
            starting.push(start_node(node, index == 0, labels, &pki, &api, &spec.bugs).boxed());
        }
        let (kubelets, proxies): (Vec<_>, _) = try_join_all(starting).await?.into_iter().unzip();
        let names = topology.nodes().iter().map(|node| node.name.clone());

        clock.next("first answer of a cluster IP on every node");
        let admin = pki.client("kubernetes-admin", &["system:masters"])?;
        if !spec.bugs.has(Bug::NoProxy) {
            let service = first_service_address();
            let through_service = ApiEndpoint { address: service, ca_pem: pki.ca_pem() };
            let mut asking = Vec::new();
            for node in topology.nodes() {
                asking.push(first_answer(node, &through_service, &admin).boxed());
            }
            try_join_all(asking).await?;
        }
        clock.next("cluster DNS asked for");
        let at_home = ApiEndpoint { address: home_address, ca_pem: pki.ca_pem() };
        let client = client(home, &at_home, &admin)?;
        // Whoever needs names waits for them; a cluster is ready without, as upstream's nodes are.
        create_dns(&client, &spec.bugs).await?;
        clock.done();

        Ok(Self {
            _proxies: proxies,
            kubelets: names.zip(kubelets.into_iter().map(Mutex::new)).collect(),
            _scheduler: scheduler,
            _controllers: controllers,
            apiserver: Mutex::new(apiserver),
            addresses: [host_address, home_address, advertise],
            _outside_world: outside_world,
            client,
            kubeconfig: kubeconfig(host_address, &pki.ca_pem(), &admin),
            kubeconfig_inside: kubeconfig(home_address, &pki.ca_pem(), &admin),
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

    /// What the API server says it is.
    pub fn version(&self) -> &'static str {
        VERSION
    }

    /// The nodes' names.
    pub fn nodes(&self) -> Vec<String> {
        self.topology.nodes().iter().map(|node| node.name.clone()).collect()
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
        self.kubelet(node)?.lock().await.stop().await;
        Ok(())
    }

    /// Starts the kubelet of a node again: it takes up the pods it left. It says so to the API as
    /// soon as that answers.
    ///
    /// # Errors
    /// If there is no such node, or its port cannot be had.
    pub async fn start_kubelet(&self, node: &str) -> anyhow::Result<()> {
        self.kubelet(node)?.lock().await.resume()
    }

    fn kubelet(&self, node: &str) -> anyhow::Result<&Mutex<Kubelet>> {
        let known = || self.nodes().join("`, `");
        self.kubelets.get(node).with_context(|| format!("there is no node `{node}`; there are `{}`", known()))
    }

    /// Stops the API server: nobody answers at its addresses, and all its connections are cut. What
    /// it knows is kept. Stopping it twice is the same as stopping it once.
    pub async fn stop_apiserver(&self) {
        self.apiserver.lock().await.stop().await;
    }

    /// Starts the API server again at the same addresses, with everything it knew.
    ///
    /// # Errors
    /// If an address cannot be had any more.
    pub async fn start_apiserver(&self) -> anyhow::Result<()> {
        let mut apiserver = self.apiserver.lock().await;
        if apiserver.is_serving() {
            return Ok(());
        }
        let [on_host, at_home, inside] = self.addresses;
        let control_plane = self.topology.nodes().first().context("a cluster needs a node")?;
        let listeners = vec![
            host_listener(on_host)
                .with_context(|| format!("{on_host} of the machine cannot be had again"))?,
            NetNamespace::home()?
                .listen(at_home)
                .with_context(|| format!("{at_home} cannot be had again"))?,
            control_plane
                .namespace
                .listen(inside)
                .with_context(|| format!("{inside} cannot be had again"))?,
        ];
        apiserver.resume(listeners)
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
    bugs: &Bugs,
) -> anyhow::Result<(Kubelet, Proxy)> {
    let name = node.name.as_str();
    let as_kubelet = pki.client(&format!("system:node:{name}"), &["system:nodes"])?;
    let as_proxy = pki.client("system:kube-proxy", &["system:node-proxier"])?;
    let kubelet = Kubelet::start(KubeletConfig {
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
        applets: stickler_pods::APPLETS.iter().map(|applet| applet.name.to_owned()).collect(),
        bugs: bugs.clone(),
    });
    let proxy = async {
        let proxy = Proxy::start(ProxyConfig {
            client: client(&node.namespace, api, &as_proxy)?,
            node: node.clone(),
            cluster_cidr: CLUSTER_CIDR,
            bugs: bugs.clone(),
        })
        .await?;
        proxy.synced().await;
        anyhow::Ok(proxy)
    };
    let (kubelet, proxy) = tokio::try_join!(kubelet, proxy).with_context(|| format!("node {name}"))?;
    Ok((kubelet, proxy))
}

/// Asks the API server through the cluster IP of `kubernetes`, until it answers.
async fn first_answer(node: &NodeNet, service: &ApiEndpoint, admin: &Credentials) -> anyhow::Result<()> {
    let ready = http::Request::get("/readyz").body(Vec::new())?;
    let client = client(&node.namespace, service, admin)?;
    client.request_text(ready).await.with_context(|| format!("{} from {}", service.address, node.name))?;
    Ok(())
}

/// Creates what cluster DNS is made of: objects like any others, run by the cluster itself.
async fn create_dns(client: &kube::Client, bugs: &Bugs) -> anyhow::Result<()> {
    for manifest in DNS {
        let objects: Vec<DynamicObject> =
            serde_saphyr::from_multiple(manifest).context("the manifest of cluster DNS")?;
        for mut object in objects {
            let types = object.types.clone().context("an object of cluster DNS has no kind")?;
            if bugs.has(Bug::HeadlessIncludesUnready)
                && let Some(command) = object
                    .data
                    .pointer_mut("/spec/template/spec/containers/0/command")
                    .and_then(serde_json::Value::as_array_mut)
            {
                command.push("--unready-too".into());
            }
            let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
            let api: Api<DynamicObject> = match &object.metadata.namespace {
                Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
                None => Api::all_with(client.clone(), &resource),
            };
            api.create(&PostParams::default(), &object).await.with_context(|| types.kind.clone())?;
        }
    }
    Ok(())
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

fn kubeconfig(server: SocketAddr, ca_pem: &str, admin: &Credentials) -> String {
    let encode = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: stickler\n  cluster:\n    server: https://{server}\n    \
         certificate-authority-data: {}\nusers:\n- name: kubernetes-admin\n  user:\n    client-certificate-data: {}\n    \
         client-key-data: {}\ncontexts:\n- name: stickler\n  context:\n    cluster: stickler\n    user: \
         kubernetes-admin\ncurrent-context: stickler\n",
        encode(ca_pem),
        encode(&admin.certificate_pem),
        encode(&admin.key_pem)
    )
}

/// Measures the steps of a start.
struct Clock {
    started: Instant,
    since: Instant,
    step: &'static str,
    steps: Vec<Step>,
}

impl Clock {
    fn new() -> Self {
        let now = Instant::now();
        Self { started: now, since: now, step: "the port of the API server", steps: Vec::new() }
    }

    fn next(&mut self, step: &'static str) {
        self.done();
        self.step = step;
    }

    fn done(&mut self) {
        self.steps.push(Step { name: self.step, took: self.since.elapsed() });
        self.since = Instant::now();
    }
}
