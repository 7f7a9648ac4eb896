//! A real cluster that was started for this run alone: used through its kubeconfig, and ended with it.

use std::any::Any;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use futures::future::BoxFuture;
use kube::config::Kubeconfig;
use stickler_model::Promises;
use stickler_reports::ClusterCard;

use super::KubeconfigProvider;
use crate::bounds::Bounds;
use crate::cluster::{Capability, Cluster, Disruption, Loss, Outside, Provider as _};

/// See the module.
pub(super) struct Own {
    cluster: Box<dyn Cluster>,
    card: ClusterCard,
    kubeconfig: String,
    /// What the cluster runs on; dropping it ends the cluster.
    _machines: Box<dyn Any + Send + Sync>,
}

impl Own {
    /// Looks at the cluster through its kubeconfig.
    ///
    /// # Errors
    /// If it cannot be used; it is ended then.
    pub(super) async fn of(
        provider: &str,
        kubeconfig: String,
        image: &str,
        machines: impl Any + Send + Sync,
    ) -> anyhow::Result<Box<dyn Cluster>> {
        let cluster = KubeconfigProvider::of_text(&kubeconfig, image.to_owned())?.start().await?;
        let card = ClusterCard { provider: provider.to_owned(), ..cluster.card().clone() };
        Ok(Box::new(Self { cluster, card, kubeconfig, _machines: Box::new(machines) }))
    }
}

/// A kubeconfig of one cluster, with its API server at another address.
pub(super) fn at(kubeconfig: &str, server: &str) -> anyhow::Result<String> {
    let read = Kubeconfig::from_yaml(kubeconfig).context("what should be a kubeconfig is none")?;
    let [cluster] = read.clusters.as_slice() else { bail!("the kubeconfig does not name one cluster") };
    let known = cluster.cluster.as_ref().and_then(|cluster| cluster.server.as_deref());
    Ok(kubeconfig.replace(known.context("the kubeconfig names no server")?, server))
}

impl Cluster for Own {
    fn card(&self) -> &ClusterCard {
        &self.card
    }

    fn capabilities(&self) -> &[Capability] {
        self.cluster.capabilities()
    }

    fn promises(&self) -> &Promises {
        self.cluster.promises()
    }

    fn bounds(&self) -> Bounds {
        self.cluster.bounds()
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

    fn is_measured(&self) -> bool {
        self.cluster.is_measured()
    }

    fn lost(&self) -> BoxFuture<'_, Loss> {
        self.cluster.lost()
    }

    fn outside(&self) -> Option<&dyn Outside> {
        self.cluster.outside()
    }

    fn disruption(&self) -> Option<&dyn Disruption> {
        self.cluster.disruption()
    }

    fn is_ephemeral(&self) -> bool {
        // It goes away in the end, but what it cannot do is no fault of ours.
        self.cluster.is_ephemeral()
    }

    fn kubeconfig(&self) -> Option<&str> {
        Some(&self.kubeconfig)
    }
}

#[cfg(test)]
mod tests {
    use super::at;

    const CONFIG: &str = "apiVersion: v1\nkind: Config\nclusters:\n- name: a\n  cluster:\n    server: \
                          https://0.0.0.0:6443\n";

    #[test]
    fn the_server_of_a_kubeconfig_is_replaced() {
        let moved = at(CONFIG, "https://127.0.0.1:32768").expect("it is a kubeconfig");
        assert_eq!(moved, CONFIG.replace("https://0.0.0.0:6443", "https://127.0.0.1:32768"));
    }

    #[test]
    fn a_kubeconfig_of_no_cluster_is_refused() {
        let refused = |text: &str| at(text, "https://127.0.0.1:1").map_err(|error| error.to_string());
        assert_eq!(
            refused("apiVersion: v1\nkind: Config\n"),
            Err("the kubeconfig does not name one cluster".to_owned())
        );
        assert_eq!(refused("- 1"), Err("what should be a kubeconfig is none".to_owned()));
    }
}
