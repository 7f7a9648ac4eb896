//! A cluster that exists, reached through its API only.

use std::path::Path;

use anyhow::{Context as _, bail};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use stickler_model::Promises;
use stickler_reports::{ClusterCard, Timing};
use tokio::time::timeout;

use super::ranges;
use crate::bounds::Bounds;
use crate::cluster::{Capability, Cluster, Disruption, Outside, Provider};

/// Finds a cluster by its kubeconfig.
#[derive(Clone)]
pub struct KubeconfigProvider {
    kubeconfig: Kubeconfig,
    options: KubeConfigOptions,
    image: String,
}

impl KubeconfigProvider {
    /// Reads a kubeconfig: this file, or where kubectl would look.
    ///
    /// # Errors
    /// If there is none, it is no kubeconfig, or it does not have the context.
    pub fn read(file: Option<&Path>, context: Option<String>, image: String) -> anyhow::Result<Self> {
        let kubeconfig = match file {
            Some(file) => Kubeconfig::read_from(file)
                .with_context(|| format!("the kubeconfig `{}` cannot be used", file.display()))?,
            None => Kubeconfig::read()
                .context("no kubeconfig was found; name one with `--kubeconfig FILE` or set KUBECONFIG")?,
        };
        if let Some(wanted) = &context
            && !kubeconfig.contexts.iter().any(|known| known.name == *wanted)
        {
            let known: Vec<&str> = kubeconfig.contexts.iter().map(|context| context.name.as_str()).collect();
            bail!("the kubeconfig has no context `{wanted}`; it has: {}", known.join(", "));
        }
        Ok(Self { kubeconfig, options: KubeConfigOptions { context, ..KubeConfigOptions::default() }, image })
    }

    /// Takes a kubeconfig as it was given out by whoever started the cluster.
    ///
    /// # Errors
    /// If it is none.
    pub(super) fn of_text(text: &str, image: String) -> anyhow::Result<Self> {
        let kubeconfig = Kubeconfig::from_yaml(text).context("what should be a kubeconfig is none")?;
        Ok(Self { kubeconfig, options: KubeConfigOptions::default(), image })
    }
}

impl Provider for KubeconfigProvider {
    fn name(&self) -> &'static str {
        "kubeconfig"
    }

    fn start(&self) -> BoxFuture<'_, anyhow::Result<Box<dyn Cluster>>> {
        async move {
            let started = std::time::Instant::now();
            let config = kube::Config::from_custom_kubeconfig(self.kubeconfig.clone(), &self.options)
                .await
                .context("the kubeconfig cannot be used")?;
            let server = config.cluster_url.to_string();
            let client = kube::Client::try_from(config)?;
            let bound = Bounds::REAL.request;
            let asking = async {
                let version = client.apiserver_version().await?;
                let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
                Ok::<_, kube::Error>((version, nodes.items))
            };
            let asked = timeout(bound, asking).await;
            let asked = asked.with_context(|| format!("`{server}` did not answer within {bound:?}"))?;
            let (version, nodes) =
                asked.with_context(|| format!("`{server}` does not answer as an API server"))?;
            let mut promises = Promises::of_version(&version.git_version)?;
            promises.service_cidr = timeout(bound, ranges::services(&client))
                .await
                .with_context(|| format!("`{server}` did not tell its service range within {bound:?}"))?;
            promises.cluster_cidr = ranges::pods(&nodes);
            let mut capabilities = vec![Capability::HostNetwork];
            if nodes.len() > 1 {
                capabilities.insert(0, Capability::SeveralNodes);
            }
            let took = started.elapsed();
            let card = ClusterCard {
                provider: "kubeconfig".to_owned(),
                version: version.git_version.clone(),
                nodes: nodes.into_iter().filter_map(|node| node.metadata.name).collect(),
                capabilities: capabilities.iter().map(ToString::to_string).collect(),
                ready_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                timings: vec![Timing {
                    step: "start: ask for version, nodes and ranges".to_owned(),
                    us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                }],
            };
            let image = self.image.clone();
            let cluster: Box<dyn Cluster> =
                Box::new(KubeconfigCluster { client, card, capabilities, promises, image });
            Ok(cluster)
        }
        .boxed()
    }
}

struct KubeconfigCluster {
    client: kube::Client,
    card: ClusterCard,
    capabilities: Vec<Capability>,
    promises: Promises,
    image: String,
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

    fn outside(&self) -> Option<&dyn Outside> {
        // Addresses of nodes may belong to networks this harness must not dial.
        None
    }

    fn disruption(&self) -> Option<&dyn Disruption> {
        None
    }

    fn is_ephemeral(&self) -> bool {
        false
    }

    fn kubeconfig(&self) -> Option<&str> {
        None
    }
}
