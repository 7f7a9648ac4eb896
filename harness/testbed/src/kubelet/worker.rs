//! One pod: brings its containers to what the API says, and the API to what the containers are.

mod away;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{self as core, Pod, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::container::Container;
use super::events::Tone;
use super::host_port::host_ports;
use super::image::Images;
use super::node::Node;
use super::preparation::{container_spec, host_network, make_sandbox, release};
use super::probe::{Probes, Purpose, Subject, Verdict};
use super::sandbox::Sandbox;
use super::spawn::Exit;
use super::status::{self, ContainerView, Ended, PodView, Role, State};
use super::stopping::Stop;
use super::volumes::{REFRESH, Volumes};
use crate::bugs::Bug;

/// The first pause before a restart that is not the first, and the longest one
/// ([Pod Lifecycle, "Container restart policy"](https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy)).
const FIRST_BACK_OFF: Duration = Duration::from_secs(10);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(300);
/// "Once a container has executed for 10 minutes without any problems, the kubelet resets" it.
const GOOD_RUN: Duration = Duration::from_secs(600);
/// How soon something is tried again that failed outside the pod.
const RETRY: Duration = Duration::from_secs(1);
/// Sooner, for the objects a new namespace is born with come right after it.
const VOLUME_RETRY: Duration = Duration::from_millis(200);
/// What a pod is granted unless it says otherwise.
const GRACE: i64 = 30;

/// What the API says about a pod.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    /// It is there, perhaps being deleted.
    Present(Arc<Pod>),
    /// It was removed without waiting for us.
    Gone,
}

/// Runs one pod until it is gone, or until `stop` is cancelled: then what is known about it is
/// returned, and its processes go on.
pub(crate) async fn run(
    node: Arc<Node>,
    asleep: Option<Worker>,
    wanted: watch::Receiver<Wanted>,
    stop: CancellationToken,
) -> Option<Worker> {
    let first = wanted.borrow().clone();
    let mut worker = match (asleep, first) {
        (Some(mut worker), Wanted::Present(pod)) => {
            worker.wake(pod);
            worker
        }
        (Some(mut worker), Wanted::Gone) => {
            worker.clear().await;
            return None;
        }
        (None, Wanted::Present(pod)) => Worker::new(node, pod),
        (None, Wanted::Gone) => return None,
    };
    if worker.work(wanted, &stop).await == Over::Stopped {
        worker.fall_asleep();
        return Some(worker);
    }
    worker.clear().await;
    tracing::debug!(pod = full_name(&worker.pod), "pod is gone");
    None
}

/// Why the work on a pod is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Gone,
    Stopped,
}

pub(crate) struct Worker {
    node: Arc<Node>,
    pod: Arc<Pod>,
    started: Timestamp,
    sandbox: Option<Sandbox>,
    ip: Option<Ipv4Addr>,
    volumes: Volumes,
    /// When the contents of the volumes are to be looked up again; none before they are there.
    refresh: Option<Instant>,
    /// When to try again what failed outside the pod.
    retry: Option<Instant>,
    slots: Vec<Slot>,
    /// The status the API server has confirmed.
    reported: Option<PodStatus>,
    /// The version of the pod after that report.
    reported_version: u64,
    /// When to say again what somebody contradicted, and when that was done last.
    mend: Option<Instant>,
    mended: Option<Instant>,
    /// The pod had ended before we saw it.
    final_already: bool,
    terminating: Option<Terminating>,
    exits: mpsc::UnboundedReceiver<End>,
    exited: mpsc::UnboundedSender<End>,
    verdicts: mpsc::UnboundedReceiver<Verdict>,
    judges: mpsc::UnboundedSender<Verdict>,
}

/// A container's process ended: which one, how and when.
struct End {
    slot: usize,
    exit: Exit,
    at: Timestamp,
}

struct Terminating {
    deadline: Instant,
    grace: i64,
    killed: bool,
}

/// One container of the pod.
struct Slot {
    spec: core::Container,
    view: ContainerView,
    running: Option<Container>,
    /// The pause before the next restart; none before the first.
    back_off: Option<Duration>,
    /// When to start; none while it runs or when it shall not.
    due: Option<Instant>,
    probes: Option<Probes>,
    /// It is being ended because a probe failed, and shall run again whatever its code is.
    unwell: bool,
}

impl Worker {
    fn new(node: Arc<Node>, pod: Arc<Pod>) -> Self {
        let (exited, exits) = mpsc::unbounded_channel();
        let (judges, verdicts) = mpsc::unbounded_channel();
        let spec = pod.spec.clone().unwrap_or_default();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let final_already = matches!(phase, Some("Succeeded" | "Failed"));
        let inits = spec.init_containers.unwrap_or_default();
        let waiting = if inits.is_empty() { "ContainerCreating" } else { "PodInitializing" };
        let inits = inits.into_iter().map(|container| {
            let stays = container.restart_policy.as_deref() == Some("Always");
            (if stays { Role::Sidecar } else { Role::Init }, container)
        });
        let apps = spec.containers.into_iter().map(|container| (Role::App, container));
        let slots =
            inits.chain(apps).map(|(role, spec)| Slot::new(role, spec, waiting, &node.images)).collect();
        Self {
            started: Timestamp::now(),
            sandbox: None,
            ip: None,
            volumes: Volumes::new(&pod),
            refresh: None,
            retry: None,
            slots,
            reported: pod.status.clone().filter(|status| status.start_time.is_some()),
            reported_version: status::version(&pod),
            mend: None,
            mended: None,
            final_already,
            terminating: None,
            exits,
            exited,
            verdicts,
            judges,
            node,
            pod,
        }
    }

    async fn work(&mut self, mut wanted: watch::Receiver<Wanted>, stop: &CancellationToken) -> Over {
        while !stop.is_cancelled() {
            self.retry = self.retry.filter(|retry| *retry > Instant::now());
            if self.pod.metadata.deletion_timestamp.is_some() {
                self.terminate();
                if self.all_ended() && self.remove().await {
                    // The watch will say so too.
                    return Over::Gone;
                }
            } else if !self.final_already {
                self.advance().await;
            }
            self.report().await;
            let timer = self.next_timer();
            tokio::select! {
                changed = wanted.changed() => {
                    let now = wanted.borrow_and_update().clone();
                    match now {
                        Wanted::Present(pod) if changed.is_ok() => self.see(pod),
                        _ => return Over::Gone,
                    }
                }
                Some(end) = self.exits.recv() => self.ended(&end),
                Some(verdict) = self.verdicts.recv() => self.judged(&verdict),
                () = until(timer) => {}
                () = stop.cancelled() => {}
            }
        }
        Over::Stopped
    }

    /// Starts what shall run and may.
    async fn advance(&mut self) {
        if self.sandbox.is_none() {
            if self.retry.is_some() {
                return;
            }
            let make = make_sandbox(Arc::clone(&self.node), Arc::clone(&self.pod));
            let (made, ()) = tokio::join!(make, self.report());
            match made {
                Ok((sandbox, ip)) => {
                    self.sandbox = Some(sandbox);
                    self.ip = Some(ip);
                }
                Err(error) => {
                    self.retry = Some(Instant::now() + RETRY);
                    let message = format!("Failed to create pod sandbox: {error:#}");
                    self.warn(None, "FailedCreatePodSandBox", message);
                    for slot in &mut self.slots {
                        slot.wait("ContainerCreating", Some(format!("{error:#}")));
                    }
                    return;
                }
            }
        }
        if self.refresh.is_none_or(|due| due <= Instant::now()) && !self.fill_volumes().await {
            return;
        }
        for index in 0..self.slots.len() {
            if self.slots[index].due.is_some_and(|due| due <= Instant::now()) {
                self.start(index).await;
            }
            // Init containers go one after the other, and all before the others.
            if !self.slots[index].view.lets_others_start() {
                return;
            }
        }
    }

    /// Makes the volumes or renews what is in them; false while containers cannot start without.
    async fn fill_volumes(&mut self) -> bool {
        let Some(sandbox) = &self.sandbox else { return false };
        if self.retry.is_some() {
            return self.refresh.is_some();
        }
        let place = self.node.place(sandbox, self.ip);
        let filled = self.volumes.fill(&self.node.client, &self.pod, &place).await;
        let first = self.refresh.is_none();
        match filled {
            Ok(()) => {
                // Far away means never.
                let pause = if Volumes::may_change(&self.pod) { REFRESH } else { REFRESH * 60 * 24 * 365 };
                self.refresh = Some(Instant::now() + pause);
            }
            Err(error) => {
                let message = format!("{error:#}");
                self.warn(None, "FailedMount", message.clone());
                if first {
                    self.retry = Some(Instant::now() + VOLUME_RETRY);
                    for slot in &mut self.slots {
                        slot.wait("ContainerCreating", Some(message.clone()));
                    }
                    return false;
                }
                // What was there stays.
                self.refresh = Some(Instant::now() + REFRESH);
            }
        }
        true
    }

    async fn start(&mut self, index: usize) {
        let (node, pod) = (Arc::clone(&self.node), Arc::clone(&self.pod));
        let (Some(sandbox), slot) = (&self.sandbox, &mut self.slots[index]) else { return };
        let Some(image) = node.images.find(&slot.view.image) else {
            let (reason, message) = slot.miss_image(&node.images);
            return self.warn(Some(index), reason, message);
        };
        let place = node.place(sandbox, self.ip);
        let spec = match container_spec(&node, &pod, &slot.spec, image, &place, &self.volumes).await {
            Ok(spec) => spec,
            Err(error) => {
                slot.due = Some(Instant::now() + RETRY);
                slot.wait("CreateContainerConfigError", Some(format!("{error:#}")));
                return self.warn(Some(index), "Failed", format!("Error: {error:#}"));
            }
        };
        if !matches!(slot.view.state, State::Waiting { .. }) || slot.view.last.is_some() {
            slot.view.restarts += 1;
            let longer = slot.back_off.map(|pause| (pause * 2).min(LONGEST_BACK_OFF));
            slot.back_off = Some(longer.unwrap_or(FIRST_BACK_OFF));
        }
        if let State::Terminated(ended) = &slot.view.state {
            slot.view.last = Some(ended.clone());
        }
        let id = format!("stickler://{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        slot.view.id = Some(id.clone());
        slot.due = None;
        slot.unwell = false;
        slot.view.started = slot.spec.startup_probe.is_none();
        slot.view.ready = slot.spec.readiness_probe.is_none();
        match node.runtime.start(sandbox, spec).await {
            Ok(container) => {
                slot.view.state = State::Running { since: Timestamp::now() };
                slot.running = Some(container.clone());
                self.begin_probes(index, Instant::now());
                let slot = &self.slots[index];
                node.records.started(&pod, &slot.view.name, container.clone());
                let exited = self.exited.clone();
                tokio::spawn(async move {
                    // The worker may have gone, and then nobody wants to know.
                    let exit = container.wait().await;
                    let _ = exited.send(End { slot: index, exit, at: Timestamp::now() });
                });
                let (image, name) = (slot.view.image.clone(), slot.view.name.clone());
                let present = format!("Container image \"{image}\" already present on machine");
                self.note(index, "Pulled", present);
                self.note(index, "Created", format!("Container created: {name}"));
                self.note(index, "Started", format!("Container started: {name}"));
            }
            Err(failure) => {
                slot.view.state = State::Terminated(Ended {
                    code: 128,
                    reason: "StartError",
                    message: Some(failure.to_string()),
                    started: None,
                    finished: Timestamp::now(),
                    id: Some(id),
                });
                self.warn(Some(index), "Failed", format!("Error: failed to start container: {failure}"));
                self.restart_or_not(index);
            }
        }
    }

    /// Looks from now on whether a container that runs since then is well.
    fn begin_probes(&mut self, index: usize, since: Instant) {
        let slot = &mut self.slots[index];
        let (Some(container), Some(run)) = (&slot.running, &slot.view.id) else { return };
        if slot.view.role == Role::Init {
            return;
        }
        let subject = Subject {
            node: Arc::clone(&self.node),
            pod: Arc::clone(&self.pod),
            spec: slot.spec.clone(),
            container: container.clone(),
            address: self.ip.unwrap_or(self.node.ip),
            slot: index,
            run: run.clone(),
            since,
            started: slot.view.started,
            ready: slot.view.ready,
        };
        slot.probes = Some(Probes::begin(subject, self.judges.clone()));
    }

    fn ended(&mut self, end: &End) {
        let &End { slot: index, ref exit, at: finished } = end;
        let Some(slot) = self.slots.get_mut(index) else { return };
        let started = match slot.view.state {
            State::Running { since } => Some(since),
            _ => None,
        };
        let ran = started.and_then(|since| Duration::try_from(finished.duration_since(since)).ok());
        if ran.is_some_and(|ran| ran >= GOOD_RUN) {
            slot.back_off = None;
        }
        slot.running = None;
        slot.probes = None;
        self.node.records.ended(&self.pod, &slot.view.name);
        slot.view.state = State::Terminated(Ended {
            code: exit.code(),
            reason: if exit.code() == 0 { "Completed" } else { "Error" },
            message: None,
            started,
            finished,
            id: slot.view.id.clone(),
        });
        self.restart_or_not(index);
    }

    /// Follows what a probe found out.
    fn judged(&mut self, verdict: &Verdict) {
        let Some(slot) = self.slots.get_mut(verdict.slot) else { return };
        // What is known about an earlier run says nothing about this one.
        if slot.running.is_none() || slot.view.id.as_ref() != Some(&verdict.run) {
            return;
        }
        match (verdict.purpose, verdict.well) {
            (Purpose::Readiness, ready) => slot.view.ready = ready,
            (Purpose::Startup, true) => {
                slot.view.started = true;
                if let Some(probes) = slot.probes.as_mut().filter(|_| self.terminating.is_none()) {
                    probes.started();
                }
            }
            (Purpose::Liveness, true) => {}
            (Purpose::Liveness, false) if self.node.bugs.has(Bug::LivenessNeverRestarts) => {}
            (purpose, false) => self.end_unwell(verdict.slot, purpose),
        }
    }

    /// Ends a container that failed a probe on which its life depends; its end decides about the rest.
    fn end_unwell(&mut self, index: usize, purpose: Purpose) {
        let restarts = status::restart_policy(&self.pod) != "Never";
        let pods_own = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        let slot = &mut self.slots[index];
        let Some(container) = slot.running.clone().filter(|_| self.terminating.is_none()) else { return };
        slot.unwell = true;
        let probe = match purpose {
            Purpose::Startup => slot.spec.startup_probe.as_ref(),
            _ => slot.spec.liveness_probe.as_ref(),
        };
        let grace = probe.and_then(|probe| probe.termination_grace_period_seconds).or(pods_own);
        let grace = Duration::from_secs(grace.unwrap_or(GRACE).max(0).unsigned_abs());
        let stop = Stop {
            node: Arc::clone(&self.node),
            container,
            spec: slot.spec.clone(),
            address: self.ip.unwrap_or(self.node.ip),
            deadline: Instant::now() + grace,
        };
        tokio::spawn(async move { stop.ask_and_force().await });
        let (name, kind) = (&slot.view.name, format!("{purpose:?}").to_lowercase());
        let then = if restarts { ", will be restarted" } else { "" };
        let message = format!("Container {name} failed {kind} probe{then}");
        self.note(index, "Killing", message);
    }

    fn note(&self, index: usize, reason: &'static str, message: String) {
        let name = self.slots.get(index).map(|slot| slot.view.name.as_str());
        self.node.events.tell(&self.pod, name, Tone::Normal, reason, message);
    }

    fn warn(&self, index: Option<usize>, reason: &'static str, message: String) {
        let slot = index.and_then(|index| self.slots.get(index));
        let name = slot.map(|slot| slot.view.name.as_str());
        self.node.events.tell(&self.pod, name, Tone::Warning, reason, message);
    }

    /// Decides about a container that has just ended.
    fn restart_or_not(&mut self, index: usize) {
        let policy = status::restart_policy(&self.pod);
        let slot = &mut self.slots[index];
        let State::Terminated(ended) = &slot.view.state else { return };
        let again = match (slot.view.role, policy) {
            (Role::Sidecar, _) => true,
            (Role::App, "Always") => true,
            (_, policy) if slot.unwell => policy != "Never",
            (_, "Never") => false,
            (Role::Init, _) | (_, "OnFailure") => ended.code != 0,
            _ => true,
        };
        if !again || self.terminating.is_some() {
            return;
        }
        let now = Instant::now();
        match slot.back_off {
            None => slot.due = Some(now),
            Some(pause) => {
                let ended = ended.clone();
                slot.due = Some(now + pause);
                let (name, pod) = (&slot.view.name, &self.pod);
                let message = format!(
                    "back-off {} restarting failed container={name} pod={}",
                    go_duration(pause),
                    full_name(pod)
                );
                slot.view.last = Some(ended);
                slot.view.state = State::Waiting { reason: "CrashLoopBackOff", message: Some(message) };
                let message =
                    format!("Back-off restarting failed container {name} in pod {}", full_name(pod));
                self.warn(Some(index), "BackOff", message);
            }
        }
    }

    /// Asks the containers to end, and makes them when the time is over
    /// ([Pod Lifecycle, "Pod termination flow"](https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination-flow)).
    fn terminate(&mut self) {
        let grace = self.pod.metadata.deletion_grace_period_seconds.unwrap_or(GRACE).max(0);
        let deadline = Instant::now() + Duration::from_secs(grace.unsigned_abs());
        match &mut self.terminating {
            // A second request may shorten the time, never lengthen it.
            Some(terminating) if grace < terminating.grace => {
                terminating.grace = grace;
                terminating.deadline = terminating.deadline.min(deadline);
            }
            Some(_) => {}
            None => {
                self.terminating = Some(Terminating { deadline, grace, killed: false });
                for slot in &mut self.slots {
                    slot.due = None;
                    match (&slot.running, &slot.view.last) {
                        (Some(container), _) => {
                            let stop = Stop {
                                node: Arc::clone(&self.node),
                                container: container.clone(),
                                spec: slot.spec.clone(),
                                address: self.ip.unwrap_or(self.node.ip),
                                deadline,
                            };
                            tokio::spawn(async move { stop.ask().await });
                            if let Some(probes) = &mut slot.probes {
                                probes.terminating();
                            }
                            let message = format!("Stopping container {}", slot.view.name);
                            let name = Some(slot.view.name.as_str());
                            self.node.events.tell(&self.pod, name, Tone::Normal, "Killing", message);
                        }
                        // What waits for its next run has ended.
                        (None, Some(ended)) if matches!(slot.view.state, State::Waiting { .. }) => {
                            slot.view.state = State::Terminated(ended.clone());
                        }
                        _ => {}
                    }
                }
            }
        }
        if let Some(terminating) = &mut self.terminating
            && !terminating.killed
            && Instant::now() >= terminating.deadline
        {
            terminating.killed = true;
            self.kill();
        }
    }

    fn kill(&self) {
        for container in self.slots.iter().filter_map(|slot| slot.running.as_ref()) {
            if let Err(error) = container.process().signal(libc::SIGKILL) {
                tracing::warn!(%error, pod = self.pod.name_any(), "cannot kill a container");
            }
        }
    }

    fn all_ended(&self) -> bool {
        self.slots.iter().all(|slot| slot.running.is_none())
    }

    /// Says how the pod ended and takes it out of the API; true when that is done.
    async fn remove(&mut self) -> bool {
        if self.retry.is_some() {
            return false;
        }
        if !self.final_already {
            self.report().await;
        }
        self.clear().await;
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: self.pod.uid(), resource_version: None }),
            ..DeleteParams::default()
        };
        let deleted = self.api().delete(&self.pod.name_any(), &parameters).await;
        match deleted {
            Ok(_) => true,
            // Not there, or another pod of that name: in both cases ours is gone.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => true,
            Err(error) => {
                tracing::warn!(%error, pod = self.pod.name_any(), "cannot delete a pod that has ended");
                self.retry = Some(Instant::now() + RETRY);
                false
            }
        }
    }

    /// Ends everything of the pod on this node.
    async fn clear(&mut self) {
        self.kill();
        while !self.all_ended() {
            match timeout(Duration::from_secs(5), self.exits.recv()).await {
                Ok(Some(end)) => {
                    self.terminating.get_or_insert_with(|| Terminating {
                        deadline: Instant::now(),
                        grace: 0,
                        killed: true,
                    });
                    self.ended(&end);
                }
                _ => break,
            }
        }
        self.node.records.forget(&self.pod);
        if let Some(sandbox) = self.sandbox.take()
            && !host_network(&self.pod)
            && let Some(ip) = self.ip
        {
            release(&self.node, &sandbox, ip, &host_ports(&self.pod)).await;
        }
    }

    /// Sends the status if it differs from what was sent last.
    async fn report(&mut self) {
        if self.final_already {
            return;
        }
        let views: Vec<_> = self.slots.iter().map(|slot| slot.view.clone()).collect();
        let view = PodView {
            host_ip: self.node.ip,
            pod_ip: self.ip,
            started: self.started,
            over: self.terminating.is_some() && self.all_ended(),
            containers: &views,
            now: Timestamp::now(),
        };
        if self.mend.is_some_and(|due| due <= Instant::now()) {
            self.mend = None;
            self.mended = Some(Instant::now());
            self.accept_contradiction();
        }
        let status = status::status(&self.with_our_conditions(), &view);
        if self.reported.as_ref() == Some(&status) {
            return;
        }
        let patch = status::patch(&self.pod, self.reported.as_ref(), &status);
        let name = self.pod.name_any();
        let sent = self.api().patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        match sent {
            Ok(written) => {
                self.reported = Some(status);
                self.reported_version = status::version(&written);
            }
            // It was removed or replaced: the watch will say so.
            Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => {
                self.reported = Some(status);
            }
            Err(error) => {
                tracing::warn!(%error, pod = name, "cannot report the status of a pod");
                self.retry = Some(Instant::now() + RETRY);
            }
        }
    }

    /// The pod with the conditions we reported last: the watch may not have brought them yet.
    fn with_our_conditions(&self) -> Pod {
        let mut pod = (*self.pod).clone();
        let ours = self.reported.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let seen = pod.status.get_or_insert_default().conditions.get_or_insert_default();
        let owned = |kind: &str| status::OURS.contains(&kind);
        seen.retain(|condition| {
            !owned(&condition.type_) || !ours.iter().any(|reported| reported.type_ == condition.type_)
        });
        seen.extend(ours.into_iter().filter(|condition| owned(&condition.type_)));
        pod
    }

    fn next_timer(&self) -> Option<Instant> {
        let refresh = self.refresh.filter(|due| *due > Instant::now() && self.terminating.is_none());
        let due = self.slots.iter().filter_map(|slot| slot.due);
        let deadline = self.terminating.as_ref().filter(|t| !t.killed).map(|t| t.deadline);
        // A container that is due already waits for another one, which will wake us.
        due.filter(|due| *due > Instant::now())
            .chain(deadline)
            .chain(self.retry)
            .chain(refresh)
            .chain(self.mend)
            .min()
    }

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.node.client.clone(), &self.pod.namespace().unwrap_or_default())
    }
}

impl Slot {
    fn new(role: Role, spec: core::Container, waiting: &'static str, images: &Images) -> Self {
        let image = spec.image.clone().unwrap_or_default();
        Self {
            view: ContainerView {
                name: spec.name.clone(),
                image_id: images.find(&image).map(|image| image.id()).unwrap_or_default(),
                image,
                role,
                state: State::Waiting { reason: waiting, message: None },
                last: None,
                restarts: 0,
                id: None,
                started: false,
                ready: false,
            },
            spec,
            running: None,
            back_off: None,
            due: Some(Instant::now()),
            probes: None,
            unwell: false,
        }
    }

    fn wait(&mut self, reason: &'static str, message: Option<String>) {
        self.view.state = State::Waiting { reason, message };
    }

    /// The image is not there. It will not come either, so after the first complaint there is only the
    /// state everybody knows. Returns what is to be told about it.
    fn miss_image(&mut self, images: &Images) -> (&'static str, String) {
        let image = &self.view.image;
        let there = images.names();
        let failed = matches!(&self.view.state, State::Waiting { reason: "ErrImagePull", .. });
        if self.spec.image_pull_policy.as_deref() == Some("Never") {
            let message = format!(
                "Container image \"{image}\" is not present with pull policy of Never; images here are {there}"
            );
            self.due = None;
            self.wait("ErrImageNeverPull", Some(message.clone()));
            ("ErrImageNeverPull", message)
        } else if failed {
            let message =
                format!("Back-off pulling image \"{image}\": there is no registry; images here are {there}");
            self.due = None;
            self.wait("ImagePullBackOff", Some(message.clone()));
            ("BackOff", message)
        } else {
            let message =
                format!("failed to pull image \"{image}\": there is no registry; images here are {there}");
            self.due = Some(Instant::now() + RETRY);
            self.wait("ErrImagePull", Some(message.clone()));
            ("Failed", message)
        }
    }
}

async fn until(timer: Option<Instant>) {
    match timer {
        Some(timer) => tokio::time::sleep_until(timer).await,
        None => std::future::pending().await,
    }
}

/// As it is written in messages.
fn full_name(pod: &Pod) -> String {
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
    format!("{name}_{namespace}({})", pod.uid().unwrap_or_default())
}

/// As Go prints it, for this message is known to users: `10s`, `1m20s`, `5m0s`.
fn go_duration(length: Duration) -> String {
    match (length.as_secs() / 60, length.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_printed_as_users_know_them() {
        for (seconds, text) in [(10, "10s"), (80, "1m20s"), (300, "5m0s")] {
            assert_eq!(go_duration(Duration::from_secs(seconds)), text);
        }
    }
}
