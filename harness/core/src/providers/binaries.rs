//! A whole real Kubernetes on this machine, from a directory of its upstream binaries: the testbed's machines
//! and wires, and nothing else of it.

use std::path::{Path, PathBuf};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use stickler_testbed::binaries::{Binaries, ProxyMode};
use stickler_testbed::{Images, Testbed, TestbedSpec};

use super::testbed::{TestbedCluster, zone_labels};
use crate::cluster::{Cluster, Provider};

/// Starts a Kubernetes from its binaries.
#[derive(Clone, Debug)]
pub struct BinariesProvider {
    spec: TestbedSpec,
}

impl BinariesProvider {
    /// Looks at a directory and what this machine has beside it, then moves the process into namespaces of
    /// its own, as [`TestbedProvider::enter`](super::TestbedProvider::enter) does.
    ///
    /// # Errors
    /// What is missing, and what to do about it.
    pub fn enter(
        directory: &Path,
        proxy_mode: ProxyMode,
        nodes: usize,
        port: u16,
        images: Images,
    ) -> anyhow::Result<Self> {
        let binaries = Binaries::find(directory, proxy_mode)?;
        let components = binaries.components()?;
        stickler_testbed::enter::enter()?;
        let (node_labels, images) = (zone_labels(nodes), Some(images));
        let spec = TestbedSpec { nodes, port, components, images, node_labels, ..TestbedSpec::default() };
        Ok(Self { spec })
    }

    /// What the programs write is kept in files of the folder `logs`, if there is one.
    #[must_use]
    pub fn with_logs(mut self, logs: Option<PathBuf>) -> Self {
        self.spec.logs = logs;
        self
    }

    /// Is told what a start is at: it takes up to a minute.
    #[must_use]
    pub fn telling(mut self, progress: fn(&'static str)) -> Self {
        self.spec.progress = Some(progress);
        self
    }
}

impl Provider for BinariesProvider {
    fn name(&self) -> &'static str {
        "binaries"
    }

    fn start(&self) -> BoxFuture<'_, anyhow::Result<Box<dyn Cluster>>> {
        async move {
            let testbed = Testbed::start(self.spec.clone()).await?;
            let cluster: Box<dyn Cluster> =
                Box::new(TestbedCluster::of("binaries", testbed, &self.spec, &[])?);
            Ok(cluster)
        }
        .boxed()
    }
}
