//! A cluster that exists, reached through its API only.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use stickler_model::Promises;
use stickler_pods::versions::{self, Served};
use stickler_reports::{ClusterCard, ComponentCard, Timing};

use super::ranges;
use crate::bounds::Bounds;
use crate::cluster::{AgentStream, Capability, Cluster, Disruption, Outside, Provider};
use crate::controller::ExistingController;
use crate::{rights, wait};

/// Finds a cluster by its kubeconfig.
#[derive(Clone)]
pub struct KubeconfigProvider {
    access: Access,
    image: String,
    programs: Option<Arc<[u8]>>,
    calls_nodes: bool,
    ingress: Option<ExistingController>,
}

#[derive(Clone)]
enum Access {
    File(Box<Kubeconfig>, KubeConfigOptions),
    /// As the service account of the pod this process runs in.
    Pod,
}

impl KubeconfigProvider {
    /// Reads a kubeconfig: this file, or where kubectl would look. In a pod without one it is the pod's
    /// service account that is used.
    ///
    /// # Errors
    /// If there is none, it is no kubeconfig, or it does not have the context.
    pub fn read(file: Option<&Path>, context: Option<String>, image: String) -> anyhow::Result<Self> {
        let kubeconfig = match file {
            Some(file) => Kubeconfig::read_from(file)
                .with_context(|| format!("the kubeconfig `{}` cannot be used", file.display()))?,
            None => match Kubeconfig::read() {
                Ok(kubeconfig) => kubeconfig,
                Err(_) if context.is_none() && kube::Config::incluster().is_ok() => {
                    return Ok(Self::of(Access::Pod, image));
                }
                Err(error) => {
                    return Err(error).context(
                        "no kubeconfig was found; name one with `--kubeconfig FILE` or set KUBECONFIG",
                    );
                }
            },
        };
        if let Some(wanted) = &context
            && !kubeconfig.contexts.iter().any(|known| known.name == *wanted)
        {
            let known: Vec<&str> = kubeconfig.contexts.iter().map(|context| context.name.as_str()).collect();
            bail!("the kubeconfig has no context `{wanted}`; it has: {}", known.join(", "));
        }
        let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
        let access = Access::File(Box::new(kubeconfig), options);
        Ok(Self::of(access, image))
    }

    fn of(access: Access, image: String) -> Self {
        Self { access, image, programs: None, calls_nodes: false, ingress: None }
    }

    /// Takes a kubeconfig as it was given out by whoever started the cluster.
    ///
    /// # Errors
    /// If it is none.
    pub(super) fn of_text(text: &str, image: String) -> anyhow::Result<Self> {
        let kubeconfig = Kubeconfig::from_yaml(text).context("what should be a kubeconfig is none")?;
        let access = Access::File(Box::new(kubeconfig), KubeConfigOptions::default());
        Ok(Self::of(access, image))
    }

    /// With an image that has a shell only, into whose pods these programs are copied.
    #[must_use]
    pub fn with_programs(self, programs: Option<Arc<[u8]>>) -> Self {
        Self { programs, ..self }
    }

    /// With a place outside the cluster, which is this machine: it calls the nodes' addresses, and must
    /// be asked for, since they may belong to anybody elsewhere.
    #[must_use]
    pub fn calling_nodes(self, calls_nodes: bool) -> Self {
        Self { calls_nodes, ..self }
    }

    /// With an ingress controller of the cluster, which runs are to judge.
    #[must_use]
    pub fn judging_ingress(self, ingress: Option<ExistingController>) -> Self {
        Self { ingress, ..self }
    }

    /// The address of the API server, and a client for it that speaks the newest form of every kind.
    ///
    /// # Errors
    /// If the kubeconfig cannot be used.
    pub async fn client(&self) -> anyhow::Result<(String, kube::Client)> {
        let config = match &self.access {
            Access::File(kubeconfig, options) => {
                kube::Config::from_custom_kubeconfig(kubeconfig.as_ref().clone(), options)
                    .await
                    .context("the kubeconfig cannot be used")?
            }
            Access::Pod => kube::Config::incluster().context("the pod's service account cannot be used")?,
        };
        let server = config.cluster_url.to_string();
        Ok((server, versions::client(kube::Client::try_from(config)?)))
    }

    async fn find(&self) -> anyhow::Result<KubeconfigCluster> {
        let mut steps = Steps { since: Instant::now(), timings: Vec::new() };
        let (server, client) = self.client().await?;
        let bound = Bounds::REAL.request;
        let ask = || format!("find out what `{server}` is");
        let version = wait::within(bound, &ask(), client.apiserver_version()).await?;
        let mut promises = Promises::of_version(&version.git_version)?;
        steps.done("ask for the version");
        rights::insist(&client).await?;
        steps.done("ask for every right a run needs");
        let nodes = Api::<Node>::all(client.clone());
        let nodes = wait::within(bound, "list the nodes", nodes.list(&ListParams::default())).await?.items;
        promises.service_cidr = ranges::services(&client).await;
        promises.cluster_cidr = ranges::pods(&nodes);
        if let Some(range) = ranges::node_ports(&client).await {
            promises.node_port_range = range;
        }
        promises.internal_traffic_policy &= ranges::keeps_internal_traffic_policy(&client).await;
        steps.done("ask for nodes, ranges and features");
        let served = wait::within(bound, "ask for the versions of kinds", versions::served(&client)).await?;
        insist_on_slices(&served)?;
        steps.done("ask for the versions of kinds");

        let mut capabilities = vec![Capability::HostNetwork];
        if nodes.len() > 1 {
            capabilities.insert(0, Capability::SeveralNodes);
        }
        let zone = |node: &Node| node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").cloned();
        if nodes.iter().filter_map(zone).collect::<BTreeSet<_>>().len() > 1 {
            capabilities.push(Capability::Zones);
        }
        let outside = self.calls_nodes.then(|| ThisMachine { nodes: addresses(&nodes) });
        if outside.is_some() {
            capabilities.push(Capability::NodesReachable);
        }
        let ready = steps.timings.iter().map(|timing| timing.us).sum::<u64>();
        let card = ClusterCard {
            provider: "kubeconfig".to_owned(),
            version: version.git_version.clone(),
            nodes: nodes.into_iter().filter_map(|node| node.metadata.name).collect(),
            capabilities: capabilities.iter().map(ToString::to_string).collect(),
            ready_ms: ready / 1000,
            timings: steps.timings,
            components: self.ingress.iter().map(judged).collect(),
        };
        let (image, programs, ingress) = (self.image.clone(), self.programs.clone(), self.ingress.clone());
        Ok(KubeconfigCluster { client, card, capabilities, promises, image, programs, outside, ingress })
    }
}

/// The controller that is judged, which is not ours; nobody asks it for its version.
fn judged(ingress: &ExistingController) -> ComponentCard {
    ComponentCard { component: "ingress".to_owned(), command: Some(ingress.to_string()), version: None }
}

/// A cluster without EndpointSlices is not one whose services can be checked.
fn insist_on_slices(served: &Served) -> anyhow::Result<()> {
    let lacking: Vec<&str> =
        served.kinds().filter(|(_, served)| served.is_none()).map(|(kind, _)| kind).collect();
    if lacking.contains(&"endpointslices") {
        bail!("the API server serves no EndpointSlices, neither as discovery.k8s.io/v1 nor as v1beta1");
    }
    if !lacking.is_empty() {
        tracing::warn!("the API server does not serve {}", lacking.join(", "));
    }
    Ok(())
}

/// How long each step of finding a cluster took.
struct Steps {
    since: Instant,
    timings: Vec<Timing>,
}

impl Steps {
    fn done(&mut self, step: &str) {
        let took: Duration = self.since.elapsed();
        self.since = Instant::now();
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.timings.push(Timing { step: format!("start: {step}"), us });
    }
}

impl Provider for KubeconfigProvider {
    fn name(&self) -> &'static str {
        "kubeconfig"
    }

    fn start(&self) -> BoxFuture<'_, anyhow::Result<Box<dyn Cluster>>> {
        async move {
            let cluster: Box<dyn Cluster> = Box::new(self.find().await?);
            Ok(cluster)
        }
        .boxed()
    }
}

/// This machine as a host outside the cluster.
struct ThisMachine {
    nodes: BTreeSet<IpAddr>,
}

/// The internal addresses of nodes.
fn addresses(nodes: &[Node]) -> BTreeSet<IpAddr> {
    let of = |node: &Node| node.status.clone().unwrap_or_default().addresses.unwrap_or_default();
    let internal = nodes.iter().flat_map(of).filter(|address| address.type_ == "InternalIP");
    internal.filter_map(|address| address.address.parse().ok()).collect()
}

impl Outside for ThisMachine {
    fn agent(&self) -> anyhow::Result<AgentStream> {
        let program = std::env::current_exe().context("this program cannot be found")?;
        let mut command = tokio::process::Command::new(program);
        // Under this name it is the agent.
        command.arg0("agent").args(["serve", "--stdio"]).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("the agent cannot be started")?;
        let reader = child.stdout.take().context("the agent has no standard output")?;
        let writer = child.stdin.take().context("the agent has no standard input")?;
        Ok(AgentStream { reader: Box::new(reader), writer: Box::new(writer), keep: Box::new(child) })
    }

    fn may_call(&self) -> Option<BTreeSet<IpAddr>> {
        Some(self.nodes.clone())
    }
}

struct KubeconfigCluster {
    client: kube::Client,
    card: ClusterCard,
    capabilities: Vec<Capability>,
    promises: Promises,
    image: String,
    programs: Option<Arc<[u8]>>,
    outside: Option<ThisMachine>,
    ingress: Option<ExistingController>,
}

impl Cluster for KubeconfigCluster {
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
        Bounds::REAL
    }

    fn client(&self) -> kube::Client {
        self.client.clone()
    }

    fn image(&self) -> &str {
        &self.image
    }

    fn programs(&self) -> Option<Arc<[u8]>> {
        self.programs.clone()
    }

    fn outside(&self) -> Option<&dyn Outside> {
        let outside: &dyn Outside = self.outside.as_ref()?;
        Some(outside)
    }

    fn disruption(&self) -> Option<&dyn Disruption> {
        None
    }

    fn ingress_controller(&self) -> Option<&ExistingController> {
        self.ingress.as_ref()
    }

    fn is_ephemeral(&self) -> bool {
        false
    }

    fn is_measured(&self) -> bool {
        true
    }

    fn kubeconfig(&self) -> Option<&str> {
        None
    }
}
