//! How one container is stopped: its hook, a request, and then force
//! ([Container Lifecycle Hooks](https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/)).

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use tokio::time::{Instant, timeout, timeout_at};

use super::container::{Container, ExecSpec};
use super::node::Node;
use super::probe;

/// A container to be stopped.
pub(crate) struct Stop {
    pub(crate) node: Arc<Node>,
    pub(crate) container: Container,
    pub(crate) spec: core::Container,
    /// The pod's, for hooks that ask over the network.
    pub(crate) address: Ipv4Addr,
    pub(crate) deadline: Instant,
}

impl Stop {
    /// Lets the container end by itself: first its hook, then SIGTERM.
    pub(crate) async fn ask(&self) {
        if let Some(hook) = self.spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()) {
            let _ = timeout_at(self.deadline, self.run(hook)).await;
        }
        self.signal(libc::SIGTERM);
    }

    /// The same, and SIGKILL when the time is over.
    pub(crate) async fn ask_and_force(&self) {
        self.ask().await;
        if timeout_at(self.deadline, self.container.process().wait()).await.is_err() {
            self.signal(libc::SIGKILL);
        }
    }

    async fn run(&self, hook: &core::LifecycleHandler) {
        let Self { node, container, .. } = self;
        let failed = |error: &dyn std::fmt::Display| {
            tracing::warn!(%error, container = self.spec.name, "preStop hook failed");
        };
        if let Some(exec) = &hook.exec {
            let command = exec.command.clone().unwrap_or_default();
            match node.runtime.exec(container, ExecSpec { command, ..ExecSpec::default() }).await {
                Ok(session) => drop(session.process.wait().await),
                Err(error) => failed(&error),
            }
        } else if let Some(get) = &hook.http_get {
            if let Err(error) = probe::call(node, self.address, &self.spec, get).await {
                failed(&error);
            }
        } else if let Some(pause) = &hook.sleep {
            let length = Duration::from_secs(pause.seconds.max(0).unsigned_abs());
            // A container that ends meanwhile needs no more rest.
            let _ = timeout(length, container.process().wait()).await;
        }
    }

    fn signal(&self, signal: i32) {
        if let Err(error) = self.container.process().signal(signal) {
            tracing::warn!(%error, signal, container = self.spec.name, "cannot signal a container");
        }
    }
}
