//! Standing clients: calls that go on by themselves at a rate, from vantages to destinations and
//! names, until they are stopped; then calls of a history, on the harness's clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use stickler_model::{Code, Destination, Protocol, RecordType, Reply};
use stickler_pods::protocol::{Outcome, Phase, Probe, Seen, Workload};

use crate::agent::{Agent, ClockOffset, DRIFT_US, Running};
use crate::calls::http;
use crate::chronicle::{Place, Question};
use crate::history::{Asked, Backends, Call, NameCall};
use crate::names::{code, records, type_name};
use crate::vantage::{Vantage, Vantages};

/// One client: who calls whom, again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    pub from: Vantage,
    /// How the destination is called in messages.
    pub label: String,
    pub to: Aim,
}

/// What a client does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aim {
    /// Calls an address: over HTTP, each time on a new connection, or with datagrams from one
    /// socket, whose flow a proxy may know from before.
    Address(Destination),
    /// Asks for a name: along the pod's search path, or of this server if the name is whole.
    Name { name: String, kind: RecordType, server: Option<SocketAddr> },
}

/// Clients that call.
pub struct Clients {
    standing: Vec<Standing>,
    begun: tokio::time::Instant,
}

struct Standing {
    client: Client,
    running: Running,
    agent: std::sync::Arc<Agent>,
    clock: Option<ClockOffset>,
}

/// What one client saw.
#[derive(Clone, Debug)]
pub struct Harvest {
    pub client: Client,
    /// Its calls, on the agent's clock, in the order they began.
    pub outcomes: Vec<Outcome>,
    /// From the agent's clock to the harness's.
    clock: ClockOffset,
}

/// What all clients saw.
#[derive(Clone, Debug, Default)]
pub struct Harvests {
    pub of: Vec<Harvest>,
    /// Clients that were lost, and why: what they saw is not known.
    pub lost: Vec<String>,
}

/// A client's calls as a history has them.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    pub calls: Vec<Call>,
    /// Which outcome each of them was.
    pub outcomes: Vec<usize>,
    /// Calls that were not made for the caller's own trouble, by what it was.
    pub could_not_look: BTreeMap<String, u64>,
}

/// A client's questions as a history has them.
#[derive(Clone, Debug, Default)]
pub struct Asks {
    pub asked: Vec<NameCall>,
    /// Which outcome each of them was.
    pub outcomes: Vec<usize>,
    /// As [`Calls::could_not_look`].
    pub could_not_look: BTreeMap<String, u64>,
}

impl Client {
    /// Where it calls, as a chronicle's timelines have it; none of one that asks for names.
    pub fn place(&self, vantages: &Vantages) -> Option<Place> {
        match &self.to {
            Aim::Address(to) => Some(Place { from: vantages.to_model(&self.from), to: *to }),
            Aim::Name { .. } => None,
        }
    }

    /// What it asks, as a chronicle has it; none of one that calls.
    pub fn question(&self, vantages: &Vantages) -> Option<Question> {
        let Aim::Name { name, kind, server } = &self.to else { return None };
        let from = match vantages.to_model(&self.from) {
            stickler_model::Vantage::Pod(pod) if server.is_none() => Some(pod),
            _ => None,
        };
        Some(Question { from, name: name.clone(), kind: *kind })
    }

    fn probe(&self) -> Probe {
        match &self.to {
            Aim::Address(to) if to.protocol == Protocol::Udp => Probe::Udp {
                address: to.socket(),
                payload: "{index}".to_owned(),
                source_port: None,
                keep_socket: true,
            },
            Aim::Address(to) => http(to.socket()),
            Aim::Name { name, kind, server } => Probe::Dns {
                server: *server,
                name: name.clone(),
                record_type: type_name(*kind).to_owned(),
                tcp: false,
                search: server.is_none(),
            },
        }
    }
}

impl Clients {
    /// Begins all of them: each begins a call once an `interval`, and gives one up after `timeout`.
    ///
    /// # Errors
    /// If there is no such vantage, or its agent was lost.
    pub fn begin(
        vantages: &Vantages,
        clients: Vec<Client>,
        interval: Duration,
        timeout: Duration,
    ) -> anyhow::Result<Self> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let begin = |client: Client| {
            let agent = vantages.agent(&client.from)?;
            // A datagram socket that is kept serves one call at a time.
            let is_udp = matches!(&client.to, Aim::Address(to) if to.protocol == Protocol::Udp);
            let spec = Workload {
                probe: client.probe(),
                count: None,
                interval_ms: millis(interval).max(1),
                concurrency: if is_udp { 1 } else { 4 },
                timeout_ms: millis(timeout),
            };
            let running = agent.begin(spec)?;
            Ok(Standing { client, running, clock: agent.clock(), agent })
        };
        let standing = clients.into_iter().map(begin).collect::<anyhow::Result<_>>()?;
        Ok(Self { standing, begun: tokio::time::Instant::now() })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.standing.len()
    }

    /// Ends all of them, and brings in what they saw. Those whose agent was lost are told by name.
    pub async fn stop(self, bound: Duration) -> Harvests {
        self.standing.iter().for_each(|standing| standing.running.stop());
        let deadline = tokio::time::Instant::now() + bound;
        let elapsed = self.begun.elapsed();
        let mut harvests = Harvests::default();
        for Standing { client, running, agent, clock } in self.standing {
            let who = format!("{} calling {}", client.from, client.label);
            let outcomes = match tokio::time::timeout_at(deadline, running.outcomes()).await {
                Ok(Ok(outcomes)) => outcomes,
                Ok(Err(error)) => {
                    harvests.lost.push(format!("{who}: {error:#}"));
                    continue;
                }
                Err(_) => {
                    harvests.lost.push(format!("{who}: its results did not come within {bound:?}"));
                    continue;
                }
            };
            match (clock, agent.clock()) {
                (first, Some(last)) => {
                    let clock = all_the_time(first.unwrap_or(last), last, elapsed);
                    harvests.of.push(Harvest { client, outcomes, clock });
                }
                _ => harvests.lost.push(format!("{who}: the offset of its clock is not known")),
            }
        }
        harvests
    }
}

/// The offset all the time from one measurement to the other: the better one of the two, as far as
/// clocks may come apart meanwhile.
fn all_the_time(first: ClockOffset, last: ClockOffset, elapsed: Duration) -> ClockOffset {
    let better = if last.within_us <= first.within_us { last } else { first };
    let drift_us = elapsed.as_secs().saturating_mul(DRIFT_US);
    ClockOffset { within_us: better.within_us.saturating_add(drift_us), ..better }
}

impl Harvest {
    /// The calls, on the harness's clock, as `vantage` calling where the timeline says what is
    /// allowed.
    pub fn calls(&self, timeline: usize, vantage: u32, backends: &mut Backends) -> Calls {
        let mut all = Calls::default();
        for (index, outcome) in self.outcomes.iter().enumerate() {
            let seen = match backends.answer(&outcome.seen) {
                Ok(seen) => seen,
                Err(error) => {
                    *all.could_not_look.entry(error.to_string()).or_default() += 1;
                    continue;
                }
            };
            let (start_us, end_us, uncertainty_us) = self.times(outcome);
            all.calls.push(Call { timeline, vantage, start_us, end_us, uncertainty_us, seen });
            all.outcomes.push(index);
        }
        all
    }

    /// The questions, on the harness's clock.
    pub fn asks(&self, timeline: usize) -> Asks {
        let mut all = Asks::default();
        for (index, outcome) in self.outcomes.iter().enumerate() {
            let seen = match reply(&outcome.seen) {
                Ok(seen) => seen,
                Err(why) => {
                    *all.could_not_look.entry(why).or_default() += 1;
                    continue;
                }
            };
            let (start_us, end_us, uncertainty_us) = self.times(outcome);
            all.asked.push(Asked { timeline, start_us, end_us, uncertainty_us, seen });
            all.outcomes.push(index);
        }
        all
    }

    /// When an outcome's call began and ended on the harness's clock, and by how much that may be
    /// off.
    pub fn times(&self, outcome: &Outcome) -> (i64, i64, i64) {
        let ours = |theirs: u64| i64::try_from(theirs).unwrap_or(i64::MAX).saturating_add(self.clock.add_us);
        let within = i64::try_from(self.clock.within_us).unwrap_or(i64::MAX);
        (ours(outcome.started_us), ours(outcome.finished_us), within)
    }
}

/// What came of a question in the model's words; an error if it was not asked.
fn reply(seen: &Seen) -> Result<Reply, String> {
    Ok(match seen {
        Seen::Resolved(resolved) => Reply::Answered {
            code: code(&resolved.code),
            records: records(resolved).map_err(|error| format!("{error:#}"))?,
        },
        Seen::CouldNotLook { error } => return Err(error.clone()),
        Seen::TimedOut { phase: Phase::Connect | Phase::Answer }
        | Seen::Refused
        | Seen::Reset
        | Seen::Closed
        | Seen::Connected
        | Seen::Unreachable { .. } => Reply::Silent,
        Seen::Answered(_) | Seen::Garbled { .. } => {
            Reply::Answered { code: Code::Other(u16::MAX), records: BTreeSet::new() }
        }
    })
}

#[cfg(test)]
mod tests {
    use stickler_pods::protocol::Answer;

    use super::*;
    use crate::history;

    fn harvest(seen: Vec<Seen>) -> Harvest {
        let outcome = |(index, seen): (usize, Seen)| {
            let started_us = 1_000 + 100 * index as u64;
            Outcome { started_us, finished_us: started_us + 10, from: None, seen }
        };
        Harvest {
            client: Client {
                from: Vantage::Outside,
                label: "`web`".to_owned(),
                to: Aim::Address("192.168.199.10:30080".parse().expect("an address")),
            },
            outcomes: seen.into_iter().enumerate().map(outcome).collect(),
            clock: ClockOffset { add_us: -500, within_us: 7 },
        }
    }

    #[test]
    fn calls_are_told_on_the_harness_clock_with_its_doubt() {
        let answer = Answer { hostname: Some("web-0".to_owned()), ..Answer::default() };
        let harvest = harvest(vec![
            Seen::Answered(answer),
            Seen::CouldNotLook { error: "no port".to_owned() },
            Seen::Refused,
        ]);
        let mut backends = Backends::new();
        let calls = harvest.calls(3, 1, &mut backends);
        assert_eq!(calls.outcomes, [0, 2]);
        assert_eq!(calls.could_not_look.values().sum::<u64>(), 1);
        let by = history::Answer::By(backends.id("web-0"));
        let call = |start_us, seen| Call {
            timeline: 3,
            vantage: 1,
            start_us,
            end_us: start_us + 10,
            uncertainty_us: 7,
            seen,
        };
        assert_eq!(calls.calls, [call(500, by), call(700, history::Answer::Refused)]);
    }

    #[test]
    fn the_better_measurement_holds_as_far_as_clocks_drift() {
        let at = |add_us, within_us| ClockOffset { add_us, within_us };
        let minute = Duration::from_secs(60);
        assert_eq!(all_the_time(at(100, 5), at(140, 9_000), minute), at(100, 30_005));
        assert_eq!(all_the_time(at(100, 9_000), at(140, 5), minute), at(140, 30_005));
    }
}
