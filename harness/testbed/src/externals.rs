//! The external commands that stand in for components of one testbed, and what they are given.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::timeout;

use crate::components::{Component, Replacement};
use crate::external::{DIRECTORY, Enclosure, EnclosureSpec, External, Losses, Output, Values};
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
}

/// One component on one machine. In the order they are to go away.
struct Unit {
    program: External,
    _beside: Vec<External>,
}

impl Externals {
    /// None yet. Whole outputs are kept in files of the folder `logs`, if there is one.
    pub(crate) fn new(logs: Option<PathBuf>) -> Self {
        Self { units: BTreeMap::new(), cards: Vec::new(), losses: Losses::none(), logs }
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
        let title = format!("{component} on {}", node.name);
        let values =
            values(Path::new(DIRECTORY)).with("node", &node.name).with("node_ip", node.ip.to_string());
        let own = replacement.files.iter().map(|(path, text)| (path.clone(), values.fill(text)));
        let files = given.files.into_iter().chain(own);
        let spec = EnclosureSpec {
            network: node.namespace.clone(),
            hostname: node.name.clone(),
            private: Vec::new(),
            files: files.map(|(path, text)| (Path::new(DIRECTORY).join(path), text)).collect(),
            hosts: format!("127.0.0.1 localhost\n{} {}\n", node.ip, node.name),
            resolver: format!("nameserver {GATEWAY}\nsearch lan vm\n"),
        };
        let enclosure = Arc::new(Enclosure::open(spec).await.with_context(|| title.clone())?);
        if !self.cards.iter().any(|card| card.component == component) {
            let version = enclosure.version(replacement.command.program()).await;
            self.cards.push(card(component, replacement, version));
        }
        let mut beside = Vec::new();
        for command in &replacement.beside {
            let program = command.program().file_name().unwrap_or_default().to_string_lossy().into_owned();
            let log = format!("{component}-{}-{program}", node.name);
            let title = format!("{program} beside {title}");
            beside.push(self.run(&enclosure, title, command.words(&values), &log).await?);
        }
        let log = format!("{component}-{}", node.name);
        let program = self.run(&enclosure, title, replacement.command.words(&values), &log).await?;
        self.units.insert((component, node.name.clone()), Unit { program, _beside: beside });
        Ok(())
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
            hostname: node.name.clone(),
            private: Vec::new(),
            files: Vec::new(),
            hosts: String::new(),
            resolver: String::new(),
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
            lost = self.lost() => bail!(lost),
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

    /// Waits until a program has ended by itself, and says so.
    pub(crate) async fn lost(&self) -> String {
        let losses = self.losses.more_than(0).await;
        losses.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
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
            // The one is whom others ask, the other has a service account's.
            Component::ApiServer | Component::Dns => ("kubernetes-admin", &["system:masters"]),
        };
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
