//! Clusters: whatever can be started, or found running, and looked at. Suites know no provider.

use std::fmt;

use futures::future::BoxFuture;
use stickler_model::Promises;
use stickler_reports::ClusterCard;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::bounds::Bounds;

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

    /// A place outside the cluster, if this harness has one.
    fn outside(&self) -> Option<&dyn Outside>;

    /// What only whoever owns the cluster's machines can do to it; nothing if they are somebody's.
    fn disruption(&self) -> Option<&dyn Disruption>;

    /// Does nothing of the cluster outlive this process? Then namespaces need not be cleaned up.
    fn is_ephemeral(&self) -> bool;

    /// A kubeconfig for programs on this machine, if it was made by us.
    fn kubeconfig(&self) -> Option<&str>;
}

/// A place traffic can start from that is no part of the cluster.
pub trait Outside: Send + Sync {
    /// Starts an agent there and returns its standard input and output.
    fn agent(&self) -> anyhow::Result<AgentStream>;
}

/// Stops parts of the control plane as if their processes had died, and starts them again. What is
/// stopped already may be stopped again, and what runs started: both change nothing.
pub trait Disruption: Send + Sync {
    /// Stops the kubelet of a node: no heartbeats, no probes, no restarts, no exec. The processes of
    /// its pods go on and serve.
    fn stop_kubelet<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>>;

    /// Starts it again; it takes up the pods it left.
    fn start_kubelet<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>>;

    /// Stops the API server: it refuses connections, and those there are, are cut.
    fn stop_apiserver(&self) -> BoxFuture<'_, anyhow::Result<()>>;

    /// Starts it again, with everything it knew.
    fn start_apiserver(&self) -> BoxFuture<'_, anyhow::Result<()>>;
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
}

impl Capability {
    /// Every capability there is.
    pub const ALL: &'static [Self] = &[
        Self::SeveralNodes,
        Self::HostNetwork,
        Self::NodesReachable,
        Self::ContainerEngine,
        Self::Disruption,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::SeveralNodes => "several-nodes",
            Self::HostNetwork => "host-network",
            Self::NodesReachable => "nodes-reachable",
            Self::ContainerEngine => "container-engine",
            Self::Disruption => "disruption",
        }
    }

    /// Why a check that needs it was skipped.
    pub fn lacking(self) -> &'static str {
        match self {
            Self::SeveralNodes => "the cluster has only one node",
            Self::HostNetwork => "pods may not use their node's network here",
            Self::NodesReachable => "the nodes' addresses cannot be reached from outside the cluster",
            Self::ContainerEngine => {
                "no container engine that runs programs of this kind answers on this machine"
            }
            Self::Disruption => "the cluster's kubelets and API server are not this harness' to stop",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
