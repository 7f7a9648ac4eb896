//! A run's stay on a cluster: what it holds of it, the places it looks from, and what it found when it
//! came. However it ends, the cluster is left as it was.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, anyhow};
use futures::future::BoxFuture;
use stickler_model::Promises;
use stickler_reports::{ClusterCard, Event};
use tokio_util::sync::CancellationToken;

use crate::Scene;
use crate::bounds::Bounds;
use crate::claim::{Claim, Spared};
use crate::cluster::{Capability, Cluster, Disruption, Loss, Outside};
use crate::controller::{ExistingController, InUse, Standing};
use crate::image::Copying;
use crate::journal::Sink;
use crate::measure;
use crate::providers::ranges;
use crate::vantage::Vantages;

/// A run on a cluster, from its first namespace to its last.
pub(crate) struct Stay {
    /// The cluster as the run found it.
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) vantages: Arc<Vantages>,
    sink: Sink,
    claim: Claim,
    /// What is to stay when the run is over.
    spared: Mutex<Spared>,
    /// The ingress controller of the run, from when a check first needs one.
    ingress: Arc<Standing>,
    /// Copies programs into pods for as long as the run lasts, if that is needed.
    _copying: Option<Copying>,
}

impl Stay {
    /// Creates the agents and, where bounds are not known beforehand, measures them. When `cancel` is
    /// cancelled, or something fails, nothing stays.
    ///
    /// # Errors
    /// If the agents' namespace or pods are refused, or it was interrupted.
    pub(crate) async fn begin(
        cluster: Arc<dyn Cluster>,
        sink: &Sink,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let claim = Claim::new(cluster.as_ref());
        let ingress = Arc::new(Standing::of_run(claim.run()));
        let copying = cluster.programs().map(|programs| {
            Copying::start(cluster.client(), format!("stickler-{}-", claim.run()), programs, sink)
        });
        let stay = async {
            claim.open().await?;
            Vantages::open(cluster.as_ref(), claim.run(), &claim.agents()).await
        };
        let opened = tokio::select! {
            opened = stay => opened,
            () = cancel.cancelled() => Err(anyhow!("the run was interrupted")),
        };
        let vantages = match opened {
            Ok(vantages) => Arc::new(vantages),
            Err(error) => {
                if !cluster.is_ephemeral() {
                    tell(sink, claim.give_back(&Spared::default()).await);
                }
                return Err(error);
            }
        };
        let (sink, spared) = (sink.clone(), Mutex::default());
        let mut stay = Self { cluster, vantages, sink, claim, spared, ingress, _copying: copying };
        if let Some(reason) = stay.vantages.not_on_nodes() {
            let (capability, reason) = (Capability::HostNetwork.to_string(), reason.to_owned());
            stay.sink.tell(Event::Lacks { capability, reason });
            let mut found = Found::as_promised(Arc::clone(&stay.cluster));
            found.lacks(Capability::HostNetwork);
            stay.cluster = Arc::new(found);
        }
        if stay.cluster.is_measured() {
            tokio::select! {
                () = stay.measure() => {}
                () = cancel.cancelled() => {
                    stay.end().await;
                    return Err(anyhow!("the run was interrupted"));
                }
            }
        }
        Ok(stay)
    }

    /// What tells this run from others.
    pub(crate) fn run(&self) -> &str {
        self.claim.run()
    }

    /// Creates a namespace of the run.
    pub(crate) async fn create_namespace(&self, name: &str) -> anyhow::Result<()> {
        self.claim.create_namespace(name).await
    }

    /// A scene in a namespace that need not exist yet.
    pub(crate) fn scene(&self, check: &'static str, namespace: String) -> Scene {
        Scene {
            check,
            namespace,
            cluster: Arc::clone(&self.cluster),
            vantages: Arc::clone(&self.vantages),
            sink: self.sink.clone(),
            waiting_for: Arc::default(),
            calls: Mutex::new(VecDeque::new()),
            controlled: Mutex::default(),
            ingress: InUse::new(Arc::clone(&self.ingress)),
        }
    }

    /// Deletes a namespace of the run.
    pub(crate) async fn clear(&self, namespace: &str) {
        self.vantages.forget(namespace);
        tell(&self.sink, self.claim.delete_namespace(namespace).await);
    }

    /// Leaves a scene where it is, and what it needs, so that somebody may look at it.
    pub(crate) fn keep(&self, scene: &Scene) {
        self.vantages.forget(&scene.namespace);
        let controller = scene.ingress.namespace();
        let mut spared = self.spared.lock().unwrap_or_else(PoisonError::into_inner);
        spared.is_cluster_wide |= controller.is_some();
        spared.namespaces.extend(controller.into_iter().chain([scene.namespace.clone()]));
    }

    /// Nothing stays, whatever was to be kept.
    pub(crate) fn keep_nothing(&self) {
        *self.spared.lock().unwrap_or_else(PoisonError::into_inner) = Spared::default();
    }

    /// Gives everything back that is not kept, unless the cluster goes away anyway.
    pub(crate) async fn end(&self) {
        if !self.cluster.is_ephemeral() {
            tell(&self.sink, self.give_back().await);
        }
    }

    /// Gives everything back that is not kept, in any case, and waits until it is gone: others may need
    /// the ports that agents on nodes have.
    pub(crate) async fn give_back(&self) -> anyhow::Result<()> {
        self.vantages.close();
        let spared = self.spared.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.claim.give_back(&spared).await
    }

    /// Measures how fast the cluster is; where that cannot be told, the bounds for any cluster hold.
    async fn measure(&mut self) {
        let namespace = format!("stickler-{}-measure", self.run());
        let ceiling = self.cluster.bounds();
        let scene = self.scene("measure", namespace.clone());
        let measuring = async {
            self.create_namespace(&namespace).await.context("no namespace to measure in")?;
            measure::measure(&scene).await
        };
        let measured = measuring.await.unwrap_or_else(|error| {
            tracing::warn!("the bounds could not be measured: {error:#}");
            measure::Measured::failed(format!("{error:#}"))
        });
        let bounds = Bounds::measured(&measured, ceiling);
        self.sink.tell(Event::BoundsMeasured {
            bounds: measured.cards(&bounds),
            trouble: measured.trouble.clone(),
        });
        let mut found = Found::as_promised(Arc::clone(&self.cluster));
        found.bounds = bounds;
        if found.promises.service_cidr.is_none() {
            found.promises.service_cidr = ranges::refused_in(&self.cluster.client(), &namespace).await;
        }
        if let Some(domain) = measured.cluster_domain {
            found.promises.cluster_domain = domain;
        }
        self.cluster = Arc::new(found);
        self.clear(&namespace).await;
    }
}

fn tell(sink: &Sink, ended: anyhow::Result<()>) {
    if let Err(error) = ended {
        sink.tell(Event::Trouble { message: format!("{error:#}") });
    }
}

/// A cluster, and what a run found out about it.
struct Found {
    cluster: Arc<dyn Cluster>,
    capabilities: Vec<Capability>,
    promises: Promises,
    bounds: Bounds,
}

impl Found {
    fn as_promised(cluster: Arc<dyn Cluster>) -> Self {
        let (capabilities, promises) = (cluster.capabilities().to_vec(), cluster.promises().clone());
        let bounds = cluster.bounds();
        Self { cluster, capabilities, promises, bounds }
    }

    fn lacks(&mut self, capability: Capability) {
        self.capabilities.retain(|has| *has != capability);
    }
}

impl Cluster for Found {
    fn card(&self) -> &ClusterCard {
        self.cluster.card()
    }

    fn capabilities(&self) -> &[Capability] {
        &self.capabilities
    }

    fn promises(&self) -> &Promises {
        &self.promises
    }

    fn bounds(&self) -> Bounds {
        self.bounds
    }

    fn client(&self) -> kube::Client {
        self.cluster.client()
    }

    fn image(&self) -> &str {
        self.cluster.image()
    }

    fn programs(&self) -> Option<Arc<[u8]>> {
        self.cluster.programs()
    }

    fn outside(&self) -> Option<&dyn Outside> {
        self.cluster.outside()
    }

    fn disruption(&self) -> Option<&dyn Disruption> {
        self.cluster.disruption()
    }

    fn lost(&self) -> BoxFuture<'_, Loss> {
        self.cluster.lost()
    }

    fn ingress_controller(&self) -> Option<&ExistingController> {
        self.cluster.ingress_controller()
    }

    fn is_ephemeral(&self) -> bool {
        self.cluster.is_ephemeral()
    }

    fn is_measured(&self) -> bool {
        self.cluster.is_measured()
    }

    fn kubeconfig(&self) -> Option<&str> {
        self.cluster.kubeconfig()
    }
}
