//! Which cluster a command works on.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
#[cfg(target_os = "linux")]
use stickler::providers::components::{Component, Components};
use stickler::providers::{ContainerProvider, K3sProvider, KindProvider, KubeconfigProvider};
use stickler::{ExistingController, Provider};

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
    /// An archive that `stickler image` made, to be loaded into the nodes of `--cluster k3s` and
    /// `--cluster kind`; without it they fetch `--image`.
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) image_archive: Option<PathBuf>,
    /// Plant a bug in the testbed; `stickler list --bugs` names them. May be given several times.
    #[arg(long = "bug", value_name = "NAME", help_heading = "Cluster")]
    pub(crate) bugs: Vec<String>,
    /// Give the testbed a load balancer: services of type `LoadBalancer` get an address on its LAN.
    #[arg(long, help_heading = "Cluster")]
    pub(crate) load_balancer: bool,
    /// Let a command stand in for a component of the testbed: `proxy='kube-proxy --kubeconfig={kubeconfig}'`.
    /// Components are apiserver, controllers, scheduler, proxy and dns. May be given several times.
    #[arg(long = "with", value_name = "COMPONENT=COMMAND", help_heading = "Components", long_help = WITH)]
    pub(crate) with: Vec<String>,
    /// The directory of kube-apiserver, kube-controller-manager, kube-scheduler, kubelet and kube-proxy, for
    /// `--cluster binaries`; etcd, containerd, runc and CNI plugins are taken from there too, or from where
    /// this machine has them.
    #[arg(long, value_name = "DIR", help_heading = "Cluster")]
    pub(crate) bin_dir: Option<PathBuf>,
    /// How the kube-proxy of `--cluster binaries` works.
    #[arg(long, value_enum, default_value = "iptables", help_heading = "Cluster")]
    pub(crate) proxy_mode: ProxyModeName,
    /// The static `stickler-pods` that pods of `--cluster binaries` and of external kubelets run; built if
    /// need be.
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) pods_program: Option<PathBuf>,
    /// Leave a component of the testbed out. May be given several times.
    #[arg(long, value_name = "COMPONENT", help_heading = "Components")]
    pub(crate) without: Vec<String>,
    /// Swap the components of the testbed that a file names; fixtures/components has examples. May be
    /// given several times.
    #[arg(long, value_name = "FILE", help_heading = "Components")]
    pub(crate) components: Vec<PathBuf>,
}

const WITH: &str = "\
Let a command stand in for a component of the testbed: apiserver, controllers, scheduler, proxy (one on each node), \
dns (in the pods of cluster DNS) or ingress (with the network of the last node, of which it is to take port 80 for \
HTTP and 443 for HTTPS; the testbed itself has none, and a run deploys ours). May be given several times.

The command line is split as a shell would, and no shell runs it. It runs as a process of a machine of the testbed, \
with the machine's network and name, processes and /run of its own, and everything else read-only. In it stand

  {kubeconfig}    for the path of a kubeconfig with the component's own identity
  {node}          for the name of the node it runs on
  {node_ip}       for that node's address
  {cluster_cidr}  for the range pod addresses come from
  {service_cidr}  for the range cluster IPs come from
  {dns_ip}        for the cluster IP of cluster DNS
  {dir}           for a folder of its own, in memory, with ca.crt, the kubeconfig and its files

and in that of an ingress controller

  {class}         for the IngressClass it is to serve
  {controller}    for what `spec.controller` of that class says
  {namespace}     for the namespace of its pod and its Service
  {pod}           for the pod that stands for it
  {service}       for the Service in front of it

What it writes is kept in the folder `components` of the report. If it ends, the run could not tell.";

/// A way to get a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProviderName {
    /// A cluster inside this process (Linux).
    Testbed,
    /// A whole Kubernetes from a directory of its binaries, on the testbed's machines (Linux, root).
    Binaries,
    /// A cluster that exists, through its kubeconfig.
    Kubeconfig,
    /// The testbed in a privileged container, where a container engine runs.
    Container,
    /// K3s in a container; its image comes from a registry.
    K3s,
    /// Kind, by the program of that name; its image comes from a registry.
    Kind,
}

/// A mode of kube-proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProxyModeName {
    Iptables,
    /// From Kubernetes 1.29 on.
    Nftables,
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
    /// The image of the agent and the fixtures, where the cluster has it or can pull it; `stickler image`
    /// makes it.
    #[arg(long, value_name = "NAME", default_value = crate::image::NAME, help_heading = "Cluster")]
    pub(crate) image: String,
    /// Any image with a shell and coreutils, where no image of ours can be had: the program is copied into
    /// each pod.
    #[arg(long, value_name = "IMAGE", conflicts_with = "image", help_heading = "Cluster")]
    pub(crate) agent_in: Option<String>,
    /// The program that is copied; this one, if it is static.
    #[arg(long, value_name = "FILE", requires = "agent_in", help_heading = "Cluster")]
    pub(crate) agent_program: Option<PathBuf>,
    /// Call the nodes' internal addresses from this machine, as a host outside the cluster. Only where they
    /// are the cluster's from here too: elsewhere they may be anybody's.
    #[arg(long, help_heading = "Cluster")]
    pub(crate) outside: bool,
    /// Judge the ingress controller that the cluster has, instead of deploying ours: its IngressClass and the
    /// Service in front of it, such as `nginx=ingress-nginx/ingress-nginx-controller`. With
    /// `--profile ingress` it alone is judged.
    #[arg(long, value_name = "CLASS=NAMESPACE/SERVICE", help_heading = "Cluster")]
    pub(crate) ingress: Option<ExistingController>,
}

impl ReachArgs {
    /// The provider of a cluster that exists.
    pub(crate) fn provider(&self) -> anyhow::Result<KubeconfigProvider> {
        let image = self.agent_in.as_ref().unwrap_or(&self.image).clone();
        let provider = KubeconfigProvider::read(self.kubeconfig.as_deref(), self.context.clone(), image)?;
        let programs = match &self.agent_in {
            Some(_) => Some(crate::image::program(self.agent_program.as_deref())?.into()),
            None => None,
        };
        Ok(provider.with_programs(programs).calling_nodes(self.outside).judging_ingress(self.ingress.clone()))
    }
}

impl ClusterArgs {
    /// Whether no part of the cluster is anybody else's.
    pub(crate) fn is_all_ours(&self) -> bool {
        matches!(self.provider, ProviderName::Testbed | ProviderName::Container)
            && self.with.is_empty()
            && self.components.is_empty()
    }

    /// The provider of these arguments, checked before anything is started. For the testbed the
    /// process moves into namespaces of its own, so no thread may exist yet.
    ///
    /// What external components write goes to the folder `components` of a report, if there is one.
    pub(crate) fn provider(
        &self,
        port: u16,
        reach: Option<&ReachArgs>,
        report: Option<&Path>,
    ) -> anyhow::Result<Box<dyn Provider>> {
        if let (Some(directory), false) = (&self.bin_dir, self.provider == ProviderName::Binaries) {
            bail!("`--bin-dir {}` is for `--cluster binaries`; add that to use it", directory.display());
        }
        if let (Some(ReachArgs { ingress: Some(existing), .. }), false) =
            (reach, self.provider == ProviderName::Kubeconfig)
        {
            let class = &existing.class;
            bail!("`--ingress {class}=...` is for `--cluster kubeconfig`; add that to use it");
        }
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
        if !matches!(self.provider, ProviderName::K3s | ProviderName::Kind) {
            for (given, flag) in [
                (self.node_image.is_some(), "--node-image"),
                (self.image_archive.is_some(), "--image-archive"),
            ] {
                if given {
                    bail!("`{flag}` is for `--cluster k3s` and `--cluster kind`; leave it out otherwise");
                }
            }
        }
        if let Some(archive) = &self.image_archive {
            std::fs::metadata(archive)
                .with_context(|| format!("the archive `{}` cannot be read", archive.display()))?;
        }
        let image = reach.map_or(crate::image::NAME, |reach| &reach.image);
        match self.provider {
            ProviderName::Testbed => self.testbed(port, report),
            ProviderName::Binaries => {
                self.testbed_only("binaries")?;
                self.binaries(port, report)
            }
            ProviderName::Container => {
                self.not_swapped("container")?;
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
                let provider = K3sProvider::new(self.node_image.as_deref(), image, port);
                Ok(Box::new(provider.with_archive(self.image_archive.clone())))
            }
            ProviderName::Kind => {
                self.testbed_only("kind")?;
                let nodes = usize::from(self.nodes);
                let provider = KindProvider::new(nodes, self.node_image.as_deref(), image, port)?;
                Ok(Box::new(provider.with_archive(self.image_archive.clone())))
            }
            ProviderName::Kubeconfig => {
                let Some(reach) = reach else { bail!("a cluster that exists is up already") };
                self.testbed_only("kubeconfig")?;
                Ok(Box::new(reach.provider()?))
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
        self.not_swapped(provider)
    }

    /// Says no to what only a testbed in this process can have.
    fn not_swapped(&self, provider: &str) -> anyhow::Result<()> {
        for (given, flag) in [
            (!self.with.is_empty(), "--with"),
            (!self.without.is_empty(), "--without"),
            (!self.components.is_empty(), "--components"),
        ] {
            if given {
                bail!("`{flag}` swaps components of the testbed; leave it out with `--cluster {provider}`");
            }
        }
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn binaries(&self, port: u16, report: Option<&Path>) -> anyhow::Result<Box<dyn Provider>> {
        use stickler::providers::{BinariesProvider, ProxyMode};
        let Some(directory) = &self.bin_dir else {
            bail!("`--cluster binaries` needs `--bin-dir DIR`, a directory of Kubernetes' server binaries");
        };
        let mode = match self.proxy_mode {
            ProxyModeName::Iptables => ProxyMode::Iptables,
            ProxyModeName::Nftables => ProxyMode::Nftables,
        };
        let images = crate::image::of_cluster(self.pods_program.as_deref())?;
        let provider = BinariesProvider::enter(directory, mode, usize::from(self.nodes), port, images)?;
        let provider = provider.with_logs(report.map(|folder| folder.join("components")));
        Ok(Box::new(provider.telling(|step| eprintln!("starting: {step}"))))
    }

    #[cfg(not(target_os = "linux"))]
    fn binaries(&self, _: u16, _: Option<&Path>) -> anyhow::Result<Box<dyn Provider>> {
        bail!("`--cluster binaries` needs Linux namespaces; use `--cluster kubeconfig` on this machine")
    }

    #[cfg(target_os = "linux")]
    fn testbed(&self, port: u16, report: Option<&Path>) -> anyhow::Result<Box<dyn Provider>> {
        use stickler::providers::{TestbedProvider, bugs_named};
        let bugs = bugs_named(&self.bugs)?;
        let components = self.swapped()?;
        let logs = report.map(|folder| folder.join("components"));
        let kubelet = components.replacement(Component::Kubelet);
        let images = kubelet.map(|_| crate::image::of_cluster(self.pods_program.as_deref())).transpose()?;
        let provider = TestbedProvider::enter(usize::from(self.nodes), port, bugs)?;
        let provider = provider.with_load_balancer(self.load_balancer).with_components(components, logs);
        Ok(Box::new(provider.with_images(images)))
    }

    #[cfg(target_os = "linux")]
    fn swapped(&self) -> anyhow::Result<Components> {
        let mut components = Components::default();
        for file in &self.components {
            let name = file.display();
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("the file of components `{name}` cannot be read"))?;
            components.read(&text).with_context(|| format!("`--components {name}`"))?;
        }
        for with in &self.with {
            let (component, command) = with.split_once('=').with_context(|| {
                format!("`--with {with}` has no command; one looks like `--with proxy='kube-proxy --v=2'`")
            })?;
            let swapped = Component::of_name(component).and_then(|known| components.swap(known, command));
            swapped.with_context(|| format!("`--with {component}=...`"))?;
        }
        for component in &self.without {
            let left_out = Component::of_name(component).and_then(|known| components.leave_out(known));
            left_out.with_context(|| format!("`--without {component}`"))?;
        }
        Ok(components)
    }

    #[cfg(not(target_os = "linux"))]
    fn testbed(&self, _: u16, _: Option<&Path>) -> anyhow::Result<Box<dyn Provider>> {
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
