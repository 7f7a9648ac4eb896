//! Which cluster a command works on.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use stickler::Provider;
use stickler::providers::{ContainerProvider, K3sProvider, KindProvider, KubeconfigProvider};

/// What the image of the agent and the fixtures is called unless it is said.
const IMAGE: &str = "stickler-pods";

/// Which cluster to use.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClusterArgs {
    /// Where the cluster comes from.
    #[arg(long = "cluster", value_enum, default_value = "testbed", help_heading = "Cluster")]
    pub(crate) provider: ProviderName,
    /// How many nodes a cluster of our own has.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50), help_heading = "Cluster")]
    pub(crate) nodes: u8,
    /// A static Linux executable of stickler for `--cluster container`, where this one cannot run in a
    /// container, as on macOS and Windows.
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) binary: Option<PathBuf>,
    /// The image of nodes for `--cluster k3s` and `--cluster kind`, and with it the version of
    /// Kubernetes, such as `rancher/k3s:v1.33.1-k3s1`.
    #[arg(long, value_name = "NAME", help_heading = "Cluster")]
    pub(crate) node_image: Option<String>,
    /// Plant a bug in the testbed; `stickler list --bugs` names them. May be given several times.
    #[arg(long = "bug", value_name = "NAME", help_heading = "Cluster")]
    pub(crate) bugs: Vec<String>,
    /// Give the testbed a load balancer: services of type `LoadBalancer` get an address on its LAN.
    #[arg(long, help_heading = "Cluster")]
    pub(crate) load_balancer: bool,
}

/// A way to get a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProviderName {
    /// A cluster inside this process (Linux).
    Testbed,
    /// A cluster that exists, through its kubeconfig.
    Kubeconfig,
    /// The testbed in a privileged container, where a container engine runs.
    Container,
    /// K3s in a container; its image comes from a registry.
    K3s,
    /// Kind, by the program of that name; its image comes from a registry.
    Kind,
}

/// How to reach a cluster that exists.
#[derive(Args, Clone, Debug)]
pub(crate) struct ReachArgs {
    /// The kubeconfig of the cluster; without it, $KUBECONFIG and ~/.kube/config are tried.
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig; without it, its current one.
    #[arg(long, value_name = "NAME", help_heading = "Cluster")]
    pub(crate) context: Option<String>,
    /// The image of the agent and the fixtures, where the cluster can pull it.
    #[arg(long, value_name = "NAME", default_value = IMAGE, help_heading = "Cluster")]
    pub(crate) image: String,
}

impl ClusterArgs {
    /// The provider of these arguments, checked before anything is started. For the testbed the
    /// process moves into namespaces of its own, so no thread may exist yet.
    pub(crate) fn provider(&self, port: u16, reach: Option<&ReachArgs>) -> anyhow::Result<Box<dyn Provider>> {
        if let (Some(ReachArgs { kubeconfig: Some(file), .. }), false) =
            (reach, self.provider == ProviderName::Kubeconfig)
        {
            bail!(
                "`--kubeconfig {}` names a cluster that exists; add `--cluster kubeconfig` to use it",
                file.display()
            );
        }
        if self.binary.is_some() && self.provider != ProviderName::Container {
            bail!("`--binary` is what `--cluster container` runs; leave it out otherwise");
        }
        if self.node_image.is_some() && !matches!(self.provider, ProviderName::K3s | ProviderName::Kind) {
            bail!("`--node-image` is for `--cluster k3s` and `--cluster kind`; leave it out otherwise");
        }
        match self.provider {
            ProviderName::Testbed => self.testbed(port),
            ProviderName::Container => {
                let nodes = usize::from(self.nodes);
                let provider = ContainerProvider::new(nodes, self.bugs.clone(), self.load_balancer);
                let provider = provider.published_at(port);
                Ok(match &self.binary {
                    Some(binary) => Box::new(provider.run_by(binary.clone())),
                    None => Box::new(provider),
                })
            }
            ProviderName::K3s => {
                self.testbed_only("k3s")?;
                let image = reach.map_or(IMAGE, |reach| &reach.image);
                Ok(Box::new(K3sProvider::new(self.node_image.as_deref(), image, port)))
            }
            ProviderName::Kind => {
                self.testbed_only("kind")?;
                let image = reach.map_or(IMAGE, |reach| &reach.image);
                let nodes = usize::from(self.nodes);
                Ok(Box::new(KindProvider::new(nodes, self.node_image.as_deref(), image, port)?))
            }
            ProviderName::Kubeconfig => {
                let Some(reach) = reach else { bail!("a cluster that exists is up already") };
                self.testbed_only("kubeconfig")?;
                let provider = KubeconfigProvider::read(
                    reach.kubeconfig.as_deref(),
                    reach.context.clone(),
                    reach.image.clone(),
                )?;
                Ok(Box::new(provider))
            }
        }
    }

    /// Says no to what only a testbed can have.
    fn testbed_only(&self, provider: &str) -> anyhow::Result<()> {
        if !self.bugs.is_empty() {
            bail!("`--bug` plants bugs in the testbed only; leave it out with `--cluster {provider}`");
        }
        if self.load_balancer {
            bail!("`--load-balancer` is for the testbed; leave it out with `--cluster {provider}`");
        }
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn testbed(&self, port: u16) -> anyhow::Result<Box<dyn Provider>> {
        use stickler::providers::{TestbedProvider, bugs_named};
        let provider = TestbedProvider::enter(usize::from(self.nodes), port, bugs_named(&self.bugs)?)?;
        Ok(Box::new(provider.with_load_balancer(self.load_balancer)))
    }

    #[cfg(not(target_os = "linux"))]
    fn testbed(&self, _: u16) -> anyhow::Result<Box<dyn Provider>> {
        bail!(
            "the testbed needs Linux namespaces; use `--cluster container` where a container engine runs, or \
             `--cluster kubeconfig`"
        )
    }
}

/// A tokio runtime for the rest of the command; made after the namespaces, whose threads it shares.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime can be started")
}
