//! Calls: what a check sees from its vantages, each written to the journal, each from a place that
//! was seen to be able to look.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, anyhow, bail};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::watcher::Config;
use stickler_model::ObjectKey;
use stickler_pods::protocol::{Outcome, Probe, Seen, Workload};
use stickler_reports::{Call, Event};
use tokio::time::Instant;

use crate::Scene;
use crate::check::{Broken, Held};
use crate::destination::{Target, To};
use crate::scene::look_again;
use crate::vantage::{CLOSED_PORT, NODE_CONTROL_PORT, POD_CONTROL_PORT, Vantage};
use crate::wait;

impl Scene {
    /// Makes calls from a vantage, and writes them to the journal.
    ///
    /// # Errors
    /// If the vantage's agent was lost.
    pub async fn call(
        &self,
        from: &Vantage,
        label: &str,
        workload: Workload,
    ) -> anyhow::Result<Vec<Outcome>> {
        let outcomes = self.vantages.call(from, workload).await?;
        self.tell_calls(from, label, &outcomes);
        Ok(outcomes)
    }

    fn tell_calls(&self, from: &Vantage, label: &str, outcomes: &[Outcome]) {
        let mut call = Call {
            vantage: from.to_string(),
            destination: label.to_owned(),
            started_us: outcomes.iter().map(|outcome| outcome.started_us).min().unwrap_or_default(),
            finished_us: outcomes.iter().map(|outcome| outcome.finished_us).max().unwrap_or_default(),
            outcomes: BTreeMap::new(),
        };
        for outcome in outcomes {
            *call.outcomes.entry(in_words(&outcome.seen)).or_default() += 1;
        }
        let mut words = format!("{from} -> {label}:");
        for (seen, count) in &call.outcomes {
            let _ = write!(words, " {count}x {seen}");
        }
        self.note(&words);
        self.sink.tell(Event::Called { check: self.check.to_owned(), call });
    }

    /// One call of a kind, `count` times, each on a connection of its own.
    pub fn workload(&self, probe: Probe, count: u64) -> Workload {
        Workload {
            probe,
            count: Some(count),
            interval_ms: 0,
            concurrency: 8,
            timeout_ms: u64::try_from(self.bounds().call.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Can these vantages look at all? Each must reach a server it can reach without any service
    /// (the positive control) and must not get an answer where nobody listens (the negative one).
    ///
    /// # Errors
    /// Which of them cannot.
    pub async fn control(&self, vantages: &[Vantage]) -> anyhow::Result<()> {
        let open: Vec<&Vantage> = {
            let controlled = self.controlled.lock().unwrap_or_else(PoisonError::into_inner);
            vantages.iter().filter(|vantage| !controlled.contains(vantage)).collect()
        };
        try_join_all(open.iter().map(|vantage| self.control_one(vantage))).await?;
        self.controlled.lock().unwrap_or_else(PoisonError::into_inner).extend(open.into_iter().cloned());
        Ok(())
    }

    async fn control_one(&self, vantage: &Vantage) -> anyhow::Result<()> {
        let deadline = Instant::now() + self.bounds().agent;
        loop {
            let (open, closed) = self.control_targets(vantage).await?;
            let positive = self.workload(http(open), 1);
            let seen = self.call(vantage, &format!("control ({open})"), positive).await?;
            if !matches!(seen.first().map(|outcome| &outcome.seen), Some(Seen::Answered(_))) {
                let seen = seen.first().map_or_else(|| "nothing".to_owned(), |first| in_words(&first.seen));
                if Instant::now() >= deadline {
                    anyhow::bail!(
                        "the control failed: from {vantage}, {open} should answer without any service, but: {seen}"
                    );
                }
                // The agent's server may still be starting.
                look_again().await;
                continue;
            }
            let negative = self.workload(http(closed), 1);
            let seen = self.call(vantage, &format!("control ({closed})"), negative).await?;
            if let Some(Seen::Answered(_) | Seen::Connected) = seen.first().map(|outcome| &outcome.seen) {
                anyhow::bail!(
                    "the control failed: from {vantage}, {closed} answered, though nobody listens there"
                );
            }
            return Ok(());
        }
    }

    /// An address that must answer a vantage, and one that must not.
    pub(crate) async fn control_targets(
        &self,
        vantage: &Vantage,
    ) -> anyhow::Result<(SocketAddr, SocketAddr)> {
        let nodes = self.vantages.nodes();
        if matches!(vantage, Vantage::Outside) {
            let world = self.world().await?;
            let (_, ip) = crate::destination::nodes(&world).next().context("no node has an address")?;
            return Ok((SocketAddr::new(ip, NODE_CONTROL_PORT), SocketAddr::new(ip, NODE_CONTROL_PORT + 1)));
        }
        // A pod elsewhere if there is one, so that the control crosses the pod network.
        let own = match vantage {
            Vantage::PodOn(node) | Vantage::Node(node) => Some(node),
            Vantage::Outside | Vantage::Backend(_) => None,
        };
        let node = nodes
            .iter()
            .find(|node| Some(*node) != own)
            .or_else(|| nodes.first())
            .context("there is no node")?;
        let pod = self.vantages.pod_of(node);
        let api: Api<Pod> = Api::namespaced(self.client(), &pod.namespace);
        let config = Config::default().fields(&format!("metadata.name={}", pod.name));
        let what = format!("the address of pod `{}`", pod.name);
        let ip = wait::until(api, config, &what, self.bounds().pods_ready, |pods: &[Pod]| {
            let pod = pods.first().ok_or_else(|| "no such pod".to_owned())?;
            let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
            ip.and_then(|ip| ip.parse().ok()).ok_or_else(|| wait::pod_ready(pod).err().unwrap_or_default())
        })
        .await?;
        Ok((SocketAddr::new(ip, POD_CONTROL_PORT), SocketAddr::new(ip, CLOSED_PORT)))
    }

    /// Can a TCP connection be made from a vantage? If not, what was seen instead.
    ///
    /// # Errors
    /// If it could not look.
    pub async fn connects(&self, from: &Vantage, to: SocketAddr) -> anyhow::Result<Result<(), String>> {
        self.control(std::slice::from_ref(from)).await?;
        let probe = Probe::Tcp { address: to, source_port: None };
        // A server that waits for the client to speak first says nothing until the call times out.
        let workload = Workload { timeout_ms: 300, ..self.workload(probe, 1) };
        let outcomes = self.call(from, &to.to_string(), workload).await?;
        let seen = &outcomes.first().context("no call was made")?.seen;
        Ok(match seen {
            Seen::Answered(_) | Seen::Connected | Seen::Closed | Seen::Garbled { .. } => Ok(()),
            Seen::CouldNotLook { error } => bail!("the agent could not look: {error}"),
            other => Err(in_words(other)),
        })
    }

    /// The ports that answered to calls of one port of a service, as the servers tell them; or what
    /// was seen instead of an answer.
    ///
    /// # Errors
    /// If it could not look.
    pub async fn ports_reached(
        &self,
        from: &Vantage,
        service: &str,
        port: u16,
    ) -> anyhow::Result<Result<BTreeSet<u16>, String>> {
        self.control(std::slice::from_ref(from)).await?;
        let address = SocketAddr::new(self.cluster_ip(service).await?, port);
        let label = format!("port {port} of `{service}`");
        let mut reached = BTreeSet::new();
        for outcome in self.call(from, &label, self.workload(http(address), 4)).await? {
            match outcome.seen {
                Seen::Answered(answer) => reached.extend(answer.port),
                Seen::CouldNotLook { error } => bail!("{label} could not be called from {from}: {error}"),
                other => return Ok(Err(format!("{label}, called from {from}, was {}", in_words(&other)))),
            }
        }
        Ok(Ok(reached))
    }

    /// While something is done to the pods behind a service, every call of it is answered, and by
    /// nobody but pods that were behind it meanwhile.
    ///
    /// The caller sees to it that pods go on serving for longer than a change takes to be
    /// everywhere; then a call that fails cannot be put down to staleness.
    ///
    /// # Errors
    /// Which call failed, and how many.
    pub async fn served_throughout(
        &self,
        from: Vec<Vantage>,
        service: &'static str,
        meanwhile: impl AsyncFnOnce(&Self) -> Result<(), Broken>,
    ) -> Held {
        self.served_throughout_at(from, To::ClusterIp(service), service, meanwhile).await
    }

    /// As [`Scene::served_throughout`], at another address of the service than its cluster IP.
    ///
    /// # Errors
    /// Which call failed, and how many.
    pub async fn served_throughout_at(
        &self,
        from: Vec<Vantage>,
        to: To,
        service: &'static str,
        meanwhile: impl AsyncFnOnce(&Self) -> Result<(), Broken>,
    ) -> Held {
        let world = self.world().await?;
        let targets = to.resolve(&world, self.namespace()).map_err(anyhow::Error::msg)?;
        let calls =
            targets.into_iter().map(|target| (http(target.destination.socket()), target.label)).collect();
        self.answered_throughout(from, calls, service, meanwhile).await
    }

    /// As [`Scene::served_throughout`], of any calls that pods behind the service are to answer.
    pub(crate) async fn answered_throughout(
        &self,
        from: Vec<Vantage>,
        calls: Vec<(Probe, String)>,
        service: &'static str,
        meanwhile: impl AsyncFnOnce(&Self) -> Result<(), Broken>,
    ) -> Held {
        self.control(&from).await?;
        let key = ObjectKey { namespace: self.namespace.clone(), name: service.to_owned() };
        let members = Arc::new(Mutex::new(BTreeSet::new()));
        let agents = from
            .iter()
            .map(|vantage| Ok((vantage, self.vantages.agent(vantage)?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut clients = Vec::new();
        for (vantage, agent) in &agents {
            for (probe, label) in &calls {
                // Fifty calls a second from each place: enough to fall into any gap of 20 ms.
                let spec = Workload {
                    count: None,
                    interval_ms: 20,
                    concurrency: 4,
                    ..self.workload(probe.clone(), 1)
                };
                clients.push((vantage, label, agent.begin(spec)?));
            }
        }
        let done = {
            let watching = self.record_members(&key, Arc::clone(&members));
            tokio::select! {
                done = meanwhile(self) => done,
                error = watching => Err(error.into()),
            }
        };
        clients.iter().for_each(|(_, _, running)| running.stop());
        let mut made = 0_u64;
        let mut wrong = Vec::new();
        for (vantage, label, running) in clients {
            let outcomes = running.outcomes().await?;
            made += outcomes.len() as u64;
            self.tell_calls(vantage, label, &outcomes);
            let members = members.lock().unwrap_or_else(PoisonError::into_inner);
            for outcome in outcomes {
                match &outcome.seen {
                    Seen::Answered(answer)
                        if answer.hostname.as_ref().is_some_and(|name| members.contains(name)) => {}
                    Seen::CouldNotLook { error } => {
                        return Err(Broken::CouldNotTell(format!("{vantage} could not look: {error}")));
                    }
                    other => wrong.push(format!("a call from {vantage} was {}", in_words(other))),
                }
            }
        }
        done?;
        let Some(first) = wrong.first() else { return Ok(()) };
        Err(Broken::promise(
            format!("every call of `{service}` is answered by one of its pods while they are replaced"),
            format!("{first}; {} of {made} calls went wrong", wrong.len()),
        ))
    }

    /// While something is done to the pods behind a UDP service, a client in each place goes on
    /// sending to it from one socket with this source port; where it is asked for at several
    /// addresses, to each from a port of its own, counted from this one. What comes back meanwhile is written
    /// down and not judged; what it is for is the state it keeps alive on the way.
    ///
    /// # Errors
    /// If it could not send.
    pub async fn while_sending(
        &self,
        from: &[Vantage],
        to: To,
        port: u16,
        meanwhile: impl AsyncFnOnce(&Self) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        self.control(from).await?;
        let world = self.world().await?;
        let targets = to.resolve(&world, self.namespace()).map_err(anyhow::Error::msg)?;
        let is_tcp = |target: &Target| target.destination.protocol != stickler_model::Protocol::Udp;
        if targets.is_empty() || targets.iter().any(is_tcp) {
            let why = format!("{to:?} has to have nothing but UDP ports for clients to send to");
            return Err(Broken::CouldNotTell(why));
        }
        let agents = from
            .iter()
            .map(|vantage| Ok((vantage, self.vantages.agent(vantage)?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut clients = Vec::new();
        for (vantage, agent) in &agents {
            for (port, target) in (port..).zip(&targets) {
                let probe = Probe::Udp {
                    address: target.destination.socket(),
                    payload: "{index}".to_owned(),
                    source_port: Some(port),
                    keep_socket: true,
                };
                // A datagram that nobody answers must not keep the next one back for long.
                let spec =
                    Workload { count: None, interval_ms: 20, timeout_ms: 100, ..self.workload(probe, 1) };
                let label = format!("{} from port {port}", target.label);
                clients.push((vantage, label, agent.begin(Workload { concurrency: 1, ..spec })?));
            }
        }
        let done = meanwhile(self).await;
        clients.iter().for_each(|(_, _, running)| running.stop());
        for (vantage, label, running) in clients {
            let outcomes = running.outcomes().await?;
            self.tell_calls(vantage, &label, &outcomes);
            for outcome in outcomes {
                if let Seen::CouldNotLook { error } = outcome.seen {
                    return Err(Broken::CouldNotTell(format!("{vantage} could not send: {error}")));
                }
            }
        }
        done
    }

    /// Writes down the name of every pod that is behind a service at any time; ends only if it can
    /// not go on.
    async fn record_members(
        &self,
        service: &ObjectKey,
        members: Arc<Mutex<BTreeSet<String>>>,
    ) -> anyhow::Error {
        let config = Config::default().labels(&format!("kubernetes.io/service-name={}", service.name));
        let what = format!("the end of the check, recording the endpoints of `{}`", service.name);
        let recording =
            wait::until(self.api::<EndpointSlice>(), config, &what, self.bounds().check, |slices| {
                let mut members = members.lock().unwrap_or_else(PoisonError::into_inner);
                for endpoint in slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()) {
                    members.extend(endpoint.target_ref.as_ref().and_then(|target| target.name.clone()));
                }
                Err::<(), _>(format!("{} endpoints so far", members.len()))
            });
        match recording.await {
            Ok(()) => anyhow!("the recording ended by itself"),
            Err(error) => error,
        }
    }
}

/// An HTTP request on a connection of its own.
pub fn http(address: SocketAddr) -> Probe {
    Probe::Http {
        address,
        host: None,
        path: "/".to_owned(),
        method: None,
        source_port: None,
        reuse_connection: false,
        server_name: None,
        lines: None,
    }
}

/// An HTTP request for a host, with a cookie of its own, on a connection of its own.
pub fn http_with_host(address: SocketAddr, host: &str) -> Probe {
    Probe::Http {
        address,
        host: Some(host.to_owned()),
        path: "/".to_owned(),
        method: None,
        source_port: None,
        reuse_connection: false,
        server_name: None,
        lines: None,
    }
}

/// A datagram on a socket of its own.
pub fn udp(address: SocketAddr) -> Probe {
    Probe::Udp { address, payload: "{index}".to_owned(), source_port: None, keep_socket: false }
}

/// What was seen, in a few words.
pub fn in_words(seen: &Seen) -> String {
    match seen {
        Seen::Answered(answer) => match &answer.hostname {
            Some(hostname) => format!("answered by `{hostname}`"),
            None => format!("answered by a stranger: {:?}", answer.body),
        },
        Seen::Resolved(resolved) if resolved.records.is_empty() => {
            format!("{} for `{}`, no records", resolved.code, resolved.name)
        }
        Seen::Resolved(resolved) => format!("`{}` is {}", resolved.name, resolved.records.join(", ")),
        Seen::Connected => "connected, but nothing was said".to_owned(),
        Seen::Refused => "refused".to_owned(),
        Seen::Reset => "reset".to_owned(),
        Seen::TimedOut { .. } => "timed out".to_owned(),
        Seen::Unreachable { error } => format!("unreachable ({error})"),
        Seen::Closed => "closed without an answer".to_owned(),
        Seen::Garbled { error } => format!("garbled ({error})"),
        Seen::CouldNotLook { error } => format!("could not look ({error})"),
    }
}
