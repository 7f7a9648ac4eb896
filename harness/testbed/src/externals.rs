//! The external commands that stand in for components of one testbed, and what they are given.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::FutureExt as _;
use futures::future::try_join_all;
use tokio::time::timeout;

use crate::cgroup::{Cgroups, NodeCgroups};
use crate::components::{Component, Replacement};
use crate::external::{DIRECTORY, Enclosure, EnclosureSpec, External, Loss, Losses, Output, Values};
use crate::ingress;
use crate::kubelet::Exit;
use crate::pki::{Credentials, Pki};
use crate::testbed::{CLUSTER_DNS, kubeconfig};
use crate::topology::{CLUSTER_CIDR, GATEWAY, NodeNet, SERVICE_CIDR};

/// A component that an external command stands in for, for a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalCard {
    pub component: Component,
    /// Its command line, with placeholders.
    pub command: String,
    /// What it says its version is, if it does.
    pub version: Option<String>,
}

/// Everything external that runs.
pub(crate) struct Externals {
    /// By component and machine.
    units: BTreeMap<(Component, String), Unit>,
    cards: Vec<ExternalCard>,
    losses: Losses,
    logs: Option<PathBuf>,
    /// After the programs in them: they are removed when nobody is left in them.
    cgroups: Option<Cgroups>,
}

/// What a kubelet needs beneath it.
struct Beneath {
    cgroups: NodeCgroups,
    images: Arc<[u8]>,
}

/// Where kubelets, container runtimes and their plugins keep what they know, and write logs of containers.
pub(crate) const NODE_FOLDERS: [&str; 2] = ["/var/lib", "/var/log"];
/// How long a container runtime may take to be there and to take the images.
const IMPORT_BOUND: Duration = Duration::from_secs(120);
/// How soon it is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// One component on one machine. In the order they are to go away.
struct Unit {
    program: External,
    _beside: Vec<External>,
}

impl Externals {
    /// None yet. Whole outputs are kept in files of the folder `logs`, if there is one.
    pub(crate) fn new(logs: Option<PathBuf>) -> Self {
        Self { units: BTreeMap::new(), cards: Vec::new(), losses: Losses::none(), logs, cgroups: None }
    }

    /// Starts what stands in for a component on a machine.
    ///
    /// # Errors
    /// If its namespaces cannot be made, or a program cannot be started.
    pub(crate) async fn start(
        &mut self,
        component: Component,
        node: &NodeNet,
        replacement: &Replacement,
        given: Given,
    ) -> anyhow::Result<()> {
        let started = self.unit(component, node, replacement, given, None).await?;
        self.keep(component, node, replacement, started);
        Ok(())
    }

    /// Starts the kubelets of all nodes, and with each what runs its containers, after that has got the
    /// images.
    ///
    /// # Errors
    /// As for [`Externals::start`], or if the images are not taken.
    pub(crate) async fn start_kubelets(
        &mut self,
        nodes: &[NodeNet],
        replacement: &Replacement,
        images: &Arc<[u8]>,
        given: impl Fn(&NodeNet) -> anyhow::Result<Given>,
    ) -> anyhow::Result<()> {
        let groups = Cgroups::make()?;
        let mut starting = Vec::new();
        for node in nodes {
            let beneath = Beneath { cgroups: groups.of_node(&node.name)?, images: Arc::clone(images) };
            let unit = self.unit(Component::Kubelet, node, replacement, given(node)?, Some(beneath));
            starting.push(unit.boxed());
        }
        // Kept first, so that groups outlive their processes also if one of them does not start.
        let started = try_join_all(starting).await;
        self.cgroups = Some(groups);
        for (node, started) in nodes.iter().zip(started?) {
            self.keep(Component::Kubelet, node, replacement, started);
        }
        Ok(())
    }

    fn keep(
        &mut self,
        component: Component,
        node: &NodeNet,
        replacement: &Replacement,
        (unit, version): (Unit, Option<String>),
    ) {
        if !self.cards.iter().any(|card| card.component == component) {
            self.cards.push(card(component, replacement, version));
        }
        self.units.insert((component, node.name.clone()), unit);
    }

    /// What stands in for a component on one machine, and the version it says it has.
    async fn unit(
        &self,
        component: Component,
        node: &NodeNet,
        replacement: &Replacement,
        given: Given,
        beneath: Option<Beneath>,
    ) -> anyhow::Result<(Unit, Option<String>)> {
        let title = format!("{component} on {}", node.name);
        let values = values(Path::new(DIRECTORY))
            .with("node", &node.name)
            .with("node_ip", node.ip.to_string())
            .with("pod_cidr", node.pod_cidr.to_string());
        let values = match component {
            Component::Ingress => ingress::told(values, replacement),
            _ => values,
        };
        let environment = replacement.environment.iter();
        let own = replacement.files.iter().map(|(path, text)| (path.clone(), values.fill(text)));
        let files = given.files.into_iter().chain(own);
        let spec = EnclosureSpec {
            network: node.namespace.clone(),
            root: replacement.root.clone(),
            user: replacement.user,
            environment: environment.map(|(name, value)| (name.clone(), values.fill(value))).collect(),
            hostname: node.name.clone(),
            private: beneath.iter().flat_map(|_| NODE_FOLDERS.iter().map(PathBuf::from)).collect(),
            files: files.map(|(path, text)| (Path::new(DIRECTORY).join(path), text)).collect(),
            hosts: format!("127.0.0.1 localhost\n{} {}\n", node.ip, node.name),
            resolver: format!("nameserver {GATEWAY}\nsearch lan vm\n"),
            cgroups: beneath.as_ref().map(|beneath| beneath.cgroups.clone()),
        };
        let enclosure = Arc::new(Enclosure::open(spec).await.with_context(|| title.clone())?);
        let version = match self.cards.iter().any(|card| card.component == component) {
            true => None,
            false => enclosure.version(replacement.command.program()).await,
        };
        let mut beside = Vec::new();
        for command in &replacement.beside {
            let program = command.program().file_name().unwrap_or_default().to_string_lossy().into_owned();
            let log = format!("{component}-{}-{program}", node.name);
            let title = format!("{program} beside {title}");
            beside.push(self.run(&enclosure, title, command.words(&values), &log).await?);
        }
        if let (Some(Beneath { images, .. }), Some(command)) = (&beneath, &replacement.images) {
            let words = command.words(&values);
            let imported = import(&enclosure, &words, images);
            self.unless_lost(imported).await.with_context(|| format!("the images of {}", node.name))?;
        }
        let log = format!("{component}-{}", node.name);
        let mut program = self.run(&enclosure, title, replacement.command.words(&values), &log).await?;
        if component == Component::Ingress && beside.is_empty() {
            program = program.ending_all();
        }
        Ok((Unit { program, _beside: beside }, version))
    }

    async fn run(
        &self,
        enclosure: &Arc<Enclosure>,
        title: String,
        words: Vec<String>,
        log: &str,
    ) -> anyhow::Result<External> {
        let output = match &self.logs {
            Some(folder) => {
                let path = folder.join(format!("{log}.log"));
                Output::to_file(&path).with_context(|| format!("`{}` cannot be written", path.display()))?
            }
            None => Output::default(),
        };
        let losses = self.losses.clone();
        let started = External::start(Arc::clone(enclosure), title.clone(), words, output, losses).await;
        started.context(title)
    }

    /// Asks a program of pods for its version, on a machine of the lab.
    pub(crate) async fn introduce(
        &mut self,
        component: Component,
        node: &NodeNet,
        replacement: &Replacement,
    ) -> anyhow::Result<()> {
        let spec = EnclosureSpec {
            network: node.namespace.clone(),
            root: None,
            user: None,
            environment: Vec::new(),
            hostname: node.name.clone(),
            private: Vec::new(),
            files: Vec::new(),
            hosts: String::new(),
            resolver: String::new(),
            cgroups: None,
        };
        let enclosure = Enclosure::open(spec).await.with_context(|| component.name())?;
        let version = enclosure.version(replacement.command.program()).await;
        self.cards.push(card(component, replacement, version));
        Ok(())
    }

    pub(crate) fn cards(&self) -> &[ExternalCard] {
        &self.cards
    }

    /// Where each component runs that can be stopped and started.
    pub(crate) fn places(&self) -> impl Iterator<Item = (Component, &str)> {
        self.units.keys().map(|(component, node)| (*component, node.as_str()))
    }

    /// What runs for a component on a machine.
    ///
    /// # Errors
    /// If nothing external does.
    pub(crate) fn find(&self, component: Component, node: &str) -> anyhow::Result<&External> {
        let unit = self.units.get(&(component, node.to_owned()));
        let unit = unit.with_context(|| format!("no external command is the {component} on `{node}`"))?;
        Ok(&unit.program)
    }

    /// Waits for something, unless a program ends by itself meanwhile.
    ///
    /// # Errors
    /// Which program ended, or what went wrong with what was waited for.
    pub(crate) async fn unless_lost<T>(
        &self,
        waiting: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        tokio::select! {
            done = waiting => done,
            lost = self.lost() => {
                bail!(lost.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
            }
        }
    }

    /// Waits for what a component is there for; a program that does not do it is named with its last
    /// words.
    ///
    /// # Errors
    /// As for [`Externals::unless_lost`], or that it took too long.
    pub(crate) async fn meanwhile(
        &self,
        component: Component,
        bound: Duration,
        waiting: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let mine = || self.units.iter().filter(|((known, _), _)| *known == component);
        if mine().next().is_none() {
            // Our own: the start as a whole has a bound.
            return self.unless_lost(waiting).await;
        }
        match timeout(bound, self.unless_lost(waiting)).await {
            Ok(done) => done,
            Err(_) => {
                // What one of them says, the others say too.
                let mut said = String::new();
                if let Some(((component, node), unit)) = mine().next() {
                    let lines = unit.program.last_lines().await;
                    let last = lines.get(lines.len().saturating_sub(2)..).unwrap_or_default().join(" | ");
                    said = format!("; {component} on {node} said last: {last}");
                }
                bail!("not within {bound:?}{said}")
            }
        }
    }

    /// Waits until a program has ended by itself, and says which have.
    pub(crate) async fn lost(&self) -> Vec<Loss> {
        self.losses.more_than(0).await
    }
}

/// Gives the images to the container runtime, as soon as that takes them.
#[expect(clippy::disallowed_methods, reason = "nothing tells when a program is ready to be asked")]
async fn import(enclosure: &Enclosure, words: &[String], images: &Arc<[u8]>) -> anyhow::Result<()> {
    let mut last = String::new();
    let importing = async {
        loop {
            match enclosure.feed(words, images).await? {
                (Exit::Code(0), _) => return Ok(()),
                (_, lines) => last = lines.join(" | "),
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    match timeout(IMPORT_BOUND, importing).await {
        Ok(imported) => imported,
        Err(_) => bail!("not taken within {IMPORT_BOUND:?}; `{}` said last: {last}", words.join(" ")),
    }
}

fn card(component: Component, replacement: &Replacement, version: Option<String>) -> ExternalCard {
    ExternalCard { component, command: replacement.command.to_string(), version }
}

/// What a component's command is given beside its own files.
#[derive(Default)]
pub(crate) struct Given {
    files: Vec<(String, String)>,
}

impl Given {
    /// A kubeconfig with an identity of the component's own, and the authority's certificate.
    ///
    /// # Errors
    /// If no certificate can be made.
    pub(crate) fn identity(component: Component, server: SocketAddr, pki: &Pki) -> anyhow::Result<Self> {
        let (user, groups): (&str, &[&str]) = match component {
            Component::Controllers => ("system:kube-controller-manager", &[]),
            Component::Scheduler => ("system:kube-scheduler", &[]),
            Component::Proxy => ("system:kube-proxy", &["system:node-proxier"]),
            Component::Ingress => (ingress::USER, &[]),
            // Whom others ask, who has a service account's, and who has one for each node.
            Component::ApiServer | Component::Dns | Component::Kubelet => {
                ("kubernetes-admin", &["system:masters"])
            }
        };
        Self::user(user, groups, server, pki)
    }

    /// What a kubelet is given: the identity of its node
    /// ([Using Node Authorization](https://kubernetes.io/docs/reference/access-authn-authz/node/)), and a
    /// certificate to serve with.
    ///
    /// # Errors
    /// If no certificate can be made.
    pub(crate) fn node(node: &NodeNet, server: SocketAddr, pki: &Pki) -> anyhow::Result<Self> {
        let user = format!("system:node:{}", node.name);
        let serving = pki.server(&[node.name.as_str()], &[node.ip.into()])?;
        Ok(Self::user(&user, &["system:nodes"], server, pki)?.with_pair("kubelet", &serving))
    }

    fn user(user: &str, groups: &[&str], server: SocketAddr, pki: &Pki) -> anyhow::Result<Self> {
        let credentials = pki.client(user, groups)?;
        let ca_pem = pki.ca_pem();
        let kubeconfig = kubeconfig(server, &ca_pem, user, &credentials);
        Ok(Self { files: vec![("kubeconfig".to_owned(), kubeconfig), ("ca.crt".to_owned(), ca_pem)] })
    }

    #[must_use]
    pub(crate) fn with(mut self, name: &str, text: impl Into<String>) -> Self {
        self.files.push((name.to_owned(), text.into()));
        self
    }

    #[must_use]
    pub(crate) fn with_pair(self, name: &str, pair: &Credentials) -> Self {
        let Credentials { certificate_pem, key_pem } = pair;
        self.with(&format!("{name}.crt"), certificate_pem).with(&format!("{name}.key"), key_pem)
    }
}

/// What every command is told of the cluster.
pub(crate) fn values(directory: &Path) -> Values {
    Values::default()
        .with("kubeconfig", directory.join("kubeconfig").display().to_string())
        .with("cluster_cidr", CLUSTER_CIDR.to_string())
        .with("service_cidr", SERVICE_CIDR.to_string())
        .with("dns_ip", CLUSTER_DNS.to_string())
        .with("dir", directory.display().to_string())
}
