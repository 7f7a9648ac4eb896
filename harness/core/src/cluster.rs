//! Clusters: whatever can be started, or found running, and looked at. Suites know no provider.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use futures::future::BoxFuture;
use stickler_model::Promises;
use stickler_reports::ClusterCard;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::bounds::Bounds;
use crate::controller::ExistingController;

/// Brings a cluster up.
pub trait Provider: Send + Sync {
    /// The name `--cluster` takes.
    fn name(&self) -> &'static str;

    /// Starts the cluster, or finds it. An error says what to do about it.
    fn start(&self) -> BoxFuture<'_, anyhow::Result<Box<dyn Cluster>>>;
}

/// A cluster that runs: what the rest of the harness may touch. Dropping one that we started ends
/// it, and waits until it is gone.
pub trait Cluster: Send + Sync {
    /// What it is, for the report.
    fn card(&self) -> &ClusterCard;

    /// What it can do.
    fn capabilities(&self) -> &[Capability];

    /// What its version and configuration promise.
    fn promises(&self) -> &Promises;

    /// How long things may take here.
    fn bounds(&self) -> Bounds;

    /// A client with the rights of an administrator.
    fn client(&self) -> kube::Client;

    /// The image of the agent and of the fixtures' servers.
    fn image(&self) -> &str;

    /// What is copied into each pod before its containers start, where the image has only a shell: the
    /// program of `fixtures/pods`.
    fn programs(&self) -> Option<Arc<[u8]>> {
        None
    }

    /// A place outside the cluster, if this harness has one.
    fn outside(&self) -> Option<&dyn Outside>;

    /// What only whoever owns the cluster's machines can do to it; nothing if they are somebody's.
    fn disruption(&self) -> Option<&dyn Disruption>;

    /// Waits until a part of the cluster has ended though nobody stopped it. Where nobody can tell, it
    /// waits for ever.
    fn lost(&self) -> BoxFuture<'_, Loss> {
        Box::pin(std::future::pending())
    }

    /// Is it ours alone, and gone with this process? Then nothing need be given back when a run ends.
    fn is_ephemeral(&self) -> bool;

    /// The ingress controller it has already, if a run is to judge that one. Otherwise a run deploys ours.
    fn ingress_controller(&self) -> Option<&ExistingController> {
        None
    }

    /// Where commands can be typed, if it is the notes' lab: three nodes, which are this harness' own.
    fn terminal(&self) -> Option<&dyn Terminal> {
        None
    }

    /// Is it for each run to find out how fast the cluster is? Then its bounds are the most that is
    /// allowed.
    fn is_measured(&self) -> bool {
        false
    }

    /// A kubeconfig for programs on this machine, if it was made by us.
    fn kubeconfig(&self) -> Option<&str>;
}

/// The end of a part of a cluster that nobody stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Which part, and how it ended.
    pub ending: String,
    /// How the sentence goes on: what it said last, and where more of that is.
    pub last_words: String,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.ending, self.last_words)
    }
}

/// A place traffic can start from that is no part of the cluster.
pub trait Outside: Send + Sync {
    /// Starts an agent there and returns its standard input and output.
    fn agent(&self) -> anyhow::Result<AgentStream>;

    /// The only addresses it may call; none if it cannot do any harm.
    fn may_call(&self) -> Option<BTreeSet<IpAddr>> {
        None
    }
}

/// Starts programs as somebody would who sits in front of the machines.
pub trait Terminal: Send + Sync {
    /// A kubeconfig for programs that this process starts.
    fn kubeconfig(&self) -> &str;

    /// A folder where those programs find files, and which goes with this process, however it ends.
    ///
    /// # Errors
    /// If there is none.
    fn folder(&self) -> anyhow::Result<PathBuf>;

    /// How somebody on this machine starts a command in the network of each of the cluster's: the name,
    /// and what the command is to be preceded by.
    fn doors(&self) -> Vec<(String, String)>;

    /// A command that runs one of the programs of pods on a machine.
    ///
    /// # Errors
    /// If there is no such machine or program.
    fn command(
        &self,
        machine: Machine<'_>,
        program: &str,
        arguments: &[String],
    ) -> anyhow::Result<std::process::Command>;
}

/// A machine somebody can sit in front of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine<'a> {
    /// A node, by its name.
    Node(&'a str),
    /// One that is no part of the cluster.
    Outside,
}

/// Stops parts of the control plane as if their processes had died, and starts them again. What is
/// stopped already may be stopped again, and what runs started: both change nothing.
pub trait Disruption: Send + Sync {
    /// Stops the kubelet of a node: no heartbeats, no probes, no restarts, no exec. The processes of
    /// its pods go on and serve.
    fn stop_kubelet<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>>;

    /// Starts it again; it takes up the pods it left.
    fn start_kubelet<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>>;

    /// Cuts a node off from all others: packets to and from it are lost without a word, and what is on it
    /// goes on.
    fn cut_off<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>>;

    /// Connects it again.
    fn reconnect<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>>;

    /// Stops the API server: it refuses connections, and those there are, are cut.
    fn stop_apiserver(&self) -> BoxFuture<'_, anyhow::Result<()>>;

    /// Starts it again, with everything it knew.
    fn start_apiserver(&self) -> BoxFuture<'_, anyhow::Result<()>>;

    /// The programs that stand in for components and can be stopped one by one: the component's name,
    /// and the node it runs on.
    fn programs(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Kills one of them.
    fn stop_program<'a>(&'a self, component: &'a str, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move { bail!("no program is the {component} on `{node}`") })
    }

    /// Starts it again, with everything it had written.
    fn start_program<'a>(&'a self, component: &'a str, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move { bail!("no program is the {component} on `{node}`") })
    }
}

/// A two-way stream to an agent.
pub struct AgentStream {
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// Whatever must live as long as the stream does.
    pub keep: Box<dyn std::any::Any + Send>,
}

/// Something a cluster can or cannot do. A check whose needs are not met is skipped, and the
/// reason is this one's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    /// At least two nodes.
    SeveralNodes,
    /// Pods may use their node's network, so that calls can start from nodes.
    HostNetwork,
    /// This harness can reach the nodes' addresses from outside the cluster.
    NodesReachable,
    /// A container engine runs on this machine.
    ContainerEngine,
    /// This harness may stop kubelets and the API server.
    Disruption,
    /// It is the notes' lab, and programs can be started on its machines.
    NotesLab,
    /// There is a kubectl on PATH.
    Kubectl,
    /// Somebody gives addresses to services of type `LoadBalancer`.
    LoadBalancer,
    /// At least two nodes say that they are in different zones.
    Zones,
    /// The API is that of Kubernetes 1.`minor` or newer. No cluster lists it: its version says so.
    Since(u32),
}

impl Capability {
    /// Every capability there is.
    pub const ALL: &'static [Self] = &[
        Self::SeveralNodes,
        Self::HostNetwork,
        Self::NodesReachable,
        Self::ContainerEngine,
        Self::Disruption,
        Self::NotesLab,
        Self::Kubectl,
        Self::LoadBalancer,
        Self::Zones,
    ];

    /// What this machine can do, whatever the cluster.
    pub(crate) fn of_this_machine() -> impl Iterator<Item = Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let has_kubectl = std::env::split_paths(&path).any(|folder| folder.join("kubectl").is_file());
        has_kubectl.then_some(Self::Kubectl).into_iter()
    }

    /// Does a cluster have it that lists these, and whose version promises this?
    pub fn is_met(self, capabilities: &[Self], promises: &Promises) -> bool {
        match self {
            Self::Since(minor) => promises.minor >= minor,
            listed => capabilities.contains(&listed),
        }
    }

    /// The name in reports.
    pub fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::SeveralNodes => "several-nodes",
            Self::HostNetwork => "host-network",
            Self::NodesReachable => "nodes-reachable",
            Self::ContainerEngine => "container-engine",
            Self::Disruption => "disruption",
            Self::NotesLab => "notes-lab",
            Self::Kubectl => "kubectl",
            Self::LoadBalancer => "load-balancer",
            Self::Zones => "zones",
            Self::Since(minor) => return Cow::Owned(format!("kubernetes-1.{minor}")),
        })
    }

    /// Why a check that needs it was skipped.
    pub fn lacking(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::SeveralNodes => "the cluster has only one node",
            Self::HostNetwork => "pods may not use their node's network here",
            Self::NodesReachable => "the nodes' addresses cannot be reached from outside the cluster",
            Self::ContainerEngine => {
                "no container engine that runs programs of this kind answers on this machine"
            }
            Self::Disruption => "the cluster's kubelets and API server are not this harness' to stop",
            Self::NotesLab => "it is not the notes' lab: three nodes, on which programs can be started",
            Self::Kubectl => "there is no kubectl on PATH",
            Self::LoadBalancer => "nobody is known to give addresses to services of type LoadBalancer here",
            Self::Zones => "the nodes are not labelled as being in different zones",
            Self::Since(minor) => return Cow::Owned(format!("it is promised since Kubernetes 1.{minor}")),
        })
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}
