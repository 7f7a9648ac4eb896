//! The testbed in a privileged container: for machines that have no Linux namespaces of their own, but
//! a container engine, as macOS and Windows have.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, anyhow};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use stickler_model::Promises;
use stickler_reports::{ClusterCard, Timing};
use testcontainers_modules::testcontainers::ImageExt as _;
use testcontainers_modules::testcontainers::bollard::container::{AttachContainerResults, LogOutput};
use testcontainers_modules::testcontainers::bollard::query_parameters::AttachContainerOptionsBuilder;
use testcontainers_modules::testcontainers::core::IntoContainerPort as _;
use tokio::time::timeout;
use tokio_util::io::StreamReader;

use super::own::at;
use super::tether::{Tether, Wanted};
use crate::bounds::Bounds;
use crate::cluster::{Capability, Cluster, Disruption, Outside, Provider};
use crate::engine::{Belongings, Engine, Program, STARTS, leave_nothing, publish};

/// The API server's port in the container.
const PORT: u16 = 6443;
/// How much of what the container complains about is kept, in bytes.
const COMPLAINTS: usize = 2000;

/// Starts a testbed in a container of this machine's engine.
#[derive(Clone, Debug)]
pub struct ContainerProvider {
    wanted: Wanted,
    /// Where on this machine the API server is published; 0 takes a free port.
    published: u16,
    program: Program,
}

impl ContainerProvider {
    /// A testbed of so many nodes; bugs are those of `stickler list --bugs`.
    pub fn new(nodes: usize, bugs: Vec<String>, load_balancer: bool) -> Self {
        // The engine forwards to an address of the container that is not its loopback one.
        let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
        let wanted = Wanted { nodes, bugs, load_balancer, listen };
        Self { wanted, published: 0, program: Program::Running }
    }

    /// Published at this port of 127.0.0.1; 0 takes a free one.
    #[must_use]
    pub fn published_at(self, port: u16) -> Self {
        Self { published: port, ..self }
    }

    /// Run by this executable instead of the one that runs.
    #[must_use]
    pub fn run_by(self, binary: PathBuf) -> Self {
        Self { program: Program::File(binary), ..self }
    }

    async fn start_now(&self) -> anyhow::Result<ContainerCluster> {
        let started = std::time::Instant::now();
        let mut timings = Vec::new();
        let mut step = |name: &str| {
            let until = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            let before: u64 = timings.iter().map(|timing: &Timing| timing.us).sum();
            timings.push(Timing { step: format!("start: {name}"), us: until.saturating_sub(before) });
        };
        let engine = Engine::find().await?;
        if self.program == Program::Running {
            let advice = "name a static Linux executable of stickler with `--binary FILE`";
            engine.runs_this_program().context(advice)?;
        }
        let mut belongings = engine.belongings();
        let image = engine.image(&self.program, &belongings).await?;
        step("image");
        let published = self.published;
        let request = image
            .with_exposed_port(PORT.tcp())
            .with_cmd(["testbed"])
            .with_privileged(true)
            .with_open_stdin(true)
            .with_host_config_modifier(move |host| {
                publish(host, published, PORT);
                leave_nothing(host);
            });
        let container = belongings.start(request).await?;
        let (id, address) = belongings.keep(container, PORT).await?;
        step("container");
        let options =
            AttachContainerOptionsBuilder::new().stdin(true).stdout(true).stderr(true).stream(true).build();
        let attached = engine.docker().attach_container(&id, Some(options)).await;
        let AttachContainerResults { output, input } =
            attached.with_context(|| format!("nobody can be attached to container {id:.12}"))?;
        let complaints = Arc::<Mutex<String>>::default();
        let heard = Arc::clone(&complaints);
        let said = output.filter_map(move |said| {
            let line = match said {
                Ok(LogOutput::StdOut { message }) => Some(Ok(message)),
                Ok(LogOutput::StdErr { message }) => {
                    complain(&heard, &String::from_utf8_lossy(&message));
                    None
                }
                Ok(_) => None,
                Err(error) => Some(Err(std::io::Error::other(error))),
            };
            futures::future::ready(line)
        });
        let tied = timeout(STARTS, Tether::tie(StreamReader::new(said), input, self.wanted.clone())).await;
        let tied = tied.unwrap_or_else(|_| Err(anyhow!("it was not ready within {STARTS:?}")));
        let (tether, lent) = tied.with_context(|| {
            let complaints = complaints.lock().unwrap_or_else(PoisonError::into_inner);
            let last = complaints.trim();
            let last = if last.is_empty() { String::new() } else { format!(" (it said: {last})") };
            format!("the testbed in container {id:.12} did not start{last}")
        })?;
        let kubeconfig = at(&lent.kubeconfig, &format!("https://{address}"))?;
        let read = Kubeconfig::from_yaml(&kubeconfig)?;
        let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
        let client = kube::Client::try_from(config)?;
        step("testbed");
        timings.extend(lent.card.timings.iter().cloned());
        let mut capabilities = lent.capabilities();
        capabilities.push(Capability::ContainerEngine);
        capabilities.extend(Capability::of_this_machine());
        let card = ClusterCard {
            provider: "container".to_owned(),
            capabilities: capabilities.iter().map(ToString::to_string).collect(),
            ready_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            timings,
            ..lent.card.clone()
        };
        let promises = lent.promises()?;
        Ok(ContainerCluster {
            tether,
            _belongings: belongings,
            client,
            card,
            capabilities,
            promises,
            kubeconfig,
        })
    }
}

fn complain(complaints: &Mutex<String>, more: &str) {
    tracing::debug!("container: {}", more.trim_end());
    let mut complaints = complaints.lock().unwrap_or_else(PoisonError::into_inner);
    if complaints.len() < COMPLAINTS {
        complaints.push_str(more);
    }
}

impl Provider for ContainerProvider {
    fn name(&self) -> &'static str {
        "container"
    }

    fn start(&self) -> BoxFuture<'_, anyhow::Result<Box<dyn Cluster>>> {
        async move {
            let cluster: Box<dyn Cluster> = Box::new(self.start_now().await?);
            Ok(cluster)
        }
        .boxed()
    }
}

struct ContainerCluster {
    // First the tether, whose other end is in the container.
    tether: Tether,
    _belongings: Belongings,
    client: kube::Client,
    card: ClusterCard,
    capabilities: Vec<Capability>,
    promises: Promises,
    kubeconfig: String,
}

impl Cluster for ContainerCluster {
    fn card(&self) -> &ClusterCard {
        &self.card
    }

    fn capabilities(&self) -> &[Capability] {
        &self.capabilities
    }

    fn promises(&self) -> &Promises {
        &self.promises
    }

    fn bounds(&self) -> Bounds {
        Bounds::TESTBED
    }

    fn client(&self) -> kube::Client {
        self.client.clone()
    }

    fn image(&self) -> &'static str {
        "stickler-pods"
    }

    fn outside(&self) -> Option<&dyn Outside> {
        Some(&self.tether)
    }

    fn disruption(&self) -> Option<&dyn Disruption> {
        Some(&self.tether)
    }

    fn is_ephemeral(&self) -> bool {
        true
    }

    fn kubeconfig(&self) -> Option<&str> {
        Some(&self.kubeconfig)
    }
}
