//! A cluster on a tether: one process has the cluster, another one uses it, and two pipes are all that
//! is between them. Orders go one way and words come back, as JSON lines. The API is reached by other
//! means; what comes through here is what the API does not give: a place outside the cluster, and the
//! stopping of its parts.
//!
//! Whoever has the cluster ends it when the pipe is cut, and also when nothing comes through for a
//! while, since not everybody who cuts a pipe closes it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use stickler_model::Promises;
use stickler_reports::ClusterCard;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, Lines,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::cluster::{AgentStream, Capability, Cluster, Disruption, Outside};
use crate::leash::BEAT;

/// The most a part of a cluster may take to stop or start.
const DISRUPTED: Duration = Duration::from_secs(30);
/// How much of an agent's output may wait to be read, in bytes.
const PIPE: usize = 64 * 1024;
/// How many words may wait to be sent.
const WORDS: usize = 1024;

/// What cluster is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wanted {
    pub(super) nodes: usize,
    pub(super) bugs: Vec<String>,
    pub(super) load_balancer: bool,
    /// Where on its machine the API server listens.
    pub(super) listen: SocketAddr,
}

/// What comes through the pipe to whoever has the cluster.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    /// Comes first, and once.
    Start(Wanted),
    /// I am still here.
    Beat,
    /// Start an agent outside; the number is mine.
    Open { stream: u64 },
    /// A line for its standard input.
    Say { stream: u64, line: String },
    /// The end of its standard input.
    Close { stream: u64 },
    /// Stop or start something, or cut it off.
    Disrupt { number: u64, how: Disrupting },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Disrupting {
    StopKubelet(String),
    StartKubelet(String),
    CutOff(String),
    Reconnect(String),
    StopApiserver,
    StartApiserver,
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// The answer to the first order.
    Ready(Box<Lent>),
    /// The other answer to it.
    Failed { why: String },
    /// A line of an agent's standard output.
    Heard { stream: u64, line: String },
    /// Its end.
    Closed { stream: u64 },
    /// An order was carried out, or why it was not.
    Done { number: u64, failed: Option<String> },
}

/// What the cluster is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Lent {
    pub(super) card: ClusterCard,
    pub(super) kubeconfig: String,
    service_cidr: Option<IpNet>,
    cluster_cidr: Option<IpNet>,
}

impl Lent {
    fn of(cluster: &dyn Cluster) -> anyhow::Result<Self> {
        let promises = cluster.promises();
        Ok(Self {
            card: cluster.card().clone(),
            kubeconfig: cluster.kubeconfig().context("the cluster has no kubeconfig")?.to_owned(),
            service_cidr: promises.service_cidr,
            cluster_cidr: promises.cluster_cidr,
        })
    }

    pub(super) fn promises(&self) -> anyhow::Result<Promises> {
        let mut promises = Promises::of_version(&self.card.version)?;
        promises.service_cidr = self.service_cidr;
        promises.cluster_cidr = self.cluster_cidr;
        Ok(promises)
    }

    /// What it can do when it is used from here: nobody sits in front of its machines.
    pub(super) fn capabilities(&self) -> Vec<Capability> {
        let can =
            |capability: &Capability| self.card.capabilities.iter().any(|can| *can == capability.name());
        let of_the_cluster = |capability: &Capability| {
            !matches!(capability, Capability::NotesLab | Capability::Kubectl | Capability::ContainerEngine)
        };
        Capability::ALL.iter().copied().filter(can).filter(of_the_cluster).collect()
    }
}

/// The user's end.
pub(super) struct Tether {
    orders: mpsc::UnboundedSender<Order>,
    told: Arc<Mutex<Told>>,
    next: AtomicU64,
    _ends: [AbortOnDropHandle<()>; 2],
}

/// Whom words are for.
#[derive(Default)]
struct Told {
    agents: BTreeMap<u64, mpsc::UnboundedSender<String>>,
    disruptions: BTreeMap<u64, oneshot::Sender<Result<(), String>>>,
    cut: bool,
}

impl Tether {
    /// Orders a cluster and waits until it is there.
    ///
    /// # Errors
    /// Why it did not start, or that the pipe was cut.
    pub(super) async fn tie(
        reader: impl AsyncRead + Send + Unpin + 'static,
        mut writer: impl AsyncWrite + Send + Unpin + 'static,
        wanted: Wanted,
    ) -> anyhow::Result<(Self, Lent)> {
        let mut words = BufReader::new(reader).lines();
        write(&mut writer, &Order::Start(wanted)).await.context("it takes no orders")?;
        let first = words.next_line().await?.context("it ended without a word")?;
        let lent = match read(&first)? {
            Word::Ready(lent) => *lent,
            Word::Failed { why } => bail!("{why}"),
            other => bail!("it began with something else than whether it is ready: {other:?}"),
        };
        let (orders, inbox) = mpsc::unbounded_channel();
        let told = Arc::<Mutex<Told>>::default();
        let ends = [
            AbortOnDropHandle::new(tokio::spawn(pass_on(inbox, writer))),
            AbortOnDropHandle::new(tokio::spawn(listen(words, Arc::clone(&told)))),
        ];
        Ok((Self { orders, told, next: AtomicU64::new(0), _ends: ends }, lent))
    }

    async fn disrupt(&self, how: Disrupting) -> anyhow::Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (done, answer) = oneshot::channel();
        self.told()?.disruptions.insert(number, done);
        self.orders.send(Order::Disrupt { number, how: how.clone() }).map_err(|_| cut())?;
        match timeout(DISRUPTED, answer).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(why))) => Err(anyhow!(why)),
            Ok(Err(_)) => Err(cut()),
            Err(_) => Err(anyhow!("{how:?} was not done within {DISRUPTED:?}")),
        }
    }

    fn told(&self) -> anyhow::Result<std::sync::MutexGuard<'_, Told>> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.cut { Err(cut()) } else { Ok(told) }
    }
}

fn cut() -> anyhow::Error {
    anyhow!("the cluster has ended: nothing is heard from it any more")
}

impl Outside for Tether {
    fn agent(&self) -> anyhow::Result<AgentStream> {
        let stream = self.next.fetch_add(1, Ordering::Relaxed);
        let (heard, mut lines) = mpsc::unbounded_channel::<String>();
        self.told()?.agents.insert(stream, heard);
        self.orders.send(Order::Open { stream }).map_err(|_| cut())?;
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let (orders, told) = (self.orders.clone(), Arc::clone(&self.told));
        let (from_us, mut to_us) = tokio::io::split(theirs);
        let carrying = async move {
            let up = async {
                let mut from_us = BufReader::new(from_us).lines();
                while let Ok(Some(line)) = from_us.next_line().await {
                    if orders.send(Order::Say { stream, line }).is_err() {
                        return;
                    }
                }
            };
            let down = async {
                while let Some(line) = lines.recv().await {
                    if to_us.write_all(format!("{line}\n").as_bytes()).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = up => {}
                () = down => {}
            }
            told.lock().unwrap_or_else(PoisonError::into_inner).agents.remove(&stream);
            // Whoever is not there any more has closed it already.
            let _ = orders.send(Order::Close { stream });
        };
        // It ends when the stream is dropped.
        tokio::spawn(carrying);
        let (reader, writer) = tokio::io::split(ours);
        Ok(AgentStream { reader: Box::new(reader), writer: Box::new(writer), keep: Box::new(()) })
    }
}

impl Disruption for Tether {
    fn stop_kubelet<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        self.disrupt(Disrupting::StopKubelet(node.to_owned())).boxed()
    }

    fn start_kubelet<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        self.disrupt(Disrupting::StartKubelet(node.to_owned())).boxed()
    }

    fn cut_off<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        self.disrupt(Disrupting::CutOff(node.to_owned())).boxed()
    }

    fn reconnect<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
        self.disrupt(Disrupting::Reconnect(node.to_owned())).boxed()
    }

    fn stop_apiserver(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        self.disrupt(Disrupting::StopApiserver).boxed()
    }

    fn start_apiserver(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        self.disrupt(Disrupting::StartApiserver).boxed()
    }
}

/// Writes orders, and a beat where there is none for a while.
async fn pass_on(
    mut orders: mpsc::UnboundedReceiver<Order>,
    mut writer: impl AsyncWrite + Send + Unpin + 'static,
) {
    loop {
        let order = match timeout(BEAT, orders.recv()).await {
            Ok(Some(order)) => order,
            Ok(None) => return,
            Err(_) => Order::Beat,
        };
        if let Err(error) = write(&mut writer, &order).await {
            tracing::debug!("the tether takes no orders any more: {error:#}");
            return;
        }
    }
}

/// Hands words to those they are for.
async fn listen<R: AsyncBufRead + Unpin>(mut words: Lines<R>, told: Arc<Mutex<Told>>) {
    loop {
        let word = match words.next_line().await {
            Ok(Some(line)) => read(&line),
            Ok(None) => break,
            Err(error) => Err(error.into()),
        };
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        match word {
            Ok(Word::Heard { stream, line }) => {
                // An agent may still talk when nobody listens any more.
                let _ = told.agents.get(&stream).map(|agent| agent.send(line));
            }
            Ok(Word::Closed { stream }) => drop(told.agents.remove(&stream)),
            Ok(Word::Done { number, failed }) => {
                let answer = failed.map_or(Ok(()), Err);
                let _ = told.disruptions.remove(&number).map(|done| done.send(answer));
            }
            Ok(other) => tracing::warn!("the tether says something out of place: {other:?}"),
            Err(error) => {
                tracing::warn!("the tether cannot be understood: {error:#}");
                break;
            }
        }
    }
    *told.lock().unwrap_or_else(PoisonError::into_inner) = Told { cut: true, ..Told::default() };
}

fn read<T: for<'de> Deserialize<'de>>(line: &str) -> anyhow::Result<T> {
    serde_json::from_str(line).with_context(|| format!("this cannot be understood: `{line}`"))
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), what: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    Ok(writer.flush().await?)
}

/// The other end: lends a cluster to whoever is at the pipe, until it is cut or silent for `patience`,
/// and ends the cluster then.
///
/// # Errors
/// What came through the pipe and is no order.
async fn lend<R: AsyncBufRead + Unpin>(
    cluster: Arc<dyn Cluster>,
    mut orders: Lines<R>,
    writer: impl AsyncWrite + Send + Unpin + 'static,
    patience: Duration,
) -> anyhow::Result<()> {
    let (words, inbox) = mpsc::channel(WORDS);
    let _writing = AbortOnDropHandle::new(tokio::spawn(speak(inbox, writer)));
    words.send(Word::Ready(Box::new(Lent::of(cluster.as_ref())?))).await?;
    let mut inputs: BTreeMap<u64, mpsc::UnboundedSender<String>> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let ended = loop {
        let line = match timeout(patience, orders.next_line()).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) => break Ok(()),
            Ok(Err(error)) => break Err(error.into()),
            Err(_) => break Err(anyhow!("nothing was heard for {patience:?}")),
        };
        match read(&line) {
            Ok(Order::Beat) => {}
            Ok(Order::Open { stream }) => {
                let (input, lines) = mpsc::unbounded_channel();
                inputs.insert(stream, input);
                let agent =
                    cluster.outside().context("there is no outside").and_then(|outside| outside.agent());
                tasks.spawn(carry(stream, agent, lines, words.clone()));
            }
            Ok(Order::Say { stream, line }) => {
                // An agent that has ended hears nothing more.
                let _ = inputs.get(&stream).map(|input| input.send(line));
            }
            Ok(Order::Close { stream }) => drop(inputs.remove(&stream)),
            Ok(Order::Disrupt { number, how }) => {
                let (cluster, words) = (Arc::clone(&cluster), words.clone());
                tasks.spawn(async move {
                    let failed = disrupt(cluster.as_ref(), how).await.err();
                    let failed = failed.map(|error| format!("{error:#}"));
                    // Whoever asked may be gone.
                    let _ = words.send(Word::Done { number, failed }).await;
                });
            }
            Ok(Order::Start(_)) => break Err(anyhow!("it is told to start twice")),
            Err(error) => break Err(error),
        }
        while tasks.try_join_next().is_some() {}
    };
    // The cluster goes away with the last who knows it.
    tasks.shutdown().await;
    drop(cluster);
    ended
}

async fn speak(mut words: mpsc::Receiver<Word>, mut writer: impl AsyncWrite + Unpin) {
    while let Some(word) = words.recv().await {
        if write(&mut writer, &word).await.is_err() {
            // Whoever should hear it is gone, which orders tell soon enough.
            return;
        }
    }
}

async fn disrupt(cluster: &dyn Cluster, how: Disrupting) -> anyhow::Result<()> {
    let disruption = cluster.disruption().context("nothing of the cluster can be stopped")?;
    match how {
        Disrupting::StopKubelet(node) => disruption.stop_kubelet(&node).await,
        Disrupting::StartKubelet(node) => disruption.start_kubelet(&node).await,
        Disrupting::CutOff(node) => disruption.cut_off(&node).await,
        Disrupting::Reconnect(node) => disruption.reconnect(&node).await,
        Disrupting::StopApiserver => disruption.stop_apiserver().await,
        Disrupting::StartApiserver => disruption.start_apiserver().await,
    }
}

/// Carries what an agent hears and says.
async fn carry(
    stream: u64,
    agent: anyhow::Result<AgentStream>,
    mut lines: mpsc::UnboundedReceiver<String>,
    words: mpsc::Sender<Word>,
) {
    match agent {
        Ok(AgentStream { reader, mut writer, keep }) => {
            let up = async {
                let mut said = BufReader::new(reader).lines();
                while let Ok(Some(line)) = said.next_line().await {
                    if words.send(Word::Heard { stream, line }).await.is_err() {
                        return;
                    }
                }
            };
            let down = async {
                while let Some(line) = lines.recv().await {
                    let line = format!("{line}\n");
                    if writer.write_all(line.as_bytes()).await.is_err() || writer.flush().await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = up => {}
                () = down => {}
            }
            drop(keep);
        }
        Err(error) => tracing::warn!("no agent can be started outside: {error:#}"),
    }
    // Whoever listened may be gone.
    let _ = words.send(Word::Closed { stream }).await;
}

#[cfg(target_os = "linux")]
pub(crate) use holder::main;

/// The program that has a testbed for others.
#[cfg(target_os = "linux")]
mod holder {
    use std::io::BufRead as _;
    use std::process::ExitCode;
    use std::sync::Arc;

    use anyhow::Context as _;
    use tokio::io::AsyncBufReadExt as _;
    use tokio::signal::unix::{SignalKind, signal};

    use super::{Order, Wanted, Word, lend, read, write};
    use crate::cluster::Provider as _;
    use crate::leash::{PATIENCE, is_started_as};
    use crate::providers::testbed::{TestbedProvider, bugs_named};

    /// What the executable must be told to become this, after the name of the multi-call program.
    const NAME: &str = "testbed";

    /// If that is what this process was started as, has a testbed for whoever is at its standard input
    /// and output.
    pub(crate) fn main() -> Option<ExitCode> {
        if !is_started_as(NAME) {
            return None;
        }
        Some(match serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&error);
                ExitCode::FAILURE
            }
        })
    }

    #[expect(clippy::print_stderr, reason = "whoever started it reads there why it ended")]
    fn complain(error: &anyhow::Error) {
        eprintln!("testbed: {error:#}");
    }

    fn serve() -> anyhow::Result<()> {
        let mut first = String::new();
        std::io::stdin().lock().read_line(&mut first).context("no order comes")?;
        let Order::Start(wanted) = read(&first)? else { anyhow::bail!("the first order is not to start") };
        // No thread exists yet: the lab must be entered before.
        let provider = provider(wanted);
        rustls::crypto::ring::default_provider()
            .install_default()
            .map_err(|_| anyhow::anyhow!("another cryptography provider is installed already"))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let served = runtime.block_on(async {
            let started = match provider {
                Ok(provider) => provider.start().await,
                Err(error) => Err(error),
            };
            let mut stdout = tokio::io::stdout();
            let cluster = match started {
                Ok(cluster) => Arc::from(cluster),
                Err(error) => {
                    write(&mut stdout, &Word::Failed { why: format!("{error:#}") }).await?;
                    return Err(error);
                }
            };
            let orders = tokio::io::BufReader::new(tokio::io::stdin()).lines();
            // The first process of a container has to ask for signals to get any.
            let mut terminate = signal(SignalKind::terminate())?;
            tokio::select! {
                served = lend(cluster, orders, stdout, PATIENCE) => served,
                _ = terminate.recv() => Ok(()),
            }
        });
        // A thread may still wait for standard input.
        runtime.shutdown_background();
        served
    }

    fn provider(wanted: Wanted) -> anyhow::Result<TestbedProvider> {
        let bugs = bugs_named(&wanted.bugs)?;
        let provider = TestbedProvider::enter(wanted.nodes, wanted.listen.port(), bugs)?;
        let provider = provider.listening_on(wanted.listen.ip());
        Ok(provider.with_load_balancer(wanted.load_balancer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::Bounds;

    const LONG: Duration = Duration::from_secs(60);

    /// A cluster that is not there: its agent says everything twice, and its kubelets do not stop.
    struct Nowhere {
        card: ClusterCard,
        capabilities: Vec<Capability>,
        promises: Promises,
        ended: Option<oneshot::Sender<()>>,
    }

    impl Cluster for Nowhere {
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
            unreachable!("the API is not reached through a tether")
        }

        fn image(&self) -> &'static str {
            "none"
        }

        fn outside(&self) -> Option<&dyn Outside> {
            Some(self)
        }

        fn disruption(&self) -> Option<&dyn Disruption> {
            Some(self)
        }

        fn is_ephemeral(&self) -> bool {
            true
        }

        fn kubeconfig(&self) -> Option<&str> {
            Some("kind: Config")
        }
    }

    impl Outside for Nowhere {
        fn agent(&self) -> anyhow::Result<AgentStream> {
            let (ours, theirs) = tokio::io::duplex(PIPE);
            tokio::spawn(async move {
                let (reader, mut writer) = tokio::io::split(theirs);
                let mut lines = BufReader::new(reader).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    writer.write_all(format!("{line} {line}\n").as_bytes()).await.unwrap();
                }
            });
            let (reader, writer) = tokio::io::split(ours);
            Ok(AgentStream { reader: Box::new(reader), writer: Box::new(writer), keep: Box::new(()) })
        }
    }

    impl Disruption for Nowhere {
        fn stop_kubelet<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
            async move { Err(anyhow!("there is no node `{node}`")) }.boxed()
        }

        fn start_kubelet<'a>(&'a self, _: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
            // It takes for ever, and nobody waits for it.
            std::future::pending().boxed()
        }

        fn cut_off<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
            self.stop_kubelet(node)
        }

        fn reconnect<'a>(&'a self, node: &'a str) -> BoxFuture<'a, anyhow::Result<()>> {
            self.stop_kubelet(node)
        }

        fn stop_apiserver(&self) -> BoxFuture<'_, anyhow::Result<()>> {
            async { Ok(()) }.boxed()
        }

        fn start_apiserver(&self) -> BoxFuture<'_, anyhow::Result<()>> {
            async { Ok(()) }.boxed()
        }
    }

    impl Drop for Nowhere {
        fn drop(&mut self) {
            // A test that failed does not wait.
            let _ = self.ended.take().map(|ended| ended.send(()));
        }
    }

    /// The far end of a tether.
    struct Far {
        ended: oneshot::Receiver<()>,
        lending: tokio::task::JoinHandle<anyhow::Result<()>>,
    }

    fn wanted() -> Wanted {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Wanted { nodes: 3, bugs: Vec::new(), load_balancer: false, listen }
    }

    async fn tied(patience: Duration) -> (Tether, Lent, Far) {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let (ended, ends) = oneshot::channel();
        let cluster = Nowhere {
            card: ClusterCard {
                provider: "testbed".to_owned(),
                version: "v1.37.0".to_owned(),
                nodes: vec!["kube0.vm".to_owned()],
                capabilities: ["host-network", "disruption", "notes-lab"].map(str::to_owned).into(),
                ready_ms: 1,
                timings: Vec::new(),
                components: Vec::new(),
            },
            capabilities: Vec::new(),
            promises: Promises::of_minor(37).with_service_cidr("10.96.0.0/12".parse().unwrap()),
            ended: Some(ended),
        };
        let lending = tokio::spawn(async move {
            let (reader, writer) = tokio::io::split(theirs);
            let mut orders = BufReader::new(reader).lines();
            let first = orders.next_line().await?.context("nothing came")?;
            assert!(matches!(read(&first)?, Order::Start(asked) if asked == wanted()));
            lend(Arc::new(cluster), orders, writer, patience).await
        });
        let (reader, writer) = tokio::io::split(ours);
        let (tether, lent) = Tether::tie(reader, writer, wanted()).await.expect("it is ready");
        (tether, lent, Far { ended: ends, lending })
    }

    impl Far {
        async fn ends(self) -> anyhow::Result<()> {
            timeout(LONG, self.ended).await.expect("the cluster ends").expect("it says so");
            self.lending.await.expect("it does not panic")
        }
    }

    async fn say(stream: &mut AgentStream, line: &str) -> Option<String> {
        stream.writer.write_all(format!("{line}\n").as_bytes()).await.ok()?;
        timeout(LONG, BufReader::new(&mut stream.reader).lines().next_line())
            .await
            .expect("an answer")
            .ok()?
    }

    #[tokio::test]
    async fn what_the_cluster_is_comes_through() {
        let (_tether, lent, _far) = tied(LONG).await;
        assert_eq!(lent.capabilities(), [Capability::HostNetwork, Capability::Disruption]);
        let promises = lent.promises().expect("its version is one");
        assert_eq!((promises.minor, promises.cluster_cidr), (37, None));
        assert_eq!(promises.service_cidr, Some("10.96.0.0/12".parse().unwrap()));
        assert_eq!(lent.kubeconfig, "kind: Config");
    }

    #[tokio::test]
    async fn agents_are_kept_apart() {
        let (tether, _, _far) = tied(LONG).await;
        let (mut one, mut other) = (tether.agent().unwrap(), tether.agent().unwrap());
        assert_eq!(say(&mut one, "a").await.as_deref(), Some("a a"));
        assert_eq!(say(&mut other, "\"b\"").await.as_deref(), Some("\"b\" \"b\""));
        drop(one);
        assert_eq!(say(&mut other, "c").await.as_deref(), Some("c c"));
    }

    #[tokio::test]
    async fn a_disruption_says_what_came_of_it() {
        let (tether, _, _far) = tied(LONG).await;
        tether.stop_apiserver().await.expect("it does");
        // One that is not done keeps nobody waiting.
        let never = tether.start_kubelet("x");
        let refused = tokio::select! {
            _ = never => None,
            refused = tether.stop_kubelet("x") => refused.err().map(|error| error.to_string()),
        };
        assert_eq!(refused.as_deref(), Some("there is no node `x`"));
    }

    #[tokio::test]
    async fn a_cut_ends_the_cluster_and_whoever_waits_for_it() {
        let (tether, _, far) = tied(LONG).await;
        let mut agent = tether.agent().unwrap();
        assert_eq!(say(&mut agent, "a").await.as_deref(), Some("a a"));
        far.lending.abort();
        assert_eq!(say(&mut agent, "a").await, None);
        let refused = tether.stop_apiserver().await.map_err(|error| error.to_string());
        assert_eq!(refused, Err(cut().to_string()));
        assert!(tether.agent().is_err(), "there is nowhere to start it");

        let (tether, _, far) = tied(LONG).await;
        drop(tether);
        far.ends().await.expect("that is how it should end");
    }

    #[tokio::test]
    async fn silence_ends_the_cluster_and_a_beat_does_not() {
        let (tether, _, far) = tied(BEAT * 2).await;
        // Longer than it is patient: it lives on beats.
        let lives =
            timeout(BEAT * 4, std::future::pending::<()>()).await.is_err() && !far.lending.is_finished();
        assert!(lives, "it ended although it was used");
        // Whoever beats no more, but keeps the pipe, is as good as gone.
        let [passing, listening] = tether._ends;
        passing.abort();
        let ended = far.ends().await.map_err(|error| error.to_string());
        assert_eq!(ended, Err(format!("nothing was heard for {:?}", BEAT * 2)));
        drop(listening);
    }
}
