//! Witnesses: clients that call while operations happen; every answer must have been allowed at some
//! instant within the bound.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::bail;
use stickler_model::{Destination, ObjectKey, Protocol, RecordType, Reply};
use stickler_reports::Finding;

use super::table::Table;
use crate::Scene;
use crate::chronicle::{Change, Chronicle, Object, Place, Question, Recording, What};
use crate::clients::{Aim, Client, Clients, Harvest};
use crate::history::{Answer, Backends, History, check, check_names};
use crate::truth::address::At;
use crate::vantage::Vantage;

/// Between two calls of one client: often enough to meet a change, and seldom enough to leave the
/// machine to the table.
const CALL_EVERY: Duration = Duration::from_millis(50);

/// The clients of a case, and the record of what was promised meanwhile.
pub(crate) struct Witnesses {
    recording: Recording,
    clients: Vec<Clients>,
    called: BTreeSet<Destination>,
    asked: BTreeSet<String>,
    /// The cluster's DNS may have been away for a while.
    names_unanswered: bool,
}

/// What they saw that was never allowed, and when.
pub(crate) struct Testimony {
    pub(crate) at_us: i64,
    pub(crate) finding: Finding,
}

impl Witnesses {
    /// Begins to record what is promised.
    ///
    /// # Errors
    /// If the objects cannot be followed.
    pub(crate) async fn open(scene: &Scene) -> anyhow::Result<Self> {
        let namespaces = [scene.namespace(), scene.vantages().namespace()];
        let recording = Recording::open(&scene.client(), &namespaces, scene.bounds().request).await?;
        let (called, asked) = (BTreeSet::new(), BTreeSet::new());
        Ok(Self { recording, clients: Vec::new(), called, asked, names_unanswered: false })
    }

    /// Tells that a kubelet is stopped: if the cluster's DNS is on its node, nobody may answer for
    /// names. Wrong answers are wrong even so.
    pub(crate) fn lost_a_kubelet(&mut self) {
        self.names_unanswered = true;
    }

    /// Tells that a pod's container is about to be ended by force.
    pub(crate) fn crashed(&self, scene: &Scene, pod: &str) {
        self.recording.crashed(ObjectKey::new(scene.namespace(), pod));
    }

    /// Begins to call what was not called so far, from these places.
    ///
    /// # Errors
    /// If an agent was lost.
    pub(crate) fn attend(&mut self, scene: &Scene, table: &Table, from: &[Vantage]) -> anyhow::Result<()> {
        let pods: Vec<&Vantage> = from.iter().filter(|from| matches!(from, Vantage::PodOn(_))).collect();
        let outside = from.iter().find(|from| matches!(from, Vantage::Outside));
        let nodes = scene.vantages().nodes().len().max(1);
        let mut clients = Vec::new();
        for (destination, known) in table.services() {
            // A client that keeps its flow of datagrams may keep where it led before its service
            // changed; the table has an eye on flows.
            if destination.protocol == Protocol::Udp || !self.called.insert(destination) {
                continue;
            }
            // One client for each: pods of one node after the other for cluster IPs, for others from
            // outside if there is an outside. One node of all is enough for a port: the others are in
            // the table.
            let turn = self.called.len().checked_rem(pods.len()).and_then(|turn| pods.get(turn).copied());
            let caller = match known.at {
                At::ClusterIp => turn,
                At::Node(index) if index != usize::from(destination.port) % nodes => continue,
                At::Node(_) | At::ExternalIp | At::LoadBalancer => outside.or(turn),
            };
            clients.extend(caller.map(|from| Client {
                from: from.clone(),
                label: format!("{} ({destination})", known.label),
                to: Aim::Address(destination),
            }));
        }
        for name in table.names() {
            if let Some(from) = pods.first()
                && self.asked.insert(name.to_owned())
            {
                // With a dot at its end it is whole.
                let to = Aim::Name { name: format!("{name}."), kind: RecordType::A, server: None };
                clients.push(Client { from: (*from).clone(), label: format!("`{name}`"), to });
            }
        }
        if !clients.is_empty() {
            let begun = Clients::begin(scene.vantages(), clients, CALL_EVERY, scene.bounds().call)?;
            self.clients.push(begun);
        }
        Ok(())
    }

    /// Ends all clients, and judges what they saw; those that called where it is `excused` are not judged.
    ///
    /// # Errors
    /// If what they saw, or what was promised meanwhile, is not known.
    pub(crate) async fn testify(
        self,
        scene: &Scene,
        bound: Duration,
        excused: &BTreeSet<Destination>,
    ) -> anyhow::Result<Option<Testimony>> {
        let stopped = self.clients.into_iter().map(|clients| clients.stop(scene.bounds().agent));
        let mut harvests = Vec::new();
        for stopped in futures::future::join_all(stopped).await {
            if let Some(lost) = stopped.lost.into_iter().next() {
                bail!("a client was lost: {lost}");
            }
            harvests.extend(stopped.of.into_iter().filter(|harvest| match harvest.client.to {
                Aim::Address(to) => !excused.contains(&to),
                Aim::Name { .. } => true,
            }));
        }
        let chronicle = self.recording.chronicle().await?;
        let closed = self.recording.close().await;
        if let Some(gap) = chronicle.gaps.first() {
            bail!("what was promised meanwhile is not known for certain: {gap}");
        }
        closed?;
        Ok(first_breach(scene, &with_ends(chronicle), &harvests, bound, self.names_unanswered))
    }
}

/// A pod that is deleted ends as its process does, and no proxy has heard of it by then: where it is
/// one of those that may answer, calls may fail from the moment it is asked to end
/// ([Pod Lifecycle, "Termination of Pods"](https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination):
/// "At the same time as the kubelet is starting graceful shutdown of the Pod, the control plane
/// evaluates whether to remove that shutting-down Pod from EndpointSlice objects").
fn with_ends(mut chronicle: Chronicle) -> Chronicle {
    let mut ending: BTreeSet<ObjectKey> = BTreeSet::new();
    let mut changes = Vec::with_capacity(chronicle.changes.len());
    for change in chronicle.changes {
        let ends = match &change.what {
            What::Put(Object::Pod(pod)) => pod.metadata.deletion_timestamp.is_some(),
            What::Gone(Object::Pod(_)) => true,
            _ => false,
        };
        if let (true, What::Put(object) | What::Gone(object)) = (ends, &change.what)
            && ending.insert(object.key())
        {
            let what = What::Crashed(object.key());
            changes.push(Change { earliest_us: change.earliest_us, latest_us: change.latest_us, what });
        }
        changes.push(change);
    }
    chronicle.changes = changes;
    chronicle
}

fn first_breach(
    scene: &Scene,
    chronicle: &Chronicle,
    harvests: &[Harvest],
    bound: Duration,
    names_unanswered: bool,
) -> Option<Testimony> {
    let promises = scene.cluster.promises();
    let bound_us = i64::try_from(bound.as_micros()).unwrap_or(i64::MAX);
    let mut backends = Backends::new();
    let (mut places, mut questions): (Vec<Place>, Vec<Question>) = Default::default();
    let (mut calls, mut callers) = (Vec::new(), Vec::new());
    let (mut asked, mut askers) = (Vec::new(), Vec::new());
    for harvest in harvests {
        if let Some(place) = harvest.client.place(scene.vantages()) {
            let made = harvest.calls(places.len(), 0, &mut backends);
            callers.extend(std::iter::repeat_n(harvest, made.calls.len()));
            calls.extend(made.calls);
            places.push(place);
        }
        if let Some(question) = harvest.client.question(scene.vantages()) {
            let mut made = harvest.asks(questions.len()).asked;
            made.retain(|asked| !names_unanswered || asked.seen != Reply::Silent);
            askers.extend(std::iter::repeat_n(harvest, made.len()));
            asked.extend(made);
            questions.push(question);
        }
    }
    let timelines = chronicle.timelines(promises, &places, &mut backends);
    let history = History { timelines, calls };
    let names = chronicle.names(promises, &questions);
    let mut breaches: BTreeMap<i64, Finding> = BTreeMap::new();
    for violation in check(&history, bound_us).violations {
        let (call, client) = (history.calls[violation.call], &callers[violation.call].client);
        let allowed: Vec<&str> =
            violation.allowed_then.backends().iter().filter_map(|id| backends.name(*id)).collect();
        let promised = if allowed.is_empty() { "nobody".to_owned() } else { allowed.join(", ") };
        breaches.entry(call.start_us).or_insert_with(|| Finding {
            promised: format!(
                "while operations happen, from {} {} is answered as was promised at some instant of the \
                 last {bound:?}; when it was called, by {promised}",
                client.from, client.label
            ),
            observed: format!(
                "{} calling {} {}; {}",
                client.from,
                client.label,
                in_words(call.seen, &backends),
                needed(violation.needed_us)
            ),
        });
    }
    for wrong in check_names(&names, &asked, bound_us).wrong {
        let (call, client) = (&asked[wrong.call], &askers[wrong.call].client);
        breaches.entry(call.start_us).or_insert_with(|| Finding {
            promised: format!(
                "while operations happen, {} resolves as was promised at some instant of the last \
                 {bound:?}; when it was asked for: {}",
                client.label, wrong.allowed_then
            ),
            observed: format!(
                "{} asking for {}: {}; {}",
                client.from,
                client.label,
                call.seen,
                needed(wrong.needed_us)
            ),
        });
    }
    breaches.into_iter().next().map(|(at_us, finding)| Testimony { at_us, finding })
}

fn needed(needed_us: Option<i64>) -> String {
    match needed_us {
        Some(needed) => format!("it was last promised {} ms before", needed / 1000),
        None => "it was never promised before".to_owned(),
    }
}

fn in_words(seen: Answer, backends: &Backends) -> String {
    match seen {
        Answer::By(id) => format!("was answered by `{}`", backends.name(id).unwrap_or("somebody")),
        Answer::Stranger => "was answered by a stranger".to_owned(),
        Answer::Refused => "was refused".to_owned(),
        Answer::Silent => "got no answer".to_owned(),
        Answer::Reset => "was reset".to_owned(),
        Answer::Unreachable => "was told that there is no way there".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use stickler_model::World;

    use super::*;

    fn pod(extra: &str) -> Object {
        let world = World::from_yaml(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a{extra}}}\nspec: {{nodeName: kube1, containers: []}}\n"
        ))
        .expect("a pod");
        Object::Pod(Box::new(world.pods.into_values().next().expect("one")))
    }

    #[test]
    fn a_pod_may_fail_from_the_moment_it_is_asked_to_end_and_is_told_once() {
        let going = || pod(", deletionTimestamp: \"2026-01-01T00:00:00Z\"");
        let change = |at, what| Change { earliest_us: at, latest_us: at + 1, what };
        let chronicle = with_ends(Chronicle {
            changes: vec![
                change(10, What::Put(pod(""))),
                change(20, What::Put(going())),
                change(30, What::Put(going())),
                change(40, What::Gone(going())),
            ],
            ..Chronicle::default()
        });
        let crashes: Vec<_> = chronicle
            .changes
            .iter()
            .enumerate()
            .filter(|(_, change)| matches!(change.what, What::Crashed(_)))
            .map(|(index, change)| (index, change.earliest_us))
            .collect();
        assert_eq!(crashes, [(1, 20)]);
        assert_eq!(chronicle.changes.len(), 5);
    }
}
