//! The harness' end of an agent: starts workloads, collects numbered results, and takes up again
//! where it was when the stream between the two is cut. A probe costs no request to the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use futures::future::BoxFuture;
use stickler_pods::protocol::{Event, Outcome, Request, Workload};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::cluster::AgentStream;

/// The agent says something at least once a second; silence for this long means that the stream
/// is dead even if nobody closed it.
const SILENCE: Duration = Duration::from_secs(5);

/// By how much two clocks may come apart between two measurements of their offset, which are a
/// second apart: clocks that are steered gain or lose at most 500 in a million.
pub(crate) const DRIFT_US: u64 = 500;

/// Results are acknowledged in lots of this size, so that the agent's spool stays short.
const ACKNOWLEDGE_EVERY: u64 = 512;

/// How many commands go in one message at most.
const AT_ONCE: usize = 256;

/// How a stream to an agent is made, again and again if need be.
pub(crate) trait Attach: Send + 'static {
    fn attach(&mut self) -> BoxFuture<'_, anyhow::Result<AgentStream>>;
}

/// The estimated difference between an agent's clock and the harness'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockOffset {
    /// To be added to the agent's time to get the harness', in microseconds.
    pub add_us: i64,
    /// Half the round trip: how wrong `add_us` may be.
    pub within_us: u64,
}

/// A running agent.
pub struct Agent {
    name: String,
    commands: mpsc::UnboundedSender<Command>,
    clock: Arc<Mutex<Option<ClockOffset>>>,
    next_workload: AtomicU64,
    /// The only addresses that may be called, if there are others it must not call.
    may_call: Option<BTreeSet<IpAddr>>,
}

enum Command {
    Start { workload: u64, spec: Workload, done: Done },
    Stop { workload: u64 },
}

type Done = oneshot::Sender<anyhow::Result<Vec<Outcome>>>;

/// A workload under way.
pub struct Running {
    name: String,
    commands: mpsc::UnboundedSender<Command>,
    workload: u64,
    result: oneshot::Receiver<anyhow::Result<Vec<Outcome>>>,
}

impl Running {
    /// Lets it end, if it has no end of its own: no more calls are begun.
    pub fn stop(&self) {
        // An agent that is gone has stopped already, and `outcomes` will say so.
        let _ = self.commands.send(Command::Stop { workload: self.workload });
    }

    /// Waits for its end and returns the outcomes in the order of its calls.
    ///
    /// # Errors
    /// If the agent was lost before it was through.
    pub async fn outcomes(self) -> anyhow::Result<Vec<Outcome>> {
        self.result.await.map_err(|_| lost(&self.name))?
    }
}

impl Agent {
    /// Takes charge of an agent; `bound` is how long it may take to appear, and to come back.
    pub(crate) fn start(name: String, attach: impl Attach, bound: Duration) -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        let clock = Arc::default();
        let link = Link {
            name: name.clone(),
            bound,
            inbox,
            clock: Arc::clone(&clock),
            pending: BTreeMap::new(),
            last_seq: 0,
            acknowledged: 0,
            incarnation: None,
        };
        tokio::spawn(link.run(attach));
        Self { name, commands, clock, next_workload: AtomicU64::new(0), may_call: None }
    }

    /// Calls nobody but these addresses from now on.
    pub(crate) fn may_only_call(self, may_call: Option<BTreeSet<IpAddr>>) -> Self {
        Self { may_call, ..self }
    }

    /// Is this an address it may call?
    pub(crate) fn may_call(&self, address: IpAddr) -> bool {
        self.may_call.as_ref().is_none_or(|only| only.contains(&address))
    }

    /// How the agent is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The clock's offset, once it was measured.
    pub fn clock(&self) -> Option<ClockOffset> {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a workload to its end and returns its outcomes in the order of its calls.
    ///
    /// # Errors
    /// If the workload has no end, or the agent was lost before it was through.
    pub async fn run(&self, spec: Workload) -> anyhow::Result<Vec<Outcome>> {
        if spec.count.is_none() {
            bail!("a workload without a count never ends; give it one");
        }
        self.begin(spec)?.outcomes().await
    }

    /// Begins a workload; it runs by itself until its count is reached or it is stopped.
    ///
    /// # Errors
    /// If the agent was lost, or must not call there.
    pub fn begin(&self, spec: Workload) -> anyhow::Result<Running> {
        if let Some(may_call) = &self.may_call {
            match spec.probe.address() {
                Some(address) if may_call.contains(&address.ip()) => {}
                Some(address) => bail!("{} may call nodes and nobody else, so not {address}", self.name),
                None => bail!("{} may call nodes and nobody else, and no name server", self.name),
            }
        }
        let (done, result) = oneshot::channel();
        let workload = self.next_workload.fetch_add(1, Ordering::Relaxed);
        self.commands.send(Command::Start { workload, spec, done }).map_err(|_| lost(&self.name))?;
        Ok(Running { name: self.name.clone(), commands: self.commands.clone(), workload, result })
    }
}

fn lost(name: &str) -> anyhow::Error {
    anyhow!("the agent of {name} is gone")
}

/// The task that owns the stream.
struct Link {
    name: String,
    bound: Duration,
    inbox: mpsc::UnboundedReceiver<Command>,
    clock: Arc<Mutex<Option<ClockOffset>>>,
    pending: BTreeMap<u64, Pending>,
    last_seq: u64,
    acknowledged: u64,
    incarnation: Option<u64>,
}

struct Pending {
    spec: Workload,
    stopped: bool,
    outcomes: BTreeMap<u64, Outcome>,
    done: Done,
}

/// When the agent was last asked for its time, and under which number.
#[derive(Clone, Copy)]
struct ClockAsked {
    id: u64,
    at: Instant,
}

/// Why a session on one stream ended.
enum Ended {
    /// Nobody needs the agent any more.
    Unneeded,
    /// The stream broke; another may do.
    Cut(anyhow::Error),
}

impl Link {
    async fn run(mut self, mut attach: impl Attach) {
        let mut deadline = Instant::now() + self.bound;
        let mut last = anyhow!("it was never asked");
        loop {
            let stream = match timeout_at(deadline, attach.attach()).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    last = error;
                    if timeout_at(deadline, pause()).await.is_err() {
                        return self.give_up(&last).await;
                    }
                    continue;
                }
                Err(_) => return self.give_up(&last).await,
            };
            let (known, since) = (self.last_seq, Instant::now());
            match self.session(stream).await {
                Ended::Unneeded => return,
                Ended::Cut(error) => {
                    tracing::debug!(agent = self.name, "the stream was cut: {error:#}");
                    last = error;
                    // Only a session that lasted, or brought something, starts the clock anew.
                    if self.last_seq > known || since.elapsed() > SILENCE {
                        deadline = Instant::now() + self.bound;
                    }
                    if timeout_at(deadline, pause()).await.is_err() {
                        return self.give_up(&last).await;
                    }
                }
            }
        }
    }

    /// Fails what is pending and everything that still comes, with the reason.
    async fn give_up(mut self, error: &anyhow::Error) {
        let reason = format!("the agent of {} did not answer within {:?}: {error:#}", self.name, self.bound);
        for (_, pending) in std::mem::take(&mut self.pending) {
            let _ = pending.done.send(Err(anyhow!(reason.clone())));
        }
        while let Some(command) = self.inbox.recv().await {
            if let Command::Start { done, .. } = command {
                let _ = done.send(Err(anyhow!(reason.clone())));
            }
        }
    }

    async fn session(&mut self, stream: AgentStream) -> Ended {
        let AgentStream { reader, mut writer, keep } = stream;
        // Read by a task of its own: who stops reading while writing waits for ever, because the
        // other side does the same.
        let (heard, mut lines) = mpsc::unbounded_channel();
        let reading = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut lines = BufReader::new(reader).lines();
            while let Some(line) = lines.next_line().await.transpose() {
                let broken = line.is_err();
                if heard.send(line).is_err() || broken {
                    return;
                }
            }
        }));
        let result = self.talk(&mut lines, &mut writer).await;
        drop(reading);
        drop(keep);
        match result {
            Ok(()) => Ended::Unneeded,
            Err(error) => Ended::Cut(error),
        }
    }

    async fn talk<W: tokio::io::AsyncWrite + Unpin>(
        &mut self,
        lines: &mut mpsc::UnboundedReceiver<std::io::Result<String>>,
        writer: &mut W,
    ) -> anyhow::Result<()> {
        // The greeting comes first and unasked: it tells whether this is still the same agent, whose
        // numbers go on, or one that was restarted and begins anew.
        let greeting =
            timeout(SILENCE, lines.recv()).await.map_err(|_| anyhow!("no greeting within {SILENCE:?}"))?;
        let greeting = greeting.context("the stream ended")?.context("the stream broke")?;
        self.hear(parse(&greeting)?, ClockAsked { id: 0, at: Instant::now() })?;
        send(writer, &Request::Attach { after: self.last_seq }).await?;
        let mut asked = ClockAsked { id: 0, at: Instant::now() };
        send(writer, &Request::Clock { id: asked.id }).await?;
        // Starting a workload twice is harmless: the agent knows it by its number.
        for (workload, pending) in &self.pending {
            send(writer, &Request::Start { workload: *workload, spec: pending.spec.clone() }).await?;
            if pending.stopped {
                send(writer, &Request::Stop { workload: *workload }).await?;
            }
        }
        let mut commands = Vec::new();
        loop {
            tokio::select! {
                told = self.inbox.recv_many(&mut commands, AT_ONCE) => {
                    if told == 0 {
                        return Ok(());
                    }
                    let requests: Vec<Request> =
                        commands.drain(..).filter_map(|command| self.take_up(command)).collect();
                    send_all(writer, &requests).await?;
                }
                line = timeout(SILENCE, lines.recv()) => {
                    let line = line.map_err(|_| anyhow!("silent for {SILENCE:?}"))?;
                    let line = line.context("the stream ended")?.context("the stream broke")?;
                    let event = parse(&line)?;
                    let is_heartbeat = matches!(event, Event::Heartbeat { .. });
                    self.hear(event, asked)?;
                    if is_heartbeat {
                        asked = ClockAsked { id: asked.id + 1, at: Instant::now() };
                        send(writer, &Request::Clock { id: asked.id }).await?;
                    }
                    if self.last_seq >= self.acknowledged + ACKNOWLEDGE_EVERY {
                        send(writer, &Request::Ack { upto: self.last_seq }).await?;
                        self.acknowledged = self.last_seq;
                    }
                }
            }
        }
    }

    /// What to ask the agent for.
    fn take_up(&mut self, command: Command) -> Option<Request> {
        match command {
            Command::Start { workload, spec, done } => {
                let request = Request::Start { workload, spec: spec.clone() };
                let pending = Pending { spec, stopped: false, outcomes: BTreeMap::new(), done };
                self.pending.insert(workload, pending);
                Some(request)
            }
            Command::Stop { workload } => {
                self.pending.get_mut(&workload)?.stopped = true;
                Some(Request::Stop { workload })
            }
        }
    }

    fn hear(&mut self, event: Event, asked: ClockAsked) -> anyhow::Result<()> {
        match event {
            Event::Hello { incarnation, .. } => {
                if self.incarnation.is_some_and(|known| known != incarnation) {
                    // It was restarted and knows nothing of what it was doing.
                    self.fail_pending("the agent was restarted meanwhile");
                    self.last_seq = 0;
                    self.acknowledged = 0;
                }
                self.incarnation = Some(incarnation);
            }
            Event::Result { seq, workload, index, outcome } => {
                self.last_seq = seq;
                if let Some(pending) = self.pending.get_mut(&workload) {
                    pending.outcomes.insert(index, outcome);
                }
            }
            Event::Finished { seq, workload, calls } => {
                self.last_seq = seq;
                if let Some(pending) = self.pending.remove(&workload) {
                    let seen = pending.outcomes.len() as u64;
                    let result = if seen == calls {
                        Ok(pending.outcomes.into_values().collect())
                    } else {
                        Err(anyhow!("{} made {calls} calls, but {seen} results arrived", self.name))
                    };
                    let _ = pending.done.send(result);
                }
            }
            Event::Dropped { from, to } => {
                self.fail_pending(&format!("the agent's spool overflowed: results {from} to {to} are lost"));
            }
            // An answer that comes after the next question says nothing about its round trip.
            Event::Clock { id, .. } if id != asked.id => {}
            Event::Clock { now_us, .. } => {
                let round_trip = asked.at.elapsed();
                let now = crate::clock::now_us();
                let half = (round_trip.as_micros() / 2) as i64;
                let offset =
                    ClockOffset { add_us: now - half - now_us as i64, within_us: half.unsigned_abs().max(1) };
                let mut known = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
                // The best one of the last while: clocks drift, and round trips are sometimes slow.
                match &mut *known {
                    Some(known) if known.within_us.saturating_add(DRIFT_US) < offset.within_us => {
                        known.within_us = known.within_us.saturating_add(DRIFT_US);
                    }
                    known => *known = Some(offset),
                }
            }
            Event::Heartbeat { .. } => {}
            Event::Error { message } => bail!("the agent complains: {message}"),
        }
        Ok(())
    }

    fn fail_pending(&mut self, reason: &str) {
        for (_, pending) in std::mem::take(&mut self.pending) {
            let _ = pending.done.send(Err(anyhow!("{}: {reason}", self.name)));
        }
    }
}

fn parse(line: &str) -> anyhow::Result<Event> {
    serde_json::from_str(line)
        .with_context(|| format!("the agent said something else than an event: `{line}`"))
}

async fn send<W: tokio::io::AsyncWrite + Unpin>(writer: &mut W, request: &Request) -> anyhow::Result<()> {
    send_all(writer, std::slice::from_ref(request)).await
}

/// Sends what was asked for at once in one piece: each message crosses the API server.
async fn send_all<W: tokio::io::AsyncWrite + Unpin>(
    writer: &mut W,
    requests: &[Request],
) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    for request in requests {
        serde_json::to_writer(&mut lines, request)?;
        lines.push(b'\n');
    }
    let writing = async {
        writer.write_all(&lines).await?;
        writer.flush().await
    };
    let written = timeout(SILENCE, writing).await;
    written.map_err(|_| anyhow!("it took nothing for {SILENCE:?}"))?.context("could not write to the agent")
}

/// Between two attempts to attach: the pod may still be starting.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing tells when an exec would succeed; the attempts are bounded"
)]
async fn pause() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use stickler_pods::protocol::Probe;

    use crate::calls::http;

    /// An agent that nobody can attach to.
    struct Nowhere;

    impl Attach for Nowhere {
        fn attach(&mut self) -> BoxFuture<'_, anyhow::Result<AgentStream>> {
            async { bail!("there is none") }.boxed()
        }
    }

    #[tokio::test]
    async fn an_agent_that_may_call_nodes_calls_nobody_else() {
        let nodes = BTreeSet::from(["192.0.2.1".parse().expect("an address")]);
        let agent = Agent::start("outside".to_owned(), Nowhere, Duration::ZERO).may_only_call(Some(nodes));
        let workload =
            |probe| Workload { probe, count: Some(1), interval_ms: 0, concurrency: 1, timeout_ms: 1 };
        let begin = |address: &str| agent.begin(workload(http(address.parse().expect("an address"))));
        assert!(begin("192.0.2.1:30080").is_ok());
        let error = begin("192.0.2.2:30080").err().expect("it is no node").to_string();
        assert!(error.contains("so not 192.0.2.2:30080"), "{error}");
        let name = Probe::Dns {
            server: None,
            name: "a.".to_owned(),
            record_type: "A".to_owned(),
            tcp: false,
            search: false,
        };
        assert!(agent.begin(workload(name)).is_err());
    }
}
