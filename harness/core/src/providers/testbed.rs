//! The testbed as a provider: a cluster of this process' own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use stickler_model::Promises;
use stickler_pods::versions;
use stickler_reports::{ClusterCard, ComponentCard, Timing};
use stickler_testbed::bugs::{self, Bugs};
use stickler_testbed::components::{Component, Components};
use stickler_testbed::{ExternalCard, Images, Testbed, TestbedSpec, ingress};

use crate::bounds::Bounds;
use crate::cluster::{
    AgentStream, Capability, Cluster, Disruption, Loss, Machine, Outside, Provider, Terminal,
};
use crate::controller::ExistingController;
use crate::engine::Engine;

/// How many nodes the notes' lab has; their names and addresses are the same here.
const NOTES_NODES: usize = 3;

/// Starts a testbed.
#[derive(Clone, Debug)]
pub struct TestbedProvider {
    spec: TestbedSpec,
}

impl TestbedProvider {
    /// Moves the process into namespaces of its own, where testbeds can be built. To be called in
    /// `main` before any thread exists; testbeds may then be started one after the other.
    ///
    /// # Errors
    /// What the machine does not allow, and what to do about it.
    pub fn enter(nodes: usize, port: u16, bugs: Bugs) -> anyhow::Result<Self> {
        stickler_testbed::enter::enter()?;
        let node_labels = zone_labels(nodes);
        Ok(Self { spec: TestbedSpec { nodes, port, bugs, node_labels, ..TestbedSpec::default() } })
    }

    /// The same with a free port, and without any bug: a testbed for one's own components.
    ///
    /// # Errors
    /// As above.
    pub fn of_nodes(nodes: usize) -> anyhow::Result<Self> {
        Self::enter(nodes, 0, Bugs::default())
    }

    /// With a command of somebody else's in the place of a component: `apiserver`, `controllers`,
    /// `scheduler`, `proxy` (one on each node), `dns` or `ingress`. `stickler run --help` says what may
    /// stand in braces in it, such as `{kubeconfig}` and `{node}`, and where it runs.
    ///
    /// # Errors
    /// If there is no such component, it was replaced before, or the command line cannot be used.
    pub fn with(mut self, component: &str, command: &str) -> anyhow::Result<Self> {
        self.spec.components.swap(Component::of_name(component)?, command)?;
        Ok(self)
    }

    /// With this folder for the whole outputs of commands that stand in for components.
    #[must_use]
    pub fn with_logs(mut self, folder: impl Into<PathBuf>) -> Self {
        self.spec.logs = Some(folder.into());
        self
    }

    /// With an API server that listens on this address of the machine instead of its loopback one.
    #[must_use]
    pub fn listening_on(mut self, address: IpAddr) -> Self {
        self.spec.address = address;
        self
    }

    /// With components of somebody else's; what they write is kept in files of the folder `logs`, if
    /// there is one.
    #[must_use]
    pub fn with_components(mut self, components: Components, logs: Option<PathBuf>) -> Self {
        self.spec.components = components;
        self.spec.logs = logs;
        self
    }

    /// With images for kubelets that are somebody else's.
    #[must_use]
    pub fn with_images(mut self, images: Option<Images>) -> Self {
        self.spec.images = images;
        self
    }

    /// With a load balancer in front of the nodes, or without.
    #[must_use]
    pub fn with_load_balancer(mut self, load_balancer: bool) -> Self {
        self.spec.load_balancer = load_balancer;
        self
    }
}

/// The zones nodes are in, one after the other: what a cloud would say of its machines.
const ZONES: [&str; 2] = ["east", "west"];

/// The labels of nodes that say so.
pub(super) fn zone_labels(nodes: usize) -> Vec<BTreeMap<String, String>> {
    let label = |zone: &&str| [("topology.kubernetes.io/zone".to_owned(), (*zone).to_owned())].into();
    ZONES.iter().cycle().take(nodes).map(label).collect()
}

/// The bugs of these names, as `stickler list --bugs` prints them.
///
/// # Errors
/// Which name there is not, and which ones there are.
pub fn bugs_named(names: &[String]) -> anyhow::Result<Bugs> {
    let find = |name: &String| {
        let card = bugs::all().find(|card| card.id == name).with_context(|| {
            let known: Vec<&str> = bugs::all().map(|card| card.id).collect();
            format!("there is no bug `{name}`; there are: {}", known.join(", "))
        })?;
        Ok(card.bug)
    };
    names.iter().map(find).collect()
}

impl Provider for TestbedProvider {
    fn name(&self) -> &'static str {
        "testbed"
    }

    fn start(&self) -> BoxFuture<'_, anyhow::Result<Box<dyn Cluster>>> {
        async move {
            let (testbed, engine) = tokio::join!(Testbed::start(self.spec.clone()), Engine::find());
            let engine = engine.is_ok_and(|engine| engine.runs_this_program().is_ok());
            let cluster: Box<dyn Cluster> = Box::new(TestbedCluster::new(testbed?, &self.spec, engine)?);
            Ok(cluster)
        }
        .boxed()
    }
}

pub(super) struct TestbedCluster {
    testbed: Testbed,
    client: kube::Client,
    image: String,
    /// Are pods of a real container runtime, so that they cost real time and memory?
    real_pods: bool,
    card: ClusterCard,
    capabilities: Vec<Capability>,
    promises: Promises,
    ingress: Option<ExistingController>,
}

impl TestbedCluster {
    fn new(testbed: Testbed, spec: &TestbedSpec, engine: bool) -> anyhow::Result<Self> {
        let mut more = Vec::new();
        // How others' kubelets are stopped without their pods, nobody knows here.
        if spec.components.is_own(Component::Kubelet) {
            more.push(Capability::Disruption);
        }
        if engine {
            more.push(Capability::ContainerEngine);
        }
        // Somebody else's components print what is theirs.
        if testbed.nodes().len() == NOTES_NODES && testbed.externals().is_empty() {
            more.push(Capability::NotesLab);
        }
        Self::of("testbed", testbed, spec, &more)
    }

    /// Of this provider, which can more than machines and wires can.
    pub(super) fn of(
        provider: &str,
        testbed: Testbed,
        spec: &TestbedSpec,
        more: &[Capability],
    ) -> anyhow::Result<Self> {
        let mut capabilities = vec![Capability::HostNetwork, Capability::NodesReachable];
        capabilities.extend(more);
        if testbed.nodes().len() > 1 {
            capabilities.insert(0, Capability::SeveralNodes);
            capabilities.push(Capability::Zones);
        }
        if spec.load_balancer {
            capabilities.push(Capability::LoadBalancer);
        }
        capabilities.extend(Capability::of_this_machine());
        let micros = |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let left_out = spec.components.left_out().map(not_there);
        let card = ClusterCard {
            provider: provider.to_owned(),
            version: testbed.version().to_owned(),
            nodes: testbed.nodes(),
            capabilities: capabilities.iter().map(ToString::to_string).collect(),
            ready_ms: u64::try_from(testbed.ready().as_millis()).unwrap_or(u64::MAX),
            timings: testbed
                .steps()
                .iter()
                .map(|step| Timing { step: format!("start: {}", step.name), us: micros(step.took) })
                .collect(),
            components: testbed.externals().iter().map(told).chain(left_out).collect(),
        };
        let promises = Promises::of_version(testbed.version())?
            .with_service_cidr(testbed.service_cidr().into())
            .with_cluster_cidr(testbed.cluster_cidr().into());
        // Who else serves the API may serve some kinds in older forms only.
        let client = versions::client(testbed.client());
        let real_pods = !spec.components.is_own(Component::Kubelet);
        let image = spec.images.as_ref().filter(|_| real_pods);
        let image = image.map_or_else(|| "stickler-pods".to_owned(), |images| images.name.clone());
        let ingress = spec.components.replacement(Component::Ingress).map(|_| ExistingController {
            class: ingress::CLASS.to_owned(),
            namespace: ingress::NAMESPACE.to_owned(),
            service: ingress::SERVICE.to_owned(),
        });
        Ok(Self { testbed, client, image, real_pods, card, capabilities, promises, ingress })
    }
}

fn told(external: &ExternalCard) -> ComponentCard {
    ComponentCard {
        component: external.component.to_string(),
        command: Some(external.command.clone()),
        version: external.version.clone(),
    }
}

fn not_there(component: Component) -> ComponentCard {
    ComponentCard { component: component.to_string(), command: None, version: None }
}

impl Cluster for TestbedCluster {
    fn card(&self) -> &ClusterCard {
        &self.card
    }

    fn capabilities(&self) -> &[Capability] {
        &self.capabilities
    }

    fn promises(&self) -> &Promises {
        &self.promises
    }

    fn bounds(&self) -> Bounds {
        if self.real_pods { Bounds::REAL } else { Bounds::TESTBED }
    }

    fn is_measured(&self) -> bool {
        self.real_pods
    }

    fn client(&self) -> kube::Client {
        self.client.clone()
    }

    fn image(&self) -> &str {
        &self.image
    }

    fn ingress_controller(&self) -> Option<&ExistingController> {
        self.ingress.as_ref()
    }

    fn outside(&self) -> Option<&dyn Outside> {
        Some(self)
    }

    fn disruption(&self) -> Option<&dyn Disruption> {
        // Nobody has tried yet what real kubelets make of that.
        (!self.real_pods).then_some(self as &dyn Disruption)
    }

    fn terminal(&self) -> Option<&dyn Terminal> {
        self.capabilities.contains(&Capability::NotesLab).then_some(self)
    }

    fn lost(&self) -> BoxFuture<'_, Loss> {
        let all = |lost: Vec<stickler_testbed::external::Loss>| Loss {
            ending: lost.iter().map(|lost| lost.ending()).collect::<Vec<_>>().join("; "),
            last_words: match lost.as_slice() {
                [one] => one.last_words(),
                several => {
                    format!(": {}", several.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
                }
            },
        };
        self.testbed.lost().map(all).boxed()
    }

    fn is_ephemeral(&self) -> bool {
        // What real pods show otherwise than the notes is told, and not held against them.
        !self.real_pods
    }

    fn kubeconfig(&self) -> Option<&str> {
        Some(self.testbed.kubeconfig())
    }
}

impl Disruption for TestbedCluster {
    fn stop_kubelet<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        self.testbed.stop_kubelet(node).boxed()
    }

    fn start_kubelet<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        self.testbed.start_kubelet(node).boxed()
    }

    fn cut_off<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        self.testbed.cut_off(node).boxed()
    }

    fn reconnect<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        self.testbed.reconnect(node).boxed()
    }

    fn stop_apiserver(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        self.testbed.stop_apiserver().map(Ok).boxed()
    }

    fn start_apiserver(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        self.testbed.start_apiserver().boxed()
    }

    fn programs(&self) -> Vec<(String, String)> {
        let places = self.testbed.external_places().into_iter();
        places.map(|(component, node)| (component.to_string(), node)).collect()
    }

    fn stop_program<'a>(&'a self, component: &'a str, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        async move { self.testbed.stop_external(Component::of_name(component)?, node).await }.boxed()
    }

    fn start_program<'a>(&'a self, component: &'a str, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        async move { self.testbed.start_external(Component::of_name(component)?, node).await }.boxed()
    }
}

impl Terminal for TestbedCluster {
    fn kubeconfig(&self) -> &str {
        self.testbed.kubeconfig_inside()
    }

    fn doors(&self) -> Vec<(String, String)> {
        self.testbed.doors()
    }

    fn folder(&self) -> anyhow::Result<PathBuf> {
        self.testbed.shared_folder().context("there is no folder in memory")
    }

    fn command(
        &self,
        machine: Machine<'_>,
        program: &str,
        arguments: &[String],
    ) -> anyhow::Result<std::process::Command> {
        let machine = match machine {
            Machine::Node(name) => stickler_testbed::Machine::Node(name),
            Machine::Outside => stickler_testbed::Machine::Outside,
        };
        Ok(self.testbed.command(machine, program, arguments)?)
    }
}

impl Outside for TestbedCluster {
    fn agent(&self) -> anyhow::Result<AgentStream> {
        let process = self
            .testbed
            .spawn_outside("agent", &["serve", "--stdio"])
            .context("no process can be started on the client host")?;
        Ok(AgentStream {
            reader: Box::new(process.stdout),
            writer: Box::new(process.stdin),
            keep: Box::new(process.child),
        })
    }
}
