//! What a kubelet says about a pod, computed from the states of its containers.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;

/// The state of a container
/// ([Pod Lifecycle, "Container states"](https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#container-states)).
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    Waiting { reason: &'static str, message: Option<String> },
    Running { since: Timestamp },
    Terminated(Ended),
}

/// How one run of a container ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) reason: &'static str,
    pub(crate) message: Option<String>,
    pub(crate) started: Option<Timestamp>,
    pub(crate) finished: Timestamp,
    pub(crate) id: Option<String>,
}

/// What part a container plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Must end well before the next may start.
    Init,
    /// An init container that stays.
    Sidecar,
    App,
}

/// All that is known about a container.
#[derive(Clone, Debug)]
pub(crate) struct ContainerView {
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) role: Role,
    pub(crate) state: State,
    pub(crate) last: Option<Ended>,
    pub(crate) restarts: i32,
    pub(crate) id: Option<String>,
    /// The startup probe of this run has succeeded, or there is none.
    pub(crate) started: bool,
    /// The readiness probe of this run succeeds, or there is none.
    pub(crate) ready: bool,
}

impl ContainerView {
    /// Whether the container takes part in the pod's readiness now. Without probes that is whenever it
    /// runs
    /// ([Probes](https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#container-probes):
    /// "If a container does not provide a readiness probe, the default state is `Success`").
    fn ready(&self) -> bool {
        match (&self.state, self.role) {
            (State::Terminated(ended), Role::Init) => ended.code == 0,
            (State::Running { .. }, Role::Init) => false,
            (state, _) => matches!(state, State::Running { .. }) && self.started && self.ready,
        }
    }

    /// Whether the next init container, or the pod's own containers, may start.
    pub(crate) fn lets_others_start(&self) -> bool {
        match (&self.state, self.role) {
            (State::Terminated(ended), Role::Init) => ended.code == 0,
            (State::Running { .. }, Role::Sidecar) => self.started,
            (_, Role::App) => true,
            _ => false,
        }
    }

    fn status(&self) -> ContainerStatus {
        let running = matches!(self.state, State::Running { .. });
        ContainerStatus {
            name: self.name.clone(),
            image: self.image.clone(),
            image_id: self.image_id.clone(),
            container_id: self.id.clone(),
            ready: self.ready(),
            started: Some(running && self.started),
            restart_count: self.restarts,
            state: Some(state(&self.state)),
            last_state: self.last.clone().map(|ended| state(&State::Terminated(ended))),
            ..ContainerStatus::default()
        }
    }
}

fn state(state: &State) -> ContainerState {
    let mut described = ContainerState::default();
    match state {
        State::Waiting { reason, message } => {
            described.waiting =
                Some(ContainerStateWaiting { reason: Some((*reason).into()), message: message.clone() });
        }
        State::Running { since } => {
            described.running = Some(ContainerStateRunning { started_at: Some(time(*since)) });
        }
        State::Terminated(ended) => {
            described.terminated = Some(ContainerStateTerminated {
                exit_code: ended.code,
                reason: Some(ended.reason.into()),
                message: ended.message.clone(),
                // A container that never ran has the zero of Unix here, as runtimes report it.
                started_at: Some(time(ended.started.unwrap_or(Timestamp::UNIX_EPOCH))),
                finished_at: Some(time(ended.finished)),
                container_id: ended.id.clone(),
                ..ContainerStateTerminated::default()
            });
        }
    }
    described
}

/// The conditions a kubelet owns; all others are other people's.
pub(crate) const OURS: &[&str] =
    &["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// Whether the API says something else about what a kubelet owns than the kubelet reported: somebody,
/// such as the node controller, took the node for dead meanwhile.
pub(crate) fn contradicts(api: &PodStatus, reported: &PodStatus) -> bool {
    let condition = |status: &PodStatus, kind: &str| {
        let mut conditions = status.conditions.iter().flatten();
        conditions
            .find(|condition| condition.type_ == kind)
            .map(|condition| (condition.status.clone(), condition.reason.clone()))
    };
    api.phase != reported.phase || OURS.iter().any(|kind| condition(api, kind) != condition(reported, kind))
}

/// The version of an object as a number: versions of one kind are ordered
/// ([KEP-5504](https://github.com/kubernetes/enhancements/issues/5504)).
pub(crate) fn version(pod: &Pod) -> u64 {
    pod.resource_version().and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// All that is known about a pod.
#[derive(Clone, Debug)]
pub(crate) struct PodView<'a> {
    pub(crate) host_ip: Ipv4Addr,
    pub(crate) pod_ip: Option<Ipv4Addr>,
    pub(crate) started: Timestamp,
    /// It is being deleted and everything in it has ended.
    pub(crate) over: bool,
    pub(crate) containers: &'a [ContainerView],
    pub(crate) now: Timestamp,
}

/// The pod's status, with the conditions a kubelet owns.
pub(crate) fn status(pod: &Pod, view: &PodView<'_>) -> PodStatus {
    let phase = phase(pod, view);
    let (apps, inits): (Vec<_>, Vec<_>) = view.containers.iter().partition(|c| c.role == Role::App);
    let statuses = |views: &[&ContainerView]| {
        (!views.is_empty()).then(|| views.iter().map(|view| view.status()).collect::<Vec<_>>())
    };
    PodStatus {
        phase: Some(phase.into()),
        conditions: Some(conditions(pod, view, phase)),
        host_ip: Some(view.host_ip.to_string()),
        host_ips: Some(vec![HostIP { ip: view.host_ip.to_string() }]),
        pod_ip: view.pod_ip.map(|ip| ip.to_string()),
        pod_ips: view.pod_ip.map(|ip| vec![PodIP { ip: ip.to_string() }]),
        start_time: Some(time(view.started)),
        container_statuses: statuses(&apps),
        init_container_statuses: statuses(&inits),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// [Pod Lifecycle, "Pod phase"](https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-phase).
fn phase(pod: &Pod, view: &PodView<'_>) -> &'static str {
    let (mut running, mut waiting, mut stopped, mut succeeded, mut initializing) = (0, 0, 0, 0, 0);
    let policy = restart_policy(pod);
    let mut init_failed = false;
    for container in view.containers {
        if container.role != Role::App {
            initializing += usize::from(!container.lets_others_start());
            init_failed |= container.role == Role::Init
                && policy == "Never"
                && matches!(&container.state, State::Terminated(ended) if ended.code != 0);
            continue;
        }
        match &container.state {
            State::Running { .. } => running += 1,
            State::Terminated(ended) => {
                stopped += 1;
                succeeded += usize::from(ended.code == 0);
            }
            // It ran before: it waits for another time, not for the first.
            State::Waiting { .. } if container.last.is_some() => stopped += 1,
            State::Waiting { .. } => waiting += 1,
        }
    }
    if view.over {
        let all_well = succeeded == stopped && waiting == 0;
        return if all_well { "Succeeded" } else { "Failed" };
    }
    match () {
        () if init_failed => "Failed",
        () if initializing > 0 || waiting > 0 => "Pending",
        () if running > 0 || policy == "Always" => "Running",
        () if stopped == succeeded => "Succeeded",
        () if policy == "Never" => "Failed",
        () => "Running",
    }
}

/// `Always` unless the pod says otherwise.
pub(crate) fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

/// [Pod Lifecycle, "Pod conditions"](https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-conditions).
fn conditions(pod: &Pod, view: &PodView<'_>, phase: &str) -> Vec<PodCondition> {
    let names = |unwanted: &dyn Fn(&ContainerView) -> bool| {
        let names: Vec<_> = view.containers.iter().filter(|c| unwanted(c)).map(|c| c.name.as_str()).collect();
        (!names.is_empty()).then(|| format!("[{}]", names.join(" ")))
    };
    let uninitialized = names(&|c| c.role != Role::App && !c.lets_others_start());
    let unready = names(&|c| c.role != Role::Init && !c.ready());
    let finished = match phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    };

    let initialized = match uninitialized {
        Some(names) if finished != Some("PodCompleted") => Judgement::no(
            "ContainersNotInitialized",
            Some(format!("containers with incomplete status: {names}")),
        ),
        _ => Judgement::yes(),
    };
    let containers_ready = match (finished, unready) {
        (Some(reason), _) => Judgement::no(reason, None),
        (None, Some(names)) => {
            Judgement::no("ContainersNotReady", Some(format!("containers with unready status: {names}")))
        }
        (None, None) if !initialized.holds => {
            Judgement::no("ContainersNotReady", Some("containers are not initialized".into()))
        }
        (None, None) => Judgement::yes(),
    };
    let ready = match gates(pod) {
        Some(message) if containers_ready.holds => Judgement::no("ReadinessGatesNotReady", Some(message)),
        _ => containers_ready.clone(),
    };
    let sandbox = view.pod_ip.is_some() && finished.is_none();
    let sandbox = if sandbox { Judgement::yes() } else { Judgement { holds: false, ..Judgement::yes() } };
    [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Judgement::yes()),
    ]
    .into_iter()
    .map(|(kind, judgement)| judgement.condition(kind, pod, view.now))
    .collect()
}

/// Why the readiness gates do not let the pod be ready, if they do not
/// ([Pod Lifecycle, "Pod readiness"](https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-readiness-gate)).
fn gates(pod: &Pod) -> Option<String> {
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_deref()).unwrap_or_default();
    let unmet: Vec<String> = gates
        .iter()
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            match condition_of(pod, kind).map(|condition| condition.status.as_str()) {
                Some("True") => None,
                Some(status) => {
                    Some(format!("the status of pod readiness gate \"{kind}\" is not \"True\", but {status}"))
                }
                None => {
                    Some(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist."))
                }
            }
        })
        .collect();
    (!unmet.is_empty()).then(|| unmet.join(", "))
}

fn condition_of<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

#[derive(Clone, Debug)]
struct Judgement {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Judgement {
    fn yes() -> Self {
        Self { holds: true, reason: None, message: None }
    }

    fn no(reason: &'static str, message: Option<String>) -> Self {
        Self { holds: false, reason: Some(reason), message }
    }

    fn condition(self, kind: &str, pod: &Pod, now: Timestamp) -> PodCondition {
        let status = if self.holds { "True" } else { "False" };
        let before = condition_of(pod, kind).filter(|condition| condition.status == status);
        PodCondition {
            type_: kind.into(),
            status: status.into(),
            reason: self.reason.map(Into::into),
            message: self.message,
            // The time of the last change of the status, not of the last report.
            last_transition_time: before
                .and_then(|condition| condition.last_transition_time.clone())
                .or_else(|| Some(time(now))),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        }
    }
}

/// The API's times have whole seconds.
pub(crate) fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// The strategic merge patch that turns `reported` into `status`: lists that are merged by a key are
/// sent as they are, fields that went away as null. The uid makes it fail for another pod of that name.
pub(crate) fn patch(pod: &Pod, reported: Option<&PodStatus>, status: &PodStatus) -> serde_json::Value {
    let fields = |status: &PodStatus| match serde_json::to_value(status) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let mut changed = fields(status);
    for (name, _) in reported.map(fields).unwrap_or_default() {
        changed.entry(name).or_insert(serde_json::Value::Null);
    }
    // A condition without reason must lose the old one; merging by type would keep it.
    for condition in changed.get_mut("conditions").and_then(|list| list.as_array_mut()).into_iter().flatten()
    {
        if let Some(condition) = condition.as_object_mut() {
            for field in ["reason", "message"] {
                condition.entry(field).or_insert(serde_json::Value::Null);
            }
        }
    }
    serde_json::json!({ "metadata": { "uid": pod.uid() }, "status": changed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(policy: &str) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u", "generation": 3},
            "spec": {"containers": [], "restartPolicy": policy}
        }))
        .expect("a pod")
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn ended(code: i32) -> Ended {
        let reason = if code == 0 { "Completed" } else { "Error" };
        Ended { code, reason, message: None, started: Some(at(1)), finished: at(2), id: None }
    }

    fn container(role: Role, state: State) -> ContainerView {
        ContainerView {
            name: "c".into(),
            image: "goweb".into(),
            image_id: "id".into(),
            role,
            state,
            last: None,
            restarts: 0,
            id: None,
            started: true,
            ready: true,
        }
    }

    fn running() -> State {
        State::Running { since: at(1) }
    }

    fn waiting() -> State {
        State::Waiting { reason: "ContainerCreating", message: None }
    }

    fn view(containers: &[ContainerView]) -> PodView<'_> {
        PodView {
            host_ip: Ipv4Addr::new(192, 0, 2, 1),
            pod_ip: Some(Ipv4Addr::new(10, 0, 0, 2)),
            started: at(0),
            over: false,
            containers,
            now: at(100),
        }
    }

    fn condition<'a>(status: &'a PodStatus, kind: &str) -> &'a PodCondition {
        let mut all = status.conditions.iter().flatten();
        all.find(|condition| condition.type_ == kind).expect("the condition is always there")
    }

    #[test]
    fn phases() {
        use Role::{App, Init, Sidecar};
        let failed = || State::Terminated(ended(1));
        let done = || State::Terminated(ended(0));
        let crashing = {
            let state = State::Waiting { reason: "CrashLoopBackOff", message: None };
            ContainerView { last: Some(ended(1)), ..container(App, state) }
        };
        for (policy, containers, phase) in [
            ("Always", vec![container(App, waiting())], "Pending"),
            ("Always", vec![container(App, running()), container(App, waiting())], "Pending"),
            ("Always", vec![container(App, running()), container(App, failed())], "Running"),
            ("Always", vec![container(App, done())], "Running"),
            ("Always", vec![crashing], "Running"),
            ("OnFailure", vec![container(App, failed())], "Running"),
            ("OnFailure", vec![container(App, done())], "Succeeded"),
            ("Never", vec![container(App, failed()), container(App, done())], "Failed"),
            ("Never", vec![container(App, failed()), container(App, running())], "Running"),
            ("Never", vec![container(App, done())], "Succeeded"),
            ("Always", vec![container(Init, running()), container(App, waiting())], "Pending"),
            ("Never", vec![container(Init, failed()), container(App, waiting())], "Failed"),
            ("Always", vec![container(Init, done()), container(App, running())], "Running"),
            ("Always", vec![container(Sidecar, running()), container(App, running())], "Running"),
        ] {
            let seen = status(&pod(policy), &view(&containers)).phase;
            assert_eq!(seen.as_deref(), Some(phase), "{policy} {containers:?}");
        }
    }

    #[test]
    fn a_deleted_pod_ends_in_a_final_phase() {
        for (code, phase) in [(0, "Succeeded"), (137, "Failed")] {
            let containers = [container(Role::App, State::Terminated(ended(code)))];
            let seen = status(&pod("Always"), &PodView { over: true, ..view(&containers) });
            assert_eq!(seen.phase.as_deref(), Some(phase));
            assert_eq!(condition(&seen, "Ready").status, "False");
        }
    }

    #[test]
    fn ready_is_all_containers_and_all_gates() {
        let up = [container(Role::App, running())];
        let seen = status(&pod("Always"), &view(&up));
        assert_eq!(condition(&seen, "Ready").status, "True");
        assert_eq!(condition(&seen, "PodReadyToStartContainers").status, "True");

        let down = [container(Role::App, running()), container(Role::App, waiting())];
        let seen = status(&pod("Always"), &view(&down));
        let ready = condition(&seen, "Ready");
        assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("False", Some("ContainersNotReady")));
        assert_eq!(ready.message.as_deref(), Some("containers with unready status: [c]"));

        let mut gated = pod("Always");
        gated.spec.as_mut().expect("a spec").readiness_gates =
            serde_json::from_value(serde_json::json!([{"conditionType": "example.com/x"}])).expect("gates");
        let seen = status(&gated, &view(&up));
        let ready = condition(&seen, "Ready");
        assert_eq!(
            (ready.status.as_str(), ready.reason.as_deref()),
            ("False", Some("ReadinessGatesNotReady"))
        );
        assert_eq!(condition(&seen, "ContainersReady").status, "True");
        let met = serde_json::json!({"conditions": [{"type": "example.com/x", "status": "True"}]});
        gated.status = serde_json::from_value(met).expect("a status");
        assert_eq!(condition(&status(&gated, &view(&up)), "Ready").status, "True");
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let up = [container(Role::App, running())];
        let mut pod = pod("Always");
        pod.status = Some(status(&pod, &view(&up)));
        let later = PodView { now: at(200), ..view(&up) };
        assert_eq!(condition(&status(&pod, &later), "Ready").last_transition_time, Some(time(at(100))));
        let down = [container(Role::App, waiting())];
        let seen = status(&pod, &PodView { now: at(200), ..view(&down) });
        assert_eq!(condition(&seen, "Ready").last_transition_time, Some(time(at(200))));
        assert_eq!(condition(&seen, "Initialized").last_transition_time, Some(time(at(100))));
    }

    #[test]
    fn a_patch_takes_back_what_is_no_longer_true() {
        let up = [container(Role::App, running())];
        let status = status(&pod("Always"), &view(&up));
        let reported = PodStatus { reason: Some("Evicted".into()), ..status.clone() };
        let patch = patch(&pod("Always"), Some(&reported), &status);
        assert_eq!(patch["metadata"]["uid"], "u");
        assert_eq!(patch["status"].get("reason"), Some(&serde_json::Value::Null));
        assert_eq!(patch["status"]["conditions"][2].get("reason"), Some(&serde_json::Value::Null));
        assert_eq!(
            patch["status"]["containerStatuses"][0]["state"]["running"]["startedAt"],
            "1970-01-01T00:00:01Z"
        );
    }
}
