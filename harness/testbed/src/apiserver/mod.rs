//! The API server: Kubernetes' own API over TLS, with an in-memory store of versioned objects.

mod admission;
mod allocation;
mod authn;
mod bootstrap;
mod compression;
mod discovery;
mod endpoints;
mod exec;
mod ingress;
mod json;
mod limits;
mod list;
mod names;
mod openapi;
mod patch;
mod pod;
mod protobuf;
mod rbac;
mod registry;
mod request;
mod resources;
mod review;
mod roles;
mod scale;
mod selector;
mod serve;
mod service;
mod status;
mod store;
mod strategic;
mod tables;
mod tls;
mod token;
mod versions;
mod view;
mod warnings;
mod watch;
mod workloads;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use futures::future::BoxFuture;
use ipnet::Ipv4Net;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bugs::Bugs;
use crate::namespace::Listening;
use crate::pki::Pki;

/// How the API server reaches a kubelet: by whatever network its own host has.
pub(crate) type KubeletDial =
    Arc<dyn Fn(SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> + Send + Sync>;

pub(crate) struct ApiServerConfig<'a> {
    pub(crate) pki: &'a Pki,
    /// Where to serve; sockets may belong to any network namespace.
    pub(crate) listeners: Vec<TcpListener>,
    /// The address the `kubernetes` service leads to.
    pub(crate) advertise: SocketAddr,
    /// Further names the serving certificate is good for.
    pub(crate) names: Vec<String>,
    pub(crate) service_cidr: Ipv4Net,
    pub(crate) node_port_range: RangeInclusive<u16>,
    pub(crate) kubelet_dial: KubeletDial,
    /// What `/version` says, such as `v1.37.0`.
    pub(crate) version: String,
    pub(crate) bugs: Bugs,
}

/// A running API server. It stops serving when dropped; its connections end with it.
pub(crate) struct ApiServer {
    shared: Arc<serve::Shared>,
    own: bootstrap::Own,
    running: Option<Running>,
}

struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl ApiServer {
    /// Serves until dropped. Must be called inside a tokio runtime.
    pub(crate) fn start(config: ApiServerConfig<'_>) -> anyhow::Result<Self> {
        let service_ip = first_address(config.service_cidr);
        let mut addresses: BTreeSet<IpAddr> =
            [config.advertise.ip(), IpAddr::V4(service_ip), IpAddr::V4(Ipv4Addr::LOCALHOST)].into();
        for listener in &config.listeners {
            addresses.insert(listener.local_addr().context("an API server's listener is broken")?.ip());
        }
        let names = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
        ];
        let names: Vec<&str> = names.into_iter().chain(config.names.iter().map(String::as_str)).collect();
        let addresses: Vec<IpAddr> = addresses.into_iter().collect();
        let serving = config.pki.server(&names, &addresses).context("no serving certificate")?;
        let kubelet = config
            .pki
            .client("kube-apiserver-kubelet-client", &["system:masters"])
            .context("no certificate towards kubelets")?;
        let ca_pem = config.pki.ca_pem();
        let ranges =
            allocation::Ranges { service_cidr: config.service_cidr, node_ports: config.node_port_range };
        let registry = Arc::new(registry::Registry {
            store: store::Store::new(),
            ranges,
            leaked: Mutex::default(),
            bugs: config.bugs,
        });
        bootstrap::bootstrap(&registry, service_ip, config.advertise)
            .map_err(|status| anyhow::anyhow!("the first objects cannot be made: {status}"))?;
        let shared = Arc::new(serve::Shared {
            registry,
            tls: tls::Tls::new(&ca_pem, &serving)?,
            tokens: token::Tokens::new()?,
            authorizer: rbac::Authorizer::new(),
            kubelets: exec::Kubelets {
                dial: config.kubelet_dial,
                tls: tls::kubelet_client(&ca_pem, &kubelet)?,
            },
            version: config.version,
            budgets: limits::Budgets::new(),
        });
        let own = bootstrap::Own { service_ip, advertise: config.advertise };
        let mut server = Self { shared, own, running: None };
        server.resume(config.listeners)?;
        Ok(server)
    }

    /// Stops serving: listeners and connections are closed when this returns. The store stays.
    pub(crate) async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
            running.tasks.close();
            running.tasks.wait().await;
        }
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.running.is_some()
    }

    /// Serves again, with everything that was in the store.
    pub(crate) fn resume(&mut self, listeners: Vec<TcpListener>) -> anyhow::Result<()> {
        let running = Running { stop: CancellationToken::new(), tasks: TaskTracker::new() };
        for listener in listeners {
            listener.set_nonblocking(true).context("an API server's listener is broken")?;
            let listener =
                tokio::net::TcpListener::from_std(listener).context("an API server's listener is broken")?;
            let accept = serve::accept(
                Arc::clone(&self.shared),
                Listening::new(listener),
                running.tasks.clone(),
                running.stop.clone(),
            );
            running.tasks.spawn(accept);
        }
        let registry = Arc::clone(&self.shared.registry);
        running.tasks.spawn(self.own.keep(registry, running.stop.clone()));
        if let Some(before) = self.running.replace(running) {
            before.stop.cancel();
        }
        Ok(())
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
        }
    }
}

/// The address of the `kubernetes` service: the first one of the range.
fn first_address(range: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(range.network().to_bits().wrapping_add(1))
}

#[cfg(test)]
mod tests;
